"""The command line: from files to models, answers, explanations, comparisons, graphs and a server.

Heavy libraries are imported inside the commands, so that ``--help`` is quick. What goes wrong by
a user's hand is one line on stderr and exit code 2.
"""

import inspect
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, cast

import typer
from rich.console import Console
from rich.markup import escape

from bertcnn.apps.compare import compare, report
from bertcnn.apps.explain import explain
from bertcnn.apps.export import check, export
from bertcnn.apps.serve import serve
from bertcnn.apps.show import SHOWN_LABELS, err, out, say_blank, say_findings, show_rows, show_scores
from bertcnn.errors import BertCNNError, DataError, ModelError, SettingsError, TrainingError, nearest
from bertcnn.settings import Settings, all_settings, change, read_settings, write_settings

if TYPE_CHECKING:
    from bertcnn.inference.prediction import Prediction
    from bertcnn.inference.predictor import Predictor

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
INTERRUPTED = 130
ROWS_AT_ONCE = 4096

Text = Annotated[str, typer.Option(help="Column with the texts.")]
Encoding = Annotated[str, typer.Option(help="Of csv, tsv and jsonl files.")]
Delimiter = Annotated[str, typer.Option(help="Between csv columns; empty: a comma, and a tab for .tsv.")]
Device = Annotated[Optional[str], typer.Option(help="cpu, cuda, ...; the GPU where there is one.")]
Runner = Annotated[
    Literal["auto", "torch", "onnx", "onnx-int8"],
    typer.Option("--backend", help="What runs the network; auto: the fastest that `bertcnn export` wrote, or torch."),
]


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="bertcnn")
    except BertCNNError as error:
        line = " ".join(str(error).split("\n"))
        err.print(f"[bold red]Error:[/] {escape(line)}", soft_wrap=True, highlight=False)
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


def _train_signature() -> inspect.Signature:
    """Return the flags of ``train``: its own, and one for every setting, so that none is written twice."""
    own = {
        "source": (str, typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name.")),
        "output": (Path, typer.Option(help="Folder to write.")),
        "dev": (Optional[str], typer.Option(help="Texts to choose on; default: a share of SOURCE.")),
        "test": (Optional[str], typer.Option(help="Texts to test on, once; default: a share of SOURCE.")),
        "config": (Optional[Path], typer.Option(help="TOML file with settings.")),
        "resume": (bool, typer.Option("--resume", help="Go on with a run that was stopped.")),
        "overwrite": (bool, typer.Option("--overwrite", help="Replace the output, and an unfinished run.")),
    }
    defaults: dict[str, Any] = {"source": inspect.Parameter.empty, "output": inspect.Parameter.empty}
    defaults |= {"resume": False, "overwrite": False}
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, annotation=Annotated[hint, info], default=defaults.get(name))
        for name, (hint, info) in own.items()
    ]
    for section, one in all_settings():
        shown = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
        option = typer.Option(
            help=one.metadata["help"] + (rf" \[default: {shown}]" if shown != "" else ""),
            rich_help_panel=f"Settings: {section}",
            show_default=False,
        )
        hint = {bool: Optional[bool], int: Optional[int], float: Optional[float]}.get(
            cast(type, one.type), Optional[str]
        )
        parameters.append(inspect.Parameter(one.name, kind, annotation=Annotated[hint, option], default=None))
    return inspect.Signature(parameters)


