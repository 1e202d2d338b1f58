"""Comparisons against hand-worked and published numbers; coverage, false positives and power by simulation."""

from fractions import Fraction
from math import comb, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as theirs

from bertcnn.errors import StudyError
from bertcnn.study import statistics
from bertcnn.study.curves import data_needed, frontier, time_to
from bertcnn.study.statistics import (
    CROSSED,
    MCNEMAR,
    Outcomes,
    accuracy,
    compare,
    holm,
    macro_f1,
)

SIZES = [(1, 0.0), (2, 0.2), (3, 0.2), pytest.param(5, 0.2, marks=pytest.mark.slow)]
scores = st.floats(0, 1)


def outcomes(right: np.ndarray, *, first_seed: int = 0) -> Outcomes:
    """Turn a table of right and wrong, runs by examples, into outcomes of two labels."""
    runs, examples = right.shape
    truth = np.tile(np.arange(examples) % 2, runs)
    answers = np.where(right.ravel(), truth, 1 - truth).astype(np.int64)
    return Outcomes(
        np.tile(np.arange(examples), runs), np.repeat(np.arange(runs), examples) + first_seed, truth, answers
    )


def pair_of(both: int, only_a: int, only_b: int, neither: int, runs: int = 1) -> tuple[Outcomes, Outcomes]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return outcomes(np.tile(a, (runs, 1))), outcomes(np.tile(b, (runs, 1)))


def simulate(
    generator: np.random.Generator, runs: int, *, run_sd: float, examples: int = 200, better: float = 0.0
) -> tuple[Outcomes, Outcomes]:
    """Two systems: shared and own difficulty, an effect of each run, noise; the second is better by so many probits."""
    shared = 2 * generator.normal(size=examples)
    tables = []
    for lead in (0.0, better):
        own = 0.7 * generator.normal(size=examples)
        run = run_sd * generator.normal(size=(runs, 1))
        tables.append(1.5 + lead + shared + own + run + generator.normal(size=(runs, examples)) > 0)
    return outcomes(tables[0]), outcomes(tables[1])


def expected_accuracy(run_sd: float, better: float = 0.0) -> float:
    return float(norm.cdf((1.5 + better) / np.sqrt(4 + 0.49 + run_sd**2 + 1)))


# ---- scores


def test_scores_are_the_mean_of_the_runs() -> None:
    generator = np.random.default_rng(0)
    truth, answers = generator.integers(0, 5, 120), generator.integers(0, 5, 120)
    truth[60:] = truth[:60]
    answers[::2] = truth[::2]
    found = Outcomes(np.tile(np.arange(60), 2), np.repeat([4, 9], 60), truth, answers)
    halves = [(truth[:60], answers[:60]), (truth[60:], answers[60:])]
    assert accuracy(found).value == pytest.approx((truth == answers).mean())
    expected = np.mean([theirs.f1_score(t, a, average="macro") for t, a in halves])
    assert macro_f1(found).value == pytest.approx(expected)


@pytest.mark.parametrize("score", [accuracy, macro_f1])
@pytest.mark.parametrize("runs", [1, 3])
def test_interval_repeats_and_does_not_depend_on_the_order_of_rows(score, runs: int) -> None:
    a, _ = simulate(np.random.default_rng(1), runs, run_sd=0.2, examples=80)
    order = np.random.default_rng(2).permutation(len(a.example))
    shuffled = Outcomes(a.example[order], a.seed[order], a.truth[order], a.answers[order])
    first, again = score(a, resamples=200), score(shuffled, resamples=200)
    assert (first.value, first.low, first.high) == pytest.approx((again.value, again.low, again.high))
    assert 0 <= first.low < first.value < first.high <= 1


def test_memory_is_cut_in_pieces_without_changing_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = simulate(np.random.default_rng(1), 2, run_sd=0.2, examples=50)
    whole = accuracy(a, resamples=100)
    monkeypatch.setattr(statistics, "CELLS", 52 * 7)
    assert accuracy(a, resamples=100) == whole


def test_a_perfect_score_has_an_interval() -> None:
    found = accuracy(outcomes(np.ones((1, 50), dtype=bool)))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.9 < found.low < 0.97  # the rule of three says 0.94


def test_interval_of_one_run_is_near_the_binomial_one() -> None:
    found = accuracy(outcomes(np.arange(1000)[None] < 800), resamples=2000)
    assert (found.low, found.high) == pytest.approx((0.8 - 0.0248, 0.8 + 0.0248), abs=0.003)


