"""Insights: the sums are brute force's, phrases fold, filters are told apart, and the page and tables agree."""

import csv
import json
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from bertcnn import BertCNN, DataError, ModelError, Predictor, Settings
from bertcnn.apps.insights import _labels
from bertcnn.apps.insights import insights as command
from bertcnn.inference.explaining.explain import explain
from bertcnn.inference.explaining.winners import Span, Winners
from bertcnn.inference.export import export_onnx
from bertcnn.inference.insights import collect as module
from bertcnn.inference.insights import mistakes
from bertcnn.inference.insights.collect import insights
from bertcnn.inference.insights.groups import MOST_GROUPS, GroupColumn
from bertcnn.inference.insights.mistakes import can_judge, probable_mistakes
from bertcnn.inference.insights.phrases import PhraseTable, names_of
from bertcnn.inference.insights.report import insights_page, write_insights
from bertcnn.inference.insights.result import Insights
from bertcnn.network.encoder import load_tokenizer
from bertcnn.settings import change
from bertcnn.text.read_table import read_rows
from tests.conftest import make_texts

KINDS = {
    "two labels": {},
    "four labels": {"num_labels": 4},
    "many labels a text": {"num_labels": 3, "multi_label": True},
}
ODD = ["", " ", "good", "Good!", "the film was not bad, not bad at all", "a\n very\tgood film.", "\ud800 \U0001f600"]


@cache
def random_model(tiny: str, kind: str) -> Predictor:
    torch.manual_seed(3)
    model = BertCNN.from_encoder(
        tiny, depth=2, num_filters=6, kernel_sizes=(1, 2), max_length=16, overlap=4, **KINDS[kind]
    )
    for part in (model.head.cnn.weight, model.head.cnn.bias, model.head.classifier.weight, model.head.classifier.bias):
        torch.nn.init.normal_(part, std=0.5)
    return Predictor(model, load_tokenizer(tiny))


@pytest.fixture(params=KINDS)
def any_model(request: pytest.FixtureRequest, tiny: str) -> Predictor:
    return random_model(tiny, request.param)


@pytest.fixture
def two(tiny: str) -> Predictor:
    return random_model(tiny, "two labels")


def the_texts(count: int = 60) -> list[str]:
    return ODD + make_texts(count)[0]


def plain(text: str, start: int, end: int) -> str:
    """Characters of a text as they are counted: out to whole words, without marks at the ends."""
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    whole = " ".join(text[start:end].casefold().split())
    return re.sub(r"^[^\w']+|[^\w']+$", "", whole) or whole


# ---- sums


def brute_force(predictor: Predictor, texts: list[str]) -> dict[tuple[str, str], tuple[float, set[int]]]:
    """For each label and phrase its total and texts, from whole explanations."""
    totals: dict[tuple[str, str], float] = defaultdict(float)
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, one in enumerate(explain(predictor, texts)):
        if predictor.is_multi_label:
            signs = {(name, None): 1.0 for name in one.labels}
        else:
            why = one.decision
            signs = {(why.label, why.other): 1.0, (why.other, why.label): 1.0}
        for label, other in signs:
            shares = one.against(label, other).shares
            for phrase, share in zip(one.phrases, shares, strict=True):
                if phrase.end > phrase.start:
                    name = plain(one.text, phrase.start, phrase.end)
                    totals[label, name] += share
                    where[label, name].add(number)
    return {key: (totals[key], where[key]) for key in totals}


