"""A file of texts, dropped on the web page: read, classified through the server's queue, and written as csv."""

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

from bertcnn.apps.batching import Busy
from bertcnn.apps.service import Service
from bertcnn.apps.web_draw import counted, draw
from bertcnn.errors import BertCNNError, DataError
from bertcnn.inference.insights import insights
from bertcnn.inference.insights_report import page as draw_insights
from bertcnn.inference.prediction import with_answer
from bertcnn.text.dataset import as_text
from bertcnn.text.files import Row, read_rows, write_rows

ENDINGS = (".csv", ".tsv", ".jsonl")
"""Not parquet: a few bytes of it can unfold to more than the memory."""

MOST_ROWS = 50_000
ROWS_AT_ONCE = 64
ROWS_LOOKED_AT = 100

USUAL = ("text", "review", "sentence", "comment", "content", "message", "question", "body")
"""Names of columns with texts."""

PATIENCE = 60
"""How often a full queue is asked again before a file is given up."""


@dataclass(frozen=True)
class Table:
    """A file, read.

    Attributes:
        rows: A dict each, with the columns of the file.
        columns: Of the first row.
        text: The column that seems to hold the texts.
        encoding: How the file was read.
    """

    rows: list[Row]
    columns: list[str]
    text: str
    encoding: str

    @property
    def seen(self) -> str:
        """What is told of it."""
        number = len(self.rows)
        read = "" if self.encoding == "utf-8" else f", read as {self.encoding}"
        return f"{number:,} row{'s' if number > 1 else ''}{read}. Is {self.text!r} the column with the texts?"


@dataclass(frozen=True)
class State:
    """How far the work on a file is.

    Attributes:
        html: What to show.
        file: What was made, at the end: the rows with their answers.
        insights: And a page on what drives each label, where the model can tell.
        is_working: True until the end.
    """

    html: str
    file: Path | None = None
    insights: Path | None = None
    is_working: bool = False


def read_table(path: Path) -> Table:
    """Read an uploaded file.

    Raises:
        DataError: It is of another kind, broken, empty or too long; named as its sender named it.
    """
    if path.suffix.lower() not in ENDINGS:
        raise DataError(
            f"{path.name} ends in {path.suffix or 'nothing'!r}, expected {', '.join(ENDINGS)}. "
            "For .parquet use the command 'bertcnn predict'."
        )
    encoding = _encoding(path)
    try:
        rows = read_rows(path, encoding=encoding, delimiter=_delimiter(path, encoding))
        some = list(islice(rows, MOST_ROWS + 1))
    except BertCNNError as error:
        raise DataError(str(error).replace(str(path), path.name)) from error
    if len(some) > MOST_ROWS:
        raise DataError(f"{path.name} has more than {MOST_ROWS:,} rows. Use the command 'bertcnn predict' for it.")
    return Table(some, list(some[0]), _text_column(some[:ROWS_LOOKED_AT]), encoding)


def _encoding(path: Path) -> str:
    """Return how a file is to be read: as UTF-8 or UTF-16 if it can be, else as Windows writes the West's."""
    data = path.read_bytes()
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return "utf-16"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _delimiter(path: Path, encoding: str) -> str:
    """Return what stands between the columns of a csv file, by its header; empty: what is usual."""
    if path.suffix.lower() != ".csv":
        return ""
    with path.open(encoding=encoding, errors="replace") as file:
        header = file.readline(1 << 16)
    return max(",;\t|", key=header.count)


def _text_column(rows: list[Row]) -> str:
    """Return the column that seems to hold the texts: by its name, else the one with the longest."""
    names = list(rows[0])
    by_name = {name.strip().lower(): name for name in reversed(names)}
    usual = next((by_name[name] for name in USUAL if name in by_name), None)
    return usual or max(names, key=lambda name: mean(len(str(row.get(name, ""))) for row in rows), default="")


async def classify_file(service: Service, path: Path, column: str, *, folder: Path) -> AsyncIterator[State]:
    """Classify the texts of an uploaded file, write it with the columns that ``bertcnn predict`` adds, and explain it.

    Args:
        service: What classifies.
        path: The file.
        column: With the texts.
        folder: Where a folder is made for what is written.

    Raises:
        DataError: The file cannot be read, has no such column, a text that is too long, or a column whose name is
            taken by an answer.
        Busy: The queue was full for long.
    """
    begun = perf_counter()
    table = await asyncio.to_thread(read_table, path)
    done: list[Row] = []
    async for rows in classified(service, table, column):
        done += rows
        yield State(draw("progress", done=len(done), total=len(table.rows)), is_working=True)
    place = Path(tempfile.mkdtemp(dir=folder))
    output = place / f"{path.stem}.classified.csv"
    await asyncio.to_thread(write_rows, output, done)
    heading = f"{len(done):,} rows in {perf_counter() - begun:.1f} s"
    answers = counted(Counter(row["prediction"] for row in done), heading=heading)
    yield State(answers + draw("note", text="Looking for what drives each label ..."), file=output, is_working=True)
    page = place / f"{path.stem}.insights.html"
    texts = [as_text(row[column]) for row in done]
    yield State(answers, file=output, insights=await _insights(service, texts, page, title=path.name))


async def _insights(service: Service, texts: list[str], page: Path, *, title: str) -> Path | None:
    """Write a page on what drives each label over the texts; None where the model has no filters to tell."""
    predictor = service.host.model.predictor
    if not predictor.backend.spec.kernel_sizes:
        return None
    is_over = threading.Event()

    def go_on(_: int) -> None:
        if is_over.is_set():
            raise InterruptedError

    def write() -> None:
        found = insights(predictor, texts, progress=go_on)
        page.write_text(draw_insights(found, title=f"What drives {service.settings.model_name} on {title}"), "utf-8")

    try:
        await asyncio.to_thread(write)
    except BertCNNError:  # the answers are there all the same
        return None
    finally:
        is_over.set()  # a thread cannot be stopped from outside
    return page


async def classified(service: Service, table: Table, column: str) -> AsyncIterator[list[Row]]:
    """Yield the rows with their predictions, some at a time, as ``bertcnn predict`` writes them.

    Raises:
        DataError: There is no such column, a text is too long, or a column's name is taken.
        Busy: The queue was full for long.
    """
    texts = _texts(table, column, service.settings.max_characters)
    size = min(ROWS_AT_ONCE, service.settings.max_texts)
    for start in range(0, len(texts), size):
        forms = await _predict(service, texts[start : start + size])
        yield [with_answer(row, form) for row, form in zip(table.rows[start:], forms, strict=False)]


def _texts(table: Table, column: str, longest: int) -> list[str]:
    found = []
    for number, row in enumerate(table.rows, start=1):
        if column not in row:
            raise DataError(f"Row {number} has no column {column!r}. Choose another, or complete the file.")
        text = as_text(row[column])
        if len(text) > longest:
            raise DataError(f"Row {number} has {len(text):,} characters, expected at most {longest:,}. Shorten it.")
        found.append(text)
    return found


async def _predict(service: Service, texts: list[str]) -> list[dict[str, Any]]:
    for _ in range(PATIENCE):
        try:
            forms, _model = await service.predict(texts)
        except Busy as busy:  # a file can wait; those who ask for one text go first
            await asyncio.sleep(busy.retry_after)
        else:
            return forms
    forms, _model = await service.predict(texts)
    return forms
