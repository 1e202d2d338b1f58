"""The report of a study: what it says is what the tests say, and the page shows what the structure holds."""

import csv
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bertcnn.errors import StudyError
from bertcnn.inference.metrics import Estimate
from bertcnn.study import tables
from bertcnn.study.evidence import read_study
from bertcnn.study.report import Report, write_report
from bertcnn.study.statistics import Outcomes, compare, holm
from bertcnn.study.verdict import (
    Answer,
    SliceShare,
    contradictions,
    judge,
    mean_difference,
    over_data,
    p_text,
    part_of,
    sentence,
    sides,
)
from tests.study_folder import FAR, make_study

SOME = ("majority", "tfidf", "cnn-tuned", "cnn-pieces", "bert-cnn-frozen@half", "bert-mean@all", "bert-cnn@half")
ATTACK = '<script>alert("x")</script> & | `x`'
EVERY = {
    "verdict", "differences", "systems", "frontier", "curves", "slices",
    "robustness", "behaviour", "transfer", "reliability", "examples", "made",
}  # fmt: skip


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.sections: set[str] = set()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.data = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self._open.append(tag)
        if tag == "img":
            self.pictures.append(values)
        if tag == "section":
            self.sections.add(values["id"] or "")
        if tag in ("td", "th"):
            self.cells.append("")
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._open:
            self.data += data
        elif self.cells and {"td", "th"} & set(self._open):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[Path, Report, str]:
    """One data set, some systems, everything in it."""
    folder = make_study(
        tmp_path_factory.mktemp("study") / "one",
        systems=SOME,
        seeds=2,
        fractions=(0.25, 1.0),
        failed=[("sst2", "tfidf", 1)],
        missing=[("sst2", "cnn-pieces", 0), ("sst2", "cnn-pieces", 1)],
        text=lambda i: f"{ATTACK} number {i}",
    )
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"schema": 1, "data": "ss')
    return folder, write_report(folder), (folder / "report.html").read_text("utf-8")


def made_answer(value=0.091, low=0.078, high=0.104, p_value=1e-6, **more) -> Answer:
    values = {
        "question": "BERT", "asks": "What?", "data": "sst2", "left": "bert-cnn@half", "right": "cnn-tuned",
        "difference": Estimate(value, low, high), "p_value": p_value, "adjusted": p_value, "test": "McNemar, exact",
        "only_left": 100, "only_right": 21, "smallest": 0.012, "texts": 872, "seeds": 1, "negation": None,
    }  # fmt: skip
    return Answer(**{**values, **more})


# ---- the verdict


def test_a_difference_that_is_shown():
    (found,) = judge([made_answer()], {"BERT": "BERT"})
    assert found.shown
    assert found.sentence == (
        "BERT adds 9.1 points [7.8, 10.4] "
        "(bert-cnn@half against cnn-tuned, 872 texts, one seed, McNemar, exact, p < 0.001 after Holm)."
    )


def test_a_difference_that_is_not_shown_says_what_would_have_been():
    (found,) = judge([made_answer(0.004, -0.003, 0.011, 0.4)], {"BERT": "the convolution"})
    assert not found.shown
    assert found.sentence == (
        "The convolution adds 0.4 points [-0.3, 1.1]: not shown "
        "(bert-cnn@half against cnn-tuned, 872 texts, one seed, McNemar, exact, p = 0.40 after Holm); "
        "as the only question, 1.2 points would have been shown four times in five."
    )


def test_at_least_as_good_is_asked_of_the_interval():
    close, open_ = (
        judge([made_answer(0.002, low, 0.014, 0.7)], {}, {"BERT": 0.01})[0].sentence for low in (-0.009, -0.011)
    )
    assert close.endswith("By the interval, which is not corrected, it is at most 1 point worse.")
    assert open_.endswith("That it is at most 1 point worse is not shown: by the interval it may cost 1.1 points.")


