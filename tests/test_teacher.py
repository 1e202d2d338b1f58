"""A teacher softens targets: what is mixed, who may teach, and that a pupil learns it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from bertcnn import BertCNNClassifier, Predictor, Settings, SettingsError, save, train
from bertcnn.errors import DataError, ModelError
from bertcnn.network.loss import classification_loss
from bertcnn.settings import change
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.labels import Labels
from bertcnn.training import train as training
from bertcnn.training.teacher import soft_targets
from tests.conftest import make_texts

OPTIONS: list[dict[str, Any]] = [
    {},
    {"class_weights": [1.0, 3.0, 0.5]},
    {"focal_gamma": 2.0},
    {"label_smoothing": 0.2},
    {"class_weights": [1.0, 3.0, 0.5], "focal_gamma": 1.0, "label_smoothing": 0.1},
]


def turned(part: Examples) -> Examples:
    other = {"negative": "positive", "positive": "negative"}
    return Examples(part.texts, [other[str(label)] for label in part.labels], part.source)


def all_turned(splits: Splits) -> Splits:
    assert splits.test is not None
    return Splits(turned(splits.train), turned(splits.dev), turned(splits.test))


@pytest.fixture(scope="module")
def contrary(splits: Splits, quick: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model that was taught the contrary of each label."""
    folder = tmp_path_factory.mktemp("teacher") / "contrary"
    save(train(all_turned(splits), change(quick, {"method": "frozen"})), folder)
    return str(folder)


@pytest.mark.parametrize("options", OPTIONS)
def test_sure_targets_lose_what_class_ids_do(options: dict[str, Any]) -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids = torch.tensor([0, 1, 2, 1, 0, 0, 2])
    targets = torch.eye(3)[ids]
    soft = classification_loss(logits, targets, problem_type="single_label_classification", **options)
    hard = classification_loss(logits, ids, **options)
    torch.testing.assert_close(soft, hard)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (soft, hard)))


def test_a_soft_target_is_worth_its_shares() -> None:
    logits = torch.tensor([[1.0, -0.5]])
    log_p = logits.log_softmax(dim=-1)[0]
    found = classification_loss(logits, torch.tensor([[0.25, 0.75]]), problem_type="single_label_classification")
    torch.testing.assert_close(found, -(0.25 * log_p[0] + 0.75 * log_p[1]))


def teacher_of(names: list[str], table: list[list[float]]) -> Predictor:
    return cast(Predictor, SimpleNamespace(label_names=names, probabilities=lambda _: np.array(table)))


