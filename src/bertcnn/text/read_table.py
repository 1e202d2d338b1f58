"""Read tables row by row: csv, tsv, jsonl, parquet, json and plain lines, by a file's ending.

Reading streams, so that memory does not grow with the number of rows; but a json file is one value, and read whole.
"""

import csv
import gzip
import json
import os
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from bertcnn.errors import DataError, nearest
from bertcnn.text.cells import decoded

Row = dict[str, Any]

TAB = "\t"
DELIMITERS = {".csv": ",", ".tsv": TAB}
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Of what is read and written."""

READABLE = (*ENDINGS, ".json", ".txt")
"""As they are, and all but parquet with ``.gz`` behind."""

ALIASES = {".ndjson": ".jsonl", ".pq": ".parquet"}
ADVICE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "Save it as csv (UTF-8) in your spreadsheet program."),
    **dict.fromkeys((".zip", ".bz2", ".xz", ".zst", ".parquet.gz"), "Unpack it first."),
}
_LABEL_MARK = re.compile(r"[ \t\v\f]*__label__([^ \t\v\f]*)[ \t\v\f]*")
"""A label before a text, as in fastText's files: ``__label__positive I liked it``."""

ROWS_AT_ONCE = 4096
LONGEST_SHOWN = 60
"""Of what was given for a file and is none."""

# A field may hold a whole book; the limit is of the process, and 2**31 - 1 is its largest value everywhere.
csv.field_size_limit(2**31 - 1)


def read_rows(file: str | Path, *, encoding: str = "utf-8", delimiter: str = "") -> Iterator[Row]:
    r"""Read a table, a dict a row.

    Args:
        file: Ends in .csv, .tsv, .jsonl (.ndjson) or .parquet (.pq); in .json, an array of objects; or in .txt, a text
            a line, and where it begins with labels as fastText marks them, those, joined by ``|``, as ``label``. All
            but parquet may be packed by gzip (.gz).
        encoding: Of the text formats. A byte-order mark is no part of the text.
        delimiter: Between csv columns, one character or ``\t``; empty: ``,``, and for tsv a tab.

    Raises:
        DataError: The file is missing, empty, broken, or of another kind.
    """
    path = Path(file)
    ending = ending_of(path)
    _check_is_file(file)
    if ending not in READABLE:
        advice = f" {ADVICE[ending]}" if ending in ADVICE else ""
        raise DataError(f"{path} ends in {ending or 'nothing'!r}, expected one of {', '.join(READABLE)}.{advice}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Expected a table with a text in each row.")
    if ending == ".parquet":
        rows = _read_parquet(path)
    elif ending == ".jsonl":
        rows = _read_jsonl(path, encoding)
    elif ending == ".json":
        rows = _read_json(path, encoding)
    elif ending == ".txt":
        rows = _read_lines(path, encoding)
    else:
        rows = _read_separated(path, encoding, _one_character(delimiter) or DELIMITERS[ending])
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        raise DataError(f"{path} holds no rows. Expected at least one.")


def ending_of(file: str | Path) -> str:
    """Return what the name of a table says of its format: its ending in small letters, by its usual name.

    >>> ending_of("a/B.CSV"), ending_of("c.ndjson.gz"), ending_of("d.parquet.gz")
    ('.csv', '.jsonl', '.parquet.gz')
    """
    path = Path(file)
    packed = path.suffix.lower() == ".gz"
    ending = (path.with_suffix("") if packed else path).suffix.lower()
    ending = ALIASES.get(ending, ending)
    return f"{ending}.gz" if packed and ending not in {".csv", ".tsv", ".jsonl", ".json", ".txt"} else ending


def _check_is_file(file: str | Path) -> None:
    """Refuse a folder, a name that is not there, and a text in the place of a file.

    Raises:
        DataError: It is one of these.
    """
    path = Path(file)
    if os.path.isfile(path):
        return
    if str(path).startswith(("http:/", "https:/")):
        raise DataError(f"{file} is an address, and nothing is fetched from the network. Download it first.")
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder. Expected a file that ends in one of {', '.join(READABLE)}.")
    if " " in str(path) and ending_of(path) not in READABLE:
        shown = str(path) if len(str(path)) <= LONGEST_SHOWN else f"{str(path)[:LONGEST_SHOWN]}..."
        raise DataError(
            f"No file {shown!r}. If it is a text: echo {shlex.quote(shown)} | bertcnn predict MODEL (or explain)."
        )
    there = [p.name for p in path.parent.glob("*") if p.is_file()] if path.parent.is_dir() else []
    raise DataError(f"No file {str(path)!r}.{nearest(path.name, there)}")


