"""(truth, probabilities) to scores, the headlines with 95 % intervals: Wilson's of shares, else the bootstrap's.

One label a text: ``truth`` is class ids, int64 ``(N,)``. Many: 0 and 1, ``(N, K)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertcnn.arrays import Floats, Floats64, Ints
from bertcnn.errors import DataError

Truth = npt.NDArray[np.integer[Any]] | Floats
Counts = npt.NDArray[Any]
Score = Callable[[Truth, Truth, Floats], float]

RESAMPLES = 1000
DEALT_TEXTS = 2000
"""Most texts whose answers are dealt out anew: more tell no more."""

BINS = 15

LOWER_IS_BETTER = frozenset({"log_loss", "calibration_error"})


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % interval over examples."""

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
        labels: ``precision``, ``recall``, ``f1``, ``support`` of each label; and how well its probability ranks the
            texts, whatever it is answered from: ``average_precision``, None where no text or every one has it.
        confusion: Texts by true (rows) and predicted label, in the order of ``labels``; None where
            texts have many labels.
    """

    texts: int
    headlines: dict[str, Estimate]
    labels: dict[str, dict[str, Any]]
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

    Raises:
        DataError: There are no texts.
    """
    # Imported here: it takes a second to load, and who predicts does without.
    from sklearn.metrics import confusion_matrix

    if not len(truth):
        raise DataError("There are no texts to score on. Expected at least one, with its label.")
    answers = decide(probabilities, many=truth.ndim == 2, thresholds=thresholds)
    generator = np.random.default_rng(seed)
    again: dict[str, list[float]] = {name: [] for name in SCORES}
    for _ in range(resamples):
        rows, given = _draw(truth, answers, len(names), generator)
        for name in SCORES.keys() - {"macro_f1"}:
            again[name].append(SCORES[name](truth[rows], given, probabilities[rows]))
    again["macro_f1"] = _draw_macro_f1(truth, answers, len(names), resamples, generator)
    headlines = {name: _estimate(score(truth, answers, probabilities), again[name]) for name, score in SCORES.items()}
    if resamples:
        share = headlines["accuracy"].value
        interval = Estimate(share, *wilson(round(share * len(truth)), len(truth)))
        headlines |= {"accuracy": interval} if truth.ndim == 2 else {"accuracy": interval, "micro_f1": interval}
    confusion = None if truth.ndim == 2 else confusion_matrix(truth, answers, labels=np.arange(len(names))).tolist()
    return Evaluation(len(truth), headlines, _by_label(truth, answers, probabilities, names), confusion)


