"""Scores against scikit-learn and hand-worked numbers; intervals and calibration by simulation."""

import json
import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as theirs

from bertcnn import DataError, evaluate
from bertcnn.inference import metrics
from bertcnn.inference.calibration import (
    COMMON_TEXTS,
    FEWEST_POSITIVES,
    fit_temperature,
    fit_thresholds,
    probabilities_of,
    said_of_rare,
)
from bertcnn.inference.metrics import decide, reliability
from bertcnn.study import statistics

SCORES = ("accuracy", "macro_f1", "micro_f1", "log_loss", "calibration_error")


def one_label(seed: int, texts: int = 60, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, labels, texts)
    logits = generator.normal(size=(texts, labels)) + 1.5 * np.eye(labels)[truth]
    return truth, softmax(logits, axis=1)


def many_labels(seed: int, texts: int = 60, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((texts, labels)) < 0.3).astype(np.float32)
    return truth, expit(generator.normal(size=(texts, labels)) + 3 * truth - 1.5)


def values(truth: np.ndarray, table: np.ndarray, **options: object) -> dict[str, float]:
    names = [f"L{k}" for k in range(table.shape[1])]
    found = evaluate(truth, table, names, resamples=0, **options)
    return {name: estimate.value for name, estimate in found.headlines.items()}


# ---- one label a text


@pytest.mark.parametrize("seed", range(4))
def test_one_label_against_scikit_learn(seed: int) -> None:
    truth, table = one_label(seed)
    answers = table.argmax(axis=1)
    found = evaluate(truth, table, list("abcd"), resamples=0)
    scores = {name: estimate.value for name, estimate in found.headlines.items()}
    assert tuple(scores) == SCORES
    assert scores["accuracy"] == pytest.approx(theirs.accuracy_score(truth, answers))
    assert scores["macro_f1"] == pytest.approx(theirs.f1_score(truth, answers, average="macro"))
    assert scores["micro_f1"] == pytest.approx(theirs.f1_score(truth, answers, average="micro"))
    assert scores["micro_f1"] == pytest.approx(scores["accuracy"])
    assert scores["log_loss"] == pytest.approx(theirs.log_loss(truth, table))
    assert found.confusion == theirs.confusion_matrix(truth, answers).tolist()
    report = theirs.classification_report(truth, answers, target_names=list("abcd"), output_dict=True)
    for name in "abcd":
        row = report[name]
        ranked = theirs.average_precision_score(truth == "abcd".index(name), table[:, "abcd".index(name)])
        wanted = (row["precision"], row["recall"], row["f1-score"], row["support"], ranked)
        assert tuple(found.labels[name].values()) == pytest.approx(wanted)
    assert found.texts == 60


def test_one_label_by_hand() -> None:
    # Said a a b b c, true a b b b a. F1: a 1/2 (1 hit of 2 said, 2 true), b 4/5 (2 of 2 said, 3 true), c 0 (said once).
    table = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.2, 0.3, 0.5]])
    truth = np.array([0, 1, 1, 1, 0])
    scores = values(truth, table)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    assert scores["log_loss"] == pytest.approx(-math.log(0.8 * 0.3 * 0.7 * 0.9 * 0.2) / 5)
    found = evaluate(truth, table, ["a", "b", "c"], resamples=0)
    ranked = (1 + 1 + 3 / 4) / 3  # the third true b has the same probability as a wrong one
    assert found.labels["b"] == pytest.approx(
        {"precision": 1, "recall": 2 / 3, "f1": 4 / 5, "support": 3, "average_precision": ranked}
    )
    assert found.labels["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0, "average_precision": None}
    assert found.confusion == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]


def test_a_label_neither_true_nor_said_does_not_count() -> None:
    table = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0]])
    truth = np.array([0, 1, 1])
    wanted = theirs.f1_score(truth, table.argmax(axis=1), average="macro")
    assert values(truth, table)["macro_f1"] == pytest.approx(wanted) == pytest.approx(2 / 3)
    # But one that is true and never said does, with 0.
    truth = np.array([0, 1, 2])
    wanted = theirs.f1_score(truth, table.argmax(axis=1), average="macro")
    assert values(truth, table)["macro_f1"] == pytest.approx(wanted) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_calibration_error_by_hand() -> None:
    # Bins of 1/15: 0.95 and 0.96 share the last one (0.933 to 1), 0.7 and 0.72 the eleventh (0.667 to 0.733).
    sure = np.array([0.95, 0.96, 0.7, 0.72, 0.55])
    table = np.stack([sure, 1 - sure], axis=1)
    truth = np.array([0, 1, 0, 0, 1])
    gaps = abs(1 - 0.95 - 0.96) + abs(2 - 0.7 - 0.72) + abs(0 - 0.55)
    assert values(truth, table)["calibration_error"] == pytest.approx(gaps / 5)


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.95, 0.92, 0.55, 1.0, 0.94]), np.array([True, False, True, True, False]))
    assert [row[2] for row in found] == [1, 1, 3]  # bins of 1/15
    assert found[0][:2] == (0.55, 1)
    assert found[1][:2] == (0.92, 0)
    assert found[2][:2] == pytest.approx(((0.95 + 1.0 + 0.94) / 3, 2 / 3))


