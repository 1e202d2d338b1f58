"""The command ``insights``: what drives each label over a whole file, as a page and as tables."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.table import Table

from bertcnn.apps.options import (
    Delimiter,
    Device,
    Encoding,
    Model,
    Runner,
    Text,
    check_is_other,
    load_predictor,
    quiet,
    reading_labels,
    rows_of,
    stdin_lines,
)
from bertcnn.apps.show import SHOWN_LABELS, counted, err, out, printable, progress_bar, say_note
from bertcnn.errors import DataError

if TYPE_CHECKING:
    from bertcnn.inference.insights.result import Insights
    from bertcnn.settings import DataSettings
    from bertcnn.text.labels import Label

SHOWN_PHRASES = 6
TABLES = ("phrases.csv", "filters.csv", "texts.csv", "groups.csv")


def insights(
    model: Model,
    source: Annotated[
        str,
        typer.Argument(
            help="A .csv, .tsv, .json, .jsonl, .parquet or .txt file; builtin:reviews; hf:owner/name; '-': lines."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for insights.html and the tables.")] = Path("insights"),
    text: Text = None,
    label: Annotated[
        Optional[str],
        typer.Option(help="Column with the labels; default: as in training, or 'label', where it is there; '': none."),
    ] = None,
    by: Annotated[
        Optional[str], typer.Option(help="Column with categories or dates (2024-05-31), to see how it moves.")
    ] = None,
    top: Annotated[int, typer.Option(help="Phrases of a label, and texts of a list, on the page.", min=1)] = 12,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    backend: Runner = "auto",
    device: Device = None,
) -> None:
    """Show what drives each label over a whole file.

    Examples:
    `bertcnn insights models/reviews reviews.csv --text review --label sentiment --by date`

    `bertcnn insights models/reviews new.csv --output insights/new`

    Writes insights.html, one page without network, and phrases.csv, filters.csv, texts.csv, with --by groups.csv: the
    phrases that drive each label, how they move over a column, errors, the least sure texts, labels to look at (where
    the model is good enough to doubt them), and what the model's filters look for. Many labels a text are joined by
    `|`. Memory hardly grows with the rows.
    """
    quiet()
    predictor = load_predictor(model, backend, device)
    from bertcnn.inference.insights.collect import insights as find
    from bertcnn.inference.insights.report import write_insights
    from bertcnn.text.columns import cell_of

    said = {"text": text, "label": label or None, "separator": None, "encoding": encoding, "delimiter": delimiter}
    data = reading_labels(model, source, many=predictor.is_multi_label, **said)
    data = data if predictor.is_multi_label else replace(data, separator="")
    for name in TABLES:
        check_is_other(output / name, source, "A table of --output,")
        if (output / name).exists() and not (output / "insights.html").exists():
            raise DataError(f"{output / name} is there already, and no table of ours. Give another --output.")
    rows, label = _rows(source, data, label, by)
    data = replace(data, label=label or "label")
    # A copy that nobody reads would hold every row.
    copies = iter(tee(rows, 1 + bool(label) + bool(by)))
    texts = (_text(row, data.text) for row in next(copies))
    labels = _labels(next(copies), data) if label else None
    groups = (cell_of(row, by) for row in next(copies)) if by else None
    with progress_bar("read") as progress:
        task = progress.add_task("reading", total=None)
        found = find(
            predictor,
            texts,
            labels=labels,
            groups=groups,
            by=by or "",
            marked=top,
            progress=lambda count: progress.update(task, completed=count),
        )
    name = Path(source).name if source != "-" else "the texts"
    files = write_insights(output, found, title=f"What drives {model.name} on {name}", top=top)
    _say(found, files)


def _rows(source: str, data: "DataSettings", label: str | None, by: str | None) -> tuple[Iterator[dict[str, Any]], str]:
    """Return the rows of a source, its columns checked, and the column with the labels, empty for none.

    Raises:
        DataError: It cannot be read, or a column that was named is not there.
    """
    from bertcnn.text.columns import check_column, has_column, parts_of

    if source == "-":
        if label or by:
            raise DataError("Lines from stdin have no columns: leave out --label and --by, or give a file.")
        return ({data.text: line} for line in chain.from_iterable(stdin_lines(data.encoding))), ""
    every = rows_of(source, data)
    first = next(every)
    if label is None:
        label = data.label if any(has_column(first, part) for part in parts_of(first, data.label)) else ""
    for column, option in ((data.text, "--text"), (label, "--label"), (by, "--by")):
        if column:
            check_column(first, column, option, source, delimiter=data.delimiter, several=option != "--by")
    return chain([first], every), label


def _text(row: dict[str, Any], column: str) -> str:
    from bertcnn.text.columns import text_of

    return text_of(row, column)


def _labels(rows: Iterable[dict[str, Any]], data: "DataSettings") -> "Iterator[Label | None]":
    """Yield each row's label; None where it has none, unless a text can have many, or none."""
    from bertcnn.text.columns import has_marks, label_cell
    from bertcnn.text.dataset import label_of

    for number, row in enumerate(rows, start=1):
        try:
            value = label_cell(row, data.label)
            if value is None if has_marks(row, data.label) else not data.separator and _is_none(value):
                yield None
            else:
                yield label_of(value, data.separator, many=bool(data.separator) or isinstance(value, list))
        except DataError as error:
            raise DataError(f"Row {number}: {error}") from error


