"""Plans, divisions, the sealed test split, systems, and whole studies on tiny data."""

import csv
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bertcnn import Predictor, embed, save, train
from bertcnn.errors import DataError, SettingsError, StudyError
from bertcnn.settings import Settings, change
from bertcnn.study import run as run_module
from bertcnn.study import systems
from bertcnn.study.cost import measure
from bertcnn.study.division import Sealed, divide, nested_rows, read_task
from bertcnn.study.evidence import Result
from bertcnn.study.plan import Plan, Run, Task, make_plan, read_plan, write_plan
from bertcnn.study.questions import QUESTIONS
from bertcnn.study.report import write_report
from bertcnn.study.run import CANDIDATE, work
from bertcnn.study.runner import _keep_winners, read_results, run_study
from bertcnn.study.slices import has_negation, slices_of
from bertcnn.study.systems import DEFAULTS, MeanStates, fit, ladder_place, network_settings, system
from bertcnn.text.dataset import Examples, Splits, normal_form
from tests.conftest import make_texts

QUICK = {"head_epochs": 2, "epochs": 1, "head_learning_rate": 5e-3}


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    texts, labels = make_texts(120, seed=5)
    rows = [*zip(texts, labels, strict=True), (texts[0].upper(), labels[0])]  # a duplicate but for case
    with (tmp_path / "reviews.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "fold", "domain"])
        writer.writerows([text, label, i % 4, "ab"[i % 2 and i % 3 == 0]] for i, (text, label) in enumerate(rows))
    return tmp_path / "reviews.csv"


def plan_of(reviews: Path, encoder: Path | str, **values: object) -> Plan:
    return make_plan(
        {
            "data": [{"name": "tiny", "source": str(reviews)}],
            "systems": ["majority", "tfidf", "cnn-random", "bert-cnn-frozen@half"],
            "model": {"encoder": str(encoder), "num_filters": 8, "max_length": 32, "overlap": 8},
            "training": QUICK,
            **values,
        }
    )


def quiet() -> Console:
    return Console(quiet=True)


# ---------------------------------------------------------------- plans


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = make_plan(
        {
            "data": [
                {
                    "name": "a",
                    "source": "a.csv",
                    "where": {"domain": "books"},
                    "folds": 10,
                    "transfer": [{"name": "b", "source": "b.csv"}],
                },
                {"name": "c", "source": "c.csv", "test": "d.csv", "systems": ["tfidf"], "seeds": 2},
            ],
            "systems": ["tfidf", "bert-cnn@half"],
            "fractions": [0.1, 1.0],
            "training": {"epochs": 3},
            "settings": {"bert-cnn@half": {"encoder_learning_rate": 1e-4}},
        }
    )
    write_plan(plan, tmp_path / "plan.toml")
    assert read_plan(tmp_path / "plan.toml") == plan


def test_runs_come_seed_by_seed_and_largest_fraction_first() -> None:
    plan = make_plan(
        {
            "data": [{"name": "a", "source": "a", "folds": 2}, {"name": "b", "source": "b", "seeds": 1}],
            "systems": ["tfidf", "majority"],
            "seeds": 2,
            "fractions": [0.5, 1.0],
        }
    )
    runs = list(plan.runs())
    assert len(runs) == 2 * 2 * 2 * 2 + 1 * 2 * 2
    assert len({run.key for run in runs}) == len(runs)
    assert runs[0] == Run("a", "tfidf", 0, 0, 1.0)
    assert [run.data for run in runs if run.seed == 1] == ["a"] * 8
    assert [run.fraction for run in runs][:4] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"systems": ["tfidf"]}, "data"),
        ({"data": [], "systems": ["tfidf"]}, "no data set"),
        ({"data": [{"name": "a", "source": "a"}, {"name": "a", "source": "b"}], "systems": []}, "same name"),
        ({"data": [{"name": "a--b", "source": "a"}], "systems": []}, "a--b"),
        ({"data": [{"name": "a", "source": "a", "folds": 1}], "systems": []}, "folds is 1"),
        ({"data": [{"name": "a", "source": "a", "folds": 5, "test": "b"}], "systems": []}, "one of test, folds"),
        ({"data": [{"name": "a b", "source": "a"}], "systems": []}, "single dashes"),
        ({"data": [{"name": "a", "source": "a", "folds": 5, "dev": "b"}], "systems": []}, "leave it out"),
        ({"data": [{"name": "a", "source": "a"}], "systems": ["tfidf", "tfidf"]}, "named twice"),
        ({"data": [{"name": "a", "source": "a"}], "systems": [], "settings": {"tfidf": {"C": 1}}}, "no run has"),
        ({"data": [{"name": "a", "source": "a", "colour": "red"}], "systems": []}, "colour"),
        ({"data": [{"name": "a", "source": "a"}], "systems": [], "fractions": [0.0]}, "fractions"),
        ({"data": [{"name": "a", "source": "a"}], "systems": [], "seeds": 0}, "seeds is 0"),
        (
            {"data": [{"name": "a", "source": "a"}], "systems": ["tfidf"], "training": {"epoch": 3}},
            "Did you mean 'epochs'",
        ),
    ],
)
def test_a_wrong_plan_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_plan(values)


