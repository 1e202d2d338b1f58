"""Labelled texts to a trained model: frozen, fine-tuned, or the head first and then all.

Source:
    Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", for training the head first.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from rich.console import Console
from safetensors import SafetensorError
from transformers import set_seed

from bertcnn.errors import DataError, TrainingError
from bertcnn.inference.calibration import fit_temperature, fit_thresholds, probabilities_of
from bertcnn.inference.metrics import Evaluation, Truth, chance, decide, evaluate
from bertcnn.inference.predictor import Predictor
from bertcnn.network.encoder import reads_padding
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, cache_folder, cached_states
from bertcnn.settings import Settings, TrainingSettings, batch_for
from bertcnn.text.dataset import Examples, Splits, fingerprint_of
from bertcnn.text.labels import Labels
from bertcnn.text.tokens import Pieces, PieceTokenizer
from bertcnn.text.write_table import write_whole
from bertcnn.training.build import build_model
from bertcnn.training.callbacks import Clock, Interruption, ProgressBar, Watchdog, encoding_bar
from bertcnn.training.contrast import contrasts
from bertcnn.training.depth import DepthCurve, standard_error
from bertcnn.training.depth_search import DepthSearch, Scored, at, median_text
from bertcnn.training.stage import (
    Stage,
    TextSet,
    check_reports,
    collate_pieces,
    collate_states,
    run_stage,
    several_on_cpu,
)

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
        checkpoints: Folder for what a killed run goes on from. None: a temporary one.
        resume: Go on from there.
        console: Where progress is shown; None: nowhere.

    Raises:
        DataError: Labels that cannot be learned, or that dev or test has and train does not; no dev texts.
        EncoderError: The encoder cannot be loaded.
        SettingsError: A setting does not fit, or no depth answers within ``budget_ms``.
        TrainingError: The loss became infinite, or the disk is full.
        KeyboardInterrupt: Ctrl-C; a checkpoint was saved.
    """
    settings = settings or Settings()
    started = time.perf_counter()
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

    def build(settings: Settings) -> tuple[BertCNN, PieceTokenizer]:
        """Make an untrained model, the same each time."""
        set_seed(settings.training.seed)
        model, tokenizer = build_model(settings, labels, splits.train.texts, truths["train"])
        set_seed(settings.training.seed)  # whatever loading drew, filters and order begin here
        model.head.apply(model._init_weights)
        # Without a GPU, processes are joined only if told to be on the CPU; the first state made holds.
        model.to(PartialState(cpu=several_on_cpu()).device)
        return model, tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        run = _Run(settings, build, Path(checkpoints or scratch), resume, console or Console(quiet=True))
        if reads_padding(run.model.encoder):
            run.warnings.append(
                f"The encoder ({run.model.config.encoder.model_type}) reads padding as text, so answers depend on the "
                "other texts of a batch. Take another encoder, or predict with max_tokens=1, a text a batch."
            )
        try:
            if checkpoints is not None:
                _hold_to_texts(Path(checkpoints), splits, resume=resume)
            run.train(splits, truths, also_encode)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"Training stopped: {error}. Is the disk of {checkpoints or scratch} full? "
                "Free some space and go on with --resume."
            ) from error
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
        cut_texts=run.cut_texts,
        seconds=time.perf_counter() - started,
        encoding_seconds=run.encoding_seconds,
        cached_seconds=run.cached_seconds,
        depth_curve=run.depth_curve,
        proof=splits.dev,
    )


