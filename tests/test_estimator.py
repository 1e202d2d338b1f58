"""scikit-learn's contract, written as tests (its own check_estimator knows no texts)."""

import random
from collections.abc import Callable
from typing import Any

import joblib  # noqa: TID251  # that users may; the package never does
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_classifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.validation import check_is_fitted

from bertcnn import BertCNNClassifier, DataError, Predictor, SettingsError, save
from bertcnn.text.labels import named
from bertcnn.training import estimator

from .conftest import BAD, GOOD

Make = Callable[..., BertCNNClassifier]
PAIRS = [
    (f"the {noun} {verb} {adjective}", label)
    for noun in ("film", "phone", "room", "staff")
    for verb in ("is", "was", "is so", "was really")
    for adjectives in zip(GOOD, BAD, strict=True)
    for adjective, label in zip(adjectives, ("positive", "negative"), strict=True)
]
TEXTS, LABELS = map(list, zip(*(PAIRS[0::4] + PAIRS[1::4]), strict=True))
UNSEEN, TRUTH = map(list, zip(*(PAIRS[2::4] + PAIRS[3::4]), strict=True))
NEW = ["the film was good", "the staff is so awful", "", "x"]


@pytest.fixture(scope="session")
def make(tiny: str) -> Make:
    def make(**changed: Any) -> BertCNNClassifier:
        given = {
            "encoder": tiny, "depth": 1, "num_filters": 100, "kernel_sizes": (1, 2), "overlap": 4, "method": "frozen",
            "head_epochs": 8, "batch_size": 16, "head_learning_rate": 0.02, "dropout": 0.1,
            "dev_fraction": 0.2, "patience": 99,
        }  # fmt: skip
        return BertCNNClassifier(**{**given, **changed})

    return make


@pytest.fixture(scope="session")
def fitted(make: Make) -> BertCNNClassifier:
    return make().fit(TEXTS, LABELS)


@pytest.fixture(scope="session")
def three(make: Make) -> BertCNNClassifier:
    return make().fit(TEXTS + ["so so"] * 20, [*LABELS, *["middle"] * 20])


@pytest.fixture(scope="session")
def matrix() -> np.ndarray:
    """Three labels a text: good, short, and one that none has."""
    rows = [[label == "positive", len(text.split()) < 5, False] for text, label in zip(TEXTS, LABELS, strict=True)]
    return np.array(rows, dtype=int)


@pytest.fixture(scope="session")
def many(make: Make, matrix: np.ndarray) -> BertCNNClassifier:
    return make(kernel_sizes=(1, 5)).fit(TEXTS, matrix)


# ---- parameters


def test_parameters_are_kept_untouched_and_can_be_set() -> None:
    given = {"encoder": "x", "depth": 3, "kernel_sizes": [2, 3], "seed": 4, "verbose": True}
    classifier = BertCNNClassifier(**given)
    found = classifier.get_params()
    assert {name: found[name] for name in given} == given
    assert found["kernel_sizes"] is given["kernel_sizes"]
    assert len(found) == len(BertCNNClassifier().get_params()) > 25
    assert classifier.set_params(depth="all", dropout=0.2) is classifier
    assert (classifier.depth, classifier.dropout, classifier.encoder) == ("all", 0.2, "x")
    with pytest.raises(ValueError, match="no_such"):
        classifier.set_params(no_such=1)


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"'num_filter'.*Did you mean 'num_filters'\?"):
        BertCNNClassifier(num_filter=3)
    with pytest.raises(TypeError):
        BertCNNClassifier("minilm")


def test_a_clone_has_the_parameters_and_nothing_learned(fitted: BertCNNClassifier) -> None:
    twin = clone(fitted)
    assert twin is not fitted
    assert twin.get_params() == fitted.get_params()
    assert not hasattr(twin, "trained_")
    assert not hasattr(twin, "classes_")


def test_making_one_checks_no_value_but_fitting_does(make: Make) -> None:
    wrong = make(dropout=2.0, method="magic")
    with pytest.raises(SettingsError, match="magic"):
        wrong.fit(TEXTS, LABELS)
    with pytest.raises(SettingsError, match="dropout"):
        make(dropout=2.0).fit(TEXTS, LABELS)


def test_repr_names_what_was_changed() -> None:
    assert repr(BertCNNClassifier()) == "BertCNNClassifier()"
    assert repr(BertCNNClassifier(depth=2, seed=0)) == "BertCNNClassifier(depth=2)"


