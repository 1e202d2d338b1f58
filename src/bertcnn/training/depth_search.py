"""Trying depths: a head on the states of each, or of half and all, of which :mod:`bertcnn.training.depth` takes one.

What builds a network and trains a head is handed in by :mod:`bertcnn.training.train`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console

from bertcnn.arrays import Floats32, Floats64, Ints
from bertcnn.errors import SettingsError
from bertcnn.inference.metrics import Truth
from bertcnn.network.config import BertCNNConfig
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, mean_state
from bertcnn.settings import Settings
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
from bertcnn.training.layer_states import LayerStates, StateMaker, at, depths_of
from bertcnn.training.pace import Pace, pace_of


@dataclass(frozen=True)
class Scored:
    """A head that was trained: its dev score, seconds of training, and signs of failure."""

    score: float
    seconds: float
    warnings: list[str]


class HeadTrainer(StateMaker, Protocol):
    """What a search borrows from a training run."""

    @property
    def metric(self) -> str:
        """The dev score that choices are made by."""

    def train_head(self, model: BertCNN, states: States, name: str) -> Scored:
        """Train a network's head on states, in a folder of this name."""


class DepthSearch:
    """Tries each depth of an encoder, or half and all: trains a head on the states that each gives.

    Args:
        trainer: Builds, encodes, trains.
        settings: With ``depth = "auto"`` or ``"half-or-all"``.
        tokenizer: Of the encoder.
        whole: Configuration of the network with all layers.
        pieces: All texts to encode.
        learned: The rows of ``pieces`` that are learned from and chosen on, int64 ``(N,)``, and the truth about them.
        dev_texts: How many of them the choice is made by; where those are few, by all.
        text: What is timed.
        console: Where each trial is shown.

    Raises:
        SettingsError: The encoder has no layers.
    """

    def __init__(
        self,
        trainer: HeadTrainer,
        settings: Settings,
        tokenizer: PieceTokenizer,
        *,
        whole: BertCNNConfig,
        pieces: Pieces,
        learned: tuple[Ints, Truth],
        dev_texts: int,
        text: str,
        console: Console,
    ) -> None:
        self.trainer, self.settings, self.tokenizer = trainer, settings, tokenizer
        self.text, self.learned, self.dev_texts, self.console = text, learned, dev_texts, console
        self.depths, self.layers = depths_of(settings, whole), whole.num_hidden_layers
        self.states = LayerStates(trainer, settings, tokenizer, pieces=pieces, whole=whole, console=console)
        self.warnings: dict[Trial, list[str]] = {}
        self._right: list[Floats64] = []  # of half, and of all

    def run(self) -> DepthCurve:
        """Try the depths, and where there is a budget fewer filters at those that are too slow.

        Raises:
            SettingsError: Nothing answers within the budget.
        """
        model, training, metric = self.settings.model, self.settings.training, self.trainer.metric
        plan = self._in_time() if training.budget_ms else [(depth, model.num_filters, None) for depth in self.depths]
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

    def _try(self, depth: int, num_filters: int, pace: Pace | None) -> Trial:
        model = self.trainer.build(at(self.settings, depth, num_filters))
        pace = pace or self._pace(model)
        states = self.states.of(model)
        scored = self.trainer.train_head(model, states, name_of(depth, num_filters))
        if self.settings.model.depth == "half-or-all" and self.dev_texts < FEW_TEXTS:
            rows, truth = self.learned
            self._right.append(right_answers(_means(states, rows), truth))
        trial = Trial(depth, num_filters, scored.score, scored.seconds, pace.latency_ms, pace.backend)
        self.warnings[trial] = scored.warnings
        self.console.print(
            f"  depth {depth} of {self.layers}, {num_filters} filters: dev {self.trainer.metric} {trial.score:.3f}, "
            f"{trial.seconds:.1f} s, {pace.latency_ms:.1f} ms a text by {pace.backend}",
            highlight=False,
        )
        return trial

    def _in_time(self) -> list[tuple[int, int, Pace | None]]:
        """Time each depth, and where it is too slow half and a quarter of the filters, before anything is trained.

        Returns:
            What to try: depth, filters and pace; each depth with all filters, for the curve, and then those
            with the most fewer filters that answer in time.

        Raises:
            SettingsError: Nothing answers within the budget.
        """
        given, budget = self.settings.model.num_filters, self.settings.training.budget_ms
        full: list[tuple[int, int, Pace | None]] = []
        fewer: list[tuple[int, int, Pace | None]] = []
        timed: list[tuple[float, int, int, str]] = []
        in_reach = True  # a deeper one is no faster
        for depth in self.depths:
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


def _means(states: States, rows: Ints) -> Floats32:
    """Return the mean of each text's states, ``(N, S)``."""
    return np.stack([mean_state(states[row]) for row in rows])


def median_text(texts: Sequence[str], lengths: Ints) -> str:
    """Return the text of median length; ``lengths`` in pieces, int64 ``(N,)``."""
    return texts[int(np.argsort(lengths, kind="stable")[len(lengths) // 2])]
