"""A file of texts, dropped on the web page: read, classified through the server's queue, and written as csv."""

import asyncio
import re
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from time import monotonic, perf_counter, sleep
from typing import Any

from bertcnn.apps.server.batching import Busy
from bertcnn.apps.server.hosting import BreathingBackend
from bertcnn.apps.server.service import Service
from bertcnn.apps.web.draw import answer_bars, draw
from bertcnn.apps.web.guard import ROOT
from bertcnn.errors import BertCNNError, DataError
from bertcnn.inference.insights.collect import insights
from bertcnn.inference.insights.report import insights_page
from bertcnn.inference.prediction import with_answer
from bertcnn.inference.predictor import Predictor
from bertcnn.text.cells import joined
from bertcnn.text.columns import as_text
from bertcnn.text.read_table import Row, read_rows
from bertcnn.text.write_table import write_rows

ENDINGS = (".csv", ".tsv", ".jsonl")
"""Not parquet: a few bytes of it can unfold to more than the memory."""

MOST_ROWS = 50_000
ROWS_AT_ONCE = 64
ROWS_LOOKED_AT = 100

USUAL = ("text", "review", "sentence", "comment", "content", "message", "question", "body")
"""Names of columns with texts."""

_FORMULA = re.compile(r"[=+\-@\t\r](?!\d[\d.,]*$)")
"""What spreadsheets take for the beginning of a formula; a number is none."""

LOOK_SECONDS, GIVE_WAY_SECONDS = 0.3, 1.0
"""How often it is looked how far insights are, and the longest that a batch of theirs waits for texts of others."""

PATIENCE = 60
"""How often a full queue is asked again before a file is given up."""


