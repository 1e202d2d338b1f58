"""A data set divided into what is learned from, what choices are made on, and a sealed test."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from bertcnn.errors import DataError, StudyError
from bertcnn.settings import DataSettings
from bertcnn.study.plan import Run, Source, Task, find_source
from bertcnn.text.columns import cell_of, check_column
from bertcnn.text.dataset import (
    Examples,
    Splits,
    as_examples,
    check_has_train,
    find_leaks,
    fingerprint_of,
    normal_form,
    one_of,
    stratified_rows,
)
from bertcnn.text.labels import Labels
from bertcnn.text.read_table import Row
from bertcnn.text.sources import load_labelled_rows

DEV_FRACTION = 0.1


@dataclass(frozen=True)
class TaskData:
    """All rows of a data set.

    Attributes:
        task: What was asked for.
        train: What is learned from; divided further where there is no dev or test of its own.
        dev, test: Official ones.
        tested: Examples that can be tested: ``test``, or all. Their places in it are their ids.
        tested_rows: Those with all their columns.
    """

    task: Task
    train: Examples
    dev: Examples | None
    test: Examples | None
    tested: Examples
    tested_rows: list[Row]


class Sealed:
    """Test examples that can be read once, after a system is final.

    Args:
        examples: The test split.
        ids: Of these examples, in :class:`TaskData`.
    """

    def __init__(self, examples: Examples, ids: Sequence[int]) -> None:
        self._content: tuple[Examples, list[int]] | None = (examples, list(ids))
        self._may_open = False

    def __len__(self) -> int:
        raise StudyError("The test split is sealed: nothing may be known of it while a system is made.")

    @property
    def texts(self) -> list[str]:
        """Nobody reads these before the seal is broken."""
        raise StudyError("The test split is sealed: a system may not read its texts while it is made.")

    @property
    def labels(self) -> list[str]:
        """Nobody reads these before the seal is broken."""
        raise StudyError("The test split is sealed: a system may not read its labels while it is made.")

    def allow(self) -> None:
        """Say that the system is final. Called by the runner, once."""
        self._may_open = True

    def open(self) -> tuple[Examples, list[int]]:
        """Return the examples and their ids, once.

        Raises:
            StudyError: The system is not final, or this is the second time.
        """
        if not self._may_open:
            raise StudyError("The test split is sealed until the system is final.")
        if self._content is None:
            raise StudyError("The test split was read already; a run reads it once.")
        content, self._content = self._content, None
        return content


@dataclass(frozen=True)
class Division:
    """What one run works on.

    Attributes:
        train: Of which a fraction may have been taken.
        dev: To choose on.
        test: Sealed.
        also_encode: Texts, without labels, whose encoder states other runs share.
        fingerprint: sha256 over all texts and labels, to tell that two runs had the same.
        leaks: Texts that are in two splits, counted by which.
    """

    train: Examples
    dev: Examples
    test: Sealed
    also_encode: list[str]
    fingerprint: str
    leaks: dict[str, int]


def read_task(task: Task) -> TaskData:
    """Read a data set.

    Raises:
        DataError: It cannot be read, has no rows left, or a text can have many labels.
    """
    parts = _rows(task)
    check_has_train(parts, task.source)
    for split, source in (("dev", task.dev), ("test", task.test)):
        if source:
            found = _rows(replace(task, source=source))
            parts[split] = one_of(found, split, "train", *found)
    if task.folds or task.fold_column:
        parts = {"train": [row for rows in parts.values() for row in rows]}
    if task.fold_column:
        check_column(parts["train"][0], task.fold_column, "fold_column", task.source, delimiter=task.delimiter)
    examples = {name: _examples(rows, f"{task.name} ({name})", task) for name, rows in parts.items()}
    known = Labels(tuple(dict.fromkeys(map(str, examples["train"].labels))))
    examples = {name: replace(one, labels=known.as_known(map(str, one.labels))) for name, one in examples.items()}
    tested = "test" if "test" in parts else "train"
    if task.tag:
        check_column(parts[tested][0], task.tag, "--tag", task.source, delimiter=task.delimiter)
    return TaskData(task, examples["train"], examples.get("dev"), examples.get("test"), examples[tested], parts[tested])


def read_transfer(transfer: Source) -> Examples:
    """Read texts to test elsewhere: the test split of a source that has one, else all."""
    parts = _rows(transfer)
    rows = parts.get("test") or [row for rows in parts.values() for row in rows]
    return _examples(rows, transfer.name, transfer)


def divide(table: TaskData, run: Run) -> Division:
    """Divide a data set for a run: stratified, by text and not by row.

    Raises:
        DataError: There is too little to divide.
    """
    train, test = table.train, table.test
    if test is None:
        ids = _test_rows(table, run)
        taken = set(ids)
        test = train.pick(ids, "test")
        train = train.pick((i for i in range(len(train)) if i not in taken), "train")
        also_encode = table.train.texts
    else:
        ids = list(range(len(test)))
        also_encode = train.texts + (table.dev.texts if table.dev else [])
    dev = table.dev
    if dev is None:
        kept = set(stratified_rows(train, DEV_FRACTION, seed=run.seed))
        dev = train.pick(sorted(kept), "dev")
        train = train.pick((i for i in range(len(train)) if i not in kept), "train")
    if not len(dev) or not len(test):
        raise DataError(
            f"{table.task.name}: {len(table.train)} texts are too few to take dev and test from, of which two a label "
            "stay to be learned from. Give more, or fewer folds, or files for dev and test."
        )
    fingerprint = fingerprint_of((train, dev, test))
    leaks = find_leaks(Splits(train, dev, test))
    train = train.pick(nested_rows(train, run.fraction, seed=run.seed), f"{run.fraction:.0%}")
    return Division(train, dev, Sealed(test, ids), also_encode, fingerprint, leaks)


def nested_rows(examples: Examples, fraction: float, *, seed: int) -> list[int]:
    """Return a share of the rows with the share of each label kept, at least one a label.

    A smaller fraction's rows are among those of a larger one of the same seed.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(examples.labels):
        groups[str(label)].append(row)
    generator = Random(seed)  # noqa: S311  # no secret hangs on it
    kept: list[int] = []
    for label in sorted(groups):
        generator.shuffle(groups[label])
        kept += groups[label][: max(1, round(fraction * len(groups[label])))]
    return sorted(kept)