def test_a_missing_or_broken_plan_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Cannot read"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("systems = [")
    with pytest.raises(SettingsError, match="not TOML"):
        read_plan(tmp_path / "broken.toml")


def test_relative_sources_are_sought_where_the_data_is(
    reviews: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BERTCNN_DATA", str(reviews.parent))
    assert len(read_task(Task(name="a", source="reviews.csv")).train) == 121


# ---------------------------------------------------------------- divisions


def test_folds_are_a_partition_and_duplicates_stay_together(reviews: Path) -> None:
    table = read_task(Task(name="a", source=str(reviews), folds=5))
    seen: list[int] = []
    for fold in range(5):
        division = divide(table, Run("a", "tfidf", 0, fold))
        division.test.allow()
        test, ids = division.test.open()
        seen += ids
        assert test.texts == [table.tested.texts[i] for i in ids]
        inside = {normal_form(t) for t in test.texts}
        assert not inside & {normal_form(t) for t in division.train.texts + division.dev.texts}
        assert not {normal_form(t) for t in division.dev.texts} & {normal_form(t) for t in division.train.texts}
    assert sorted(seen) == list(range(121))


def test_official_folds_and_a_where_clause(reviews: Path) -> None:
    table = read_task(Task(name="a", source=str(reviews), folds=4, fold_column="fold"))
    division = divide(table, Run("a", "tfidf", 0, 2))
    division.test.allow()
    assert division.test.open()[1] == list(range(2, 121, 4))
    with pytest.raises(DataError, match="has 4 different values, expected 3"):
        divide(read_task(Task(name="a", source=str(reviews), folds=3, fold_column="fold")), Run("a", "x", 0, 0))
    some = read_task(Task(name="a", source=str(reviews), where={"domain": "b"}))
    assert len(some.train) == 20
    with pytest.raises(DataError, match="no rows where"):
        read_task(Task(name="a", source=str(reviews), where={"domain": "c"}))


def test_the_same_seed_divides_alike_and_another_does_not(reviews: Path) -> None:
    table = read_task(Task(name="a", source=str(reviews)))
    first, again, other = (divide(table, Run("a", "x", seed)) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.train.texts == again.train.texts != other.train.texts


def test_dev_and_test_of_their_own(reviews: Path, tmp_path: Path) -> None:
    for name, rows in (("dev", "a good film,positive\nbad,negative\n"), ("test", "awful,negative\n")):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + rows)
    task = Task(name="a", source=str(reviews), dev=str(tmp_path / "dev.csv"), test=str(tmp_path / "test.csv"))
    division = divide(read_task(task), Run("a", "x", 0))
    assert len(division.train) == 121
    assert division.dev.texts == ["a good film", "bad"]
    division.test.allow()
    assert division.test.open() == (Examples(["awful"], ["negative"], "a (test)"), [0])
    assert "awful" not in division.also_encode  # an official test is not even encoded beforehand


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80), st.integers(0, 5))
def test_fractions_are_nested_and_keep_every_label(labels: list[str], seed: int) -> None:
    examples = Examples([str(i) for i in range(len(labels))], list(labels))
    before: set[int] = set()
    for fraction in (0.01, 0.05, 0.25, 0.5, 1.0):
        rows = set(nested_rows(examples, fraction, seed=seed))
        assert before <= rows
        assert {labels[i] for i in rows} == set(labels)
        for label, count in Counter(labels).items():
            assert abs(sum(labels[i] == label for i in rows) - max(1, fraction * count)) <= 1
        before = rows
    assert before == set(range(len(labels)))


# ---------------------------------------------------------------- the seal


def test_the_test_split_is_sealed_until_the_system_is_final() -> None:
    sealed = Sealed(Examples(["a"], ["x"]), [0])
    for peek in (lambda: sealed.texts, lambda: sealed.labels, lambda: len(sealed), sealed.open):
        with pytest.raises(StudyError, match="seal"):
            peek()
    sealed.allow()
    assert sealed.open()[1] == [0]
    with pytest.raises(StudyError, match="once"):
        sealed.open()


