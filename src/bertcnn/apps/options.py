"""What commands have in common: flags, and what those name, a model folder or texts. Light to load."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bertcnn.errors import BertCNNError, DataError, ModelError, nearest
from bertcnn.settings import BackendName, DataSettings, Settings, change, read_settings

if TYPE_CHECKING:
    from bertcnn.inference.predictor import Predictor
    from bertcnn.text.read_table import Row

INTERRUPTED = 130
CLOSED = 141
"""Exit codes of what a signal ended, as shells have them: SIGINT, SIGPIPE."""

Model = Annotated[Path, typer.Argument(help="Folder that `bertcnn train` wrote.")]
Source = Annotated[
    str, typer.Argument(help="A .csv, .tsv, .json, .jsonl, .parquet or .txt file; '-': lines from stdin.")
]
Labelled = Annotated[str, typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name.")]
Text = Annotated[
    Optional[str],
    typer.Option(help="Column with the texts, or several: title,body; default: as in training.", show_default=False),
]
Label = Annotated[
    Optional[str],
    typer.Option(
        help="Column with the labels, or one of 0 and 1 for each: food,price; default: as in training, or 'label'.",
        show_default=False,
    ),
]
Separator = Annotated[
    Optional[str], typer.Option(help="Between labels; default: as in training, or '|' where a text can have many.")
]
Encoding = Annotated[str, typer.Option(help="Of csv, tsv and jsonl files.")]
Delimiter = Annotated[
    Optional[str], typer.Option(help="Between csv columns; default: as in training, or a comma, and a tab for .tsv.")
]
Device = Annotated[Optional[str], typer.Option(help="cpu, cuda, ...; the GPU where there is one.")]
Runner = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        help="What runs the network; auto: the fastest that `bertcnn export` wrote, or torch. torch-bf16 is faster "
        "than torch where the machine has such products (AVX512_BF16: half of the time; AMX, a GPU).",
    ),
]


def load_predictor(model: Path, backend: BackendName, device: str | None, max_tokens: int | None = None) -> "Predictor":
    """Load a model folder.

    Raises:
        ModelError: There is no such folder, or it cannot be used.
    """
    check_is_folder(model)
    from bertcnn.inference.predictor import Predictor

    return Predictor.load(model, backend=backend, device=device, max_tokens=max_tokens)


def check_is_folder(model: Path) -> None:
    """Refuse what is no folder, and say which one is nearest.

    Raises:
        ModelError: There is no such folder.
    """
    if not os.path.isdir(model):
        hint = nearest(model.name, [p.name for p in model.parent.glob("*") if p.is_dir()])
        raise ModelError(f"No model folder {str(model)!r}. Expected what 'bertcnn train --output' wrote.{hint}")


def count_rows(source: str, data: DataSettings) -> int | None:
    """Read a file to its end, so that what is wrong in it is told before anything is computed; return its rows.

    None for lines from stdin, and for parquet, which is checked when it is opened.

    Raises:
        DataError: It cannot be read.
    """
    from bertcnn.text.read_table import ending_of, read_rows

    if source == "-" or ending_of(source) == ".parquet":
        return None
    return sum(1 for _ in read_rows(source, encoding=data.encoding, delimiter=data.delimiter))


def reading_labels(model: Path, source: str, *, many: bool, **said: str | None) -> DataSettings:
    """Return how to read a labelled source, as :func:`reading` does; many labels have ``|`` between them by default.

    Args:
        model: Folder of the model.
        source: What is to be read.
        many: Whether the model may give a text many labels.
        said: As of :func:`reading`.
    """
    data = reading(model, source, **said)
    return replace(data, separator=data.separator or "|") if many else data


def rows_of(source: str, data: DataSettings) -> "Iterator[Row]":
    """Yield the rows of a source as they come; of one with splits, those to test on."""
    from bertcnn.text.dataset import one_of
    from bertcnn.text.read_table import read_rows
    from bertcnn.text.sources import load_rows

    if source.startswith(("hf:", "builtin:")):
        yield from one_of(load_rows(source, data), "test", "dev", "train")
    else:
        yield from read_rows(source, encoding=data.encoding, delimiter=data.delimiter)


def reading(model: Path, source: str, **said: str | None) -> DataSettings:
    """Return how to read a source: as was said, else as the model's training texts, else as usual.

    What training read counts for a file that has such columns, so that what was trained by ``--text review`` need
    not be told again.

    Args:
        model: Folder of the model.
        source: What is to be read.
        said: Of ``text``, ``label``, ``separator``, ``delimiter``, ``encoding`` those that the command has; None where
            nothing was said.
    """
    from bertcnn.text.columns import has_columns

    given = {name: value for name, value in said.items() if value is not None}
    plain = change(Settings(), given).data
    if source == "-" or source.startswith(("hf:", "builtin:")):
        return plain
    try:
        trained = read_settings(model / "run.toml").data
    except BertCNNError:
        return plain
    likely = {name: getattr(trained, name) for name in said if name not in given and name != "encoding"}
    columns = {"text", "label"} & likely.keys()
    found = plain
    for choice in (likely, {**likely, "delimiter": plain.delimiter}):
        first = _first_row(source, change(Settings(), {**choice, **given}).data)
        # A trained column that is missing may be there by its usual name; else it is the trained one that is missed.
        usual = {name: getattr(plain, name) for name in columns if not has_columns(first, choice[name])}
        usual = {name: value for name, value in usual.items() if value in first}
        found = change(Settings(), {**choice, **usual, **given}).data
        if has_columns(first, found.text):
            break
    return found


def _first_row(source: str, data: DataSettings) -> "Row":
    """Return a row of a file; an empty one where it cannot be read so."""
    from bertcnn.text.read_table import read_rows

    try:
        return next(read_rows(source, encoding=data.encoding, delimiter=data.delimiter))
    except BertCNNError:
        return {}


def check_is_other(output: Path, source: str, option: str) -> None:
    """Refuse to write over what is read.

    Raises:
        DataError: They are the same file.
    """
    is_same = output.resolve() == Path(source).resolve() or (
        output.exists() and os.path.exists(source) and output.samefile(source)
    )
    if source != "-" and is_same:
        raise DataError(f"{option} {output} is the input itself. Give another name.")


def check_is_page(output: Path, option: str) -> None:
    """Refuse to write a page over what is none.

    Raises:
        DataError: There is a file of another kind.
    """
    if output.is_file() and output.suffix.lower() not in {".html", ".htm"}:
        raise DataError(f"{option} {output} is there already, and no page. Give a name that ends in .html.")


@contextmanager
def until_closed() -> Iterator[None]:
    """End as quietly as other programs where who reads our output (``| head``) has read enough.

    Source:
        The manual of Python, library ``signal``, "Note on SIGPIPE".
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else it is flushed once more at exit
        raise typer.Exit(CLOSED) from None