def train(
    source: str,
    output: Path,
    dev: str | None,
    test: str | None,
    config: Path | None,
    resume: bool,
    overwrite: bool,
    **flags: Any,
) -> None:
    """Train a classifier on labelled texts, and write its folder.

    SOURCE is a .csv, .tsv, .jsonl or .parquet file, `builtin:reviews`, or `hf:owner/name` (or `hf:folder`).

    Examples:
    `bertcnn train reviews.csv --text review --label sentiment --output models/reviews`

    `bertcnn train tickets.jsonl --label tags --separator "|" --output models/tickets` (many labels a text)

    `bertcnn train reviews.csv --method frozen --output models/quick` (the fastest)

    `bertcnn train reviews.csv --encoder bert-base-uncased --depth 6 --config mine.toml --output models/large`

    What is not given by a flag comes from the TOML file (`--config`, sections [data], [model], [training], the
    same names), else from the default.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = change(read_settings(config) if config else Settings(), given)
    checkpoints = output.parent / f"{output.name}.checkpoints"
    if output.exists() and not overwrite:
        raise TrainingError(f"{output} is there already. Give another --output, or --overwrite.")
    _claim(checkpoints, settings, resume=resume, overwrite=overwrite)
    _quiet()
    from bertcnn.text.dataset import load_splits

    is_main = _is_main_process()
    console = err if is_main else Console(quiet=True)
    try:
        splits = load_splits(source, settings.data, dev=dev, test=test, seed=settings.training.seed)
        say_findings(console, splits)
        from bertcnn.training.save import save
        from bertcnn.training.train import train as run

        trained = run(splits, settings, checkpoints=checkpoints, resume=resume, console=console)
    except KeyboardInterrupt:
        console.print(
            f"\nStopped. What was trained so far is in {checkpoints}: give the same command with --resume to go on.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    except BertCNNError:
        if is_main and not resume and not _has_begun(checkpoints):
            shutil.rmtree(checkpoints, ignore_errors=True)
        raise
    if not is_main:
        return
    save(trained, output, overwrite=overwrite, sources={"source": source, "dev": dev, "test": test})
    for event in checkpoints.rglob("events.out.tfevents*"):
        logs = output / "logs" / event.relative_to(checkpoints).parts[0]
        logs.mkdir(parents=True, exist_ok=True)
        shutil.move(event, logs / event.name)
    shutil.rmtree(checkpoints, ignore_errors=True)
    for warning in trained.warnings:
        err.print(f"[yellow]Warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    if trained.cut_texts:
        err.print(
            f"{trained.cut_texts} long texts were cut to {settings.training.max_train_pieces} pieces in training "
            "(never in prediction).",
            highlight=False,
        )
    name, scores = ("test", trained.test) if trained.test is not None else ("dev", trained.dev)
    show_scores(scores, f"{output.name} on {name}")
    out.print(f"Trained in {trained.seconds:.0f} s, saved in [bold]{escape(str(output))}[/].", highlight=False)
    out.print(f"Next: bertcnn predict {escape(str(output))} new.csv --output scored.csv", highlight=False)


train.__signature__ = _train_signature()  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in _train_signature().parameters.values()}
app.command()(train)
app.command()(compare)
app.command()(report)
app.command()(explain)
app.command()(export)
app.command()(check)
app.command()(serve)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder that `bertcnn train` wrote.")],
    source: Annotated[str, typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name.")],
    text: Text = "text",
    label: Annotated[str, typer.Option(help="Column with the labels.")] = "label",
    separator: Annotated[str, typer.Option(help="Between labels, where a text can have many.")] = "",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = "",
    backend: Runner = "auto",
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Score a trained model on labelled texts.

    Example: `bertcnn evaluate models/reviews test.csv --json`

    Of a source with splits, the test split is taken, or the dev split where there is none.
    """
    _quiet()
    predictor = _load(model, backend, device)
    from bertcnn.text.dataset import load_examples

    separator = separator or ("|" if predictor.is_multi_label else "")
    data = change(
        Settings(),
        {"text": text, "label": label, "separator": separator, "encoding": encoding, "delimiter": delimiter},
    ).data
    parts = load_examples(source, data)
    examples = next(parts[name] for name in ("test", "dev", "train") if parts.get(name))
    scores = predictor.evaluate(examples)
    if as_json:
        typer.echo(json.dumps(scores.to_dict(), indent=1))
    else:
        say_blank(examples.texts)
        show_scores(scores, f"{model.name} on {source}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `bertcnn train` wrote.")],
    source: Annotated[str, typer.Argument(help="A .csv, .tsv, .jsonl or .parquet file; '-': lines from stdin.")] = "-",
    output: Annotated[
        Optional[Path], typer.Option(help="A .csv, .tsv, .jsonl or .parquet file; default: csv on stdout.")
    ] = None,
    text: Text = "text",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = "",
    backend: Runner = "auto",
    device: Device = None,
    max_tokens: Annotated[Optional[int], typer.Option(help="Padded word pieces of a batch.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="On stdout: a JSON object a line.")] = False,
    as_table: Annotated[bool, typer.Option("--table", help="On stdout: a table for people, as on a terminal.")] = False,
) -> None:
    """Classify texts: the input's own columns, then `prediction`, `confidence`, `probability_<label>`.

    Examples:
    `bertcnn predict models/reviews new.csv --output scored.csv`

    `echo "Not bad at all." | bertcnn predict models/reviews`

    Rows come out in the input's order, and memory does not grow with their number.
    """
    _quiet()
    if output is not None and source != "-" and output.resolve() == Path(source).resolve():
        raise DataError(f"--output {output} is the input itself. Give another name.")
    predictor = _load(model, backend, device, max_tokens)
    from bertcnn.text.files import check_column, read_rows, write_jsonl, write_rows, write_separated

    if source == "-":
        rows: Iterator[dict[str, Any]] = ({"text": line} for line in _stdin_lines(encoding))
        text = "text"
    else:
        rows = read_rows(source, encoding=encoding, delimiter=delimiter)
    counts: Counter[str] = Counter()

    def check(row: dict[str, Any]) -> None:
        check_column(row, text, "--text", source, delimiter=delimiter)

    started = perf_counter()
    scored = _scored(rows, predictor, text, check, counts)
    if output is not None:
        number = write_rows(output, scored)
    elif as_json:
        number = write_jsonl(sys.stdout, scored)
    elif as_table or sys.stdout.isatty():
        number = show_rows(scored, text)
    else:
        number = write_separated(sys.stdout, scored)
    seconds = perf_counter() - started
    blank = counts.pop("", 0)
    shares = ", ".join(f"{name.removeprefix('=')} {count}" for name, count in counts.most_common(SHOWN_LABELS))
    rest = ", ..." if len(counts) > SHOWN_LABELS else ""
    empty = f" ({blank} of them empty)" if blank else ""
    rate = number / max(seconds, 1e-9)
    err.print(
        f"{number:,} texts{empty} in {seconds:.1f} s ({rate:,.0f} a second): {escape(shares)}{rest}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def embed(
    source: Annotated[str, typer.Argument(help="A .csv, .tsv, .jsonl or .parquet file; '-': lines from stdin.")],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    encoder: Annotated[
        str, typer.Option(help="'minilm', a folder, a Hugging Face name, or a bertcnn model.")
    ] = "minilm",
    depth: Annotated[str, typer.Option(help="Encoder layers to run, from below: a number, half, all.")] = "all",
    states: Annotated[str, typer.Option(help="last, mix (all side by side), concat-N (the last N).")] = "last",
    max_length: Annotated[int, typer.Option(help="Pieces encoded at once.", min=8)] = 512,
    overlap: Annotated[int, typer.Option(help="Pieces that neighbouring windows share.", min=0)] = 64,
    text: Text = "text",
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = "",
) -> None:
    """Write BERT's contextual states, one vector a word piece.

    Example: `bertcnn embed reviews.csv --output states`

    The folder holds `states.npy`, float16 (pieces, D), and `starts.npy`, int64 (texts + 1): text i is
    `states[starts[i]:starts[i + 1]]`. Both can be memory-mapped by `numpy.load`.
    """
    _quiet()
    if output.exists():
        raise DataError(f"{output} is there already. Give another --output.")
    from bertcnn.network.states import load_for_embedding, write_states
    from bertcnn.text.dataset import as_text
    from bertcnn.text.files import check_column, read_rows

    if source == "-":
        texts = list(_stdin_lines(encoding))
    else:
        texts = []
        for row in read_rows(source, encoding=encoding, delimiter=delimiter):
            check_column(row, text, "--text", source, delimiter=delimiter)
            texts.append(as_text(row[text]))
    layers = change(Settings(), {"depth": depth}).model.layers
    model, tokenizer = load_for_embedding(encoder, layers, states, max_length, overlap)
    pieces = tokenizer(texts)
    write_states(output, model, tokenizer, pieces)
    out.print(f"{len(texts):,} texts, {len(pieces.ids):,} pieces, in [bold]{escape(str(output))}[/].", highlight=False)


def _claim(checkpoints: Path, settings: Settings, *, resume: bool, overwrite: bool) -> None:
    """Make the folder of an unfinished run, or check that it is the one to go on with."""
    note = checkpoints / "run.toml"
    if resume:
        if not note.is_file():
            raise TrainingError(f"Nothing to resume: there is no {checkpoints}. Train without --resume.")
        before = read_settings(note)
        if before != settings:
            changed = [
                f"{one.name} was {getattr(getattr(before, section), one.name)!r}"
                for section, one in all_settings()
                if getattr(getattr(before, section), one.name) != getattr(getattr(settings, section), one.name)
            ]
            raise SettingsError(
                f"Cannot resume with other settings: {'; '.join(changed)}. Give the same, or --overwrite."
            )
        return
    if note.is_file() and not overwrite and _is_main_process():
        raise TrainingError(
            f"{checkpoints} holds an unfinished run. Give --resume to go on with it, or --overwrite to start anew."
        )
    if _is_main_process():
        try:
            shutil.rmtree(checkpoints, ignore_errors=True)
            checkpoints.mkdir(parents=True)
            write_settings(settings, note)
        except OSError as error:
            raise TrainingError(f"Cannot write {checkpoints}: {error}.") from error


def _has_begun(checkpoints: Path) -> bool:
    """Return whether there is anything to resume from."""
    return any(checkpoints.glob("*/checkpoint-*")) or any(checkpoints.glob("*/finished.json"))


def _is_main_process() -> bool:
    """Return whether this is the only process, or the first of several (torchrun, accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def _load(model: Path, backend: Runner, device: str | None, max_tokens: int | None = None) -> "Predictor":
    if not model.exists():
        beside = [p.name for p in model.parent.glob("*") if p.is_dir()]
        hint = nearest(model.name, beside)
        raise ModelError(f"No model folder {str(model)!r}. Expected what 'bertcnn train --output' wrote.{hint}")
    from bertcnn.inference.predictor import Predictor

    return Predictor.load(model, backend=backend, device=device, max_tokens=max_tokens)


def _scored(
    rows: Iterator[dict[str, Any]],
    predictor: "Predictor",
    text: str,
    check: Callable[[dict[str, Any]], None],
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield rows with their predictions; count labels as ``=name`` and empty texts as ``""``."""
    from bertcnn.text.dataset import as_text

    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        for row in chunk:
            check(row)
        texts = [as_text(row[text]) for row in chunk]
        predictions = predictor.predict(texts)
        counts[""] += sum(not t.strip() for t in texts)
        if not counts[""]:
            del counts[""]
        for row, prediction in zip(chunk, predictions, strict=True):
            added = _columns(prediction)
            taken = next((name for name in added if name in row), None)
            if taken is not None:
                raise DataError(f"The input has a column {taken!r} already, which would be lost. Rename it first.")
            counts[f"={prediction.label}" if prediction.label else "=(none)"] += 1
            yield {**row, **added}


def _columns(prediction: "Prediction") -> dict[str, Any]:
    probabilities = {f"probability_{name}": round(p, 6) for name, p in prediction.probabilities.items()}
    return {"prediction": prediction.label, "confidence": round(prediction.confidence, 6), **probabilities}


def _stdin_lines(encoding: str) -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(f"Line {number} of stdin is not {encoding}: {error}. Give its --encoding.") from error
        except LookupError as error:
            raise DataError(f"No encoding {encoding!r}. Try utf-8, cp1252, latin-1 or utf-16.") from error
        yield line.removeprefix("\ufeff").rstrip("\r\n") if number == 1 else line.rstrip("\r\n")


def _quiet() -> None:
    """Keep the libraries' own progress and notes off the screen, without loading them for it."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    loaded = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.set_verbosity_error()
        loaded.logging.disable_progress_bar()