def test_a_system_that_peeks_fails_its_run(reviews: Path, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(reviews, tiny, systems=["tfidf"])
    (tmp_path / "outcomes").mkdir()
    divided = divide(read_task(plan.data[0]), Run("tiny", "tfidf", 0))
    monkeypatch.setattr(run_module, "divide", lambda *_: divided)
    monkeypatch.setattr(run_module, "fit", lambda *_, **__: divided.test.texts)
    record = work(plan, Run("tiny", "tfidf", 0), tmp_path)
    assert record["status"] == "failed"
    assert "sealed" in record["error"]


# ---------------------------------------------------------------- systems


def test_every_system_that_is_named_exists() -> None:
    for name in {*DEFAULTS, *(n for q in QUESTIONS for n in (*q.left, *q.right))}:
        assert system(name).about
    assert sorted(DEFAULTS, key=ladder_place)[0] == "majority"
    order = ["tfidf", "bert-cnn-frozen@2", "bert-cnn-frozen@10", "bert-cnn-frozen@half", "bert-cnn-frozen@all"]
    assert sorted([*order[2:], *order[:2]], key=ladder_place) == order


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tf-idf", "Did you mean 'tfidf'"),
        ("tfidf@3", "expected none"),
        ("bert-cnn@most", "half, all, mix"),
        ("bert-cnn", "bert-cnn@half"),
        ("bert-mean-frozen@mix", "no mix"),
    ],
)
def test_an_unknown_system_is_refused(name: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        system(name)


def test_systems_differ_by_what_their_names_say() -> None:
    def of(name: str) -> Settings:
        return network_settings(system(name), Settings(), {}, seed=3, vectors="v.npz")

    assert (of("bert-cnn@half").model.depth, of("bert-cnn@4").model.depth) == ("half", 4)
    assert of("bert-cnn-frozen@mix").model.states == "mix"
    assert (of("bert-mean@all").model.features, of("bert-cls@4").model.features) == ("mean", "first")
    assert of("cnn-tuned").model.encoder == "words:v.npz"
    assert of("cnn-pieces").model.encoder == "pieces:minilm"
    assert of("bert-cnn@all").training.seed == 3
    whole, cut = of("bert-cnn@all"), of("bert-cnn@half")
    assert replace(whole, model=replace(whole.model, depth="half")) == cut
    with pytest.raises(StudyError, match="--vectors"):
        network_settings(system("cnn-static"), Settings(), {}, seed=0, vectors="")


def test_the_mean_of_states_is_the_mean_of_states(tiny: Path) -> None:
    base = change(Settings(), {"encoder": str(tiny), "max_length": 32, "overlap": 8})
    texts = ["good film", "", "a very " * 30, "good film"]
    means = MeanStates(base).fit(texts).transform(texts)
    states, mask = embed(texts, encoder=str(tiny), max_length=32, overlap=8)
    expected = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    np.testing.assert_allclose(means, expected.numpy(), atol=2e-3)  # the cache is float16
    made = fit(system("bert-mean-frozen@all"), base, {"C": 100.0}, Examples(texts[:3], list("aba")), Examples([], []))
    assert list(made.predict_proba(texts).argmax(axis=1)) == [0, 1, 0, 0]


def test_what_a_regression_on_frozen_states_costs(tiny: Path) -> None:
    texts, labels = make_texts(40)
    states = MeanStates(change(Settings(), {"encoder": str(tiny)}), "1")
    fitted = make_pipeline(states, LogisticRegression()).fit(texts, labels)
    found = measure(fitted, texts, train_seconds=1.0, predict_seconds=1e-6)
    assert found.flops_per_text is not None
    assert found.flops_per_text > 10_000
    assert found.texts_per_second is not None
    assert found.texts_per_second < len(texts) / 1e-6 / 10  # one short pass is not believed
    words = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)
    assert measure(words, texts, train_seconds=1.0, predict_seconds=2.0).flops_per_text is None


