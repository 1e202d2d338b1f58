"""The command line: from files to models, answers, explanations, comparisons, graphs and a server.

Heavy libraries are imported inside the commands, so that ``--help`` is quick. What goes wrong by
a user's hand is one line on stderr and exit code 2.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from io import TextIOWrapper
from itertools import chain, tee
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer
from rich.markup import escape

from bertcnn.apps.compare import compare, report
from bertcnn.apps.demo import demo
from bertcnn.apps.explain import explain
from bertcnn.apps.export import check, export
from bertcnn.apps.insights import insights
from bertcnn.apps.options import (
    Delimiter,
    Device,
    Encoding,
    Label,
    Labelled,
    Model,
    Runner,
    Separator,
    Source,
    Text,
    check_is_folder,
    check_is_other,
    count_rows,
    load_predictor,
    quiet,
    read_texts,
    reading,
    reading_labels,
    stdin_lines,
    until_closed,
)
from bertcnn.apps.serve import serve
from bertcnn.apps.show import (
    SHOWN_LABELS,
    counted,
    err,
    out,
    progress_bar,
    rate,
    say_blank,
    say_note,
    show_operation,
    show_rows,
    show_scores,
)
from bertcnn.apps.train import train
from bertcnn.errors import DISK_FULL, BertCNNError, DataError
from bertcnn.settings import Settings, change

if TYPE_CHECKING:
    from bertcnn.inference.predictor import Predictor

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # files are UTF-8; a terminal shows what it can of other alphabets
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    try:
        app(prog_name="bertcnn")
    except BertCNNError as error:
        _stop(" ".join(str(error).split("\n")))
    except ModuleNotFoundError as error:
        if (error.name or "bertcnn").startswith("bertcnn"):
            raise
        _stop(f"This needs the package {error.name!r}, which is not installed here. Install bertcnn with all it needs.")
    except OSError as error:
        if error.errno in DISK_FULL:
            sys.stdout = open(os.devnull, "w")  # what is still to be written has no place  # noqa: SIM115, PTH123
            _stop(f"Cannot write the output: {error.strerror}. Free some space, or write elsewhere.")
        _stop(f"Cannot read or write: {error}. Check the path and its permissions, or give another.")


def _stop(why: str) -> NoReturn:
    err.print(f"[bold red]Error:[/] {escape(why)}", soft_wrap=True, highlight=False)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def bertcnn(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Classify text with a convolutional network on top of BERT.

    Train on a file of labelled texts, then use the folder that it writes:

    `bertcnn train reviews.csv --text review --label sentiment --output models/reviews`

    `bertcnn predict models/reviews new.csv --output scored.csv`
    """
    if version:
        from bertcnn import __version__

        out.print(f"bertcnn {__version__}", highlight=False)
        raise typer.Exit


