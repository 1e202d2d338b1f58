"""The stages of one training run: a depth is chosen, the head trained on cached states, all of it fine-tuned.

:func:`bertcnn.training.train.train` builds the network before them, and calibrates it after.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from accelerate import PartialState
from rich.console import Console

from bertcnn.arrays import Ints
from bertcnn.inference.metrics import Truth, goodness
from bertcnn.network.encoder import reads_padding
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, cache_folder, cached_states, uses_bf16
from bertcnn.settings import Settings
from bertcnn.text.dataset import Splits
from bertcnn.text.tokens import Pieces, PieceTokenizer
from bertcnn.training.callbacks import Clock, Interruption, ProgressBar, Watchdog, encoding_bar
from bertcnn.training.depth import DepthCurve, standard_error
from bertcnn.training.depth_search import DepthSearch, Scored, median_text
from bertcnn.training.layer_states import at
from bertcnn.training.stage import Stage, TextSet, collate_pieces, collate_states, run_stage

MOST_UNKNOWN = 0.05
"""Share of the pieces of texts that an encoder may not know before that is told."""


@dataclass(frozen=True)
class SharedPieces:
    """The distinct texts of all splits as pieces, so that other seeds and folds of the same texts find their states.

    Attributes:
        pieces: Of all distinct texts, the longest ones cut, so that one cannot fill the memory.
        rows: Which of them the texts of each split are, by its name.
        cut_texts: Of those to learn from, how many were cut.
    """

    pieces: Pieces
    rows: dict[str, Ints]
    cut_texts: int

    @classmethod
    def of(cls, splits: Splits, also: Sequence[str], tokenizer: PieceTokenizer, *, most: int) -> Self:
        """Cut the texts of all splits, and others, into at most so many pieces each."""
        parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
        texts = sorted({text for part in parts.values() if part is not None for text in part.texts} | {*also})
        place = {text: i for i, text in enumerate(texts)}
        rows = {n: np.array([place[t] for t in part.texts]) for n, part in parts.items() if part is not None}
        pieces = tokenizer(texts)
        long = pieces.lengths > most
        cut_texts = int(long[rows["train"]].sum())
        if long.any():
            ending = len(tokenizer.suffix)
            kept = [
                np.append(row[: most - ending], row[len(row) - ending :]) if len(row) > most else row
                for row in (pieces[i] for i in range(len(pieces)))
            ]
            pieces = Pieces.of(kept)
        return cls(pieces, rows, cut_texts)

    def unknown_share(self, tokenizer: PieceTokenizer, part: str) -> float:
        """Return the share of the pieces of a split's texts, but for special ones, that are not in the vocabulary."""
        unknown = np.append(0, np.cumsum(self.pieces.ids == tokenizer.unknown_id))[self.pieces.starts]
        special, rows = [*tokenizer.prefix, *tokenizer.suffix], self.rows[part]
        count = (np.diff(unknown)[rows] - sum(one == tokenizer.unknown_id for one in special)).sum()
        return float(count / max(1, (self.pieces.lengths[rows] - len(special)).sum()))


