"""The commands that compare systems: ``compare`` runs a study, ``report`` draws it again."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bertcnn.apps.options import INTERRUPTED
from bertcnn.apps.show import err, out, say_note
from bertcnn.errors import SettingsError, StudyError

if TYPE_CHECKING:
    from bertcnn.study.findings import Report, SystemScores
    from bertcnn.study.plan import Plan


SHOWN_WARNINGS = 5


def compare(
    source: Annotated[
        Optional[str], typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name; or --config.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the study; one that stands there is gone on with.")] = Path(
        "runs/compare"
    ),
    config: Annotated[Optional[Path], typer.Option(help="TOML file with the study: many data sets, all below.")] = None,
    systems: Annotated[
        Optional[str],
        typer.Option(help="Whom to compare, by commas; default: the whole ladder. Of BERT without @: the half."),
    ] = None,
    seeds: Annotated[Optional[int], typer.Option(help="How many times, with other random numbers.", min=1)] = None,
    folds: Annotated[Optional[int], typer.Option(help="Cross-validation in so many folds.", min=2)] = None,
    fractions: Annotated[Optional[str], typer.Option(help="Shares of the training texts, by commas: 0.1,1.")] = None,
    tune: Annotated[Optional[int], typer.Option(help="Settings to try on dev, for each system.", min=1)] = None,
    vectors: Annotated[Optional[str], typer.Option(help="Word vectors for cnn-static and cnn-tuned.")] = None,
    dev: Annotated[Optional[str], typer.Option(help="Texts to choose on; default: a tenth of SOURCE.")] = None,
    test: Annotated[Optional[str], typer.Option(help="Texts to test on; default: a tenth of SOURCE.")] = None,
    text: Annotated[Optional[str], typer.Option(help="Column with the texts; default: text.")] = None,
    label: Annotated[Optional[str], typer.Option(help="Column with the labels; default: label.")] = None,
    tag: Annotated[Optional[str], typer.Option(help="Column with kinds of texts, to report on.")] = None,
    encoding: Annotated[Optional[str], typer.Option(help="Of csv, tsv and jsonl files; default: utf-8.")] = None,
    delimiter: Annotated[
        Optional[str], typer.Option(help="Between csv columns; default: a comma, and a tab for .tsv.")
    ] = None,
    setting: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="NAME=VALUE: a setting of all networks, such as encoder, epochs, batch_size."),
    ] = None,
) -> None:
    """Compare a ladder of systems on one data set, or many, and answer which is better, with its uncertainty.

    Examples:
    `bertcnn compare reviews.csv --text review --label sentiment --output runs/reviews`

    `bertcnn compare builtin:reviews --systems tfidf,cnn-random,bert-mean@all,bert-cnn@half --seeds 3`

    `bertcnn compare --config configs/kim2014.toml --output runs/kim2014`

    Systems: majority, tfidf, cnn-random, cnn-static, cnn-tuned, cnn-pieces; with @half, @all or @N (layers) behind
    them: bert-mean-frozen, bert-cnn-frozen (also @mix), bert-cls, bert-mean, bert-cnn, bert-cnn-lpft,
    bert-cnn-contrasts.

    Writes report.html, report.md, results.jsonl, results.csv and two networks: model, the best on dev, and model-cnn,
    the best that can be explained. Killed or stopped, the same command goes on where it was.
    """
    if (source is None) == (config is None):
        raise SettingsError("Give a SOURCE of labelled texts, or --config FILE with a study.")
    data = _given(
        dev=dev, test=test, folds=folds, text=text, label=label, tag=tag, encoding=encoding, delimiter=delimiter
    )
    values = _given(
        seeds=seeds,
        tune=tune,
        vectors=vectors,
        systems=None if systems is None else [_with_depth(one.strip()) for one in systems.split(",") if one.strip()],
        fractions=None if fractions is None else _numbers(fractions),
    )
    if source is not None:
        tags = {"tag": "tag"} if source == "builtin:reviews" else {}
        values["data"] = [{"name": _name_of(source), "source": source, **tags, **data}]
    elif data:
        flags = ", ".join(f"--{name}" for name in data)
        raise SettingsError(f"Got --config and {flags}, which go with a SOURCE. Write it into the file.")
    _need("jinja2", "matplotlib", "filelock")
    plan = _plan(values, config, setting or [])
    if source is not None:
        _check_is_alone(plan, output)
    if plan.tune > 1:
        _need("optuna")
    _run(plan, output)


def report(folder: Annotated[Path, typer.Argument(help="Folder that `bertcnn compare` wrote.")]) -> None:
    """Draw the report of a study again, without training anything.

    Example: `bertcnn report runs/kim2014`
    """
    _need("jinja2", "matplotlib")
    from bertcnn.study.report import write_report

    _say_verdict(write_report(folder), folder)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _with_depth(name: str) -> str:
    """Return the name of a system, of one with BERT that says no depth the lower half's, which is the default."""
    from bertcnn.study.systems import system

    try:
        system(name)
    except StudyError:
        try:
            return system(f"{name}@half").name
        except StudyError:
            return name  # which is refused where its fault can be told
    return name


def _need(*modules: str) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise StudyError(f"Comparing needs {', '.join(missing)}: pip install 'bertcnn[study]'")