def test_a_loss_is_told_as_a_cost_with_its_interval_turned():
    (found,) = judge([made_answer(-0.021, -0.032, -0.010, 1e-4, seeds=3)], {"BERT": "cutting BERT"})
    assert found.sentence.startswith("Cutting BERT costs 2.1 points [1.0, 3.2] (")
    assert "872 texts, 3 seeds, " in found.sentence


def test_what_only_holm_stops_is_said_and_not_called_too_small():
    judged = judge([made_answer(p_value=0.03), made_answer(0.0, -0.01, 0.01, 0.9, right="tfidf")], {})
    assert not judged[0].shown
    assert judged[0].sentence.endswith("p = 0.060 after Holm); p = 0.030 as the only question.")
    assert "would have been shown" not in judged[0].sentence


def test_holm_is_over_all_answers():
    raw = [0.01, 0.04, 0.03, 0.005]
    judged = judge([made_answer(p_value=p, right=f"cnn-{p}") for p in raw], {})
    assert [one.adjusted for one in judged] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [one.shown for one in judged] == [True, False, False, True]
    twice = [
        *(made_answer(p_value=p, right=f"cnn-{p}") for p in raw),
        made_answer(p_value=0.01, right="cnn-0.01", question="context"),
    ]
    assert [one.adjusted for one in judge(twice, {})] == pytest.approx([0.03, 0.06, 0.06, 0.02, 0.03])


def test_no_difference_has_no_minus_sign():
    assert "adds 0.0 points [-0.1, 0.0]" in sentence(made_answer(0.0, -0.001, -0.0001, 1.0), "BERT")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            SliceShare(0.2, 50, 100),
            "50 % of this gain (50 of 100 right answers) falls on texts with negation, which are 20 %",
        ),
        (SliceShare(0.2, -3, 100), "None of this gain"),
        (SliceShare(0.2, 120, 100), "All of this gain"),
        (SliceShare(0.2, -40, -100), "40 % of this loss (40 of 100"),
    ],
)
def test_the_part_on_texts_with_negation(part, said):
    assert said in judge([made_answer(negation=part)], {})[0].sentence


def test_over_several_data_sets():
    answers = judge(
        [
            made_answer(data="a"),
            made_answer(-0.05, -0.08, -0.02, 1e-6, data="b"),
            made_answer(0.0, -0.01, 0.01, 0.8, data="c"),
        ],
        {},
    )
    said = over_data(answers)
    assert said.startswith("Shown on 2 of 3 data sets: better on a; worse on b; not shown on c. Their mean: ")
    assert over_data(answers[2:]) == "Not shown on any of 1 data sets. Their mean: +0.0 points [-1.0, +1.0]."


def test_at_least_as_good_over_several_data_sets():
    answers = judge([made_answer(0.0, -0.004, 0.004, 0.9, data="a"), made_answer(0.0, -0.02, 0.02, 0.9, data="b")], {})
    assert over_data(answers, 0.01).endswith(
        "At most 1 point worse by their intervals: a; for the mean that is not shown."
    )
    assert over_data(answers[:1] * 2, 0.01).endswith(
        "At most 1 point worse by their intervals: a, a; for the mean so it is."
    )
    assert over_data(answers, 0.01).startswith("No difference shown on any of 2 data sets.")


def test_the_mean_over_data_sets_has_the_interval_of_a_mean_of_independent_ones():
    found = mean_difference([Estimate(0.04, 0.01, 0.07), Estimate(0.00, -0.04, 0.04)])
    # Half-widths of 3 and 4 points: the mean's is sqrt(3^2 + 4^2) / 2.
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.02 - 0.025, 0.02 + 0.025))


def test_the_mean_over_data_sets_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truths, errors = np.array([0.01, -0.02, 0.0, 0.03]), np.array([0.01, 0.02, 0.005, 0.015])
    hits = 0
    for drawn in generator.normal(truths, errors, (2000, 4)):
        found = mean_difference([Estimate(x, x - 1.96 * e, x + 1.96 * e) for x, e in zip(drawn, errors, strict=True)])
        hits += found.low <= truths.mean() <= found.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_shown_with_an_interval_that_holds_0_is_called_a_contradiction():
    wrong, right = judge([made_answer(0.003, -0.017, 0.022, 1e-6), made_answer()], {})
    assert contradictions([right]) == []
    assert contradictions([wrong, right]) == [
        "BERT, sst2: shown, yet the interval holds 0. The test and the interval disagree."
    ]


