"""Trying depths: a head on the states of each, or of half and all, of which :mod:`bertcnn.training.depth` takes one.

What builds a network and trains a head is handed in by :mod:`bertcnn.training.train`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor

from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.errors import SettingsError
from bertcnn.inference.metrics import Truth
from bertcnn.network.config import BertCNNConfig
from bertcnn.network.encoder import states_count
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, cache_folder, mean_state, stream_states
from bertcnn.settings import Settings, change
from bertcnn.text.tokens import Pieces, PieceTokenizer
from bertcnn.training.depth import (
    FEW_TEXTS,
    POINT,
    DepthCurve,
    Trial,
    choose,
    gain_of,
    name_of,
    right_answers,
    standard_error,
)
from bertcnn.training.pace import Pace, pace_of

SIDE_BY_SIDE_BYTES = 4_000_000_000
"""Most that the states of all layers may take together. A page of the file holds several layers, so an epoch
on one of them reads all: what does not stay in memory would be read from disk again in every epoch."""

PROBE_TEXTS = 8


@dataclass(frozen=True)
class Scored:
    """A head that was trained: its dev score, seconds of training, and signs of failure."""

    score: float
    seconds: float
    warnings: list[str]


class HeadTrainer(Protocol):
    """What a search borrows from a training run."""

    @property
    def metric(self) -> str:
        """The dev score that choices are made by."""

    def build(self, settings: Settings) -> BertCNN:
        """Make the untrained network that settings describe, the same each time."""

    def encode(self, model: BertCNN) -> States:
        """Return the states of all texts by a network's encoder."""

    def train_head(self, model: BertCNN, states: States, name: str) -> Scored:
        """Train a network's head on states, in a folder of this name."""


