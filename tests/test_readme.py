"""The README's code blocks, run as they stand."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bertcnn.text.read_table import read_rows
from tests.conftest import warm_command

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(warm_command().parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FEWER = """
import dataclasses, bertcnn
whole = bertcnn.load_splits("builtin:reviews")
fewer = dataclasses.replace(whole, train=whole.train.pick(range(0, len(whole.train), 6), "train"))
bertcnn.load_splits = lambda source: fewer
"""
"""What lets a block learn from a sixth of the reviews, which takes seconds."""


@pytest.mark.parametrize(
    ("code", "said"),
    # What a model of some reviews says is its own affair; that it says one of the labels is ours.
    [
        (FEWER + PYTHON[0], r"\['(positive|negative)'\]"),
        pytest.param(PYTHON[0], r"\['(positive|negative)'\]", marks=pytest.mark.slow),
        pytest.param(PYTHON[1], "'positive': ", marks=pytest.mark.slow),
    ],
)
def test_python_blocks(code: str, said: str, tmp_path: Path) -> None:
    assert re.search(said, run([sys.executable, "-W", "error::DeprecationWarning", "-c", code], tmp_path))


def test_command_line_block(tmp_path: Path) -> None:
    rows = list(read_rows(ROOT / "src" / "bertcnn" / "text" / "reviews" / "reviews.csv"))
    for name, part in (("reviews", rows[::5]), ("test", rows[1::25]), ("new", rows[2::50])):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "sentiment"])
            writer.writerows((row["text"], row["label"]) for row in part)
    out = run(["bash", "-e", "-c", SHELL[1]], tmp_path)
    assert '"accuracy"' in out
    assert "Not bad at all." in out
    scored = list(read_rows(tmp_path / "scored.csv"))
    assert [row["review"] for row in scored] == [row["text"] for row in rows[2::50]]
    assert {"prediction", "confidence", "probability_negative", "probability_positive"} < set(scored[0])
    assert (tmp_path / "states" / "states.npy").is_file()


def test_the_two_commands_are_targets() -> None:
    targets = (ROOT / "Makefile").read_text("utf-8")
    commands = [line.split("#")[0].strip() for line in SHELL[0].splitlines()]
    assert commands == ["make run", "make test"]
    assert all(f"\n{command.split()[1]}:" in targets for command in commands)


@pytest.mark.slow
def test_comparison_block(tmp_path: Path) -> None:
    """The README's comparison, with the two quickest systems in the place of all."""
    rows = list(read_rows(ROOT / "src" / "bertcnn" / "text" / "reviews" / "reviews.csv"))[::3]
    with (tmp_path / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows((row["text"], row["label"]) for row in rows)
    (command,) = [code.strip() for code in SHELL if "bertcnn compare" in code]
    assert "tfidf" in run(["bash", "-c", f"{command} --systems majority,tfidf"], tmp_path)
    assert (tmp_path / "runs" / "reviews" / "report.html").is_file()
