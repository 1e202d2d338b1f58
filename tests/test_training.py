import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalPrediction
from typer.testing import CliRunner

from bertcnn import DataError, Predictor, Settings, SettingsError, TrainingError, save, train
from bertcnn.apps.cli import app
from bertcnn.files import alone_in
from bertcnn.inference.metrics import chance
from bertcnn.network import model
from bertcnn.network.encoder import load_tokenizer
from bertcnn.settings import change, read_settings, write_settings
from bertcnn.text.dataset import Examples, Splits
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import PieceTokenizer
from bertcnn.training import stage
from bertcnn.training import train as training
from bertcnn.training.build import _class_weights, build_model
from bertcnn.training.callbacks import Interruption, ProgressBar, Watchdog
from bertcnn.training.run import SharedPieces
from bertcnn.training.stage import make_optimizer
from tests.conftest import BAD, GOOD, OTHER, make_texts, warm_command

COMMAND = [sys.executable, "-m", "bertcnn", "train"]


def multi_label_splits() -> Splits:
    """Texts that praise, blame, both or neither."""
    generator = random.Random(1)
    texts, labels = [], []
    for _ in range(500):
        praised, blamed = generator.random() < 0.5, generator.random() < 0.3
        words = generator.choices(OTHER, k=4) + [generator.choice(GOOD)] * praised + [generator.choice(BAD)] * blamed
        generator.shuffle(words)
        texts.append(" ".join(words))
        labels.append(("praise",) * praised + ("blame",) * blamed)
    everything = Examples(texts, list(labels), "made up")
    return Splits(everything.pick(range(400), "train"), everything.pick(range(400, 500), "dev"))


@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_many_labels_a_text(quick: Settings, method: str, tmp_path: Path) -> None:
    trained = train(multi_label_splits(), change(quick, {"method": method, "epochs": 8, "head_epochs": 15}))
    assert trained.dev.headlines["macro_f1"].value > 0.9
    save(trained, tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    thresholds = predictor.model.config.thresholds
    assert thresholds is not None
    assert len(thresholds) == 2
    both, none = predictor.predict(["the film was good and awful", "the film"])
    assert both.labels == ("blame", "praise")
    assert both.label == "blame|praise"
    assert none.labels == ()
    assert none.label == ""
    assert 0 < both.confidence <= 1


@pytest.mark.parametrize("encoder", ["words", "words:FILE"])
@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_the_static_twin(splits: Splits, quick: Settings, tmp_path: Path, encoder: str, method: str) -> None:
    file = tmp_path / "vectors.vec"
    generator = np.random.default_rng(0)
    rows = [f"{word} " + " ".join(f"{x:.3f}" for x in generator.normal(size=20)) for word in [*GOOD, *BAD]]
    file.write_text(f"{len(rows)} 20\n" + "\n".join(rows) + "\n")
    values = {"encoder": encoder.replace("FILE", str(file)), "method": method, "depth": "all", "epochs": 12}
    trained = train(splits, change(quick, {**values, "vector_size": 20}))
    assert trained.test is not None
    assert trained.test.headlines["accuracy"].value > 0.8
    save(trained, tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model")
    texts = ["a good film", "", "unknown-word!", "superb " * 700]
    assert (loaded.logits(texts) == trained.predictor.logits(texts)).all()
    table = loaded.model.get_input_embeddings().weight
    was_tuned = method == "finetune"
    good = loaded.tokenizer.tokenizer.token_to_id("good")
    written = [float(x) for x in rows[0].split()[1:]]
    if encoder != "words":
        assert np.allclose(table[good].detach().numpy(), written, atol=1e-6) != was_tuned


@pytest.mark.parametrize(
    "values",
    [
        {"states": "mix", "depth": 2},
        {"states": "concat-2", "depth": 2},
        {"class_weights": "balanced"},
        {"class_weights": (1.0, 2.0), "focal_gamma": 1.0, "label_smoothing": 0.1},
        {"method": "finetune", "gradient_accumulation": 2, "gradient_checkpointing": True},
        {"method": "finetune", "train_word_embeddings": True, "layer_decay": 0.5},
        {"metric": "log_loss"},
    ],
)
def test_settings_that_change_training(splits: Splits, quick: Settings, values: dict[str, object]) -> None:
    trained = train(splits, change(quick, {"method": "frozen", "epochs": 14, **values}))
    assert trained.test is not None
    assert trained.test.headlines["accuracy"].value > 0.8
    assert trained.warnings == []


def test_long_texts_are_read_whole(quick: Settings) -> None:
    """The word that decides stands behind a hundred others: beyond one window of 40 pieces."""
    texts, labels = make_texts(200, seed=5)
    long = [" ".join(random.Random(i).choices(OTHER, k=100)) + " " + text for i, text in enumerate(texts)]
    everything = Examples(long, list(labels), "long")
    splits = Splits(everything.pick(range(160), "train"), everything.pick(range(160, 200), "dev"))
    whole = train(splits, change(quick, {"method": "frozen"}))
    assert whole.dev.headlines["accuracy"].value > 0.9
    assert whole.cut_texts == 0
    cut = train(splits, change(quick, {"method": "frozen", "max_train_pieces": 40}))
    assert cut.cut_texts == 160
    assert cut.dev.headlines["accuracy"].value < 0.8


def test_many_labels_begin_with_their_shares(quick: Settings) -> None:
    """An untrained network answers a text without evidence by how common each label is, and nothing more."""
    splits = multi_label_splits()
    settings = change(quick, {"method": "frozen", "head_epochs": 1, "head_learning_rate": 1e-12})
    trained = train(splits, settings)
    logits = trained.predictor.logits([""])[0] * trained.temperature
    shares = [np.mean([name in label for label in splits.train.labels]) for name in trained.predictor.label_names]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), shares, atol=0.03)
    balanced = train(splits, change(settings, {"class_weights": "balanced"}))
    odds = np.exp(balanced.predictor.logits([""])[0] * balanced.temperature)
    np.testing.assert_allclose(odds, 1, atol=0.1)