def _test_rows(table: TaskData, run: Run) -> list[int]:
    task, examples = table.task, table.train
    if run.fold is None:
        return sorted(stratified_rows(examples, task.test_fraction, seed=run.seed))
    if task.fold_column:
        values = [str(cell_of(row, task.fold_column)) for row in table.tested_rows]
        names = sorted(set(values))
        if len(names) != task.folds:
            raise DataError(
                f"{task.name}: column {task.fold_column!r} has {len(names)} different values, expected {task.folds}."
            )
        return [i for i, value in enumerate(values) if value == names[run.fold]]
    groups = [normal_form(text) for text in examples.texts]
    folds = StratifiedGroupKFold(task.folds, shuffle=True, random_state=run.seed)
    with warnings.catch_warnings():  # of labels with fewer texts than folds, of which the report tells
        warnings.filterwarnings("ignore", "The least populated class")
        try:
            splits = list(folds.split(np.zeros(len(groups)), [str(label) for label in examples.labels], groups))
        except ValueError as error:
            raise DataError(f"{task.name} cannot be divided into {task.folds} folds: {error} Give fewer.") from error
    return sorted(int(i) for i in splits[run.fold][1])


def _rows(source: Source) -> dict[str, list[Row]]:
    settings = _columns(source)
    parts = load_labelled_rows(find_source(source.source), settings)
    kept = {
        split: [row for row in rows if all(str(cell_of(row, c)) == v for c, v in source.where.items())]
        for split, rows in parts.items()
    }
    if not any(kept.values()):
        raise DataError(f"{source.source} has no rows{f' where {source.where}' if source.where else ''}.")
    return kept


def _columns(source: Source) -> DataSettings:
    return DataSettings(text=source.text, label=source.label, encoding=source.encoding, delimiter=source.delimiter)


def _examples(rows: Sequence[Row], name: str, source: Source) -> Examples:
    examples = as_examples(rows, name, _columns(source))
    if any(not isinstance(label, str) for label in examples.labels):
        raise DataError(f"{name}: texts have many labels; a comparison needs one label a text.")
    return examples