def _plan(values: dict[str, Any], config: Path | None, changes: list[str]) -> "Plan":
    """Make a plan of flags, or of a file with flags over it."""
    from dataclasses import asdict

    from bertcnn.settings import Settings, change
    from bertcnn.study.plan import make_plan, read_plan
    from bertcnn.study.systems import DEFAULTS

    pairs = {name: value for name, _, value in (pair.partition("=") for pair in changes)}
    typed = change(Settings(), pairs)  # a plan holds numbers, as a file would
    columns = pairs.keys() & vars(typed.data).keys()
    if columns:
        raise SettingsError(f"--set takes settings of networks; {', '.join(sorted(columns))} is one of the data.")
    model, training = (
        {name: _as_toml(value) for name, value in vars(part).items() if name in pairs}
        for part in (typed.model, typed.training)
    )
    if config is None:
        has_vectors = bool(values.get("vectors"))
        ladder = [name for name in DEFAULTS if has_vectors or name not in {"cnn-static", "cnn-tuned"}]
        return make_plan({"systems": ladder, **values, "model": model, "training": training})
    plan = read_plan(config)
    networks = {"model": {**plan.model, **model}, "training": {**plan.training, **training}}
    return make_plan({**asdict(plan), **values, **networks})


def _as_toml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_is_alone(plan: "Plan", folder: Path) -> None:
    """Refuse a folder with a study of other data: its tests and these would be corrected for each other."""
    from bertcnn.study.plan import read_plan

    note = folder / "plan.toml"
    others = {task.name for task in read_plan(note).data} - {task.name for task in plan.data} if note.is_file() else ()
    if others:
        raise StudyError(
            f"{folder} holds a study of {', '.join(sorted(others))}. Give another --output, or to answer over many "
            "data sets together a --config that names them all."
        )


def _run(plan: "Plan", folder: Path) -> None:
    from bertcnn.study.report import write_report
    from bertcnn.study.runner import run_study

    try:
        run_study(plan, folder, console=err)
    except KeyboardInterrupt:
        err.print(f"\nStopped. Give the same command to go on with {folder}.", highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    found = write_report(folder)
    _say_verdict(found, folder)
    if not found.counts["done"]:
        raise StudyError("No run was done: what went wrong stands in the table.")


def _say_verdict(found: "Report", folder: Path) -> None:
    for data in found.data:
        out.print(f"[bold]{escape(data.name)}[/], texts: {data.sizes}; 95 % intervals", highlight=False)
        table = Table(show_edge=False)
        table.add_column("system", no_wrap=True)
        for name in ("test, %", "interval", "dev, %", "train, s", "texts/s"):
            table.add_column(name, justify="right")
        for row in data.rows:
            table.add_row(*_cells(row), style="bold" if row.best else None)
        out.print(table, "", sep="\n")
    asked = ""
    for answer in found.verdict:
        if answer.asks != asked:
            asked = answer.asks
            out.print(f"[bold]{escape(asked)}[/]", highlight=False)
            if over_data := found.over_data.get(answer.question):
                out.print(Padding(over_data, (0, 0, 0, 2)), style="bold", highlight=False, markup=False)
        where = f"{escape(answer.data)}: " if len(found.data) > 1 else ""
        out.print(Padding(f"{where}{escape(answer.sentence)}", (0, 0, 0, 2)), highlight=False)
    warnings = [text if count == 1 else f"{text} ({count} runs)" for text, count in found.warnings.items()]
    if len(warnings) > SHOWN_WARNINGS:
        warnings[SHOWN_WARNINGS:] = [f"{len(warnings) - SHOWN_WARNINGS} warnings more stand in the report."]
    undone = {"missing": "not run", "failed": "failed", "broken": "on lines that cannot be read"}
    said = [f"{found.counts[name]} {how}" for name, how in undone.items() if found.counts[name]]
    whole = [f"the study is not whole: of its runs are {', '.join(said)}."] if said else []
    for note in (*whole, *warnings, *found.notes):
        say_note(err, note)
    files = {
        "report.html": "The report",
        "model": "The network that is best on the first dev split",
        "model-cnn": "The best of those that can be explained",
    }
    lines = [
        f"{what}: [bold]{escape(str(folder / name))}[/]" for name, what in files.items() if (folder / name).exists()
    ]
    out.print("", *lines, sep="\n", highlight=False, soft_wrap=True)


def _cells(row: "SystemScores") -> list[str]:
    if row.accuracy is None:
        return [row.system, f"[red]{escape(row.failures[0])}[/]" if row.failures else "not run", "", "", "", ""]
    seconds, speed = row.cost.get("train_seconds"), row.cost.get("texts_per_second")
    return [
        row.system,
        f"{100 * row.accuracy.value:.1f}",
        f"{100 * row.accuracy.low:.1f} to {100 * row.accuracy.high:.1f}",
        "" if row.dev_accuracy is None else f"{100 * row.dev_accuracy:.1f}",
        "" if seconds is None else f"{seconds:,.1f}",
        "" if speed is None else f"{speed:,.0f}",
    ]


def _name_of(source: str) -> str:
    name = source.split(":")[-1].rstrip("/")
    stem = Path(name).stem
    if stem in {"all", "train", "data"} and Path(name).parent.name:
        stem = Path(name).parent.name
    return re.sub(r"[^\w.]+|-+", "-", stem).strip("-") or "data"


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise SettingsError(f"--fractions is {text!r}, expected numbers such as 0.1,0.5,1.") from error