@pytest.mark.parametrize(("p", "said"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.0996, "0.10"), (1.0, "1.00")])
def test_p_text(p, said):
    assert p_text(p) == said


def test_sides_are_picked_on_the_runs_that_both_share():
    dev = {
        "a": {(0, None): 0.80, (1, None): 0.99},  # better only in a seed that the other side lacks
        "b": {(0, None): 0.85, (1, None): 0.70},
        "x": {(0, None): 0.60},
    }
    assert sides(("a", "b", "absent"), ("x",), dev) == ("b", "x")
    assert sides(("absent",), ("x",), dev) is None
    lucky = {"a": {(0, i): 0.8 for i in range(10)}, "b": {(0, 3): 0.95}, "x": {(0, i): 0.7 for i in range(10)}}
    assert sides(("a", "b"), ("x",), lucky) == ("a", "x")  # one easy fold stands for nobody
    two = {name: {(0, None): score} for name, score in {"a": 0.8, "b": 0.9, "x": 0.9, "y": 0.5}.items()}
    assert sides(("a", "b"), ("x", "y"), two) == ("b", "x")
    assert sides(("a", "b"), ("x", "y"), two, matched=True) == ("a", "x")
    assert sides(("a",), ("x",), {"a": {(0, None): 0.5}, "x": {(1, None): 0.5}}) is None


def test_part_of_counts_pairs():
    ids, zero = np.arange(4), np.zeros(4, dtype=np.int64)
    a = Outcomes(ids, zero, zero, np.array([0, 0, 0, 1]))
    b = Outcomes(ids, zero, zero, np.array([1, 1, 0, 0]))
    assert part_of(a, b, [0, 2]) == SliceShare(0.5, 1, 1)
    assert part_of(a, b, []) is None


# ---- the report


def test_answers_are_those_of_the_statistics(one):
    folder, report, _ = one
    study = read_study(folder)
    raw = []
    for found in report.verdict:
        left, right = study.pooled(found.data, found.left), study.pooled(found.data, found.right)
        again = compare(left.outcomes, right.outcomes)
        assert (again.difference, again.p_value) == (found.difference, found.p_value)
        raw.append(again.p_value)
    assert [found.adjusted for found in report.verdict] == holm(raw)
    assert {found.question for found in report.verdict} >= {"BERT", "words"}
    assert report.verdict[0].left in {"bert-cnn@half", "bert-cnn-frozen@half"}
    assert not [note for note in report.notes if "disagree" in note]
    assert all(found.adjusted >= found.p_value for found in report.verdict)


def test_scores_are_those_of_the_lines(one):
    folder, report, _ = one
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()[:-1]]
    for row in report.data[0].rows:
        done = [x for x in lines if x["system"] == row.system and x["status"] == "done" and x["fraction"] == 1]
        assert row.runs == len(done)
        if done:
            assert row.accuracy.value == pytest.approx(np.mean([x["test"]["accuracy"] for x in done]))
            assert row.dev_accuracy == pytest.approx(np.mean([x["dev"]["accuracy"] for x in done]))
            assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high


def test_the_page_holds_the_structure(one):
    _, report, text = one
    page = Page(text)
    assert json.loads(page.data) == json.loads(json.dumps(report.to_dict()))
    assert page.sections == EVERY


def test_every_table_of_the_structure_is_on_the_page(one):
    _, report, text = one
    cells = set(Page(text).cells)
    (data,) = report.data
    made = [tables.scores(data), tables.costs(data), tables.points(data), tables.by_slice(data), tables.flips(data)]
    made += [tables.behaviour(data), tables.transfer(data), tables.verdict(report), tables.made(report)]
    made += [table for _, table in tables.disagreements(data.disagreement)]
    for table in made:
        assert {cell.text for line in table.lines for cell in line.cells} <= cells
        assert set(table.columns) <= cells
    for found in report.verdict:
        words = " ".join(html.unescape(re.sub("<.*?>", "", text)).split())
        assert " ".join(found.sentence.split()) in words