class TrainingRun:
    """The stages of one training run, and what they leave behind.

    Args:
        settings: Of all stages; ``depth`` becomes the one that is chosen.
        build: Makes the untrained network of settings, the same each time, and its tokenizer.
        splits: Texts to learn from and to choose on.
        truths: What each split's texts are, by its name.
        also_encode: Texts whose states are kept in the same cache entry.
        folder: For what a killed run goes on from.
        resume: Go on from there.
        console: For progress.
    """

    def __init__(
        self,
        settings: Settings,
        build: Callable[[Settings], tuple[BertCNN, PieceTokenizer]],
        splits: Splits,
        truths: dict[str, Truth],
        *,
        also_encode: Sequence[str],
        folder: Path,
        resume: bool,
        console: Console,
    ) -> None:
        self.settings, self._build, self.truths = settings, build, truths
        self.folder, self.resume, self.console = folder, resume, console
        self.model, self.tokenizer = build(settings)
        most = settings.training.max_train_pieces
        self._texts = splits.train.texts
        self.shared = SharedPieces.of(splits, also_encode, self.tokenizer, most=most)
        self.history: list[dict[str, object]] = []
        self.warnings: list[str] = []
        if reads_padding(self.model.encoder):
            self.warnings.append(
                f"The encoder ({self.model.config.encoder.model_type}) reads padding as text, so answers depend on the "
                "other texts of a batch. Take another encoder, or predict with max_tokens=1, a text a batch."
            )
        unknown = self.shared.unknown_share(self.tokenizer, "train")
        if unknown > MOST_UNKNOWN:
            self.warnings.append(
                f"{unknown:.0%} of the word pieces of the training texts are unknown to this encoder, which takes them "
                "all for the same: it is of another language, or has no such signs. Choose another --encoder."
            )
        self.encoding_seconds = self.cached_seconds = 0.0
        self.depth_curve: DepthCurve | None = None
        self._head_states: States | None = None
        self._head_is_trained = False

    def train(self) -> None:
        """Go through all stages, and leave the model with the weights that are kept."""
        method, training = self.settings.training.method, self.settings.training
        if self.settings.model.depth == "half-or-all" and self.model.config.num_hidden_layers < 2:
            self.settings = at(self.settings, "all")  # there is nothing to choose from
        elif self.settings.model.searches_depth:
            self._choose_depth()
        before: float | None = None
        if method != "finetune":
            states = self._head_states or self.encode(self.model)
            before = self._stage("head", training.head_epochs, states, resume=self.resume or self._head_is_trained)
        if method != "frozen":
            kept = {} if before is None else {k: v.to("cpu", copy=True) for k, v in self.model.state_dict().items()}
            after = self._stage("finetune", training.epochs, None, resume=self.resume)
            if before is not None and self._is_worse(after, before):
                self.model.load_state_dict(kept)
                self.warnings.append(
                    f"finetune was no better on dev than the head alone ({after:.3f}, {before:.3f}), whose "
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
        return Scored(self._score(log), seconds[-1], warnings)

    def encode(self, model: BertCNN) -> States:
        """Encode the texts of all splits, or find their states in the cache."""
        cache = cache_folder(self.settings.training.cache)
        # Several processes share the cache: the first writes, the others wait and read.
        started, pieces = time.perf_counter(), self.shared.pieces
        with PartialState().main_process_first(), encoding_bar(self.console, len(pieces.ids)) as advance:
            bf16 = uses_bf16(self.settings.training.precision)
            states = cached_states(model, self.tokenizer, pieces, cache, bf16=bf16, progress=advance)
        learned = np.unique(np.concatenate([self.shared.rows["train"], self.shared.rows["dev"]]))
        share = pieces.lengths[learned].sum() / max(1, len(pieces.ids))
        encoding = float(share * states.seconds)
        self.encoding_seconds += encoding
        self.cached_seconds += encoding - (time.perf_counter() - started)
        return states

    def _choose_depth(self) -> None:
        """Search the depth, or read what was found before the run was killed, and go on at it."""
        note, is_main = self.folder / "depth.json", PartialState().is_main_process
        search = None if self.resume and note.is_file() else self._search()
        curve = DepthCurve.read(note) if search is None else search.run()
        if is_main and search is not None:
            curve.write(note)
        self.console.print(f"  {curve.why}", highlight=False, soft_wrap=True)
        self.depth_curve, chosen = curve, curve.chosen
        self.settings = at(self.settings, chosen.depth, chosen.num_filters)
        self.model = self.build(self.settings)
        if self.settings.training.method == "finetune":
            return
        self.warnings += curve.warnings
        self._head_states = None if search is None else search.states.of(self.model)
        # Of several processes only the first has the head's weights; they train it again, to the same ones.
        if PartialState().num_processes == 1:
            self._head_is_trained = _move(self.folder / chosen.name, self.folder / "head")

    def _search(self) -> DepthSearch:
        shared, parts = self.shared, ("train", "dev")
        rows, truth = (np.concatenate([one[part] for part in parts]) for one in (shared.rows, self.truths))
        return DepthSearch(
            self,
            self.settings,
            self.tokenizer,
            whole=self.model.config,
            pieces=shared.pieces,
            learned=(rows, truth),
            dev_texts=len(shared.rows["dev"]),
            text=median_text(self._texts, shared.pieces.lengths[shared.rows["train"]]),
            console=self.console,
        )

    def _stage(self, name: str, epochs: int, states: States | None, *, resume: bool) -> float:
        """Train one stage; return the dev score of the epoch that was kept."""
        log, warnings = self._fit(self.model, self.folder / name, name, epochs, states, resume=resume)
        self.history += [{"stage": name, **entry} for entry in log]
        self.warnings += warnings
        return self._score(log)

    def _fit(
        self, model: BertCNN, folder: Path, name: str, epochs: int, states: States | None, *, resume: bool
    ) -> tuple[list[dict[str, float]], list[str]]:
        """Train the head where there are states, else all; return Trainer's log and signs of failure."""
        training, shared, metric = self.settings.training, self.shared, self.metric
        sets = {
            part: TextSet(shared.pieces, shared.rows[part], self.truths[part], training.seed)
            for part in ("train", "dev")
        }
        whole = collate_pieces(model.config.windowing, self.tokenizer.pad_id)
        collate = whole if states is None else collate_states(states)
        stage = Stage(name, sets["train"], sets["dev"], collate, epochs, metric, folder)
        watchdog = Watchdog(name, is_weighted=training.class_weights != "none")
        show = ProgressBar(self.console, folder.name, metric)
        module = model if states is None else model.head
        with Interruption() as interruption, show.bar:
            log = run_stage(module, stage, training, [Clock(), watchdog, interruption, show], resume=resume)
        return log, watchdog.warnings

    def _score(self, log: Sequence[dict[str, float]]) -> float:
        scores = [entry[f"eval_{self.metric}"] for entry in log if f"eval_{self.metric}" in entry]
        best = max(scores, key=lambda score: goodness(self.metric, score))
        return best if self.settings.training.patience else scores[-1]

    def _is_worse(self, score: float, other: float) -> bool:
        """Return whether a dev score is worse than another by more than can be doubted."""
        doubt = 0.0 if self.metric == "log_loss" else standard_error(other, texts=len(self.shared.rows["dev"]))
        return goodness(self.metric, score) < goodness(self.metric, other) - doubt


def _move(source: Path, target: Path) -> bool:
    """Give a folder another name, in the place of what has it; return whether there was one."""
    if not source.is_dir():
        return False
    shutil.rmtree(target, ignore_errors=True)
    source.rename(target)
    return True
