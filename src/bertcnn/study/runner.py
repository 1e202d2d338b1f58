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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bertcnn.errors import StudyError
from bertcnn.study.division import Table, read_table
from bertcnn.study.plan import Plan, Run, read_plan, write_plan
from bertcnn.study.run import CANDIDATE, SCHEMA, Record, check_system, made_by, work
from bertcnn.study.slices import slices_of
from bertcnn.study.systems import system


def run_study(plan: Plan, folder: Path, *, console: Console, isolated: bool = True) -> list[Record]:
    """Run what is missing of a study; return all its records.

    Args:
        plan: What to run.
        folder: Where to; a study that stands there already is gone on with, and must have the same
            plan, but for more data sets, systems, seeds or fractions.
        console: For progress.
        isolated: Each run in a process of its own, so that none can hurt another; False for tests.

    Raises:
        StudyError: Another study is in the folder, or a system is unknown.
        DataError: A data set cannot be read.
    """
    for name in {run.system for run in plan.runs()}:
        check_system(system(name), plan)
    tables = {task.name: read_table(task) for task in plan.data}
    _claim(plan, folder)
    for name, table in tables.items():
        _write_texts(folder / "texts" / f"{name}.jsonl", table)
    done = read_results(folder)
    there = {_key(record) for record in done if record["status"] == "done"}
    missing = [run for run in plan.runs() if run.key not in there]
    with _progress(console, len(missing)) as (say, advance):
        for run in missing:
            say(f"{run.data}  {run.system}  seed {run.seed}" + ("" if run.fold is None else f" fold {run.fold}"))
            record = (_in_process if isolated else work)(plan, run, folder)
            if record["status"] == "done":
                _keep_winner(folder, run, record, read_results(folder))
            _append(folder / "results.jsonl", record)
            advance(record)
    shutil.rmtree(folder / CANDIDATE, ignore_errors=True)
    return read_results(folder)


def read_results(folder: Path) -> list[Record]:
    """Return the newest record of each run, in the order in which they were written.

    A line that was cut off by a kill is left out; its run counts as missing.
    """
    file = folder / "results.jsonl"
    if not file.is_file():
        return []
    records: dict[str, Record] = {}
    for line in file.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
            records[_key(record)] = record
        except (ValueError, KeyError):
            continue
    return list(records.values())


def _key(record: Record) -> str:
    return Run(record["data"], record["system"], record["seed"], record["fold"], record["fraction"]).key


def _append(file: Path, record: Record) -> None:
    """Add a line, after a line that a kill may have cut off."""
    text = json.dumps(record, ensure_ascii=False) + "\n"
    with file.open("a+b") as stream:
        if stream.tell() and _last_byte(file) != b"\n":
            text = "\n" + text
        stream.write(text.encode("utf-8", "surrogatepass"))
        stream.flush()
        os.fsync(stream.fileno())


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1)


def _write_texts(file: Path, table: Table) -> None:
    lines = [
        json.dumps({"example": i, "text": text, "label": str(label), "slices": kinds})
        for i, (text, label, kinds) in enumerate(
            zip(table.tested.texts, table.tested.labels, slices_of(table), strict=True)
        )
    ]
    draft = file.with_suffix(".draft")
    draft.write_text("\n".join(lines) + "\n", "utf-8")
    draft.rename(file)


def _claim(plan: Plan, folder: Path) -> None:
    """Make the folder, or check that the study in it is a part of this one."""
    note = folder / "plan.toml"
    if note.is_file():
        before = read_plan(note)
        same = ("model", "training", "settings", "tune", "vectors")
        changed = [name for name in same if getattr(before, name) != getattr(plan, name)]
        mine = {task.name: task for task in plan.data}
        dividing = ("source", "where", "text", "label", "dev", "test", "folds", "fold_column", "test_fraction")
        changed += [
            f"data set {task.name}"
            for task in before.data
            if task.name in mine and any(getattr(task, n) != getattr(mine[task.name], n) for n in dividing)
        ]
        if changed:
            raise StudyError(
                f"{folder} holds another study (other {', '.join(changed)}). Give another --output, or remove it."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise StudyError(f"{folder} is there already and holds no study. Give another --output.")
    for part in ("texts", "outcomes"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    draft = folder / "plan.draft.toml"
    write_plan(plan, draft)
    draft.rename(note)


def _keep_winner(folder: Path, run: Run, record: Record, before: Sequence[Record]) -> None:
    """Let the loadable system with the best dev score so far be ``model/``."""
    candidate = folder / CANDIDATE
    if not candidate.is_dir():
        return
    rivals = [r["dev"]["accuracy"] for r in before if r["status"] == "done" and r["data"] == run.data and r["progress"]]
    first_data = not before or before[0]["data"] == run.data
    if first_data and run.fraction == 1 and record["dev"]["accuracy"] > max(rivals, default=-1.0):
        old = folder / "model.old"
        if (folder / "model").exists():
            (folder / "model").rename(old)
        candidate.rename(folder / "model")
        shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(candidate, ignore_errors=True)


def _in_process(plan: Plan, run: Run, folder: Path) -> Record:
    """Do a run in a process of its own, forked from one that has the libraries loaded."""
    context = multiprocessing.get_context("forkserver")
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
        TextColumn("{task.description}"),
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
                console.print(f"[red]failed[/] {name}: {record['error']}", highlight=False, soft_wrap=True)
            else:
                seconds = record["cost"]["train_seconds"]
                console.print(f"{name}  dev {record['dev']['accuracy']:.3f}  {seconds:6.1f} s", highlight=False)

        yield lambda what: bar.update(task, description=what), advance