def evaluate(
    model: Model,
    source: Labelled,
    text: Text = None,
    label: Label = None,
    separator: Separator = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    backend: Runner = "auto",
    device: Device = None,
    risk: Annotated[
        Optional[float],
        typer.Option(help="Also say from which confidence on at most this share is wrong.", min=0, max=1),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Score a trained model on labelled texts.

    Examples:
    `bertcnn evaluate models/reviews test.csv --json`

    `bertcnn evaluate models/reviews dev.csv --risk 0.05` (the threshold to give to `bertcnn explain`)

    Of a source with splits, the test split is taken, or the dev split where there is none. In JSON, scores are at
    `headlines.accuracy.value` (`low` and `high` are the ends of its interval) and `labels.NAME.f1`. AP is the average
    precision: how well a label's probability ranks the texts, which tells of a rare label that is never the answer.
    """
    quiet()
    predictor = load_predictor(model, backend, device)
    from bertcnn.text.dataset import load_examples, one_of

    said = {"text": text, "label": label, "separator": separator, "encoding": encoding, "delimiter": delimiter}
    data = reading_labels(model, source, many=predictor.is_multi_label, **said)
    examples = one_of(load_examples(source, data), "test", "dev", "train")
    scores = predictor.evaluate(examples)
    operation = None if risk is None else predictor.threshold_for(examples, risk)
    if as_json:
        added = {} if operation is None else {"refusal": asdict(operation)}
        typer.echo(json.dumps({**scores.to_dict(), **added}, indent=1))
        return
    say_blank(examples.texts)
    show_scores(scores, f"{model.name} on {source}")
    if operation is not None:
        show_operation(operation)


def predict(
    model: Model,
    source: Source = "-",
    output: Annotated[
        Optional[Path], typer.Option(help="A .csv, .tsv, .jsonl or .parquet file; default: csv on stdout.")
    ] = None,
    text: Text = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    backend: Runner = "auto",
    device: Device = None,
    max_tokens: Annotated[Optional[int], typer.Option(help="Padded word pieces of a batch.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output, if it is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="On stdout: a JSON object a line.")] = False,
    as_table: Annotated[bool, typer.Option("--table", help="On stdout: a table for people, as on a terminal.")] = False,
) -> None:
    """Classify texts: the input's own columns, then `prediction`, `confidence`, `probability_<label>`.

    Examples:
    `bertcnn predict models/reviews new.csv --output scored.csv`

    `echo "Not bad at all." | bertcnn predict models/reviews`

    Rows come out in the input's order, and memory does not grow with their number. `confidence` is the probability of
    the prediction; where a text can have many labels, that the whole set is right, each label taken by itself: it falls
    with the number of labels, and `probability_<label>` says more.
    """
    quiet()
    check_is_folder(model)
    data = reading(model, source, text=text, encoding=encoding, delimiter=delimiter)
    total = None
    if output is not None:
        check_is_other(output, source, "--output")
        if output.exists() and not overwrite:
            raise DataError(f"{output} is there already. Give another --output, or --overwrite.")
        total = count_rows(source, data)
    predictor = load_predictor(model, backend, device, max_tokens)
    from bertcnn.inference.prediction import answer_columns, check_has_room
    from bertcnn.text.columns import text_of, with_column
    from bertcnn.text.read_table import read_rows

    column = "text" if source == "-" else data.text
    columns = answer_columns(predictor.label_names)

    def checked_text(row: dict[str, Any]) -> str:
        check_has_room(row, columns)  # before anything is computed
        return text_of(row, column)

    parts: Iterable[Iterable[dict[str, Any]]]
    if source == "-":  # who pipes lines in waits for their answers, and not for the next lines
        parts = ([{column: line} for line in lines] for lines in stdin_lines(encoding))
    else:
        rows = read_rows(source, encoding=encoding, delimiter=data.delimiter)
        parts = [with_column(rows, column, "--text", source, delimiter=delimiter or "")]
    counts = _Counts()
    scored = (_scored(part, predictor, checked_text, counts) for part in parts)
    started = perf_counter()
    with until_closed():
        number = _write(scored, output, source, column, as_json=as_json, as_table=as_table, total=total)
    _say_counts(number, counts, perf_counter() - started)


def _write(
    parts: Iterator[Iterator[dict[str, Any]]],
    output: Path | None,
    source: str,
    text: str,
    *,
    as_json: bool,
    as_table: bool,
    total: int | None,
) -> int:
    """Write classified rows, in parts as they come, to where they are wanted; return their number."""
    from bertcnn.text.write_table import write_jsonl, write_rows, write_separated

    scored = chain.from_iterable(parts)
    if output is not None:
        with progress_bar("classified") as bar:
            task = bar.add_task("", total=total)
            number = write_rows(output, _shown(scored, lambda count: bar.update(task, completed=count)), like=source)
        if not number:
            say_note(err, f"There was no text, so {output} is empty.")
        return number
    if source == "-" and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if as_json:
        return write_jsonl(sys.stdout, scored)
    if as_table or sys.stdout.isatty():
        return sum(show_rows(part, text) for part in parts)
    return write_separated(sys.stdout, scored)


def _shown(rows: Iterable[dict[str, Any]], show: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Pass rows on, and now and then show how many there were."""
    for number, row in enumerate(rows, start=1):
        yield row
        if number % 100 == 0:
            show(number)


@dataclass
class _Counts:
    """What `predict` says in the end: how often each label was the answer, and how many texts were empty."""

    labels: Counter[str] = field(default_factory=Counter)
    empty: int = 0


def _say_counts(number: int, counts: _Counts, seconds: float) -> None:
    """Say how many texts were classified, how fast, and as what."""
    shown = ", ".join(f"{name} {count}" for name, count in counts.labels.most_common(SHOWN_LABELS))
    shares = f": {shown}" if shown else ""
    rest = ", ..." if len(counts.labels) > SHOWN_LABELS else ""
    empty = f" ({counts.empty} of them empty)" if counts.empty else ""
    err.print(
        f"{counted(number)}{empty} in {seconds:.1f} s ({rate(number, seconds)} a second){escape(shares)}{rest}",
        highlight=False,
        soft_wrap=True,
    )


def embed(
    source: Source,
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    encoder: Annotated[
        str, typer.Option(help="'minilm', a folder, a Hugging Face name, or a bertcnn model.")
    ] = "minilm",
    depth: Annotated[str, typer.Option(help="Encoder layers to run, from below: a number, half, all.")] = "all",
    states: Annotated[str, typer.Option(help="last, mix (all side by side), concat-N (the last N).")] = "last",
    max_length: Annotated[int, typer.Option(help="Pieces encoded at once.", min=8)] = 512,
    overlap: Annotated[int, typer.Option(help="Pieces that neighbouring windows share.", min=0)] = 64,
    text: Annotated[str, typer.Option(help="Column with the texts.")] = "text",
    encoding: Encoding = "utf-8",
    delimiter: Annotated[str, typer.Option(help="Between csv columns; empty: a comma, and a tab for .tsv.")] = "",
    device: Device = None,
) -> None:
    """Write BERT's contextual states, one vector a word piece.

    Example: `bertcnn embed reviews.csv --output states`

    The folder holds `states.npy`, float16 (pieces, D), and `starts.npy`, int64 (texts + 1): text i is
    `states[starts[i]:starts[i + 1]]`; both can be memory-mapped by `numpy.load`. `seconds.txt` is what it took.
    """
    quiet()
    if output.exists():
        raise DataError(f"{output} is there already. Give another --output.")
    from bertcnn.network.states import load_for_embedding, write_states

    texts = list(read_texts(source, text, encoding=encoding, delimiter=delimiter))
    layers = change(Settings(), {"depth": depth}).model.layers
    model, tokenizer = load_for_embedding(encoder, layers, states, max_length, overlap, device)
    pieces = tokenizer(texts)
    write_states(output, model, tokenizer, pieces)
    out.print(f"{counted(len(texts))}, {len(pieces.ids):,} pieces, in [bold]{escape(str(output))}[/].", highlight=False)


def _scored(
    rows: Iterable[dict[str, Any]], predictor: "Predictor", text_of: Callable[[dict[str, Any]], str], counts: _Counts
) -> Iterator[dict[str, Any]]:
    """Yield rows with their predictions, and count as they come."""
    from bertcnn.inference.prediction import with_answer

    kept, ahead = tee((row, text_of(row)) for row in rows)
    for (row, text), prediction in zip(kept, predictor.stream(text for _, text in ahead), strict=True):
        counts.labels[prediction.label or "(none)"] += 1
        counts.empty += not text.strip()
        yield with_answer(row, prediction.to_dict())


for command in (train, predict, evaluate, explain, insights, compare, report, export, check, serve, demo, embed):
    app.command()(command)