class _Run:
    """The stages of one training run, and what they leave behind."""

    def __init__(
        self,
        settings: Settings,
        build: Callable[[Settings], tuple[BertCNN, PieceTokenizer]],
        folder: Path,
        resume: bool,
        console: Console,
    ) -> None:
        self.settings, self._build = settings, build
        self.folder, self.resume, self.console = folder, resume, console
        self.model, self.tokenizer = build(settings)
        self.history: list[dict[str, object]] = []
        self.warnings: list[str] = []
        self.cut_texts = 0
        self.encoding_seconds = self.cached_seconds = 0.0
        self.depth_curve: DepthCurve | None = None
        self._head_states: States | None = None
        self._head_is_trained = False

    def train(self, splits: Splits, truths: dict[str, Truth], also_encode: Sequence[str]) -> None:
        method, training = self.settings.training.method, self.settings.training
        self.truths, self.pool = truths, self._pool(splits, also_encode)
        if self.settings.model.depth == "half-or-all" and self.model.config.num_hidden_layers < 2:
            self.settings = at(self.settings, "all")  # there is nothing to choose from
        elif self.settings.model.searches_depth:
            self._choose_depth(splits.train.texts)
        before: float | None = None
        if method != "finetune":
            states = self._head_states or self.encode(self.model)
            before = self._stage("head", training.head_epochs, states, resume=self.resume or self._head_is_trained)
        if method != "frozen":
            kept = {name: weight.clone() for name, weight in self.model.state_dict().items()}
            after = self._stage("finetune", training.epochs, None, resume=self.resume)
            if before is not None and after < before - self._doubt(before):
                self.model.load_state_dict(kept)
                self.warnings.append(
                    f"finetune was no better on dev than the head alone ({abs(after):.3f}, {abs(before):.3f}), whose "
                    "weights were kept. Try a lower --encoder-learning-rate or more --epochs, or --method frozen."
                )

    @property
    def metric(self) -> str:
        """The dev score that choices are made by."""
        many, metric = self.model.config.is_multi_label, self.settings.training.metric
        return metric if metric != "auto" else ("macro_f1" if many else "accuracy")

    def build(self, settings: Settings) -> BertCNN:
        """Make the untrained network of other settings; for the search of a depth, as the next two."""
        return self._build(settings)[0]

    def train_head(self, model: BertCNN, states: States, name: str) -> Scored:
        """Train a network's head on states."""
        epochs = self.settings.training.head_epochs
        log, warnings = self._fit(model, self.folder / name, "head", epochs, states, resume=self.resume)
        seconds = [entry["seconds"] for entry in log if "seconds" in entry]
        return Scored(abs(self._score(log)), seconds[-1], warnings)

    def encode(self, model: BertCNN) -> States:
        """Encode the texts of all splits, or find their states in the cache."""
        cache = cache_folder(self.settings.training.cache)
        # Several processes share the cache: the first writes, the others wait and read.
        started, pieces = time.perf_counter(), self.pool.pieces
        with PartialState().main_process_first(), encoding_bar(self.console, len(pieces.ids)) as advance:
            states = cached_states(model, self.tokenizer, pieces, cache, progress=advance)
        learned = np.unique(np.concatenate([self.pool.rows["train"], self.pool.rows["dev"]]))
        share = pieces.lengths[learned].sum() / max(1, len(pieces.ids))
        encoding = float(share * states.seconds)
        self.encoding_seconds += encoding
        self.cached_seconds += encoding - (time.perf_counter() - started)
        return states

    def _choose_depth(self, texts: Sequence[str]) -> None:
        """Search the depth, or read what was found before the run was killed, and go on at it."""
        note, is_main = self.folder / "depth.json", PartialState().is_main_process
        pieces = self.pool.pieces
        text = median_text(texts, pieces.lengths[self.pool.rows["train"]])
        both = [(self.pool.rows[part], self.truths[part]) for part in ("train", "dev")]
        rows, truth = (np.concatenate(one) for one in zip(*both, strict=True))
        search = DepthSearch(
            self,
            self.settings,
            self.tokenizer,
            pieces=pieces,
            learned=(rows, truth),
            dev_texts=len(self.pool.rows["dev"]),
            text=text,
            console=self.console,
        )
        was_found = self.resume and note.is_file()
        curve = DepthCurve.read(note) if was_found else search.run(self.model.config)
        if is_main and not was_found:
            curve.write(note)
        self.console.print(f"  {curve.why}", highlight=False, soft_wrap=True)
        self.depth_curve, chosen = curve, curve.chosen
        self.settings = at(self.settings, chosen.depth, chosen.num_filters)
        self.model = self.build(self.settings)
        if self.settings.training.method == "finetune":
            return
        self.warnings += curve.warnings
        self._head_states = None if was_found else search.states(self.model)
        # Of several processes only the first has the head's weights; they train it again, to the same ones.
        if PartialState().num_processes == 1:
            self._head_is_trained = _move(self.folder / chosen.name, self.folder / "head")

    def _stage(self, name: str, epochs: int, states: States | None, *, resume: bool) -> float:
        """Train one stage; return the dev score of the epoch that was kept, greater being better."""
        log, warnings = self._fit(self.model, self.folder / name, name, epochs, states, resume=resume)
        self.history += [{"stage": name, **entry} for entry in log]
        self.warnings += warnings
        return self._score(log)

    def _fit(
        self, model: BertCNN, folder: Path, name: str, epochs: int, states: States | None, *, resume: bool
    ) -> tuple[list[dict[str, float]], list[str]]:
        """Train the head where there are states, else all; return Trainer's log and signs of failure."""
        training, pool, metric = self.settings.training, self.pool, self.metric
        sets = {
            part: TextSet(pool.pieces, pool.rows[part], self.truths[part], training.seed) for part in ("train", "dev")
        }
        whole = collate_pieces(model.config.windowing, self.tokenizer.pad_id)
        collate = whole if states is None else collate_states(states)
        stage = Stage(name, sets["train"], sets["dev"], collate, epochs, metric, folder)
        watchdog, show = Watchdog(name), ProgressBar(self.console, folder.name, metric)
        module = model if states is None else model.head
        with Interruption() as interruption:
            log = run_stage(module, stage, training, [Clock(), watchdog, interruption, show], resume=resume)
        return log, watchdog.warnings

    def _score(self, log: Sequence[dict[str, float]]) -> float:
        sign = -1.0 if self.metric == "log_loss" else 1.0
        scores = [sign * entry[f"eval_{self.metric}"] for entry in log if f"eval_{self.metric}" in entry]
        return max(scores) if self.settings.training.patience else scores[-1]

    def _doubt(self, score: float) -> float:
        """Return by how much a dev score may be worse than another before it is taken for worse."""
        if self.metric == "log_loss":
            return 0.0
        return standard_error(score, texts=len(self.pool.rows["dev"]))

    def _pool(self, splits: Splits, also_encode: Sequence[str]) -> "_Pool":
        """Cut all distinct texts into pieces, the longest ones short, so that one cannot fill the memory.

        All splits are in one pool, so that other seeds and folds of the same texts find its states
        in the cache.
        """
        parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
        texts = sorted({text for part in parts.values() if part is not None for text in part.texts} | {*also_encode})
        place = {text: i for i, text in enumerate(texts)}
        rows = {n: np.array([place[t] for t in part.texts]) for n, part in parts.items() if part is not None}
        pieces = self.tokenizer(texts)
        most = self.settings.training.max_train_pieces
        long = pieces.lengths > most
        self.cut_texts = int(long[rows["train"]].sum())
        if long.any():
            ending = len(self.tokenizer.suffix)
            kept = [
                np.append(row[: most - ending], row[len(row) - ending :]) if len(row) > most else row
                for row in (pieces[i] for i in range(len(pieces)))
            ]
            pieces = Pieces(np.concatenate(kept), np.cumsum([0, *map(len, kept)]))
        return _Pool(pieces, rows)


@dataclass(frozen=True)
class _Pool:
    """The distinct texts of all splits as pieces, and which of them each split's texts are."""

    pieces: Pieces
    rows: dict[str, npt.NDArray[np.int64]]


def _move(source: Path, target: Path) -> bool:
    """Give a folder another name, in the place of what has it; return whether there was one."""
    if not source.is_dir():
        return False
    shutil.rmtree(target, ignore_errors=True)
    source.rename(target)
    return True


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


def _calibrate(predictor: Predictor, logits: npt.NDArray[np.float32], truth: Truth) -> float:
    """Fold a temperature into the last layer, and set thresholds, by the logits of the dev split."""
    temperature = fit_temperature(logits, truth)
    predictor.model.head.divide_logits(temperature)
    if predictor.is_multi_label:
        table = probabilities_of(logits / temperature, many=True)
        predictor.model.config.thresholds = fit_thresholds(table, truth)
    return temperature
