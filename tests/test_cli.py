import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import typer

import bertcnn
from bertcnn import Predictor
from bertcnn.apps import cli, show
from bertcnn.apps.cli import app, main
from bertcnn.apps.show import err, out, say_findings, show_rows, show_scores
from bertcnn.inference.metrics import evaluate
from bertcnn.settings import all_settings, read_settings
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.read_table import read_rows
from bertcnn.text.write_table import write_rows
from tests.conftest import make_texts, warm_command

COMMANDS = ["train", "evaluate", "predict", "embed"]
TEXTS = ["the phone was good", "a weak film, and very dull", 'it is "fine"', "", "really so poor\nand awful"]


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str


def call(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Run the command line in this process, over streams as strict as a pipe's."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    with (
        patch.object(sys, "argv", ["bertcnn", *map(str, arguments)]),
        patch.object(sys, "stdin", given),
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
        pytest.raises(SystemExit) as stopped,
    ):
        main()
    said = []
    for stream in streams:
        stream.flush()
        said.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return Outcome(int(stopped.value.code or 0), *said)


def real(*arguments: object, stdin: str = "", command: Sequence[str] | None = None) -> Outcome:
    """Run the command line as its users do, in a process of its own."""
    done = subprocess.run(
        [*(command or [str(warm_command())]), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        input=stdin,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def small(tiny: str) -> list[str]:
    """Flags of a training run of a second."""
    return [
        "--encoder", tiny, "--depth", "1", "--num-filters", "32", "--kernel-sizes", "1,2", "--overlap", "4",
        "--method", "frozen", "--head-epochs", "10", "--batch-size", "16", "--head-learning-rate", "0.01",
        "--dropout", "0.1", "--patience", "20", "--report-to", "none",
    ]  # fmt: skip


def table(tmp_path: Path, ending: str = "csv") -> Path:
    file = tmp_path / f"new.{ending}"
    write_rows(file, [{"id": f"n{i}", "text": text, "note": "kept, too"} for i, text in enumerate(TEXTS)])
    return file


# From a file to predictions


def test_train_evaluate_predict_embed(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "deep" / "reviews"
    columns = ["--text", "review", "--label", "sentiment"]
    trained = call("train", csv_file, *columns, "--output", model, *small(tiny))
    assert trained.code == 0, trained.err
    assert "Texts: train 130, dev 14, test 16." in trained.err
    assert "Leak check: no text is in two splits." in trained.err
    assert "accuracy" in trained.out
    assert f"bertcnn predict {model}" in trained.out.replace("\n", "")
    assert [p.name for p in model.parent.iterdir()] == ["reviews"]  # no checkpoints, no drafts
    run = read_settings(model / "run.toml")
    assert (run.data.text, run.model.num_filters, run.training.method) == ("review", 32, "frozen")

    texts, labels = make_texts(60, seed=9)
    write_rows(tmp_path / "test.jsonl", [{"t": t, "l": x} for t, x in zip(texts, labels, strict=True)])
    scored = call("evaluate", model, tmp_path / "test.jsonl", "--text", "t", "--label", "l", "--json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)
    assert scores["texts"] == 60
    right = sum(p.label == x for p, x in zip(Predictor.load(model).predict(texts), labels, strict=True))
    assert scores["headlines"]["accuracy"]["value"] == pytest.approx(right / 60)
    assert scores["headlines"]["accuracy"]["low"] <= right / 60 <= scores["headlines"]["accuracy"]["high"]
    people = call("evaluate", model, tmp_path / "test.jsonl", "--text", "t", "--label", "l")
    assert people.code == 0
    assert "negative" in people.out
    assert "95 % interval" in people.out

    states = call("embed", tmp_path / "test.jsonl", "--text", "t", "--encoder", tiny, "--output", tmp_path / "states")
    assert states.code == 0, states.err
    assert (tmp_path / "states").stat().st_mode & 0o777 == 0o755
    values, starts = (np.load(tmp_path / "states" / f"{name}.npy", mmap_mode="r") for name in ("states", "starts"))
    assert values.dtype == np.float16
    assert starts.shape == (61,)
    assert values.shape == (starts[-1], 32)
    expected, mask = bertcnn.embed(texts[:1], encoder=tiny, overlap=4)
    np.testing.assert_allclose(values[: starts[1]], expected[0][mask[0]].numpy(), atol=5e-3)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_predict_keeps_rows_and_adds_columns(folder: Path, tmp_path: Path, ending: str) -> None:
    scored = tmp_path / "deep" / f"scored.{ending}"
    done = call("predict", folder, table(tmp_path, ending), "--output", scored)
    assert (done.code, done.out) == (0, ""), done.err
    assert "5 texts (1 of them empty)" in done.err
    rows = list(read_rows(scored))
    assert list(rows[0]) == [
        "id", "text", "note", "prediction", "confidence", "probability_negative", "probability_positive",
    ]  # fmt: skip
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(5)]
    assert [row["text"] for row in rows] == TEXTS
    assert {row["note"] for row in rows} == {"kept, too"}
    for row, expected in zip(rows, Predictor.load(folder).predict(TEXTS), strict=True):
        assert row["prediction"] == expected.label
        assert float(row["confidence"]) == pytest.approx(expected.confidence, abs=1e-6)
        for name, p in expected.probabilities.items():
            assert float(row[f"probability_{name}"]) == pytest.approx(p, abs=1e-6)
    assert [p.name for p in scored.parent.iterdir()] == [scored.name]


def test_predict_keeps_the_order_of_many_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertcnn.inference.predictor.TEXTS_AT_ONCE", 7)
    texts, _ = make_texts(50, seed=11)
    texts = [text * (1 + i % 3 * 5) for i, text in enumerate(texts)] * 2
    write_rows(tmp_path / "new.csv", [{"text": text} for text in texts])
    assert call("predict", folder, tmp_path / "new.csv", "--output", tmp_path / "out.jsonl").code == 0
    rows = list(read_rows(tmp_path / "out.jsonl"))
    assert [row["text"] for row in rows] == texts
    expected = Predictor.load(folder).predict(texts)
    assert [row["prediction"] for row in rows] == [p.label for p in expected]


def test_predict_from_stdin_to_stdout(folder: Path) -> None:
    lines = ["the phone was good", "", "a weak film, and very dull"]
    done = call("predict", folder, stdin=("\ufeff" + "\r\n".join(lines)).encode())
    assert done.code == 0, done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["text"] for row in rows] == lines
    assert [row["prediction"] for row in rows] == [p.label for p in Predictor.load(folder).predict(lines)]
    assert "3 texts (1 of them empty)" in done.err


def test_predict_of_nothing(folder: Path, tmp_path: Path) -> None:
    done = call("predict", folder, "--output", tmp_path / "out.parquet")
    assert done.code == 0, done.err
    assert "\n0 texts in " in done.err
    with pytest.raises(bertcnn.DataError, match="no rows"):
        list(read_rows(tmp_path / "out.parquet"))


def test_predict_as_json_and_as_a_table(folder: Path, tmp_path: Path) -> None:
    file = table(tmp_path)
    rows = [json.loads(line) for line in call("predict", folder, file, "--json").out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS
    assert isinstance(rows[0]["confidence"], float)
    shown = call("predict", folder, file, "--table").out
    assert "the phone was good" in shown
    assert "positive" in shown


def test_a_budget_of_pieces_changes_nothing(folder: Path, tmp_path: Path) -> None:
    file = table(tmp_path)
    assert call("predict", folder, file).out == call("predict", folder, file, "--max-tokens", 8).out


def test_many_labels_from_end_to_end(tiny: str, tmp_path: Path) -> None:
    texts, labels = make_texts(120, seed=5)
    loud = [i % 3 == 0 for i in range(len(texts))]
    rows = [
        {"text": t + (" !" if on else ""), "tags": "|".join([*(["bad"] if x == "negative" else []), *["loud"] * on])}
        for t, x, on in zip(texts, labels, loud, strict=True)
    ]
    write_rows(tmp_path / "t.csv", rows)
    flags = ["--label", "tags", "--separator", "|", *small(tiny)]
    trained = call("train", tmp_path / "t.csv", "--output", tmp_path / "m", *flags)
    assert trained.code == 0, trained.err
    scores = json.loads(call("evaluate", tmp_path / "m", tmp_path / "t.csv", "--label", "tags", "--json").out)
    assert scores["headlines"]["macro_f1"]["value"] > 0.8
    marked = [
        {"text": row["text"], **{name: int(name in row["tags"].split("|")) for name in ("loud", "bad")}} for row in rows
    ]
    write_rows(tmp_path / "marked.csv", marked)
    again = call("evaluate", tmp_path / "m", tmp_path / "marked.csv", "--label", "loud,bad", "--json")
    assert json.loads(again.out)["headlines"] == scores["headlines"]
    assert call("insights", tmp_path / "m", tmp_path / "marked.csv", "--label", "loud,bad").code == 0
    out = call("predict", tmp_path / "m", tmp_path / "t.csv", "--output", tmp_path / "out.jsonl")
    assert out.code == 0, out.err
    scored = list(read_rows(tmp_path / "out.jsonl"))
    assert {row["prediction"] for row in scored} == {"", "bad", "loud", "bad|loud"}
    assert set(scored[0]) == {"text", "tags", "prediction", "confidence", "probability_bad", "probability_loud"}


def test_evaluate_takes_the_test_split_of_a_source_with_splits(folder: Path) -> None:
    done = call("evaluate", folder, "builtin:reviews", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["texts"] == 336


def test_evaluate_says_when_to_answer(folder: Path) -> None:
    done = call("evaluate", folder, "builtin:reviews", "--risk", 0.6, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["refusal"]
    assert found["risk"] <= 0.6
    assert found["answered"] == round(336 * found["coverage"])
    shown = call("evaluate", folder, "builtin:reviews", "--risk", 0.6)
    assert f"confidence of {found['threshold']:.3f} on: {found['coverage']:.1%}" in " ".join(shown.out.split())
    refused = call("evaluate", folder, "builtin:reviews", "--risk", 0)
    assert refused.code in {0, 2}
    assert refused.code == 0 or "The least risk is" in refused.err


def test_own_dev_and_test_files_and_a_leak(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    rows = list(read_rows(csv_file))
    write_rows(tmp_path / "dev.jsonl", rows[:20])
    done = call(
        "train", csv_file, "--text", "review", "--label", "sentiment", "--dev", tmp_path / "dev.jsonl",
        "--output", tmp_path / "m", *small(tiny), "--head-epochs", 1, "--test-fraction", 0,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Texts: train 160, dev 20." in done.err
    assert "20 texts are in both train and dev" in done.err


# Settings


def test_flags_go_before_the_file_and_the_file_before_defaults(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[data]\ntext = "review"\nlabel = "sentiment"\n[model]\nnum_filters = 5\nkernel_sizes = [2, 3]\n'
        f'encoder = "{tiny}"\ndepth = 1\noverlap = 4\n'
        '[training]\nmethod = "frozen"\nhead_epochs = 1\nreport_to = ["none"]\n'
    )
    flags = ["--config", tmp_path / "mine.toml", "--num-filters", 6, "--batch-size", 8]
    done = call("train", csv_file, "--output", tmp_path / "m", *flags)
    assert done.code == 0, done.err
    run = read_settings(tmp_path / "m" / "run.toml")
    assert (run.model.num_filters, run.model.kernel_sizes, run.training.batch_size) == (6, (2, 3), 8)
    assert run.training.head_learning_rate == 1e-3
    assert Predictor.load(tmp_path / "m").model.config.num_filters == 6
    # run.toml of a saved model is a settings file
    again = call("train", csv_file, "--output", tmp_path / "m2", "--config", tmp_path / "m" / "run.toml")
    assert again.code == 0, again.err
    assert read_settings(tmp_path / "m2" / "run.toml") == run


def test_every_setting_is_a_flag_of_train() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    for _, one in all_settings():
        assert f"--{one.name.replace('_', '-')}" in flags
        if one.type is bool or one.type == "bool":
            assert f"--no-{one.name.replace('_', '-')}" in flags
    helps = {parameter.name: parameter.help for parameter in command.params if hasattr(parameter, "help")}
    assert all(one.metadata["help"] in (helps[one.name] or "") for _, one in all_settings())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example(command: str) -> None:
    done = call(command, "--help")
    assert done.code == 0
    said = re.sub(r"\s+", " ", done.out)
    assert "Example" in said
    assert re.search(rf"bertcnn {command} \S+", said)


def test_help_and_version() -> None:
    assert call("--version").out == f"bertcnn {bertcnn.__version__}\n"
    said = call("--help").out
    assert all(command in said for command in COMMANDS)


# What would be lost


def test_nothing_is_overwritten(folder: Path, tiny: str, csv_file: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("dear")
    columns = ["--text", "review", "--label", "sentiment"]
    for done in (
        call("train", csv_file, *columns, "--output", tmp_path / "m", *small(tiny)),
        call("embed", csv_file, "--text", "review", "--output", tmp_path / "m", "--encoder", tiny),
    ):
        assert done.code == 2
        assert done.err.startswith(f"Error: {tmp_path / 'm'} is there already. Give another --output")
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "mine"]
    done = call("train", csv_file, *columns, "--output", tmp_path / "m", *small(tiny), "--overwrite")
    assert done.code == 2
    assert "m is no bertcnn model (it holds 'mine')" in done.err
    assert (tmp_path / "m" / "mine").read_text() == "dear"
    (tmp_path / "m" / "mine").unlink()
    for _ in range(2):  # an empty folder, and then a model
        done = call(
            "train", csv_file, *columns, "--output", tmp_path / "m", *small(tiny), "--head-epochs", 1, "--overwrite"
        )
        assert done.code == 0, done.err
        assert Predictor.load(tmp_path / "m").label_names == ["negative", "positive"]
        assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_model_is_not_written_over_where_one_stands(
    csv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "here" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for output in (".", "..", tmp_path, inside):
        done = call("train", csv_file, "--output", output, "--overwrite")
        assert done.code == 2
        assert "is the current directory or one above it" in done.err
    (inside / "m.checkpoints").mkdir()
    (inside / "m.checkpoints" / "mine").write_text("dear")
    done = call("train", csv_file, "--output", "m", "--overwrite")
    assert done.code == 2
    assert "m.checkpoints is there, but is no unfinished run" in done.err
    assert (inside / "m.checkpoints" / "mine").read_text() == "dear"


def test_an_input_is_not_its_own_output(folder: Path, tmp_path: Path) -> None:
    file = table(tmp_path)
    before = file.read_bytes()
    (tmp_path / "link.csv").hardlink_to(file)
    (tmp_path / "texts.csv").hardlink_to(file)
    for command in (
        ("predict", folder, file, "--output", tmp_path / "." / "new.csv", "--overwrite"),
        ("predict", folder, file, "--output", tmp_path / "link.csv", "--overwrite"),
        ("explain", folder, file, "--html", file),
        ("insights", folder, file, "--output", tmp_path),
    ):
        done = call(*command)
        assert done.code == 2
        assert "is the input itself" in done.err
    assert file.read_bytes() == before


def test_what_is_trained_is_read_again_without_being_told(tiny: str, tmp_path: Path) -> None:
    """The next step that train prints must run as it stands."""
    texts, labels = make_texts(80, seed=3)
    rows = [{"review": t, "stars": x, "text": "no text"} for t, x in zip(texts, labels, strict=True)]
    (tmp_path / "r.csv").write_text("review;stars\n" + "".join(f"{r['review']};{r['stars']}\n" for r in rows))
    write_rows(tmp_path / "commas.csv", rows)
    write_rows(tmp_path / "other.csv", [{"text": t, "label": x} for t, x in zip(texts, labels, strict=True)])
    columns = ["--text", "review", "--label", "stars", "--delimiter", ";"]
    trained = call("train", tmp_path / "r.csv", *columns, "--output", tmp_path / "m", *small(tiny))
    assert trained.code == 0, trained.err
    scores = []
    for name in ("r.csv", "commas.csv", "other.csv"):
        scored = call("evaluate", tmp_path / "m", tmp_path / name, "--json")
        assert scored.code == 0, scored.err
        scores.append(json.loads(scored.out))
        answered = call("predict", tmp_path / "m", tmp_path / name, "--json")
        assert answered.code == 0, answered.err
        assert [json.loads(line)["prediction"] for line in answered.out.splitlines()[:2]] == labels[:2]
    assert scores[0] == scores[1] == scores[2]
    assert call("explain", tmp_path / "m", tmp_path / "r.csv", "--json").code == 0
    assert call("check", tmp_path / "m", tmp_path / "r.csv", "--limit", 5).code == 0
    assert call("predict", tmp_path / "m", tmp_path / "commas.csv", "--text", "text", "--json").code == 0
    assert "Choose with --text" in call("predict", tmp_path / "m", tmp_path / "r.csv", "--text", "no").err


def test_a_text_in_two_columns_is_read_so_by_all_commands(tiny: str, tmp_path: Path) -> None:
    texts, labels = make_texts(80, seed=3)
    rows = [
        {"title": text.split()[0], "body": " ".join(text.split()[1:]), "label": label}
        for text, label in zip(texts, labels, strict=True)
    ]
    write_rows(tmp_path / "two.csv", rows)
    write_rows(tmp_path / "one.csv", [{"text": text} for text in texts])
    trained = call("train", tmp_path / "two.csv", "--text", "title,body", "--output", tmp_path / "m", *small(tiny))
    assert trained.code == 0, trained.err
    asked = {name: call("predict", tmp_path / "m", tmp_path / f"{name}.csv", "--json") for name in ("two", "one")}
    answers = {name: [json.loads(line) for line in done.out.splitlines()] for name, done in asked.items()}
    assert [one["prediction"] for one in answers["two"]] == [one["prediction"] for one in answers["one"]]
    assert {"title", "body", "label"} < answers["two"][0].keys()
    assert "title,body" not in answers["two"][0]
    assert json.loads(call("evaluate", tmp_path / "m", tmp_path / "two.csv", "--json").out)["texts"] == 80
    explained = json.loads(call("explain", tmp_path / "m", tmp_path / "two.csv", "--json").out.splitlines()[0])
    assert explained["text"] == f"{rows[0]['title']}\n{rows[0]['body']}"
    done = call("insights", tmp_path / "m", tmp_path / "two.csv", "--output", tmp_path / "found")
    assert done.code == 0, done.err


def test_a_text_or_a_folder_is_no_file(folder: Path, tmp_path: Path) -> None:
    done = call("predict", folder, "Not bad at all.")
    assert done.code == 2
    assert "No file 'Not bad at all.'. If it is a text: echo 'Not bad at all.' | bertcnn predict MODEL" in done.err
    assert "No file 'a a a" in call("predict", folder, "a " * 3000).err
    assert f"{tmp_path} is a folder. Expected a file" in call("predict", folder, tmp_path).err
    assert "No file 'x.foo'" in call("predict", folder, "x.foo").err


def test_who_has_read_enough_ends_it_quietly(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "new.csv", [{"text": f"good {i}", "note": "long " * 20} for i in range(5000)])
    for command in (["predict"], ["explain", "--json"], ["explain"]):
        with subprocess.Popen(
            [warm_command(), command[0], folder, tmp_path / "new.csv", *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.readline()
            running.stdout.close()
            said = running.stderr.read()
        assert running.returncode == 141
        assert said == b""


@pytest.mark.parametrize("column", ["prediction", "confidence", "probability_positive"])
def test_an_input_column_is_not_overwritten(folder: Path, tmp_path: Path, column: str) -> None:
    rows = [{"text": "a"}, {"text": "b", column: "mine"}]  # a jsonl file whose second row alone has it
    write_rows(tmp_path / "new.jsonl", rows)
    done = call("predict", folder, tmp_path / "new.jsonl", "--output", tmp_path / "out.jsonl")
    assert done.code == 2
    assert f"has a column '{column}' already" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["new.jsonl"]


def test_an_output_is_replaced_when_the_new_one_is_whole(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    bad = tmp_path / "bad.csv"
    bad.write_text("text,n\na,1\nb\n")
    assert call("predict", folder, bad, "--output", tmp_path / "out.csv", "--overwrite").code == 2
    assert (tmp_path / "out.csv").read_text() == "old"
    assert call("predict", folder, table(tmp_path), "--output", tmp_path / "out.csv").code == 2
    assert (tmp_path / "out.csv").read_text() == "old"
    assert call("predict", folder, table(tmp_path), "--output", tmp_path / "out.csv", "--overwrite").code == 0
    assert len(list(read_rows(tmp_path / "out.csv"))) == 5


def test_a_run_that_could_not_start_can_be_started_again(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    arguments = ["--text", "review", "--output", tmp_path / "m", *small(tiny), "--head-epochs", 1]
    for wrong in (["--label", "sentimant"], ["--label", "sentiment", "--encoder", tmp_path / "none"]):
        assert call("train", csv_file, *arguments, *wrong).code == 2
        assert list(tmp_path.iterdir()) == []
    assert call("train", csv_file, *arguments, "--label", "sentiment").code == 0


def test_what_could_not_be_logged_to_is_refused_at_once(csv_file: Path, tiny: str, tmp_path: Path) -> None:
    arguments = ["--text", "review", "--label", "sentiment", "--output", tmp_path / "m", *small(tiny)]
    done = call("train", csv_file, *arguments, "--report-to", "tensorbord")
    assert done.code == 2
    assert "Cannot report to tensorbord: tensorbord is not supported, only" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_is_said(folder: Path, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [warm_command(), "predict", folder, table(tmp_path)], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr.decode().endswith("Free some space, or write elsewhere.\n")
    assert b"Traceback" not in done.stderr


def test_labels_that_no_score_speaks_for_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    texts = Examples(["a", "b", "c"], ["good", "bad", "odd"])
    splits = Splits(texts, texts, texts.pick([0, 1], "test"))
    say_findings(err, splits)
    said = " ".join(capsys.readouterr().err.split())
    assert "labels without a test text: 'odd'. The test scores say nothing of them" in said
    assert "without a dev text" not in said
    sure = np.eye(3)[[0, 1]]
    show_scores(evaluate(np.array([0, 1]), sure, ["bad", "good", "odd"]), "m")
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["odd", "-", "-", "-", "-", "0", "0", "0", "0"] in rows
    assert ["good", "1.000", "1.000", "1.000", "1.000", "1", "0", "1", "0"] in rows
    assert ["log", "loss", "0.000", "0.000", "to"] in [row[:5] for row in rows]


def test_scores_are_whole_where_labels_are_many_and_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["abbreviation", "description", "entity", "human", "location", "number"]
    monkeypatch.setattr(out, "_width", 80)
    show_scores(evaluate(np.arange(6), np.eye(6), names), "m")
    said = capsys.readouterr().out
    rows = [" ".join(line.replace("│", " ").split()) for line in said.splitlines()]
    assert "number 1.000 1.000 1.000 1.000 1" in rows
    assert "number 0 0 0 0 0 1" in rows
    assert max(map(len, said.splitlines())) <= 80
    monkeypatch.setattr(out, "_width", 160)
    show_scores(evaluate(np.arange(6), np.eye(6), names), "m")
    rows = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "number 1.000 1.000 1.000 1.000 1 0 0 0 0 0 1" in rows


def test_what_labels_were_taken_for_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a rather long name {i}" for i in range(12)]
    truth = np.arange(24) % 12
    answers = np.where(np.arange(24) < 2, 5, truth)
    show_scores(evaluate(truth, np.eye(12)[answers], names), "m")
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[lines.index("Taken for") :][-2:] == [f"{names[i]} {names[5]} 1" for i in (0, 1)]
    assert "a rather long name 3 1.000 1.000 1.000 1.000 2" in lines


def test_a_text_neither_steers_nor_fills_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prediction": "a", "confidence": 1.0}
    rows = [{"text": "evil \x1b]0;owned\x07\x1b[31mred " + "x" * 5000, **row}, row]  # jsonl may lack a column
    assert show_rows(rows, "text") == 2
    said = capsys.readouterr().out
    assert "\x1b]" not in said
    assert "\x1b[31m" not in said
    assert 900 < said.count("x") < 1000


def test_rows_are_shown_as_they_come(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "ROWS_SHOWN_AT_ONCE", 2)
    seen: list[str] = []

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(5):
            seen.append(capsys.readouterr().out)
            yield {"text": f"text {i}", "prediction": "a", "confidence": 1.0}

    assert show_rows(rows(), "text") == 5
    assert "text 1" in "".join(seen)
    assert "text 4" in capsys.readouterr().out


def test_a_text_in_the_place_of_a_model(folder: Path) -> None:
    for command in ("predict", "serve", "export", "check", "explain", "evaluate"):
        done = call(command, "a very long text " * 30, *(["x.csv"] if command == "evaluate" else []))
        assert done.code == 2
        assert "No model folder" in done.err


def test_what_the_system_refuses_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret/README.md.draft")

    monkeypatch.setattr("bertcnn.inference.certificate.write_certificate", refuse)
    done = call("check", folder)
    assert done.code == 2
    assert "Cannot read or write: [Errno 13] Permission denied: '/secret/README.md.draft'" in done.err


def test_no_text_makes_an_empty_file_and_says_so(folder: Path, tmp_path: Path) -> None:
    done = call("predict", folder, "-", "--output", tmp_path / "scored.csv", stdin=b"")
    assert (done.code, (tmp_path / "scored.csv").read_bytes()) == (0, b"")
    assert f"There was no text, so {tmp_path / 'scored.csv'} is empty." in " ".join(done.err.split())


def test_nothing_to_resume(csv_file: Path, tmp_path: Path) -> None:
    done = call("train", csv_file, "--output", tmp_path / "m", "--resume")
    assert done.code == 2
    assert "Nothing to resume" in done.err
    assert list(tmp_path.iterdir()) == []


# As a command


@pytest.mark.parametrize("command", [None, (sys.executable, "-m", "bertcnn")])
def test_as_a_subprocess(folder: Path, command: Sequence[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")  # as on Windows, where output is redirected
    stdin = "the phone was good \U0001f44d\nit was awful\n"
    done = real("predict", folder, "--json", stdin=stdin, command=command)
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows[0]["text"] == "the phone was good \U0001f44d"
    assert [row["prediction"] for row in rows] == ["positive", "negative"]
    assert done.err.startswith("2 texts in ")


def test_settings_round_trip(quick: bertcnn.Settings, tmp_path: Path) -> None:
    from bertcnn.settings import write_settings

    write_settings(quick, tmp_path / "run.toml")
    assert asdict(read_settings(tmp_path / "run.toml")) == asdict(quick)


def test_a_row_of_json_without_the_text_is_an_empty_text(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.jsonl"
    file.write_text('{"text": "a good film"}\n{"text": null}\n{"other": 1}\n', "utf-8")
    done = call("predict", folder, file, "--json")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert rows[1]["probability_positive"] == rows[2]["probability_positive"]
    assert "2 of them empty" in done.err
    file.write_text('{"other": 1}\n{"text": "a good film"}\n', "utf-8")
    done = call("predict", folder, file)
    assert done.code == 2
    assert "has no column 'text'" in done.err


def test_a_package_that_is_missing_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(cli, "app", missing)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "needs the package 'sklearn', which is not installed here" in " ".join(capsys.readouterr().err.split())
