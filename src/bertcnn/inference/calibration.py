"""Probabilities that mean what they say: a temperature and thresholds, fitted on the dev split."""

from collections.abc import Sequence

import numpy as np
from scipy.special import expit, log_softmax, logit

from bertcnn.arrays import Floats, Floats64
from bertcnn.inference.metrics import Truth, f1

COMMON_TEXTS = 10
"""As much as so many dev texts of a label weighs the threshold that is best for all labels together."""

FEWEST_POSITIVES = 5
"""Of a label with fewer on dev it is told that its threshold is hardly its own."""

CUTS_TRIED = 501
"""As thresholds of all labels together, at even steps through their probabilities."""


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


def fit_thresholds(probabilities: Floats, truth: Truth, *, common_texts: float = COMMON_TEXTS) -> list[float]:
    """Return for each label the probability from which to say it.

    It is where the label's own F1 is greatest, drawn towards the one threshold that is best for the mean of all, the
    more the fewer texts have the label: of a few the best threshold is the best by chance, and may lie so low that the
    label is given to texts of all kinds. The mean of both is of their logits.

    Args:
        probabilities: Float ``(N, K)``.
        truth: 0 and 1, ``(N, K)``.
        common_texts: How many texts of a label weigh as much as the common threshold.
    """
    counts = np.asarray(truth.sum(axis=0), dtype=np.float64)
    known = np.flatnonzero(counts)
    own = np.full(len(counts), 0.5)
    own[known] = [_best_threshold(probabilities[:, k], truth[:, k]) for k in known]
    if len(known) < 2:
        return [float(cut) for cut in own]
    common = _common_threshold(probabilities[:, known], truth[:, known])
    own[counts == 0] = common
    weight = counts / np.maximum(counts + common_texts, 1)
    inside = np.clip(own, 1e-6, 1 - 1e-6)
    return [float(cut) for cut in expit(weight * logit(inside) + (1 - weight) * logit(common))]


def said_of_rare(texts: Sequence[float]) -> str:
    """Return a warning where labels have few dev texts, by the dev texts of each label; else nothing.

    >>> said_of_rare([40, 3, 12])
    '1 of 3 labels has fewer than 5 dev texts: its threshold is mostly that of all.'
    """
    count = sum(one < FEWEST_POSITIVES for one in texts)
    if count == 1:
        return (
            f"1 of {len(texts)} labels has fewer than {FEWEST_POSITIVES} dev texts: its threshold is mostly that of "
            "all."
        )
    few = f"{count} of {len(texts)} labels have fewer than {FEWEST_POSITIVES} dev texts: their thresholds are mostly"
    return f"{few} that of all. More dev texts (--dev-fraction) would give them their own." if count else ""


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


def _common_threshold(scores: Floats, truth: Truth) -> float:
    """Return the one threshold for which the mean F1 of all labels is greatest."""
    cuts = np.unique(np.quantile(scores, np.linspace(0, 1, CUTS_TRIED)))
    actual = truth.sum(axis=0)

    def mean_f1(cut: float) -> float:
        said = scores >= cut
        return float(f1((said & (truth > 0.5)).sum(axis=0), said.sum(axis=0) + actual, 0).mean())

    best = int(np.argmax([mean_f1(cut) for cut in cuts]))
    below = cuts[best - 1] if best else 0.0
    return float(np.clip((cuts[best] + below) / 2, 1e-6, 1 - 1e-6))
