"""Run a study: what is missing, one run a process, a line of results each.

Layout of the folder: docs/design/0005-study.md.
"""

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bertcnn.errors import DataError, SettingsError, StudyError
from bertcnn.files import alone_in, write_whole
from bertcnn.study.division import TaskData, divide, read_task, read_transfer
from bertcnn.study.evidence import SCHEMA, Result, read_runs
from bertcnn.study.plan import Plan, Run, Task, read_plan, with_dropped, write_plan
from bertcnn.study.run import CANDIDATE, Record, check_system, made_by, settings_of, work
from bertcnn.study.slices import slices_of
from bertcnn.study.systems import system
from bertcnn.text.dataset import Examples, check_is_label, fingerprint_of, look_at, normal_form
from bertcnn.text.notes import notes

WINNERS: dict[str, Callable[[Record], bool]] = {
    "model": lambda _: True,
    "model-cnn": lambda record: record["settings"]["features"] == "windows",
}
"""Folders with the networks that are best on dev, and which are considered: all; those that can be explained."""


def run_study(plan: Plan, folder: Path, *, console: Console, isolated: bool = True) -> list[Record]:
    """Run what is missing of a study; return all its records.

    Args:
        plan: What to run.
        folder: Where to; a study that stands there already is gone on with, and must have the same
            plan, but for more data sets, systems, seeds or fractions.
        console: For progress.
        isolated: Each run in a process of its own, so that none can hurt another; False for tests.

    Raises:
        SettingsError: Only fractions of the training texts are asked for.
        StudyError: Another study is in the folder, or a system is unknown.
        DataError: A data set cannot be read.
    """
    for task in plan.data:
        fractions = task.fractions or plan.fractions
        if max(fractions) < 1:
            raise SettingsError(
                f"fractions of {task.name} are {', '.join(f'{one:g}' for one in fractions)}, expected 1 among them: "
                "scores and tests are of all training texts."
            )
    for name in {run.system for run in plan.runs()}:
        check_system(system(name), plan)
    tables = {task.name: _table(task) for task in plan.data}
    for run in {run.data: run for run in plan.runs()}.values():
        divide(tables[run.data], run)  # or it would fail in each run
    for task in plan.data:
        for transfer in task.transfer:
            _check_labels(read_transfer(transfer), tables[task.name])
    for name, table in tables.items():
        for what, _ in notes(look_at(table.train), {"dev": table.dev, "test": table.test}):
            console.print(f"[yellow]Note:[/] {escape(name)}: {escape(what)}", highlight=False, soft_wrap=True)
    with _claimed(plan, folder, tables):
        return _run_missing(plan, folder, tables, console, isolated)


def _run_missing(
    plan: Plan, folder: Path, tables: dict[str, TaskData], console: Console, isolated: bool
) -> list[Record]:
    for name in WINNERS:
        if (folder / f"{name}.old").exists() and not (folder / name).exists():
            (folder / f"{name}.old").rename(folder / name)  # killed while one took the other's place
    for name, table in tables.items():
        _write_texts(folder / "texts" / f"{name}.jsonl", table)
    there = {run.key for run in read_runs(folder) if run.done and run.outcomes_in(folder).is_file()}
    missing = [run for run in plan.runs() if run.key not in there]
    with _progress(console, len(missing)) as (say, advance):
        for run in missing:
            say(f"{run.data}  {run.system}  seed {run.seed}" + ("" if run.fold is None else f" fold {run.fold}"))
            shutil.rmtree(folder / CANDIDATE, ignore_errors=True)
            record = (_in_process if isolated else work)(plan, run, folder)
            if record["status"] == "done":
                _keep_winners(folder, run, record, read_runs(folder))
            _append(folder / "results.jsonl", record)
            advance(record)
    shutil.rmtree(folder / CANDIDATE, ignore_errors=True)
    return read_results(folder)


