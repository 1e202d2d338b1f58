"""Explanations: the parts add up, the spans are the text's, and audit and counterfactual are what brute force finds."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from bertcnn import BertCNN, DataError, ModelError, Predictor
from bertcnn.apps.explain import explain as command
from bertcnn.apps.explain import picture
from bertcnn.inference.explaining import counterfactual as search
from bertcnn.inference.explaining.counterfactual import window_scores, without
from bertcnn.inference.explaining.explain import explain
from bertcnn.inference.explaining.explanation import Explanation, Phrase
from bertcnn.inference.explaining.page import MOST_CHARACTERS, explanation_page, fragment, marks
from bertcnn.inference.explaining.winners import winners_of, words_of
from bertcnn.inference.export import export_onnx
from bertcnn.inference.prediction import predictions_of
from bertcnn.inference.refusal import risk_coverage, threshold_for
from bertcnn.inference.templating import signed
from bertcnn.network.encoder import load_tokenizer
from bertcnn.network.vectors import build_vectors

KINDS = {
    "two labels": {"kernel_sizes": (1, 2, 3)},
    "five labels": {"kernel_sizes": (2, 4), "num_labels": 5},
    "many labels a text": {"kernel_sizes": (1, 3), "num_labels": 4, "multi_label": True},
    "a width twice": {"kernel_sizes": (2, 2)},
    "one label": {"kernel_sizes": (5,), "num_labels": 1, "multi_label": True},
}
LONG = "the film was good and so is the phone, but it is a very dull room "
TEXTS = ["good", "", " ", "a", "x y", "the staff was so very awful, really", LONG, LONG * 5, "\ud800 \U0001f600\ufe0f!"]
some_text = st.text(alphabet=st.sampled_from("abgod .!'\u00e9\U0001f600\u200d\u4e2d \u05d0\ud800\n\0"), max_size=90)
reusing = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def random_model(tiny: str, kind: str, seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    model = BertCNN.from_encoder(tiny, depth=2, num_filters=6, max_length=16, overlap=4, **KINDS[kind])
    for part in (model.head.cnn.weight, model.head.cnn.bias, model.head.classifier.weight, model.head.classifier.bias):
        torch.nn.init.normal_(part, std=0.5)
    if kind == "many labels a text":
        model.config.thresholds = [0.3, 0.5, 0.7, 0.9]
    return Predictor(model, load_tokenizer(tiny))


def close(found: object, wanted: object, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), atol=tolerance, rtol=tolerance)


def check_parts(explanation: Explanation) -> None:
    """Law 12, and its forms by word and by contrast."""
    for parts in (explanation.phrases, explanation.words):
        sums = np.array([part.shares for part in parts]).reshape(-1, len(explanation.labels)).sum(axis=0)
        scale = max(1.0, np.abs([part.shares for part in explanation.phrases] or [[0.0]]).sum())
        rest = np.array(explanation.logits) - explanation.bias - sums
        assert np.abs(rest).max() <= 1e-5 * scale
        if parts is explanation.phrases:
            close(explanation.residual, rest, 1e-9)
    why = explanation.decision
    assert abs(why.residual) <= 2e-5 * scale
    close(why.margin, why.bias + sum(why.word_shares), 2e-5 * scale)
    close(why.in_favour - why.opposed, sum(why.shares), 1e-9)


def check_spans(explanation: Explanation) -> None:
    text = explanation.text
    for part in (*explanation.phrases, *explanation.words):
        assert 0 <= part.start <= part.end <= len(text)
        if part.start == part.end:
            assert part.text in {"(start)", "(end)", "(blank)"}
        else:
            assert part.text == text[part.start : part.end]
    assert len({(p.start, p.end, p.text) for p in explanation.phrases}) == len(explanation.phrases)
    ends = [(word.start, word.end) for word in explanation.words]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ends))
    written = [word for word in explanation.words if word.end > word.start]
    left = "".join(text[a.end : b.start] for a, b in itertools.pairwise(written))
    assert not left.strip()


@pytest.mark.parametrize("kind", KINDS)
@reusing
@given(texts=st.lists(some_text, min_size=1, max_size=3), seed=st.integers(0, 1))
def test_12_an_explanations_parts_add_up_to_the_logit(tiny: str, kind: str, texts: list[str], seed: int) -> None:
    predictor = random_model(tiny, kind, seed)
    explanations = explain(predictor, texts)
    close([e.logits for e in explanations], predictor.logits(texts))
    for explanation, text, prediction in zip(explanations, texts, predictor.predict(texts), strict=True):
        assert explanation.text == text
        close(list(explanation.prediction.probabilities.values()), list(prediction.probabilities.values()))
        check_parts(explanation)
        check_spans(explanation)


@pytest.mark.parametrize("kind", KINDS)
def test_phrases_are_the_filters_that_agree(tiny: str, kind: str) -> None:
    """The same, by a loop over filters."""
    predictor = random_model(tiny, kind)
    pieces = predictor.tokenizer(TEXTS, with_spans=True)
    features, positions = predictor.pooled(pieces)
    weight, _ = predictor.backend.classifier
    widths = [width for width in predictor.backend.spec.kernel_sizes for _ in range(6)]
    for i, explanation in enumerate(explain(predictor, TEXTS)):
        spans = pieces.spans[pieces.starts[i] : pieces.starts[i + 1]].tolist()
        wanted: dict[tuple[int, int, str], np.ndarray] = {}
        filters: dict[tuple[int, int, str], set[int]] = {}
        for m, width in enumerate(widths):
            if features[i, m] == 0:
                continue
            first = positions[i, m]
            own = [span for span in spans[first : first + width] if span[1] > span[0]]
            if own:
                key = own[0][0], own[-1][1], TEXTS[i][own[0][0] : own[-1][1]]
            else:
                key = (0, 0, "(start)") if first == 0 else (len(TEXTS[i]),) * 2 + ("(end)",)
            wanted[key] = wanted.get(key, 0) + weight[:, m].astype(float) * features[i, m]
            filters.setdefault(key, set()).add(m)
        found = {(p.start, p.end, p.text): p for p in explanation.phrases}
        assert found.keys() == wanted.keys()
        for key, phrase in found.items():
            close(phrase.shares, wanted[key], 1e-6)
            assert set(phrase.filters) == filters[key]


@pytest.mark.parametrize("kind", KINDS)
def test_words_have_what_their_pieces_gave(tiny: str, kind: str) -> None:
    """The same, by a loop over filters and places."""
    predictor = random_model(tiny, kind)
    texts = ["", "a good film", "the staff was so very awful", LONG * 3]
    pieces = predictor.tokenizer(texts, with_spans=True)
    features, positions = predictor.pooled(pieces)
    states = predictor.embed(texts)[0].numpy()
    (kernels, _), (weight, _) = predictor.backend.filters, predictor.backend.classifier
    sizes = predictor.backend.spec.kernel_sizes
    for i, explanation in enumerate(explain(predictor, texts)):
        spans = pieces.spans[pieces.starts[i] : pieces.starts[i + 1]].tolist()
        wanted = {(word.start, word.end, word.text): np.zeros(len(weight)) for word in words_of(texts[i])}
        for m in np.flatnonzero(features[i] > 0).tolist():
            index, f = divmod(m, 6)
            width, row = sizes[index], 6 * sum(sizes[:index]) + f
            gave = [float(kernels[row + 6 * j] @ states[i, positions[i, m] + j]) for j in range(width)]
            rest = (features[i, m] - sum(gave)) / width
            for j in range(width):
                start, end = spans[positions[i, m] + j]
                at = (0, 0, "(start)") if positions[i, m] + j == 0 else (len(texts[i]),) * 2 + ("(end)",)
                key = next((k for k in wanted if end > start and k[0] < end and start < k[1]), at)
                wanted[key] = wanted.get(key, 0) + weight[:, m] * (gave[j] + rest)
        found = {(word.start, word.end, word.text): word.shares for word in explanation.words}
        assert found.keys() == wanted.keys()
        for key, shares in found.items():
            close(shares, wanted[key], 1e-4)


def test_a_tokenizer_without_special_pieces() -> None:
    """The static table of words: an empty text has no pieces, and nothing is found in it."""
    encoder, tokenizer = build_vectors(["the film was not bad at all"], size=8)
    torch.manual_seed(0)
    model = BertCNN.from_encoder(encoder, num_filters=6, kernel_sizes=(1, 3), special_pieces=(0, 0))
    torch.nn.init.normal_(model.head.cnn.weight, std=2)
    torch.nn.init.normal_(model.head.classifier.weight)
    predictor = Predictor(model, tokenizer)
    texts = ["", "film", "The film was not bad!"]
    explanations = explain(predictor, texts, audit=True, counterfactual=True)
    for explanation in explanations:
        check_parts(explanation)
        check_spans(explanation)
        assert explanation.audit is not None
        close(explanation.audit.logits, explanation.logits)  # these vectors know no context
        close(explanation.audit.survives, 1)
    assert explanations[0].phrases == explanations[0].words == ()


def test_ties_go_to_one_window(tiny: str) -> None:
    torch.manual_seed(0)
    model = BertCNN.from_encoder(tiny, depth=2, num_filters=4, kernel_sizes=(1, 2), max_length=16, overlap=4)
    torch.nn.init.zeros_(model.head.cnn.weight)
    torch.nn.init.ones_(model.head.cnn.bias)
    torch.nn.init.normal_(model.head.classifier.weight)
    explanation = explain(Predictor(model, load_tokenizer(tiny)), [LONG * 3])[0]
    assert [len(phrase.filters) for phrase in explanation.phrases] == [4, 4]
    check_parts(explanation)


def test_one_run_of_the_network_and_equal_texts_once(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = random_model(tiny, "two labels")
    read = []
    run = type(predictor.backend).run
    monkeypatch.setattr(
        type(predictor.backend),
        "run",
        lambda self, b, **o: (read.append(len(x[0].texts)) or x for x in run(self, b, **o)),
    )
    monkeypatch.setattr(type(predictor.backend), "states", None)
    explanations = explain(predictor, ["good", "bad", "good"])
    assert sum(read) == 2
    assert explanations[0] == explanations[2]
    assert explain(predictor, []) == []


def test_contrasts_and_labels(tiny: str) -> None:
    predictor = random_model(tiny, "five labels")
    explanation = explain(predictor, [LONG])[0]
    names = explanation.labels
    why = explanation.against(names[1], names[3])
    close(why.shares, [p.shares[1] - p.shares[3] for p in explanation.phrases], 1e-12)
    close(why.margin, explanation.logits[1] - explanation.logits[3], 1e-9)
    order = np.argsort(explanation.logits)
    assert (explanation.decision.label, explanation.decision.other) == (names[order[-1]], names[order[-2]])
    assert explanation.about(names[order[0]]).other == names[order[-1]]
    top = explanation.top(names[2], 3)
    assert [abs(share) for _, share in top] == sorted((abs(p.shares[2]) for p in explanation.phrases), reverse=True)[:3]
    with pytest.raises(DataError, match=r"No label 'LABEL_7'.*Did you mean"):
        explanation.top("LABEL_7")


def test_many_labels_are_set_against_their_thresholds(tiny: str) -> None:
    predictor = random_model(tiny, "many labels a text")
    for explanation in explain(predictor, TEXTS):
        held = explanation.prediction.labels
        assert held is not None
        for label in explanation.labels:
            why = explanation.about(label)
            assert why.other is None
            assert (why.margin >= 0) == (label in held)
            close(why.margin, why.bias + sum(why.shares), 1e-4)
        if held:
            assert explanation.decision.label in held


def test_a_plain_head_has_no_phrases(tiny: str) -> None:
    model = BertCNN.from_encoder(tiny, depth=1, features="mean")
    with pytest.raises(ModelError, match="no filters"):
        explain(Predictor(model, load_tokenizer(tiny)), ["good"])


def test_texts_must_be_a_list_of_texts(tiny: str) -> None:
    predictor = random_model(tiny, "two labels")
    with pytest.raises(TypeError, match="got one string"):
        explain(predictor, "good")
    with pytest.raises(TypeError, match="Text 1 is a float"):
        explain(predictor, ["good", 1.0])
    assert len(explain(predictor, iter(["good", "bad", "good"]))) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't go, it's so-so...", ["Don't", "go", ",", "it's", "so-so", "..."]),
        ("\u6211\u7231 tea", ["\u6211", "\u7231", "tea"]),
        ("\u0928\u092e\u0938\u094d\u0924\u0947!", ["\u0928\u092e\u0938\u094d\u0924\u0947", "!"]),
        (" \n", [" \n"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [word.text for word in words_of(text)] == words


# ---- the audit


@cache
def encoded(predictor: Predictor, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        mask = torch.ones(1, len(ids), dtype=torch.long)
        return predictor.model.encoder(torch.tensor([ids]), mask).last_hidden_state[0]


def lone_response(predictor: Predictor, ids: list[int], place: int, filter_: int) -> float:
    """One window of a row of pieces, by torch, a piece at a time."""
    model, sizes = predictor.model, predictor.backend.spec.kernel_sizes
    with torch.inference_mode():
        states = encoded(predictor, tuple(ids))
        width = [w for w in sizes for _ in range(6)][filter_]
        row = sum(w for w in sizes[: filter_ // 6]) * 6 + filter_ % 6
        total = model.head.cnn.bias[filter_].clone()
        for j in range(width):
            total += states[place + j] @ model.head.cnn.weight[row + j * 6]
    return max(0.0, float(total))


@pytest.mark.parametrize("kind", KINDS)
def test_the_audit_is_what_reading_each_window_alone_finds(tiny: str, kind: str) -> None:
    predictor = random_model(tiny, kind)
    weight, bias = (array.astype(float) for array in predictor.backend.classifier)
    texts = ["", "a good film", "the staff was so very awful", LONG * 3]
    pieces = predictor.tokenizer(texts)
    features, positions = predictor.pooled(pieces)
    explanations = explain(predictor, texts, audit=True)
    multi = predictor.is_multi_label
    force = [
        max(map(abs, weight[:, m])) if multi else max(weight[:, m]) - min(weight[:, m]) for m in range(len(weight.T))
    ]
    for i, explanation in enumerate(explanations):
        ids = pieces[i].tolist()
        alone = np.zeros(len(features[i]))
        for m in np.flatnonzero(features[i] > 0):
            width = [w for w in predictor.backend.spec.kernel_sizes for _ in range(6)][m]
            window = ids[positions[i, m] : positions[i, m] + width]
            row = [2, *(piece for piece in window if piece not in {2, 3}), 3]
            place = 0 if window[0] == 2 else row.index(3) if window[0] == 3 else 1
            assert row[place : place + width] == window
            alone[m] = lone_response(predictor, row, place, m)
        assert explanation.audit is not None
        close(explanation.audit.logits, bias + weight @ alone)
        kept = sum(f * min(a, b) for f, a, b in zip(force, alone, features[i], strict=True))
        whole = sum(f * b for f, b in zip(force, features[i], strict=True))
        close(explanation.audit.survives, kept / whole if whole else 1)
        for phrase in explanation.phrases:
            own = list(phrase.filters)
            close(phrase.alone, (weight[:, own] * alone[own]).sum(axis=1))
            assert phrase.survives is not None
            assert 0 <= phrase.survives <= 1
            part = sum(force[m] * min(alone[m], features[i, m]) for m in own)
            close(phrase.survives, part / sum(force[m] * features[i, m] for m in own))


def test_a_phrase_that_is_the_whole_text_survives(tiny: str) -> None:
    for explanation in explain(random_model(tiny, "two labels"), ["", "a"], audit=True):
        assert explanation.audit is not None
        # A window of [CLS] alone is read without the letter; those of three pieces are the text.
        if not explanation.text:
            close(explanation.audit.survives, 1, 1e-5)
            close(explanation.audit.logits, explanation.logits)


# ---- leaving out words


@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_what_reading_the_shortened_texts_gives(tiny: str, kind: str) -> None:
    predictor = random_model(tiny, kind)
    texts = ["the staff is so very dull", "", "it was not bad, really", "good"]
    for one in explain(predictor, texts, leave_one_out=True):
        for word in one.words:
            if word.end == word.start:
                assert word.effects is None
                continue
            left = predictor.logits([without(one.text, [word])])[0]
            close(word.effects, np.array(one.logits) - left)
        why = one.decision
        label, other = (None if name is None else one.labels.index(name) for name in (why.label, why.other))
        for word, effect in zip(why.words, why.word_effects, strict=True):
            if word.effects is None:
                assert effect is None
            else:
                close(effect, word.effects[label] - (0 if other is None else word.effects[other]))
    assert all(effect is None for one in explain(predictor, texts) for effect in one.decision.word_effects)


def test_of_many_words_those_with_the_greatest_shares_are_left_out(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertcnn.inference.explaining.leave_one_out.MOST_WORDS", 2)
    (one,) = explain(random_model(tiny, "two labels"), ["the staff is so very dull"], leave_one_out=True)
    left_out = [word for word in one.words if word.effects is not None]
    pairs = zip(one.decision.words, one.decision.word_shares, strict=True)
    by_share = sorted((-abs(share), word.start) for word, share in pairs if word.end > word.start)
    assert sorted(word.start for word in left_out) == sorted(start for _, start in by_share[:2])


def test_pictures_are_marked_by_effects_where_words_were_left_out(tiny: str) -> None:
    (one,) = explain(random_model(tiny, "two labels"), ["the staff is so very dull"], leave_one_out=True)
    form = one.to_dict()
    words = {word.text: effect for word, effect in zip(one.words, one.decision.word_effects, strict=True)}
    marked = {part["text"]: part["share"] for part in marks(form) if part["strength"]}
    assert marked
    assert all(words[text] == share for text, share in marked.items())
    most = max(words, key=lambda text: abs(words[text] or 0.0))
    assert "Word by word." in explanation_page([form], title="x")
    console = Console(width=100, file=StringIO())
    console.print(picture(one))
    assert f"\u201c{most}\u201d" in console.file.getvalue()


def test_a_text_does_not_steer_the_terminal_that_shows_why(tiny: str) -> None:
    (one,) = explain(random_model(tiny, "two labels"), ["the staff is \x1b]0;owned\x07so \x1b[31mvery dull"])
    for coloured in (False, True):
        console = Console(width=100, file=StringIO(), color_system=None)
        console.print(picture(one, coloured=coloured))
        said = console.file.getvalue()
        assert "dull" in said
        assert "\x1b" not in said


# ---- the counterfactual


def all_scores(predictor: Predictor, text: str) -> tuple[np.ndarray, list[int]]:
    """Every window's response by one product a window, ``(T, M)``, -1 where none fits; and the widths."""
    ids = predictor.tokenizer([text]).ids.tolist()
    sizes = predictor.backend.spec.kernel_sizes
    widths = [w for w in sizes for _ in range(6)]
    table = np.full((len(ids), len(widths)), -1.0)
    for m, width in enumerate(widths):
        for first in range(len(ids) - width + 1):
            table[first, m] = lone_response(predictor, ids, first, m)
    return table, widths