def test_runs_that_differ_widen_the_interval() -> None:
    same = np.tile(np.arange(400) < 320, (3, 1))
    differ = np.stack([np.arange(400) < n for n in (280, 320, 360)])
    narrow, wide = (accuracy(outcomes(table)) for table in (same, differ))
    assert narrow.value == pytest.approx(wide.value)
    # t with 2 degrees of freedom, standard error 0.1 / sqrt(3): 0.248 on either side, before examples
    assert wide.low < 0.8 - 0.22
    assert narrow.low > 0.75


def test_uneven_folds_and_a_missing_run() -> None:
    a, _ = simulate(np.random.default_rng(3), 3, run_sd=0.2, examples=60)
    keep = (a.seed != 2) | (a.example < 20)
    part = Outcomes(a.example[keep], a.seed[keep], a.truth[keep], a.answers[keep])
    for score in (accuracy, macro_f1):
        found = score(part, resamples=200)
        assert 0 <= found.low < found.value < found.high <= 1
    single = Outcomes(np.array([1, 2]), np.array([0, 1]), np.array([0, 1]), np.array([0, 1]))
    assert macro_f1(single, resamples=50).value == 1.0


# ---- comparisons


def exact_p(only_a: int, only_b: int) -> float:
    n, k = only_a + only_b, min(only_a, only_b)
    return min(1.0, float(Fraction(2 * sum(comb(n, i) for i in range(k + 1)), 2**n)))


@pytest.mark.parametrize(
    ("both", "only_a", "only_b", "neither", "published"),
    [
        (1, 1, 7, 12, 0.0703),  # airway hyper-responsiveness, Fagerland, Lydersen and Laake (2013)
        (101, 121, 59, 33, 4.43e-6),
        (794, 150, 86, 570, 3.7e-5),  # approval of the prime minister, Agresti, "Categorical Data Analysis", ch. 10
        (5, 10, 0, 5, 0.001953125),
        (9, 0, 0, 1, 1.0),
    ],
)
def test_one_seed_is_mcnemar_exact(both: int, only_a: int, only_b: int, neither: int, published: float) -> None:
    found = compare(*pair_of(both, only_a, only_b, neither))
    texts = both + only_a + only_b + neither
    assert found.test == MCNEMAR
    assert found.p_value == pytest.approx(exact_p(only_a, only_b))
    assert found.p_value == pytest.approx(published, rel=0.02)
    assert (found.only_a, found.only_b, found.texts, found.seeds) == (only_a, only_b, texts, 1)
    assert found.difference.value == pytest.approx((only_a - only_b) / texts)


def test_interval_of_one_seed_by_hand() -> None:
    found = compare(*pair_of(1, 1, 7, 12)).difference
    # with the two examples more: 2 and 8 of 23, mean -6/23; t with 22 degrees of freedom is 2.0739
    variance = (10 - 36 / 23) / 22 / 23
    half = 2.0739 * variance**0.5
    assert (found.low, found.high) == pytest.approx((-6 / 23 - half, -6 / 23 + half), abs=1e-4)


def test_repeating_the_same_answers_is_no_new_evidence() -> None:
    one, five = (compare(*pair_of(60, 12, 25, 3, runs=runs)) for runs in (1, 5))
    assert five.test == CROSSED
    assert (five.difference.low, five.difference.high) == pytest.approx((one.difference.low, one.difference.high))
    assert five.p_value == pytest.approx(one.p_value, rel=0.5)
    assert five.smallest == pytest.approx(one.smallest, rel=0.3)


def test_variances_are_those_of_the_analysis_of_variance() -> None:
    table = np.random.default_rng(4).normal(size=(4, 30)) + np.arange(4)[:, None] + np.arange(30) / 5
    runs, examples = table.shape
    by_run = examples * table.mean(1).var(ddof=1)
    by_example = runs * table.mean(0).var(ddof=1)
    rest = table - table.mean(1)[:, None] - table.mean(0) + table.mean()
    residual = (rest**2).sum() / ((runs - 1) * (examples - 1))
    example, run = np.tile(np.arange(examples), runs), np.repeat(np.arange(runs), examples)
    found = statistics._components(table.ravel(), example=example, run=run)
    assert found == pytest.approx(((by_run - residual) / examples, (by_example - residual) / runs, residual))


