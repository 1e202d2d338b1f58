"""The states that heads at several depths read: of one pass over the whole encoder, where that can be."""

import os
import shutil
from typing import Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from bertcnn.errors import SettingsError
from bertcnn.network.config import BertCNNConfig
from bertcnn.network.encoder import states_count
from bertcnn.network.model import BertCNN
from bertcnn.network.states import States, cache_folder, stream_states
from bertcnn.settings import Settings, change
from bertcnn.text.tokens import Pieces, PieceTokenizer

SIDE_BY_SIDE_BYTES = 4_000_000_000
"""Most that the states of all layers may take together. A page of the file holds several layers, so an epoch
on one of them reads all: what does not stay in memory would be read from disk again in every epoch."""

PROBE_TEXTS = 8


class StateMaker(Protocol):
    """What builds networks and encodes all texts of a training run."""

    def build(self, settings: Settings) -> BertCNN:
        """Make the untrained network that settings describe, the same each time."""

    def encode(self, model: BertCNN) -> States:
        """Return the states of all texts by a network's encoder."""


class LayerStates:
    """States of an encoder that is cut at several depths.

    With ``depth = "auto"`` the whole encoder runs once, and those of each depth are columns of what it gives. An
    encoder that does more behind its last layer (a norm, as in ModernBERT) is found out on a few texts, and then each
    depth runs by itself; and so it does where the states of all layers would take more than
    :data:`SIDE_BY_SIDE_BYTES` or half of the free disk, and for half and all alone, which the cache keeps one by one.

    Args:
        maker: Builds and encodes.
        settings: Of the run.
        tokenizer: Of the encoder.
        pieces: All texts to encode.
        whole: Configuration of the network with all layers.
        console: Where it is said that the encoder runs once for each depth.
    """

    def __init__(
        self,
        maker: StateMaker,
        settings: Settings,
        tokenizer: PieceTokenizer,
        *,
        pieces: Pieces,
        whole: BertCNNConfig,
        console: Console,
    ) -> None:
        self._maker, self._settings, self._console = maker, settings, console
        self._pieces, self._pad_id = pieces, tokenizer.pad_id
        self._lowest = 1 if states_count(whole.encoder, whole.states) == 1 else 0
        self._count = whole.num_hidden_layers + 1 - self._lowest
        self._is_side_by_side = settings.model.depth == "auto"
        self._whole: BertCNN | None = None  # until it has run
        self._probes: list[Tensor] = []  # of it
        self._states: States | None = None  # likewise
        needed = 2 * len(pieces.ids) * whole.hidden_size * self._count
        if self._is_side_by_side and needed > min(SIDE_BY_SIDE_BYTES, _free_bytes(settings) // 2):
            self._run_apart(f"the states of all layers would take {needed / 1e9:.1f} GB")

    def of(self, model: BertCNN) -> States:
        """Return the states that a cut network's head reads: columns of the whole one's, or its own."""
        columns = self._columns(model.config)
        if self._is_side_by_side and not self._agrees(model, columns):
            self._run_apart("this encoder does more behind its last layer")
        if not self._is_side_by_side:
            return self._maker.encode(model)
        if self._states is None:
            self._states = self._maker.encode(self._whole or self._build_whole())
            self._whole = None
        return States(self._states.values[:, columns], self._states.starts, self._states.seconds)

    def _run_apart(self, why: str) -> None:
        self._is_side_by_side, self._whole = False, None
        self._console.print(f"  The encoder runs once for each depth: {why}.", highlight=False)

    def _columns(self, config: BertCNNConfig) -> slice:
        """Return where the states that a cut network reads stand among those of all layers."""
        end = config.num_hidden_layers + 1 - self._lowest
        start = end - states_count(config.encoder, config.states)
        return slice(start * config.hidden_size, end * config.hidden_size)

    def _agrees(self, model: BertCNN, columns: slice) -> bool:
        """Return whether a cut encoder's states are these columns of the whole one's, on a few texts."""
        if not self._probes:
            self._whole = self._build_whole()
            self._probes = self._probe(self._whole)
        pairs = [(own, whole[..., columns]) for own, whole in zip(self._probe(model), self._probes, strict=True)]
        return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

    def _build_whole(self) -> BertCNN:
        return self._maker.build(change(at(self._settings, "all"), {"states": f"concat-{self._count}"}))

    def _probe(self, model: BertCNN) -> list[Tensor]:
        """Return a model's states of a few texts, evenly spread."""
        rows = np.unique(np.linspace(0, len(self._pieces) - 1, PROBE_TEXTS).astype(int))
        some = Pieces.of([self._pieces[row] for row in rows.tolist()])
        return [states.cpu() for _, states in stream_states(model, some, pad_id=self._pad_id)]


def at(settings: Settings, depth: int | str, num_filters: int | None = None) -> Settings:
    """Return the settings of one trial, as if the user had given its depth."""
    filters = settings.model.num_filters if num_filters is None else num_filters
    return change(settings, {"depth": depth, "num_filters": filters, "budget_ms": 0.0})


def depths_of(settings: Settings, whole: BertCNNConfig) -> list[int]:
    """Return the depths to try: all at which the layers are there that the head shall read, or half and all of them.

    Raises:
        SettingsError: The encoder has no layers.
    """
    layers = whole.num_hidden_layers
    if not layers:
        raise SettingsError(
            f"depth is {settings.model.depth!r}, but a {whole.encoder.model_type} encoder has no layers to choose "
            "from. Give --depth all."
        )
    depths = range(1, layers + 1) if settings.model.depth == "auto" else ((layers + 1) // 2, layers)
    wanted = whole.states.removeprefix("concat-")
    return [depth for depth in depths if not wanted.isdigit() or int(wanted) <= depth + 1]


def _free_bytes(settings: Settings) -> int:
    """Return what is free where encoder states are kept."""
    cache = cache_folder(settings.training.cache).absolute()
    there = next(place for place in (cache, *cache.parents) if os.path.exists(place))
    return shutil.disk_usage(there).free