def test_totals_are_the_sums_of_all_explanations(any_model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 16)
    texts = [text for text in the_texts() if text.isascii()]
    wanted = brute_force(any_model, texts)
    found = insights(any_model, texts)
    answers = [one.label.split("|") for one in any_model.predict(texts)]
    drivers = {(label.name, one.phrase): (label, one) for label in found.labels for one in label.drivers}
    assert len(drivers) > 30
    members = []
    for (name, phrase), (_, one) in drivers.items():
        keys = [(name, form) for form in (phrase, *one.forms)]
        members += keys
        assert one.total == pytest.approx(sum(wanted[key][0] for key in keys), abs=1e-4)
        union = set().union(*(wanted[key][1] for key in keys))
        assert one.texts == len(union)
        assert one.answered == sum(name in answers[i] for i in union)
    assert len(members) == len(set(members))  # nothing is counted twice
    assert {key for key, (total, _) in wanted.items() if total > 1e-4} <= set(members)
    assert {label.name: label.texts for label in found.labels} == {
        name: sum(name in answer for answer in answers) for name in any_model.label_names
    }
    assert found.no_label == sum(answer == [""] for answer in answers)


def test_it_reads_a_stream_in_chunks(two: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a chunk of texts is asked for ahead, and what is found does not hang on the chunks."""
    texts = the_texts()
    whole = insights(two, texts)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 8)
    monkeypatch.setattr(module, "IN_MEMORY", 100)  # the texts wait on disk
    given, ahead = 0, []

    def stream() -> object:
        nonlocal given
        for text in texts:
            given += 1
            yield text

    parts = insights(two, stream(), progress=lambda read: ahead.append(given - read))
    assert max(ahead) <= 8
    assert [[(d.phrase, d.texts, d.examples) for d in label.drivers] for label in parts.labels] == [
        [(d.phrase, d.texts, d.examples) for d in label.drivers] for label in whole.labels
    ]
    assert [one.text for one in parts.unsure.texts] == [one.text for one in whole.unsure.texts]


def span(text: str) -> Span:
    return Span(0, len(text), text)


def filled(rows: list[dict[str, float]], *, most: int = 1000) -> PhraseTable:
    """A table of texts that were all answered with label 0, in which phrases pulled so much."""
    table = PhraseTable(2, most=most)
    for number, phrases in enumerate(rows):
        shares = np.array([[share, -share] for share in phrases.values()]).reshape(-1, 2)
        table.add(number, [span(name) for name in phrases], np.array([0, 1]), shares, np.array([0]))
    return table


def test_forms_of_a_phrase_are_folded() -> None:
    rows = [{"waste": 2.0, "a waste": 1.0, "waste of time": 1.5}] * 4 + [{"waste": 2.0}] * 4
    rows += [{"bad": 2.0}] * 5 + [{"bad": 0.5, "not bad": -3.0}] * 5 + [{"a": 0.01, "a poor": 2.5}] + [{"a": 0.01}] * 30
    table, in_play = filled(rows), np.ones(len(rows), dtype=bool)
    answered = np.arange(len(rows)) < 18  # all but those with "a"
    families = {one.phrase: one for one in table.families(0, in_play, answered, most=10)}
    assert families["waste"].forms == ("waste of time", "a waste")
    assert families["waste"].total == pytest.approx(8 * 2 + 4 * 2.5)
    assert len(families["waste"].texts) == 8
    assert families["bad"].forms == ()  # "not bad" pulls the other way
    assert next(one.phrase for one in table.families(1, in_play, ~answered, most=10)) == "not bad"
    assert families["a poor"].forms == ()
    assert families["a"].forms == ()  # it pulls too little to have forms
    assert families["waste"].is_telling
    assert not families["a"].is_telling
    assert not families["a poor"].is_telling  # a single text


def test_a_full_table_forgets_the_weak_and_says_what_that_can_cost() -> None:
    generator = np.random.default_rng(0)
    rows = [{"strong": 5.0, f"rare {i}": float(generator.uniform(0, 1)), "common": 0.5} for i in range(200)]
    table = filled(rows, most=40)
    assert len(table) <= 40
    assert table.total("strong", 0) == 1000
    assert table.total("strong", 1) == -1000
    assert table.lost > 0
    assert 100 - table.lost <= table.total("common", 0) <= 100
    assert filled(rows).lost == 0
    one = table.families(0, *np.ones((2, 200), dtype=bool), most=3)[0]
    assert (one.phrase, len(one.texts), [found.share for found in one.found]) == ("strong", 200, [5.0] * 3)


def test_the_modules_load_no_torch() -> None:
    code = "import sys, bertcnn.inference.insights.collect, bertcnn.apps.insights; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_phrase_is_whole_words_without_marks(two: Predictor) -> None:
    text = "It's (really) good..., isn't  it? !!"
    one = Winners(
        text, np.zeros(1), np.zeros((1, 2)), 1, 1, np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    )
    wanted = {
        "It": "it's",
        "(rea": "really",
        "ally) go": "really) good",
        ") good.": "good",
        "t  it?": "isn't it",
        "!!": "!!",
    }
    at = {piece: text.index(piece) for piece in wanted}
    spans = (*(Span(at[piece], at[piece] + len(piece), piece) for piece in wanted), Span(0, 0, "(start)"))
    one.__dict__["_phrases"] = (spans, np.zeros(0), np.zeros((0, 2)))
    names = names_of(one)
    assert [name.text for name in names] == [*wanted.values(), "(start)"]
    assert all(" ".join(text[n.start : n.end].casefold().split()) == n.text for n in names if n.end > n.start)


def test_examples_stand_in_their_rows(any_model: Predictor) -> None:
    texts = the_texts()
    answers = [one.label.split("|") for one in any_model.predict(texts)]
    found = insights(any_model, texts)
    seen = 0
    for label in found.labels:
        for driver in label.drivers:
            assert len({one.row for one in driver.examples}) == len(driver.examples) <= 3
            for one in driver.examples:
                seen += 1
                assert label.name in answers[one.row - 1]
                assert " ".join(one.phrase.casefold().split()) in {driver.phrase, *driver.forms}
                assert one.phrase in " ".join(texts[one.row - 1].split())
    assert seen > 20


# ---- groups


def column(values: list[object]) -> tuple[list[str], list[int]]:
    made = GroupColumn()
    for value in values:
        made.add(value)
    names, rows = made.groups()
    return names, rows.tolist()


def test_dates_are_days_months_or_years() -> None:
    assert column(["2024-05-02", "2024-05-01", None, "2024-05-02"]) == (
        ["2024-05-01", "2024-05-02", "(none)"],
        [1, 0, 2, 1],
    )
    days = [f"2024-{month:02d}-{day:02d}T10:00:00" for month in range(1, 13) for day in range(1, 29)]
    names, rows = column(days)
    assert names == [f"2024-{month:02d}" for month in range(1, 13)]
    assert np.bincount(rows).tolist() == [28] * 12
    assert column([f"{year}-{month:02d}-01" for year in range(1990, 2000) for month in range(1, 13)])[0][0] == "1990"


def test_a_few_values_that_are_no_dates_leave_the_others_dates() -> None:
    days = [f"2024-{month:02d}-{day:02d}" for month in (2, 1, 3) for day in range(1, 29)]
    names, rows = column([*days, "unknown", None])
    assert names == ["2024-01", "2024-02", "2024-03", "(none)", "(other)"]
    assert np.bincount(rows).tolist() == [28, 28, 28, 1, 1]
    assert column([*days[:8], "unknown", "later"])[0] == sorted([*days[:8], "unknown", "later"])  # one in five


def test_categories_come_by_size_numbers_by_value_and_the_rarest_together() -> None:
    assert column(["b", "a", "b", "", "  "])[0] == ["b", "a", "(none)"]
    assert column(["(none)", None, "(none)"]) == (['"(none)"', "(none)"], [0, 1, 0])
    assert column([10, 9, 10, 2])[0] == ["2", "9", "10"]
    names, rows = column([f"v{i}" for i in range(100) for _ in range(100 - i)])
    assert len(names) == MOST_GROUPS
    assert names[-1] == "(other)"
    assert rows.count(MOST_GROUPS - 1) == sum(100 - i for i in range(MOST_GROUPS - 1, 100))


def test_phrases_and_labels_are_counted_by_group(two: Predictor) -> None:
    texts = the_texts()
    months = [f"2024-{1 + i % 3:02d}-{1 + i // 3 % 28:02d}" for i in range(len(texts))]
    found = insights(two, texts, groups=months, by="date")
    assert (found.by, found.is_dates) == ("date", True)
    assert [group.texts for group in found.groups] == [months.count(month) for month in sorted(set(months))] or [
        group.name for group in found.groups
    ] == ["2024-01", "2024-02", "2024-03"]
    answers = [one.label for one in two.predict(texts)]
    for label in found.labels:
        for i, group in enumerate(found.groups):
            same = [answer for answer, month in zip(answers, months, strict=True) if month.startswith(group.name)]
            assert label.by_group[i] == same.count(label.name)
            assert group.texts == len(same)
        assert all(sum(one.by_group) == one.texts for one in label.drivers)


# ---- filters


def planted(tiny: str) -> Predictor:
    """A model whose filter 2 is dead, and whose filter 5 is filter 1 again, half as strong."""
    torch.manual_seed(5)
    model = BertCNN.from_encoder(tiny, depth=1, num_filters=6, kernel_sizes=(1,), max_length=16, overlap=4)
    torch.nn.init.normal_(model.head.cnn.weight, std=0.5)
    torch.nn.init.normal_(model.head.classifier.weight, std=0.5)
    with torch.no_grad():
        model.head.cnn.bias.zero_()
        model.head.cnn.weight[1] = 0
        model.head.cnn.bias[1] = -1
        model.head.cnn.weight[4] = model.head.cnn.weight[0] / 2
    return Predictor(model, load_tokenizer(tiny))


def test_dead_and_duplicate_filters_are_named(tiny: str) -> None:
    predictor, texts = planted(tiny), the_texts(100)
    found = insights(predictor, texts)
    assert [one.number for one in found.filters if one.is_dead] == [2]
    assert [(one.number, one.duplicate_of) for one in found.filters if one.duplicate_of] == [(5, 1)]
    assert found.filters[1].ngrams == ()
    assert found.filters[0].group == found.filters[4].group is not None
    assert {1, 5} <= set(found.filter_groups[found.filters[0].group - 1].filters)
    drawn = insights_page(found, title="t")
    assert "1 filter never reacted in this file and could go: 2." in drawn
    assert "5 as 1" in drawn


def test_a_filters_dictionary_is_what_excites_it_most(any_model: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 16)
    texts = [text for text in the_texts() if text.isascii()]
    found = insights(any_model, texts)
    pieces = any_model.tokenizer(texts)
    features, _ = any_model.pooled(pieces)
    phrases: list[dict[str, float]] = [defaultdict(float) for _ in found.filters]
    for i, one in enumerate(explain(any_model, texts)):
        for phrase in one.phrases:
            name = plain(one.text, phrase.start, phrase.end) if phrase.end > phrase.start else phrase.text
            for m in phrase.filters:
                phrases[m][name] = max(phrases[m][name], float(features[i, m]))
    weight = any_model.backend.classifier[0].astype(float)
    for m, one in enumerate(found.filters):
        best = sorted(phrases[m].values(), reverse=True)[:10]
        assert [response for _, response in one.ngrams] == pytest.approx(best, abs=1e-5)
        assert all(response == pytest.approx(phrases[m][name], abs=1e-5) for name, response in one.ngrams)
        assert one.texts == (features[:, m] > 0).sum()
        shift = 0 if any_model.is_multi_label else weight[:, m].mean()
        assert one.weights == pytest.approx(weight[:, m] - shift)


# ---- labels


def test_errors_are_surest_first_and_unsure_texts_least_sure_first(two: Predictor) -> None:
    texts = the_texts()
    predictions = two.predict(texts)
    names = two.label_names
    labels = [names[i % 2] if i % 5 else None for i in range(len(texts))]
    found = insights(two, texts, labels=labels, marked=3)
    wrong = [i for i, p in enumerate(predictions) if labels[i] is not None and p.label != labels[i]]
    assert found.errors is not None
    assert found.errors.count == len(wrong) == found.labelled - found.right
    assert found.labelled == sum(label is not None for label in labels)
    assert sorted(one.row - 1 for one in found.errors.texts) == wrong
    sure = [one.confidence for one in found.errors.texts]
    assert sure == sorted(sure, reverse=True)
    assert [bool(one.marks) for one in found.errors.texts[:4]] == [True, True, True, False]
    assert "".join(text for text, _ in found.errors.texts[0].marks) == found.errors.texts[0].text
    least = sorted(one.confidence for one in predictions)[: len(found.unsure.texts)]
    assert [one.confidence for one in found.unsure.texts] == pytest.approx(least, abs=1e-6)
    assert {label.name: label.given for label in found.labels} == {name: labels.count(name) for name in names}


def test_unknown_labels_are_counted_and_a_file_of_them_refused(two: Predictor) -> None:
    texts = the_texts()
    names = two.label_names
    found = insights(two, texts, labels=["mixed" if i < 3 else names[0] for i in range(len(texts))])
    assert found.unknown == {"mixed": 3}
    assert found.labelled == len(texts) - 3
    with pytest.raises(DataError, match=r"are 'mixed', but the model knows .*--label"):
        insights(two, texts, labels=["mixed"] * len(texts))
    nothing = insights(two, texts)
    assert (nothing.errors, nothing.mistakes, nothing.labelled) == (None, None, 0)
    assert insights(two, texts, labels=[None] * len(texts)).errors is None


def test_labels_of_a_model_with_many(tiny: str) -> None:
    predictor, texts = random_model(tiny, "many labels a text"), the_texts()
    answers = [one.labels or () for one in predictor.predict(texts)]
    labels = [answer if i % 4 else answer[1:] for i, answer in enumerate(answers)]
    found = insights(predictor, texts, labels=labels)
    wrong = [i for i, (answer, label) in enumerate(zip(answers, labels, strict=True)) if set(answer) != set(label)]
    assert found.errors is not None
    assert sorted(one.row - 1 for one in found.errors.texts) == wrong
    assert all(one.label is not None for one in found.errors.texts)
    assert (found.mistakes is None) == found.withheld
    again = insights(predictor, texts, labels=answers)
    assert again.mistakes is not None
    assert {one.row - 1 for one in again.mistakes.texts} <= set(range(len(texts)))
    assert insights_page(again, title="t").count("What speaks for") == sum(one.texts > 0 for one in again.labels)


def test_probable_mistakes_are_the_labels_turned_round() -> None:
    pytest.importorskip("cleanlab")
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    table = np.eye(4)[truth] * 0.7 + generator.uniform(0.05, 0.1, (300, 4))  # the model also knows a fourth label
    table /= table.sum(axis=1, keepdims=True)
    given = truth.copy()
    given[[10, 20, 30]] = (given[[10, 20, 30]] + 1) % 3
    found = probable_mistakes(given, table)
    assert len(found) >= 2  # it errs on the side of fewer
    assert set(found) <= {10, 20, 30}
    many = generator.random((300, 4)) < [0.3, 0.3, 0, 1]  # a label that none has, and one that all have
    chances = np.where(many, 0.9, 0.1) + generator.uniform(-0.05, 0.05, (300, 4))
    turned = many.astype(np.int64)
    turned[5, 0], turned[6, 1] = 1 - turned[5, 0], 1 - turned[6, 1]
    assert set(probable_mistakes(turned, chances)) in ({5}, {6}, {5, 6})
    assert probable_mistakes(np.zeros(5, dtype=np.int64), table[:5]) == []
    assert probable_mistakes(np.zeros((5, 4)), chances[:5]) == []


@pytest.mark.parametrize(
    ("agreed", "commonest", "judges"),
    [(9, 10, False), (45, 10, False), (90, 50, True), (86, 85, False), (93, 85, True)],
)
def test_a_weak_model_suspects_no_labels(agreed: int, commonest: int, judges: bool) -> None:
    """Of 100 by ten; a model that was right in 9 % called 71 labels probably wrong."""
    truth = np.concatenate([np.zeros(10 * commonest), 1 + np.arange(1000 - 10 * commonest) % 9]).astype(np.int64)
    answers = np.where(np.arange(1000) % 100 < agreed, truth, (truth + 1) % 10)
    assert can_judge(truth, answers) is judges
    many = np.eye(10, dtype=np.int64)[truth]
    assert can_judge(many, many)
    assert not can_judge(many, np.zeros_like(many))


def test_a_weak_model_says_that_it_withholds(two: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    texts = the_texts()
    answers = [one.label for one in two.predict(texts)]
    names = two.label_names
    for labels, withheld in (([names[names[0] == a] for a in answers], True), (answers, len(set(answers)) == 1)):
        found = insights(two, texts, labels=labels)
        assert found.withheld is withheld
        assert (found.mistakes is None) == withheld
        assert (
            "None are named: the model answers 0 % of the texts as they are labelled" in insights_page(found, title="t")
        ) == withheld


def test_without_cleanlab_there_is_a_note(two: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "find_spec", lambda name: None)
    texts = the_texts(20)
    found = insights(two, texts, labels=[one.label for one in two.predict(texts)])
    assert found.mistakes is None
    assert found.errors is not None
    assert "pip install &#39;bertcnn[insights]&#39;" in insights_page(found, title="t")
    with pytest.raises(ModelError, match="need cleanlab: pip install"):
        probable_mistakes(np.zeros(5, dtype=np.int64), np.zeros((5, 2)))


# ---- limits


def test_texts_labels_and_groups_are_as_many_and_of_any_kind(two: Predictor) -> None:
    texts = ["a good film", "a bad film", "good"]
    one, other = two.backend.spec.labels
    found = insights(two, texts, labels=np.array([one, other, one]), groups=np.array(["x", "y", "x"]))
    assert (found.texts, found.labelled) == (3, 3)
    with pytest.raises(DataError, match="The labels end after 2, and the texts and labels must be as many"):
        insights(two, texts, labels=[one, other])
    with pytest.raises(DataError, match="The texts end after 3"):
        insights(two, texts, groups="abcd")
    with pytest.raises(TypeError, match="string"):
        insights(two, "a good film")
    with pytest.raises(TypeError, match="Text 1025 is a NoneType"):
        insights(two, [*["a good film"] * 1025, None])


def test_no_texts_one_text_and_no_filters(two: Predictor, tiny: str) -> None:
    nothing = insights(two, [])
    assert nothing.texts == 0
    assert "0" in insights_page(nothing, title="t")
    one = insights(two, [""], labels=[two.label_names[0]], groups=["a"])
    assert (one.texts, one.blank, [group.texts for group in one.groups]) == (1, 1, [1])
    assert insights_page(one, title="t")
    assert json.loads(json.dumps(one.to_dict()))["labels"][0]["name"] == two.label_names[0]
    linear = Predictor(BertCNN.from_encoder(tiny, depth=1, features="mean"), load_tokenizer(tiny))
    with pytest.raises(ModelError, match="plain linear head and no filters"):
        insights(linear, ["good"])
    with pytest.raises(TypeError, match="Text 1 is a int"):
        insights(two, ["good", 3])  # type: ignore[list-item]


@pytest.mark.parametrize("order", [1, -1])
def test_texts_that_no_filter_reads(tiny: str, order: int) -> None:
    """A text shorter than all windows has none, and no phrase."""
    torch.manual_seed(0)
    short = Predictor(BertCNN.from_encoder(tiny, depth=1, num_filters=4, kernel_sizes=(3, 4)), load_tokenizer(tiny))
    torch.nn.init.zeros_(short.model.head.cnn.weight)
    short.model.head.cnn.bias.data = torch.tensor([-1.0, 1, 1, 1, 1, 1, 1, 1])
    texts = ["", "good", "a very good film indeed"][::order]
    found = insights(short, texts)
    assert [one.texts for one in found.filters] == [0, 2, 2, 2, 1, 1, 1, 1]
    assert found.filters[0].ngrams == ()
    assert all(response == 1 for one in found.filters for _, response in one.ngrams)


@pytest.mark.slow  # the export takes seconds
def test_onnx_finds_the_same_without_torch(two: Predictor, tmp_path: Path) -> None:
    place, texts = tmp_path / "model", ["good", "bad film", "the staff was so very awful, really"]
    two.model.save_pretrained(place)
    two.tokenizer.save(place)
    export_onnx(place, texts=texts)
    code = (
        "import json, sys; from bertcnn import Predictor; from bertcnn.inference.insights.collect import insights; "
        f"found = insights(Predictor.load({str(place)!r}, backend='onnx'), {texts!r}); "
        "assert 'torch' not in sys.modules; print(json.dumps(found.to_dict()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for one, other in zip(insights(two, texts).labels, found["labels"], strict=True):
        totals = {driver["phrase"]: driver["total"] for driver in other["drivers"]}
        assert one.texts == other["texts"]
        assert totals
        assert {driver.phrase: driver.total for driver in one.drivers} == pytest.approx(totals, abs=1e-3)


# ---- the page and the tables


class _Page(HTMLParser):
    """Tags, texts, and what would ask the network."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " " if tag == "td" else ""
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> _Page:
    found = _Page()
    found.feed(text)
    return found


def hostile(predictor: Predictor) -> Insights:
    bad = "<script>alert(1)</script> <img src=x onerror=alert(2)> ' \" & good"
    texts = [bad, bad + " bad", "good <b>" * 300, "x" * 100_000, "\ud800 bad </title>", ""] * 3
    return insights(
        predictor, texts, labels=[predictor.label_names[i % 2] for i in range(18)], groups=[bad, "b", "c"] * 6, by="<i>"
    )


def test_what_users_wrote_is_escaped(two: Predictor, tmp_path: Path) -> None:
    found = hostile(two)
    title = "<script>1</script>"
    drawn = insights_page(found, title=title)
    seen = parsed(drawn)
    assert not {"script", "img", "b2", "i2", "iframe"} & set(seen.tags)
    assert "<script>alert(1)" in seen.text
    assert all(link.startswith("#") for link in seen.links)
    assert not re.search(r"https?:|@import|url\(", drawn)
    assert len(drawn) < 2_000_000
    write_insights(tmp_path, found, title=title)
    assert "\ufffd" in (tmp_path / "insights.html").read_text("utf-8")


def test_tables_hold_the_pages_figures(any_model: Predictor, tmp_path: Path) -> None:
    texts = the_texts(80)
    labels = [one.labels if any_model.is_multi_label else one.label for one in any_model.predict(texts)]
    labels[3:9] = labels[10:16]
    found = insights(any_model, texts, labels=labels, groups=[f"kind {i % 8}" for i in range(len(texts))], by="kind")
    files = write_insights(tmp_path / "new", found, title="t", top=5)
    assert sorted(file.name for file in files) == [
        "filters.csv",
        "groups.csv",
        "insights.html",
        "phrases.csv",
        "texts.csv",
    ]
    assert {file.name for file in (tmp_path / "new").iterdir()} == {file.name for file in files}
    drawn = " ".join(parsed((tmp_path / "new" / "insights.html").read_text("utf-8")).text.split())
    rows = list(read_rows(tmp_path / "new" / "phrases.csv"))
    assert len(rows) == sum(len(label.drivers) for label in found.labels)
    for name in any_model.label_names:
        own = [row for row in rows if row["label"] == name]
        for row in [one for one in own if one["is_telling"] == "True"][:5] or own[:5]:
            figures = (
                f"{float(row['total']):.1f} {int(row['texts'])} {100 * int(row['answered']) / int(row['texts']):.0f} %"
            )
            assert row["phrase"] in drawn
            assert figures in drawn
            assert sum(int(value) for key, value in row.items() if key.startswith("texts: ")) == int(row["texts"])
    sizes = {row["name"]: int(row["texts"]) for row in read_rows(tmp_path / "new" / "groups.csv")}
    assert sum(sizes.values()) == len(texts)
    assert len(list(read_rows(tmp_path / "new" / "filters.csv"))) == len(found.filters)
    listed = list(read_rows(tmp_path / "new" / "texts.csv"))
    assert found.errors is not None
    assert [int(row["row"]) for row in listed if row["list"] == "error"] == [one.row for one in found.errors.texts]
    assert all(row["text"].replace("\ufffd", "") in texts[int(row["row"]) - 1] for row in listed)


def test_the_page_reads_well_for_many_labels_and_no_groups(tiny: str) -> None:
    torch.manual_seed(1)
    model = BertCNN.from_encoder(tiny, depth=1, num_filters=4, kernel_sizes=(1, 2), num_labels=12)
    seen = parsed(insights_page(insights(Predictor(model, load_tokenizer(tiny)), the_texts(60)), title="t"))
    assert seen.text.count("What speaks for") == 12
    assert "How it moves" not in seen.text
    assert "Errors" not in seen.text


# ---- the command


def run(arguments: list[str], stdin: str | None = None) -> str:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_command(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    rows = list(read_rows(csv_file))
    file = tmp_path / "dated.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment", "day"])
        writer.writerows([row["review"], row["sentiment"], f"2024-{1 + i % 12:02d}-15"] for i, row in enumerate(rows))
    place = tmp_path / "out"
    said = run(
        [str(folder), str(file), "--text", "review", "--label", "sentiment", "--by", "day", "--output", str(place)]
    )
    assert f"{len(rows)} texts" in said
    assert "what speaks for it" in said
    phrases = list(read_rows(place / "phrases.csv"))
    leading = {
        name: [row["phrase"] for row in phrases if row["label"] == name][:5] for name in ("positive", "negative")
    }
    assert {"good", "great", "lovely", "superb", "fine"} & set(" ".join(leading["positive"]).split())
    assert {"bad", "awful", "poor", "dull", "weak"} & set(" ".join(leading["negative"]).split())
    assert len(list(read_rows(place / "groups.csv"))) == 12
    assert "How it moves by day" in (place / "insights.html").read_text("utf-8")
    again = run([str(folder), str(file), "--text", "review", "--output", str(place)])  # replaces; no column "label"
    assert "labelled" not in again
    assert not (place / "groups.csv").exists()  # of the run before


