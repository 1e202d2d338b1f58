"""What the commands say on a terminal about data, scores and predictions."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from bertcnn.inference.metrics import Evaluation
    from bertcnn.inference.refusal import Operation
    from bertcnn.text.dataset import Splits


class _Output(Console):
    """A console that leaves it to the commands what to do when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = _Output()
err = Console(stderr=True)

SHOWN_LABELS = 12
SHOWN_CHARACTERS = 1000
ROWS_SHOWN_AT_ONCE = 1000
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""What in a text from anybody could steer the terminal; line breaks cannot."""


def say_findings(console: Console, splits: "Splits") -> None:
    """Say what the texts are made of, and what of it a user would want to know before training."""
    from bertcnn.text.dataset import find_leaks, look_at
    from bertcnn.text.notes import notes

    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts.items() if part is not None)
    found = look_at(splits.train)
    counts = ", ".join(f"{name} {count:,}" for name, count in list(found.label_counts.items())[:SHOWN_LABELS])
    more = (
        f", and {len(found.label_counts) - SHOWN_LABELS} more labels" if len(found.label_counts) > SHOWN_LABELS else ""
    )
    console.print(f"Texts: {sizes}. Training labels: {escape(counts)}{more}.", highlight=False, soft_wrap=True)
    for note in notes(found, {"dev": splits.dev, "test": splits.test}):
        say_note(console, " ".join(filter(None, note)))
    leaks = find_leaks(splits)
    for pair, count in leaks.items():
        shared = f"{count:,} {'text is' if count == 1 else 'texts are'} in both {pair}; scores there flatter."
        say_note(console, shared)
    if not leaks:
        console.print("Leak check: no text is in two splits.", highlight=False)


def say_note(console: Console, text: str, kind: str = "Note") -> None:
    """Say what somebody should know and need not act upon."""
    console.print(f"[yellow]{kind}:[/] {escape(text)}", highlight=False, soft_wrap=True)


def counted(texts: int) -> str:
    """Return a number of texts in words.

    >>> counted(1), counted(1234)
    ('1 text', '1,234 texts')
    """
    return f"{texts:,} text" + "s" * (texts != 1)


def rate(number: int, seconds: float) -> str:
    """Return how many a second, with a digit behind the point where they are few.

    >>> rate(11, 38.1), rate(5000, 2.0)
    ('0.3', '2,500')
    """
    value = number / max(seconds, 1e-9)
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def progress_bar(what: str) -> Progress:
    """Return a bar of texts on stderr, where that is a terminal: their number, and the time left, if known.

    Args:
        what: Is done with them, such as ``read``.
    """
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"texts {what}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def say_blank(texts: Iterable[str]) -> None:
    """Say how many texts are empty."""
    blank = sum(not text.strip() for text in texts)
    if blank:
        err.print(f"Empty: {counted(blank)}, classified like any other.", highlight=False)


def show_scores(scores: "Evaluation", title: str) -> None:
    """Show scores with their intervals, and each label with what it was taken for."""
    table = Table(title=f"{escape(title)}: {counted(scores.texts)}", title_justify="left", show_edge=False)
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, estimate in scores.headlines.items():
        interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
        table.add_row(name.replace("_", " ").replace("f1", "F1"), f"{estimate.value:.3f}", interval)
    out.print(table)
    if scores.confusion is None or len(scores.labels) > SHOWN_LABELS:
        out.print(_labels(scores))
        return
    both = _labels(scores, taken_for="as ")
    if _fits(both):
        out.print(both)
        return
    matrix = _labels(scores, title="Taken for", own=False, taken_for="")
    out.print(_labels(scores), matrix if _fits(matrix) else _confusions(scores), sep="\n")


def _fits(table: Table) -> bool:
    return out.measure(table, options=out.options.update(max_width=10_000)).maximum <= out.width


def _confusions(scores: "Evaluation") -> Table:
    """Return a row a label with mistakes: what it was taken for, the most frequent first."""
    names = list(scores.labels)
    table = Table(title="Taken for", title_justify="left", show_edge=False)
    table.add_column("label", overflow="fold")
    table.add_column("texts")
    for i, line in enumerate(scores.confusion or ()):
        others = sorted((j for j, count in enumerate(line) if count and j != i), key=lambda j: -line[j])
        if others:
            table.add_row(escape(names[i]), escape(", ".join(f"{names[j]} {line[j]:,}" for j in others)))
    return table


def _labels(scores: "Evaluation", *, title: str | None = None, own: bool = True, taken_for: str | None = None) -> Table:
    """Return a row a label: its own scores, and how often it was taken for each, headed so; None: without."""
    table = Table(title=title, title_justify="left", show_edge=False)
    table.add_column("label", overflow="fold")
    for name in ("precision", "recall", "F1", "AP", "texts") if own else ():
        table.add_column(name, justify="right", no_wrap=True)
    for name in scores.labels if taken_for is not None else ():
        table.add_column(f"{taken_for}{escape(name)}", justify="right", style="dim", overflow="fold")
    confusion = scores.confusion
    for i, (name, row) in enumerate(scores.labels.items()):
        cells = []
        if own:
            is_seen = row["support"] or confusion is None or any(line[i] for line in confusion)
            cells = [f"{row[key]:.3f}" if is_seen else "-" for key in ("precision", "recall", "f1")]
            ranked = row["average_precision"]
            cells += ["-" if ranked is None else f"{ranked:.3f}", f"{row['support']:,}"]
        if taken_for is not None and confusion is not None:
            cells += map(str, confusion[i])
        table.add_row(escape(name), *cells)
    return table


def show_operation(operation: "Operation") -> None:
    """Say from which confidence on to answer, what is answered then, and how much of it is wrong."""
    threshold = repr(operation.threshold)  # rounded, it would part other texts
    out.print(
        f"\nAnswering from a confidence of [bold]{threshold}[/] on: {operation.coverage:.1%} of the texts are "
        f"answered, {operation.risk:.1%} of those wrong; of new texts like these probably at most "
        f"{operation.risk_bound:.1%}.",
        highlight=False,
    )
    out.print(
        f"With --threshold {threshold}, `bertcnn explain` says 'not sure' to the others, and why.", highlight=False
    )


def show_rows(rows: Iterable[dict[str, Any]], text: str) -> int:
    """Show predictions on a terminal, a row each; return their number."""
    from bertcnn.text.columns import text_of

    number, left = 0, iter(rows)
    while some := list(islice(left, ROWS_SHOWN_AT_ONCE)):
        table = Table(show_edge=False)
        table.add_column("text", overflow="fold", ratio=1)
        table.add_column("prediction")
        table.add_column("confidence", justify="right")
        for row in some:
            shown = printable(text_of(row, text)[: SHOWN_CHARACTERS + 1])
            shown = shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"
            table.add_row(escape(shown), escape(row["prediction"]), f"{row['confidence']:.3f}")
        out.print(table)
        number += len(some)
    return number


def printable(text: str) -> str:
    """Return what somebody wrote without what would steer a terminal, of the same length."""
    from bertcnn.text.cells import without_surrogates

    return CONTROL.sub(" ", without_surrogates(text))