def _by_label(truth: Truth, answers: Ints, probabilities: Floats, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    # Not scikit-learn's: it takes many labels of which there is one for the two values of a single label.
    hits, predicted, actual = _counts(truth, answers, len(names))
    scores = f1(hits, predicted + actual, 0)
    return {
        name: {
            "precision": float(hits[i] / max(predicted[i], 1)),
            "recall": float(hits[i] / max(actual[i], 1)),
            "f1": float(scores[i]),
            "support": int(actual[i]),
            "average_precision": _average_precision(
                truth[:, i] if truth.ndim == 2 else truth == i, probabilities[:, i]
            ),
        }
        for i, name in enumerate(names)
    }


def _average_precision(has_it: npt.NDArray[Any], scores: Floats) -> float | None:
    from sklearn.metrics import average_precision_score  # as in evaluate

    return float(average_precision_score(has_it, scores)) if 0 < has_it.sum() < len(has_it) else None


def decide(probabilities: Floats, *, many: bool, thresholds: Sequence[float] | None = None) -> Ints:
    """Return class ids ``(N,)``, or for many labels a text 0 and 1 ``(N, K)``."""
    if not many:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    return (probabilities >= (0.5 if thresholds is None else np.asarray(thresholds))).astype(np.int64)


def confidence(probabilities: Floats, answers: npt.NDArray[Any], *, many: bool) -> Floats64:
    """Return the probability that each answer is right, float64 ``(N,)``; with many labels, all of them."""
    wide = probabilities.astype(np.float64)
    return np.asarray(np.where(answers > 0, wide, 1 - wide).prod(axis=1) if many else wide.max(axis=1))


def accuracy(truth: Truth, answers: Truth, _: Floats) -> float:
    """Share of texts answered right; with many labels, all of them right."""
    right = truth == answers
    return float(right.all(axis=1).mean() if truth.ndim == 2 else right.mean())


def macro_f1(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """Mean over labels of F1; one label a text: over those that are or are predicted, as in scikit-learn."""
    hits, predicted, actual = _counts(truth, answers, probabilities.shape[1])
    present = (predicted + actual) > 0 if truth.ndim == 1 else np.ones_like(hits, dtype=bool)
    return float(f1(hits, predicted + actual, 0)[present].mean())


def micro_f1(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """F1 over all decisions together; with one label a text, the accuracy."""
    hits, predicted, actual = _counts(truth, answers, probabilities.shape[1])
    return float(f1(hits.sum(), predicted.sum() + actual.sum(), 0))


def log_loss(truth: Truth, _: Truth, probabilities: Floats) -> float:
    """Mean negative log probability of the truth; with many labels, mean over labels too."""
    if truth.ndim == 2:
        right = np.where(truth > 0.5, probabilities, 1 - probabilities)
    else:
        right = probabilities[np.arange(len(truth)), truth.astype(np.int64)]
    return abs(float(np.log(np.clip(right, 1e-12, 1)).mean()))  # and not -0


def calibration_error(truth: Truth, answers: Truth, probabilities: Floats) -> float:
    """Expected calibration error over 15 equal bins of confidence.

    Source:
        Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3. With many labels,
        each label's probability is a confidence of its own.
    """
    confidence = probabilities.ravel() if truth.ndim == 2 else probabilities.max(axis=1)
    right = truth.ravel() if truth.ndim == 2 else truth == answers
    gaps = [abs(mean - share) * count for mean, share, count in reliability(confidence, right)]
    return sum(gaps) / len(confidence)


def reliability(confidence: Floats, right: npt.NDArray[Any]) -> list[tuple[float, float, int]]:
    """Return what a reliability diagram shows: of 15 equal bins of confidence those that have any.

    Args:
        confidence: 0 to 1, of each answer, float ``(N,)``.
        right: Whether it is, ``(N,)``.

    Returns:
        Mean confidence, share that is right, and number, by confidence.
    """
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums, hits = (np.bincount(bins, weights=values, minlength=BINS) for values in (confidence, right))
    return [(float(sums[i] / n), float(hits[i] / n), int(n)) for i, n in enumerate(counts) if n]


SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}


def goodness(metric: str, score: float) -> float:
    """Return a score of :data:`SCORES` so that greater is better."""
    return -score if metric in LOWER_IS_BETTER else score


def _counts(truth: Truth, answers: Truth, labels: int) -> tuple[Counts, Counts, Counts]:
    if truth.ndim == 2:
        return ((truth > 0.5) & (answers > 0.5)).sum(0), answers.sum(0), truth.sum(0)
    hits = np.bincount(truth[truth == answers], minlength=labels)
    return hits, np.bincount(answers, minlength=labels), np.bincount(truth, minlength=labels)


def chance(truth: Truth, answers: Truth, *, seed: int = 0) -> tuple[float, float]:
    """Return how much answers would agree with the truth if they had nothing to do with it, and how likely that is.

    The answers are dealt out to the texts anew, many times; so neither labels out of balance nor a leaning of the
    answers passes for agreement.

    Args:
        truth: Of at least one text; see the module.
        answers: Alike.
        seed: Of the dealing.

    Returns:
        The mean share that agrees by chance, and the p-value: how often it is as great as the true one.

    Source:
        Ojala and Garriga (2010), "Permutation Tests for Studying Classifier Performance", test 1, over answers.
    """
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(truth))[:DEALT_TEXTS]
    truth, answers = truth[some], answers[some]
    dealt = np.array([(truth == answers[rng.permutation(len(truth))]).mean() for _ in range(RESAMPLES - 1)])
    as_great = int((dealt >= (truth == answers).mean() - 1e-12).sum())
    return float(dealt.mean()), (as_great + 1) / RESAMPLES


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, which has a width where none or all were counted, too.

    >>> [round(end, 3) for end in wilson(50, 50)]
    [0.929, 1.0]

    Args:
        hits: How many were counted.
        count: Of how many, at least 1.

    Source:
        Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference"; recommended by
        Brown, Cai and DasGupta (2001), "Interval Estimation for a Binomial Proportion", sec. 3.
    """
    # Imported here: it takes half a second to load, and who predicts does without.
    from scipy.stats import binomtest

    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _draw(truth: Truth, answers: Ints, labels: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Return rows drawn for one resample, and what is answered there.

    They are drawn from the texts and two more, one answered rightly and one wrongly, as
    :func:`bertcnn.study.statistics.accuracy` does. Without them a model that makes no mistake on these texts
    would seem to make none anywhere.
    """
    count = len(truth)
    rows = generator.integers(0, count + 2, count)
    right, wrong = np.flatnonzero(rows == count), np.flatnonzero(rows == count + 1)
    imagined = np.concatenate([right, wrong])
    rows[imagined] = generator.integers(0, count, len(imagined))
    given = answers[rows]
    given[imagined] = truth[rows[imagined]].astype(given.dtype)
    if truth.ndim == 2:  # one of its labels turned round
        turned = generator.integers(0, labels, len(wrong))
        given[wrong, turned] = 1 - given[wrong, turned]
    elif labels > 1:
        given[wrong] = (given[wrong] + generator.integers(1, labels, len(wrong))) % labels
    return rows, given


def _draw_macro_f1(
    truth: Truth, answers: Ints, labels: int, resamples: int, generator: np.random.Generator
) -> list[float]:
    """Return macro F1 in resamples of the texts and two more, as :func:`_draw` has, with labels spread as the truth's.

    As in :func:`bertcnn.study.statistics.macro_f1` a label that a resample has not keeps the F1 that it has in the
    whole, or else a rare one that is never answered would be found in some resamples and raise the mean of the rest.
    And macro F1 comes out lower in a resample than in the whole, the more so the more labels there are, so the draws
    are moved to have the score of the whole as their mean.
    """
    count = len(truth)
    hits, predicted, actual = _counts(truth, answers, labels)
    uses, shares = predicted + actual, actual / count
    whole = f1(hits, uses, 0)
    met = np.full(labels, True) if truth.ndim == 2 else uses > 0
    drawn = []
    for _ in range(resamples):
        rows = generator.integers(0, count + 2, count)
        right, wrong = (rows == count).sum(), (rows == count + 1).sum()
        real = rows[rows < count]
        hits, predicted, actual = _counts(truth[real], answers[real], labels)
        more = right * shares, 2 * (right + wrong) * shares
        drawn.append(f1(hits, predicted + actual, whole, *more)[met].mean())
    hits, predicted, actual = _counts(truth, answers, labels)
    centre = f1(hits, uses, whole, shares, 4 * shares)[met].mean()
    return [float(one) for one in np.clip(np.array(drawn) + centre - np.mean(drawn or [0]), 0, 1)]


def f1(
    hits: Counts, uses: Counts, absent: Counts | float, more_hits: Counts | float = 0.0, more_uses: Counts | float = 0.0
) -> Floats64:
    """Return F1 of labels, of any shape.

    Args:
        hits: Texts of a label that are answered so.
        uses: Texts of a label, and answers of it, together.
        absent: What is returned where there are no uses.
        more_hits: Of imagined texts, which do not make a label present.
        more_uses: Likewise.
    """
    return np.asarray(np.where(uses > 0, 2 * (hits + more_hits) / np.maximum(uses + more_uses, 1), absent))


def _estimate(value: float, again: Sequence[float]) -> Estimate:
    if not again:
        return Estimate(value, value, value)
    low, high = np.quantile(again, [0.025, 0.975])
    return Estimate(value, min(float(low), value), max(float(high), value))
