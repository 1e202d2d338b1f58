"""What commands have in common: flags, and what those name, a model folder or texts. Light to load."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bertcnn.errors import ModelError, nearest
from bertcnn.settings import BackendName

if TYPE_CHECKING:
    from bertcnn.inference.predictor import Predictor

INTERRUPTED = 130

Model = Annotated[Path, typer.Argument(help="Folder that `bertcnn train` wrote.")]
Source = Annotated[str, typer.Argument(help="A .csv, .tsv, .jsonl or .parquet file; '-': lines from stdin.")]
Labelled = Annotated[str, typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name.")]
Text = Annotated[str, typer.Option(help="Column with the texts.")]
Label = Annotated[str, typer.Option(help="Column with the labels.")]
Separator = Annotated[str, typer.Option(help="Between labels, where a text can have many.")]
Encoding = Annotated[str, typer.Option(help="Of csv, tsv and jsonl files.")]
Delimiter = Annotated[str, typer.Option(help="Between csv columns; empty: a comma, and a tab for .tsv.")]
Device = Annotated[Optional[str], typer.Option(help="cpu, cuda, ...; the GPU where there is one.")]
Runner = Annotated[
    BackendName,
    typer.Option("--backend", help="What runs the network; auto: the fastest that `bertcnn export` wrote, or torch."),
]


def load_predictor(model: Path, backend: BackendName, device: str | None, max_tokens: int | None = None) -> "Predictor":
    """Load a model folder, and where there is none say which is nearest.

    Raises:
        ModelError: There is no such folder, or it cannot be used.
    """
    if not model.exists():
        beside = [p.name for p in model.parent.glob("*") if p.is_dir()]
        hint = nearest(model.name, beside)
        raise ModelError(f"No model folder {str(model)!r}. Expected what 'bertcnn train --output' wrote.{hint}")
    from bertcnn.inference.predictor import Predictor

    return Predictor.load(model, backend=backend, device=device, max_tokens=max_tokens)


def read_texts(source: str, column: str, *, encoding: str, delimiter: str) -> Iterator[str]:
    """Yield the texts of a file, or for ``-`` the lines of stdin.

    Raises:
        DataError: They cannot be read, or there is no such column.
    """
    from bertcnn.text.dataset import as_text
    from bertcnn.text.files import check_column, read_lines, read_rows

    if source == "-":
        yield from read_lines(sys.stdin.buffer, "stdin", encoding=encoding)
        return
    for row in read_rows(source, encoding=encoding, delimiter=delimiter):
        check_column(row, column, "--text", source, delimiter=delimiter)
        yield as_text(row[column])


def quiet() -> None:
    """Keep the libraries' own progress and notes off the screen, without loading them for it."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    loaded = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.set_verbosity_error()
        loaded.logging.disable_progress_bar()