def head_without(table: np.ndarray, widths: list[int], removed: set[int]) -> np.ndarray:
    """What each filter finds when the windows that touch these pieces are out."""
    found = np.zeros(len(widths))
    for m, width in enumerate(widths):
        for first in range(len(table)):
            if not removed & set(range(first, first + width)):
                found[m] = max(found[m], table[first, m])
    return found


def answer(predictor: Predictor, logits: np.ndarray, label: int) -> object:
    """What a decision is about: the label, or of many whether this one holds."""
    (prediction,) = predictions_of(logits[None], predictor.backend.spec)
    return prediction.label if prediction.labels is None else predictor.label_names[label] in prediction.labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("text", ["a good film", "the staff is so very dull", "it was not bad, really"])
def test_the_smallest_set_is_brute_forces(tiny: str, kind: str, seed: int, text: str) -> None:
    predictor = random_model(tiny, kind, seed)
    weight, bias = (array.astype(float) for array in predictor.backend.classifier)
    (explanation,) = explain(predictor, [text], counterfactual=True)
    found = explanation.counterfactual
    assert found is not None
    table, widths = all_scores(predictor, text)
    close(bias + weight @ head_without(table, widths, set()), explanation.logits)
    spans = predictor.tokenizer([text], with_spans=True).spans.tolist()
    label = predictor.label_names.index(explanation.decision.label)
    before = answer(predictor, np.array(explanation.logits), label)

    def pieces_of(phrases: tuple[Phrase, ...]) -> set[int]:
        return {i for i, (a, b) in enumerate(spans) for p in phrases if a < b and p.start < b and a < p.end}

    def logits_without(phrases: tuple[Phrase, ...]) -> np.ndarray:
        return bias + weight @ head_without(table, widths, pieces_of(phrases))

    written = [phrase for phrase in explanation.phrases if phrase.end > phrase.start]
    flipping: list[tuple[Phrase, ...]] = []
    for size in (1, 2, 3):
        flipping = [
            s for s in itertools.combinations(written, size) if answer(predictor, logits_without(s), label) != before
        ]
        if flipping:
            break
    if not flipping:
        assert len(found.phrases) != 1
        assert not found.is_smallest or len(found.phrases) > 3
        return
    assert found.is_smallest
    assert len(found.phrases) == len(flipping[0])
    assert len(pieces_of(found.phrases)) == min(len(pieces_of(s)) for s in flipping)
    close(found.logits, logits_without(found.phrases))
    assert answer(predictor, np.array(found.logits), label) != before
    assert found.text == without(text, found.phrases)
    (again,) = predictor.predict([found.text])
    assert found.prediction is not None
    assert found.prediction.label == again.label
    close(found.prediction.confidence, again.confidence)
    assert found.holds == (answer(predictor, predictor.logits([found.text])[0], label) != before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_set_has_the_effect_it_says(tiny: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT", 1)
    predictor = random_model(tiny, kind)
    weight, bias = (array.astype(float) for array in predictor.backend.classifier)
    texts = ["the staff is so very dull", "a fine and lovely room", "it was so bad"]
    for text, explanation in zip(texts, explain(predictor, texts, counterfactual=True), strict=True):
        found = explanation.counterfactual
        assert found is not None
        if not found.phrases:
            assert not found.is_smallest
            assert found.prediction is None
            continue
        table, widths = all_scores(predictor, text)
        spans = predictor.tokenizer([text], with_spans=True).spans.tolist()
        gone = {i for i, (a, b) in enumerate(spans) for p in found.phrases if a < b and p.start < b and a < p.end}
        close(found.logits, bias + weight @ head_without(table, widths, gone))
        assert found.is_smallest == (len(found.phrases) <= 2)


@pytest.mark.parametrize("kind", KINDS)
def test_window_scores_of_long_texts_have_the_features_as_their_greatest(tiny: str, kind: str) -> None:
    predictor = random_model(tiny, kind)
    predictor.backend.segment_windows = 2  # the borders of segments shall be met often
    pieces = predictor.tokenizer(TEXTS)
    features, positions = predictor.pooled(pieces)
    tables = window_scores(predictor.backend, predictor.tokenizer, [pieces[i] for i in range(len(TEXTS))])
    for i, table in enumerate(tables):
        close(table.max(axis=0), features[i])
        for m in np.flatnonzero(features[i] > 0):
            close(table[positions[i, m], m], features[i, m])


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_of_the_search_hold_enough_windows(tiny: str, kind: str) -> None:
    """Features without random sets of phrases of a long text, whose strongest windows all lie in one place."""
    predictor = random_model(tiny, kind)
    text = LONG * 6
    pieces = predictor.tokenizer([text], with_spans=True)
    features, positions = predictor.pooled(pieces)
    sizes = predictor.backend.spec.kernel_sizes
    found = winners_of(text, pieces.ids, pieces.spans, features[0], positions[0], kernel_sizes=sizes, special=(1, 1))
    widths = [w for w in sizes for _ in range(6)]
    first = np.arange(len(pieces.ids))[:, None]
    fits = first + widths <= len(pieces.ids)
    scores = np.where(fits, 100 - np.abs(first - positions[0]), 0).astype(np.float32)
    logits = np.linspace(1, 0, len(predictor.label_names))
    one = search._Search(found, scores, logits, predictor.backend.classifier[0].astype(float), None)
    draw = np.random.default_rng(0)
    for phrases in (1, 3, 12):
        top = search._Top(one, phrases)
        sets = np.array([draw.permutation(len(one.candidates))[:phrases] for _ in range(40)])
        for values, places in zip(np.concatenate(list(top.values(sets))), sets, strict=True):
            gone = set(one._pieces(places).tolist())
            close(values, head_without(scores.astype(float), widths, gone), 1e-6)


def test_without_closes_the_gaps() -> None:
    def cut(text: str, *spans: tuple[int, int]) -> str:
        return without(text, [Phrase(a, b, text[a:b], ()) for a, b in spans])

    assert cut("It was bad at all", (7, 10)) == "It was at all"
    assert cut("bad at all", (0, 3)) == "at all"
    assert cut("It was bad", (7, 10)) == "It was "
    assert cut("abcdef", (1, 3), (2, 5)) == "af"
    assert cut("bad", (0, 3)) == ""
    assert cut("  as it was ") == "  as it was "


def test_long_texts_are_searched_in_reasonable_time(tiny: str) -> None:
    words = np.random.default_rng(0).choice(["good", "bad", "the", "film", "not", "\U0001f600"], 4000)
    predictor = random_model(tiny, "two labels")
    started = time.perf_counter()
    (explanation,) = explain(predictor, [" ".join(words)], audit=True, counterfactual=True)
    assert time.perf_counter() - started < 20
    check_parts(explanation)
    check_spans(explanation)


# ---- refusal


def test_risk_and_coverage_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.3, 0.7], [0.6, 0.4]])
    truth = np.array([0, 0, 1, 1, 1])
    curve = risk_coverage(probabilities, truth)
    assert [(one.threshold, one.answered, one.risk) for one in curve] == [
        (0.9, 1, 0.0), (0.8, 2, 0.5), (0.7, 4, 0.25), (0.6, 5, 0.4),
    ]  # fmt: skip
    assert [one.coverage for one in curve] == [0.2, 0.4, 0.8, 1.0]
    assert curve[0].risk_bound == pytest.approx(0.95)  # 1 - 0.05 ** (1 / 1)
    assert curve[1].risk_bound == pytest.approx(0.95**0.5)  # P(at most one of two wrong) = 1 - p * p = 0.05
    assert threshold_for(0.25, probabilities, truth).threshold == 0.7
    assert threshold_for(0.1, probabilities, truth).coverage == 0.2
    with pytest.raises(
        DataError, match=r"No confidence gives a risk of 10.0%.*least risk is 25.0%, at a coverage of 80%"
    ):
        threshold_for(0.1, probabilities, truth, least_coverage=0.5)
    with pytest.raises(DataError, match="no labelled texts"):
        risk_coverage(np.zeros((0, 2)), np.zeros(0, dtype=np.int64))


