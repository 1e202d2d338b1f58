"""(truth, probabilities) to scores, the headlines with bootstrap intervals.

One label a text: ``truth`` is class ids, int64 ``(N,)``. Many: 0 and 1, ``(N, K)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Truth = npt.NDArray[np.integer[Any]] | npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[Any]
Score = Callable[[Truth, Truth, Floats], float]

RESAMPLES = 1000
BINS = 15


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % percentile bootstrap interval over examples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on some texts.

    Attributes:
        texts: How many.
        headlines: ``accuracy`` (many labels: of whole label sets), ``macro_f1``, ``micro_f1``,
            ``log_loss`` (natural logarithm), ``calibration_error``.
        labels: ``precision``, ``recall``, ``f1``, ``support`` of each label.
        confusion: Texts by true (rows) and predicted label, in the order of ``labels``; None where
            texts have many labels.
    """

    texts: int
    headlines: dict[str, Estimate]
    labels: dict[str, dict[str, float]]
    confusion: list[list[int]] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values, for JSON."""
        return asdict(self)


def evaluate(
    truth: Truth,
    probabilities: Floats,
    names: Sequence[str],
    *,
    thresholds: Sequence[float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score probabilities ``(N, K)`` against the truth.

    Args:
        truth: See the module.
        probabilities: Float ``(N, K)``.
        names: Of the K labels.
        thresholds: From which a label holds, where texts have many; 0.5 each if None.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    # Imported here: it takes a second to load, and who predicts does without.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    answers = decide(probabilities, many=truth.ndim == 2, thresholds=thresholds)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(truth), (resamples, len(truth)))
    headlines = {name: _estimate(score, truth, answers, probabilities, draws) for name, score in SCORES.items()}
    ids = np.arange(len(names))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, answers, labels=ids, zero_division=0, average=None
    )
    table = {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    }
    confusion = None if truth.ndim == 2 else confusion_matrix(truth, answers, labels=ids).tolist()
    return Evaluation(len(truth), headlines, table, confusion)


def decide(probabilities: Floats, *, many: bool, thresholds: Sequence[float] | None = None) -> npt.NDArray[np.int64]:
    """Return class ids ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``."""
    if not many:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    return (probabilities >= (0.5 if thresholds is None else np.asarray(thresholds))).astype(np.int64)


def accuracy(truth: Truth, answers: Truth, _: Floats) -> float:
    """Share of texts answered right; with many labels, all of them right."""
    right = truth == answers
    return float(right.all(axis=1).mean() if truth.ndim == 2 else right.mean())


def macro_f1(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """Mean over labels of F1; a label that neither is nor is predicted counts 0, as in scikit-learn."""
    hits, predicted, actual = _counts(truth, answers, probabilities.shape[1])
    present = (predicted + actual) > 0 if truth.ndim == 1 else np.ones_like(hits, dtype=bool)
    return float((2 * hits / np.maximum(predicted + actual, 1))[present].mean())


def micro_f1(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """F1 over all decisions together; with one label a text, the accuracy."""
    hits, predicted, actual = _counts(truth, answers, probabilities.shape[1])
    return float(2 * hits.sum() / max(predicted.sum() + actual.sum(), 1))


def log_loss(truth: Truth, _: Truth, probabilities: Floats) -> float:
    """Mean negative log probability of the truth; with many labels, mean over labels too."""
    if truth.ndim == 2:
        right = np.where(truth > 0.5, probabilities, 1 - probabilities)
    else:
        right = probabilities[np.arange(len(truth)), truth.astype(np.int64)]
    return float(-np.log(np.clip(right, 1e-12, 1)).mean())


def calibration_error(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """Expected calibration error over 15 equal bins of confidence.

    Source:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3. With many labels,
        each label's probability is a confidence of its own.
    """
    confidence = probabilities.ravel() if truth.ndim == 2 else probabilities.max(axis=1)
    right = truth.ravel() if truth.ndim == 2 else (truth == answers)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(float) - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}


def _counts(truth: Truth, answers: Truth, labels: int) -> tuple[Counts, Counts, Counts]:
    if truth.ndim == 2:
        return ((truth > 0.5) & (answers > 0.5)).sum(0), answers.sum(0), truth.sum(0)
    hits = np.bincount(truth[truth == answers], minlength=labels)
    return hits, np.bincount(answers, minlength=labels), np.bincount(truth, minlength=labels)


def _estimate(
    score: Score, truth: Truth, answers: Truth, probabilities: Floats, draws: npt.NDArray[np.int64]
) -> Estimate:
    value = score(truth, answers, probabilities)
    if not len(draws):
        return Estimate(value, value, value)
    again = [score(truth[rows], answers[rows], probabilities[rows]) for rows in draws]
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
