"""depth = "auto" and "half-or-all": what is tried, what is taken, and that it is what a given depth would have been."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.preprocessing import StandardScaler
from transformers import ModernBertConfig, ModernBertModel
from typer.testing import CliRunner

from bertcnn import BertCNN, BertCNNClassifier, BertCNNConfig, Predictor, Settings, SettingsError, save, train
from bertcnn.apps.cli import app
from bertcnn.network.config import WordVectorsConfig
from bertcnn.network.encoder import load_encoder, load_tokenizer
from bertcnn.network.states import States, cached_states
from bertcnn.settings import change, read_settings
from bertcnn.text.dataset import Splits
from bertcnn.text.tokens import Pieces, PieceTokenizer
from bertcnn.training import depth as depths
from bertcnn.training import depth_search as searching
from bertcnn.training import layer_states
from bertcnn.training import pace as paces
from bertcnn.training.depth import DepthCurve, Gain, Trial, choose, right_answers
from bertcnn.training.depth_search import DepthSearch, Scored, median_text
from bertcnn.training.pace import Pace, latency_ms, pace_of
from bertcnn.training.train import Trained
from tests.conftest import make_tiny_bert

LAYERS = 4


@pytest.fixture(scope="session")
def auto(quick: Settings) -> Settings:
    """A search of a second: fewer texts of fewer epochs than would be good."""
    return change(quick, {"depth": "auto", "method": "frozen", "head_epochs": 3, "epochs": 1, "batch_size": 32})


@pytest.fixture(scope="session")
def few(splits: Splits) -> Splits:
    return dataclasses.replace(splits, train=splits.train.pick(range(64), "train"))


@pytest.fixture(scope="session")
def low(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder of two layers, where a door is tried and not the search."""
    return str(make_tiny_bert(tmp_path_factory.mktemp("low-bert"), layers=2))