def _is_none(value: Any) -> bool:
    from bertcnn.text.cells import is_missing

    return is_missing(value) or value == [] or not str(value).strip()


def _say(found: "Insights", files: list[Path]) -> None:
    from bertcnn.inference.insights.mistakes import NEEDS_CLEANLAB, can_find_mistakes

    table = Table(show_edge=False)
    table.add_column("label", overflow="fold")
    table.add_column("texts", justify="right")
    table.add_column("what speaks for it", overflow="fold")
    for label in sorted(found.labels, key=lambda one: -one.texts)[:SHOWN_LABELS]:
        phrases = ", ".join(one.phrase for one in label.drivers[:SHOWN_PHRASES])
        table.add_row(escape(label.name), f"{label.texts:,}", escape(printable(phrases)))
    out.print(table)
    if (others := len(found.labels) - SHOWN_LABELS) > 0:
        out.print(f"and {others:,} more label{'s' * (others > 1)}, on the page", style="dim", highlight=False)
    said = [counted(found.texts)]
    if found.labelled:
        said.append(f"{found.labelled - found.right:,} of {found.labelled:,} labelled ones answered otherwise")
    if found.mistakes is not None:
        said.append(f"{found.mistakes.count:,} label{'s' * (found.mistakes.count != 1)} to look at")
    out.print(f"{', '.join(said)}.", highlight=False, soft_wrap=True)
    if found.unknown:
        names = ", ".join(repr(name) for name in list(found.unknown)[:5])
        count = sum(found.unknown.values())
        say_note(
            err, f"{count:,} texts have a label that the model does not know ({names}); they count as not labelled."
        )
    if found.withheld:
        err.print(
            f"No label is named to look at: the model answers {found.right / found.labelled:.0%} of the texts as they "
            "are labelled, which is too little, or too little more than the commonest labels would give, so most of "
            "its doubts would be mistakes of its own.",
            highlight=False,
            soft_wrap=True,
        )
    elif found.labelled and not can_find_mistakes():
        err.print(f"{NEEDS_CLEANLAB}", markup=False, highlight=False, soft_wrap=True)
    page = next(file for file in files if file.suffix == ".html")
    rest = ", ".join(file.name for file in files if file != page)
    out.print(f"The page is [bold]{escape(str(page))}[/]; beside it {rest}.", highlight=False, soft_wrap=True)