def test_command_reads_rows_without_the_groups_column(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "gaps.jsonl"
    file.write_text('{"text": "good \\u001b[2J", "month": "may", "label": "positive"}\n{"text": "bad", "label": NaN}\n')
    said = run([str(folder), str(file), "--by", "month", "--output", str(tmp_path / "out")])
    assert "\x1b" not in said
    assert {row["name"] for row in read_rows(tmp_path / "out/groups.csv")} == {"may", "(none)"}


def test_command_reads_lines_and_names_faults(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "out")
    assert "2 texts" in run([str(folder), "-", "--output", place], stdin="good\nbad\n")
    assert run([str(folder), "builtin:reviews", "--label", "", "--output", place])
    for arguments, words in (
        ([str(csv_file), "--text", "review", "--by", "sentimnt"], r"no column 'sentimnt'.*'sentiment'.*--by"),
        ([str(csv_file)], r"no column 'text'.*--text"),
        ([str(csv_file), "--text", "review", "--label", "id"], r"are '0', .*but the model knows"),
        (["-", "--by", "x"], "no columns"),
    ):
        with pytest.raises(DataError, match=words):
            run([str(folder), *arguments, "--output", place])
    many = change(Settings(), {"separator": "|"}).data
    rows: list[dict[str, Any]] = [{"text": "good", "label": ["positive"]}, {"text": "bad"}]  # as lines of jsonl
    assert list(_labels(rows, many)) == [("positive",), ()]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="Cannot write into"):
        run([str(folder), "-", "--output", str(blocked)], stdin="good\n")