def test_the_confidence_to_answer_from_is_short_and_parts_the_same_texts() -> None:
    """Rounded to three digits it was 1.000, from which nothing is answered."""
    sure = np.array([0.99962, 0.91245, 0.91239, 0.7])
    curve = risk_coverage(np.stack([sure, 1 - sure], axis=1), np.array([0, 0, 1, 0]))
    assert [one.threshold for one in curve] == [0.999, 0.9124, 0.912, 0.7]
    assert [int((sure >= one.threshold).sum()) for one in curve] == [one.answered for one in curve] == [1, 2, 3, 4]


@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=30))
def test_the_confidence_to_answer_from_answers_what_it_says(sure: list[float]) -> None:
    table = np.stack([np.array(sure), 1 - np.array(sure)], axis=1)
    for one in risk_coverage(table, np.zeros(len(sure), dtype=np.int64)):
        assert int((np.array(sure) >= one.threshold).sum()) == one.answered
        assert float(repr(one.threshold)) == one.threshold


def test_risk_of_many_labels_is_of_the_whole_set() -> None:
    probabilities = np.array([[0.9, 0.4], [0.6, 0.6]])
    curve = risk_coverage(probabilities, np.array([[1, 0], [1, 0]]))
    close([(one.threshold, one.risk) for one in curve], [(0.54, 0), (0.36, 0.5)], 1e-9)
    assert risk_coverage(probabilities, np.array([[1, 0], [1, 0]]), thresholds=[0.5, 0.7])[-1].risk == 0