def read_texts(source: str, column: str, *, encoding: str, delimiter: str) -> Iterator[str]:
    """Yield the texts of a file, or for ``-`` the lines of stdin.

    Raises:
        DataError: They cannot be read, or there is no such column.
    """
    from bertcnn.text.columns import text_of, with_column
    from bertcnn.text.read_table import read_rows

    if source == "-":
        yield from chain.from_iterable(stdin_lines(encoding))
        return
    rows = read_rows(source, encoding=encoding, delimiter=delimiter)
    for row in with_column(rows, column, "--text", source, delimiter=delimiter):
        yield text_of(row, column)


def stdin_lines(encoding: str) -> Iterator[list[str]]:
    """Yield the lines of stdin, in lists of those that have come when the next list is asked for.

    Raises:
        DataError: It is closed, or a line is of another encoding.
    """
    from bertcnn.text.lines import read_lines

    if sys.stdin is None:  # closed by who started us
        raise DataError(
            "There is no stdin to read lines from: it is closed. Pipe texts in, or give a file instead of -."
        )
    yield from read_lines(sys.stdin.buffer, "stdin", encoding=encoding)


def quiet() -> None:
    """Keep the libraries' own progress and notes off the screen, without loading them for it."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of each try of many, where there is no network
    loaded = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.set_verbosity_error()
        loaded.logging.disable_progress_bar()