class DepthSearch:
    """Tries each depth of an encoder, or half and all.

    To try each, the whole encoder runs once, and a head is trained on the columns of each depth. An encoder that does
    more behind its last layer (a norm, as in ModernBERT) is found out on a few texts, and then each depth runs by
    itself; and so it does where the states of all layers would take more than :data:`SIDE_BY_SIDE_BYTES` or half
    of the free disk.

    Args:
        trainer: Builds, encodes, trains.
        settings: With ``depth = "auto"`` or ``"half-or-all"``.
        tokenizer: Of the encoder.
        pieces: All texts to encode.
        learned: The rows of ``pieces`` that are learned from and chosen on, int64 ``(N,)``, and the truth about them.
        dev_texts: How many of them the choice is made by; where those are few, by all.
        text: What is timed.
        console: Where each trial is shown.
    """

    def __init__(
        self,
        trainer: HeadTrainer,
        settings: Settings,
        tokenizer: PieceTokenizer,
        *,
        pieces: Pieces,
        learned: tuple[Ints, Truth],
        dev_texts: int,
        text: str,
        console: Console,
    ) -> None:
        self.trainer, self.settings, self.tokenizer = trainer, settings, tokenizer
        self.pieces, self.text, self.console = pieces, text, console
        self.learned, self.dev_texts = learned, dev_texts
        self._right: list[Floats64] = []  # of half, and of all
        self.warnings: dict[Trial, list[str]] = {}
        self._layers = self._lowest = 0
        self._is_side_by_side = False
        self._whole: BertCNN | None = None
        self._whole_probe: list[Tensor] = []
        self._whole_states: States | None = None

    def run(self, whole: BertCNNConfig) -> DepthCurve:
        """Try the depths, and where there is a budget fewer filters at those that are too slow.

        Args:
            whole: Configuration of the network with all layers.

        Raises:
            SettingsError: The encoder has no layers, or nothing answers within the budget.
        """
        model, training, metric = self.settings.model, self.settings.training, self.trainer.metric
        depths = self._look_at(whole)
        plan = self._in_time(depths) if training.budget_ms else [(depth, model.num_filters, None) for depth in depths]
        trials = [self._try(*one) for one in plan]
        tolerance = training.tolerance
        if model.depth == "half-or-all" and metric != "log_loss":
            tolerance = standard_error(max(one.score for one in trials), texts=self.dev_texts) / POINT
        gain = gain_of(*self._right) if len(self._right) == 2 else None
        chosen = choose(trials, metric=metric, tolerance=tolerance, budget_ms=training.budget_ms, gain=gain)
        return DepthCurve(
            metric=metric,
            tolerance=tolerance,
            budget_ms=training.budget_ms,
            timed_pieces=int(self.tokenizer([self.text]).lengths[0]),
            trials=tuple(trials),
            chosen=chosen,
            warnings=tuple(self.warnings[chosen]),
            gain=gain,
        )

    def states(self, model: BertCNN) -> States:
        """Return the states that a cut network's head reads: columns of the whole one's, or its own."""
        columns = self._columns(model.config)
        if self._is_side_by_side and not self._agrees(model, columns):
            self._run_apart("this encoder does more behind its last layer")
        if not self._is_side_by_side:
            return self.trainer.encode(model)
        if self._whole_states is None:
            self._whole_states = self.trainer.encode(self._whole or self._build_whole())
            self._whole = None
        whole = self._whole_states
        return States(whole.values[:, columns], whole.starts, whole.seconds)

    def _try(self, depth: int, num_filters: int, pace: Pace | None) -> Trial:
        model = self.trainer.build(at(self.settings, depth, num_filters))
        pace = pace or self._pace(model)
        states = self.states(model)
        scored = self.trainer.train_head(model, states, name_of(depth, num_filters))
        if self.settings.model.depth == "half-or-all" and self.dev_texts < FEW_TEXTS:
            rows, truth = self.learned
            self._right.append(right_answers(_means(states, rows), truth))
        trial = Trial(depth, num_filters, scored.score, scored.seconds, pace.latency_ms, pace.backend)
        self.warnings[trial] = scored.warnings
        self.console.print(
            f"  depth {depth} of {self._layers}, {num_filters} filters: dev {self.trainer.metric} {trial.score:.3f}, "
            f"{trial.seconds:.1f} s, {pace.latency_ms:.1f} ms a text by {pace.backend}",
            highlight=False,
        )
        return trial

    def _in_time(self, depths: Sequence[int]) -> list[tuple[int, int, Pace | None]]:
        """Time each depth, and where it is too slow half and a quarter of the filters, before anything is trained.

        Returns:
            What to try: depth, filters and pace; each depth with all filters, for the curve, and then those
            with the most fewer filters that answer in time.

        Raises:
            SettingsError: Nothing answers within the budget.
        """
        given, budget = self.settings.model.num_filters, self.settings.training.budget_ms
        full: list[tuple[int, int, Pace | None]] = []
        fewer = full[:]
        timed: list[tuple[float, int, int, str]] = []
        in_reach = True  # a deeper one is no faster
        for depth in depths:
            for count in (given, *self._fewer(given)) if in_reach else (given,):
                model = self.trainer.build(at(self.settings, depth, count))
                pace = self._pace(model, budget if in_reach else 0.0)
                timed.append((pace.latency_ms, depth, count, pace.backend))
                if count == given:
                    full.append((depth, count, pace))
                elif pace.latency_ms <= budget:
                    fewer.append((depth, count, pace))
                if pace.latency_ms <= budget:
                    break
            else:
                in_reach = False
        latency, depth, count, backend = min(timed)
        if latency > budget:
            raise SettingsError(
                f"budget_ms is {budget:g}, but no depth answers the training text of median length within it on "
                f"this machine: the fastest found is depth {depth} with {count} filters, {latency:.2g} ms by "
                f"{backend}. Allow that, or take a smaller --encoder."
            )
        return full + fewer

    def _fewer(self, num_filters: int) -> list[int]:
        return [n for n in (num_filters // 2, num_filters // 4) if n and self.settings.model.features == "windows"]

    def _pace(self, model: BertCNN, budget_ms: float = 0.0) -> Pace:
        """Time a network in the first of several processes, for all must choose the same."""
        own = Pace("torch", 0.0)
        if PartialState().is_main_process:
            own = pace_of(model, self.tokenizer, self.text, budget_ms=budget_ms)
        (found,) = broadcast_object_list([own])
        assert isinstance(found, Pace)
        return found

    def _look_at(self, whole: BertCNNConfig) -> list[int]:
        """Return the depths to try, and note whether the states that they read can lie side by side."""
        self._layers = whole.num_hidden_layers
        if not self._layers:
            raise SettingsError(
                f"depth is 'auto', but a {whole.encoder.model_type} encoder has no layers to choose from. "
                "Give --depth all."
            )
        if self.settings.model.depth == "half-or-all":
            # The states of all layers are many times those of two, and each of these is found in the cache by itself.
            return [depth for depth in ((self._layers + 1) // 2, self._layers) if _can_read(whole.states, depth)]
        self._lowest = 1 if states_count(whole.encoder, whole.states) == 1 else 0
        needed = 2 * len(self.pieces.ids) * whole.hidden_size * (self._layers + 1 - self._lowest)
        self._is_side_by_side = needed <= min(SIDE_BY_SIDE_BYTES, _free_bytes(self.settings) // 2)
        if not self._is_side_by_side:
            self._run_apart(f"the states of all layers would take {needed / 1e9:.1f} GB")
        return [depth for depth in range(1, self._layers + 1) if _can_read(whole.states, depth)]

    def _run_apart(self, reason: str) -> None:
        self._is_side_by_side, self._whole = False, None
        self.console.print(f"  The encoder runs once for each depth: {reason}.", highlight=False)

    def _columns(self, config: BertCNNConfig) -> slice:
        """Return where the states that a cut network reads stand among those of all layers."""
        end = config.num_hidden_layers + 1 - self._lowest
        start = end - states_count(config.encoder, config.states)
        return slice(start * config.hidden_size, end * config.hidden_size)

    def _build_whole(self) -> BertCNN:
        all_layers = f"concat-{self._layers + 1 - self._lowest}"
        return self.trainer.build(change(at(self.settings, "all"), {"states": all_layers}))

    def _agrees(self, model: BertCNN, columns: slice) -> bool:
        """Return whether a cut encoder's states are these columns of the whole one's, on a few texts."""
        if not self._whole_probe:
            self._whole = self._build_whole()
            self._whole_probe = self._probe(self._whole)
        pairs = [(own, whole[..., columns]) for own, whole in zip(self._probe(model), self._whole_probe, strict=True)]
        return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

    def _probe(self, model: BertCNN) -> list[Tensor]:
        some = _spread(self.pieces, PROBE_TEXTS)
        return [states.cpu() for _, states in stream_states(model, some, pad_id=self.tokenizer.pad_id)]


def _means(states: States, rows: Ints) -> Floats32:
    """Return the mean of each text's states, ``(N, S)``."""
    return np.stack([mean_state(states[row]) for row in rows])


def at(settings: Settings, depth: int | str, num_filters: int | None = None) -> Settings:
    """Return the settings of one trial, as if the user had given its depth."""
    filters = settings.model.num_filters if num_filters is None else num_filters
    return change(settings, {"depth": depth, "num_filters": filters, "budget_ms": 0.0})


def _can_read(states: str, depth: int) -> bool:
    """Return whether a network of this depth has the layers that the head shall read."""
    wanted = states.removeprefix("concat-")
    return not wanted.isdigit() or int(wanted) <= depth + 1


def median_text(texts: Sequence[str], lengths: Ints) -> str:
    """Return the text of median length; ``lengths`` in pieces, int64 ``(N,)``."""
    return texts[int(np.argsort(lengths, kind="stable")[len(lengths) // 2])]


def _spread(pieces: Pieces, count: int) -> Pieces:
    """Return a few of the texts, evenly spread."""
    rows = [pieces[int(i)] for i in np.unique(np.linspace(0, len(pieces) - 1, count).astype(int))]
    return Pieces(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


def _free_bytes(settings: Settings) -> int:
    """Return what is free where encoder states are kept."""
    cache = cache_folder(settings.training.cache).absolute()
    there = next(place for place in (cache, *cache.parents) if place.exists())
    return shutil.disk_usage(there).free