def test_variances_with_cells_missing_are_right_on_average() -> None:
    generator = np.random.default_rng(5)
    found = []
    for _ in range(300):
        table = generator.normal(size=(6, 1)) + 2 * generator.normal(size=40) + 0.5 * generator.normal(size=(6, 40))
        there = generator.random(table.shape) < 0.6
        run, example = (np.unique(part, return_inverse=True)[1] for part in np.nonzero(there))
        found.append(statistics._components(table[there], example=example, run=run))
    assert np.mean(found, axis=0) == pytest.approx([1, 4, 0.25], rel=0.15)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_interval_and_p_value_agree_and_swap(runs: int) -> None:
    generator = np.random.default_rng(runs)
    for better in np.linspace(0, 1.5, 40):
        a, b = simulate(generator, runs, run_sd=0.1, examples=100, better=better)
        found, swapped = compare(a, b), compare(b, a)
        inside = found.difference.low <= 0 <= found.difference.high
        assert inside == (found.p_value >= 0.05)
        assert found.difference.low <= found.difference.value <= found.difference.high
        assert swapped.p_value == pytest.approx(found.p_value)
        assert swapped.difference.low == pytest.approx(-found.difference.high)


@pytest.mark.parametrize("runs", [1, 2, 4])
def test_the_same_system_twice(runs: int) -> None:
    a, _ = simulate(np.random.default_rng(0), runs, run_sd=0.3)
    found = compare(a, a)
    assert (found.difference.value, found.p_value, found.only_a, found.only_b) == (0, 1, 0, 0)
    assert found.difference.low < 0 < found.difference.high


@given(st.integers(1, 4), st.integers(1, 6), st.data())
@hypothesis_settings(max_examples=60, deadline=None)
def test_small_and_degenerate_tables_get_an_answer(runs: int, examples: int, data: st.DataObject) -> None:
    table = st.lists(st.booleans(), min_size=runs * examples, max_size=runs * examples)
    a, b = (outcomes(np.array(data.draw(table)).reshape(runs, examples)) for _ in range(2))
    found = compare(a, b)
    assert 0 < found.p_value <= 1
    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1
    assert 0 < found.smallest <= 1 or (runs == 1 and examples < 6)


def test_overwhelming_evidence_does_not_overflow() -> None:
    a, b = pair_of(0, 20000, 0, 1, runs=3)
    assert 0 < compare(a, b).p_value < 1e-20


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1, 1e5)), min_size=1, max_size=2), st.floats(1e-90, 1))
def test_p_value_inverts_the_distance(parts: list[tuple[float, float]], p_value: float) -> None:
    distance = statistics._distance(parts, p_value / 2)
    assert statistics._p_value(parts, distance) == pytest.approx(p_value, rel=1e-6)


def test_only_shared_pairs_count() -> None:
    a, b = simulate(np.random.default_rng(6), 3, run_sd=0.2, examples=50)
    keep = (b.seed != 1) | (b.example >= 10)
    found = compare(a, Outcomes(b.example[keep], b.seed[keep], b.truth[keep], b.answers[keep]))
    right_a, right_b = a.truth == a.answers, b.truth == b.answers
    assert found.difference.value == pytest.approx(right_a[keep].mean() - right_b[keep].mean())
    assert found.only_a == (right_a & ~right_b)[keep].sum()
    assert (found.texts, found.seeds) == (50, 3)
    one = compare(a, outcomes((b.truth == b.answers).reshape(3, 50)[2:], first_seed=2))
    assert (one.test, one.seeds) == (MCNEMAR, 1)


def test_faults_are_told() -> None:
    a, b = simulate(np.random.default_rng(7), 1, run_sd=0.0, examples=10)
    with pytest.raises(StudyError, match=r"share no .* seeds \[0\] and \[5\]"):
        compare(a, Outcomes(b.example, b.seed + 5, b.truth, b.answers))
    with pytest.raises(StudyError, match="different truths for example 0"):
        compare(a, Outcomes(b.example, b.seed, 1 - b.truth, b.answers))
    with pytest.raises(StudyError, match="Seed 0 answers example 3 twice"):
        Outcomes(np.array([3, 3]), np.array([0, 0]), np.array([0, 0]), np.array([0, 1]))
    with pytest.raises(StudyError, match=r"shapes \(1,\), \(2,\)"):
        Outcomes(np.array([3]), np.array([0, 0]), np.array([0, 0]), np.array([0, 1]))
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(StudyError, match="N > 0"):
        Outcomes(nothing, nothing, nothing, nothing)


# ---- by simulation