def test_calibration_error_of_honest_and_of_boastful_probabilities() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, 20_000)
    truth = (generator.random(20_000) > sure).astype(int)
    assert values(truth, np.stack([sure, 1 - sure], axis=1))["calibration_error"] < 0.015
    always = np.tile([1.0, 0.0], (20_000, 1))
    assert values(truth, always)["calibration_error"] == pytest.approx(truth.mean())


def test_sure_and_wrong_is_bounded() -> None:
    scores = values(np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert scores["log_loss"] == pytest.approx(-math.log(1e-12) / 2)


def test_one_text() -> None:
    found = evaluate(np.array([1]), np.array([[0.3, 0.7]]), ["a", "b"])
    assert found.headlines["accuracy"] == metrics.Estimate(1.0, pytest.approx(0.2065, abs=1e-4), 1.0)
    assert found.headlines["log_loss"].value == pytest.approx(-math.log(0.7))
    assert found.headlines["log_loss"].low == found.headlines["log_loss"].high
    assert found.headlines["calibration_error"].value == pytest.approx(0.3)
    assert found.confusion == [[0, 0], [0, 1]]


def test_equal_scores_are_settled_for_the_first_label() -> None:
    table = np.full((4, 2), 0.5)
    found = evaluate(np.array([0, 0, 1, 1]), table, ["a", "b"], resamples=0)
    assert found.confusion == [[2, 0], [2, 0]]
    assert found.headlines["macro_f1"].value == pytest.approx(1 / 3)
    assert found.headlines["calibration_error"].value == pytest.approx(0)


def test_to_dict_is_json() -> None:
    truth, table = one_label(0, labels=2)
    form = json.loads(json.dumps(evaluate(truth, table, ["a", "b"], resamples=5).to_dict()))
    assert set(form) == {"texts", "headlines", "labels", "confusion"}
    assert set(form["headlines"]["accuracy"]) == {"value", "low", "high"}
    assert isinstance(form["labels"]["a"]["support"], int)


# ---- many labels a text


@pytest.mark.parametrize("seed", range(4))
def test_many_labels_against_scikit_learn(seed: int) -> None:
    truth, table = many_labels(seed)
    thresholds = [0.5, 0.3, 0.7, 0.5]
    answers = (table >= thresholds).astype(int)
    scores = values(truth, table, thresholds=thresholds)
    assert scores["accuracy"] == pytest.approx(theirs.accuracy_score(truth, answers))
    assert scores["macro_f1"] == pytest.approx(theirs.f1_score(truth, answers, average="macro"))
    assert scores["micro_f1"] == pytest.approx(theirs.f1_score(truth, answers, average="micro"))
    pairs = np.stack([1 - table.ravel(), table.ravel()], axis=1)
    assert scores["log_loss"] == pytest.approx(theirs.log_loss(truth.ravel(), pairs))
    found = evaluate(truth, table, list("abcd"), thresholds=thresholds, resamples=0)
    assert found.confusion is None
    for k, name in enumerate("abcd"):
        assert found.labels[name]["f1"] == pytest.approx(theirs.f1_score(truth[:, k], answers[:, k]))
        assert found.labels[name]["support"] == truth[:, k].sum()


def test_many_labels_by_hand() -> None:
    table = np.array([[0.9, 0.6], [0.2, 0.4], [0.8, 0.1]])
    truth = np.array([[1, 0], [0, 0], [1, 1]])
    scores = values(truth, table)
    assert scores["accuracy"] == pytest.approx(1 / 3)  # only the second is right as a whole
    assert scores["macro_f1"] == pytest.approx((1 + 0) / 2)
    assert scores["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores["log_loss"] == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.6 * 0.8 * 0.1) / 6)
    # Each decision falls into a bin of its own here.
    gaps = [1 - 0.9, 0.6, 0.2, 0.4, 1 - 0.8, 1 - 0.1]
    assert scores["calibration_error"] == pytest.approx(sum(gaps) / 6)


def test_many_labels_of_which_there_is_one() -> None:
    """scikit-learn takes them for the two values of a single label, and would tell of its absence."""
    truth = np.array([1, 0, 0, 1, 0, 0, 1, 0])[:, None]
    answers = np.array([1, 0, 0, 0, 1, 0, 1, 0])[:, None]
    found = evaluate(truth, 0.1 + 0.8 * answers, ["urgent"], resamples=0)
    ranked = 2 / 3 * 2 / 3 + 1 / 3 * 3 / 8
    assert found.labels["urgent"] == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3, "average_precision": ranked}
    )
    assert found.headlines["macro_f1"].value == 2 / 3