def other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """Return advice on the delimiter where a header of one column holds another one, else nothing."""
    other = (
        next((d for d in (";", "\t", ",", "|") if d in header[0] and d != delimiter), "") if len(header) == 1 else ""
    )
    shown = "'\\t'" if other == "\t" else repr(other)
    return f" The header looks separated by {shown}: give --delimiter {shown}." if other else ""


def _one_character(delimiter: str) -> str:
    found = delimiter.replace("\\t", "\t")  # as a shell gives it
    if len(found) > 1 or found in {'"', "\n", "\r", "\0"}:
        raise DataError(f"The delimiter is {delimiter!r}, expected one character such as ';', or \\t for a tab.")
    return found


@contextmanager
def _open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a text file, and turn its faults into words."""
    plain = encoding.lower().replace("_", "-")
    try:
        codec = "utf-8-sig" if plain in {"utf-8", "utf8"} else encoding
        if path.suffix.lower() == ".gz":
            with gzip.open(path, "rt", encoding=codec, newline="") as unpacked:
                yield unpacked
        else:
            with path.open(encoding=codec, newline="") as file:
                yield file
    except LookupError as error:
        raise DataError(f"No encoding {encoding!r}. Try utf-8, cp1252, latin-1 or utf-16.") from error
    except UnicodeError as error:
        data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        at = next((i for i in _undecodable(data, encoding)), 0)
        line = data.count(b"\n", 0, at) + 1
        guess = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "cp1252 (Western Windows) or latin-1"
        raise DataError(
            f"{path} is not {encoding}: byte 0x{data[at]:02x} at offset {at} (line {line}) cannot be read.",
            f"If it is text, give its encoding, for instance --encoding {guess}.",
        ) from error
    except (OSError, EOFError, zlib.error) as error:  # the last two of a damaged .gz
        raise DataError(f"Cannot read {path}: {error}") from error


def _undecodable(data: bytes, encoding: str) -> Iterator[int]:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        yield error.start


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise DataError(f"{path} has a NUL byte in line {number}: it is not a text table, or it is damaged.")
        yield line.removeprefix("\ufeff") if number == 1 else line


def _read_separated(path: Path, encoding: str, delimiter: str) -> Iterator[Row]:
    quoting = _quoting(path, encoding, delimiter)
    with _open_text(path, encoding) as file:
        reader = csv.reader(_lines(file, path), delimiter=delimiter, strict=True, quoting=quoting)
        started, header = 1, list[str]()
        try:
            header = next(reader, [])
            named = _without_empty_end(header) or header
            has_more = len(named) < len(header)  # as spreadsheets leave behind what they export
            header = named
            started = reader.line_num + 1
            doubled = {name for name, times in Counter(header).items() if times > 1}
            if doubled:
                raise DataError(f"{path} has more than one column named {sorted(doubled)[0]!r}. Rename one.")
            ragged: list[str] = []
            number = 0
            for number, cells in enumerate(reader, start=1):
                started = reader.line_num + 1
                if not cells:  # a blank line is no row
                    continue
                if has_more and len(cells) > len(header):
                    cells = [*cells[: len(header)], *_without_empty_end(cells[len(header) :])]
                if len(cells) != len(header):
                    ragged.append(f"row {number} (line {reader.line_num}) has {len(cells)}")
                    if len(ragged) == 5:
                        break
                elif not ragged:
                    yield dict(zip(header, cells, strict=True))
        except csv.Error as error:
            what = "a quote that is never closed" if "unexpected end" in str(error) else str(error)
            other = other_delimiter(header, delimiter)
            advice = " A text with quotes, commas or line breaks must stand in quotes, its own quotes doubled."
            raise DataError(
                f"{path}: {what}, in the row that begins at line {started}.{'' if other else advice}", other.strip()
            ) from error
    if ragged:
        columns = f"{len(header)} column" + "s" * (len(header) != 1)
        other = other_delimiter(header, delimiter)
        advice = f" Put texts in quotes that hold the delimiter ({'tab' if delimiter == TAB else delimiter})."
        raise DataError(
            f"{path} has {columns}, but {'; '.join(ragged)}.{'' if other else advice}",
            other.strip() or "Or give another --delimiter.",
        )


def _without_empty_end(cells: list[str]) -> list[str]:
    """Return cells without the empty ones at their end."""
    return cells[: next((i for i in range(len(cells), 0, -1) if cells[i - 1]), 0)]


def _quoting(path: Path, encoding: str, delimiter: str) -> Literal[0, 3]:
    """Return how quotes are meant: in a tsv whose every line has all columns without them, as in GLUE, as other signs.

    Unless they make a table, too, and none of its cells is doubly quoted.
    """
    if ending_of(path) != ".tsv":
        return csv.QUOTE_MINIMAL
    with _open_text(path, encoding) as file:
        try:
            for _ in csv.reader(_lines(file, path), delimiter=delimiter, strict=True):
                pass
        except csv.Error:
            pass
        else:
            return csv.QUOTE_MINIMAL
    with _open_text(path, encoding) as file:
        columns = {line.count(delimiter) for line in _lines(file, path) if line.strip()}
    with _open_text(path, encoding) as file:
        is_quoted = any('""' in line for line in _lines(file, path))
    return csv.QUOTE_NONE if len(columns) == 1 and not is_quoted else csv.QUOTE_MINIMAL


def _read_jsonl(path: Path, encoding: str) -> Iterator[Row]:
    with _open_text(path, encoding) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path} line {number} is not JSON ({error}). Is the file cut off?") from error
            yield _as_row(row, f"{path} line {number}")


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f'{where} is a {type(value).__name__}, expected an object such as {{"text": "...", "label": "..."}}.'
        )
    return value


def _read_json(path: Path, encoding: str) -> Iterator[Row]:
    with _open_text(path, encoding) as file:
        try:
            values = json.load(file)
        except (ValueError, RecursionError) as error:
            lines = " If it has an object a line, let it end in .jsonl." if "Extra data" in str(error) else ""
            raise DataError(f"{path} is not JSON ({error}).{lines or ' Is the file cut off?'}") from error
    if not isinstance(values, list):
        raise DataError(f'{path} is a {type(values).__name__}, expected an array of objects: [{{"text": "..."}}, ...].')
    for number, value in enumerate(values, start=1):
        yield _as_row(value, f"{path} item {number}")


def _read_lines(path: Path, encoding: str) -> Iterator[Row]:
    with _open_text(path, encoding) as file:
        is_labelled = False
        for number, line in enumerate(_lines(file, path), start=1):
            text, labels = line.rstrip("\r\n"), []
            while label := _LABEL_MARK.match(text):
                labels.append(label[1])
                text = text[label.end() :]
            is_labelled = is_labelled if number > 1 else bool(labels)
            if is_labelled != bool(labels):
                found, other = ("no label", "has") if is_labelled else (f"a label ({labels[0]!r})", "has none")
                raise DataError(
                    f"{path} line {number} has {found}, and its first line {other}. Mark all lines, or none."
                )
            yield {"label": "|".join(labels), "text": text} if labels else {"text": text}


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet = pyarrow_parquet()
    from pyarrow import ArrowException
    from pyarrow.types import is_binary, is_large_binary

    try:
        with parquet.ParquetFile(path) as file:
            binary = [one.name for one in file.schema_arrow if is_binary(one.type) or is_large_binary(one.type)]
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield row | {name: decoded(row[name]) for name in binary}
    except (OSError, ValueError, ArrowException) as error:
        raise DataError(f"{path} is not a whole parquet file: {str(error).strip()}") from error


def pyarrow_parquet() -> Any:
    """Return pyarrow's module.

    Raises:
        DataError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("Parquet files need pyarrow: pip install 'bertcnn[train]'") from error
    return pyarrow.parquet
