"""The command ``train``: from labelled texts to a model folder."""

import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import typer
from rich.console import Console
from rich.markup import escape

from bertcnn.apps.options import INTERRUPTED, quiet
from bertcnn.apps.show import err, out, say_findings, say_note, show_scores
from bertcnn.errors import BertCNNError, SettingsError, TrainingError
from bertcnn.files import LOCK, alone_in
from bertcnn.settings import Settings, all_settings, change, read_settings, write_settings
from bertcnn.training.output import check_output

if TYPE_CHECKING:
    from bertcnn.training.train import Trained


def _train_signature() -> inspect.Signature:
    """Return the flags of ``train``: its own, and one for every setting, so that none is written twice."""
    own = {
        "source": (str, typer.Argument(help="Labelled texts: a file, builtin:reviews, or hf:owner/name.")),
        "output": (Path, typer.Option(help="Folder to write.")),
        "dev": (Optional[str], typer.Option(help="Texts to choose on; default: a share of SOURCE.")),
        "test": (Optional[str], typer.Option(help="Texts to test on, once; default: a share of SOURCE.")),
        "config": (Optional[Path], typer.Option(help="TOML file with settings.")),
        "resume": (bool, typer.Option("--resume", help="Go on with a run that was stopped.")),
        "overwrite": (bool, typer.Option("--overwrite", help="Replace a model that is there, and an unfinished run.")),
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
            # Switches apart: the column of their second names would squeeze all others.
            rich_help_panel=f"Settings: {section}{', on or off' if one.type is bool else ''}",
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

    SOURCE is a .csv, .tsv, .json, .jsonl, .parquet or .txt (as for fastText) file, `builtin:reviews`, or
    `hf:owner/name` (or `hf:folder`).

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
    output = check_output(output, overwrite=overwrite)
    checkpoints = output.parent / f"{output.name}.checkpoints"
    with _claimed(checkpoints, settings, resume=resume, overwrite=overwrite):
        trained = _run(source, dev, test, settings, checkpoints, resume=resume)
        if not _is_main_process():
            return
        from bertcnn.training.save import save

        save(trained, output, overwrite=overwrite, sources={"source": source, "dev": dev, "test": test})
        for event in checkpoints.rglob("events.out.tfevents*"):
            logs = output / "logs" / event.relative_to(checkpoints).parts[0]
            logs.mkdir(parents=True, exist_ok=True)
            shutil.move(event, logs / event.name)
        shutil.rmtree(checkpoints, ignore_errors=True)
    _say(trained, output)


train.__signature__ = _train_signature()  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in _train_signature().parameters.values()}


def _run(
    source: str, dev: str | None, test: str | None, settings: Settings, checkpoints: Path, *, resume: bool
) -> "Trained":
    """Read the texts and train, with progress on the terminal of the first of several processes."""
    quiet()
    from bertcnn.text.dataset import load_splits

    is_main = _is_main_process()
    console = err if is_main else Console(quiet=True)
    try:
        splits = load_splits(source, settings.data, dev=dev, test=test, seed=settings.training.seed)
        say_findings(console, splits)
        from bertcnn.training.train import train as run

        return run(splits, settings, checkpoints=checkpoints, resume=resume, console=console)
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


def _say(trained: "Trained", output: Path) -> None:
    """Show what came of it."""
    from bertcnn.inference.calibration import said_of_rare

    rare = said_of_rare([row["support"] for row in trained.dev.labels.values()])
    for warning in [*trained.warnings, *([rare] if rare and trained.predictor.is_multi_label else [])]:
        say_note(err, warning, "Warning")
    if trained.cut_texts:
        err.print(
            f"{trained.cut_texts} long texts were cut to {trained.settings.training.max_train_pieces} pieces "
            "in training (never in prediction).",
            highlight=False,
        )
    name, scores = ("test", trained.test) if trained.test is not None else ("dev", trained.dev)
    show_scores(scores, f"{output.name} on {name}")
    out.print(f"Trained in {trained.seconds:.0f} s, saved in [bold]{escape(str(output))}[/].", highlight=False)
    out.print(f"Next: bertcnn predict {escape(str(output))} new.csv --output scored.csv", highlight=False)


@contextmanager
def _claimed(checkpoints: Path, settings: Settings, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the folder of an unfinished run, or check that it is the one to go on with; hold it meanwhile."""
    note = checkpoints / "run.toml"
    if resume and not note.is_file():
        raise TrainingError(f"Nothing to resume: there is no {checkpoints}. Train without --resume.")
    if not _is_main_process():  # of several processes the first holds it for all
        yield
        return
    held = {one.name for one in checkpoints.iterdir()} if checkpoints.is_dir() else set()
    if held - {LOCK} and not note.is_file():
        raise TrainingError(
            f"{checkpoints} is there, but is no unfinished run, which is where this one would keep its own. "
            "Give another --output."
        )
    if note.is_file() and not (resume or overwrite):
        raise TrainingError(
            f"{checkpoints} holds an unfinished run. Give --resume to go on with it, or --overwrite to start anew."
        )
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(checkpoints, TrainingError))
            if resume:
                _check_same(read_settings(note), settings)
                if not _has_begun(checkpoints):
                    say_note(err, "The run was stopped before the end of an epoch: training starts from the beginning.")
            else:
                _empty(checkpoints)
                write_settings(settings, note)
        except OSError as error:
            raise TrainingError(f"Cannot write {checkpoints}: {error}.") from error
        yield


def _check_same(before: Settings, settings: Settings) -> None:
    changed = [
        f"{one.name} was {getattr(getattr(before, section), one.name)!r}"
        for section, one in all_settings()
        if getattr(getattr(before, section), one.name) != getattr(getattr(settings, section), one.name)
    ]
    if changed:
        raise SettingsError(f"Cannot resume with other settings: {'; '.join(changed)}. Give the same, or --overwrite.")


def _empty(checkpoints: Path) -> None:
    for one in checkpoints.iterdir():
        if one.is_dir():
            shutil.rmtree(one)
        elif one.name != LOCK:
            one.unlink()


def _has_begun(checkpoints: Path) -> bool:
    """Return whether there is anything to resume from."""
    return any(checkpoints.glob("*/checkpoint-*")) or any(checkpoints.glob("*/finished.json"))


def _is_main_process() -> bool:
    """Return whether this is the only process, or the first of several (torchrun, accelerate)."""
    return os.environ.get("RANK", "0") == "0"