def test_the_imagined_mistake_is_made_on_any_label() -> None:
    truth = np.zeros((40, 3), dtype=np.int64)
    turned = np.zeros(3)
    for seed in range(300):
        _, given = metrics._draw(truth, truth, 3, np.random.default_rng(seed))
        turned += given.sum(axis=0)
    np.testing.assert_allclose(turned / turned.sum(), 1 / 3, atol=0.08)


def test_with_many_labels_an_absent_one_counts_zero_as_in_scikit_learn() -> None:
    truth = np.array([[1, 0], [1, 0]])
    table = np.array([[0.9, 0.1], [0.9, 0.2]])
    wanted = theirs.f1_score(truth, (table >= 0.5).astype(int), average="macro", zero_division=0)
    assert values(truth, table)["macro_f1"] == wanted == 0.5


def test_no_label_at_all() -> None:
    scores = values(np.zeros((3, 2)), np.full((3, 2), 0.1))
    assert scores == pytest.approx(
        {"accuracy": 1, "macro_f1": 0, "micro_f1": 0, "log_loss": -math.log(0.9), "calibration_error": 0.1}
    )


def test_decisions() -> None:
    table = np.array([[0.2, 0.5, 0.5], [0.9, 0.0, 0.1]])
    assert decide(table, many=False).tolist() == [1, 0]
    assert decide(table, many=True).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert decide(table, many=True, thresholds=[0.2, 0.6, 0.1]).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert decide(table[:0], many=False).shape == (0,)


# ---- intervals


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe (1998), "Two-sided confidence intervals", table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(hits: int, count: int, low: float, high: float) -> None:
    assert metrics.wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("rate", [0.8, 0.97])
def test_the_interval_of_f1_holds_the_truth_as_often_as_it_says(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of balanced labels and errors both ways, macro F1 of ever more texts is the accuracy."""
    monkeypatch.setattr(metrics, "SCORES", {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1})
    generator = np.random.default_rng(2)
    held = 0
    for i in range(200):
        truth = generator.integers(0, 2, 80)
        answers = np.where(generator.random(80) < rate, truth, 1 - truth)
        found = evaluate(truth, np.eye(2)[answers], ["a", "b"], resamples=200, seed=i).headlines["macro_f1"]
        held += found.low <= rate <= found.high
    assert 0.91 <= held / 200 <= 1.0


def test_the_interval_of_f1_over_many_labels_is_not_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five texts a label, a resample misses some of a label, which costs F1; unmoved, 0.77 of these held it."""
    monkeypatch.setattr(metrics, "SCORES", {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1})
    generator = np.random.default_rng(2)
    held = 0
    for i in range(150):
        truth = generator.integers(0, 20, 100)
        answers = np.where(generator.random(100) < 0.6, truth, (truth + generator.integers(1, 20, 100)) % 20)
        found = evaluate(truth, np.eye(20)[answers], [*"abcdefghijklmnopqrst"], resamples=150, seed=i)
        held += found.headlines["macro_f1"].low <= 0.6 <= found.headlines["macro_f1"].high
    assert held / 150 >= 0.86


def test_a_rare_label_that_is_never_answered_widens_no_interval_of_f1() -> None:
    """A resample without it kept only the common one's F1, and the interval went up to 0.97."""
    truth = np.array([0] * 98 + [1] * 2)
    found = evaluate(truth, np.tile([0.9, 0.1], (100, 1)), ["common", "rare"]).headlines["macro_f1"]
    assert found.value == pytest.approx(0.4949, abs=1e-4)
    assert 0.46 <= found.low <= 0.49
    assert 0.50 <= found.high <= 0.55
    rows = np.arange(100)
    theirs = statistics.macro_f1(statistics.Outcomes(rows, 0 * rows, truth, 0 * truth))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCORES", {"accuracy": metrics.accuracy})
    generator = np.random.default_rng(1)
    rate, rounds, held = 0.8, 400, 0
    widths = []
    for i in range(rounds):
        truth = (generator.random(100) > rate).astype(int)
        always_first = np.tile([0.9, 0.1], (100, 1))
        found = evaluate(truth, always_first, ["a", "b"], resamples=200, seed=i).headlines["accuracy"]
        held += found.low <= rate <= found.high
        widths.append(found.high - found.low)
    # 95 % and its own sampling error of 1.1 points; the percentile bootstrap of a proportion is a little narrow.
    assert 0.90 <= held / rounds <= 0.98
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / 100), rel=0.1)