@pytest.fixture(scope="session")
def found(few: Splits, auto: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """A finished search, and its checkpoints."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    return train(few, auto, checkpoints=checkpoints), checkpoints


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.predictor.model.state_dict()


def assert_same(one: Trained, other: Trained) -> None:
    theirs = weights_of(other)
    assert weights_of(one).keys() == theirs.keys()
    for name, weight in weights_of(one).items():
        assert torch.equal(weight, theirs[name]), name


class Shop:
    """A workshop without training; counts the passes of an encoder, and the heads."""

    metric = "accuracy"

    def __init__(self, encoder: str, tokenizer: PieceTokenizer, pieces: Pieces, cache: Path) -> None:
        self.encoder, self.tokenizer, self.pieces, self.cache = encoder, tokenizer, pieces, cache
        self.passes = self.heads = 0
        self.scores: dict[str, float] = {}  # by name of the trial

    def build(self, settings: Settings) -> BertCNN:
        model = settings.model
        values = {"num_filters": model.num_filters, "states": model.states, "max_length": 16, "overlap": 4}
        return BertCNN.from_encoder(self.encoder, depth=model.layers, kernel_sizes=(1, 2), **values)  # type: ignore[arg-type]

    def encode(self, model: BertCNN) -> States:
        self.passes += 1
        return cached_states(model, self.tokenizer, self.pieces, self.cache)

    def train_head(self, model: BertCNN, states: States, name: str) -> Scored:
        self.heads += 1
        return Scored(self.scores.get(name, 0.5), 0.1, [])


@pytest.fixture
def search(tokenizer: PieceTokenizer, splits: Splits, tmp_path: Path) -> Callable[..., tuple[Shop, DepthSearch]]:
    def search(encoder: str, **changed: Any) -> tuple[Shop, DepthSearch]:
        pieces = tokenizer([*splits.train.texts[:40], "", "the film was good " * 12])
        shop = Shop(encoder, tokenizer, pieces, tmp_path / "cache")
        settings = change(Settings(), {"encoder": encoder, "depth": "auto", "num_filters": 8, **changed})
        learned = np.arange(40), np.array([label == "positive" for label in splits.train.labels[:40]]).astype(int)
        whole = shop.build(change(settings, {"depth": "all", "budget_ms": 0.0})).config
        return shop, DepthSearch(
            shop, settings, tokenizer, whole=whole, pieces=pieces, learned=learned, dev_texts=100,
            text=splits.train.texts[0], console=Console(quiet=True),
        )  # fmt: skip

    return search


@pytest.fixture(scope="session")
def modern(tiny: str, tokenizer: PieceTokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random encoder with a norm behind its last layer."""
    folder = tmp_path_factory.mktemp("modern")
    torch.manual_seed(3)
    size = tokenizer.tokenizer.get_vocab_size()
    config = ModernBertConfig(
        vocab_size=size, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=40, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
    )  # fmt: skip
    ModernBertModel(config).save_pretrained(folder)
    return str(folder)


# ---- the states of each depth


@pytest.mark.parametrize("states", ["last", "concat-2", "concat-3", "mix"])
def test_columns_of_the_whole_encoder_are_the_states_of_the_cut_one(
    tiny: str, search: Callable[..., tuple[Shop, DepthSearch]], states: str
) -> None:
    shop, one = search(tiny, states=states)
    curve = one.run()
    assert [trial.depth for trial in curve.trials] == ([2, 3, 4] if states == "concat-3" else [1, 2, 3, 4])
    assert shop.passes == 1
    for trial in curve.trials:
        model = shop.build(change(one.settings, {"depth": trial.depth}))
        own, columns = shop.encode(model), one.states.of(model)
        assert own.values.shape == columns.values.shape
        assert np.array_equal(own.values, columns.values)
        assert np.array_equal(own.starts, columns.starts)


def test_an_encoder_with_a_norm_behind_its_last_layer_runs_once_for_each_depth(
    modern: str, search: Callable[..., tuple[Shop, DepthSearch]]
) -> None:
    shop, one = search(modern)
    curve = one.run()
    assert [trial.depth for trial in curve.trials] == [1, 2, 3]
    assert shop.passes == 3
    model = shop.build(change(one.settings, {"depth": 1}))
    assert np.array_equal(one.states.of(model).values, shop.encode(model).values)


def test_an_encoder_runs_once_for_each_depth_where_all_states_would_be_too_large(
    tiny: str, search: Callable[..., tuple[Shop, DepthSearch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_states, "SIDE_BY_SIDE_BYTES", 1000)
    shop, one = search(tiny)
    one.run()
    assert shop.passes == LAYERS


def test_an_encoder_without_layers_is_refused() -> None:
    with pytest.raises(SettingsError, match="has no layers to choose from"):
        layer_states.depths_of(Settings(), BertCNNConfig(text_config=WordVectorsConfig()))


# ---- the choice


def trial(depth: int, score: float, latency: float = 1.0, filters: int = 100) -> Trial:
    return Trial(depth, filters, score, 1.0, latency)


@pytest.mark.parametrize(
    ("scores", "tolerance", "depth"),
    [
        ([0.80, 0.897, 0.899, 0.90], 0.3, 2),  # the edge belongs to it
        ([0.80, 0.896, 0.899, 0.90], 0.3, 3),
        ([0.80, 0.90, 0.90, 0.89], 0.0, 2),
        ([0.80, 0.90, 0.90, 0.89], 100.0, 1),
    ],
)
def test_the_smallest_depth_within_the_tolerance_is_taken(scores: list[float], tolerance: float, depth: int) -> None:
    trials = [trial(i + 1, score) for i, score in enumerate(scores)]
    assert choose(trials, metric="accuracy", tolerance=tolerance, budget_ms=0).depth == depth


def test_a_log_loss_is_better_the_smaller() -> None:
    trials = [trial(1, 0.6), trial(2, 0.402), trial(3, 0.4), trial(4, 0.5)]
    assert choose(trials, metric="log_loss", tolerance=0.3, budget_ms=0).depth == 2
    assert choose(trials, metric="log_loss", tolerance=0.1, budget_ms=0).depth == 3


def test_within_a_budget_the_best_score_is_taken_and_of_equals_the_quickest() -> None:
    trials = [trial(1, 0.7, 1.0), trial(2, 0.8, 2.0), trial(3, 0.9, 3.0), trial(3, 0.8, 1.5, filters=25)]
    assert choose(trials, metric="accuracy", tolerance=50, budget_ms=2.5) == trials[3]
    assert choose(trials, metric="accuracy", tolerance=50, budget_ms=3.0) == trials[2]
    assert choose(trials, metric="accuracy", tolerance=50, budget_ms=1.2) == trials[0]


@pytest.mark.parametrize(
    ("half", "every", "depth"),
    [
        (0.80, 0.83, 2),  # a standard error of 0.83 is 3.8 points
        (0.995, 1.00, 2),  # that none was wrong here does not mean that none will be
        (0.79, 0.83, 4),
        (0.90, 0.80, 2),
    ],
)
def test_half_is_taken_unless_all_are_better_by_a_standard_error(
    tiny: str,
    search: Callable[..., tuple[Shop, DepthSearch]],
    monkeypatch: pytest.MonkeyPatch,
    half: float,
    every: float,
    depth: int,
) -> None:
    monkeypatch.setattr(searching, "FEW_TEXTS", 100)  # so that they are no few
    shop, one = search(tiny, depth="half-or-all")
    shop.scores = {"depth-2-8": half, "depth-4-8": every}
    curve = one.run()
    assert [(trial.depth, trial.score) for trial in curve.trials] == [(2, half), (4, every)]
    assert curve.chosen.depth == depth
    assert shop.passes == 2


def test_with_few_dev_texts_a_regression_on_all_texts_decides(
    tiny: str, search: Callable[..., tuple[Shop, DepthSearch]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def of(half: float, every: float) -> DepthCurve:
        shop, one = search(tiny, depth="half-or-all")
        shop.scores = {"depth-2-8": half, "depth-4-8": every}
        return one.run()

    found, other = of(0.5, 0.9), of(0.9, 0.5)
    assert found.gain is not None
    assert found.gain.texts == 40
    assert (found.gain, found.chosen.depth) == (other.gain, other.chosen.depth)  # dev does not count
    right = iter([np.array([1.0, 0, 0, 1, 0, 1, 0, 0]), np.array([1.0, 1, 1, 1, 0, 1, 0, 1])])
    monkeypatch.setattr(searching, "right_answers", lambda means, truth: next(right))
    found = of(0.9, 0.5)
    assert found.chosen.depth == 4
    assert found.gain == Gain(8, 37.5, pytest.approx(100 * np.std([0, 1, 1, 0, 0, 0, 0, 1]) / np.sqrt(8)))
    assert found.why.startswith("Depth 4 and not 2: by a regression on the means of their states, all layers add to ")
    assert "+37.5 points, standard error 17.1, of 8 texts" in found.why
    found.write(tmp_path / "depth.json")
    assert DepthCurve.read(tmp_path / "depth.json") == found
    right = iter([np.array([1.0, 0, 0, 0]), np.array([0.0, 1, 1, 0])])  # 25 points, and 41 their error
    found = of(0.5, 0.9)
    assert found.chosen.depth == 2
    assert "all layers do not add to half" in found.why


def test_a_regression_leaves_out_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    means = np.eye(3)[truth] @ rng.normal(size=(3, 8)) + 0.8 * rng.normal(size=(60, 8))
    scaled = StandardScaler().fit_transform(means)
    wanted = cross_val_predict(Ridge(30.0), scaled, np.eye(3)[truth], cv=LeaveOneOut())
    with monkeypatch.context() as patch:
        patch.setattr(depths, "PENALTIES", [30.0])
        np.testing.assert_array_equal(right_answers(means, truth), wanted.argmax(axis=1) == truth)
    nothing = right_answers(rng.normal(size=(60, 200)), truth)  # as many weights as would learn any labels by heart
    assert nothing.mean() < 0.55
    many = np.stack([truth == 0, truth > 0], axis=1).astype(np.float32)
    assert 0.7 < right_answers(means, many).mean() <= 1.0


# ---- the run


def test_by_default_training_chooses_between_half_and_all(few: Splits, auto: Settings) -> None:
    settings = change(auto, {"depth": Settings().model.depth, "head_epochs": 2})
    trained = train(few, settings)
    assert trained.depth_curve is not None
    assert [one.depth for one in trained.depth_curve.trials] == [2, 4]
    assert_same(trained, train(few, change(settings, {"depth": trained.depth_curve.chosen.depth})))


@pytest.mark.parametrize("encoder", ["words", "one layer"])
def test_where_there_is_nothing_to_choose_from_all_is_taken(
    few: Splits, auto: Settings, tiny: str, tmp_path: Path, encoder: str
) -> None:
    if encoder == "one layer":
        load_encoder(tiny, 1).save_pretrained(tmp_path)
        load_tokenizer(tiny).save(tmp_path)
    settings = {"encoder": str(tmp_path) if encoder == "one layer" else encoder, "depth": "half-or-all"}
    trained = train(few, change(auto, {**settings, "head_epochs": 1}))
    assert trained.depth_curve is None
    assert trained.settings.model.depth == "all"


def test_a_frozen_model_is_the_one_of_the_chosen_depth(
    few: Splits, auto: Settings, found: tuple[Trained, Path]
) -> None:
    trained, _ = found
    curve = trained.depth_curve
    assert curve is not None
    assert [one.depth for one in curve.trials] == [1, 2, 3, 4]
    assert trained.settings == change(auto, {"depth": curve.chosen.depth})
    plain = train(few, trained.settings)
    assert_same(trained, plain)
    assert max(float(str(h["eval_accuracy"])) for h in plain.history if "eval_accuracy" in h) == curve.chosen.score
    assert plain.depth_curve is None


@pytest.mark.parametrize("method", ["finetune", "head-then-finetune"])
def test_a_fine_tuned_model_is_the_one_of_the_chosen_depth(few: Splits, auto: Settings, low: str, method: str) -> None:
    settings = change(auto, {"encoder": low, "method": method, "tolerance": 100.0, "head_epochs": 1})
    trained = train(few, settings)
    assert trained.settings.model.depth == 1
    assert_same(trained, train(few, change(settings, {"depth": 1})))
    stages = list(dict.fromkeys(h["stage"] for h in trained.history))
    assert stages == (["finetune"] if method == "finetune" else ["head", "finetune"])


def test_the_curve_stands_in_the_models_folder(found: tuple[Trained, Path], tmp_path: Path) -> None:
    trained, checkpoints = found
    curve = trained.depth_curve
    assert curve is not None
    save(trained, tmp_path / "model")
    assert read_settings(tmp_path / "model" / "run.toml") == trained.settings
    noted = json.loads((tmp_path / "model" / "metrics.json").read_text())["depth_curve"]
    assert noted["chosen"]["depth"] == curve.chosen.depth
    assert len(noted["trials"]) == LAYERS
    assert DepthCurve.read(checkpoints / "depth.json") == curve
    card = (tmp_path / "model" / "README.md").read_text()
    assert curve.table() in card
    assert len(re.findall(r"^\| \**\d+\** \| \**32\** \|", card, flags=re.MULTILINE)) == LAYERS
    assert f"**{curve.chosen.depth}** | **32**" in card
    assert curve.why in card
    assert Predictor.load(tmp_path / "model").model.config.num_hidden_layers == curve.chosen.depth


def test_a_finished_search_is_not_repeated(
    few: Splits, auto: Settings, found: tuple[Trained, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(DepthSearch, "run", refuse)
    trained, checkpoints = found
    again = train(few, auto, checkpoints=checkpoints, resume=True)
    assert_same(again, trained)
    assert again.depth_curve == trained.depth_curve


def test_a_stopped_search_goes_on_where_it_was(
    few: Splits, auto: Settings, found: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DepthSearch._try

    def stop(search: DepthSearch, depth: int, *more: Any) -> Trial:
        if depth == 3:
            raise KeyboardInterrupt
        return real(search, depth, *more)

    monkeypatch.setattr(DepthSearch, "_try", stop)
    with pytest.raises(KeyboardInterrupt):
        train(few, auto, checkpoints=tmp_path)
    monkeypatch.setattr(DepthSearch, "_try", real)
    places = [tmp_path / f"depth-{depth}-32" / "finished.json" for depth in (1, 2)]
    before = [place.stat().st_mtime_ns for place in places]
    trained = train(few, auto, checkpoints=tmp_path, resume=True)
    assert_same(trained, found[0])
    moved = [tmp_path / "head" / "finished.json" if not place.exists() else place for place in places]
    assert [place.stat().st_mtime_ns for place in moved] == before


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes a millisecond a layer and one for 32 filters."""

    def pretend(predictor: Predictor, text: str) -> float:
        config = predictor.model.config
        return config.num_hidden_layers + config.num_filters / 32

    monkeypatch.setattr(paces, "latency_ms", pretend)
    monkeypatch.setattr(paces, "_by_graphs", lambda *_: iter(()))


@pytest.mark.usefixtures("clock")
def test_a_budget_chooses_depth_and_filters(few: Splits, auto: Settings) -> None:
    settings = change(auto, {"budget_ms": 3.3, "head_epochs": 1})
    trained = train(few, settings)
    curve = trained.depth_curve
    assert curve is not None
    # Depth 3 answers in time with a quarter of the filters only, depth 4 never.
    assert [(one.depth, one.num_filters) for one in curve.trials] == [(1, 32), (2, 32), (3, 32), (4, 32), (3, 8)]
    quick = [one for one in curve.trials if one.latency_ms <= 3.3]
    assert curve.chosen in quick
    assert curve.chosen.score == max(one.score for one in quick)
    assert "within 3.3 ms" in curve.why
    chosen = {"depth": curve.chosen.depth, "num_filters": curve.chosen.num_filters, "budget_ms": 0.0}
    assert trained.settings == change(settings, chosen)
    assert trained.predictor.model.config.num_filters == curve.chosen.num_filters
    assert_same(trained, train(few, trained.settings))


@pytest.mark.usefixtures("clock")
def test_a_budget_too_small_names_the_fastest(tiny: str, search: Callable[..., tuple[Shop, DepthSearch]]) -> None:
    shop, one = search(tiny, budget_ms=1.1, num_filters=32)
    with pytest.raises(SettingsError, match=r"budget_ms is 1.1, but .* depth 1 with 8 filters, 1.2 ms"):
        one.run()
    assert shop.heads == 0
    # A plain linear head has no filters to spare.
    shop, one = search(tiny, budget_ms=1.3, num_filters=32, features="mean")
    with pytest.raises(SettingsError, match="depth 1 with 32 filters, 2 ms"):
        one.run()


def test_one_text_is_timed(predictor: Predictor) -> None:
    assert 0 < latency_ms(predictor, "the film was good") < 1000
    assert median_text(["long", "short", "middle"], np.array([9, 1, 5])) == "middle"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (0, Pace("torch", 8.0)),  # no limit
        (8.5, Pace("torch", 8.0)),
        (5, Pace("onnx", 4.0)),
        (3, Pace("onnx-int8", 2.0)),
        (1.5, Pace("onnx-int8", 2.0)),  # too slow, but the fastest
        (0.5, Pace("torch", 8.0)),  # so far off that no graph is written
    ],
)
def test_graphs_are_timed_where_torch_is_too_slow(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, budget: float, expected: Pace
) -> None:
    monkeypatch.setattr(paces, "latency_ms", lambda *_: 8.0)
    monkeypatch.setattr(paces, "_by_graphs", lambda *_: iter([Pace("onnx", 4.0), Pace("onnx-int8", 2.0)]))
    assert pace_of(predictor.model, predictor.tokenizer, "good", budget_ms=budget) == expected


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_the_graph_that_keeps_the_budget_is_written(
    splits: Splits, auto: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    speeds = {"torch": 4.0, "onnx": 2.0, "onnx-int8": 1.0}
    monkeypatch.setattr(paces, "latency_ms", lambda predictor, _: speeds[predictor.backend.name])
    # One that is sure of its 40 dev texts: int8 may turn none of them round.
    trained = train(splits, change(auto, {"budget_ms": speeds[backend], "head_epochs": 12}))
    assert trained.depth_curve is not None
    assert trained.depth_curve.chosen.backend == backend
    save(trained, tmp_path / "model")
    assert Predictor.load(tmp_path / "model").backend.name == backend
    assert f"| {backend}" in (tmp_path / "model" / "README.md").read_text("utf-8")


# ---- the doors


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"depth": "auto", "encoder": "words"}, "'depth' is 'auto', expected all: an encoder of words has no layers"),
        ({"depth": "auto", "encoder": "pieces:minilm"}, "an encoder of pieces has no layers"),
        ({"budget_ms": 5.0}, "'budget_ms' is 5.0, expected 0, or depth = auto"),
        ({"depth": "auto", "budget_ms": -1.0}, "'budget_ms' is -1.0, expected at least 0"),
        ({"tolerance": -0.1}, "'tolerance' is -0.1, expected at least 0"),
        ({"class_weights": (1.0, 0.0)}, "'class_weights' is (1.0, 0.0), expected numbers above 0"),
        ({"seed": -1}, "'seed' is -1, expected 0 to 4294967295"),
        ({"depth": "atuo"}, "'depth' is 'atuo'"),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        change(Settings(), values)


def test_only_training_makes_a_depth_of_auto() -> None:
    assert change(Settings(), {"depth": "3"}).model.layers == 3
    with pytest.raises(SettingsError, match="chosen in training"):
        _ = change(Settings(), {"depth": "auto"}).model.layers


def test_the_estimator(few: Splits, auto: Settings, low: str) -> None:
    given = {**dataclasses.asdict(auto.model), **dataclasses.asdict(auto.training), "encoder": low, "head_epochs": 1}
    classifier = BertCNNClassifier(**given).fit(few.train.texts, few.train.labels)
    curve = classifier.trained_.depth_curve
    assert curve is not None
    assert classifier.trained_.settings.model.depth == curve.chosen.depth
    assert classifier.get_params()["depth"] == "auto"


def test_the_command_line(low: str, csv_file: Path, tmp_path: Path) -> None:
    settings = {
        "encoder": low, "depth": "auto", "tolerance": "100", "method": "frozen", "text": "review", "batch-size": "32",
        "label": "sentiment", "overlap": "4", "num-filters": "8", "head-epochs": "1", "kernel-sizes": "1,2",
        "report-to": "none",
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    output = tmp_path / "model"
    result = CliRunner().invoke(app, ["train", str(csv_file), "--output", str(output), *flags], catch_exceptions=False)
    assert result.exit_code == 0
    assert "depth 1 of 2, 8 filters: dev accuracy" in result.output
    assert "Depth 1 is the smallest" in result.output
    assert "| **1** | **8** |" in (output / "README.md").read_text()
    assert not (tmp_path / "model.checkpoints").exists()


def test_a_graph_that_cannot_be_quantized_is_left_out(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's tools raise what they like; a search within a budget goes on with the graphs that there are."""
    tools = pytest.importorskip("onnxruntime.quantization")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(tools, "quantize_static", fail)
    found = list(paces._by_graphs(BertCNN.from_encoder(tiny, depth=1), load_tokenizer(tiny), "a good film"))
    assert [one.backend for one in found] == ["onnx"]
