"""From a study folder to one structure, ``Report``: every figure that a report shows is in it.

How figures look is in ``tables`` and ``pictures``.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean, median
from typing import Any

from bertcnn.errors import StudyError
from bertcnn.inference.metrics import Estimate, reliability
from bertcnn.study.behaviour import Tally
from bertcnn.study.cost import Cost
from bertcnn.study.curves import frontier, time_to
from bertcnn.study.details import (
    Curve,
    Disagreement,
    Slice,
    behaviour,
    curves,
    disagreement,
    flips,
    main_systems,
    over,
    slices,
    transfer,
)
from bertcnn.study.evidence import Result, Study, StudyText
from bertcnn.study.making import (
    Chosen,
    chosen_settings,
    made_with,
    mixed_settings,
    settings_used,
    unlike_pairs,
    warnings_of,
)
from bertcnn.study.questions import BEST_TWO, QUESTIONS
from bertcnn.study.statistics import Outcomes, accuracy, compare, macro_f1
from bertcnn.study.systems import ladder_place, system
from bertcnn.study.verdict import Answer, answer, contradictions, judge, over_data, part_of, sides


@dataclass(frozen=True)
class SystemScores:
    """One system on one data set, trained on all of its texts.

    Scores and costs are over the runs that are done: accuracy and macro-F1 pooled with
    intervals, ``calibration_error`` and ``dev_accuracy`` means, costs medians, ``peak_megabytes``
    the greatest. None where nothing is known.

    Attributes:
        system: Its name.
        about: One line on it.
        group: "baseline", "CNN alone", "frozen BERT" or "fine-tuned BERT".
        runs: How many are done.
        expected: How many the plan asks for.
        failures: One line a failed run.
        accuracy: On test.
        macro_f1: On test.
        calibration_error: On test.
        dev_accuracy: What choices are made on.
        cost: By the names of a line of ``results.jsonl``.
        epochs: Until 99 % of the final dev score.
        seconds: Until then.
        whole: Whether it is tested on the same texts as the most systems are.
        best: Whether it is the best of these on dev.
        on_frontier: Whether no other of these is both faster and more accurate; None for the others, and without speed.
    """

    system: str
    about: str
    group: str
    runs: int
    expected: int
    failures: tuple[str, ...]
    accuracy: Estimate | None
    macro_f1: Estimate | None
    calibration_error: float | None
    dev_accuracy: float | None
    cost: dict[str, float | None]
    epochs: float | None
    seconds: float | None
    whole: bool
    best: bool = False
    on_frontier: bool | None = None


@dataclass(frozen=True)
class DataSet:
    """All that is shown of one data set. Keys of the dicts are systems, unless said.

    Attributes:
        texts: Texts of one run, by split.
        tested: Different texts that all runs were tested on.
    """

    name: str
    texts: dict[str, int]
    tested: int
    labels: tuple[str, ...]
    fingerprints: tuple[str, ...]
    rows: tuple[SystemScores, ...]
    curves: tuple[Curve, ...]
    slices: tuple[Slice, ...]
    flips: dict[str, dict[str, float]]
    behaviour: dict[str, dict[str, Tally]]
    transfer: dict[str, dict[str, float]]
    reliability: dict[str, tuple[tuple[float, float, int], ...]]
    disagreement: Disagreement | None

    @property
    def sizes(self) -> str:
        """The numbers of texts, in words."""
        said = ", ".join(f"{part} {count:,}" for part, count in self.texts.items())
        if self.tested > self.texts.get("test", self.tested):
            said += f" a run, {self.tested:,} tested in all runs"
        return said or "no run was done"


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    Attributes:
        title: Of the page.
        verdict: Every question that can be answered, on each data set.
        over_data: By question, one sentence over several data sets.
        data: In the order of the plan.
        chosen: Hyperparameters.
        settings: Those of all networks, and those of each that are its own, in words.
        made: Commit, versions, machine, threads, times, seeds: each value that occurs.
        counts: Lines by what they are: done, failed, missing, broken.
        warnings: What the runs warned of, and how often.
        notes: What could not be read.
    """

    title: str
    verdict: tuple[Answer, ...]
    over_data: dict[str, str]
    data: tuple[DataSet, ...]
    chosen: tuple[Chosen, ...]
    settings: dict[str, str]
    made: dict[str, tuple[str, ...]]
    counts: dict[str, int]
    warnings: dict[str, int]
    notes: tuple[str, ...]

    @property
    def tests(self) -> int:
        """How many different tests the verdict rests on."""
        return len({(one.data, one.left, one.right) for one in self.verdict})

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values, for JSON."""
        return asdict(self)


def find(study: Study) -> Report:
    """Compute all that a report of a study shows."""
    names = study.data
    ladder = _ladder(study)
    examples = {data: study.examples(data) for data in names}
    verdict = _verdict(study, names, examples)
    data = tuple(_data_set(study, name, ladder, examples[name], verdict) for name in names)
    questions = dict.fromkeys(one.question for one in verdict)
    groups = {q: [one for one in verdict if one.question == q] for q in questions}
    margins = {one.name: one.margin for one in QUESTIONS}
    return Report(
        title=f"{study.folder.resolve().name}: systems compared",
        verdict=verdict,
        over_data={q: over_data(group, margins[q]) for q, group in groups.items() if len(group) > 1 and q != BEST_TWO},
        data=data,
        chosen=tuple(chosen_settings(study, names, ladder)),
        settings=settings_used(study),
        made=made_with(study),
        counts={
            "done": sum(run.done for run in study.runs),
            "failed": sum(not run.done for run in study.runs),
            "missing": study.missing,
            "broken": study.broken,
        },
        warnings=warnings_of(study),
        notes=tuple(
            dict.fromkeys(
                [
                    *study.notes,
                    *contradictions(verdict),
                    *mixed_settings(study),
                    *unlike_pairs(study, verdict),
                    *_partly(data),
                ]
            )
        ),
    )


def _partly(data: Iterable[DataSet]) -> Iterable[str]:
    """Say which systems were tested on other texts than most."""
    for one in data:
        names = [f"{row.system} ({row.runs} of {row.expected} runs)" for row in one.rows if row.runs and not row.whole]
        if names:
            yield f"{one.name}: tested on other texts than most, and so not ranked, nor in slices: {', '.join(names)}."


def _ladder(study: Study) -> tuple[str, ...]:
    """Return the systems of the study, in order of display."""
    planned = [name for data in study.data for name in study.expected(data)]
    return tuple(sorted({*planned, *(run.system for run in study.runs)}, key=ladder_place))


def _verdict(study: Study, names: Iterable[str], examples: Mapping[str, Mapping[int, StudyText]]) -> tuple[Answer, ...]:
    found = []
    for question in QUESTIONS:
        for data in names:
            dev: dict[str, dict[tuple[int, int | None], float]] = defaultdict(dict)
            for run in study.of(data):
                score = run.number("dev", "accuracy")
                if run.done and score is not None and study.pooled(data, run.system) is not None:
                    dev[run.system][run.seed, run.fold] = score
            # The last question is of any two; of equals the left one is the higher on the ladder.
            every = tuple(sorted(dev, key=ladder_place, reverse=True))
            pair = sides(question.left or every, question.right or every, dev, matched=question.matched)
            if pair is None:
                continue
            left, right = (_outcomes(study, data, name) for name in pair)
            negated = [i for i, one in examples[data].items() if one.slices.get("negation") == "yes"]
            part = part_of(left, right, negated) if negated else None
            try:
                compared = compare(left, right)
            except StudyError as error:
                study.notes.append(f"{data}, {question.name}: {error}")
                continue
            found.append(answer(question.name, question.asks, data, pair, found=compared, negation=part))
    return judge(found, {q.name: q.adds for q in QUESTIONS}, {q.name: q.margin for q in QUESTIONS})


def _outcomes(study: Study, data: str, name: str) -> Outcomes:
    pooled = study.pooled(data, name)
    assert pooled is not None, (data, name)
    return pooled.outcomes


def _data_set(
    study: Study, name: str, ladder: Sequence[str], examples: Mapping[int, StudyText], verdict: Sequence[Answer]
) -> DataSet:
    runs = study.of(name)
    pooled = {one: found for one in ladder if (found := study.pooled(name, one)) is not None}
    sized = next((run for run in [*runs, *study.of(name, fraction=None)] if run.done), None)
    texts = {part: int(n) for part in ("train", "dev", "test") if sized and (n := sized.number("texts", part))}
    tested = {one: frozenset(found.outcomes.example.tolist()) for one, found in pooled.items()}
    same = _tested_by_most(tested.values())
    whole = {one: found for one, found in pooled.items() if tested[one] == same}
    here = [one for one in verdict if one.data == name]
    labels = sized.labels if sized else ()
    return DataSet(
        name=name,
        texts=texts,
        tested=max(map(len, tested.values()), default=0),
        labels=labels,
        fingerprints=tuple(dict.fromkeys(str(r.line["fingerprint"]) for r in runs if r.line.get("fingerprint"))),
        rows=_rows(study, name, ladder, whole),
        curves=curves(study, name, ladder),
        slices=tuple(slices(whole, examples)),
        flips={one: flipped for one in ladder if (flipped := flips(study.of(name, one)))},
        behaviour={one: tallies for one in ladder if (tallies := behaviour(study.of(name, one)))},
        transfer={one: moved for one in ladder if (moved := transfer(study.of(name, one)))},
        reliability={
            one: tuple(reliability(found.probabilities.max(axis=1), found.outcomes.answers == found.outcomes.truth))
            for one in main_systems(here, pooled)
            for found in [pooled[one]]
        },
        disagreement=disagreement(here, pooled, examples, labels),
    )


def _tested_by_most(tested: Collection[frozenset[int]]) -> frozenset[int] | None:
    """Return the texts that the most systems were tested on, None where no two were tested on the same."""
    counts = Counter(tested)
    found = max(counts, key=lambda ids: (counts[ids], len(ids)), default=None)
    return found if found is not None and (counts[found] > 1 or len(tested) == 1) else None


def _rows(study: Study, data: str, ladder: Sequence[str], whole: Container[str]) -> tuple[SystemScores, ...]:
    """Return the systems of a data set, the best on dev and those on the frontier marked."""
    expected = study.expected(data)
    rows = [
        _row(study, data, name, expected[name], whole=name in whole)
        for name in ladder
        if name in expected or study.of(data, name)
    ]
    best = max((row.dev_accuracy for row in rows if row.whole and row.dev_accuracy is not None), default=-1.0)
    placed = [
        (row.system, 1 / speed, row.accuracy.value)
        for row in rows
        if row.whole and row.accuracy and (speed := row.cost["texts_per_second"])
    ]
    flags = frontier([cost for _, cost, _ in placed], [score for _, _, score in placed]) if placed else []
    ahead = {name: bool(flag) for (name, _, _), flag in zip(placed, flags, strict=True)}
    return tuple(
        replace(row, best=row.whole and row.dev_accuracy == best, on_frontier=ahead.get(row.system)) for row in rows
    )


def _row(study: Study, data: str, name: str, expected: int, *, whole: bool) -> SystemScores:
    runs = study.of(data, name)
    done = [run for run in runs if run.done]
    pooled = study.pooled(data, name)
    times = [found for run in done if (found := time_to(_progress(run)))]
    about, group = _about(name)
    return SystemScores(
        system=name,
        about=about,
        group=group,
        runs=len(done),
        expected=max(expected, len(runs)),
        failures=tuple(f"seed {run.seed}: {run.error}" for run in runs if not run.done),
        accuracy=accuracy(pooled.outcomes) if pooled else None,
        macro_f1=macro_f1(pooled.outcomes) if pooled else None,
        calibration_error=over(done, fmean, "test", "calibration_error"),
        dev_accuracy=over(done, fmean, "dev", "accuracy"),
        cost={key: over(done, max if key == "peak_megabytes" else median, "cost", key) for key in COSTS},
        epochs=median(e for e, _ in times) if times else None,
        seconds=median(s for _, s in times) if times else None,
        whole=whole,
    )


COSTS = tuple(one.name for one in fields(Cost))


def _about(name: str) -> tuple[str, str]:
    """Return what a system is and its group; for a name of another version, nothing."""
    try:
        known = system(name)
    except StudyError:
        return "", ""
    return known.about, known.group


def _progress(run: Result) -> list[tuple[float, float, float]]:
    steps = run.line.get("progress")
    if not isinstance(steps, list):
        return []
    try:
        return [(float(one["epoch"]), float(one["seconds"]), float(one["dev"])) for one in steps]
    except (TypeError, KeyError, ValueError):
        return []