@pytest.mark.parametrize("many", [False, True])
def test_intervals_hold_their_values_and_hang_on_the_seed(many: bool) -> None:
    truth, table = many_labels(3, 200) if many else one_label(3, 200)
    first, again, other = (evaluate(truth, table, list("abcd"), resamples=300, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other
    for name, estimate in first.headlines.items():
        assert estimate.low < estimate.high, name
        if name != "calibration_error":  # resampling adds noise to bins, which can only widen their gaps
            assert estimate.low < estimate.value < estimate.high, name
        assert estimate.value == other.headlines[name].value
        assert estimate.low == pytest.approx(other.headlines[name].low, abs=0.03)


def test_more_texts_give_a_narrower_interval() -> None:
    def width(texts: int) -> float:
        truth, table = one_label(5, texts)
        found = evaluate(truth, table, list("abcd"), resamples=300).headlines["accuracy"]
        return found.high - found.low

    assert width(1600) == pytest.approx(width(100) / 4, rel=0.25)


def test_no_mistake_among_few_texts_is_no_proof_of_none() -> None:
    """A percentile bootstrap said 1.000 to 1.000: no error there, none in any resample."""
    for truth, names in ((np.array([0, 1] * 25), "ab"), (np.eye(3, dtype=int)[[0, 1, 2, 0, 1] * 10], "abc")):
        table = np.eye(2)[truth] if truth.ndim == 1 else truth.astype(float)
        for answers, at in ((table, 1.0), (1 - table, 0.0)):
            found = evaluate(truth, answers, list(names), resamples=400)
            for name in ("accuracy", "macro_f1", "micro_f1"):
                estimate = found.headlines[name]
                assert estimate.value == at
                assert 0.01 < estimate.high - estimate.low < 0.15, (name, estimate)
                assert at in (estimate.low, estimate.high)
            assert found.headlines["accuracy"].low == pytest.approx(0.9287 if at else 0.0, abs=1e-4)
    found = evaluate(np.array([0, 1] * 20), np.eye(2)[[0, 1] * 20], ["a", "b"], resamples=100)
    assert found.headlines["log_loss"] == metrics.Estimate(0.0, 0.0, 0.0)


# ---- temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("many", [False, True])
def test_a_known_temperature_is_found(temperature: float, many: bool) -> None:
    generator = np.random.default_rng(7)
    honest = generator.normal(scale=2.0, size=(20_000, 3))
    if many:
        truth = (generator.random(honest.shape) < expit(honest)).astype(np.float32)
    else:
        shares = softmax(honest, axis=1).cumsum(axis=1)
        truth = (generator.random((len(honest), 1)) > shares).sum(axis=1).clip(max=2)
    assert fit_temperature(honest * temperature, truth) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_less_loss() -> None:
    truth, table = one_label(2, 200)
    logits = (np.log(table) * 4).astype(np.float32)

    # Platt's targets: a text in 202 is told from the truth.
    told = np.full(table.shape, 1 / 202 / (table.shape[1] - 1))
    told[np.arange(200), truth] = 201 / 202

    def loss(temperature: float) -> float:
        return float(-(told * np.log(softmax(logits.astype(float) / temperature, axis=1))).sum(axis=1).mean())

    best = fit_temperature(logits, truth)
    assert all(loss(best) <= loss(other) + 1e-9 for other in np.geomspace(1 / 20, 20, 200))
    assert loss(best) < loss(1.0) - 0.1


def test_no_text_has_no_score() -> None:
    with pytest.raises(DataError, match="no texts to score on"):
        evaluate(np.zeros(0, dtype=np.int64), np.zeros((0, 2)), ["a", "b"])


def test_few_texts_without_a_mistake_do_not_make_answers_certain() -> None:
    """Of honest logits that are right in all of twenty texts, the temperature stays near 1."""
    generator = np.random.default_rng(0)
    margin = np.abs(generator.normal(2.0, 1.0, size=20))
    logits = np.stack([margin, np.zeros(20)], axis=1)
    truth = np.zeros(20, dtype=np.int64)
    assert 0.4 < fit_temperature(logits, truth) < 1.5
    assert 0.2 < fit_temperature(logits - 1.0, np.eye(2)[truth]) < 1.5


def test_the_temperature_stays_within_bounds() -> None:
    right = np.eye(2)[[0, 1, 0]] * 2.0 - 1
    low, high = fit_temperature(right, np.array([0, 1, 0])), fit_temperature(right, np.array([1, 0, 1]))
    assert softmax(right / low, axis=1).max() == pytest.approx(4 / 5, abs=0.01)  # three right of three: four of five
    assert 15 < high < 21  # all wrong: as unsure as may be
    for flat in (np.zeros((3, 2)), np.zeros((1, 2))):
        assert 1 / 21 < fit_temperature(flat, np.zeros(len(flat), dtype=int)) < 21
    huge = np.array([[1e4, -1e4], [1e4, -1e4]])
    assert math.isfinite(fit_temperature(huge, np.array([0, 1])))
    assert math.isfinite(fit_temperature(huge, np.array([[1, 0], [0, 1]])))


def test_probabilities_of_logits() -> None:
    logits = np.array([[math.log(3), 0.0], [1e4, -1e4]], dtype=np.float32)
    one, many = probabilities_of(logits, many=False), probabilities_of(logits, many=True)
    assert one.dtype == many.dtype == np.float64
    np.testing.assert_allclose(one, [[0.75, 0.25], [1, 0]], atol=1e-7)
    np.testing.assert_allclose(many, [[0.75, 0.5], [1, 0]], atol=1e-7)
    assert probabilities_of(logits[:0], many=False).shape == (0, 2)


# ---- thresholds


def best_f1(scores: np.ndarray, truth: np.ndarray) -> float:
    """Try a cut below, between and above all scores."""
    edges = np.unique(scores)
    cuts = [edges[0] - 1, *((a + b) / 2 for a, b in pairwise(edges)), edges[-1] + 1]
    return max(theirs.f1_score(truth, scores >= cut, zero_division=0) for cut in cuts)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(FEWEST_POSITIVES, 30))
def test_thresholds_give_the_greatest_f1(data: st.DataObject, size: int) -> None:
    scores = np.array(data.draw(st.lists(st.integers(0, 10), min_size=size, max_size=size))) / 10
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))).astype(int)
    truth[:FEWEST_POSITIVES] = 1
    (threshold,) = fit_thresholds(scores[:, None], truth[:, None])
    assert 0 <= threshold <= 1
    assert theirs.f1_score(truth, scores >= threshold) == pytest.approx(best_f1(scores, truth))


