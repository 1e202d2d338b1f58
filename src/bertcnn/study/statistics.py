"""What the outcomes of a study show: scores with intervals, and paired tests.

A *run* is one trained system; its seed names it. Runs and examples are both drawn from more of
their kind, and every run answers the same examples, so both must count and neither is nested in
the other: a crossed design. Nothing here trains, reads files or draws.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import binom, binomtest

from bertcnn.arrays import Floats64, Ints
from bertcnn.errors import StudyError
from bertcnn.inference.metrics import RESAMPLES, Estimate, f1

Parts = list[tuple[float, float]]  # variances of a mean, each with its degrees of freedom
ScoreRuns = Callable[[Floats64], Floats64]  # sums of counts (C, R) to the score of each run (S, R)

MCNEMAR = "McNemar, exact"
CROSSED = "t over runs and examples"
TAIL = 0.025  # on either side of a 95 % interval
POWER = 0.8
CELLS = 4_000_000  # weights held at a time: 32 MB, and as much again while they are multiplied
LEAST_P = 1e-100  # t quantiles overflow near 1e-300


@dataclass(frozen=True)
class Outcomes:
    """What one system answered on one data set; a row is one example in one run.

    Attributes:
        example: Which text, int64 ``(N,)``; the same number in another run is the same text.
        seed: Which run, int64 ``(N,)``.
        truth: Class ids, int64 ``(N,)``.
        answers: Class ids, int64 ``(N,)``.

    Raises:
        StudyError: There are no rows, the lengths differ, or a run answers an example twice.
    """

    example: Ints
    seed: Ints
    truth: Ints
    answers: Ints

    def __post_init__(self) -> None:
        shapes = [np.shape(part) for part in (self.example, self.seed, self.truth, self.answers)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1 or not shapes[0][0]:
            raise StudyError(
                f"Got example, seed, truth and answers of shapes {', '.join(map(str, shapes))}; "
                "expected four times the same (N,) with N > 0."
            )
        keys, rows = np.unique(np.stack([self.seed, self.example]), axis=1, return_counts=True)
        if (rows > 1).any():
            run, example = keys[:, rows > 1][:, 0]
            raise StudyError(f"Seed {run} answers example {example} twice. Number the texts over all folds.")


@dataclass(frozen=True)
class Comparison:
    """How system a differs from system b in accuracy, on the examples that both answered.

    Attributes:
        difference: Accuracy of a less that of b, with its 95 % interval.
        p_value: Two-sided, of the hypothesis that both are right equally often.
        test: Which test it is of.
        only_a: Answers, (seed, example) pairs, that only a got right.
        only_b: Answers that only b got right.
        smallest: The smallest difference that a study of this size and with this much disagreement
            would show at the 5 % level with 80 % power.
        texts: Different examples compared.
        seeds: Runs of each system compared.
    """

    difference: Estimate
    p_value: float
    test: str
    only_a: int
    only_b: int
    smallest: float
    texts: int
    seeds: int


def accuracy(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean over runs of the share of texts answered right.

    The interval is drawn from the examples and two more, one that every run gets right and one that
    none does. Without them a system that makes no mistake would have an interval of no width.

    ``resamples`` and ``seed`` are of the bootstrap; :func:`_interval` says how it counts runs.
    """
    example, run, examples, runs = _places(outcomes)
    right = (outcomes.truth == outcomes.answers).astype(np.float64)
    counts = _matrix([(example, run, right), (example, runs + run, np.ones(len(run)))], (examples, 2 * runs))
    imagined = [[1.0] * (2 * runs), [0.0] * runs + [1.0] * runs]

    def score(sums: Floats64) -> Floats64:
        hits, asked = sums[:runs], sums[runs:]
        return np.where(asked > 0, hits / np.maximum(asked, 1), np.nan)

    return _interval(score, counts, score, sparse.vstack([counts, imagined]), resamples=resamples, seed=seed)


