"""Label names, class ids, and rows of 0 and 1; one label a text, or many."""

import json
import math
import warnings
from ast import literal_eval
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bertcnn.arrays import Floats32, Ints
from bertcnn.errors import DataError, nearest

Label = str | tuple[str, ...]
"""The truth about a text: a name, or, where a text can have many, a tuple of names."""


def named(value: Any) -> str:
    """Return the name of a label that may be a number: 1 and 1.0 are the same one.

    >>> named(1.0), named(0.5), named("1.0")
    ('1', '0.5', '1.0')
    """
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


SEPARATORS = ("|", ";", ",")
"""What people put between the labels of a text."""


def likely_separator(names: Sequence[str]) -> str:
    """Return what seems to stand between labels, where names look like lists of others; else nothing.

    >>> likely_separator(["food|service", "food", "service|price", "price"]), likely_separator(["food, drink", "tools"])
    ('|', '')
    """
    for mark in SEPARATORS:
        times = Counter(part.strip() for name in names for part in set(name.split(mark)))
        parts = {part.strip() for name in names if mark in name for part in name.split(mark)}
        if len(parts) > 1 and sum(times[part] > 1 for part in parts) * 2 > len(parts):
            return mark
    return ""


def as_list(value: Any) -> Any:
    """Return a cell of several values as a list, also where it was written as a text, by JSON or Python.

    Anything else is returned as it is.

    >>> as_list('["food", "price"]'), as_list("['food']"), as_list("[food]"), as_list("food")
    (['food', 'price'], ['food'], '[food]', 'food')
    """
    if isinstance(value, tuple) or (isinstance(value, np.ndarray) and value.ndim):  # as pandas reads lists in parquet
        return list(value)
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        for read in (json.loads, literal_eval):
            with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python does not know
                found = read(value.strip())
                if isinstance(found, list):
                    return found
    return value


def names_in(label: Label) -> tuple[str, ...]:
    """Return the names of a label: the one, or all."""
    return (label,) if isinstance(label, str) else label


@dataclass(frozen=True)
class Labels:
    """The labels of a task, in the order of the logits.

    Attributes:
        names: Their names.
        many: A text can have many of them, or none.
    """

    names: tuple[str, ...]
    many: bool = False

    @classmethod
    def of(cls, labels: Iterable[Label]) -> "Labels":
        """Collect the names that occur, in order (numbers by value, words by alphabet).

        A label may have a single text: it is learned from that one, and cannot be checked.

        Raises:
            DataError: Fewer than two labels (one label a text), or none.
        """
        labels = list(labels)
        many = any(isinstance(label, tuple) for label in labels)
        counts = Counter(name for label in labels for name in names_in(label))
        names = sorted(counts, key=_order)
        if len(names) < (1 if many else 2):
            found = f"only the label {names[0]!r}" if names else "no label"
            raise DataError(f"The training texts have {found}. Expected at least two different labels.")
        return cls(tuple(names), many)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Return the class id of each name; of a number also as a table writes it that once had gaps: 1.0 is 1."""
        ids = {name: i for i, name in enumerate(self.names)}
        return {**{f"{name}.0": i for name, i in ids.items() if name.lstrip("-").isdecimal()}, **ids}

    def id_of(self, name: str) -> int | None:
        """Return the class id of a name; None: it was not there in training."""
        return self._ids.get(name)

    def as_known(self, labels: Iterable[str]) -> list[Label]:
        """Return labels, one a text, as they were written in training; what was not there, as it is."""
        ids = ((label, self.id_of(label)) for label in labels)
        return [label if i is None else self.names[i] for label, i in ids]

    def encode(self, labels: Sequence[Label], *, where: str = "the data") -> Ints | Floats32:
        """Return class ids, int64 ``(N,)``, or for many labels a text rows, float32 ``(N, K)``.

        Raises:
            DataError: A label that was not there in training; all of them are named.
        """
        index = self._ids
        faults: dict[str, int] = {}
        for row, label in enumerate(labels):
            for name in names_in(label):
                if name not in index:
                    faults.setdefault(name, row)
        if faults:
            known = ", ".join(map(repr, self.names[:20])) + (", ..." if len(self.names) > 20 else "")
            said = " ".join(
                f"Unknown label {name!r} in text {row + 1} of {where}.{nearest(name, self.names)}"
                for name, row in list(faults.items())[:5]
            )
            more = f" And {len(faults) - 5} more." if len(faults) > 5 else ""
            raise DataError(f"{said}{more} Known labels: {known}.")
        if not self.many:
            if any(not isinstance(label, str) for label in labels):
                raise DataError(f"{where} gives lists of labels, but the model tells one label a text.")
            return np.array([index[str(label)] for label in labels], dtype=np.int64)
        rows = np.zeros((len(labels), len(self.names)), dtype=np.float32)
        for row, label in enumerate(labels):
            for name in names_in(label):
                rows[row, index[name]] = 1
        return rows


def _order(name: str) -> tuple[int, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)