@pytest.mark.parametrize("runs", [1, 3])
def test_coverage_of_accuracy(runs: int) -> None:
    generator = np.random.default_rng(10 + runs)
    run_sd = 0.0 if runs == 1 else 0.3
    expected = expected_accuracy(run_sd)
    held = 0
    for i in range(300):
        found = accuracy(simulate(generator, runs, run_sd=run_sd, examples=100)[0], resamples=150, seed=i)
        held += found.low <= expected <= found.high
    assert held >= 0.92 * 300


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("is_right", [True, False])
def test_macro_f1_without_or_with_nothing_but_mistakes_is_not_certain(runs: int, is_right: bool) -> None:
    truth = np.tile(np.arange(50) % 2, runs)
    found = Outcomes(
        np.tile(np.arange(50), runs), np.repeat(np.arange(runs), 50), truth, truth if is_right else 1 - truth
    )
    f1, share = macro_f1(found), accuracy(found)
    assert f1.value == share.value == is_right
    assert 0.02 < f1.high - f1.low < 0.15
    assert (f1.low, f1.high) == pytest.approx((share.low, share.high), abs=0.03)


def test_coverage_of_macro_f1_near_the_top() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for i in range(200):
        truth = generator.integers(0, 2, 50)
        answers = np.where(generator.random(50) < 0.96, truth, 1 - truth)
        estimate = macro_f1(Outcomes(np.arange(50), np.zeros(50, dtype=int), truth, answers), resamples=200, seed=i)
        held += estimate.low <= 0.96 <= estimate.high
    assert held >= 0.93 * 200


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "texts"), [(4, 200), (20, 400)])
@pytest.mark.parametrize("runs", [1, 3])
def test_coverage_of_macro_f1(labels: int, texts: int, runs: int) -> None:
    generator = np.random.default_rng(labels + runs)
    prior = np.linspace(1, 3, labels) / np.linspace(1, 3, labels).sum()
    hit = np.linspace(0.6, 0.95, labels)
    given_label = (1 - hit)[:, None] * prior / (1 - prior)[:, None]
    np.fill_diagonal(given_label, hit)
    joint = prior[:, None] * given_label
    expected = (2 * np.diag(joint) / (joint.sum(0) + joint.sum(1))).mean()
    held = 0
    for i in range(300):
        truth = np.tile(generator.choice(labels, texts, p=prior), runs)
        chance = generator.random((len(truth), 1))
        answers = np.minimum((chance > given_label.cumsum(axis=1)[truth]).sum(axis=1), labels - 1)
        found = Outcomes(np.tile(np.arange(texts), runs), np.repeat(np.arange(runs), texts), truth, answers)
        estimate = macro_f1(found, resamples=300, seed=i)
        held += estimate.low <= expected <= estimate.high
    assert held >= 0.92 * 300


@pytest.mark.parametrize(("runs", "run_sd"), SIZES)
def test_false_positives_are_rare(runs: int, run_sd: float) -> None:
    generator = np.random.default_rng(20 + runs)
    found = [compare(*simulate(generator, runs, run_sd=run_sd)) for _ in range(400)]
    assert np.mean([c.p_value < 0.05 for c in found]) <= 0.075
    assert np.mean([c.difference.low <= 0 <= c.difference.high for c in found]) >= 0.925


