"""How deep is enough: a head on the states of each depth, or of half and all, and the smallest as good as the best.

What builds a network and trains a head is handed in by :mod:`bertcnn.training.train`; here is what
is tried, what is timed, and what is taken.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from torch import Tensor

from bertcnn.errors import SettingsError
from bertcnn.network.config import BertCNNConfig
from bertcnn.network.encoder import states_count
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, cache_folder, stream_states
from bertcnn.settings import Settings, change
from bertcnn.text.tokens import Pieces, PieceTokenizer
from bertcnn.training.pace import Pace, pace_of

SIDE_BY_SIDE_BYTES = 4_000_000_000
"""Most that the states of all layers may take together. A page of the file holds several layers, so an epoch
on one of them reads all: what does not stay in memory would be read from disk again in every epoch."""

PROBE_TEXTS = 8
POINT = 0.01


@dataclass(frozen=True)
class Trial:
    """One network that was tried.

    Attributes:
        depth: Encoder layers.
        num_filters: Of each window width.
        score: Best dev score of its head.
        seconds: Its head's training took, without encoding.
        latency_ms: Of one text alone, median of some runs; of the training text of median length.
        backend: By which it is: torch, or where that is over the budget a graph.
    """

    depth: int
    num_filters: int
    score: float
    seconds: float
    latency_ms: float
    backend: str = "torch"

    @property
    def name(self) -> str:
        """What its folder of checkpoints is called."""
        return name_of(self.depth, self.num_filters)


def name_of(depth: int, num_filters: int) -> str:
    """Return the name of the folder of checkpoints of a trial."""
    return f"depth-{depth}-{num_filters}"


@dataclass(frozen=True)
class DepthCurve:
    """What a search found.

    Attributes:
        metric: What ``score`` of the trials is.
        tolerance: Points (hundredths) that the chosen one may be below the best; of ``half-or-all`` the best one's
            standard error.
        budget_ms: Most that one text was allowed to take; 0: no limit.
        timed_pieces: Word pieces of the text that was timed.
        trials: By depth; where there was a budget, those with fewer filters behind.
        chosen: The one that was taken.
        warnings: Signs of failure in the chosen one's training.
    """

    metric: str
    tolerance: float
    budget_ms: float
    timed_pieces: int
    trials: tuple[Trial, ...]
    chosen: Trial
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        return asdict(self)

    def write(self, file: Path) -> None:
        """Write as JSON; the file appears when it is whole."""
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")
        draft.replace(file)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what :meth:`write` wrote."""
        values = json.loads(file.read_text("utf-8"))
        trials = tuple(Trial(**one) for one in values.pop("trials"))
        chosen, warnings = Trial(**values.pop("chosen")), tuple(values.pop("warnings"))
        return cls(trials=trials, chosen=chosen, warnings=warnings, **values)

    @property
    def why(self) -> str:
        """Why the chosen one was taken, in a sentence."""
        if self.budget_ms:
            return (
                f"Depth {self.chosen.depth} with {self.chosen.num_filters} filters has the best dev {self.metric} of "
                f"what answers within {self.budget_ms:g} ms, by {self.chosen.backend}."
            )
        best = _best(self.trials, self.metric)
        return (
            f"Depth {self.chosen.depth} is the smallest with a dev {self.metric} within {self.tolerance:.2g} points "
            f"of the best ({best.score:.3f}, depth {best.depth})."
        )

    def table(self) -> str:
        """Return the trials as a Markdown table, the chosen one in bold."""
        lines = [
            f"| depth | filters | dev {self.metric} | head trained in, s | one text, ms | by |",
            "|---|---|---|---|---|---|",
        ]
        for one in self.trials:
            mark = "**" if one == self.chosen else ""
            scores = (f"{one.score:.3f}", f"{one.seconds:.1f}", f"{one.latency_ms:.1f}")
            cells = (one.depth, one.num_filters, *scores, one.backend)
            lines.append("| " + " | ".join(f"{mark}{cell}{mark}" for cell in cells) + " |")
        return "\n".join(lines)


def choose(trials: Sequence[Trial], *, metric: str, tolerance: float, budget_ms: float) -> Trial:
    """Return the trial to take.

    Without a budget that is the smallest depth whose score is within the tolerance of the best.
    With one it is the best score of those that answer in time, the quickest of equals.

    Args:
        trials: Scored; at least one within the budget.
        metric: What the scores are; all but ``log_loss`` are better the greater.
        tolerance: Points, hundredths of the score.
        budget_ms: Most milliseconds; 0: no limit.
    """
    if budget_ms:
        quick = [one for one in trials if one.latency_ms <= budget_ms]
        return max(quick, key=lambda one: (_goodness(one, metric), -one.latency_ms))
    # Differences of scores are not exact: 0.90 - 0.897 is a little more than 0.003.
    enough = _goodness(_best(trials, metric), metric) - tolerance * POINT - 1e-9
    return min((one for one in trials if _goodness(one, metric) >= enough), key=lambda one: one.depth)


def standard_error(share: float, count: int) -> float:
    """Return how far a share of so many texts is off, as a rule; also about that of a mean of shares, such as macro F1.

    A simpler model within one standard error of the best is taken for as good.

    Source:
        Breiman et al. (1984), "Classification and Regression Trees", sec. 3.4.3.

    >>> round(standard_error(0.9, 400), 3)
    0.015
    """
    return math.sqrt(share * (1 - share) / count)


def layers_of(config: BertCNNConfig) -> int:
    """Return how many layers an encoder has; 0: none that could be cut."""
    return int(getattr(config.encoder, "num_hidden_layers", 0))


def _goodness(trial: Trial, metric: str) -> float:
    return -trial.score if metric == "log_loss" else trial.score


def _best(trials: Sequence[Trial], metric: str) -> Trial:
    return max(trials, key=lambda one: _goodness(one, metric))


@dataclass(frozen=True)
class Scored:
    """A head that was trained: its best dev score, seconds of training, and signs of failure."""

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
        dev_texts: By how many texts the choice is made.
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
        dev_texts: int,
        text: str,
        console: Console,
    ) -> None:
        self.trainer, self.settings, self.tokenizer = trainer, settings, tokenizer
        self.pieces, self.dev_texts, self.text, self.console = pieces, dev_texts, text, console
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
            tolerance = standard_error(_best(trials, metric).score, self.dev_texts) / POINT
        chosen = choose(trials, metric=metric, tolerance=tolerance, budget_ms=training.budget_ms)
        return DepthCurve(
            metric=metric,
            tolerance=tolerance,
            budget_ms=training.budget_ms,
            timed_pieces=int(self.tokenizer([self.text]).lengths[0]),
            trials=tuple(trials),
            chosen=chosen,
            warnings=tuple(self.warnings[chosen]),
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
        scored = self.trainer.train_head(model, self.states(model), name_of(depth, num_filters))
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
        self._layers = layers_of(whole)
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
        return [states.cpu() for _, states in stream_states(model, some, pad_id=self.tokenizer.pad_id, reach=0)]


def at(settings: Settings, depth: int | str, num_filters: int | None = None) -> Settings:
    """Return the settings of one trial, as if the user had given its depth."""
    filters = settings.model.num_filters if num_filters is None else num_filters
    return change(settings, {"depth": depth, "num_filters": filters, "budget_ms": 0.0})


def _can_read(states: str, depth: int) -> bool:
    """Return whether a network of this depth has the layers that the head shall read."""
    wanted = states.removeprefix("concat-")
    return not wanted.isdigit() or int(wanted) <= depth + 1


def median_text(texts: Sequence[str], lengths: npt.NDArray[np.int64]) -> str:
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