@pytest.mark.parametrize("many", [False, True])
def test_scores_that_are_no_numbers_stop_the_training(many: bool) -> None:
    logits = np.array([[0.0, 1.0], [np.nan, 0.0]])
    truth = np.array([[0, 1], [1, 0]]) if many else np.array([1, 0])
    with pytest.raises(TrainingError, match=r"is nan. Usual causes: a learning rate too high"):
        stage.score_epoch(EvalPrediction(logits, truth))


def test_an_epoch_without_a_step_that_was_logged_has_no_loss_to_tell() -> None:
    console = Console(file=io.StringIO(), width=100)
    bar = ProgressBar(console, "head", "accuracy")
    state = TrainerState(epoch=1.0)
    bar.on_evaluate(TrainingArguments(), state, TrainerControl(), metrics={"eval_accuracy": 0.5})
    assert console.file.getvalue() == "  head epoch 1: loss ..., dev accuracy 0.500\n"


def test_accumulated_batches_are_logged_as_often(splits: Splits, quick: Settings) -> None:
    settings = change(quick, {"method": "frozen", "batch_size": 2, "gradient_accumulation": 4, "head_epochs": 1})
    logged = [one for one in train(splits, settings).history if "loss" in one]
    assert len(logged) == 10  # 160 texts are 20 steps


def test_several_processes_need_a_folder_of_them_all(
    splits: Splits, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"Give checkpoints, a folder of them all, or patience 0\."):
        train(splits, change(quick, {"patience": 3}))


def test_the_best_epoch_is_kept(splits: Splits, quick: Settings) -> None:
    trained = train(splits, change(quick, {"method": "frozen", "head_learning_rate": 0.05, "patience": 4}))
    scores = [h["eval_accuracy"] for h in trained.history if "eval_accuracy" in h]
    assert trained.dev.headlines["accuracy"].value == pytest.approx(max(float(str(s)) for s in scores), abs=0.051)