def made_up(shares: list[float], confidence: float, threshold: float | None) -> Explanation:
    """Two labels; each phrase's shares are half for the one and half against the other."""
    from bertcnn.inference.prediction import Prediction

    text = "abcdefgh"[: len(shares)]
    phrases = tuple(Phrase(i, i + 1, text[i], (-s / 2, s / 2)) for i, s in enumerate(shares))
    prediction = Prediction("good", confidence, {"bad": 1 - confidence, "good": confidence})
    logits = (-sum(shares) / 2, sum(shares) / 2)
    return Explanation(text, prediction, ("bad", "good"), (0.0, 0.0), logits, phrases, phrases, threshold=threshold)


def test_a_refusal_says_why() -> None:
    assert made_up([1.0], 0.73, None).verdict is None
    sure = made_up([2.0], 0.88, 0.8).verdict
    assert sure is not None
    assert (sure.answer, sure.reason, sure.is_sure) == ("good", "", True)
    weak = made_up([0.3, 0.2, -0.1], 0.6, 0.8).verdict
    assert weak is not None
    assert (weak.answer, weak.is_sure) == ("not sure", False)
    assert weak.reason == "no decisive phrase: the phrases leave good a margin of +0.40, 1.39 is needed"
    torn = made_up([3.0, -2.6], 0.6, 0.8).verdict
    assert torn is not None
    assert torn.reason == "strong phrases on both sides: 'a' for good, 'b' against it"


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_has_a_reason(tiny: str, kind: str) -> None:
    predictor = random_model(tiny, kind)
    for explanation in explain(predictor, TEXTS, threshold=0.999):
        verdict = explanation.verdict
        assert verdict is not None
        assert verdict.is_sure == (explanation.prediction.confidence >= 0.999)
        assert verdict.is_sure or re.match("no decisive phrase|strong phrases on both sides", verdict.reason)


