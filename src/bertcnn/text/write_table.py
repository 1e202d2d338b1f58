"""Write tables row by row: csv, tsv, jsonl and parquet, by a file's ending.

Writing streams, so that memory does not grow with the number of rows. A file appears under its name when it is whole.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bertcnn.errors import DataError
from bertcnn.files import beside
from bertcnn.text.cells import SURROGATE, as_cell, as_json, without_surrogates
from bertcnn.text.read_table import DELIMITERS, ENDINGS, ROWS_AT_ONCE, Row, ending_of, pyarrow_parquet


def write_rows(file: str | Path, rows: Iterable[Row], *, like: str | Path = "") -> int:
    """Write a table that appears under its name when it is whole; return the number of rows.

    Args:
        file: Ends in .csv, .tsv, .jsonl or .parquet.
        rows: All with the columns of the first; those of jsonl may differ. Lone surrogates, which
            no UTF-8 file can hold, are escaped in jsonl and U+FFFD elsewhere.
        like: What the rows were read from: between parquet files, columns keep their types. The types of others
            are those of the first rows.

    Raises:
        DataError: Another ending, a row that does not fit, or the disk is full or closed to us.
    """
    path = Path(file)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path} ends in {ending or 'nothing'!r}, expected one of {', '.join(ENDINGS)}.")
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = beside(path)
        with draft.open("x+b") as stream:
            if ending == ".parquet":
                count = _write_parquet(stream, rows, Path(like))
            else:
                text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
                count = (
                    write_jsonl(text, rows) if ending == ".jsonl" else write_separated(text, rows, DELIMITERS[ending])
                )
                text.flush()
                text.detach()
        draft.replace(path)
        draft = None
        return count
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}. Nothing was left half-written.") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def write_separated(stream: IO[str], rows: Iterable[Row], delimiter: str = ",") -> int:
    """Write rows as csv, header first; return their number."""
    # A writer quotes what its line ending holds; a lone \r left bare would be read as the end of a row.
    writer = csv.writer(_NewlineEndings(stream), delimiter=delimiter, lineterminator="\r\n")
    count = 0
    for row in _alike(rows):
        if not count:
            writer.writerow([as_cell(key) for key in row])
        writer.writerow([as_cell(value) for value in row.values()])
        count += 1
    return count


class _NewlineEndings:
    """A stream that writes each row of a csv writer with a plain newline behind it."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, row: str) -> int:
        return self.stream.write(row.removesuffix("\r\n") + "\n")


def _alike(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows with the columns of the first, a missing one as None.

    Raises:
        DataError: A row has a column that the first has not.
    """
    columns: dict[str, Any] = {}
    for number, row in enumerate(rows, start=1):
        columns = columns or row
        extra = next((name for name in row if name not in columns), None)
        if extra is not None:
            raise DataError(
                f"Row {number} has a column {extra!r} that the first row has not, which only .jsonl can hold. "
                "Give an --output that ends in .jsonl, or the first row all columns."
            )
        yield {name: row.get(name) for name in columns}


def write_jsonl(stream: IO[str], rows: Iterable[Row]) -> int:
    """Write rows as a JSON object a line; return their number."""
    count = 0
    for row in rows:
        stream.write(SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", as_json(row)) + "\n")
        count += 1
    return count


def _write_parquet(stream: IO[bytes], rows: Iterable[Row], like: Path) -> int:
    parquet = pyarrow_parquet()
    import pyarrow as pa

    known = parquet.read_schema(like) if ending_of(like) == ".parquet" else pa.schema([])
    writer: Any = None
    count = 0
    try:
        for chunk in _chunks(_alike(rows)):
            before = None if writer is None else writer.schema
            names = {name: without_surrogates(name) for name in chunk[0]}
            table = pa.table(
                {said: _column([row[name] for row in chunk], said, known, before) for name, said in names.items()}
            )
            writer = writer or parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
            count += len(chunk)
        writer = writer or parquet.ParquetWriter(stream, pa.schema([]))
        writer.close()
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()
            writer.is_open = False  # else it tries once more when it is deleted, on a closed file
    return count


def _column(given: Sequence[Any], name: str, known: Any, before: Any) -> Any:
    """Return a column as arrow's.

    Args:
        given: Its values in some rows.
        name: Of the column.
        known: Schema of the table that the rows are from; of columns that are not in it, the type is found out.
        before: Schema of the rows before; None: these are the first.

    Raises:
        DataError: Parquet cannot hold the values, or not beside those before without losing something.
    """
    import pyarrow as pa

    values = [without_surrogates(value) for value in given]
    try:
        if name in known.names:
            return pa.array(values, type=known.field(name).type)
        found = pa.array(values)
        if before is None:
            return found.cast(pa.string()) if pa.types.is_null(found.type) else found
        kind = before.field(name).type
        if pa.types.is_string(kind) != pa.types.is_string(found.type) and not pa.types.is_null(found.type):
            raise pa.ArrowInvalid(f"{kind} in the first rows, {found.type} later")
        return found.cast(kind)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"Column {name!r} holds values that parquet cannot, or of different kinds ({error}). "
            "Give an --output that ends in .jsonl or .csv."
        ) from error


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