def test_without_patience_the_last_epoch_is_kept(
    splits: Splits, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def weights(patience: int, step: float) -> tuple[torch.Tensor, int]:
        """Train with dev scores that rise or fall by a step an epoch; return weights and the number of epochs."""
        scores = itertools.count(0.5, step)
        monkeypatch.setattr(stage, "score_epoch", lambda _: {"accuracy": next(scores)})
        trained = train(splits, change(quick, {"method": "frozen", "head_epochs": 6, "patience": patience}))
        return trained.predictor.model.head.cnn.weight, sum("eval_accuracy" in one for one in trained.history)

    assert Settings().training.patience == 0
    last, epochs = weights(patience=3, step=0.01)
    assert epochs == 6
    first, epochs = weights(patience=3, step=-0.01)
    assert epochs == 4
    assert not torch.equal(first, last)
    kept, epochs = weights(patience=0, step=-0.01)
    assert epochs == 6
    assert torch.equal(kept, last)


def test_few_texts_make_small_batches(splits: Splits, quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = change(quick, {"batch_size": "auto", "method": "frozen", "head_epochs": 1})
    assert train(splits, settings).settings.training.batch_size == 8
    monkeypatch.setattr(training, "batch_for", lambda texts: 8 if texts < 10 else 32)
    assert train(splits, settings).settings.training.batch_size == 32
    with pytest.raises(SettingsError, match="batch_size"):
        change(quick, {"batch_size": 0})


def test_learning_rates_by_group(quick: Settings, splits: Splits) -> None:
    from bertcnn.text.labels import Labels

    settings = change(
        quick, {"depth": 3, "layer_decay": 0.5, "encoder_learning_rate": 0.001, "head_learning_rate": 0.1}
    )
    model, _ = build_model(settings, Labels(("a", "b")), splits.train.texts, np.array([0, 1]))
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in make_optimizer(model, settings.training).param_groups for p in g["params"]}
    assert rates["head.cnn.weight"] == 0.1
    assert rates["encoder.encoder.layer.2.output.dense.weight"] == 0.001
    assert rates["encoder.encoder.layer.0.output.dense.weight"] == 0.00025
    assert rates["encoder.embeddings.position_embeddings.weight"] == 0.000125
    assert "encoder.embeddings.word_embeddings.weight" not in rates  # frozen by default


def test_a_collapsed_run_says_so(splits: Splits, quick: Settings) -> None:
    values = {"method": "finetune", "encoder_learning_rate": 1e-12, "head_learning_rate": 1e-12, "epochs": 1}
    trained = train(splits, change(quick, values))
    said = [w for w in trained.warnings if "every dev text the same answer" in w]
    (commonest,) = (h["eval_commonest_answer"] for h in trained.history if "eval_commonest_answer" in h)
    assert bool(said) == (commonest == 1.0)
    watchdog = Watchdog("finetune")
    state, control, arguments = TrainerState(), TrainerControl(), TrainingArguments(report_to="none")
    watchdog.on_evaluate(arguments, state, control, metrics={"eval_commonest_answer": 1.0})
    watchdog.on_evaluate(arguments, state, control, metrics={"eval_commonest_answer": 0.6})
    watchdog.on_train_end(arguments, state, control)
    assert watchdog.warnings == []  # it recovered
    watchdog.on_evaluate(arguments, state, control, metrics={"eval_commonest_answer": 1.0})
    watchdog.on_train_end(arguments, state, control)
    (told,) = watchdog.warnings
    assert told.startswith("finetune gives every dev text the same answer")
    assert "--encoder-learning-rate" in told
    assert "(--epochs)" in told


def test_who_has_weighed_the_labels_is_not_told_to() -> None:
    state, control, arguments = TrainerState(), TrainerControl(), TrainingArguments(report_to="none")
    for is_weighted, said in ((False, "(--class-weights balanced)"), (True, "(more texts of the rare ones)")):
        watchdog = Watchdog("head", is_weighted=is_weighted)
        watchdog.on_evaluate(arguments, state, control, metrics={"eval_commonest_answer": 1.0})
        watchdog.on_train_end(arguments, state, control)
        assert said in watchdog.warnings[0]


def test_signs_that_an_encoder_does_not_know_are_told(splits: Splits, tokenizer: PieceTokenizer) -> None:
    strange = Examples(["\U0001f600", "good \U0001f621 \U0001f621"], ["a", "b"], "signs")
    shared = SharedPieces.of(Splits(strange, splits.dev), (), tokenizer, most=100)
    assert shared.unknown_share(tokenizer, "train") == pytest.approx(3 / 4)
    assert shared.unknown_share(tokenizer, "dev") == 0
    shared = SharedPieces.of(splits, (), load_tokenizer("minilm"), most=100)
    assert shared.unknown_share(load_tokenizer("minilm"), "train") == 0


def test_a_model_that_learned_nothing_says_so(splits: Splits, quick: Settings) -> None:
    def train_on(labels: Sequence[str]) -> list[str]:
        dev = Examples(splits.dev.texts, labels[: len(splits.dev)], "dev")
        return [one for one in train(Splits(splits.train, dev, None), quick).warnings if "anything was learned" in one]

    assert not train_on(splits.dev.labels)
    (told,) = train_on(sorted(splits.dev.labels))
    assert "% would be if they had nothing to do with the labels" in told


def test_agreement_by_chance_holds_its_level_and_sees_what_is_there() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):  # nothing learned: labels out of balance, answers that lean the same way
        truth, answers = rng.binomial(1, 0.9, 60), rng.binomial(1, 0.8, 60)
        by_chance, p = chance(truth, answers)
        expected = truth.mean() * answers.mean() + (1 - truth.mean()) * (1 - answers.mean())
        assert by_chance == pytest.approx(expected, abs=0.02)
        found.append(p <= 0.05)
    assert 0.0 <= np.mean(found) <= 0.09
    truth = np.arange(300) % 50  # of many labels a fifth is right, which is ten times as much as chance
    answers = np.where(rng.random(300) < 0.2, truth, rng.integers(0, 50, 300))
    assert chance(truth, answers)[1] == 0.001
    many = rng.binomial(1, 0.1, (80, 6))
    assert chance(many, many)[1] == 0.001
    assert chance(many, np.roll(many, 1, axis=0))[1] > 0.05
    assert chance(np.array([1]), np.array([1])) == (1.0, 1.0)  # one text tells nothing