def test_figures_are_written_as_they_are():
    assert tables.estimate(Estimate(0.8741, 0.8506, 0.8949)) == "87.4 [85.1, 89.5]"
    assert [tables.amount(x) for x in (None, 950, 4.2e6, 22_713_216, 1.07e9)] == [
        "",
        "950",
        "4.2 M",
        "22.7 M",
        "1.07 G",
    ]
    assert [tables.plain(x) for x in (None, 0.0027, 0.35, 21.5, 1450.4, 4)] == [
        "",
        "0.0027",
        "0.35",
        "21.5",
        "1,450",
        "4",
    ]


def test_pictures_are_in_the_page_and_it_asks_the_network_for_nothing(one):
    _, _, text = one
    page = Page(text)
    assert len(page.pictures) == 4  # differences, speed, less data, calibration
    assert all(one["src"].startswith("data:image/svg+xml;base64,") and one["alt"] for one in page.pictures)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(text) < 1_500_000


def test_texts_are_escaped(one):
    folder, report, text = one
    assert report.data[0].disagreement.only_left[0].text.startswith(ATTACK)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert any(cell.startswith(ATTACK) for cell in page.cells)
    markdown = (folder / "report.md").read_text("utf-8")
    assert "<script" not in markdown
    assert "&lt;script&gt;" in markdown


def test_failed_and_missing_runs_are_shown(one):
    _, report, text = one
    rows = {row.system: row for row in report.data[0].rows}
    assert (rows["tfidf"].runs, rows["tfidf"].expected) == (1, 2)
    cells = Page(text).cells
    assert "1 failed. seed 1: MemoryError: 4 GiB asked, 2 GiB free" in cells
    assert "1 of 2" in cells
    assert rows["cnn-pieces"].accuracy is None
    assert "not run" in cells
    assert report.counts == {"done": 22, "failed": 2, "missing": 4, "broken": 1}
    assert [row.system for row in report.data[0].rows if row.best] == ["bert-mean@all"]


def test_far_negation_stands_first(one):
    _, report, _ = one
    assert tables.behaviour(report.data[0]).lines[0].cells[0].text == FAR


def test_markdown_has_the_verdict_and_whole_tables(one):
    folder, report, _ = one
    markdown = (folder / "report.md").read_text("utf-8")
    assert report.verdict[0].sentence.replace("<", "&lt;") in markdown
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    assert len(blocks) >= 10
    for block in blocks:
        lines = block.splitlines()
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, block
        assert set(lines[1]) <= set("|-: ")


def test_the_csv_has_a_row_a_run(one):
    folder, _, _ = one
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert {row["status"] for row in rows} == {"done", "failed"}
    assert float(next(row for row in rows if row["system"] == "bert-cnn@half")["cost.texts_per_second"]) == 290
    assert f"behaviour.{FAR}.failures" in rows[0]


def test_nothing_half_written_is_left(one):
    folder, _, _ = one
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "plan.toml", "results.jsonl", "report.html", "report.md", "results.csv",
    }  # fmt: skip


def test_three_data_sets_and_no_curves(tmp_path):
    names = ("sst2", "cr", "mpqa")
    folder = make_study(tmp_path / "s", data=names, systems=("tfidf", "cnn-tuned", "bert-cnn@half"), texts=120)
    report = write_report(folder)
    assert [data.name for data in report.data] == list(names)
    assert re.search(r"(Shown on \d of|Not shown on any of) 3 data sets", report.over_data["BERT"])
    page = Page((folder / "report.html").read_text("utf-8"))
    assert page.sections == EVERY - {"curves"}
    assert all(found.test.startswith("McNemar") for found in report.verdict)