def test_it_says_it_is_a_classifier_of_texts(fitted: BertCNNClassifier) -> None:
    assert is_classifier(fitted)
    assert fitted.__sklearn_tags__().target_tags.required


# ---- fitted


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "score"])
def test_nothing_is_answered_before_fit(method: str) -> None:
    arguments = [NEW, ["a"] * 4] if method == "score" else [NEW]
    with pytest.raises(NotFittedError, match="BertCNNClassifier"):
        getattr(BertCNNClassifier(), method)(*arguments)


def test_fit_returns_itself_and_changes_no_parameter(make: Make) -> None:
    classifier = make(head_epochs=1, kernel_sizes=[1, 2])
    before = classifier.get_params()
    texts, labels = list(TEXTS), list(LABELS)
    assert classifier.fit(texts, labels) is classifier
    assert classifier.get_params() == before
    assert (texts, labels) == (TEXTS, LABELS)
    check_is_fitted(classifier)


def test_it_learns(fitted: BertCNNClassifier) -> None:
    assert fitted.score(UNSEEN, TRUTH) > 0.9
    assert fitted.score(UNSEEN, TRUTH) == np.mean(fitted.predict(UNSEEN) == np.array(TRUTH))
    right, wrong = fitted.predict(UNSEEN[:1])[0], "neither"
    assert fitted.score([UNSEEN[0]] * 2, [right, wrong], sample_weight=[3, 1]) == 0.75


def test_answers_of_two_classes_agree_with_one_another(fitted: BertCNNClassifier) -> None:
    assert fitted.classes_.tolist() == ["negative", "positive"]
    table, scores, answers = fitted.predict_proba(NEW), fitted.decision_function(NEW), fitted.predict(NEW)
    assert table.shape == (4, 2)
    assert scores.shape == answers.shape == (4,)
    np.testing.assert_allclose(table.sum(axis=1), 1)
    np.testing.assert_allclose(expit(scores), table[:, 1], rtol=1e-6)
    assert answers.tolist() == [("negative", "positive")[int(score > 0)] for score in scores]
    assert answers[:2].tolist() == ["positive", "negative"]
    assert answers.dtype == fitted.classes_.dtype


def test_answers_of_three_classes_agree_with_one_another(three: BertCNNClassifier) -> None:
    assert three.classes_.tolist() == ["middle", "negative", "positive"]
    texts = [*NEW, "so so"]
    table, scores, answers = three.predict_proba(texts), three.decision_function(texts), three.predict(texts)
    assert table.shape == scores.shape == (5, 3)
    np.testing.assert_allclose(table.sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), table, rtol=1e-6)
    assert answers.tolist() == three.classes_[table.argmax(axis=1)].tolist()
    assert answers[[0, 1, 4]].tolist() == ["positive", "negative", "middle"]


