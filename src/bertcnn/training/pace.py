"""What one text costs on this machine, by torch and by the graphs that ``bertcnn export`` would write.

A network's weights do not change its pace, so it is taken before anything is trained.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bertcnn.errors import ModelError
from bertcnn.inference.export import export_onnx
from bertcnn.inference.onnx.backend import FILES, OnnxBackend
from bertcnn.inference.onnx.quantize import quantize
from bertcnn.inference.predictor import Predictor
from bertcnn.network.encoder import quiet_transformers
from bertcnn.network.model import BertCNN
from bertcnn.text.tokens import PieceTokenizer

TIMED_RUNS, TIMED_SECONDS = 25, 0.5

MOST_GAINED = 8
"""Times that a graph is faster than torch at most, with room to spare: int8 was 3.4 times as fast on one text."""


@dataclass(frozen=True)
class Pace:
    """How long one text takes alone, and by what: ``torch``, ``onnx`` or ``onnx-int8``."""

    backend: str
    latency_ms: float


def pace_of(model: BertCNN, tokenizer: PieceTokenizer, text: str, *, budget_ms: float) -> Pace:
    """Return the pace by the first backend that answers in time: torch, onnx, onnx-int8; else by the fastest.

    Graphs are tried on the CPU only, where torch is too slow, and where the packages for them are installed.

    Args:
        model: Trained or not.
        tokenizer: Its tokenizer.
        text: What is timed.
        budget_ms: Most milliseconds; 0: no limit.
    """
    by_torch = Pace("torch", latency_ms(Predictor(model, tokenizer), text))
    in_reach = budget_ms < by_torch.latency_ms <= MOST_GAINED * budget_ms
    if not in_reach or model.device.type != "cpu":
        return by_torch
    found = [by_torch]
    for pace in _by_graphs(model, tokenizer, text):
        found.append(pace)
        if pace.latency_ms <= budget_ms:
            return pace
    return min(found, key=lambda one: one.latency_ms)


def latency_ms(predictor: Predictor, text: str) -> float:
    """Return the milliseconds that one text alone takes, cutting into pieces included; the median of some runs."""
    for _ in range(3):  # the first ones prepare
        predictor.predict([text])
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < TIMED_RUNS and sum(seconds) < TIMED_SECONDS):
        started = time.perf_counter()
        predictor.predict([text])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def _by_graphs(model: BertCNN, tokenizer: PieceTokenizer, text: str) -> Iterator[Pace]:
    """Yield the pace by each graph that can be made, the exact one first."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with quiet_transformers():
            model.save_pretrained(folder)
        tokenizer.save(folder)
        with suppress(ModelError):
            export_onnx(folder, texts=[text])
            for name in reversed(FILES):
                if name == "onnx-int8":
                    batches = OnnxBackend(folder, "onnx").batches(tokenizer([text]), pad_id=tokenizer.pad_id)
                    quantize(folder / FILES["onnx"], folder / FILES[name], batches, to_nearest=True)
                yield Pace(name, latency_ms(Predictor(OnnxBackend(folder, name), tokenizer), text))
