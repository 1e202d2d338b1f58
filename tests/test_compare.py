"""The commands ``compare`` and ``report``."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bertcnn.apps.cli import app
from bertcnn.apps.compare import _name_of, _plan, _with_depth
from bertcnn.errors import DataError, SettingsError, StudyError
from bertcnn.study.plan import write_plan
from tests.conftest import make_texts

runner = CliRunner()


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    texts, labels = make_texts(100, seed=3)
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "stars"])
        writer.writerows(zip(texts, labels, strict=True))
    return tmp_path / "reviews.csv"


def test_a_file_is_compared_and_reported(reviews: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = ["compare", str(reviews), "--text", "review", "--label", "stars", "--output", str(study)]
    done = runner.invoke(app, [*command, "--systems", "majority, tfidf", "--seeds", "2", "--fractions", "0.5,1"])
    assert done.exit_code == 0, done.output
    assert "tfidf" in done.stdout
    assert "report.html" in done.stdout.replace("\n", "")
    lines = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    assert [(r["data"], r["system"], r["seed"], r["fraction"]) for r in lines] == [
        ("reviews", system, seed, fraction)
        for seed in (0, 1)
        for fraction in (1.0, 0.5)
        for system in ("majority", "tfidf")
    ]
    page = (study / "report.html").read_text()
    for name in ("report.html", "report.md", "results.csv"):
        (study / name).unlink()
    again = runner.invoke(app, ["report", str(study)])
    assert again.exit_code == 0, again.output
    assert (study / "report.html").read_text() == page
    assert len((study / "results.csv").read_text().splitlines()) == 1 + len(lines)


def test_a_file_joins_no_study_of_another(reviews: Path, tmp_path: Path) -> None:
    def compare(source: Path, *more: str) -> Result:
        columns = ["--text", "review", "--label", "stars", "--output", str(tmp_path / "study")]
        return runner.invoke(app, ["compare", str(source), *columns, "--systems", "majority", *more])

    assert compare(reviews).exit_code == 0
    assert compare(reviews, "--seeds", "2").exit_code == 0
    before = (tmp_path / "study" / "results.jsonl").read_bytes()
    done = compare(reviews.rename(tmp_path / "others.csv"))
    assert isinstance(done.exception, StudyError)
    assert "holds a study of reviews. Give another --output" in str(done.exception)
    assert (tmp_path / "study" / "results.jsonl").read_bytes() == before


def test_sizes_and_leaks_are_told(reviews: Path, tmp_path: Path) -> None:
    columns = ["--text", "review", "--label", "stars", "--systems", "majority,tfidf"]
    done = runner.invoke(app, ["compare", str(reviews), *columns, "--folds", "4", "--output", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    said = "train 67, dev 8, test 25 a run, 100 tested in all runs"
    assert f"reviews, texts: {said};" in " ".join(done.stdout.split())
    assert said in (tmp_path / "a" / "report.md").read_text()
    done = runner.invoke(
        app, ["compare", str(reviews), *columns, "--test", str(reviews), "--output", str(tmp_path / "b")]
    )
    assert "Note: reviews: 90 texts are in both train and test (2 runs)" in " ".join(done.stderr.split())


def test_where_every_run_fails_so_does_the_command(reviews: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = ["compare", str(reviews), "--text", "review", "--label", "stars", "--output", str(study)]
    done = runner.invoke(app, [*command, "--systems", "bert-mean-frozen@half", "--set", "encoder=./none"])
    assert isinstance(done.exception, StudyError)
    assert "No run was done" in str(done.exception)
    assert "texts: no run was done" in done.stdout
    assert (study / "report.html").is_file()


def test_flags_go_over_a_file(tmp_path: Path) -> None:
    plan = _plan({"data": [{"name": "a", "source": "a.csv"}]}, None, ["encoder=roberta-base", "epochs=2"])
    assert "cnn-static" not in plan.systems  # no word vectors were given
    assert (plan.model, plan.training) == ({"encoder": "roberta-base"}, {"epochs": 2})
    write_plan(plan, tmp_path / "plan.toml")
    more = _plan({"seeds": 5, "vectors": "v.npz"}, tmp_path / "plan.toml", ["depth=4"])
    assert (more.seeds, more.vectors, more.data) == (5, "v.npz", plan.data)
    assert (more.model, more.training) == ({"encoder": "roberta-base", "depth": 4}, {"epochs": 2})


def test_the_ladder_takes_what_word_vectors_make_possible() -> None:
    plan = _plan({"data": [{"name": "a", "source": "a.csv"}], "vectors": "v.npz"}, None, [])
    assert {"cnn-static", "cnn-tuned"} <= set(plan.systems)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/reviews.csv", "reviews"),
        ("builtin:reviews", "reviews"),
        ("data/cr/all.csv", "cr"),
        ("hf:o/my data", "my-data"),
        ("reviews - Copy.csv", "reviews-Copy"),
    ],
)
def test_a_data_set_has_a_name(source: str, name: str) -> None:
    assert _name_of(source) == name


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        ([], SettingsError, "SOURCE"),
        (["a.csv", "--config", "b.toml"], SettingsError, "SOURCE"),
        (["--config", "none.toml"], SettingsError, "Cannot read"),
        (["--config", "b.toml", "--folds", "5"], SettingsError, "go with a SOURCE"),
        (["builtin:reviews", "--tag", "colour", "--systems", "tfidf"], DataError, "colour"),
        (["builtin:reviews", "--systems", "tfdf"], StudyError, "Did you mean 'tfidf'"),
        (["builtin:reviews", "--systems", "cnn-static"], StudyError, "--vectors"),
        (["builtin:reviews", "--fractions", "a"], SettingsError, "expected numbers"),
        (["builtin:reviews", "--set", "epoch=3"], SettingsError, "Did you mean 'epochs'"),
        (["builtin:reviews", "--set", "epochs=0"], SettingsError, "more than 0"),
        (["builtin:reviews", "--set", "text=review"], SettingsError, "text is one of the data"),
        (["builtin:reviews", "--systems", ""], SettingsError, "no system is named"),
        (["builtin:reviews", "--systems", "tfidf", "--fractions", "0.1,0.1,1"], SettingsError, "named twice"),
        (["builtin:reviews", "--systems", "tfidf", "--folds", "5000"], DataError, "expected at least 5000"),
        (["builtin:reviews", "--systems", "bert-cnn@0"], StudyError, "expected half, all, mix, or a number"),
        (
            ["builtin:reviews", "--systems", "cnn-static", "--vectors", "none.npz"],
            StudyError,
            "No file of word vectors",
        ),
    ],
)
def test_what_cannot_be_compared(arguments: list[str], kind: type[Exception], said: str, tmp_path: Path) -> None:
    output = tmp_path / "study"
    done = runner.invoke(app, ["compare", *arguments, "--output", str(output)])
    assert isinstance(done.exception, kind)
    assert said in str(done.exception)
    assert not output.exists()


def test_without_its_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertcnn.apps.compare.find_spec", lambda name: None if name == "jinja2" else object())
    for command in (["compare", "builtin:reviews"], ["report", str(tmp_path)]):
        done = runner.invoke(app, command)
        assert isinstance(done.exception, StudyError)
        assert "needs jinja2: pip install 'bertcnn[study]'" in str(done.exception)


def test_a_folder_without_a_study_has_no_report(tmp_path: Path) -> None:
    done = runner.invoke(app, ["report", str(tmp_path)])
    assert isinstance(done.exception, StudyError)


def test_a_system_with_bert_that_says_no_depth_is_its_half() -> None:
    names = ["tfidf", "bert-cnn-frozen", "bert-cnn@all", "bert-cnn@3", "bert-cnm", "tfidf@half"]
    expected = ["tfidf", "bert-cnn-frozen@half", "bert-cnn@all", "bert-cnn@3", "bert-cnm", "tfidf@half"]
    assert [_with_depth(name) for name in names] == expected