def test_targets_are_mixed_in_the_order_of_the_labels() -> None:
    teacher = teacher_of(["c", "a", "b"], [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    found = soft_targets(teacher, ["x", "y"], np.array([0, 1, 2]), Labels(("a", "b", "c")), 0.5)
    np.testing.assert_allclose(found, [[0.65, 0.1, 0.25], [0.05, 0.9, 0.05], [0, 0, 1]], atol=1e-6)
    alone = soft_targets(teacher, ["x", "y"], np.array([0, 1, 2]), Labels(("a", "b", "c")), 0.0)
    np.testing.assert_array_equal(alone, np.eye(3))


def test_targets_of_many_labels_are_mixed_label_by_label() -> None:
    truth = np.array([[1, 0], [1, 1]], dtype=np.float32)
    teacher = teacher_of(["b", "a"], [[0.5, 0.5], [0.0, 1.0]])
    found = soft_targets(teacher, ["x", "y"], truth, Labels(("a", "b"), many=True), 0.4)
    np.testing.assert_allclose(found, [[0.8, 0.2], [1.0, 0.6]], atol=1e-6)
    np.testing.assert_array_equal(truth, [[1, 0], [1, 1]])  # what was given is left alone


@pytest.mark.parametrize("method", ["frozen", "finetune"])
@pytest.mark.parametrize(("share", "follows"), [(1.0, "the teacher"), (0.0, "the labels")])
def test_a_pupil_follows_its_teacher_by_its_share(
    splits: Splits, quick: Settings, contrary: str, method: str, share: float, follows: str
) -> None:
    # Dev is the teacher's where the teacher is followed, for the best epoch on dev is kept.
    wanted = all_turned(splits) if follows == "the teacher" else splits
    values = {"method": method, "epochs": 14, "teacher": contrary, "teacher_share": share}
    trained = train(replace(wanted, train=splits.train), change(quick, values))
    assert trained.test is not None
    assert trained.test.headlines["accuracy"].value > 0.8


def test_a_teacher_with_no_share_changes_nothing(splits: Splits, quick: Settings, contrary: str) -> None:
    given = change(quick, {"method": "frozen", "head_epochs": 2})
    plain = train(splits, given)
    silent = train(splits, change(given, {"teacher": contrary, "teacher_share": 0.0}))
    texts = splits.dev.texts
    np.testing.assert_allclose(silent.predictor.logits(texts), plain.predictor.logits(texts), atol=1e-4)


def test_the_whole_teaches_and_is_not_trained_again(splits: Splits, quick: Settings, tmp_path: Path) -> None:
    given = change(quick, {"method": "finetune", "depth": 1, "epochs": 2, "teacher": "whole"})
    trained = train(splits, given, checkpoints=tmp_path)
    assert trained.predictor.model.config.num_hidden_layers == 1
    assert trained.predictor.model.config.features == "windows"
    assert {entry["stage"] for entry in trained.history} == {"finetune"}
    note = tmp_path / "teacher" / "finetune" / "finished.json"
    assert [e["epoch"] for e in json.loads(note.read_text()) if "eval_accuracy" in e] == [1, 2]
    before = note.stat().st_mtime_ns
    again = train(splits, given, checkpoints=tmp_path, resume=True)
    assert note.stat().st_mtime_ns == before
    np.testing.assert_array_equal(*(one.predictor.logits(splits.dev.texts) for one in (trained, again)))
    save(trained, tmp_path / "model")
    assert "taught by `whole`" in (tmp_path / "model" / "README.md").read_text()


def test_far_negations_keep_their_labels(quick: Settings, contrary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers fail just those, so they are asked about the texts that were given alone."""
    texts, labels = make_texts(80, seed=4)
    texts = [f"{t} it was {'good' if label == 'positive' else 'bad'}." for t, label in zip(texts, labels, strict=True)]
    splits = Splits(Examples(texts[:60], labels[:60]), Examples(texts[60:], labels[60:]))
    asked = []

    def note(*given: Any) -> Any:
        asked.append((list(given[1]), len(given[2])))
        return soft_targets(*given)

    monkeypatch.setattr(training, "soft_targets", note)
    values = {"method": "frozen", "head_epochs": 1, "negation_contrasts": 1.0, "teacher": contrary}
    train(splits, change(quick, values))
    assert asked == [(texts[:60], 120)]


def test_scikit_learn_may_name_a_teacher(splits: Splits, quick: Settings, contrary: str) -> None:
    model = BertCNNClassifier(encoder=quick.model.encoder, depth=1, method="frozen", head_epochs=1, teacher=contrary)
    assert set(model.fit(splits.train.texts, splits.train.labels).classes_) == {"negative", "positive"}


def test_who_cannot_teach_is_refused(splits: Splits, quick: Settings, contrary: str, tmp_path: Path) -> None:
    frozen = change(quick, {"method": "frozen", "head_epochs": 1})
    with pytest.raises(ModelError, match="No model folder"):
        train(splits, change(frozen, {"teacher": str(tmp_path / "nobody")}))
    three = [*splits.train.labels[:-1], "neutral"]
    others = replace(splits, train=Examples(splits.train.texts, three, "t"))
    with pytest.raises(DataError, match=r"knows 'negative', 'positive' \(one label a text\), .*'neutral'.*the same"):
        train(others, change(frozen, {"teacher": contrary}))
    with pytest.raises(SettingsError, match=r"'teacher_share' is 1\.5, expected 0 to 1"):
        change(frozen, {"teacher_share": 1.5})