@dataclass(frozen=True)
class UploadedTable:
    """A file, read.

    Attributes:
        rows: A dict each, with the columns of the file.
        columns: Of all rows.
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


def read_upload(path: Path) -> UploadedTable:
    """Read an uploaded file.

    Raises:
        DataError: It is of another kind, broken, empty or too long; named as its sender named it.
    """
    if path.suffix.lower() not in ENDINGS:
        raise DataError(
            f"{path.name} ends in {path.suffix or 'nothing'!r}, expected {', '.join(ENDINGS)}. Save your table as csv."
        )
    encoding = _encoding(path)
    delimiter = _delimiter(path, encoding)
    try:
        some = list(islice(read_rows(path, encoding=encoding, delimiter=delimiter), MOST_ROWS + 1))
    except BertCNNError as error:
        said = error.said if isinstance(error, DataError) else str(error)
        raise DataError(said.replace(str(path), path.name)) from error
    if len(some) > MOST_ROWS:
        raise DataError(f"{path.name} has more than {MOST_ROWS:,} rows. Divide it into several files.")
    columns = list(dict.fromkeys(name for row in some for name in row))  # in jsonl each row names its own
    return UploadedTable(some, columns, _text_column(some[:ROWS_LOOKED_AT]), encoding)


def _encoding(path: Path) -> str:
    """Return how a file is to be read: as UTF-8 or UTF-16 if it can be, else as Windows writes the West's.

    Raises:
        DataError: As none of them.
    """
    data = path.read_bytes()
    is_wide = data[:2] in {b"\xff\xfe", b"\xfe\xff"}
    for encoding in ("utf-16",) if is_wide else ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            if is_wide or b"\0" not in data:
                data.decode(encoding)
                return encoding
    raise DataError(f"{path.name} is not a text file, or it is damaged. Save your table as csv, in UTF-8.")


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


async def classify_file(service: Service, path: Path, column: str, *, folder: Path) -> AsyncGenerator[State, None]:
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
    table = await asyncio.to_thread(read_upload, path)
    done: list[Row] = []
    async for rows in classified(service, table, column):
        done += rows
        yield State(draw("progress", done=len(done), total=len(table.rows)), is_working=True)
    place = Path(tempfile.mkdtemp(dir=folder))
    output = place / f"{path.stem}.classified.csv"
    names = dict.fromkeys([*table.columns, *done[0]])
    whole = [{name: row.get(name) for name in names} for row in done]
    harmless, changed = await asyncio.to_thread(without_formulas, whole)
    await asyncio.to_thread(write_rows, output, harmless)
    answers = answer_bars(Counter(row["prediction"] for row in done), heading=_took(len(done), perf_counter() - begun))
    answers += draw("note", text=_QUOTED.format(changed)) if changed else ""
    page = place / f"{path.stem}.insights.html"
    texts = [as_text(row.get(column)) for row in done]
    async with aclosing(_insights(service, texts, page, title=path.name)) as steps:
        async for read in steps:
            yield State(answers + draw("looking", done=read, total=len(done)), file=output, is_working=True)
    yield State(answers, file=output, insights=page if page.is_file() else None)


def _took(rows: int, seconds: float) -> str:
    time = f"{seconds:.1f} s" if seconds >= 0.1 else "less than 0.1 s"
    return f"{rows:,} row{'s' if rows != 1 else ''} in {time}"


_QUOTED = (
    "Cells of your file that begin with =, +, - or @ have a ' before them in the csv ({:,} of them), "
    "so that no spreadsheet takes them for formulas."
)


def without_formulas(rows: list[Row]) -> tuple[list[Row], int]:
    """Return rows whose cells no spreadsheet computes, and how many were changed.

    A table that passes through here comes from anybody, and is opened by somebody who trusts this server.
    """
    changed = 0

    def quoted(cell: Any) -> Any:
        nonlocal changed
        cell = joined(cell)
        if not isinstance(cell, str) or not _FORMULA.match(cell):
            return cell
        changed += 1
        return f"'{cell}"

    names = {name: quoted(name) for row in rows[:1] for name in row}
    found = [{names.get(name, name): quoted(cell) for name, cell in row.items()} for row in rows]
    return found, changed


async def _insights(service: Service, texts: list[str], page: Path, *, title: str) -> AsyncGenerator[int, None]:
    """Write a page on what drives each label over the texts; yield how many were read, now and then.

    No page is written where the model has no filters to tell. One file at a time: this is beside all lanes.
    """
    if not service.host.model.predictor.backend.spec.kernel_sizes:
        return
    is_over = threading.Event()
    read = 0

    def note(count: int) -> None:
        nonlocal read
        read = count

    def write() -> None:
        found = insights(_polite(service, is_over), texts, progress=note)
        page.write_text(insights_page(found, title=f"What drives {service.settings.model_name} on {title}"), "utf-8")

    yield read
    async with service.aside:
        work = asyncio.create_task(asyncio.to_thread(write))
        try:
            while not (await asyncio.wait({work}, timeout=LOOK_SECONDS))[0]:
                yield read
            with suppress(BertCNNError):  # the answers are there all the same
                work.result()
        finally:
            is_over.set()  # a thread cannot be stopped from outside
            work.cancel()


def _polite(service: Service, is_over: threading.Event) -> Predictor:
    """Return the predictor that waits between its batches while texts of others wait for a core."""

    def give_way() -> None:
        end = monotonic() + GIVE_WAY_SECONDS
        while service.batcher.waiting_texts and monotonic() < end and not is_over.is_set():
            sleep(0.01)
        if is_over.is_set():
            raise InterruptedError

    predictor = copy(service.host.model.predictor)
    predictor.backend = BreathingBackend(predictor.backend, give_way, max_tokens=service.settings.max_batch_tokens)
    return predictor


async def classified(service: Service, table: UploadedTable, column: str) -> AsyncIterator[list[Row]]:
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


def _texts(table: UploadedTable, column: str, longest: int) -> list[str]:
    if column not in table.columns:
        raise DataError(f"The file has no column {column!r}. Choose another.")
    found = []
    for number, row in enumerate(table.rows, start=1):
        try:
            text = as_text(row.get(column))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error
        if len(text) > longest:
            raise DataError(f"Row {number} has {len(text):,} characters, expected at most {longest:,}. Shorten it.")
        found.append(text)
    return found


async def _predict(service: Service, texts: list[str]) -> list[dict[str, Any]]:
    asked = 0
    while True:
        try:
            return (await service.predict(texts, route=ROOT))[0]
        except Busy as busy:  # a file can wait; those who ask for one text go first
            asked += 1
            if asked > PATIENCE:
                raise
            await asyncio.sleep(busy.retry_after)
