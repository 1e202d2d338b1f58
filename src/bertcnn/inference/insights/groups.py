"""A column of a table as a few groups of rows: categories, numbers, or dates by day, month or year."""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bertcnn.arrays import Ints

MOST_GROUPS = 24
"""More categories than that: the rarest are one group."""

MOST_DATES = 36
"""More days than that: months; more months: years."""

NEARLY_ALL = 0.9
"""Of the values of a column of dates are so many at least; the others are no dates, such as "unknown"."""

LONGEST = 80
"""Characters of a value that tell it from others."""

NONE, OTHER = "(none)", "(other)"

_DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?([T ]\d{2}:.*)?$")


class GroupColumn:
    """Values of a column, row by row; each different one is kept once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._rows = array("I")

    def add(self, value: Any) -> None:
        """Add a row's value."""
        name = NONE if value is None else " ".join(str(value).split())[:LONGEST] or NONE
        if value is not None and name in {NONE, OTHER} and str(value).strip():
            name = f'"{name}"'  # who wrote our own words into a cell
        self._rows.append(self._places.setdefault(name, len(self._places)))

    @property
    def is_dates(self) -> bool:
        """Whether nearly all values, but the missing ones, are ISO dates: 2024-05, 2024-05-31, with a time or not."""
        sizes = {name: int(size) for name, size in zip(self._places, self._sizes, strict=True) if name != NONE}
        dated = sum(size for name, size in sizes.items() if _DATE.match(name))
        return dated > 0 and dated >= NEARLY_ALL * sum(sizes.values())

    @property
    def _sizes(self) -> Ints:
        """Rows of each value, in the order of their places."""
        return np.bincount(np.frombuffer(self._rows, dtype=np.uint32), minlength=len(self._places))

    def groups(self) -> tuple[list[str], Ints]:
        """Return the names of the groups in the order to show them, and the group of each row, int64 ``(N,)``.

        Dates in their order; numbers by size; else the greatest group first. What is missing, and
        what is left over (among dates, what is none), comes last.
        """
        counts: Counter[str] = Counter()
        name_of = _date_name(self._places) if self.is_dates else str
        for name, size in zip(self._places, self._sizes.tolist(), strict=True):
            counts[name_of(name)] += size
        names = _in_order(counts, is_dates=self.is_dates)
        place = {name: i for i, name in enumerate(names)}
        group_of = [place.get(name_of(name), len(names) - 1) for name in self._places]
        rows = np.frombuffer(self._rows, dtype=np.uint32)
        return names, np.array(group_of, dtype=np.int64)[rows]


def _date_name(values: Iterable[str]) -> Callable[[str], str]:
    """Return what cuts a date down to its day, month or year, whichever gives few enough groups."""
    dates = [value for value in values if _DATE.match(value)]
    length = next((length for length in (10, 7) if len({date[:length] for date in dates}) <= MOST_DATES), 4)

    def name_of(value: str) -> str:
        if value == NONE:
            return NONE
        return value[:length] if _DATE.match(value) else OTHER

    return name_of


def _in_order(counts: Counter[str], *, is_dates: bool) -> list[str]:
    names = [name for name in counts if name not in {NONE, OTHER}]
    last = [name for name in (NONE, OTHER) if name in counts]
    if is_dates:
        return sorted(names) + last
    names.sort(key=lambda name: (-counts[name], name))
    if len(names) > MOST_GROUPS:
        names, last = names[: MOST_GROUPS - 1], [*last, OTHER]
    if all(_is_number(name) for name in names):
        names.sort(key=float)
    return names + last


def _is_number(name: str) -> bool:
    try:
        return bool(np.isfinite(float(name)))
    except ValueError:
        return False
