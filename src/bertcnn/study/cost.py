"""What a system costs: seconds, operations, parameters, bytes."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertcnn.study.systems import Classifier

LATENCY_TEXTS = 30
FLOPS_TEXTS = 64
LEAST_SECONDS, MOST_PASSES = 1.0, 25
"""The test split is read again until it took so long, or so often: a single short pass is mostly chance."""


@dataclass(frozen=True)
class Cost:
    """None: it has no meaning for this system.

    Attributes:
        train_seconds: Of one training, encoding included even where the cache had the states.
        predict_seconds: Of the test split, tokenising included.
        texts_per_second: Of the same; where that takes under a second, the median of several times.
        latency_ms: Of one text alone, median.
        flops_per_text: Floating-point operations (a multiplication and an addition are two) of the networks'
            matrix products and attention, mean over some test texts; None for what has no network.
        parameters: Numbers that were learned or loaded.
        megabytes: Of those.
        peak_megabytes: Of the process, from its start to its end.
    """

    train_seconds: float | None = None
    predict_seconds: float | None = None
    texts_per_second: float | None = None
    latency_ms: float | None = None
    flops_per_text: float | None = None
    parameters: int | None = None
    megabytes: float | None = None
    peak_megabytes: float | None = None


def measure(system: Classifier, texts: Sequence[str], *, train_seconds: float, predict_seconds: float) -> Cost:
    """Measure a system on test texts.

    Args:
        system: Fitted.
        texts: Of the test split.
        train_seconds: As measured.
        predict_seconds: Of all these texts.
    """
    latencies = []
    for text in [texts[0], *texts[:LATENCY_TEXTS]]:
        started = time.perf_counter()
        system.predict_proba([text])
        latencies.append(time.perf_counter() - started)
    passes = [predict_seconds]
    while sum(passes) < LEAST_SECONDS and len(passes) < MOST_PASSES:
        started = time.perf_counter()
        system.predict_proba(texts)
        passes.append(time.perf_counter() - started)
    trained = getattr(system, "trained_", None)
    parameters, size = _size(system)
    train_seconds += sum(getattr(part, "cached_seconds_", 0.0) for _, part in getattr(system, "steps", []))
    if trained is not None:
        train_seconds += trained.cached_seconds
    return Cost(
        train_seconds=round(train_seconds, 3),
        predict_seconds=round(predict_seconds, 4),
        texts_per_second=round(len(texts) / max(statistics.median(passes), 1e-9), 2),
        latency_ms=round(1000 * statistics.median(latencies[1:]), 3),
        flops_per_text=_flops(system, texts[:FLOPS_TEXTS]),
        parameters=parameters,
        megabytes=None if size is None else round(size / 1e6, 2),
        peak_megabytes=_peak(),
    )


def _peak() -> float | None:
    """Return the most memory that this process held, in megabytes."""
    try:
        import resource
    except ImportError:  # Windows does not say
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes: Linux counts in kilobytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _flops(system: Any, texts: Sequence[str]) -> float | None:
    if not hasattr(system, "trained_") and not any(hasattr(step, "model_") for _, step in getattr(system, "steps", [])):
        return None
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from bertcnn.network.products import operations

    # The plain form of attention: the counter does not know the fused ones of every device.
    with FlopCounterMode(display=False, custom_mapping=operations()) as counter, sdpa_kernel(SDPBackend.MATH):
        system.predict_proba(list(dict.fromkeys(texts)))
    return float(counter.get_total_flops() / len(set(texts)))


def _size(system: Any) -> tuple[int | None, float | None]:
    """Return parameters, and bytes."""
    if hasattr(system, "trained_"):
        weights = list(system.trained_.predictor.model.parameters())
        return sum(w.numel() for w in weights), float(sum(w.numel() * w.element_size() for w in weights))
    steps = [step for _, step in getattr(system, "steps", [])]
    if not steps:
        return None, None
    arrays = [value for step in steps for value in vars(step).values() if isinstance(value, np.ndarray)]
    arrays += [step.idf_ for step in steps if hasattr(step, "idf_")]  # which scikit-learn keeps out of sight
    models = [step.model_ for step in steps if hasattr(step, "model_")]
    weights = [w for model in models for w in model.encoder.parameters()]
    numbers = [a for a in arrays if np.issubdtype(a.dtype, np.number)]
    count = sum(a.size for a in numbers) + sum(w.numel() for w in weights)
    return count, float(sum(a.nbytes for a in numbers) + sum(w.numel() * w.element_size() for w in weights))