def read_results(folder: Path) -> list[Record]:
    """Return the newest record of each run, in the order in which they were written.

    A line that was cut off by a kill is left out; its run counts as missing.
    """
    return [run.line for run in read_runs(folder)]


def _table(task: Task) -> TaskData:
    """Read a data set; say which it is where it cannot be used.

    Raises:
        DataError: It cannot be read, has one label alone, or fewer texts than folds.
    """
    try:
        table = read_task(task)
    except DataError as error:
        raise DataError(f"Data set {task.name!r}: {error}") from error
    labels = {str(label) for label in table.train.labels}
    if len(labels) < 2:
        raise DataError(f"Data set {task.name!r} has only the label {labels.pop()!r}. Expected at least two.")
    check_is_label(table.train, task.label)
    if table.dev is not None:
        _check_labels(table.dev, table)
    if table.test is not None and not labels & {str(label) for label in table.test.labels}:
        _check_labels(table.test, table)
    texts = len({normal_form(text) for text in table.train.texts})
    if task.folds > texts:
        raise DataError(
            f"Data set {task.name!r} has {texts} different texts, expected at least {task.folds}, a fold each."
        )
    return table


def _check_labels(examples: Examples, table: TaskData) -> None:
    unknown = {str(label) for label in examples.labels} - {str(label) for label in table.train.labels}
    if unknown:
        raise DataError(
            f"{examples.source} has labels that are not among those to learn from in {table.task.name}: "
            f"{', '.join(map(repr, sorted(unknown)[:5]))}."
        )


def _append(file: Path, record: Record) -> None:
    """Add a line, after a line that a kill may have cut off."""
    text = json.dumps(record) + "\n"
    with file.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            text = text if stream.read(1) == b"\n" else "\n" + text
        stream.write(text.encode("ascii"))
        stream.flush()
        os.fsync(stream.fileno())


def _write_texts(file: Path, table: TaskData) -> None:
    lines = [
        json.dumps({"example": i, "text": text, "label": str(label), "slices": kinds})
        for i, (text, label, kinds) in enumerate(
            zip(table.tested.texts, table.tested.labels, slices_of(table), strict=True)
        )
    ]
    write_whole(file, "\n".join(lines) + "\n")