@pytest.mark.parametrize(("features", "encoder"), [("mean", "TINY"), ("first", "TINY"), ("windows", "pieces:TINY")])
def test_rivals_are_exact_and_survive_their_folder(features: str, encoder: str, tiny: str, tmp_path: Path) -> None:
    texts, labels = make_texts(60, seed=8)
    splits = Splits(Examples(texts[:50], labels[:50]), Examples(texts[50:], labels[50:]))
    values = {"encoder": encoder.replace("TINY", tiny), "features": features, "method": "frozen", "num_filters": 4}
    trained = train(splits, change(Settings(), {**values, "head_epochs": 1, "max_length": 32, "report_to": "none"}))
    save(trained, tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    mixed = ["good film", "", "a very bad room and " * 30, "dull"]
    together = predictor.logits(mixed)
    np.testing.assert_allclose(together, np.concatenate([predictor.logits([text]) for text in mixed]), atol=1e-5)
    np.testing.assert_array_equal(together, trained.predictor.logits(mixed))
    if features != "windows":
        states, mask = predictor.embed(mixed)
        weights = predictor.model.head.classifier
        pooled = states[:, 0] if features == "first" else (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        np.testing.assert_allclose(together, weights(pooled).detach().numpy(), atol=1e-5)
    card = (tmp_path / "model/README.md").read_text()
    assert ("A convolution" in card) == (features == "windows")


@pytest.mark.parametrize("name", ["bert-mean@half", "bert-cls@half", "cnn-pieces", "bert-cnn-lpft@2"])
def test_systems_learn_an_easy_task(name: str, tiny: Path) -> None:
    texts, labels = make_texts(330, seed=2)
    train, dev = Examples(texts[:300], labels[:300]), Examples(texts[300:], labels[300:])
    base = network_settings(
        system("bert-cnn-frozen@half"), Settings(), {"encoder": str(tiny), "num_filters": 8}, seed=0, vectors=""
    )
    changes = {"epochs": 12, "head_epochs": 12, "head_learning_rate": 1e-2, "encoder_learning_rate": 3e-3}
    made = fit(system(name), base, changes, train, dev)
    assert list(made.classes_) == ["negative", "positive"]
    probabilities = made.predict_proba([*dev.texts, ""])
    assert probabilities.shape == (31, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    right = (probabilities[:-1].argmax(axis=1) == (np.array(dev.labels) == "positive")).mean()
    assert right >= 0.8


def test_slices(reviews: Path) -> None:
    assert has_negation("It wasn’t bad")
    assert not has_negation("noted, knotty, another")
    table = read_task(Task(name="a", source=str(reviews), tag="domain"))
    kinds = slices_of(table)
    assert len(kinds) == 121
    assert kinds[0] == {
        "length": kinds[0]["length"],
        "negation": "yes" if " not " in f" {table.tested.texts[0]} " else "no",
        "rare words": "no",
        "label": table.tested.labels[0],
        "tag": "a",
    }


# ---------------------------------------------------------------- whole studies


def comparable(folder: Path) -> list[dict[str, object]]:
    """Return records without what differs from one run of the same to the next: times."""
    records = []
    for record in read_results(folder):
        kept = {k: v for k, v in record.items() if k not in {"made", "cost", "progress"}}
        kept["flops"] = record["cost"]["flops_per_text"] if record["status"] == "done" else None
        records.append(kept)
    return records


def test_a_whole_study(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, fractions=[0.5, 1.0])
    plan = replace(
        plan,
        data=(replace(plan.data[0], transfer=(make_transfer(reviews),)),),
    )
    records = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert [record["status"] for record in records] == ["done"] * 8
    texts = [json.loads(line) for line in (tmp_path / "study/texts/tiny.jsonl").read_text().splitlines()]
    assert len(texts) == 121
    for record in records:
        file = tmp_path / "study/outcomes" / f"tiny--{record['system']}--0--all--{record['fraction']:g}.npz"
        with np.load(file) as outcomes:
            assert set(outcomes) == {"example", "truth", "answers", "probabilities"}
            labels = np.array(record["labels"])
            assert [texts[i]["label"] for i in outcomes["example"]] == labels[outcomes["truth"]].tolist()
            right = (outcomes["truth"] == outcomes["answers"]).mean()
        assert record["test"]["accuracy"] == pytest.approx(right)
        assert len({r["fingerprint"] for r in records}) == 1
        if record["fraction"] == 1:
            assert set(record["flips"]) >= {"typos", "upper case"}
            assert sum(tally["cases"] for tally in record["behaviour"].values()) >= 400
            assert record["transfer"]["elsewhere"]["texts"] == 121
            left = 1 - record["texts"]["test"] / 121
            assert f"{left:.0%} of the texts of transfer elsewhere are in train or dev, too" in record["warnings"]
    network = next(r for r in records if r["system"] == "bert-cnn-frozen@half" and r["fraction"] == 1)
    assert network["cost"]["flops_per_text"] > 10_000
    assert network["settings"]["depth"] == "half"
    assert [entry["epoch"] for entry in network["progress"]] == [1.0, 2.0]
    best = max(r["dev"]["accuracy"] for r in records if r["progress"] and r["fraction"] == 1)
    scores = json.loads((tmp_path / "study/model/metrics.json").read_text())
    assert scores["dev"]["headlines"]["accuracy"]["value"] == pytest.approx(best)
    assert Predictor.load(tmp_path / "study/model").predict(["good film"])
    assert Predictor.load(tmp_path / "study/model-cnn").explain(["good film"])


def make_transfer(reviews: Path) -> object:
    from bertcnn.study.plan import Source

    return Source(name="elsewhere", source=str(reviews))


def test_a_study_goes_on_where_it_was(reviews: Path, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(reviews, tiny, systems=["majority", "tfidf"])
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    file = tmp_path / "study/results.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:40])  # cut off by a kill
    ran: list[str] = []
    monkeypatch.setattr(
        "bertcnn.study.runner.work", lambda p, run, folder: ran.append(run.system) or work(p, run, folder)
    )
    more = replace(plan, systems=("majority", "tfidf", "cnn-random"))
    records = run_study(more, tmp_path / "study", console=quiet(), isolated=False)
    assert ran == ["tfidf", "cnn-random"]
    assert [record["system"] for record in records] == ["majority", "tfidf", "cnn-random"]
    assert read_plan(tmp_path / "study/plan.toml") == more


def test_a_study_is_not_gone_on_with_by_other_settings(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["tfidf"])
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    other = replace(plan, settings={"tfidf": {"C": 0.001}}, seeds=2)
    with pytest.raises(StudyError, match="other settings of tfidf"):
        run_study(other, tmp_path / "study", console=quiet(), isolated=False)
    # What never ran may still be told how.
    more = replace(plan, systems=("tfidf", "cnn-random"), settings={"cnn-random": {"dropout": 0.2}})
    run_study(more, tmp_path / "study", console=quiet(), isolated=False)
    with pytest.raises(StudyError, match="other settings of cnn-random"):
        run_study(replace(more, settings={}), tmp_path / "study", console=quiet(), isolated=False)
    # A plan without it, and then the same again, which is what it ran with.
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    run_study(more, tmp_path / "study", console=quiet(), isolated=False)


def test_settings_that_nothing_ran_with_may_change(reviews: Path, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(reviews, tiny, systems=["tfidf"], settings={"tfidf": {"C": 3.0}})
    with monkeypatch.context() as broken:
        broken.setattr(run_module, "fit", lambda *_, **__: 1 / 0)
        (record,) = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
        assert record["status"] == "failed"
    for _ in range(2):  # the same command again is the same study
        (record,) = run_study(replace(plan, settings={}), tmp_path / "study", console=quiet(), isolated=False)
        assert (record["status"], record["settings"]["C"]) == ("done", 10.0)
    assert read_plan(tmp_path / "study/plan.toml").settings == {}


def test_fractions_alone_are_refused(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    """Their report would be empty."""
    plan = plan_of(reviews, tiny, systems=["tfidf"], fractions=[0.2, 0.5])
    with pytest.raises(SettingsError, match=r"fractions of tiny are 0.2, 0.5, expected 1 among them"):
        run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    whole = replace(plan, data=(replace(plan.data[0], fractions=(0.2, 1.0)),))
    assert len(run_study(whole, tmp_path / "study", console=quiet(), isolated=False)) == 2


def test_a_data_set_that_a_later_plan_leaves_out_is_still_known(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    first = plan_of(reviews, tiny, systems=["majority"], seeds=2)
    again = replace(first.data[0], name="again", folds=2)
    run_study(replace(first, data=(again,)), tmp_path / "study", console=quiet(), isolated=False)
    run_study(replace(first, seeds=1), tmp_path / "study", console=quiet(), isolated=False)
    kept = read_plan(tmp_path / "study/plan.toml").task("again")
    assert (kept.folds, kept.seeds, kept.systems) == (2, 2, ("majority",))
    changed = replace(first, data=(replace(again, folds=3),))
    with pytest.raises(StudyError, match="other data set again"):
        run_study(changed, tmp_path / "study", console=quiet(), isolated=False)


def test_the_log_loss_decides_between_equals_alone() -> None:
    found = [
        {"accuracy": 0.9500, "log_loss": 0.2},
        {"accuracy": 0.9505, "log_loss": 0.8},
        {"accuracy": 0.9505, "log_loss": 0.7},
    ]
    fitted = [run_module._Fitted(None, {}, 0.0, dev) for dev in found]  # type: ignore[arg-type]
    assert max(fitted, key=lambda one: one.score).dev == found[2]


def test_the_model_that_is_kept_is_the_best_on_one_dev_split(tmp_path: Path) -> None:
    """Dev scores of other folds are of other texts: the luckiest fold would have won."""
    before: list[Result] = []
    found = [
        (0, "a", 0.8, "windows"),
        (0, "b", 0.9, "mean"),
        (0, "c", 0.85, "windows"),
        (0, "d", 0.85, "windows"),  # the first of equals
        (1, "a", 0.99, "windows"),
    ]
    for fold, name, score, features in found:
        (tmp_path / CANDIDATE).mkdir()
        (tmp_path / CANDIDATE / "name").write_text(name)
        run = Run("x", name, seed=0, fold=fold)
        record = {"dev": {"accuracy": score}, "progress": [1], "settings": {"features": features}}
        _keep_winners(tmp_path, run, record, before)
        before.append(Result(**vars(run), done=True, error=None, line=record))
    assert (tmp_path / "model/name").read_text() == "b"
    assert (tmp_path / "model-cnn/name").read_text() == "c"  # which explains
    assert {one.name for one in tmp_path.iterdir()} == {"model", "model-cnn"}


def test_another_study_in_the_folder_is_not_touched(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["majority"])
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    other = replace(plan, training={"epochs": 2}, data=(replace(plan.data[0], test_fraction=0.3),))
    with pytest.raises(StudyError, match="other training, data set tiny"):
        run_study(other, tmp_path / "study", console=quiet(), isolated=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(StudyError, match="no study"):
        run_study(plan, tmp_path / "full", console=quiet(), isolated=False)


def test_one_failed_run_stops_nothing_and_is_tried_again(
    reviews: Path, tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    plan = plan_of(reviews, tiny, systems=["tfidf", "majority"])
    real = systems.fit
    fails = {"tfidf"}

    def sometimes(one, *rest, **named):
        if one.name in fails:
            raise RuntimeError("out of\nmemory")
        return real(one, *rest, **named)

    monkeypatch.setattr(run_module, "fit", sometimes)
    first, second = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert (first["status"], second["status"]) == ("failed", "done")
    assert "out of memory" in first["error"]
    fails.clear()
    records = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert {record["system"]: record["status"] for record in records} == {"tfidf": "done", "majority": "done"}


def test_tuning_gives_each_system_the_same_number_of_trials(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["tfidf", "cnn-random"], tune=3)
    fixed = replace(plan, settings={"cnn-random": {"dropout": 0.2, "head_learning_rate": 0.01}})
    for record in run_study(fixed, tmp_path / "study", console=quiet(), isolated=False):
        assert record["trials"] == 3
        assert record["chosen"]
        assert not {"dropout", "head_learning_rate"} & set(record["chosen"])
        if record["system"] == "cnn-random":
            assert record["settings"]["dropout"] == 0.2
            assert record["settings"]["kernel_sizes"] == list(record["chosen"]["kernel_sizes"])


def test_what_the_plan_says_goes_over_the_ladder_and_is_not_tuned(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["bert-cnn-frozen@half", "majority"], tune=2)
    first, second = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert (first["settings"]["num_filters"], first["settings"]["head_epochs"]) == (8, 2)
    assert not {"num_filters", "head_learning_rate"} & set(first["chosen"])
    assert (first["trials"], second["trials"]) == (2, 1)  # majority has nothing to try


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": {"depth": 2}}, "depth cannot be set"),
        ({"training": {"method": "frozen"}}, "method cannot be set"),
        ({"settings": {"tfidf": {"CC": 3}}}, "tfidf: CC cannot be set. Expected: C, min_df"),
        ({"settings": {"cnn-random": {"separator": ";"}}}, "separator cannot be set"),
    ],
)
def test_settings_without_effect_are_refused(
    reviews: Path, tmp_path: Path, values: dict[str, object], said: str
) -> None:
    plan = make_plan({"data": [{"name": "a", "source": str(reviews)}], "systems": ["tfidf", "cnn-random"], **values})
    with pytest.raises(StudyError, match=said):
        run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert not (tmp_path / "study").exists()


def test_data_that_changed_under_a_study_is_told(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["majority"])
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    lines = reviews.read_text().splitlines(keepends=True)
    reviews.write_text("".join([lines[0], *lines[2:], lines[1]]))
    with pytest.raises(StudyError, match="texts or labels in tiny"):
        run_study(plan, tmp_path / "study", console=quiet(), isolated=False)


def test_two_processes_do_not_share_a_folder(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(reviews, tiny, systems=["majority"])
    run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    with FileLock(tmp_path / "study/lock"), pytest.raises(StudyError, match="Another process"):
        run_study(plan, tmp_path / "study", console=quiet(), isolated=False)


def test_leaks_and_labels_that_only_test_has_are_warned_of(reviews: Path, tmp_path: Path) -> None:
    first = reviews.read_text().splitlines()[1].split(",")[0]
    (tmp_path / "test.csv").write_text(f"text,label\n{first},negative\nso so,a mixed one\n")
    task = {"name": "a", "source": str(reviews), "test": str(tmp_path / "test.csv")}
    plan = make_plan({"data": [task], "systems": ["tfidf"]})
    (record,) = run_study(plan, tmp_path / "study", console=quiet(), isolated=False)
    assert record["status"] == "done"
    assert any("in both" in said and "test" in said for said in record["warnings"])
    assert "label 'a mixed one' is in test and not in train" in record["warnings"]
    assert record["labels"] == ["a mixed one", "negative", "positive"]
    assert record["test"]["accuracy"] <= 0.5


def test_a_transfer_with_other_labels_is_told_before_anything_runs(reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text,label\nfine,good\n")
    elsewhere = [{"name": "b", "source": str(tmp_path / "other.csv")}]
    plan = make_plan({"data": [{"name": "a", "source": str(reviews), "transfer": elsewhere}], "systems": ["tfidf"]})
    with pytest.raises(DataError, match="good"):
        run_study(plan, tmp_path / "study", console=quiet(), isolated=False)


def test_many_labels_a_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tags.jsonl").write_text('{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": []}\n')
    with pytest.raises(DataError, match="one label a text"):
        read_task(Task(name="a", source=str(tmp_path / "tags.jsonl")))


STUDY = """
import sys
from pathlib import Path
from rich.console import Console
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from bertcnn.study.plan import read_plan
from bertcnn.study.runner import run_study
if __name__ == "__main__":
    run_study(read_plan(sys.argv[1]), Path(sys.argv[2]), console=Console())
"""


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_results(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    """Runs in processes of their own; one is killed with SIGKILL in the middle."""
    plan = plan_of(reviews, tiny, systems=["tfidf", "cnn-random", "bert-cnn-frozen@half"], seeds=2)
    write_plan(plan, tmp_path / "plan.toml")
    (tmp_path / "go.py").write_text(STUDY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "plan.toml"), str(tmp_path / folder)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    assert start("whole").wait() == 0
    killed = start("killed")
    results = tmp_path / "killed/results.jsonl"
    while not results.is_file() or results.read_text().count("\n") < 3:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(1)  # its run ends with it
    before = len(read_results(tmp_path / "killed"))
    assert 3 <= before < 6
    assert start("killed").wait() == 0
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")
    assert len(comparable(tmp_path / "whole")) == 6


@pytest.mark.slow
def test_where_no_process_can_be_forked_a_fresh_one_does_the_run(
    reviews: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    plan = plan_of(reviews, tiny, systems=["tfidf"])
    (forked,) = run_study(plan, tmp_path / "forked", console=quiet())
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    (fresh,) = run_study(plan, tmp_path / "fresh", console=quiet())
    assert (fresh["status"], fresh["test"]) == ("done", forked["test"])


@pytest.mark.slow
def test_a_run_that_dies_is_a_failed_line(reviews: Path, tiny: Path, tmp_path: Path) -> None:
    """A run that is killed by the system (memory) is a failed row; the next one runs."""
    plan = plan_of(reviews, tiny, systems=["tfidf", "majority"])
    write_plan(plan, tmp_path / "plan.toml")
    dying = STUDY.replace(
        "if __name__",
        "import os, signal\nfrom bertcnn.study import run\nreal = run.fit\n"
        "def fit(one, *a, **b):\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if one.name == 'tfidf' else None\n"
        "    return real(one, *a, **b)\nrun.fit = fit\nif __name__",
    )
    (tmp_path / "go.py").write_text(dying)
    command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path / "plan.toml"), str(tmp_path / "study")]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    first, second = read_results(tmp_path / "study")
    assert (first["status"], second["status"]) == ("failed", "done")
    assert "killed by signal 9" in first["error"]


# ---------------------------------------------------------------- data of all kinds


def rows_in(file: Path, rows: list[tuple[object, ...]], *columns: str) -> str:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns or ("text", "label"), *rows])
    return str(file)


def study_of(folder: Path, **values: object) -> list[dict[str, Any]]:
    plan = make_plan({"systems": ["majority", "tfidf"], **values})
    return run_study(plan, folder, console=quiet(), isolated=False)


def test_what_holds_for_english_alone_is_left_out_elsewhere(tmp_path: Path) -> None:
    """German "Not" is distress, and a sentence of English is no neutral one there."""
    nouns = ["Essen", "Zimmer", "Buch", "Film", "Personal", "Service", "Konzert", "Hotel"]
    rows = [
        (f"Das {noun} war {'nicht ' * (i % 2)}{word} {i}", label)
        for i, noun in enumerate(nouns * 4)
        for word, label in (("gut", "positive"), ("schlecht", "negative"))
    ]
    data = [{"name": "german", "source": rows_in(tmp_path / "german.csv", rows)}]
    records = study_of(tmp_path / "study", data=data)
    for record in records:
        assert set(record["flips"]) == {"typos", "lower case", "upper case"}  # there is no punctuation to take away
        assert record["behaviour"] is None
        assert any("do not seem to be English" in said for said in record["warnings"])
    report = write_report(tmp_path / "study")
    assert all(one.negation is None for one in report.verdict)
    assert "negation" not in {one.kind for data in report.data for one in data.slices}


def test_a_study_of_emoji_lone_surrogates_and_numbers_written_twice(tmp_path: Path) -> None:
    signs = {"1": "\U0001f600", "2": "\U0001f621"}
    rows: list[tuple[object, ...]] = [(signs[label] * (1 + i), label) for i in range(20) for label in signs]
    test: list[tuple[object, ...]] = [(signs[label] * (30 + i), f"{label}.0") for i in range(10) for label in signs]
    data = {
        "name": "smileys",
        "source": rows_in(tmp_path / "all.csv", rows),
        "test": rows_in(tmp_path / "test.csv", test),
    }
    _, counted = study_of(tmp_path / "study", data=[data])
    assert counted["test"]["accuracy"] == 1
    assert counted["labels"] == ["1", "2"]
    lines = tmp_path / "study" / "texts" / "smileys.jsonl"
    lines.write_text(lines.read_text().replace("ud83d", "ud83d\\ud83d", 1))
    write_report(tmp_path / "study")
    assert (tmp_path / "study" / "report.html").is_file()


def test_halves_of_labels_that_are_as_common_are_none(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(f"the text {i}", f"l{i % 4}") for i in range(40)]
    even = read_task(Task(name="a", source=rows_in(tmp_path / "even.csv", rows)))
    assert not any("label frequency" in one for one in slices_of(even))
    more = rows_in(tmp_path / "uneven.csv", [*rows, ("the one", "l0"), ("the two", "l1")])
    uneven = read_task(Task(name="a", source=more))
    assert {one["label"] for one in slices_of(uneven) if one["label frequency"] == "commoner half"} == {"l0", "l1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "id"}, "is it the label"),
        ({"folds": 4, "fold_column": "fould"}, "no column 'fould'"),
        ({"folds": 3, "fold_column": "fold"}, "has 4 different values, expected 3"),
        ({"folds": 9}, "cannot be divided into 9 folds"),
        ({"dev": "odd.csv"}, r"odd.*not among those to learn from.*'odd'|labels that are not.*'odd'"),
        ({"test": "odd.csv"}, "not among those to learn from"),
    ],
)
def test_faults_of_the_data_are_told_before_anything_runs(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows: list[tuple[object, ...]] = [(f"the text {i}", "ab"[i % 2], f"n{i}", i % 4) for i in range(16)]
    names = ("text", "label", "id", "fold")
    rows_in(tmp_path / "odd.csv", [("the odd one", "odd", "n", 0), ("the other", "odd", "n", 0)], *names)
    files = {name: str(tmp_path / value) for name, value in change.items() if name in {"dev", "test"}}
    source = rows_in(tmp_path / "all.csv", rows, *names)
    with pytest.raises(DataError, match=said):
        study_of(tmp_path / "study", data=[{"name": "few", "source": source, **change, **files}])
    assert not (tmp_path / "study").exists()


def test_notes_on_the_texts_and_an_encoder_that_is_no_setting(reviews: Path, tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(f"the text {i}", ("food|price", "food", "price")[i % 3]) for i in range(30)]
    heard = Console(file=io.StringIO(), width=300)
    data = [{"name": "lists", "source": rows_in(tmp_path / "lists.csv", [*rows, ("the text 0", "price")])}]
    run_study(make_plan({"data": data, "systems": ["majority"]}), tmp_path / "study", console=heard, isolated=False)
    said = heard.file.getvalue()  # type: ignore[attr-defined]
    assert "lists: the training texts hold 1 duplicate text" in said
    assert "look like lists of labels, such as 'food|price'" in said
    assert "--separator" not in said, "compare has no such flag"
    plan = plan_of(reviews, "minilm", systems=["cnn-pieces"], settings={"cnn-pieces": {"encoder": "another"}})
    with pytest.raises(StudyError, match="encoder cannot be set"):
        run_study(plan, tmp_path / "another", console=quiet(), isolated=False)


def test_a_run_whose_answers_were_lost_is_run_again(reviews: Path, tmp_path: Path) -> None:
    data = [{"name": "tiny", "source": str(reviews)}]
    study_of(tmp_path / "study", data=data)
    (lost,) = (tmp_path / "study" / "outcomes").glob("*tfidf*.npz")
    lost.unlink()
    study_of(tmp_path / "study", data=data)
    assert lost.is_file()