def test_a_threshold_stands_half_way_to_the_next_score() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.9])
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    assert fit_thresholds(scores[:, None], truth[:, None]) == pytest.approx([0.5])


def test_thresholds_of_few_texts_lean_on_the_common_one() -> None:
    """Their own, fitted on one to eight texts each, lie anywhere: on texts of another draw F1 is better between."""
    generator = np.random.default_rng(0)

    def draw(texts: int) -> tuple[np.ndarray, np.ndarray]:
        truth = (generator.random((texts, 30)) < np.linspace(0.005, 0.04, 30)).astype(np.float64)
        return truth, expit(generator.normal(size=truth.shape) + 3 * truth - 3)

    scores = []
    for _ in range(10):
        (truth, table), (fresh, seen) = draw(200), draw(2000)
        cuts = [fit_thresholds(table, truth, common_texts=weight) for weight in (0, COMMON_TEXTS)]
        scores.append([theirs.f1_score(fresh, seen >= np.array(cut), average="macro") for cut in cuts])
    own, leaning = np.mean(scores, axis=0)
    assert leaning > own + 0.02
    truth, table = draw(20_000)
    assert fit_thresholds(table, truth) == pytest.approx(fit_thresholds(table, truth, common_texts=0), abs=0.03)
    truth[:, 0] = 0
    common = fit_thresholds(table, truth, common_texts=1e12)
    assert fit_thresholds(table, truth)[0] == pytest.approx(common[0]) == pytest.approx(common[-1], abs=1e-6)


def test_what_is_said_of_rare_labels() -> None:
    assert said_of_rare([40, 5]) == ""
    assert said_of_rare([40, 4, 0]).startswith("2 of 3 labels have fewer than 5 dev texts: their thresholds are mostly")


def test_thresholds_where_there_is_nothing_to_choose() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_thresholds(np.full((4, 2), 0.3), np.zeros((4, 2))) == [0.5, 0.5]  # nothing holds
        (level,) = fit_thresholds(np.full((9, 1), 0.3), np.ones((9, 1)))  # all hold, all scores equal
        assert level <= 0.3
        (single,) = fit_thresholds(np.array([[0.8]]), np.array([[1]]))
        assert single <= 0.8