def test_no_text_is_no_answer(fitted: BertCNNClassifier, three: BertCNNClassifier) -> None:
    assert fitted.predict([]).shape == (0,)
    assert fitted.decision_function([]).shape == (0,)
    assert fitted.predict_proba([]).shape == (0, 2)
    assert three.decision_function([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("good", "bad"), [("10", "9"), (1, 0), (-7, 10), (True, False), (2.0, 1.0), ("\u00fc|", "z"), ("Nan", "inf")]
)
def test_labels_of_any_type_come_back(make: Make, good: Any, bad: Any) -> None:
    y = [good if label == "positive" else bad for label in LABELS]
    classifier = make().fit(TEXTS, y)
    assert classifier.classes_.tolist() == np.unique(y).tolist()
    assert classifier.classes_.dtype == np.array(y).dtype
    answers = classifier.predict(NEW[:2])
    assert answers.tolist() == [good, bad]
    assert answers.dtype == np.array(y).dtype
    table = classifier.predict_proba(NEW[:2])
    assert table[0, classifier.classes_.tolist().index(good)] > 0.5
    assert table[1, classifier.classes_.tolist().index(bad)] > 0.5
    assert set(classifier.trained_.predictor.label_names) == {named(good), named(bad)}


def test_columns_follow_classes_where_names_sort_otherwise(make: Make) -> None:
    y = [{"positive": "10", "negative": "9"}[label] for label in LABELS] + ["b"] * 20
    classifier = make().fit(TEXTS + ["so so"] * 20, y)
    assert classifier.classes_.tolist() == ["10", "9", "b"]
    assert classifier.trained_.predictor.label_names == ["9", "10", "b"]  # numbers by value
    best = classifier.predict_proba([*NEW[:2], "so so"]).argmax(axis=1)
    assert best.tolist() == [0, 1, 2]
    assert classifier.decision_function([*NEW[:2], "so so"]).argmax(axis=1).tolist() == [0, 1, 2]


def test_its_saved_model_says_the_users_labels(fitted: BertCNNClassifier, tmp_path: Any) -> None:
    save(fitted, tmp_path / "model")
    predictions = Predictor.load(tmp_path / "model").predict(NEW)
    assert [p.label for p in predictions] == fitted.predict(NEW).tolist()
    assert list(predictions[0].probabilities) == ["negative", "positive"]


def test_the_same_seed_gives_the_same_model_and_another_one_another(make: Make, fitted: BertCNNClassifier) -> None:
    again = make().fit(TEXTS, LABELS)
    assert (again.decision_function(NEW) == fitted.decision_function(NEW)).all()
    other = make(seed=1).fit(TEXTS, LABELS)
    assert (other.decision_function(NEW) != fitted.decision_function(NEW)).any()


def test_fitting_again_forgets(make: Make) -> None:
    classifier = make(head_epochs=2).fit(TEXTS, LABELS)
    classifier.fit(TEXTS, [len(text) % 3 for text in TEXTS])
    assert classifier.classes_.tolist() == [0, 1, 2]
    assert classifier.predict_proba(NEW).shape == (4, 3)


# ---- what comes in


@pytest.mark.parametrize("kind", ["array", "object array", "column", "series", "string series"])
def test_texts_and_labels_in_any_container(fitted: BertCNNClassifier, make: Make, kind: str) -> None:
    containers: dict[str, Callable[[list[str]], Any]] = {
        "array": np.array,
        "object array": lambda values: np.array(values, dtype=object),
        "column": lambda values: np.array(values)[:, None],
        "series": lambda values: pd.Series(values, index=range(100, 100 + len(values)), dtype=object),
        "string series": lambda values: pd.Series(values, index=range(100, 100 + len(values)), dtype="string"),
    }
    contain = containers[kind]
    labels = LABELS if kind in {"column"} else contain(LABELS)
    classifier = make().fit(contain(TEXTS), labels)
    assert (classifier.decision_function(contain(NEW)) == fitted.decision_function(NEW)).all()
    assert classifier.predict(contain(NEW)).tolist() == fitted.predict(NEW).tolist()


def test_a_column_of_labels_is_flattened_with_a_warning(fitted: BertCNNClassifier, make: Make) -> None:
    with pytest.warns(DataConversionWarning, match="column-vector"):
        classifier = make().fit(TEXTS, np.array(LABELS)[:, None])
    assert (classifier.decision_function(NEW) == fitted.decision_function(NEW)).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a good film", "one string"),
        ([1, 2], r"Text 0 is a int"),
        (["a", None], r"Text 1 is a NoneType"),
        (["a", float("nan")], r"Text 1 is a float"),
        (["a", b"b"], r"Text 1 is a bytes"),
        ([["a"], ["b", "c"]], r"Text 0 is a list"),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), r"Text 0 is a ndarray"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), "columns 'a', 'b'"),
        ({"a": ["x"]}, "a dict with the keys 'a'"),
    ],
)
def test_what_is_no_text_is_refused(fitted: BertCNNClassifier, make: Make, texts: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fitted.predict(texts)
    with pytest.raises(TypeError, match=message):
        make().fit(texts, ["a", "b"])


def test_a_table_with_one_column_is_that_column(fitted: BertCNNClassifier) -> None:
    assert fitted.predict(pd.DataFrame({"review": NEW})).tolist() == fitted.predict(NEW).tolist()


def test_fit_takes_no_weights_of_texts(make: Make) -> None:
    with pytest.raises(TypeError, match=r"takes no sample_weight\. Weigh labels by class_weights="):
        make().fit(TEXTS, LABELS, sample_weight=[1.0] * len(TEXTS))
    with pytest.raises(TypeError, match=r"takes no epochs\.$"):
        make().fit(TEXTS, LABELS, epochs=3)


def test_generators_are_read(fitted: BertCNNClassifier, make: Make) -> None:
    classifier = make().fit((text for text in TEXTS), (label for label in LABELS))
    assert classifier.predict(NEW).tolist() == fitted.predict(NEW).tolist()


def test_a_label_with_one_text_is_learned_with_a_warning(make: Make) -> None:
    """Else a rare class, alone in one fold, ended a whole cross-validation."""
    with pytest.warns(UserWarning, match="single text, which no split can check: 'rare'"):
        classifier = make(head_epochs=1).fit(TEXTS, ["rare", *["a", "b"] * 39, "a"])
    assert classifier.classes_.tolist() == ["a", "b", "rare"]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (TEXTS, LABELS[:-1], "80 texts, but y has 79 labels"),
        (TEXTS, ["only"] * 80, "only the label 'only'"),
        (TEXTS, None, "y is a NoneType, expected a label for each text"),
        (TEXTS, [None, *LABELS[1:]], r"y has no label in row 0 \(None\)"),
        (TEXTS, [*LABELS[:2], float("nan"), *LABELS[3:]], r"y has no label in row 2 \(nan\)"),
        (TEXTS, np.array([np.nan] * 80), r"in row 0, 1, 2, 3, 4, \.\.\. \(nan\)"),
        (TEXTS, [["a", "b"], ["c"]] * 40, "MultiLabelBinarizer"),
        (TEXTS, [["a"], ["c"]] * 40, "MultiLabelBinarizer"),
        (["a", "b"], ["x", "y"], "2 texts are too few"),
        ([], [], "0 texts are too few"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(make: Make, texts: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make().fit(texts, labels)


@pytest.mark.parametrize("labels", [np.linspace(0.1, 0.9, 80), np.tile([[1, 2], [3, 4]], (40, 1))])
def test_targets_of_no_classifier_are_refused(make: Make, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)label|1d array"):
        make().fit(TEXTS, labels)


# ---- many labels a text


def test_many_labels_a_text(many: BertCNNClassifier, matrix: np.ndarray) -> None:
    assert many.classes_.tolist() == [0, 1, 2]
    table, scores, answers = many.predict_proba(TEXTS), many.decision_function(TEXTS), many.predict(TEXTS)
    assert table.shape == scores.shape == answers.shape == matrix.shape
    assert set(np.unique(answers)) <= {0, 1}
    np.testing.assert_allclose(expit(scores)[:, :2], table[:, :2], rtol=1e-6)
    thresholds = many.trained_.predictor.model.config.thresholds
    assert (answers[:, :2] == (table[:, :2] >= thresholds)).all()
    assert f1_score(matrix[:, 0], answers[:, 0]) > 0.9
    assert many.score(TEXTS, matrix) == (answers == matrix).all(axis=1).mean()


def test_a_label_no_text_had_is_never_said(many: BertCNNClassifier) -> None:
    assert (many.predict_proba(NEW)[:, 2] == 0).all()
    assert not many.predict(NEW)[:, 2].any()
    assert many.predict([]).shape == (0, 3)


def test_a_sparse_matrix_is_as_good(make: Make, many: BertCNNClassifier, matrix: np.ndarray) -> None:
    sparse = make(kernel_sizes=(1, 5)).fit(TEXTS, csr_matrix(matrix))
    assert (sparse.decision_function(NEW) == many.decision_function(NEW)).all()


def test_label_sets_by_the_binarizer(make: Make) -> None:
    sets = [{label, *(["short"] if len(text.split()) < 5 else [])} for text, label in zip(TEXTS, LABELS, strict=True)]
    binarizer = MultiLabelBinarizer()
    classifier = make().fit(TEXTS, binarizer.fit_transform(sets))
    said = binarizer.inverse_transform(classifier.predict(NEW[:2]))
    assert "positive" in said[0]
    assert "negative" in said[1]


# ---- inside scikit-learn


class Strip(TransformerMixin, BaseEstimator):
    """Take off what stands around the texts."""

    def fit(self, X: Any, y: Any = None) -> "Strip":  # noqa: N803
        return self

    def transform(self, X: Any) -> list[str]:  # noqa: N803
        return [text.removeprefix("Review: ") for text in X]


def test_in_a_pipeline(make: Make, fitted: BertCNNClassifier) -> None:
    pipe = make_pipeline(Strip().fit(NEW), make())
    pipe.fit([f"Review: {text}" for text in TEXTS], LABELS)
    assert (pipe.decision_function([f"Review: {text}" for text in NEW]) == fitted.decision_function(NEW)).all()
    assert pipe.classes_.tolist() == ["negative", "positive"]
    assert pipe.set_params(bertcnnclassifier__depth=2)[-1].depth == 2


def test_cross_validation(make: Make) -> None:
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    scores = cross_val_score(make(), TEXTS, LABELS, cv=folds, error_score="raise")
    assert scores.shape == (2,)
    assert scores.min() > 0.7
    by_area = cross_val_score(make(), TEXTS, LABELS, cv=folds, scoring="roc_auc", error_score="raise")
    assert by_area.min() > 0.8
    table = cross_val_predict(make(), np.array(TEXTS), LABELS, cv=folds, method="predict_proba")
    assert np.mean(table.argmax(axis=1) == (np.array(LABELS) == "positive")) == pytest.approx(scores.mean())


def test_logarithms_of_probabilities(fitted: BertCNNClassifier) -> None:
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(["good", ""])), fitted.predict_proba(["good", ""]))
    with pytest.raises(TypeError, match="Its name here is 'seed'"):
        BertCNNClassifier(random_state=1)


def test_weights_by_label(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(estimator, "train", lambda splits, settings, **_: seen.update(training=settings.training))
    weights = {"positive": 3, "negative": 0.5}
    one = clone(make(class_weights=weights))
    assert one.get_params()["class_weights"] == weights
    one.fit(TEXTS, LABELS)
    assert seen["training"].class_weights == (0.5, 3.0)
    numbers = [int(label == "positive") for label in LABELS]
    make(class_weights={1: 3, 0: 0.5}).fit(TEXTS, numbers)
    assert seen["training"].class_weights == (0.5, 3.0)
    with pytest.raises(SettingsError, match="are of 'positive', expected one for each label: 'negative', 'positive'"):
        make(class_weights={"positive": 3}).fit(TEXTS, LABELS)


def test_grid_search(make: Make) -> None:
    grid = {"kernel_sizes": [(1,), [1, 2]], "num_filters": [1, 100]}
    search = GridSearchCV(make(), grid, cv=2, scoring="f1_macro", error_score="raise").fit(TEXTS, LABELS)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["num_filters"] == 100
    assert search.best_estimator_.trained_.settings.model.num_filters == 100
    assert search.score(UNSEEN, TRUTH) > 0.8


def test_one_classifier_a_label(make: Make, matrix: np.ndarray) -> None:
    both = MultiOutputClassifier(make()).fit(np.array(TEXTS), matrix[:, :2])
    assert both.predict(np.array(NEW)).shape == (4, 2)
    assert both.predict(np.array(NEW[:2]))[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("state", ["fitted", "three", "many"])
def test_dumped_and_loaded_by_joblib(state: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    classifier = request.getfixturevalue(state)
    joblib.dump(classifier, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert (again.decision_function(NEW) == classifier.decision_function(NEW)).all()
    assert (again.predict(NEW) == classifier.predict(NEW)).all()
    assert again.get_params() == classifier.get_params()


def test_a_failed_fit_leaves_what_was_fitted_before(make: Make) -> None:
    found = make().fit(TEXTS, LABELS)
    answers = found.predict_proba(TEXTS[:5])
    others = ["a" if label == LABELS[0] else "b" for label in LABELS]
    matrix = np.array([[label == LABELS[0], label != LABELS[0]] for label in LABELS], dtype=int)
    for y in (others, matrix):
        with pytest.raises(DataError):
            found.fit(TEXTS, y, dev=([], []))
        np.testing.assert_array_equal(found.predict_proba(TEXTS[:5]), answers)
        assert set(found.predict(TEXTS[:5])) <= set(LABELS)


def test_a_fit_leaves_others_random_numbers_alone(make: Make) -> None:
    def draws() -> tuple[float, ...]:
        return random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = draws(), draws()
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    first = draws()
    make().fit(TEXTS, LABELS)
    assert (first, draws()) == expected


@pytest.mark.parametrize(
    "dev",
    [[0, 1] * 5, ["a"] * 10, np.ones((10, 4), dtype=int), np.arange(20).reshape(10, 2) % 3],
    ids=["flat", "names", "wide", "thirds"],
)
def test_dev_of_many_labels_must_be_such_a_matrix(make: Make, dev: Any) -> None:
    matrix = np.array([[label == LABELS[0], label != LABELS[0]] for label in LABELS], dtype=int)
    with pytest.raises(DataError, match="expected a matrix of 0 and 1 with 2 columns"):
        make().fit(TEXTS, matrix, dev=(TEXTS[:10], dev))


@pytest.mark.parametrize("kind", ["Int64", "boolean", "float64"])
def test_numbers_are_named_as_a_file_names_them(make: Make, kind: str) -> None:
    y = pd.Series([int(label == LABELS[0]) for label in LABELS], dtype=kind)
    found = make().fit(TEXTS, y)
    assert found.trained_.predictor.label_names == ["0", "1"]
    assert set(found.predict(TEXTS)) <= {0, 1}
