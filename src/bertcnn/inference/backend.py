"""What runs a network for the predictor: torch, or ONNX Runtime. Loads neither.

A backend turns a batch of pieces into the convolution's features; the linear layer on top is
small, and is the predictor's, so that the features of a long text's segments can be put together.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from bertcnn.arrays import Floats32, Ints
from bertcnn.errors import ModelError
from bertcnn.network.folder import MULTI, read_config
from bertcnn.text.tokens import Batch, Pieces, Windowing, make_batch, plan_batches

NO_FILTERS = "This model has a plain linear head and no filters. Train one with features = 'windows', the default."


@dataclass(frozen=True)
class Spec:
    """What a predictor must know of a model, whatever runs it.

    Attributes:
        labels: Names, in the order of the logits.
        is_multi_label: A text can have many labels, or none.
        thresholds: Probability from which a label holds; many labels a text only.
        windowing: How long texts are cut for the encoder.
        kernel_sizes: Window widths of the convolution, in pieces; empty where there is none.
    """

    labels: tuple[str, ...]
    is_multi_label: bool
    thresholds: tuple[float, ...] | None
    windowing: Windowing
    kernel_sizes: tuple[int, ...]

    @property
    def reach(self) -> int | None:
        """Pieces that segments of a long text must share; None where it cannot be read in segments."""
        return max(self.kernel_sizes) - 1 if self.kernel_sizes else None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Return what a configuration says: that of a model, or ``config.json`` read without transformers.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It lacks something.
        """
        # transformers leaves out names that are its default ones.
        names = {int(i): str(name) for i, name in config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"}).items()}
        return cls(
            labels=tuple(names[i] for i in range(len(names))),
            is_multi_label=config["problem_type"] == MULTI,
            thresholds=None if config["thresholds"] is None else tuple(config["thresholds"]),
            windowing=Windowing(
                config["window_length"], config["window_overlap"], config["num_prefix"], config["num_suffix"]
            ),
            kernel_sizes=tuple(config["kernel_sizes"]) if config["features"] == "windows" else (),
        )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Return what ``config.json`` of a model folder says.

        Raises:
            ModelError: It is missing, broken, or lacks something.
        """
        try:
            return cls.of(read_config(folder))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"config.json of {folder} lacks {error}. Copy the whole folder again.") from error


class Pooled(NamedTuple):
    """What the convolution found in a batch.

    Attributes:
        batch: Its texts, or segments of long ones.
        features: ``(B, M)``, each >= 0.
        positions: The first piece of each feature's window in its row, ``(B, M)``; -1 where there is none.
        states: What it read, ``(B, T, S)``, where they were asked for; behind the end of a row, anything.
    """

    batch: Batch
    features: Floats32
    positions: Ints
    states: Floats32 | None = None


class Backend(ABC):
    """Something that runs a network.

    Attributes:
        name: ``torch``, ``onnx`` or ``onnx-int8``.
        max_tokens: Padded pieces of a batch that suit it.
        overhead_tokens: Pieces that it could compute in the time that a batch takes whatever its size.
        segment_windows: Encoder windows of a long text that it takes at once.
    """

    name: str
    max_tokens: int
    overhead_tokens: int
    segment_windows: int

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """What the predictor must know."""

    @property
    @abstractmethod
    def classifier(self) -> tuple[Floats32, Floats32]:
        """The linear layer: weights ``(K, M)`` and biases ``(K,)``, M the features."""

    def batches(
        self, pieces: Pieces, *, pad_id: int, max_tokens: int | None = None, whole: bool = False
    ) -> Iterator[Batch]:
        """Join texts into batches of like length that suit it.

        Args:
            pieces: The texts.
            pad_id: Piece to fill up with.
            max_tokens: Padded pieces of a batch; None: :attr:`max_tokens`.
            whole: Whether long texts stay in one row, instead of being cut into segments.
        """
        plans = plan_batches(
            pieces.lengths,
            self.spec.windowing,
            max_tokens=max_tokens or self.max_tokens,
            overhead_tokens=self.overhead_tokens,
            reach=None if whole else self.spec.reach,
            segment_windows=self.segment_windows,
        )
        return (make_batch(pieces, parts, pad_id=pad_id) for parts in plans)

    @abstractmethod
    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        """Yield what is found in each batch, in one run of the network each."""

    def states(self, batch: Batch) -> Floats32:
        """Return what the convolution reads of a batch, ``(B, T, S)``; where a row is shorter, anything."""
        (found,) = self.run([batch], with_states=True)
        assert found.states is not None, "they were asked for"
        return found.states

    @property
    @abstractmethod
    def filters(self) -> tuple[Floats32, Floats32]:
        """The convolution: weights ``(sum(kernel_sizes) * F, D)`` and biases ``(M,)``, as in ``TextCNN``.

        Raises:
            ModelError: The model has a plain linear head.
        """


class WrappedBackend(Backend):
    """Another backend, with something changed. Where nothing is said, it is the other one's.

    Args:
        inner: What runs the network.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name, self.segment_windows = inner.name, inner.segment_windows
        self.max_tokens, self.overhead_tokens = inner.max_tokens, inner.overhead_tokens

    @property
    def spec(self) -> Spec:
        """What the predictor must know."""
        return self.inner.spec

    @property
    def classifier(self) -> tuple[Floats32, Floats32]:
        """The linear layer."""
        return self.inner.classifier

    @property
    def filters(self) -> tuple[Floats32, Floats32]:
        """The convolution."""
        return self.inner.filters

    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        """Yield what is found in each batch."""
        return self.inner.run(batches, with_states=with_states)
