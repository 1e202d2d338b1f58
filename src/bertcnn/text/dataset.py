"""Labelled texts from files and hubs: reading, checking, splitting."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

from bertcnn.errors import DataError
from bertcnn.settings import DataSettings
from bertcnn.text.cells import is_missing
from bertcnn.text.columns import check_column, has_marks, label_cell, text_of
from bertcnn.text.labels import Label, as_list, likely_separator, named, names_in
from bertcnn.text.read_table import Row
from bertcnn.text.sources import called, load_labelled_rows

Part = TypeVar("Part", bound=Sized)

FEWEST_ROWS = 10
"""With fewer, a label of its own for every row says nothing."""


@dataclass(frozen=True)
class Examples:
    """Texts with their labels.

    Attributes:
        texts: As they were given; a missing text is empty.
        labels: A name each, or a tuple of names where texts can have many.
        source: Where they come from, for messages.
    """

    texts: list[str]
    labels: list[Label]
    source: str = "the data"

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        """Return how many there are, not all of them."""
        return f"Examples({len(self):,} texts, source={self.source!r})"

    def pick(self, rows: Iterable[int], part: str) -> "Examples":
        """Return some of the rows."""
        kept = list(rows)
        texts, labels = [self.texts[i] for i in kept], [self.labels[i] for i in kept]
        return Examples(texts, labels, f"{self.source} ({part})")


@dataclass(frozen=True)
class Splits:
    """What is learned from, what choices are made on, and what is looked at once."""

    train: Examples
    dev: Examples
    test: Examples | None = None


@dataclass(frozen=True)
class Findings:
    """What a look at some examples found.

    Attributes:
        rows: How many there are.
        blank: Texts that are empty or all spaces.
        duplicates: Rows whose text stood in an earlier row.
        contradictions: Texts that occur with different labels.
        label_counts: Rows with each label.
    """

    rows: int
    blank: int
    duplicates: int
    contradictions: int
    label_counts: dict[str, int]


def load_examples(source: Any, settings: DataSettings) -> dict[str, Examples]:
    """Read labelled texts.

    Args:
        source: A file; ``builtin:reviews``; or ``hf:owner/name[:config]``, a data set of the
            Hugging Face hub, or ``hf:folder``, a local one. Or what holds a table: a data frame of pandas or polars, a
            ``datasets.Dataset``, a list of dicts; or a dict of such by split, as ``datasets.DatasetDict`` is.
        settings: Columns, separator, encoding.

    Returns:
        Examples by split. A file is all ``train``.

    Raises:
        DataError: The source cannot be read, or a row has no label; up to five are named.
    """
    tables = load_labelled_rows(source, settings)
    several, name = len(tables) > 1, called(source)
    return {
        split: as_examples(rows, f"{name} ({split})" if several else name, settings) for split, rows in tables.items()
    }


def load_splits(
    source: Any,
    settings: DataSettings = DataSettings(),  # noqa: B008  # frozen
    *,
    dev: Any = None,
    test: Any = None,
    seed: int = 0,
) -> Splits:
    """Read labelled texts and divide them for training.

    What has no file of its own is taken out of the training texts: by text and not by row, so
    that duplicates never straddle a split, with the share of each label kept.

    Args:
        source: See :func:`load_examples`.
        settings: Columns, and the fractions to take.
        dev: File, or another such source, to choose on.
        test: Likewise, to test on.
        seed: Of the division.

    Raises:
        DataError: A source cannot be read, or there is too little to divide.
    """
    parts = load_examples(source, settings)
    check_has_train(parts, called(source))
    for name, other in (("dev", dev), ("test", test)):
        if other is not None:
            found = load_examples(other, settings)
            parts[name] = one_of(found, name, "train", *found)
    train = parts["train"]
    check_is_label(train, settings.label)
    for name, fraction in (("test", settings.test_fraction), ("dev", settings.dev_fraction)):
        if name not in parts and fraction > 0:
            taken = set(stratified_rows(train, fraction, seed=seed))
            parts[name] = train.pick(sorted(taken), name)
            train = train.pick((i for i in range(len(train)) if i not in taken), "train")
    if "dev" not in parts:
        raise DataError("dev_fraction is 0 and there is no dev file. Give --dev FILE, or a --dev-fraction above 0.")
    if not len(parts["dev"]):
        distinct = len({normal_form(text) for text in train.texts})
        only = f" ({distinct} different ones)" if distinct < len(train) else ""
        raise DataError(
            f"Too few texts to take a dev split from the {len(train)}{only} of {called(source)}, of which two a label "
            "stay to be learned from: give --dev FILE, raise --dev-fraction, or add texts."
        )
    held_out = parts.get("test")
    return Splits(train, parts["dev"], held_out if held_out is not None and len(held_out) else None)


def fingerprint_of(parts: Iterable[Examples | None]) -> str:
    """Return a hash of all texts and labels, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        for text, label in zip(part.texts, part.labels, strict=True) if part else ():
            digest.update(f"{text!r}\t{label!r}\n".encode())
        digest.update(b"\0")
    return digest.hexdigest()