def test_systems_that_answer_no_question(tmp_path):
    report = write_report(make_study(tmp_path / "s", systems=("tfidf",), texts=60))
    assert report.verdict == ()
    assert "No question can be answered yet" in (tmp_path / "s" / "report.html").read_text("utf-8")


def test_where_no_question_is_answered_the_best_two_are_compared(tmp_path):
    """Else the report of a natural subset had an empty verdict."""
    names = ("majority", "tfidf", "bert-cnn-frozen@half")
    folder = make_study(tmp_path / "s", systems=names, texts=200)
    (found,) = write_report(folder).verdict
    assert (found.question, found.left, found.right) == ("the best two", "bert-cnn-frozen@half", "tfidf")
    study = read_study(folder)
    again = compare(*(study.pooled("sst2", name).outcomes for name in (found.left, found.right)))
    assert (found.difference, found.p_value, found.adjusted) == (again.difference, again.p_value, again.p_value)
    assert found.sentence.startswith(("bert-cnn-frozen@half adds", "bert-cnn-frozen@half costs"))
    assert "Which of the two systems" in (folder / "report.html").read_text("utf-8")


def test_a_system_of_another_version_has_its_row(tmp_path):
    folder = make_study(tmp_path / "s", systems=("tfidf", "cnn-random", "cnn-tuned"), texts=60)
    results = folder / "results.jsonl"
    results.write_text(results.read_text().replace('"cnn-tuned"', '"cnn-of-another-version"'))
    write_report(folder)
    assert "cnn-of-another-version" in (folder / "report.md").read_text("utf-8")


def test_the_best_two_are_any_two(tmp_path):
    skill = {"bert-cnn@mix": 0.9, "bert-mean@mix": 0.6}
    folder = make_study(tmp_path / "s", systems=("tfidf", *skill), texts=200, skill=skill)
    (found,) = write_report(folder).verdict
    assert (found.left, found.right) == ("bert-cnn@mix", "tfidf")


def test_what_was_tested_on_fewer_texts_is_not_ranked(tmp_path):
    """A system that failed on the hard fold was called the best, and stood alone on the frontier."""
    folder = make_study(tmp_path / "s", systems=("tfidf", "cnn-random", "majority"), seeds=2, texts=90)
    for seed, name in product((0, 1), ("tfidf", "cnn-random", "majority")):  # seeds that divide the texts otherwise
        file = folder / "outcomes" / f"sst2--{name}--{seed}--all--1.npz"
        arrays = dict(np.load(file))
        np.savez(file, **{**arrays, "example": arrays["example"] + 90 * seed})
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        if line["system"] == "cnn-random":
            line["dev"]["accuracy"] = 0.99
            line["cost"]["texts_per_second"] = 1e9
            line["status"] = "failed" if line["seed"] else "done"
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = write_report(folder)
    rows = {row.system: row for row in report.data[0].rows}
    assert [name for name, row in rows.items() if row.best] == ["tfidf"]
    assert (rows["cnn-random"].on_frontier, rows["tfidf"].on_frontier) == (None, True)
    assert all("cnn-random" not in one.accuracy for one in report.data[0].slices)
    assert any("other texts than most" in said and "cnn-random (1 of 2 runs)" in said for said in report.notes)


def test_where_no_two_were_tested_on_the_same_none_is_the_best(tmp_path):
    """Of a study that was stopped, the one system with the most folds was called the best."""
    folder = make_study(tmp_path / "s", systems=("tfidf", "majority"), texts=90)
    file = folder / "outcomes" / "sst2--tfidf--0--all--1.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "example": arrays["example"] + 90})
    report = write_report(folder)
    assert not any(row.best or row.on_frontier for row in report.data[0].rows)
    assert report.data[0].slices == ()


def test_runs_of_other_settings_are_told(tmp_path):
    folder = make_study(tmp_path / "s", systems=("tfidf", "cnn-random"), seeds=2, texts=60)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        size = 8 if line["seed"] and line["system"] == "cnn-random" else "auto" if line["seed"] else 32
        line["settings"] = {"seed": line["seed"], "batch_size": size, "dropout": 0.1 * line["seed"]}
        line["chosen"] = {"dropout": line["settings"]["dropout"]}
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = [note for note in write_report(folder).notes if "different settings" in note]
    assert told == ["sst2, cnn-random: runs with different settings are taken together (batch_size auto and 8)."]


