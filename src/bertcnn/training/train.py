"""Labelled texts to a trained model: frozen, fine-tuned, or the head first and then all.

Source:
    Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", for training the head first.
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from rich.console import Console
from safetensors import SafetensorError
from transformers import set_seed

from bertcnn.arrays import Floats32
from bertcnn.errors import DataError, SettingsError, TrainingError
from bertcnn.files import write_whole
from bertcnn.inference.calibration import fit_temperature, fit_thresholds, probabilities_of
from bertcnn.inference.metrics import Evaluation, Truth, chance, decide, evaluate
from bertcnn.inference.predictor import Predictor
from bertcnn.network.model import BertCNN
from bertcnn.settings import Settings, TrainingSettings, batch_for
from bertcnn.text.dataset import Examples, Splits, fingerprint_of
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import PieceTokenizer
from bertcnn.training.build import build_model
from bertcnn.training.contrast import contrasts
from bertcnn.training.depth import DepthCurve
from bertcnn.training.run import TrainingRun
from bertcnn.training.stage import check_reports, joins_on_cpu, processes

LONGEST_WAIT = timedelta(days=1)
"""Of a process for the others: while the first encodes all texts, they have nothing to do."""

SURE = 0.05
"""Of a p-value: below it, something was learned."""


@dataclass(frozen=True)
class Trained:
    """What a training run made.

    Attributes:
        predictor: The model, calibrated on dev.
        settings: It was trained with; ``depth`` and ``batch_size`` as chosen.
        dev, test: How good it is there.
        temperature: The logits were divided by this.
        history: Trainer's log, a dict a step, each with its ``stage``.
        warnings: Signs of failure.
        cut_texts: Training texts longer than ``max_train_pieces``.
        seconds: Of encoding, training and calibrating.
        encoding_seconds: What encoding the texts of train and dev took, now or when they were cached.
        cached_seconds: What encoding the texts of train and dev would have added, had their states not
            been in the cache (less what encoding others' texts took).
        depth_curve: Where ``depth`` was ``auto`` or ``half-or-all``, what was tried.
        proof: The dev texts, for a graph to be proved on that a budget asked for.
    """

    predictor: Predictor
    settings: Settings
    dev: Evaluation
    test: Evaluation | None
    temperature: float
    history: list[dict[str, object]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cut_texts: int = 0
    seconds: float = 0.0
    encoding_seconds: float = 0.0
    cached_seconds: float = 0.0
    depth_curve: DepthCurve | None = None
    proof: Examples | None = field(default=None, repr=False)


@contextmanager
def _leaving_chance_alone() -> Iterator[None]:
    """Put back the random numbers of everybody else: what is drawn after a training must not hang on its seed."""
    before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  # it is the global one that is seeded
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)  # noqa: NPY002


@_leaving_chance_alone()
def train(
    splits: Splits,
    settings: Settings | None = None,
    *,
    also_encode: Sequence[str] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Trained:
    """Train a classifier.

    Args:
        splits: Texts to learn from, to choose on, and to test on.
        settings: All of them; defaults if None.
        also_encode: Texts whose encoder states to keep in the same cache entry, so that other folds of
            the same data find theirs. Each text is encoded by itself; nothing is learned from these.
        checkpoints: Folder for what a killed run goes on from, the same for all processes that train together.
            None: a temporary one, each process its own.
        resume: Go on from there.
        console: Where progress is shown; None: nowhere.

    Raises:
        DataError: Labels that cannot be learned, or that dev or test has and train does not; no dev texts.
        EncoderError: The encoder cannot be loaded.
        SettingsError: A setting does not fit, no depth answers within ``budget_ms``, or processes that train
            together would not find each other's best epoch.
        TrainingError: The loss became infinite, or something cannot be read or written.
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved.
    """
    settings = settings or Settings()
    started = time.perf_counter()
    if processes() > 1 and checkpoints is None and settings.training.patience:
        raise SettingsError(
            "With patience, processes that train together must all find the best epoch. Give checkpoints, a folder of "
            "them all, or patience 0."
        )
    check_reports(settings.training)
    set_seed(settings.training.seed)
    if settings.training.negation_contrasts:
        splits = _with_contrasts(splits, settings.training)
    if settings.training.batch_size == "auto":
        size = batch_for(len(splits.train))
        settings = replace(settings, training=replace(settings.training, batch_size=size))
    if not len(splits.dev):
        raise DataError(f"{splits.dev.source} has no texts to choose and calibrate on. Give some as dev.")
    labels = Labels.of(splits.train.labels)
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    truths: dict[str, Truth] = {
        n: labels.encode(part.labels, where=part.source) for n, part in parts.items() if part is not None
    }
    state = PartialState(cpu=joins_on_cpu(), timeout=LONGEST_WAIT)  # the first that is made holds for all

    def build(settings: Settings) -> tuple[BertCNN, PieceTokenizer]:
        """Make an untrained model, the same each time."""
        set_seed(settings.training.seed)
        model, tokenizer = build_model(settings, labels, splits.train.texts, truths["train"])
        set_seed(settings.training.seed)  # whatever loading drew, filters and order begin here
        model.head.apply(model._init_weights)
        if labels.many:
            _begin_with_shares(model, truths["train"])
        model.to(state.device)
        return model, tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        try:
            if checkpoints is not None:
                _hold_to_texts(Path(checkpoints), splits, resume=resume)
            run = TrainingRun(
                settings,
                build,
                splits,
                truths,
                also_encode=also_encode,
                folder=Path(checkpoints or scratch),
                resume=resume,
                console=console or Console(quiet=True),
            )
            run.train()
        except (OSError, SafetensorError) as error:
            then = "go on with --resume" if checkpoints is not None else "train again"
            raise TrainingError(
                f"Training stopped: {error}. Free some space if the disk of {checkpoints or scratch} is full, or mend "
                f"what is said, and {then}."
            ) from error
    return _calibrated(run, splits, truths, started)


def _begin_with_shares(model: BertCNN, truth: Truth) -> None:
    """Let an untrained network give each of many labels the share of the training texts that have it.

    Biases hardly move in training. From 0, every label of a text in which nothing is found would be as likely as not.

    Source:
        Lin et al. (2017), "Focal Loss for Dense Object Detection", sec. 3.3, for one share of all.
    """
    shares = (truth.sum(axis=0) + 0.5) / (len(truth) + 1)
    odds = torch.from_numpy(shares / (1 - shares))
    if (weights := model.config.class_weights) is not None:
        odds *= torch.tensor(weights)  # as the loss sees them
    with torch.no_grad():
        model.head.classifier.bias.copy_(odds.log())


def _calibrated(run: TrainingRun, splits: Splits, truths: dict[str, Truth], started: float) -> Trained:
    """Calibrate what a run trained on dev, and score it."""
    predictor = Predictor(run.model, run.tokenizer)
    logits = predictor.logits(splits.dev.texts)
    temperature = _calibrate(predictor, logits, truths["dev"])
    # The last layer was divided by the temperature, and so are its logits: dev need not be read again.
    table = probabilities_of(logits / temperature, many=predictor.is_multi_label)
    thresholds = predictor.backend.spec.thresholds
    answers = decide(table, many=predictor.is_multi_label, thresholds=thresholds)
    run.warnings += _said_if_unlearned(truths["dev"], answers)
    return Trained(
        predictor=predictor,
        settings=run.settings,
        dev=evaluate(truths["dev"], table, predictor.label_names, thresholds=thresholds),
        test=None if splits.test is None else predictor.evaluate(splits.test),
        temperature=temperature,
        history=run.history,
        warnings=run.warnings,
        cut_texts=run.shared.cut_texts,
        seconds=time.perf_counter() - started,
        encoding_seconds=run.encoding_seconds,
        cached_seconds=run.cached_seconds,
        depth_curve=run.depth_curve,
        proof=splits.dev,
    )


def _hold_to_texts(folder: Path, splits: Splits, *, resume: bool) -> None:
    """Note what texts a run learns from and is chosen and tested on, or check that they are those it began with.

    Raises:
        DataError: They are others.
    """
    note, found = folder / "texts.sha256", fingerprint_of((splits.train, splits.dev, splits.test))
    if resume and note.is_file() and note.read_text("utf-8").strip() not in {found, ""}:
        raise DataError(
            f"Cannot go on with the run in {folder}: its texts or labels were others, and what it learned from may be "
            "in dev or test now. Give the same files, or train anew without --resume."
        )
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(note, f"{found}\n")


def _with_contrasts(splits: Splits, training: TrainingSettings) -> Splits:
    found = contrasts(splits.train, training.negation_contrasts, seed=training.seed)
    train = splits.train
    return replace(splits, train=Examples(train.texts + found.texts, train.labels + found.labels, train.source))


def _said_if_unlearned(truth: Truth, answers: Truth) -> list[str]:
    """Return a warning where the answers on dev may have nothing to do with the labels; else nothing."""
    if len(np.unique(answers, axis=0)) == 1:
        return []  # the watchdog says why that may be
    by_chance, p = chance(truth, answers)
    if p <= SURE:
        return []
    said = (
        f"It is not shown that anything was learned: of the answers on {len(truth)} dev texts "
        f"{np.mean(truth == answers):.0%} are as labelled, and {by_chance:.0%} would be if they had nothing to do with "
        f"the labels (p = {p:.2f}). Give more texts to learn from and to choose on (--dev-fraction), and look whether "
        "labels belong to their texts."
    )
    return [said]


def _calibrate(predictor: Predictor, logits: Floats32, truth: Truth) -> float:
    """Fold a temperature into the last layer, and set thresholds, by the logits of the dev split."""
    temperature = fit_temperature(logits, truth)
    predictor.model.head.divide_logits(temperature)
    if predictor.is_multi_label:
        table = probabilities_of(logits / temperature, many=True)
        predictor.model.config.thresholds = fit_thresholds(table, truth)
    return temperature
