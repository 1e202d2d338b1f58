"""The commands that make a model fast and prove it: ``export`` writes ONNX graphs, ``check`` a certificate."""

import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer
from rich.markup import escape
from rich.table import Table

from bertcnn.apps.options import (
    Delimiter,
    Encoding,
    Label,
    Model,
    Separator,
    Text,
    check_is_folder,
    reading,
    reading_labels,
    rows_of,
)
from bertcnn.apps.show import err, out, say_note
from bertcnn.errors import BertCNNError, DataError, ModelError
from bertcnn.settings import Settings, read_settings

if TYPE_CHECKING:
    from bertcnn.inference.certificate import Check
    from bertcnn.text.dataset import Examples


BUILT_IN = "builtin:reviews"
BESIDE_LABELLED = 200
"""Built-in texts that a graph is run on beside labelled ones; else it is run on all."""

FEW_LABELLED = 200
"""Of fewer labelled texts one is more than half a point of accuracy."""


def export(
    model: Model,
    form: Annotated[Literal["onnx"], typer.Option("--format", help="What to write.")] = "onnx",  # noqa: ARG001  # one so far
    int8: Annotated[bool, typer.Option("--int8", help="Also a graph of 8-bit matrix products.")] = False,
    dev: Annotated[
        Optional[str], typer.Option(help="Labelled texts to prove it on; default: the dev texts of the training.")
    ] = None,
    text: Text = None,
    label: Label = None,
    separator: Separator = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
) -> None:
    """Write a model as an ONNX graph beside its weights, for prediction without torch.

    Examples:
    `bertcnn export models/reviews`

    `bertcnn export models/reviews --int8 --dev dev.csv`

    The graph is run against torch before it is written. It is refused where logits differ by more than 1e-4,
    and in int8 where it loses more than half a point of accuracy on dev. `predict`, `evaluate` and the others then
    take the fastest that is there (`--backend`).
    """
    check_is_folder(model)
    err.print("Tracing the network, and proving the graph against torch: a minute or so.", highlight=False)
    from bertcnn.inference.export import export_onnx

    said = {"text": text, "label": label, "separator": separator, "encoding": encoding, "delimiter": delimiter}
    labelled = _given(model, dev, said) if dev is not None else _dev_of_training(model, needed=int8)
    texts = _built_in().texts[: None if labelled is None else BESIDE_LABELLED]
    with err.status("Working"):
        written = export_onnx(model, int8=int8, dev=labelled, texts=texts)
    table = Table(show_edge=False)
    for name in ("graph", "MB", "texts", "largest difference", "other answers", "accuracy", "torch"):
        table.add_column(name, justify="left" if name == "graph" else "right", no_wrap=name == "graph")
    for one in written:
        percent = ["" if a is None else f"{a:.1f}" for a in (one.accuracy, one.torch_accuracy)]
        table.add_row(
            escape(one.file.name),
            f"{one.megabytes:.1f}",
            f"{one.texts:,}",
            f"{one.difference:.1e}",
            str(one.flips),
            *percent,
        )
    out.print(table)
    if int8 and labelled is not None and len(labelled) < FEW_LABELLED:
        say_note(
            err,
            f"int8 was proved on {len(labelled):,} labelled texts, by which half a point of accuracy cannot be told. "
            "Give more by --dev FILE.",
        )


def check(
    model: Model,
    source: Annotated[str, typer.Argument(help="Texts: a file, builtin:reviews, or hf:owner/name.")] = BUILT_IN,
    text: Text = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    limit: Annotated[int, typer.Option(help="Most texts of the source to run.", min=1)] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Run texts alone, in random batches, padded and in segments, by each backend, and certify that answers agree.

    Example: `bertcnn check models/reviews new.csv --text review`

    The largest difference of a logit and the number of other answers go into the folder's model card.
    """
    check_is_folder(model)
    from bertcnn.inference.certificate import certify, write_certificate
    from bertcnn.text.columns import text_of, with_column

    data = reading(model, source, text=text, encoding=encoding, delimiter=delimiter)
    rows = with_column(rows_of(source, data), data.text, "--text", source, delimiter=data.delimiter)
    texts = ["", "a", *(text_of(row, data.text) for row in islice(rows, limit))]  # and a long one
    err.print(
        f"Running {len(texts) + 1:,} texts (three of ours) in every way, by each backend: a minute or so.",
        highlight=False,
    )
    with err.status("Working"):
        checks = certify(model, texts)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in checks], indent=1))
    else:
        out.print(_checks_table(model, checks))
    write_certificate(model, checks)
    if not as_json:
        out.print(f"Written into [bold]{escape(str(model / 'README.md'))}[/].", highlight=False)
    _refuse_apart(checks)


def _checks_table(model: Path, checks: "list[Check]") -> Table:
    table = Table(title=f"{escape(str(model))}: {checks[0].texts:,} texts", title_justify="left", show_edge=False)
    for name in ("backend", "texts put to it", "largest difference", "other answers"):
        table.add_column(name, justify="left" if name in {"backend", "texts put to it"} else "right")
    for one in checks:
        table.add_row(one.backend, one.way, f"{one.difference:.1e}", str(one.flips))
    return table


def _refuse_apart(checks: "list[Check]") -> None:
    """End with an error where float32 answers otherwise than torch in its batches does.

    Raises:
        ModelError: It does.
    """
    from bertcnn.inference.export import LOGIT_TOLERANCE

    apart = [one for one in checks if one.backend in {"torch", "onnx"} and not one.difference <= LOGIT_TOLERANCE]
    if apart:
        ways = ", ".join(f"{one.backend} ({one.way}: {one.difference:.2g})" for one in apart)
        raise ModelError(
            f"Logits differ by more than {LOGIT_TOLERANCE:g}: {ways}. Do not trust these; where a graph is off, remove "
            "it or export again."
        )


def _given(model: Path, source: str, said: dict[str, str | None]) -> "Examples":
    from bertcnn.inference.backend import Spec
    from bertcnn.text.dataset import load_examples, one_of

    many = Spec.read(model).is_multi_label
    return one_of(load_examples(source, reading_labels(model, source, many=many, **said)), "dev", "test", "train")


def _dev_of_training(model: Path, *, needed: bool) -> "Examples | None":
    """Return the dev texts that the model was chosen on, where its training's files are still there."""
    from bertcnn.text.dataset import fingerprint_of, load_splits

    try:
        known = json.loads((model / "metrics.json").read_text("utf-8"))
        made_from = known["sources"]
        if made_from is None:
            raise DataError("it does not say so, for it was saved from Python or by compare")
        settings = read_settings(model / "run.toml")
        found = load_splits(**made_from, settings=settings.data, seed=settings.training.seed).dev
        if known.get("dev_sha256", fingerprint_of([found])) != fingerprint_of([found]):
            raise DataError(f"{made_from['source']} holds other texts or labels now")
    except (OSError, ValueError, KeyError, TypeError, BertCNNError) as error:
        if needed:
            raise ModelError(
                f"int8 is proved on labelled texts, and those that {model} was trained on cannot be read again "
                f"({error}). Give --dev FILE."
            ) from error
        return None
    return found


def _built_in() -> "Examples":
    from bertcnn.text.dataset import load_examples

    return load_examples(BUILT_IN, Settings().data)["train"]