@contextmanager
def _claimed(plan: Plan, folder: Path, tables: dict[str, TaskData]) -> Iterator[None]:
    """Make the folder, or check that the study in it is a part of this one; keep others out meanwhile."""
    note = folder / "plan.toml"
    if not note.is_file() and folder.exists() and any(folder.iterdir()):
        raise StudyError(f"{folder} is there already and holds no study. Give another --output.")
    for part in ("texts", "outcomes"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with alone_in(folder, StudyError):
        if note.is_file():
            before = read_plan(note)
            _check_same(plan, before, folder, tables)
            plan = with_dropped(plan, before)
        for name, table in tables.items():
            _fingerprint_file(folder, name).write_text(_content(table), "utf-8")
        write_plan(plan, note)
        yield


def _check_same(plan: Plan, before: Plan, folder: Path, tables: dict[str, TaskData]) -> None:
    same = ("model", "training", "tune", "vectors")
    changed = [name for name in same if getattr(before, name) != getattr(plan, name)]
    changed += [f"settings of {name}" for name in sorted(_set_otherwise(plan, before, folder))]
    mine = {task.name: task for task in plan.data}
    free = {"systems", "seeds", "fractions"}  # there may be more of these
    for task in before.data:
        if task.name in mine:
            one, other = ({k: v for k, v in vars(t).items() if k not in free} for t in (task, mine[task.name]))
            file = _fingerprint_file(folder, task.name)
            if one != other:
                changed.append(f"data set {task.name}")
            elif file.is_file() and file.read_text("utf-8") != _content(tables[task.name]):
                changed.append(f"texts or labels in {task.name}")
    if changed:
        raise StudyError(
            f"{folder} holds another study (other {', '.join(changed)}). Give another --output, or remove it."
        )


def _set_otherwise(plan: Plan, before: Plan, folder: Path) -> set[str]:
    """Return the systems of a plan that have run with other settings than it gives them, or gave them before."""
    names = {run.system for run in plan.runs()}
    found = set()
    for run in read_runs(folder):
        if not run.done or run.system not in names:
            continue
        chosen, had = run.table("chosen"), run.table("settings")
        wanted = settings_of(plan, run, chosen, train=int(run.number("texts", "train") or 0))
        told = {*plan.settings.get(run.system, {}), *before.settings.get(run.system, {})} - set(chosen)
        if any(json.dumps(wanted.get(one)) != json.dumps(had.get(one)) for one in told):
            found.add(run.system)
    return found


def _fingerprint_file(folder: Path, data: str) -> Path:
    return folder / "texts" / f"{data}.sha256"


def _content(table: TaskData) -> str:
    return fingerprint_of((table.train, table.dev, table.test)) + "\n"


def _keep_winners(folder: Path, run: Run, record: Record, before: Sequence[Result]) -> None:
    """Keep a run's model under the names for which it is the best on dev so far.

    Only the first seed and fold of the first data set are in question: scores on other dev texts cannot be compared.
    """
    candidate = folder / CANDIDATE
    if not candidate.is_dir():
        return
    first = (*before, run)[0].division
    rivals = [one.line for one in before if one.done and one.line["progress"] and one.division == first]
    for name, takes in WINNERS.items():
        best = max((one["dev"]["accuracy"] for one in rivals if takes(one)), default=-1.0)
        if run.division == first and takes(record) and record["dev"]["accuracy"] > best:
            draft, old = folder / f"{name}.new", folder / f"{name}.old"
            for left in (draft, old):
                shutil.rmtree(left, ignore_errors=True)
            shutil.copytree(candidate, draft)
            if (folder / name).exists():
                (folder / name).rename(old)
            draft.rename(folder / name)
            shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(candidate, ignore_errors=True)


def _in_process(plan: Plan, run: Run, folder: Path) -> Record:
    """Do a run in a process of its own, forked from one that has the libraries loaded; on Windows, a fresh one."""
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(["bertcnn.study.runner", "bertcnn.training.estimator"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, plan, run, folder))
    process.start()
    there.close()
    try:
        record: Record = here.recv()
    except EOFError:
        process.join()
        head: Record = {"schema": SCHEMA, **asdict(run), "status": "failed", "made": made_by()}
        code = process.exitcode or 0
        ended = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        return {**head, "error": f"The process of this run ended without a result ({ended}); was memory short?"}
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        process.join()
    return record


def _child(there: Connection, plan: Plan, run: Run, folder: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A study that is killed takes its run with it, or two would work on one folder after a restart.
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    try:
        there.send(work(plan, run, folder))
    except KeyboardInterrupt:
        os._exit(130)


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def _progress(console: Console, runs: int) -> Iterator[tuple[Callable[[str], None], Callable[[Record], None]]]:
    """Show how far a study is; a line a run."""
    bar = Progress(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=runs)

        def advance(record: Record) -> None:
            bar.advance(task)
            fold = "" if record["fold"] is None else f" fold {record['fold']}"
            part = "" if record["fraction"] == 1 else f" {record['fraction']:.0%}"
            name = f"{record['data']}  {record['system']:<24} seed {record['seed']}{fold}{part}"
            if record["status"] == "failed":
                said = escape(f"{name}: {record['error']}")
                console.print(f"[red]failed[/] {said}", highlight=False, soft_wrap=True)
            else:
                seconds = record["cost"]["train_seconds"]
                console.print(f"{name}  dev {record['dev']['accuracy']:.3f}  {seconds:6.1f} s", highlight=False)

        yield lambda what: bar.update(task, description=what), advance
