"""Probabilities that mean what they say: a temperature and thresholds, fitted on the dev split."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_softmax

from bertcnn.arrays import Bools, Floats, Floats64
from bertcnn.inference.metrics import Truth

FEWEST_POSITIVES = 5
"""A label with fewer on dev shares a threshold with the others that have fewer."""


def fit_temperature(logits: Floats, truth: Truth) -> float:
    """Return the T for which ``logits / T`` have the least log loss, between 1/20 and 20.

    Targets are as sure as so many texts allow: that none of N is answered wrong does not mean that none
    will be, and would make every answer as sure as may be.

    Args:
        logits: Float ``(N, K)``.
        truth: Class ids ``(N,)``, or 0 and 1 ``(N, K)``.

    Source:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", sec. 4.2; Platt (1999),
        "Probabilistic Outputs for Support Vector Machines", sec. 2.2, for the targets.
    """
    from scipy.optimize import minimize_scalar  # imported here: who predicts does without

    doubt = 1 / (truth.size + 2)
    many = truth.ndim == 2
    hit = truth > 0.5 if many else np.eye(logits.shape[1], dtype=bool)[truth.astype(np.int64)]
    targets = np.where(hit, 1 - doubt, doubt if many else doubt / (logits.shape[1] - 1))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        if many:
            return float((np.logaddexp(0, scaled) - targets * scaled).mean())
        return float(-(targets * log_softmax(scaled, axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def fit_thresholds(probabilities: Floats, truth: Truth) -> list[float]:
    """Return for each label the probability from which to say it, so that F1 is greatest.

    Labels with too few texts share the threshold that is best for them together; were common labels
    among them, these would decide it. If even together they have too few, it is 0.5.

    Args:
        probabilities: Float ``(N, K)``.
        truth: 0 and 1, ``(N, K)``.
    """
    rare = is_rare(truth.sum(axis=0))
    together = truth[:, rare]
    shared = _best_threshold(probabilities[:, rare].ravel(), together.ravel()) if not is_rare(together.sum()) else 0.5
    return [shared if rare[k] else _best_threshold(probabilities[:, k], truth[:, k]) for k in range(truth.shape[1])]


def is_rare(texts: npt.ArrayLike) -> Bools:
    """Return which numbers of texts are too few for a threshold of their own."""
    return np.asarray(texts) < FEWEST_POSITIVES


def said_of_rare(texts: Sequence[float]) -> str:
    """Return a warning where labels share a threshold, by the dev texts of each label; else nothing.

    >>> said_of_rare([40, 3, 12])
    '1 of 3 labels has fewer than 5 dev texts, too few for a threshold of its own.'
    """
    count = int(is_rare(texts).sum())
    if count == 1:
        return (
            f"1 of {len(texts)} labels has fewer than {FEWEST_POSITIVES} dev texts, too few for a threshold of its own."
        )
    shared = f"{count} of {len(texts)} labels have fewer than {FEWEST_POSITIVES} dev texts and share one threshold."
    return f"{shared} More dev texts (--dev-fraction) would give them their own." if count else ""


def probabilities_of(logits: Floats, *, many: bool) -> Floats64:
    """Return softmax, or for many labels a text sigmoid, of logits ``(N, K)``."""
    wide = logits.astype(np.float64)
    return np.asarray(expit(wide) if many else np.exp(log_softmax(wide, axis=1)))


def _best_threshold(scores: Floats, truth: Truth) -> float:
    from sklearn.metrics import precision_recall_curve  # imported here: who predicts does without

    if not truth.any():
        return 0.5
    precision, recall, cuts = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    # Half-way to the next lower score, so that dev's own texts do not sit on the edge.
    below = cuts[best - 1] if best else 0.0
    return float((cuts[best] + below) / 2)
