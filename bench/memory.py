"""Memory of ``bertcnn predict`` on files of two sizes, and how long a start takes."""

import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import OURS
from worker import environment

ROWS = (10_000, 1_000_000)
DISTINCT = 256
"""Different texts in a file. Equal texts near each other are computed once, so a million rows take a minute."""

STARTS = 7


def measure(data: Path, folder: Path, *, threads: int, quick: bool, distinct: int = DISTINCT) -> dict[str, Any]:
    """Return memory by rows and seconds by start; what fails is told and left out."""
    found: dict[str, Any] = {"distinct": distinct, "rows": {}, "errors": {}}
    for rows in (1_000, 20_000) if quick else ROWS:
        print(f"  predict on {rows:,} rows", flush=True)
        try:
            found["rows"][str(rows)] = _predict(data, folder, rows, distinct, threads)
        except (OSError, subprocess.SubprocessError) as error:
            found["errors"][f"{rows} rows"] = str(error)[:300]
    print("  starts", flush=True)
    found["starts"] = _starts(threads, 2 if quick else STARTS)
    return found


def _predict(data: Path, folder: Path, rows: int, distinct: int, threads: int) -> dict[str, float]:
    from bertcnn.text.read_table import read_rows

    texts = list(dict.fromkeys(str(row["text"]) for row in read_rows(data / "cr" / "all.csv")))[:distinct]
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file, scored = Path(scratch) / "rows.csv", Path(scratch) / "scored.csv"
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "text"])
            writer.writerows([i, draw.choice(texts)] for i in range(rows))
        started = time.perf_counter()
        peak = _run(_cli("predict", str(folder / OURS), str(file), "--output", str(scored)), threads)
        seconds = time.perf_counter() - started
        with scored.open(encoding="utf-8") as stream:
            written = sum(1 for _ in csv.reader(stream)) - 1
    if written != rows:
        raise OSError(f"bertcnn predict wrote {written} rows of {rows}")
    return {"peak_mb": peak, "seconds": seconds}


def _run(command: Sequence[str], threads: int) -> float:
    """Run a program; return its memory peak in MB.

    Raises:
        OSError: It failed.
    """
    process = subprocess.Popen(
        command, env=environment(threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise OSError(f"{' '.join(command)} exited with {process.returncode}")
    return usage.ru_maxrss / 1024


def _starts(threads: int, times: int) -> dict[str, Any]:
    """Return median, least and greatest seconds of starts, each a process, in turn."""
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import bertcnn": [sys.executable, "-c", "import bertcnn"],
        "bertcnn --help": _cli("--help"),
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, command in commands.items():
            started = time.perf_counter()
            _run(command, threads)
            took[name].append(time.perf_counter() - started)
    return {name: [statistics.median(all_), min(all_), max(all_)] for name, all_ in took.items()}


def _cli(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("bertcnn")), *arguments]
