"""What a study is made of: data sets, systems, seeds. Filled by flags or a TOML file.

A TOML file has a table ``[study]``, one ``[[data]]`` a data set, optionally ``[model]`` and
``[training]`` (settings of every network, see :mod:`bertcnn.settings`) and
``[settings."SYSTEM"]`` (of one system).
"""

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from bertcnn.errors import SettingsError
from bertcnn.files import write_whole
from bertcnn.settings import Settings, change, read_toml


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled texts: which file, which of its rows, which of its columns.

    Attributes:
        name: Unique in the study.
        source: File, ``builtin:reviews`` or ``hf:...``; a relative path is sought in the folder
            of ``BERTCNN_DATA`` too.
        where: Keep only rows in which these columns have these values.
        text, label: Columns.
        encoding, delimiter: Of csv, tsv and jsonl files, as in :class:`~bertcnn.settings.DataSettings`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    source: str
    where: dict[str, str] = field(default_factory=dict)
    text: str = "text"
    label: str = "label"
    encoding: str = "utf-8"
    delimiter: str = ""


@dataclass(frozen=True, kw_only=True)
class Task(Source):
    """A data set, and how it is divided.

    Attributes:
        dev, test: Sources to choose on and to test on. Where there is none, dev is a tenth of the
            rest, and test is what ``folds`` or ``test_fraction`` say.
        folds: Divide into so many folds, each being the test once; 0: none.
        fold_column: Official folds, by this column.
        test_fraction: Share to test on, drawn by the seed, where there are neither file nor folds.
        tag: Column with what makes a text hard, to report on.
        systems, seeds, fractions: Instead of the study's; empty or 0: the study's.
        transfer: Where else to test: texts that nothing is trained on.
    """

    dev: str = ""
    test: str = ""
    folds: int = 0
    fold_column: str = ""
    test_fraction: float = 0.1
    tag: str = ""
    systems: tuple[str, ...] = ()
    seeds: int = 0
    fractions: tuple[float, ...] = ()
    transfer: tuple[Source, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole study.

    Attributes:
        data: What to compare on.
        systems: Whom to compare, in the ladder's names.
        seeds: How many; 0, 1, ...
        fractions: Shares of the training texts, for learning curves.
        tune: Settings to try on dev for each system; 1: its defaults.
        vectors: File of word vectors for ``cnn-static`` and ``cnn-tuned``.
        model, training: Settings of all networks, over a system's own; not what its name decides.
        settings: Of one system, by its name.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    data: tuple[Task, ...]
    systems: tuple[str, ...]
    seeds: int = 1
    fractions: tuple[float, ...] = (1.0,)
    tune: int = 1
    vectors: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def given(self, system: str = "") -> dict[str, Any]:
        """Return what the plan says of all networks, and of one system."""
        return {**self.model, **self.training, **self.settings.get(system, {})}

    def task(self, name: str) -> Task:
        """Return a data set by name."""
        return next(task for task in self.data if task.name == name)

    def runs(self) -> Iterator["Run"]:
        """Return every run, the first seed of all data sets first."""
        for seed in range(max((task.seeds or self.seeds for task in self.data), default=0)):
            for task in self.data:
                if seed < (task.seeds or self.seeds):
                    yield from self._runs_of(task, seed)

    def _runs_of(self, task: Task, seed: int) -> Iterator["Run"]:
        folds: list[int | None] = list(range(task.folds)) if task.folds else [None]
        for fold in folds:
            for fraction in sorted(task.fractions or self.fractions, reverse=True):
                for system in task.systems or self.systems:
                    yield Run(task.name, system, seed, fold, fraction)


@dataclass(frozen=True)
class Run:
    """One training of one system."""

    data: str
    system: str
    seed: int
    fold: int | None = None
    fraction: float = 1.0

    @property
    def key(self) -> str:
        """What tells it from all others, as a name for files."""
        fold = "all" if self.fold is None else self.fold
        return f"{self.data}--{self.system}--{self.seed}--{fold}--{self.fraction:g}"

    @property
    def division(self) -> tuple[str, int, int | None, float]:
        """What it shares with the runs of other systems on the same texts."""
        return self.data, self.seed, self.fold, self.fraction

    def outcomes_in(self, folder: Path) -> Path:
        """Return the file of its answers in the folder of a study."""
        return folder / "outcomes" / f"{self.key}.npz"


def read_plan(file: str | Path) -> Plan:
    """Read a TOML file.

    Raises:
        SettingsError: It is missing, broken, or says something unknown; all faults are named.
    """
    given = read_toml(file)
    study = given.pop("study", {})
    if not isinstance(study, dict):
        raise SettingsError(f"{file}: 'study' is {study!r}, expected a table [study].")
    return make_plan({**study, **given}, where=str(file))


def make_plan(values: dict[str, Any], *, where: str = "The study") -> Plan:
    """Check values and make a plan of them.

    Raises:
        SettingsError: See :func:`read_plan`.
    """
    try:
        plan = TypeAdapter(Plan).validate_python(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r:.60})" for one in error.errors()
        ]
        raise SettingsError(f"{where}: " + "; ".join(faults)) from error
    faults = list(_faults(plan))
    if faults:
        raise SettingsError(f"{where}: " + "; ".join(faults))
    change(Settings(), plan.given())  # says what is wrong
    return plan


