"""What a row of a table holds: cells by the names of columns or paths, and texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bertcnn.errors import DataError, nearest
from bertcnn.text.cells import is_missing
from bertcnn.text.read_table import DELIMITERS, Row, ending_of, other_delimiter

WORDS_OF_A_TEXT = 4
"""Of so many spaces on a name is no name."""


def cell_of(row: Row, column: str) -> Any:
    """Return a cell, None where it is not there; of an object in a cell of json, by the path to it.

    >>> cell_of({"review": {"body": "Good."}, "a.b": 1}, "review.body"), cell_of({"a.b": 1}, "a.b"), cell_of({}, "a.b")
    ('Good.', 1, None)
    """
    if column in row:
        return row[column]
    path, _, last = column.rpartition(".")
    inside = cell_of(row, path) if path else None
    return inside.get(last) if isinstance(inside, dict) else None


def parts_of(row: Row, column: str) -> list[str]:
    """Return the columns that a name with commas stands for; a column of that whole name is itself.

    >>> parts_of({"title": "", "body": ""}, "title, body"), parts_of({"a,b": ""}, "a,b")
    (['title', 'body'], ['a,b'])
    """
    return [column] if column in row else [part.strip() for part in column.split(",")]


def has_column(row: Row, column: str) -> bool:
    """Return whether a row has a cell that :func:`cell_of` finds."""
    path, _, last = column.rpartition(".")
    inside = cell_of(row, path) if path else None
    return column in row or (isinstance(inside, dict) and last in inside)


def has_columns(row: Row, column: str) -> bool:
    """Return whether a row has all cells that a name stands for, which may be of several columns."""
    return all(has_column(row, part) for part in parts_of(row, column))


def check_column(
    row: Row, column: str, option: str, file: str | Path, *, delimiter: str = "", several: bool = False
) -> None:
    """Refuse a table that has no such column, naming those it has.

    Args:
        row: Its first.
        column: The column.
        option: By which it was named.
        file: That the table is of.
        delimiter: By which it was read.
        several: There may be more than one, with commas between.

    Raises:
        DataError: The column is not there.
    """
    missing = [one for one in (parts_of(row, column) if several else [column]) if not has_column(row, one)]
    if not missing:
        return
    column, names = missing[0], list(row)
    hint = nearest(column, names)
    if ending_of(file) in DELIMITERS:
        hint = other_delimiter(names, delimiter) or hint
        if not hint and any(name.count(" ") >= WORDS_OF_A_TEXT for name in names):
            hint = " That seems to be a text: if the file has no header, put a line with the columns' names first."
    raise DataError(
        f"{file} has no column {column!r}. Its columns: {', '.join(map(repr, names))}.{hint}", f"Choose with {option}."
    )


def with_column(
    rows: Iterable[Row], column: str, option: str, file: str | Path, *, delimiter: str = ""
) -> Iterator[Row]:
    """Pass on the rows of a table whose first has a column, or several; a later one of json may have no value there.

    Raises:
        DataError: The column is not there.
    """
    for number, row in enumerate(rows):
        if not number:
            check_column(row, column, option, file, delimiter=delimiter, several=True)
        yield row


def as_text(value: Any) -> str:
    """Return a cell as a text; a missing one is empty.

    Raises:
        DataError: It is a list or an object, as json can hold, or bytes that are no text.
    """
    if isinstance(value, list | dict):
        raise DataError(
            f"A text is a {type(value).__name__}, {_short(value)}. Expected a string; choose another column."
        )
    if isinstance(value, bytes):
        raise DataError(
            f"A text is of bytes that are no UTF-8, {value[:20]!r}. Expected a string; choose another column."
        )
    return "" if is_missing(value) else str(value)


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."


def text_of(row: Row, column: str) -> str:
    r"""Return the text of a row; where it stands in several columns, named with commas between, a line of each.

    >>> text_of({"title": "Good", "body": "I liked it.", "id": 1}, "title,body")
    'Good\nI liked it.'

    Raises:
        DataError: A cell is no text.
    """
    return "\n".join(filter(None, (as_text(cell_of(row, part)) for part in parts_of(row, column))))


MARKS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
"""What a column of one label holds where a text has it, and where not."""

UNTOLD = {"", "-1", "-1.0"}
"""What it holds where that is not known, or withheld, as the truth about test texts may be."""


def has_marks(row: Row, label: str) -> bool:
    """Return whether each label has a column of its own: they are named with commas between."""
    return len(parts_of(row, label)) > 1


def label_cell(row: Row, column: str) -> Any:
    """Return the cell with a row's label, None where it is not there.

    Where each label has a column of its own, named with commas between, the names of those that are marked; None where
    no cell of them says anything.

    >>> label_cell({"food": 1, "price": 0}, "food,price"), label_cell({"label": "food"}, "label")
    (['food'], 'food')

    Raises:
        DataError: A column of one label holds neither 0 nor 1.
    """
    parts = parts_of(row, column)
    if len(parts) == 1:
        return cell_of(row, parts[0])
    cells = {part: cell_of(row, part) for part in parts}
    marks = {part: "" if is_missing(cell) else str(cell).strip().casefold() for part, cell in cells.items()}
    if UNTOLD.issuperset(marks.values()):
        return None
    for part, mark in marks.items():
        if mark not in MARKS:
            raise DataError(
                f"The column {part!r} holds {_short(cells[part])}. Of several columns of labels each is of one, and "
                "holds 0 or 1; a single one holds names."
            )
    return [part for part, mark in marks.items() if MARKS[mark]]