def test_vanishing_gradients_and_infinite_losses_are_told() -> None:
    watchdog = Watchdog("head")
    state, control, arguments = TrainerState(), TrainerControl(), TrainingArguments(report_to="none")
    for norm in (1e-9, 1.0, 1e-9, 1e-9):
        watchdog.on_log(arguments, state, control, logs={"loss": 0.7, "grad_norm": norm})
    assert watchdog.warnings == []
    watchdog.on_log(arguments, state, control, logs={"loss": 0.7, "grad_norm": 1e-9})
    (told,) = watchdog.warnings
    assert told.startswith("head has gradients of almost zero")
    assert "lower --head-learning-rate" in told
    with pytest.raises(TrainingError, match="loss of head at step 0 is nan"):
        watchdog.on_log(arguments, state, control, logs={"loss": float("nan")})
    with pytest.raises(TrainingError, match="gradient's norm of head at step 0 is nan"):
        watchdog.on_log(arguments, state, control, logs={"loss": 0.0, "grad_norm": float("nan")})


@pytest.mark.parametrize("method", ["frozen", "finetune"])
def test_a_loss_that_is_no_number_stops_the_run(
    splits: Splits, quick: Settings, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    calls = itertools.count()

    def breaking(logits: torch.Tensor, labels: torch.Tensor, **options: object) -> torch.Tensor:
        return logits.sum() * (float("nan") if next(calls) > 3 else 1.0)

    monkeypatch.setattr(model, "classification_loss", breaking)
    terminal = Console(force_terminal=True, file=io.StringIO())
    with pytest.raises(TrainingError, match=r"at step .* is nan\..*learning rate"):
        train(splits, change(quick, {"method": method, "epochs": 2}), console=terminal)
    assert not any(type(thread).__name__ == "_RefreshThread" for thread in threading.enumerate()), "the bar goes on"


def test_a_resumed_run_has_no_more_patience(
    splits: Splits, quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)

    def scores(_: object) -> dict[str, float]:
        call = next(calls)
        if call == 3:
            raise OSError("cut off")
        return {"accuracy": 0.9 if call == 1 else 0.5}

    monkeypatch.setattr(stage, "score_epoch", scores)
    given = change(quick, {"method": "frozen", "head_epochs": 9, "patience": 3})
    with pytest.raises(TrainingError, match="cut off"):
        train(splits, given, checkpoints=tmp_path)
    history = train(splits, given, checkpoints=tmp_path, resume=True).history
    assert [entry["epoch"] for entry in history if "eval_accuracy" in entry] == [1, 2, 3, 4]


def test_a_run_is_not_resumed_on_other_texts(splits: Splits, quick: Settings, tmp_path: Path) -> None:
    given = change(quick, {"method": "frozen", "head_epochs": 1})
    first = train(splits, given, checkpoints=tmp_path)
    again = train(splits, given, checkpoints=tmp_path, resume=True)
    assert (again.predictor.logits(["a good film"]) == first.predictor.logits(["a good film"])).all()
    other = Examples(splits.train.texts, splits.train.labels[::-1], "turned")
    with pytest.raises(DataError, match="its texts or labels were others"):
        train(replace(splits, train=other), given, checkpoints=tmp_path, resume=True)
    train(replace(splits, train=other), given, checkpoints=tmp_path)  # anew


def arguments_for(tiny: str, csv_file: Path, output: Path, *more: str) -> list[str]:
    settings = {
        "encoder": tiny, "text": "review", "label": "sentiment", "overlap": 4, "num-filters": 8, "head-epochs": 6,
        "epochs": 15, "patience": 99, "batch-size": 8, "report-to": "none", "kernel-sizes": "1,2",
    }  # fmt: skip
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return [*COMMAND, str(csv_file), "--output", str(output), *flags, *more]


def run_warm(arguments: list[str]) -> None:
    """Run to the end, in a process of its own."""
    subprocess.run([str(warm_command()), *arguments[3:]], check=True, capture_output=True)


def wait_for(pattern: str, folder: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="session")
def unbroken(tiny: str, csv_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("unbroken") / "model"
    run_warm(arguments_for(tiny, csv_file, output))
    return (output / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("how", "when"),
    [
        pytest.param(signal.SIGKILL, "head/checkpoint-*", marks=pytest.mark.slow),
        (signal.SIGKILL, "finetune/checkpoint-*"),
        pytest.param(signal.SIGINT, "finetune/checkpoint-*", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "finetune/checkpoint-*", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_is_resumed_to_the_same_weights(
    tiny: str, csv_file: Path, tmp_path: Path, unbroken: bytes, how: signal.Signals, when: str
) -> None:
    output, checkpoints = tmp_path / "model", tmp_path / "model.checkpoints"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        arguments_for(tiny, csv_file, output),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    wait_for(when, checkpoints, process)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert not output.exists()
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "--resume" in said
    with pytest.raises(TrainingError, match="unfinished run"):
        CliRunner().invoke(app, arguments_for(tiny, csv_file, output)[3:], catch_exceptions=False)
    run_warm(arguments_for(tiny, csv_file, output, "--resume"))
    assert (output / "model.safetensors").read_bytes() == unbroken
    assert not checkpoints.exists()


@pytest.mark.parametrize("number", Interruption.SIGNALS)
def test_whatever_stops_a_run_is_noted_once_and_obeyed_twice(number: signal.Signals) -> None:
    outside = signal.signal(number, signal.default_int_handler)  # under nohup it is ignored, and would stay so
    try:
        with Interruption() as interruption:
            signal.raise_signal(number)
            assert interruption.wanted
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)


@pytest.mark.parametrize("patience", [9, 0])
@pytest.mark.parametrize("when", ["within an epoch", "at the end of one", "at the end of all"])
def test_what_was_trained_before_a_stop_is_not_trained_again(
    splits: Splits, quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, patience: int
) -> None:
    """Trainer deletes all checkpoints but the best when it ends, and an epoch that ended has its score."""
    scores = itertools.cycle([0.9, 0.5, 0.6, 0.7])
    monkeypatch.setattr(stage, "score_epoch", lambda _: {"accuracy": next(scores), "log_loss": 1.0})
    given = change(quick, {"method": "frozen", "head_epochs": 4, "patience": patience})
    whole = train(splits, given)
    steps = max(entry["step"] for entry in whole.history)
    stop = {"within an epoch": steps - 1, "at the end of one": steps // 4, "at the end of all": steps}[when]
    seen: list[int] = []
    real = Interruption.on_step_end

    def stopping(self: Interruption, args: Any, state: Any, control: Any, **more: Any) -> None:
        seen.append(state.global_step)
        self.wanted = state.global_step == stop and len(seen) == stop
        real(self, args, state, control, **more)

    monkeypatch.setattr(Interruption, "on_step_end", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(splits, given, checkpoints=tmp_path)
    again = train(splits, given, checkpoints=tmp_path, resume=True)
    assert seen == list(range(1, steps + 1))
    told = [[entry["eval_accuracy"] for entry in run.history if "eval_accuracy" in entry] for run in (whole, again)]
    assert told == [[0.9, 0.5, 0.6, 0.7]] * 2
    assert (again.predictor.logits(["a good film"]) == whole.predictor.logits(["a good film"])).all()


def test_one_process_trains_on_one_gpu(splits: Splits, quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, Trainer would double the batch and split the windows of long texts from their places."""

    def with_two(**given: Any) -> TrainingArguments:
        arguments = TrainingArguments(**given)
        arguments._n_gpu = 2
        return arguments

    given = change(quick, {"method": "frozen", "head_epochs": 1})
    steps = [max(entry["step"] for entry in train(splits, given).history)]
    monkeypatch.setattr(stage, "TrainingArguments", with_two)
    steps.append(max(entry["step"] for entry in train(splits, given).history))
    assert steps[0] == steps[1]


def test_no_dev_text_is_refused(splits: Splits, quick: Settings) -> None:
    with pytest.raises(DataError, match="no texts to choose and calibrate on"):
        train(replace(splits, dev=Examples([], [], "dev.csv")), quick)


def test_a_label_that_always_holds_is_learned_with_balanced_weights() -> None:
    truth = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]], dtype=np.float32)
    found = _class_weights("balanced", Labels(("a", "b", "c"), many=True), truth)
    assert found == pytest.approx([1 / 4, 3.0, 3.0])


def test_resume_refuses_other_settings_and_nothing_to_resume(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    command = arguments_for(tiny, csv_file, tmp_path / "model", "--resume")[3:]
    with pytest.raises(TrainingError, match="Nothing to resume"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    (tmp_path / "model.checkpoints").mkdir()
    (tmp_path / "model.checkpoints" / "run.toml").write_text("[training]\nseed = 3\n")
    result = CliRunner().invoke(app, command)
    assert "seed was 3" in str(result.exception)


def test_resuming_what_had_not_begun_says_that_it_begins(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    flags = "--depth", "2", "--batch-size", "8", "--epochs", "1", "--head-epochs", "1"
    command = arguments_for(tiny, csv_file, tmp_path / "model", *flags)[3:]
    assert CliRunner().invoke(app, command).exit_code == 0
    (tmp_path / "model.checkpoints").mkdir()
    shutil.copy(tmp_path / "model" / "run.toml", tmp_path / "model.checkpoints")
    shutil.rmtree(tmp_path / "model")
    done = CliRunner().invoke(app, [*command, "--resume"])
    assert "training starts from the beginning" in " ".join(done.output.split())
    assert done.exit_code == 0, done.output


def test_two_processes_do_not_train_in_one_folder(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    note = tmp_path / "model.checkpoints" / "run.toml"
    with alone_in(note.parent, TrainingError):
        write_settings(Settings(), note)
        for flag in ("--resume", "--overwrite"):
            result = CliRunner().invoke(app, arguments_for(tiny, csv_file, tmp_path / "model", flag)[3:])
            assert isinstance(result.exception, TrainingError)
            assert "Another process is at work" in str(result.exception)
        assert note.is_file()
    with alone_in(note.parent, TrainingError):
        pass  # it was let go of


def test_the_folder_of_a_model(folder: Path, quick: Settings) -> None:
    names = {path.name for path in folder.iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "run.toml", "metrics.json"}
    assert names == wanted | {"README.md", "golden.json"}
    assert read_settings(folder / "run.toml") == change(quick, {"method": "head-then-finetune"})
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["headlines"]["accuracy"]["value"] > 0.9
    card = (folder / "README.md").read_text()
    assert "| test | 40 |" in card
    assert str(folder.parent) not in (folder / "config.json").read_text()


@pytest.mark.slow
def test_several_processes_train_one_model(tiny: str, csv_file: Path, tmp_path: Path) -> None:
    command = arguments_for(tiny, csv_file, tmp_path / "model")[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    subprocess.run([*torchrun, *command], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    history = json.loads((tmp_path / "model" / "metrics.json").read_text())["history"]
    # 130 texts in batches of 8: 17 steps an epoch alone, 9 where two share them.
    assert {h["step"] % 9 for h in history if "eval_accuracy" in h} == {0}
    predictor = Predictor.load(tmp_path / "model")
    assert predictor.predict(["the film was good"])[0].label == "positive"


def test_bf16_trains_on_a_cpu(splits: Splits, quick: Settings) -> None:
    trained = train(splits, change(quick, {"method": "head-then-finetune", "precision": "bf16"}))
    assert trained.test is not None
    assert trained.test.headlines["accuracy"].value > 0.9
    assert {weight.dtype for weight in trained.predictor.model.parameters()} == {torch.float32}


def test_calibration_divides_the_logits_for_good(splits: Splits, quick: Settings) -> None:
    trained = train(splits, change(quick, {"method": "frozen"}))
    assert trained.temperature > 0
    assert torch.isfinite(trained.predictor.model.head.classifier.weight).all()


def test_the_head_is_kept_where_fine_tuning_is_worse(splits: Splits, quick: Settings) -> None:
    values = {"method": "head-then-finetune", "encoder_learning_rate": 3.0, "epochs": 1, "max_gradient_norm": 1e9}
    trained = train(splits, change(quick, values))
    assert any("whose weights were kept" in warning for warning in trained.warnings)
    assert trained.dev.headlines["accuracy"].value > 0.9


@pytest.mark.parametrize("note", ["texts.sha256", "head/finished.json"])
def test_a_note_that_a_crash_has_emptied_ends_no_resume(
    splits: Splits, quick: Settings, tmp_path: Path, note: str
) -> None:
    first = train(splits, quick, checkpoints=tmp_path)
    (tmp_path / note).write_text("")
    again = train(splits, quick, checkpoints=tmp_path, resume=True)
    texts = list(splits.dev.texts)
    np.testing.assert_array_equal(again.predictor.logits(texts), first.predictor.logits(texts))