def macro_f1(outcomes: Outcomes, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return the mean over runs of a run's macro F1, the folds of a run taken together.

    As in :mod:`bertcnn.inference.metrics`, a label that a run neither meets nor gives does not count.

    As in :func:`accuracy` the interval is drawn from two examples more, one right and one wrong, spread
    over the labels as the truth is. A label that a resample has not keeps the F1 that it has in the whole.

    ``resamples`` and ``seed`` are of the bootstrap; :func:`_interval` says how it counts runs.
    """
    example, run, examples, runs = _places(outcomes)
    names, ids = np.unique(np.concatenate([outcomes.truth, outcomes.answers]), return_inverse=True)
    labels = len(names)
    truth, answers = run * labels + ids[: len(run)], run * labels + ids[len(run) :]
    right = truth == answers
    ones = np.ones(len(run))
    cells = runs * labels
    parts = [
        (example[right], truth[right], ones[right]),
        (example, cells + truth, ones),
        (example, cells + answers, ones),
    ]
    counts = _matrix(parts, (examples, 2 * cells))
    hits, uses = np.asarray(counts.sum(axis=0)).reshape(2, runs, labels, 1)
    whole, met = f1(hits, uses, 0), uses > 0
    shares = np.bincount(truth, minlength=cells).reshape(runs, labels)
    shares = (shares / np.maximum(shares.sum(axis=1, keepdims=True), 1)).ravel()  # an example is met, and answered
    imagined = np.stack([np.concatenate([shares, 2 * shares]), np.concatenate([0 * shares, 2 * shares])])
    apart = sparse.block_diag([counts, imagined], format="csr")  # so that it is known which labels a resample has

    def mean(scores: Floats64) -> Floats64:
        found: Floats64 = np.where(met, scores, 0).sum(axis=1) / met.sum(axis=1)
        return found

    def score(sums: Floats64) -> Floats64:
        hits, uses = sums.reshape(2, runs, labels, -1)
        return mean(f1(hits, uses, whole))

    def score_drawn(sums: Floats64) -> Floats64:
        hits, uses, more_hits, more_uses = sums.reshape(4, runs, labels, -1)
        return mean(f1(hits, uses, whole, more_hits, more_uses))

    return _interval(score, counts, score_drawn, apart, resamples=resamples, seed=seed)


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Test whether two systems are right equally often, on the (seed, example) pairs both have.

    With one seed only examples vary: the p-value is McNemar's, exact, and says nothing about other
    runs of the same systems. With several, the variance of the difference has two parts. That of
    runs is taken from each system's own runs, which share no randomness, so that two seeds give it
    up to two degrees of freedom; where they do share some, such as training texts, the test is
    cautious. That of examples is what their differences vary by beyond the residual, which is in the
    first part already. The critical value is the mean of the parts' t quantiles, weighted by variance:
    Satterthwaite's single t is too liberal for two or three runs (up to 13 % false positives where
    this has 7 %). The interval holds the differences that this test does not reject.

    The interval and the t test count two examples more, one that only a gets right and one that
    only b does. Without them a handful of disagreements would look certain.

    Raises:
        StudyError: They share no (seed, example) pair, or disagree about the truth.

    Source:
        McNemar (1947), "Note on the sampling error of the difference between correlated
        proportions". Cochran and Cox (1957), "Experimental Designs", for the weighted t.
        Bonett and Price (2012), "Adjusted Wald confidence interval for a difference of binomial
        proportions based on paired data", for the two examples.
    """
    example, run, right_a, right_b = _pair(a, b)
    examples, runs = int(example.max()) + 1, int(run.max()) + 1
    difference = right_a - right_b
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    one, none = np.ones(runs), np.zeros(runs)
    parts = _error(
        np.concatenate([right_a, one, none]),
        np.concatenate([right_b, none, one]),
        example=np.concatenate([example, np.repeat([examples, examples + 1], runs)]),
        run=np.concatenate([run, np.tile(np.arange(runs), 2)]),
    )
    centre = float(difference.sum()) / (len(difference) + 2 * runs)
    half = _distance(parts, TAIL)
    return Comparison(
        difference=Estimate(float(difference.mean()), max(centre - half, -1.0), min(centre + half, 1.0)),
        p_value=_mcnemar(only_a, only_b) if runs == 1 else _p_value(parts, abs(centre)),
        test=MCNEMAR if runs == 1 else CROSSED,
        only_a=only_a,
        only_b=only_b,
        smallest=(_smallest(examples, only_a + only_b) if runs == 1 else min(half + _distance(parts, 1 - POWER), 1.0)),
        texts=examples,
        seeds=runs,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values, in the order given, that keep the error of the whole family.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]

    Source:
        Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = highest
    return adjusted


def _places(outcomes: Outcomes) -> tuple[Ints, Ints, int, int]:
    """Return each row's example and run as positions from 0, and how many of each there are."""
    examples, example = np.unique(outcomes.example, return_inverse=True)
    runs, run = np.unique(outcomes.seed, return_inverse=True)
    return example, run, len(examples), len(runs)


def _matrix(parts: list[tuple[Ints, Ints, Floats64]], shape: tuple[int, int]) -> Any:
    """Return the sparse matrix whose columns summed over examples are the counts of a score."""
    rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def _interval(
    score: ScoreRuns, counts: Any, score_drawn: ScoreRuns, drawn: Any, *, resamples: int, seed: int
) -> Estimate:
    """Return the mean score of the runs with its 95 % interval over examples and runs.

    An example has the same weight in all runs, for it is the same text. Resampling two or three runs
    would be too narrow twice: their spread comes out (S - 1) / S of what it should be, and the tails
    of so few are unknown. So the runs are not resampled; each draw is shifted by the standard error
    between runs times a draw of Student's t with S - 1 degrees of freedom. The spread between runs
    holds some noise of the examples too, which therefore counts twice: the interval is rather wide
    than narrow, and with two runs it is very wide. With one run it is over examples only.

    Macro F1 comes out lower in a resample than in the whole, the more so the more labels there are,
    so the draws are moved to have the score of the whole as their mean.

    Args:
        score: Sums of counts ``(C, R)`` to the score of each run ``(S, R)``, NaN where a run has none.
        counts: Sparse, examples by C.
        score_drawn: As ``score``, of sums of ``drawn``.
        drawn: As ``counts``, of the examples that are resampled.
        resamples: How many; with 0 the interval has no width.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    each = score(counts.T @ np.ones((counts.shape[0], 1)))[:, 0]
    value, runs = float(each.mean()), len(each)
    if not resamples:
        return Estimate(value, value, value)
    examples, columns = drawn.shape[0], drawn.T.tocsr()
    size = max(CELLS // examples, 1)
    draws: list[Floats64] = []
    for start in range(0, resamples, size):
        weights = np.empty((min(size, resamples - start), examples))
        for row in weights:
            row[:] = np.bincount(generator.integers(0, examples, examples), minlength=examples)
        draws.append(np.nanmean(score_drawn(columns @ np.ascontiguousarray(weights.T)), axis=0))
    found = np.concatenate(draws)
    found += score_drawn(drawn.T @ np.ones((examples, 1))).mean() - found.mean()
    if runs > 1:
        # every quantile of t once, in random order: no noise from its heavy tails
        quantiles = (generator.permutation(resamples) + 0.5) / resamples
        found = found + each.std(ddof=1) / np.sqrt(runs) * stdtrit(runs - 1, quantiles)
    low, high = np.clip(np.quantile(found, [TAIL, 1 - TAIL]), 0, 1)
    return Estimate(value, min(float(low), value), max(float(high), value))


def _pair(a: Outcomes, b: Outcomes) -> tuple[Ints, Ints, Floats64, Floats64]:
    """Return example and run of each shared pair, as positions from 0, and whether a and b were right (0 or 1)."""
    ids = np.unique(np.concatenate([a.example, b.example]), return_inverse=True)[1]
    runs = np.unique(np.concatenate([a.seed, b.seed]), return_inverse=True)[1]
    keys = runs * (int(ids.max()) + 1) + ids
    rows = len(a.example)
    _, in_a, in_b = np.intersect1d(keys[:rows], keys[rows:], assume_unique=True, return_indices=True)
    if not len(in_a):
        raise StudyError(
            f"The systems share no (seed, example) pair: got seeds {sorted(set(a.seed.tolist()))} and "
            f"{sorted(set(b.seed.tolist()))}. Run both on the same data set with the same seeds."
        )
    differs = a.truth[in_a] != b.truth[in_b]
    if differs.any():
        raise StudyError(
            f"The systems have different truths for example {a.example[in_a[differs][0]]}, "
            "so they were tested on different data. Run one of them again."
        )
    example, run = (np.unique(part[in_a], return_inverse=True)[1] for part in (a.example, a.seed))
    right_a, right_b = ((x.truth == x.answers)[rows].astype(np.float64) for x, rows in ((a, in_a), (b, in_b)))
    return example, run, right_a, right_b


def _mcnemar(only_a: int, only_b: int) -> float:
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _smallest(texts: int, disagreements: int) -> float:
    """Return the smallest difference that McNemar's test shows four times in five; infinity where it shows none.

    The systems disagree on as many texts as they were seen to, or, to differ by more, on as many as that takes.
    """

    def power(difference: int) -> float:
        apart = max(difference, disagreements)
        lowest, highest = binom.interval(1 - 1e-9, texts, apart / texts)
        met = np.arange(lowest, highest + 1)  # how many disagreements a new sample of texts may have
        most = binom.ppf(TAIL, met, 0.5) - 1  # of these, the worse system may be right on so many
        worse = (1 - difference / apart) / 2
        shown = binom.cdf(most, met, worse) + binom.sf(met - most - 1, met, worse)
        return float(binom.pmf(met, texts, apart / texts) @ shown)

    counts = range(1, texts + 1)
    found = bisect_left(counts, POWER, key=power)
    return counts[found] / texts if found < texts else np.inf


def _error(right_a: Floats64, right_b: Floats64, *, example: Ints, run: Ints) -> Parts:
    """Return the parts of the variance of the mean difference, each with its degrees of freedom."""
    difference = right_a - right_b
    per_run, per_example = np.bincount(run), np.bincount(example)
    rows, runs, examples = len(example), len(per_run), len(per_example)
    if runs == 1:
        return [(float(difference.var(ddof=1)) / rows, examples - 1)]
    own = []
    for right in (right_a, right_b):
        between, _, rest = _components(right, example=example, run=run)
        own.append(max(between * float((per_run**2).sum()) / rows**2 + rest / rows, 0.0))
    _, shared, rest = _components(difference, example=example, run=run)
    # together never below the residual, for the part of the runs may be 0 by chance
    least = max(rest / rows - sum(own), 0.0)
    parts = [(max(shared * float((per_example**2).sum()) / rows**2, least), float(examples - 1))]
    if any(own):
        parts.append((sum(own), (runs - 1) * sum(own) ** 2 / sum(part**2 for part in own)))
    return parts


def _components(values: Floats64, *, example: Ints, run: Ints) -> tuple[float, float, float]:
    """Return the variances between runs, between examples, and of the rest, in a crossed table.

    Each sum of squares is set equal to what it should be, which also holds where cells are
    missing. The first two may come out below 0.

    Source:
        Henderson (1953), "Estimation of variance and covariance components", method 1.
    """
    rows, centred = len(values), values - values.mean()
    counts = [np.bincount(place) for place in (run, example)]
    spread = [
        (np.bincount(place, weights=centred) ** 2 / count).sum()
        for place, count in zip((run, example), counts, strict=True)
    ]
    runs, examples = map(len, counts)
    held_by_runs, held_by_examples = ((count**2).sum() / rows for count in counts)
    expected = [
        [rows - held_by_runs, runs - held_by_examples, runs - 1],
        [examples - held_by_runs, rows - held_by_examples, examples - 1],
        [rows - held_by_runs, rows - held_by_examples, rows - 1],
    ]
    # least squares, for where no example is in two runs the last two cannot be told apart
    found = np.linalg.lstsq(np.array(expected), np.array([*spread, (centred**2).sum()]), rcond=None)[0]
    return float(found[0]), float(found[1]), float(found[2])


def _distance(parts: Parts, tail: float) -> float:
    """Return how far from 0 a mean must lie to leave this share in the tail beyond it."""
    weighted = sum(variance * float(stdtrit(freedom, tail)) for variance, freedom in parts)
    return float(-weighted / np.sqrt(sum(variance for variance, _ in parts)))


def _p_value(parts: Parts, distance: float) -> float:
    """Return twice the tail beyond a distance: the inverse of :func:`_distance`."""
    if distance <= 0:
        return 1.0
    if distance >= _distance(parts, LEAST_P / 2):
        return LEAST_P
    log_p = brentq(lambda x: _distance(parts, float(np.exp(x)) / 2) - distance, np.log(LEAST_P), 0.0)
    return float(np.exp(log_p))