def check_is_label(examples: Examples, column: str) -> None:
    """Refuse a column that has another value in nearly every row, as a number of the row has.

    Raises:
        DataError: It is such a column.
    """
    values = len(set(examples.labels))
    is_one = all(isinstance(label, str) for label in examples.labels)
    if is_one and len(examples) >= FEWEST_ROWS and values > 0.9 * len(examples):
        raise DataError(
            f"The column {column!r} of {examples.source} has {values:,} different values in {len(examples):,} rows: "
            "is it the label? Choose with --label."
        )


def stratified_rows(examples: Examples, fraction: float, *, seed: int) -> list[int]:
    """Draw rows of a share of the distinct texts, each label in its proportion.

    Distinct texts are put in order of label, shuffled within a label, and drawn at even steps
    (systematic sampling). Two texts of a label always stay behind, to learn from. Where texts
    have many labels, the rarest of a text counts.

    Args:
        examples: To draw from.
        fraction: Of the distinct texts, in (0, 0.5].
        seed: Of the draw.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(examples.texts):
        groups[normal_form(text)].append(row)
    counts = Counter(name for label in examples.labels for name in names_in(label))

    def stratum(rows: list[int]) -> str:
        label = examples.labels[rows[0]]
        return label if isinstance(label, str) else min(label, key=lambda n: (counts[n], n), default="")

    def names(rows: list[int]) -> set[str]:
        """Return all labels of a text, which may stand in rows with different ones."""
        labels = [examples.labels[i] for i in rows]
        return {name for label in labels for name in names_in(label)}

    strata: dict[str, list[list[int]]] = defaultdict(list)
    for rows in groups.values():
        strata[stratum(rows)].append(rows)
    generator = random.Random(seed)  # noqa: S311  # no secret hangs on it
    line: list[tuple[str, list[int]]] = []
    for name in sorted(strata):
        generator.shuffle(strata[name])
        line.extend((name, rows) for rows in strata[name])
    offset = generator.random()
    picked: list[int] = []
    left = Counter(name for rows in groups.values() for name in names(rows))
    for i, (_, rows) in enumerate(line):
        if int((i + 1) * fraction + offset) > int(i * fraction + offset) and all(left[n] > 2 for n in names(rows)):
            left.subtract(names(rows))
            picked.extend(rows)
    return picked


def normal_form(text: str) -> str:
    """Return a text as duplicates are told by: case and spacing do not count."""
    return " ".join(text.casefold().split())


def find_leaks(splits: Splits) -> dict[str, int]:
    """Count the distinct texts that stand in two splits: ``{"train and test": 11}``."""
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    texts = {name: {normal_form(t) for t in part.texts} for name, part in parts.items() if part is not None}
    names = list(texts)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {f"{a} and {b}": len(shared) for a, b in pairs if (shared := texts[a] & texts[b])}


def look_at(examples: Examples) -> Findings:
    """Count what a user would want to know before training."""
    labels_of: dict[str, set[Label]] = defaultdict(set)
    for text, label in zip(examples.texts, examples.labels, strict=True):
        labels_of[normal_form(text)].add(label)
    names = Counter(n for label in examples.labels for n in names_in(label))
    return Findings(
        rows=len(examples),
        blank=sum(not text.strip() for text in examples.texts),
        duplicates=len(examples) - len(labels_of),
        contradictions=sum(len(found) > 1 for text, found in labels_of.items() if text),
        label_counts=dict(names.most_common()),
    )


def check_has_train(parts: Mapping[str, Any], source: str) -> None:
    """Refuse splits without one to learn from.

    Raises:
        DataError: There is none.
    """
    if "train" not in parts:
        raise DataError(f"{source} has no split 'train'. Its splits: {', '.join(parts)}.")


def one_of(parts: Mapping[str, Part], *names: str) -> Part:
    """Return the first of these splits that has texts.

    Raises:
        DataError: None has.
    """
    found = next((parts[name] for name in names if parts.get(name)), None)
    if found is None:
        raise DataError(f"There are no texts in any split of {', '.join(parts)}.")
    return found


def as_examples(rows: Sequence[Row], source: str, settings: DataSettings) -> Examples:
    """Return the texts and labels of rows.

    Raises:
        DataError: There are none, a column is missing, or a row has no label.
    """
    if not rows:
        raise DataError(f"{source} has no rows.")
    for column, option in ((settings.text, "--text"), (settings.label, "--label")):
        check_column(rows[0], column, option, source, delimiter=settings.delimiter, several=True)
    is_marked = has_marks(rows[0], settings.label)
    values = _label_cells(rows, source, settings.label)
    found = [value for value in map(as_list, values) if isinstance(value, list) or not _is_blank(value)]
    are_lists = [isinstance(value, list) for value in found]
    are_real = any(isinstance(as_list(value), list) and not isinstance(value, str) for value in values)
    many = bool(settings.separator) or are_real or (any(are_lists) and all(are_lists))
    texts: list[str] = []
    labels: list[Label] = []
    missing: list[int] = []
    for number, (row, value) in enumerate(zip(rows, values, strict=True), start=1):
        try:
            texts.append(text_of(row, settings.text))
            labels.append(label_of(value, settings.separator, many=many))
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
        if value is None if is_marked else not many and not labels[-1]:
            missing.append(number)
    if missing:
        way_out = f"give --separator {likely_separator([str(label) for label in labels if label]) or '|'!r}"
        if is_marked:
            way_out = "write 0 into the columns of all"
        shown = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(
            f"{source} has no label in row {shown} (column {settings.label!r}). "
            f"Fill in or remove them; if a text can have many labels or none, {way_out}."
        )
    return Examples(texts, labels, source)


def _label_cells(rows: Iterable[Row], source: str, column: str) -> list[Any]:
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(label_cell(row, column))
        except DataError as error:
            raise DataError(f"{source}, row {number}: {error}") from error
    return found


def label_of(value: Any, separator: str, *, many: bool) -> Label:
    """Return the label that a cell holds: a name, empty where it is missing; or the names of many, each once.

    >>> label_of(1.0, "", many=False), label_of("food | price", "|", many=True), label_of("['food']", "|", many=True)
    ('1', ('food', 'price'), ('food',))

    Raises:
        DataError: It is no name.
    """
    if not many:
        if isinstance(value, Mapping):
            raise DataError(f"The label is an object with the keys {', '.join(map(repr, value))}, expected a name.")
        return "" if is_missing(value) else named(value).strip()
    parts = as_list(value)
    parts = parts.split(separator) if separator and isinstance(parts, str) else parts
    names = [label_of(part, "", many=False) for part in (parts if isinstance(parts, list | tuple) else [parts])]
    return tuple(dict.fromkeys(str(name) for name in names if name))


def _is_blank(value: Any) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())
