"""What a study shows, in sentences. From tests of pairs, never from means side by side.

Which systems stand for the two sides of a question is picked on dev. Reading files and drawing
are elsewhere; all here are pure functions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from bertcnn.inference.metrics import Estimate
from bertcnn.study.questions import BEST_TWO
from bertcnn.study.statistics import Comparison, Outcomes, holm

LEVEL = 0.05
NORMAL = 1.959964
"""Of the standard normal distribution: 95 % lie within so much of 0."""

RunKey = tuple[int, int | None]
DevScores = Mapping[str, Mapping[RunKey, float]]


@dataclass(frozen=True)
class SliceShare:
    """How much of a net difference falls on some of the texts.

    Attributes:
        texts: Share of the paired answers that are on these texts.
        net: Right answers gained there, less those lost; counted a text and seed.
        net_all: The same over all texts.
    """

    texts: float
    net: int
    net_all: int


@dataclass(frozen=True)
class Answer:
    """One question on one data set.

    Attributes:
        question: Its name.
        asks: Its words.
        data: The data set.
        left: System that stands for the left side.
        right: System that stands for the right side.
        difference: Accuracy of left less right, with its interval, in shares of 1.
        p_value: Of the test alone.
        adjusted: After Holm over all answers of the study.
        test: Its name.
        only_left: Answers, of all seeds, that only the left side has right.
        only_right: Answers that only the right side has right.
        smallest: Difference that this data would have shown, 80 % of the time; infinite where it can show none.
        texts: Distinct texts.
        seeds: Seeds that both sides have.
        negation: What of the difference falls on texts with a negation; None where slices lack it.
        shown: True if the adjusted p-value is under 0.05.
        sentence: All of this in words.
    """

    question: str
    asks: str
    data: str
    left: str
    right: str
    difference: Estimate
    p_value: float
    adjusted: float
    test: str
    only_left: int
    only_right: int
    smallest: float
    texts: int
    seeds: int
    negation: SliceShare | None
    shown: bool = False
    sentence: str = ""


def sides(
    left: Sequence[str], right: Sequence[str], dev: DevScores, *, matched: bool = False
) -> tuple[str, str] | None:
    """Pick on dev which system stands for each side of a question.

    Only pairs with the most runs in common are in question, so that no system is judged on a few
    easy folds; of these, the pair with the best mean on those runs.

    Args:
        left: Candidates; those without a run do not count.
        right: Candidates of the other side.
        dev: Accuracy on dev by system and (seed, fold).
        matched: The candidates are pairs already, one beside the other.

    Returns:
        The two systems, or None where a side has none or they share no run.
    """
    pairs = zip(left, right, strict=True) if matched else product(left, right)
    scores: dict[tuple[str, str], tuple[int, float]] = {}
    for one, other in pairs:
        shared = dev.get(one, {}).keys() & dev.get(other, {}).keys()
        if shared and one != other:
            mean = float(np.mean([dev[one][key] + dev[other][key] for key in shared]))
            scores[one, other] = (len(shared), round(mean, 12))
    return max(scores, key=scores.__getitem__, default=None)  # the first of equals


def part_of(a: Outcomes, b: Outcomes, examples: Iterable[int]) -> SliceShare | None:
    """Return how much of the difference between two systems falls on some texts; None if there are none."""
    right_b = {
        (e, s): r for e, s, r in zip(b.example.tolist(), b.seed.tolist(), (b.truth == b.answers).tolist(), strict=True)
    }
    special = set(examples)
    pairs = inside = net = net_inside = 0
    for e, s, r in zip(a.example.tolist(), a.seed.tolist(), (a.truth == a.answers).tolist(), strict=True):
        if (e, s) in right_b:
            step = int(r) - int(right_b[e, s])
            pairs, net = pairs + 1, net + step
            if e in special:
                inside, net_inside = inside + 1, net_inside + step
    return SliceShare(inside / pairs, net_inside, net) if inside else None


def answer(
    question: str, asks: str, data: str, pair: tuple[str, str], *, found: Comparison, negation: SliceShare | None
) -> Answer:
    """Put a comparison down as the answer to a question, not yet judged."""
    return Answer(
        question=question,
        asks=asks,
        data=data,
        left=pair[0],
        right=pair[1],
        difference=found.difference,
        p_value=found.p_value,
        adjusted=found.p_value,
        test=found.test,
        only_left=found.only_a,
        only_right=found.only_b,
        smallest=found.smallest,
        texts=found.texts,
        seeds=found.seeds,
        negation=negation,
    )


def judge(
    answers: Sequence[Answer], adds: Mapping[str, str], margins: Mapping[str, float | None] | None = None
) -> tuple[Answer, ...]:
    """Correct the p-values over the whole family, and say what is shown.

    The best two systems are compared only on data sets for which no other question is answered.

    Args:
        answers: All of the study, from :func:`answer`.
        adds: By question, what its left side has and its right side has not; it becomes the
            subject of the sentence. Without, or where it is empty, the left system is.
        margins: By question, how much worse still counts as "at least as good".
    """
    answered = {one.data for one in answers if one.question != BEST_TWO}
    answers = [one for one in answers if one.question != BEST_TWO or one.data not in answered]
    # Two questions may be answered by the same two systems: that is one test.
    tests = {(one.data, one.left, one.right): one.p_value for one in answers}
    corrected = dict(zip(tests, holm(list(tests.values())), strict=True))
    judged = []
    for one in answers:
        adjusted = corrected[one.data, one.left, one.right]
        known = replace(one, adjusted=adjusted, shown=adjusted < LEVEL)
        margin = (margins or {}).get(one.question)
        said = sentence(known, adds.get(one.question) or one.left)
        is_better = known.shown and known.difference.value > 0
        judged.append(replace(known, sentence=said if margin is None or is_better else said + _no_worse(known, margin)))
    return tuple(judged)


def sentence(found: Answer, who: str) -> str:
    """Say one answer in plain words.

    Args:
        found: With its adjusted p-value.
        who: What the left side has and the right side has not.
    """
    value, low, high = (100 * x for x in (found.difference.value, found.difference.low, found.difference.high))
    who = who if who == found.left else who[:1].upper() + who[1:]  # a system keeps its name
    if value >= 0:
        said = f"{who} adds {_points(value)} points [{_points(low)}, {_points(high)}]"
    else:
        said = f"{who} costs {_points(-value)} points [{_points(-high)}, {_points(-low)}]"
    seeds = f", {found.seeds} seeds" if found.seeds > 1 else ", one seed"
    tested = f"{found.texts:,} texts{seeds}, {found.test}, {_p(found.adjusted)} after Holm"
    how = f"({found.left} against {found.right}, {tested})"
    if found.shown:
        return f"{said} {how}.{_negation(found.negation) if found.negation else ''}"
    return f"{said}: not shown {how}{_why_not(found)}."


def over_data(answers: Sequence[Answer], margin: float | None = None) -> str:
    """Say one question over several data sets: on how many it is shown, in which direction, and their mean.

    Args:
        answers: To the question, one a data set.
        margin: Where "at least as good" is asked: how much worse still counts as that.
    """
    mean = mean_difference([one.difference for one in answers])
    average = f" Their mean: {_signed(mean.value)} points [{_signed(mean.low)}, {_signed(mean.high)}]."
    if margin is not None:
        held = ", ".join(one.data for one in answers if one.difference.low > -margin) or "none"
        whole = "so it is" if mean.low > -margin else "that is not shown"
        average += f" At most {_in_points(margin)} worse by their intervals: {held}; for the mean {whole}."
    better = [one.data for one in answers if one.shown and one.difference.value > 0]
    worse = [one.data for one in answers if one.shown and one.difference.value < 0]
    open_ = [one.data for one in answers if one.data not in (*better, *worse)]
    if not better and not worse:
        return f"{'Not' if margin is None else 'No difference'} shown on any of {len(answers)} data sets.{average}"
    parts = [f"better on {', '.join(better)}"] if better else []
    parts += [f"worse on {', '.join(worse)}"] if worse else []
    parts += [f"not shown on {', '.join(open_)}"] if open_ else []
    return f"Shown on {len(better) + len(worse)} of {len(answers)} data sets: {'; '.join(parts)}.{average}"


def mean_difference(differences: Sequence[Estimate]) -> Estimate:
    """Return the mean of differences on several data sets, each counting once, with its 95 % interval.

    The data sets are taken as given, and independent: the interval is of these, not of data sets at large.
    A standard error is read off each interval as if it were normal, which errs on the wide side.
    """
    errors = [(one.high - one.low) / (2 * NORMAL) for one in differences]
    value = math.fsum(one.value for one in differences) / len(differences)
    half = NORMAL * math.sqrt(math.fsum(error**2 for error in errors)) / len(differences)
    return Estimate(value, value - half, value + half)


def p_text(p_value: float) -> str:
    """Write a p-value: ``0.012``, ``< 0.001``."""
    if p_value < 0.001:
        return "< 0.001"
    if 0.0495 <= p_value < LEVEL:  # else it would read as if it were not below
        return f"{p_value:.4f}"
    return f"{p_value:.3f}" if p_value < 0.0995 else f"{p_value:.2f}"


def _p(p_value: float) -> str:
    """Write the same in a sentence: ``p = 0.012``, ``p < 0.001``."""
    text = p_text(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def contradictions(answers: Iterable[Answer]) -> list[str]:
    """Name the answers that are shown although their interval holds 0: the test or the interval is wrong.

    Only an exact test of few texts may differ from its interval by right, and then by little.
    """
    return [
        f"{one.question}, {one.data}: shown, yet the interval holds 0. The test and the interval disagree."
        for one in answers
        if one.shown and one.difference.low <= 0 <= one.difference.high
    ]


def _why_not(found: Answer) -> str:
    """Say what this data could have shown, or that only the number of questions stands in the way."""
    if found.p_value < LEVEL:
        return f"; {_p(found.p_value)} as the only question"
    if not math.isfinite(found.smallest):
        return "; so few texts can show no difference"
    smallest = 100 * found.smallest
    if not 0 < smallest < 100:
        return ""
    return f"; as the only question, {smallest:.1f} points would have been shown four times in five"


def _no_worse(found: Answer, margin: float) -> str:
    """Say whether the interval excludes that the left side is worse by more than a margin."""
    most = _in_points(margin)
    if found.difference.low > -margin:
        return f" By the interval, which is not corrected, it is at most {most} worse."
    worst = _points(-100 * found.difference.low)
    return f" That it is at most {most} worse is not shown: by the interval it may cost {worst} points."


def _in_points(margin: float) -> str:
    return f"{100 * margin:g} point" + ("" if margin == 0.01 else "s")


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _points(value: float) -> str:
    """Write a number of points, never as "-0.0"."""
    return f"{round(value, 1) + 0.0:.1f}"


def _negation(part: SliceShare) -> str:
    """Say which share of a difference falls on texts with negation."""
    if part.net_all == 0:
        return ""
    word = "gain" if part.net_all > 0 else "loss"
    shares = f"which are {100 * part.texts:.0f} % of the texts"
    share = part.net / part.net_all
    if share <= 0:
        return f" None of this {word} falls on texts with negation, {shares}."
    if share >= 1:
        return f" All of this {word} falls on texts with negation, {shares}."
    counts = f"{abs(part.net):,} of {abs(part.net_all):,} right answers"
    return f" {100 * share:.0f} % of this {word} ({counts}) falls on texts with negation, {shares}."