# ---- ONNX


@pytest.fixture(scope="module")
def graph(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("explain") / "reviews"
    shutil.copytree(folder, place)
    export_onnx(place, texts=["good", LONG * 4])
    return place


@pytest.mark.slow  # the export takes seconds
def test_onnx_explains_as_torch_does(graph: Path) -> None:
    ours, theirs = (Predictor.load(graph, backend=name) for name in ("torch", "onnx"))
    asked = {"audit": True, "counterfactual": True}
    for one, other in zip(explain(ours, TEXTS, **asked), explain(theirs, TEXTS, **asked), strict=True):
        check_parts(other)
        check_spans(other)
        assert one.audit is not None
        assert other.audit is not None
        assert one.counterfactual is not None
        assert other.counterfactual is not None
        close(one.logits, other.logits, 1e-3)
        close(one.audit.logits, other.audit.logits, 1e-3)
        close(one.audit.survives, other.audit.survives, 1e-3)
        assert len(one.counterfactual.phrases) == len(other.counterfactual.phrases)


@pytest.mark.slow
def test_onnx_explains_without_torch(graph: Path) -> None:
    code = (
        "import sys; from bertcnn.inference.predictor import Predictor\n"
        "from bertcnn.inference.explaining.explain import explain\n"
        f"p = Predictor.load({str(graph)!r}, backend='onnx')\n"
        "e = explain(p, ['a good film'], audit=True, counterfactual=True)[0]; e._repr_html_()\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_modules_load_no_torch() -> None:
    code = "import sys\nfrom bertcnn.inference.explaining import explain, page\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- forms


NASTY = "<script>alert('x')</script> & \"quotes\" good {{ 7 * 7 }} \ud800 <img src=x onerror=y>"


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_json_holds_it_all(tiny: str) -> None:
    for kind in KINDS:
        asked = {"audit": True, "counterfactual": True, "threshold": 0.9}
        for explanation in explain(random_model(tiny, kind), [*TEXTS, NASTY], **asked):
            form = json.loads(json.dumps(explanation.to_dict()))
            assert form["text"] == explanation.text
            why = form["why"]
            close(why["margin"], why["bias"] + sum(why["shares"]) + why["residual"], 1e-9)
            for name, logit in form["logits"].items():
                shares = sum(phrase["shares"][name] for phrase in form["phrases"])
                close(logit, form["bias"][name] + shares + form["residual"][name], 1e-9)
            assert form["audit"].keys() == {"survives", "logits", "label"}
            assert form["verdict"].keys() == {"answer", "reason", "threshold"}


def test_html_escapes_what_users_write(tiny: str) -> None:
    explanations = explain(random_model(tiny, "two labels"), [NASTY, *TEXTS], audit=True, counterfactual=True)
    html = explanation_page([e.to_dict() for e in explanations], title="<b>why</b>")
    html.encode("utf-8")
    read = Page(html)
    assert not {"script", "img", "b>why"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name in {"src", "href"}]
    assert "<script>alert('x')</script> & \"quotes\" good {{ 7 * 7 }} \ufffd <img src=x onerror=y>" in read.text
    assert "<b>why</b>" in read.text
    assert not re.search(r"https?:|url\(|@import", html)
    alone = explanations[0]._repr_html_()
    assert alone == fragment(explanations[0].to_dict())
    assert "script" not in Page(alone).tags
    assert "There is no text." in explanation_page([], title="none")


def test_the_page_shows_every_character_but_of_the_longest(tiny: str) -> None:
    predictor = random_model(tiny, "two labels")
    text = ("a good <film> and " * 6000)[:100_000]
    assert len(text) > MOST_CHARACTERS
    started = time.perf_counter()
    explanation = explain(predictor, [text])[0]
    html = explanation_page([explanation.to_dict()], title="long")
    assert time.perf_counter() - started < 30
    assert len(html) < 200_000
    assert "film" not in Page(html).tags
    short = text[:4000]
    html = explanation_page([explain(predictor, [short])[0].to_dict()], title="short")
    assert short in Page(html).text


def test_signed() -> None:
    assert [signed(x) for x in (0.5, -0.5, 0.001, -0.001, -2)] == ["+0.50", "\u22120.50", "0.00", "0.00", "\u22122.00"]


def drawn(explanation: Explanation, **options: object) -> str:
    console = Console(file=StringIO(), width=100, force_terminal=False)
    console.print(picture(explanation, **options))
    return console.file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_terminal_shows_shares_and_sums(tiny: str, kind: str) -> None:
    asked = {"audit": True, "counterfactual": True, "threshold": 0.9}
    for explanation in explain(random_model(tiny, kind), ["[bold]good[/] film", NASTY, *TEXTS], **asked):
        said = drawn(explanation)
        assert signed(explanation.decision.margin) in said
        assert "unexplained" not in said  # rounding, which is less than what is shown
        assert "bias" in said
        assert "Read alone" in said
    marked = drawn(made_up([1.0, -0.9, 0.1], 0.6, None), coloured=False)
    assert "a\u207a\u207a\u207ab\u207b\u207b\u207bc" in marked


def run(*arguments: object, stdin: str = "") -> tuple[str, str]:
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, list(map(str, arguments)), input=stdin, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def test_the_command(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    said, _ = run(folder, stdin="a good film\n\nthe staff was awful\n")
    assert said.count("bias") == 3
    said, _ = run(folder, csv_file, "--text", "review", "--json", "--audit", "--counterfactual", "--threshold", "0.9")
    rows = [json.loads(line) for line in said.splitlines()]
    assert len(rows) == 160
    assert all(row["audit"] and row["counterfactual"] and row["verdict"] for row in rows)
    file = tmp_path / "new" / "why.html"
    _, said = run(folder, csv_file, "--text", "review", "--html", file, "--label", "negative")
    assert "160 texts on" in said
    html = file.read_text("utf-8")
    assert html.count("<article") == 160
    assert "margin of positive over negative" not in html


def test_the_command_refuses_what_it_cannot_do(folder: Path, csv_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--label is 'negatve', .*Did you mean 'negative'"):
        run(folder, "--label", "negatve", stdin="x")
    with pytest.raises(DataError, match="no column 'text'"):
        run(folder, csv_file)
    with pytest.raises(DataError, match="Cannot write"):
        run(folder, "--html", tmp_path, stdin="good")
    with pytest.raises(ModelError, match="No model folder"):
        run(tmp_path / "none")


def test_a_browser_draws_it(tiny: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    explanations = explain(random_model(tiny, "two labels"), [NASTY, LONG], audit=True, counterfactual=True)
    file, shot = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(explanation_page([e.to_dict() for e in explanations], title="Why"), "utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1500", f"--screenshot={shot}"]
    subprocess.run([browser, *options, file.as_uri()], check=True, capture_output=True, timeout=60)
    from PIL import Image

    with Image.open(shot) as picture_:
        assert picture_.size == (1000, 1500)
        assert len(picture_.convert("RGB").getcolors(1 << 22)) > 50


def test_the_page_says_what_its_colours_are(predictor: Predictor) -> None:
    for leave_one_out in (False, True):
        forms = [one.to_dict() for one in explain(predictor, ["a good film", "bad"], leave_one_out=leave_one_out)]
        assert ("The colours are leave-one-out effects" in explanation_page(forms, title="t")) == leave_one_out
        assert "<p>2 texts. Each share is exact" in explanation_page(forms, title="t")
    assert "<p>1 text. " in explanation_page(forms[:1], title="t")
    assert "<details>" not in explanation_page(forms * 10, title="t")
    long = explanation_page([*forms * 10, forms[0]], title="t")
    assert "<summary>1 more text</summary>" in long
    assert long.count("<details>") == long.count("</details>") == 1