def test_settings_are_told_and_so_are_pairs_that_differ_by_more_than_the_question(tmp_path):
    skill = {"bert-mean@half": 0.9}
    folder = make_study(tmp_path / "s", systems=("tfidf", "bert-cnn@half", *skill), texts=60, skill=skill)
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        if line["system"] != "tfidf":
            mean = line["system"] == "bert-mean@half"
            own = {"features": "mean" if mean else "windows", "patience": 3 * mean}
            line["settings"] = {"encoder": "/somewhere/minilm", "epochs": 3, "seed": line["seed"], **own}
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = write_report(folder)
    assert report.settings == {
        "all networks": "encoder minilm; epochs 3",
        "bert-cnn@half": "features windows; patience 0",
        "bert-mean@half": "features mean; patience 3",
    }
    assert "sst2: bert-cnn@half and bert-mean@half were run with different settings (patience 0 and 3)." in report.notes
    assert "encoder minilm; epochs 3" in (folder / "report.html").read_text("utf-8")


def test_points_of_a_curve_rest_on_the_same_seeds(tmp_path):
    folder = make_study(
        tmp_path / "s", systems=("tfidf", "majority"), seeds=2, fractions=(0.1, 1.0), texts=200, skill={"tfidf": 0.9}
    )
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    kept = [line for line in lines if not (line["system"] == "tfidf" and line["seed"] == 1 and line["fraction"] == 1)]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    report = write_report(folder)
    of = {curve.system: curve for curve in report.data[0].curves}
    scores = {
        line["fraction"]: line["test"]["accuracy"] for line in kept if (line["system"], line["seed"]) == ("tfidf", 0)
    }
    assert [score for _, score in of["tfidf"].points] == [scores[0.1], scores[1.0]]
    assert of["majority"].needs["tfidf"] is None
    assert "more than 6,920" in (folder / "report.md").read_text("utf-8")


def test_lost_and_broken_files_are_told(tmp_path):
    folder = make_study(tmp_path / "s", systems=("tfidf", "cnn-tuned", "bert-cnn@half"), texts=60)
    (folder / "outcomes" / "sst2--tfidf--0--all--1.npz").unlink()
    broken = folder / "outcomes" / "sst2--cnn-tuned--0--all--1.npz"
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "plan.toml").unlink()
    report = write_report(folder)
    assert report.verdict == ()
    assert any("no file of outcomes" in note for note in report.notes)
    assert any("cannot be read (BadZipFile)" in note for note in report.notes)
    assert any("plan.toml" in note for note in report.notes)


def test_a_run_that_was_tried_again_counts_once(tmp_path):
    folder = make_study(tmp_path / "s", systems=("tfidf",), texts=60)
    path = folder / "results.jsonl"
    line = path.read_text()
    failed = json.dumps({**json.loads(line), "status": "failed", "error": "killed"})
    path.write_text(failed + "\n\nnonsense\n[]\n" + line)
    study = read_study(folder)
    assert [run.done for run in study.runs] == [True]
    assert study.broken == 2


def test_a_folder_without_runs_says_so(tmp_path):
    with pytest.raises(StudyError, match=r"has no results\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "results.jsonl").write_text("{\n")
    with pytest.raises(StudyError, match="no run that can be read"):
        write_report(tmp_path)


def test_the_report_loads_no_torch():
    code = "import sys, bertcnn.study.report; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_browser_draws_it(one, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    folder, _, _ = one
    shot = tmp_path / "page.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,2000", f"--screenshot={shot}"]
    page = (folder / "report.html").as_uri()
    subprocess.run([browser, *options, page], check=True, capture_output=True, timeout=60)
    from PIL import Image

    with Image.open(shot) as picture:
        assert picture.size == (1200, 2000)
        assert len(picture.convert("RGB").getcolors(1 << 22)) > 50
