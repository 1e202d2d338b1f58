"""Where systems differ: with less data, by slice, under perturbation, by capability, on single texts."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bertcnn.arrays import Ints
from bertcnn.study.behaviour import Tally
from bertcnn.study.curves import data_needed
from bertcnn.study.evidence import FULL, PooledOutcomes, Result, Study, StudyText
from bertcnn.study.statistics import Outcomes
from bertcnn.study.verdict import Answer

EXAMPLES = 6  # shown each way
LONGEST = 400  # characters of an example
MAIN = 4  # systems with a reliability diagram
SLICE_VALUES = 12  # of a kind of slice with more, those with the most texts are shown


@dataclass(frozen=True)
class Curve:
    """Accuracy at growing numbers of training texts, means over runs.

    Attributes:
        system: Its name.
        points: (training texts, accuracy on test), growing, of the seeds and folds that all points have.
        needs: Texts at which the curve reaches another system's score on all texts; None: more than were tried.
    """

    system: str
    points: tuple[tuple[float, float], ...]
    needs: dict[str, float | None]


@dataclass(frozen=True)
class Slice:
    """Accuracy by system on the texts that share a property."""

    kind: str
    value: str
    texts: int
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Shown:
    """A text that one system gets right and the other wrong, with their answers in most seeds."""

    text: str
    label: str
    left: str
    right: str


@dataclass(frozen=True)
class Disagreement:
    """Texts on which two systems differ, for the first question that has an answer."""

    left: str
    right: str
    only_left: tuple[Shown, ...]
    only_right: tuple[Shown, ...]


def over(runs: Iterable[Result], fold: Callable[[list[float]], float], *path: str) -> float | None:
    """Return the mean, median or whatever else over runs of a number of their lines; None if no run has it."""
    found = [value for run in runs if (value := run.number(*path)) is not None]
    return float(fold(found)) if found else None


def curves(study: Study, data: str, ladder: Sequence[str]) -> tuple[Curve, ...]:
    """Return the learning curves of systems with two fractions or more, and what each needs to reach another."""
    points, full = {}, {}
    for name in ladder:
        done = [run for run in study.of(data, name, fraction=None) if run.done]
        fractions = sorted({run.fraction for run in done})
        splits = [{(run.seed, run.fold) for run in done if run.fraction == fraction} for fraction in fractions]
        shared = set.intersection(*splits) if splits else set()  # else one point could rest on easier texts
        kept = [run for run in done if (run.seed, run.fold) in shared]
        at = [[run for run in kept if run.fraction == fraction] for fraction in fractions]
        sizes = [over(runs, fmean, "texts", "train") for runs in at]
        scores = [over(runs, fmean, "test", "accuracy") for runs in at]
        line = [(x, y) for x, y in zip(sizes, scores, strict=True) if x and y is not None]
        if len(line) > 1:
            points[name] = tuple(line)
            if fractions[-1] == FULL:
                full[name] = line[-1][1]
    return tuple(
        Curve(
            name,
            line,
            {
                other: data_needed([x for x, _ in line], [y for _, y in line], score)
                for other, score in full.items()
                if other != name
            },
        )
        for name, line in points.items()
    )


def slices(pooled: Mapping[str, PooledOutcomes], examples: Mapping[int, StudyText]) -> Iterable[Slice]:
    """Yield the slices that have test texts, kind by kind, in the order of the texts."""
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    tested = {int(i) for found in pooled.values() for i in np.unique(found.outcomes.example)}
    for i, example in examples.items():
        for kind, value in example.slices.items() if i in tested else ():
            members[kind][value].append(i)
    for kind, values in members.items():
        shown = sorted(values, key=lambda value: -len(values[value]))[:SLICE_VALUES]
        if len(values) > 1:
            for value in sorted(shown, key=_size):
                ids = np.asarray(values[value])
                scores = {name: score for name, found in pooled.items() if (score := _right(found, ids)) is not None}
                yield Slice(kind, value, len(ids), scores)


def _size(value: str) -> tuple[float, str]:
    """Order slices by the first number in their name ("up to 10 words", "11 to 25 words"), then by name."""
    number = re.search(r"\d+", value)
    return (float(number[0]) if number else 0.0, value)


def _right(found: PooledOutcomes, ids: Ints) -> float | None:
    rows = np.isin(found.outcomes.example, ids)
    return float((found.outcomes.truth == found.outcomes.answers)[rows].mean()) if rows.any() else None


def flips(runs: Sequence[Result]) -> dict[str, float]:
    """Return the mean share of answers that each perturbation flips."""
    names = dict.fromkeys(name for run in runs for name in run.table("flips"))
    return {name: share for name in names if (share := over(runs, fmean, "flips", name)) is not None}


def behaviour(runs: Sequence[Result]) -> dict[str, Tally]:
    """Return failures by capability, summed over runs."""
    names = dict.fromkeys(name for run in runs for name in run.table("behaviour"))
    sums = {
        name: (over(runs, sum, "behaviour", name, "cases"), over(runs, sum, "behaviour", name, "failures"))
        for name in names
    }
    return {name: Tally(int(cases), int(failed or 0)) for name, (cases, failed) in sums.items() if cases}


def transfer(runs: Sequence[Result]) -> dict[str, float]:
    """Return the mean accuracy on other data sets."""
    names = dict.fromkeys(name for run in runs for name in run.table("transfer"))
    return {name: score for name in names if (score := over(runs, fmean, "transfer", name, "accuracy")) is not None}


def main_systems(answers: Sequence[Answer], pooled: Mapping[str, PooledOutcomes]) -> list[str]:
    """Return the systems that stand for a side, the first questions first; else the last of the ladder."""
    standing = dict.fromkeys(name for one in answers for name in (one.left, one.right))
    chosen = set([*standing, *reversed(list(pooled))][:MAIN]) if len(standing) < MAIN else set([*standing][:MAIN])
    return [name for name in pooled if name in chosen]


def disagreement(
    answers: Sequence[Answer],
    pooled: Mapping[str, PooledOutcomes],
    examples: Mapping[int, StudyText],
    labels: Sequence[str],
) -> Disagreement | None:
    """Return texts that one side of the first question has right in the most seeds and the other in the fewest."""
    if not answers:
        return None
    left, right = answers[0].left, answers[0].right
    votes = {name: _votes(pooled[name].outcomes) for name in (left, right)}
    margins = {i: votes[left][i][0] - votes[right][i][0] for i in votes[left] if i in votes[right] and i in examples}

    def shown(sign: int) -> tuple[Shown, ...]:
        ids = sorted((i for i in margins if sign * margins[i] > 0.5), key=lambda i: (-sign * margins[i], i))
        return tuple(
            Shown(
                _short(examples[i].text),
                examples[i].label,
                _label(votes[left][i][1], labels),
                _label(votes[right][i][1], labels),
            )
            for i in ids[:EXAMPLES]
        )

    found = Disagreement(left, right, shown(1), shown(-1))
    return found if found.only_left or found.only_right else None


def _votes(outcomes: Outcomes) -> dict[int, tuple[float, int]]:
    """Return by example the share of seeds that are right, and the answer of most."""
    given: dict[int, list[int]] = defaultdict(list)
    truth = dict(zip(outcomes.example.tolist(), outcomes.truth.tolist(), strict=True))
    for i, said in zip(outcomes.example.tolist(), outcomes.answers.tolist(), strict=True):
        given[i].append(said)
    return {i: (said.count(truth[i]) / len(said), Counter(said).most_common(1)[0][0]) for i, said in given.items()}


def _label(number: int, labels: Sequence[str]) -> str:
    return labels[number] if number < len(labels) else str(number)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + " [...]"
