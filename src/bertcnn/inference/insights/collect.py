"""What drives a model's answers over a whole file: phrases, groups of rows, filters, doubtful texts.

The file is read once, a thousand texts at a time. Explanations are summed as they come and not
kept; texts wait on disk until it is known which are shown. What grows with the rows is a few
numbers each: probabilities, and for each phrase the texts it stood in.
:mod:`bertcnn.inference.insights.report` writes what is found,
:mod:`bertcnn.inference.insights.result` says what that is.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice, zip_longest
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np

from bertcnn.arrays import Bools, Floats64, Ints
from bertcnn.errors import DataError, ModelError
from bertcnn.inference.backend import NO_FILTERS
from bertcnn.inference.calibration import probabilities_of
from bertcnn.inference.explaining.explain import Reader, explain, read_winners
from bertcnn.inference.explaining.page import marks
from bertcnn.inference.explaining.winners import Winners
from bertcnn.inference.insights.filters import FilterTally
from bertcnn.inference.insights.groups import GroupColumn
from bertcnn.inference.insights.mistakes import can_find_mistakes, can_judge, probable_mistakes
from bertcnn.inference.insights.phrases import Family, Found, PhraseTable, names_of
from bertcnn.inference.insights.result import DoubtfulText, Driver, Example, Group, Insights, LabelInsights, Listing
from bertcnn.inference.metrics import confidence, decide
from bertcnn.text.labels import Label, Labels, names_in
from bertcnn.text.tokens import check_texts, one_by_one

TEXTS_AT_ONCE = 1024
MOST_DRIVERS = 200
"""Phrases of a label that are kept in the end."""

MOST_DOUBTFUL = 1000
"""Texts of a list (errors, say) that are kept in the end."""

AROUND = 70
"""Characters of an example on either side of its phrase."""

IN_MEMORY = 32 * 2**20
"""Bytes of texts that wait in memory before they go to disk."""


def insights(
    predictor: Reader,
    texts: Iterable[str],
    *,
    labels: Iterable[Label | None] | None = None,
    groups: Iterable[Any] | None = None,
    by: str = "group",
    marked: int = 20,
    progress: Callable[[int], object] | None = None,
) -> Insights:
    """Read texts once and say what drives each label over all of them.

    Args:
        predictor: A model with filters, by torch or ONNX.
        texts: Any number, as they come; empty ones are fine.
        labels: For each text the truth, where it is known: a name, or a tuple of names where texts
            can have many; None: unknown.
        groups: For each text a category or an ISO date.
        by: What the groups are called.
        marked: Texts of each list of doubtful ones whose words are marked; these are explained again.
        progress: Called with the number of texts that were read.

    Raises:
        ModelError: The model has a plain linear head and no filters.
        DataError: There are labels, but none in the first 1,024 texts is known to the model; or more or fewer
            labels or groups than texts.
        TypeError: The texts are one string, or one of them is none.
    """
    if not predictor.backend.spec.kernel_sizes:
        raise ModelError(NO_FILTERS)
    rows = _rows(texts, labels, groups)
    with closing(_Shelf()) as shelf:
        reading = _Reading(predictor, shelf)
        while chunk := list(islice(rows, TEXTS_AT_ONCE)):
            reading.add(check_texts([text for text, _, _ in chunk], first=len(shelf)))
            reading.add_labels([label for _, label, _ in chunk])
            for _, _, group in chunk:
                reading.column.add(group)
            if progress is not None:
                progress(len(shelf))
        return _Summary(reading, by if groups is not None else None, labels is not None, marked).insights()


def _rows(
    texts: Iterable[str], labels: Iterable[Label | None] | None, groups: Iterable[Any] | None
) -> Iterator[tuple[str, Label | None, Any]]:
    """Yield each text with its label and its group, None where there are none.

    Raises:
        DataError: One of them ends before the others.
    """
    end = object()
    given = {"texts": one_by_one(texts), "labels": labels, "groups": groups}
    columns = {name: column for name, column in given.items() if column is not None}
    for number, values in enumerate(zip_longest(*columns.values(), fillvalue=end)):
        row = dict(zip(columns, values, strict=True))
        ended = [name for name, value in row.items() if value is end]
        if ended:
            raise DataError(f"The {ended[0]} end after {number:,}, and the {' and '.join(columns)} must be as many.")
        yield row["texts"], row.get("labels"), row.get("groups")


class _Shelf:
    """Texts that wait until it is known which are shown, in a nameless file beyond some size."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  # close() is ours
        self._ends = array("Q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, text: int) -> str:
        self._file.seek(self._ends[text])
        return self._file.read(self._ends[text + 1] - self._ends[text]).decode("utf-8", "surrogatepass")

    def add(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def close(self) -> None:
        self._file.close()


class _Reading:
    """What is summed up while texts go by."""

    def __init__(self, predictor: Reader, shelf: _Shelf) -> None:
        self.predictor, self.shelf, self.spec = predictor, shelf, predictor.backend.spec
        self.labels = Labels(self.spec.labels, self.spec.is_multi_label)
        self.weight = predictor.backend.classifier[0].astype(np.float64)
        self.phrases = PhraseTable(len(self.spec.labels))
        self.filters = FilterTally(predictor.backend)
        self.column = GroupColumn()
        self.unknown: Counter[str] = Counter()
        self.blank = 0
        none = np.zeros((0, len(self.spec.labels)))
        self.probabilities = [none.astype(np.float32)]
        self.answered, self.in_play, self.truth = ([none.astype(bool)] for _ in range(3))
        self.is_labelled = [np.zeros(0, dtype=bool)]

    def add(self, texts: list[str]) -> None:
        """Answer texts, and take their phrases and filters."""
        distinct = list(dict.fromkeys(texts))
        winners, logits = read_winners(self.predictor, distinct)
        names = [names_of(found) for found in winners]
        place = {text: i for i, text in enumerate(distinct)}
        rows = np.array([place[text] for text in texts], dtype=np.int64)
        table = probabilities_of(logits, many=self.spec.is_multi_label)
        answered, in_play = self._answers(table)
        self.filters.add(rows, winners, names)
        for row, text in zip(rows.tolist(), texts, strict=True):
            shares = self._shares(winners[row], answered[row], in_play[row])
            labels = np.flatnonzero(in_play[row])
            held = np.flatnonzero(answered[row][labels])
            self.phrases.add(len(self.shelf), names[row], labels, shares, held)
            self.shelf.add(text)
            self.blank += not text.strip()
        self.probabilities.append(table[rows].astype(np.float32))
        self.answered.append(answered[rows])
        self.in_play.append(in_play[rows])

    def _answers(self, table: Floats64) -> tuple[Bools, Bools]:
        """Return which labels each text is answered with, and which were in play, bool ``(N, K)``."""
        many = self.spec.is_multi_label
        found = decide(table, many=many, thresholds=self.spec.thresholds)
        if many:
            return np.asarray(found > 0), np.ones_like(table, dtype=bool)
        every = np.arange(len(table))
        answered, others = np.zeros_like(table, dtype=bool), table.copy()
        answered[every, found] = True
        others[every, found] = -1
        in_play = answered.copy()
        in_play[every, others.argmax(axis=1)] = True
        return answered, in_play

    def _shares(self, found: Winners, answered: Bools, in_play: Bools) -> Floats64:
        """Return what each phrase adds for each label in play, ``(P, J)``."""
        if self.spec.is_multi_label:
            return found.by_phrase(found.features[:, None] * self.weight.T)
        margin = self.weight[answered][0] - self.weight[in_play & ~answered][0]
        share = found.by_phrase(found.features * margin)
        return np.where(answered[in_play], share[:, None], -share[:, None])

    def add_labels(self, labels: Sequence[Label | None]) -> None:
        """Take what the file says of the texts just added.

        Raises:
            DataError: There are labels, and the model knows none of them.
        """
        truth = np.zeros((len(labels), len(self.spec.labels)), dtype=bool)
        is_labelled = np.zeros(len(labels), dtype=bool)
        for row, label in enumerate(labels):
            if label is None:
                continue
            names = names_in(label)
            ids = [i for name in names if (i := self.labels.id_of(name)) is not None]
            if len(ids) < len(names) or (len(ids) != 1 and not self.spec.is_multi_label):
                self.unknown["|".join(names)] += 1
                continue
            truth[row, ids] = True
            is_labelled[row] = True
        is_first = len(self.truth) == 1
        self.truth.append(truth)
        self.is_labelled.append(is_labelled)
        if is_first and self.unknown and not is_labelled.any():
            given = ", ".join(repr(name) for name, _ in self.unknown.most_common(5))
            known = ", ".join(map(repr, self.spec.labels[:20]))
            raise DataError(
                f"The labels of the first {len(labels):,} texts are {given}, but the model knows {known}. "
                "Give the column with its labels (--label), or go without (--label '')."
            )


class _Summary:
    """A reading, made into :class:`Insights`."""

    def __init__(self, reading: _Reading, by: str | None, has_labels: bool, marked: int) -> None:
        self.reading, self.shelf, self.by, self.marked = reading, reading.shelf, by, marked
        self.names, self.many = reading.spec.labels, reading.spec.is_multi_label
        self.probabilities = np.concatenate(reading.probabilities)
        self.answered, self.in_play = np.concatenate(reading.answered), np.concatenate(reading.in_play)
        self.truth, self.is_labelled = np.concatenate(reading.truth), np.concatenate(reading.is_labelled)
        self.right = self.is_labelled & (self.truth == self.answered).all(axis=1)
        self.has_labels = has_labels and bool(self.is_labelled.any())
        self.judges = can_judge(self._labelled(self.truth), self._labelled(self.answered))
        self.group_names: list[str] = []
        self.group_of: Ints | None = None
        if by is not None:
            self.group_names, self.group_of = reading.column.groups()
        # Beyond that it hangs on a text's company in its batch, and what is listed first must not.
        self.confidence = confidence(self.probabilities, self.answered, many=self.many).round(6)

    def insights(self) -> Insights:
        """Return everything."""
        filters, filter_groups = self.reading.filters.dictionary()
        wrong = np.flatnonzero(self.is_labelled & ~self.right)
        errors = wrong[np.argsort(-self.confidence[wrong], kind="stable")]
        order = np.argsort(self.confidence, kind="stable")
        return Insights(
            texts=len(self.shelf),
            blank=self.reading.blank,
            is_multi_label=self.many,
            no_label=int((~self.answered.any(axis=1)).sum()),
            labelled=int(self.is_labelled.sum()),
            right=int(self.right.sum()),
            unknown=dict(self.reading.unknown.most_common()),
            labels=tuple(self._label(k) for k in range(len(self.names))),
            by=self.by,
            is_dates=self.by is not None and self.reading.column.is_dates,
            groups=self._groups(),
            errors=self._listing(errors) if self.has_labels else None,
            unsure=self._listing(order[: max(self.marked, len(order) // 20)]),
            mistakes=self._mistakes(),
            withheld=self.has_labels and not self.judges,
            filters=tuple(filters),
            filter_groups=tuple(filter_groups),
            lost=self.reading.phrases.lost,
        )

    def _label(self, k: int) -> LabelInsights:
        families = self.reading.phrases.families(k, self.in_play[:, k], self.answered[:, k], most=MOST_DRIVERS)
        return LabelInsights(
            self.names[k],
            texts=int(self.answered[:, k].sum()),
            given=int(self.truth[:, k].sum()),
            by_group=self._by_group(self.answered[:, k]),
            drivers=tuple(self._driver(family, k) for family in families),
        )

    def _driver(self, family: Family, k: int) -> Driver:
        return Driver(
            family.phrase,
            family.forms,
            family.total,
            texts=len(family.texts),
            answered=int(self.answered[family.texts, k].sum()),
            by_group=self._by_group(family.texts),
            examples=tuple(self._example(found) for found in family.found),
            is_telling=family.is_telling,
        )

    def _example(self, found: Found) -> Example:
        text = self.shelf[found.text]
        before, after = text[max(found.start - AROUND, 0) : found.start], text[found.end : found.end + AROUND]
        return Example(
            found.text + 1,
            ("\u2026" if found.start > AROUND else "") + _single_spaced(before),
            _single_spaced(text[found.start : found.end][: 4 * AROUND]),
            _single_spaced(after) + ("\u2026" if found.end + AROUND < len(text) else ""),
        )

    def _by_group(self, rows: Ints | Bools) -> tuple[int, ...]:
        if self.group_of is None:
            return ()
        return tuple(np.bincount(self.group_of[rows], minlength=len(self.group_names)).tolist())

    def _groups(self) -> tuple[Group, ...]:
        sizes = self._by_group(np.arange(len(self.shelf)))
        labelled, right = self._by_group(self.is_labelled), self._by_group(self.right)
        return tuple(Group(*values) for values in zip(self.group_names, sizes, labelled, right, strict=True))

    def _labelled(self, table: Bools) -> Ints:
        """Return a table's labelled rows as class ids, or where texts can have many labels as 0 and 1."""
        rows = table[self.is_labelled]
        return np.asarray(rows if self.many else rows.argmax(axis=1), dtype=np.int64)

    def _mistakes(self) -> Listing | None:
        if not self.has_labels or not self.judges or not can_find_mistakes():
            return None
        rows = np.flatnonzero(self.is_labelled)
        found = probable_mistakes(self._labelled(self.truth), self.probabilities[rows].astype(np.float64))
        return self._listing(rows[found])

    def _listing(self, order: Ints) -> Listing:
        first = [self.shelf[text] for text in order[: self.marked].tolist()]
        drawn: Iterator[tuple[tuple[str, float], ...]] = (
            tuple(("\u2026 " * part["gap"] + part["text"], part["strength"]) for part in marks(explained.to_dict()))
            for explained in explain(self.reading.predictor, first)
        )
        kept = order[:MOST_DOUBTFUL].tolist()
        return Listing(len(order), tuple(self._doubtful(text, next(drawn, ())) for text in kept))

    def _doubtful(self, text: int, drawn: tuple[tuple[str, float], ...]) -> DoubtfulText:
        return DoubtfulText(
            text + 1,
            self.shelf[text],
            self._named(self.answered[text]),
            float(self.confidence[text]),
            self._named(self.truth[text]) if self.is_labelled[text] else None,
            None if self.group_of is None else self.group_names[self.group_of[text]],
            drawn,
        )

    def _named(self, held: Bools) -> str:
        return "|".join(name for name, holds in zip(self.names, held, strict=True) if holds)


def _single_spaced(text: str) -> str:
    """Return a stretch with its runs of spaces and line ends as one space each."""
    inside = " ".join(text.split())
    left = " " if text[:1].isspace() else ""
    return left + inside + (" " if inside and text[-1:].isspace() else "")
