"""What lies in a study folder, read and checked: runs, outcomes, texts, the plan.

A broken line, such as the last one of a killed study, is counted and left out. The formats are in
docs/design/0005-study.md. Nothing is computed here.
"""

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertcnn.arrays import Floats32
from bertcnn.errors import SettingsError, StudyError
from bertcnn.study.plan import Plan, Run, read_plan
from bertcnn.study.statistics import Outcomes

SCHEMA = 1
FULL = 1.0


@dataclass(frozen=True, kw_only=True)
class Result(Run):
    """A run that was tried, and its line of ``results.jsonl``."""

    done: bool
    error: str | None
    line: dict[str, Any]

    def number(self, *path: str) -> float | None:
        """Return the number under some keys: ``number("cost", "latency_ms")``; None if there is none."""
        found: Any = self.line
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            return None
        return float(found)

    def table(self, name: str) -> dict[str, Any]:
        """Return the object under a key, empty where there is none."""
        found = self.line.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names, in the order of the columns of probabilities."""
        found = self.line.get("labels")
        return tuple(map(str, found)) if isinstance(found, list) else ()


@dataclass(frozen=True)
class StudyText:
    """A text that can be tested, its label, and the slice it falls in by each kind of slice."""

    text: str
    label: str
    slices: dict[str, str]


@dataclass(frozen=True)
class PooledOutcomes:
    """The answers of one system on one data set over seeds and folds; probabilities float32 ``(N, K)``."""

    outcomes: Outcomes
    probabilities: Floats32


@dataclass(frozen=True)
class Study:
    """A study folder.

    Attributes:
        folder: Where it lies.
        plan: ``plan.toml``; None where it cannot be read.
        runs: One a key; where a key has several lines, the last.
        broken: Lines of ``results.jsonl`` that could not be read.
        notes: What else could not be read; grows as outcomes are read.
    """

    folder: Path
    plan: Plan | None
    runs: tuple[Result, ...]
    broken: int
    notes: list[str] = field(default_factory=list)
    _pooled: dict[tuple[str, str, float], PooledOutcomes | None] = field(default_factory=dict, repr=False)

    @property
    def data(self) -> tuple[str, ...]:
        """Names of the data sets, those of the plan first."""
        planned = [task.name for task in self.plan.data] if self.plan else []
        return tuple(dict.fromkeys([*planned, *(run.data for run in self.runs)]))

    def expected(self, data: str) -> Counter[str]:
        """Return how many runs on all training texts of a data set the plan asks of each system."""
        runs = self.plan.runs() if self.plan else ()
        return Counter(run.system for run in runs if run.data == data and run.fraction == FULL)

    @property
    def missing(self) -> int:
        """How many runs of the plan have no line yet."""
        there = {run.key for run in self.runs}
        planned = self.plan.runs() if self.plan else ()
        return sum(run.key not in there for run in planned)

    def of(self, data: str, system: str | None = None, *, fraction: float | None = FULL) -> list[Result]:
        """Return the runs on a data set, of one system or of all, at one fraction or (None) at all."""
        return [
            run
            for run in self.runs
            if run.data == data and system in (None, run.system) and fraction in (None, run.fraction)
        ]

    def pooled(self, data: str, system: str, *, fraction: float = FULL) -> PooledOutcomes | None:
        """Return the answers of all done runs together, None where there are none."""
        key = (data, system, fraction)
        if key not in self._pooled:
            runs = [run for run in self.of(data, system, fraction=fraction) if run.done]
            parts = [part for run in runs if (part := self._outcomes(run)) is not None]
            self._pooled[key] = _join(parts)
        return self._pooled[key]

    def examples(self, data: str) -> dict[int, StudyText]:
        """Return the texts of a data set by their id."""
        found: dict[int, StudyText] = {}
        for line in _lines(self.folder / "texts" / f"{data}.jsonl"):
            if isinstance(line, dict) and isinstance(line.get("example"), int):
                slices = line.get("slices") if isinstance(line.get("slices"), dict) else {}
                known = {str(kind): str(value) for kind, value in (slices or {}).items() if value is not None}
                found[line["example"]] = StudyText(str(line.get("text", "")), str(line.get("label", "")), known)
        return found

    def _outcomes(self, run: Result) -> PooledOutcomes | None:
        path = run.outcomes_in(self.folder)
        if not path.is_file():
            self.notes.append(f"{run.data}, {run.system}, seed {run.seed}: no file of outcomes.")
            return None
        try:
            with path.open("rb") as file, np.load(file) as arrays:  # a broken file is closed too
                example, truth, answers = (arrays[name].astype(np.int64) for name in ("example", "truth", "answers"))
                probabilities = arrays["probabilities"].astype(np.float32)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            self.notes.append(f"{path.name} cannot be read ({type(error).__name__}); its run is left out.")
            return None
        if not len(example) == len(truth) == len(answers) == len(probabilities) or probabilities.ndim != 2:
            self.notes.append(f"{path.name} has arrays of different lengths; its run is left out.")
            return None
        return PooledOutcomes(Outcomes(example, np.full_like(example, run.seed), truth, answers), probabilities)


def read_runs(folder: Path) -> list[Result]:
    """Return the runs of ``results.jsonl``, the newest of each key; a folder without one has none."""
    lines = _lines(folder / "results.jsonl")
    return list({run.key: run for line in lines if (run := _run(line)) is not None}.values())


def read_study(folder: Path) -> Study:
    """Read a study folder.

    Raises:
        StudyError: There is no ``results.jsonl``, or not one run in it.
    """
    path = folder / "results.jsonl"
    if not path.is_file():
        raise StudyError(f"{folder} has no results.jsonl. Give the folder that `bertcnn compare` wrote.")
    lines = list(_lines(path))
    found = [run for line in lines if (run := _run(line)) is not None]
    if not found:
        raise StudyError(f"{path} holds no run that can be read ({len(lines)} lines). Run `bertcnn compare` first.")
    plan: Plan | None
    runs = {run.key: run for run in found}  # a run that was tried again: its last line counts
    try:
        plan, notes = read_plan(folder / "plan.toml"), []
    except SettingsError as error:
        plan, notes = None, [f"Runs that are missing are not told: {error}"]
    return Study(folder, plan, tuple(runs.values()), len(lines) - len(found), notes)


def _lines(path: Path) -> Iterable[Any]:
    """Yield the value of each line that is not blank, None for a broken one."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for raw in file:
            if raw.strip():
                try:
                    yield json.loads(raw)
                except ValueError:  # also wrong UTF-8
                    yield None


def _run(line: Any) -> Result | None:
    if not isinstance(line, dict) or line.get("schema") != SCHEMA or line.get("status") not in ("done", "failed"):
        return None
    data, system, seed = line.get("data"), line.get("system"), line.get("seed")
    fold, fraction = line.get("fold"), line.get("fraction")
    if not (isinstance(data, str) and isinstance(system, str) and isinstance(seed, int)):
        return None
    if not isinstance(fraction, int | float) or not (fold is None or isinstance(fold, int)):
        return None
    done = line["status"] == "done"
    if done and not (isinstance(line.get("dev"), dict) and isinstance(line.get("test"), dict)):
        return None
    error = None if done else " ".join(str(line.get("error") or "no reason given").split())
    return Result(data, system, seed, fold, float(fraction), done=done, error=error, line=line)


def _join(parts: list[PooledOutcomes]) -> PooledOutcomes | None:
    if not parts or len({part.probabilities.shape[1] for part in parts}) > 1:
        return None
    columns = (np.concatenate([getattr(p.outcomes, name) for p in parts]) for name in _COLUMNS)
    return PooledOutcomes(Outcomes(*columns), np.concatenate([part.probabilities for part in parts]))


_COLUMNS = ("example", "seed", "truth", "answers")