def write_plan(plan: Plan, file: str | Path) -> None:
    """Write a plan as :func:`read_plan` reads it; the file appears when it is whole."""
    values = asdict(plan)
    tables = {name: values.pop(name) for name in ("data", "model", "training", "settings")}
    write_whole(Path(file), tomli_w.dumps({"study": values, **tables}))


def with_dropped(plan: Plan, before: Plan) -> Plan:
    """Return a plan with the data sets that only an earlier plan of the same study names."""
    names = {task.name for task in plan.data}
    dropped = tuple(
        replace(
            task,
            systems=task.systems or before.systems,
            seeds=task.seeds or before.seeds,
            fractions=task.fractions or before.fractions,
        )
        for task in before.data
        if task.name not in names
    )
    whole = replace(plan, data=(*plan.data, *dropped))
    run = {one.system for one in whole.runs()}
    kept = {n: s for n, s in before.settings.items() if n in run - {one.system for one in plan.runs()}}
    return replace(whole, settings={**kept, **plan.settings})


def find_source(source: str) -> str:
    """Return where a source is: itself, or in the folder of ``BERTCNN_DATA``."""
    folder = os.environ.get("BERTCNN_DATA")
    if not folder or source.startswith(("hf:", "builtin:")) or os.path.exists(source):
        return source
    return str(Path(folder) / source)


def _faults(plan: Plan) -> Iterator[str]:
    names = [task.name for task in plan.data]
    twice = {name for name in names if names.count(name) > 1}
    if not names:
        yield "no data set; give [[data]] with name and source"
    if twice:
        yield f"data sets with the same name: {', '.join(sorted(twice))}"
    for task in plan.data:
        yield from _faults_of(task)
    yield from _faults_of_fractions(plan)
    if not plan.systems and not all(task.systems for task in plan.data):
        yield "no system is named"
    if len(set(plan.systems)) < len(plan.systems):
        yield "a system is named twice"
    unused = set(plan.settings) - {run.system for run in plan.runs()}
    if unused:
        yield f"settings are given for {', '.join(sorted(unused))}, which no run has"
    for name, value in (("seeds", plan.seeds), ("tune", plan.tune)):
        if value < 1:
            yield f"{name} is {value}, expected at least 1"


def _faults_of_fractions(plan: Plan) -> Iterator[str]:
    every = [plan.fractions, *(task.fractions for task in plan.data)]
    if any(not 0 < fraction <= 1 for one in every for fraction in one) or not plan.fractions:
        yield f"fractions are {[fraction for one in every for fraction in one]}, expected above 0, to 1"
    if any(len(set(one)) < len(one) for one in every):
        yield "a fraction is named twice"


def _faults_of(task: Task) -> Iterator[str]:
    if not re.fullmatch(r"[\w.]+(-[\w.]+)*", task.name):
        yield f"data set name {task.name!r}: expected letters, digits, dots, single dashes"
    if task.dev and task.folds:
        yield f"data set {task.name!r}: dev is given, but in folds it would be tested too; leave it out"
    if len(set(task.systems)) < len(task.systems):
        yield f"data set {task.name!r}: a system is named twice"
    if sum(map(bool, (task.test, task.folds and not task.fold_column, task.fold_column))) > 1:
        yield f"data set {task.name!r}: expected one of test, folds and fold_column"
    if task.folds == 1 or task.folds < 0 or (task.fold_column and not task.folds):
        yield f"data set {task.name!r}: folds is {task.folds}, expected their number, 2 or more"
    if not 0 < task.test_fraction <= 0.5:
        yield f"data set {task.name!r}: test_fraction is {task.test_fraction}, expected above 0, to 0.5"
