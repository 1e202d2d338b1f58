"""What is read off curves: of confidence, of data, of training, and of accuracy against cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bertcnn.arrays import Floats
from bertcnn.inference.metrics import BINS


def reliability(
    probabilities: Floats, truth: npt.NDArray[np.integer[Any]], *, bins: int = BINS
) -> list[tuple[float, float, int]]:
    """Return mean confidence, accuracy and number of texts of each bin that has any, by confidence.

    The confidence of a text is the largest of its row of ``probabilities`` ``(N, K)``; ``truth`` is
    class ids ``(N,)``; the bins have equal width, and are those of the calibration error.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    texts = np.bincount(place, minlength=bins)
    sums, hits = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, right))
    return [(float(sums[i] / n), float(hits[i] / n), int(n)) for i, n in enumerate(texts) if n]


def data_needed(fractions: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """Return how much data a learning curve needs to reach a score; None if it never does.

    Between two points the curve is straight over the logarithm of the amount. Where the first point
    is good enough already, it is returned: less may do.

    ``fractions`` are amounts above 0, in any order: numbers of texts, or shares of a whole.
    """
    curve = sorted(zip(fractions, scores, strict=True))
    i = next((i for i, (_, score) in enumerate(curve) if score >= target), None)
    if not i:
        return None if i is None else float(curve[0][0])
    (less, low), (more, high) = curve[i - 1], curve[i]
    return float(less * (more / less) ** ((target - low) / (high - low)))


def frontier(costs: Sequence[float], scores: Sequence[float]) -> list[bool]:
    """Return True where no other point has as low a cost and as high a score, and betters it in one."""
    points = list(zip(costs, scores, strict=True))
    return [not any(c <= cost and s >= score and (c < cost or s > score) for c, s in points) for cost, score in points]


def time_to(progress: Sequence[tuple[float, float, float]], *, share: float = 0.99) -> tuple[float, float] | None:
    """Return (epochs, seconds) after which training had a share of its final dev score; None if it had no epochs.

    ``progress`` has (epoch, seconds since the start, dev score >= 0) of each epoch, in order.
    """
    if not progress:
        return None
    goal = share * progress[-1][2]
    return next((epoch, seconds) for epoch, seconds, dev in progress if dev >= goal)