@pytest.mark.slow
@pytest.mark.parametrize("runs", [2, 3, 5, 10])
@pytest.mark.parametrize("run_sd", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("examples", [60, 600])
def test_false_positives_whatever_the_runs_do(runs: int, run_sd: float, examples: int) -> None:
    generator = np.random.default_rng(30)
    found = [compare(*simulate(generator, runs, run_sd=run_sd, examples=examples)) for _ in range(800)]
    assert np.mean([c.p_value < 0.05 for c in found]) <= 0.07


def test_counting_examples_only_would_be_wrong() -> None:
    """The same data, its runs taken for examples: what the test of several seeds is there to prevent."""
    generator = np.random.default_rng(40)
    found = []
    for _ in range(200):
        a, b = simulate(generator, 3, run_sd=0.5)
        row = np.arange(len(a.example))
        pooled = [Outcomes(row, np.zeros_like(row), x.truth, x.answers) for x in (a, b)]
        found.append(compare(*pooled).p_value < 0.05)
    assert np.mean(found) > 0.2


@pytest.mark.parametrize(("runs", "run_sd"), [(1, 0.0), (3, 0.05)])
def test_power_at_a_real_difference(runs: int, run_sd: float) -> None:
    generator = np.random.default_rng(50 + runs)
    expected = expected_accuracy(run_sd) - expected_accuracy(run_sd, 0.8)
    found = [compare(*simulate(generator, runs, run_sd=run_sd, better=0.8)) for _ in range(200)]
    assert np.mean([c.p_value < 0.05 for c in found]) > 0.8
    assert np.mean([c.difference.low <= expected <= c.difference.high for c in found]) >= 0.92


@pytest.mark.parametrize(("texts", "apart"), [(6, 0), (30, 0), (100, 2), (377, 30), (1821, 200)])
def test_the_smallest_difference_is_the_exact_tests(texts: int, apart: int) -> None:
    """Not the t interval's: at 30 texts without a disagreement that had 13 points, which McNemar shows once in five."""
    smallest = statistics._smallest(texts, apart)
    generator = np.random.default_rng(texts)

    def power(difference: float) -> float:
        rate = max(difference, apart / texts)
        chances = (rate + difference) / 2, (rate - difference) / 2, 1 - rate
        met = generator.multinomial(texts, np.clip(chances, 0, 1), size=4000)
        return float(np.mean([exact_p(int(a), int(b)) < 0.05 for a, b, _ in met]))

    assert power(smallest) > 0.78
    assert power(smallest - 1 / texts) < 0.82
    assert not np.isfinite(statistics._smallest(5, 0))


def test_one_answer_for_all_has_no_macro_f1_of_100() -> None:
    truth = np.array(["rare"] * 2 + ["common"] * 28)
    row = np.arange(30)
    found = macro_f1(Outcomes(row, np.zeros_like(row), truth, np.full(30, "common")))
    assert found.low < found.value < found.high < 0.65


@pytest.mark.parametrize("runs", [1, 5])
def test_smallest_difference_is_found_four_times_in_five(runs: int) -> None:
    generator = np.random.default_rng(60 + runs)
    better, run_sd = 0.45, 0.05 * (runs > 1)
    real = expected_accuracy(run_sd, better) - expected_accuracy(run_sd)
    found = [compare(*simulate(generator, runs, run_sd=run_sd, better=better, examples=500)) for _ in range(150)]
    smallest = float(np.median([c.smallest for c in found]))
    # the power at the difference simulated, carried over to the smallest one along the normal curve
    power = np.mean([c.p_value < 0.05 for c in found])
    carried = norm.cdf((norm.ppf(power) + 1.96) * smallest / real - 1.96)
    assert 0.7 < carried < 0.9


# ---- the rest


def test_holm_by_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(scores, max_size=12))
def test_holm_is_never_below_and_keeps_the_order(raw: list[float]) -> None:
    adjusted = holm(raw)
    assert all(p <= q <= 1 for p, q in zip(raw, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(raw)) for j in range(len(raw)) if raw[i] <= raw[j])


def test_data_needed_by_hand() -> None:
    assert data_needed([100, 400], [0.6, 0.8], 0.7) == pytest.approx(200)
    assert data_needed([400, 100, 1600], [0.7, 0.6, 0.9], 0.75) == pytest.approx(400 * 4**0.25)
    assert data_needed([100, 400], [0.6, 0.8], 0.8) == pytest.approx(400)
    assert data_needed([100, 400], [0.6, 0.8], 0.5) == 100
    assert data_needed([100, 400], [0.6, 0.8], 0.81) is None
    assert data_needed([100, 200, 400, 800], [0.6, 0.75, 0.5, 0.9], 0.7) == pytest.approx(100 * 2 ** (2 / 3))
    assert data_needed([], [], 0.5) is None


@given(st.lists(st.tuples(st.integers(1, 10**6), scores), min_size=1, unique_by=lambda p: p[0]), scores)
def test_data_needed_stays_on_the_curve(points: list[tuple[int, float]], target: float) -> None:
    sizes, reached = zip(*points, strict=True)
    found = data_needed(sizes, reached, target)
    assert (found is None) == (max(reached) < target)
    if found is not None:
        assert log(min(sizes)) - 1e-9 <= log(found) <= log(max(sizes)) + 1e-9


def test_frontier_by_hand() -> None:
    assert frontier([1, 2, 3, 2, 1], [0.8, 0.7, 0.9, 0.9, 0.8]) == [True, False, False, True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20))
def test_frontier_is_never_empty_and_beats_the_rest(points: list[tuple[int, int]]) -> None:
    kept = frontier(*zip(*points, strict=True))
    best = [p for p, k in zip(points, kept, strict=True) if k]
    assert best
    assert all(k or any(c <= p[0] and s >= p[1] for c, s in best) for p, k in zip(points, kept, strict=True))


def test_time_to_by_hand() -> None:
    progress = [(1, 10.0, 0.5), (2, 20.0, 0.895), (3, 30.0, 0.9), (4, 40.0, 0.88)]
    assert time_to(progress) == (2, 20.0)
    assert time_to(progress[:3], share=1.0) == (3, 30.0)
    assert time_to([*progress, (5, 50.0, 0.99)]) == (5, 50.0)
    assert time_to(progress, share=0.5) == (1, 10.0)
    assert time_to([]) is None
