"""Run a network by torch, on the device it is on."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from bertcnn.arrays import Floats32
from bertcnn.errors import ModelError
from bertcnn.inference.backend import NO_FILTERS, Backend, Pooled, Spec
from bertcnn.network.cnn import TextCNN
from bertcnn.network.model import BertCNN
from bertcnn.network.products import products
from bertcnn.network.states import batch_sizes, batch_states
from bertcnn.text.tokens import SEGMENT_WINDOWS, Batch


class TorchBackend(Backend):
    """A :class:`~bertcnn.network.model.BertCNN` in evaluation mode.

    Args:
        model: On the device it shall run on.
        bf16: Whether its encoder multiplies bfloat16 numbers; the convolution and the linear layer never do.
    """

    segment_windows = SEGMENT_WINDOWS

    def __init__(self, model: BertCNN, *, bf16: bool = False) -> None:
        self.model = model.eval()
        self.bf16 = bf16

    @property
    def name(self) -> str:  # type: ignore[override]  # it says how the encoder computes
        """``torch`` or ``torch-bf16``."""
        return "torch-bf16" if self.bf16 else "torch"

    @property
    def max_tokens(self) -> int:  # type: ignore[override]  # a model may be moved to another device
        """Padded pieces of a batch that suit the device."""
        return batch_sizes(self.model)[0]

    @property
    def overhead_tokens(self) -> int:  # type: ignore[override]  # likewise
        """Pieces that the device could compute in the time that a batch takes whatever its size."""
        return batch_sizes(self.model)[1]

    @property
    def spec(self) -> Spec:
        """What the model's configuration says now."""
        return Spec.of(vars(self.model.config))

    @property
    def classifier(self) -> tuple[Floats32, Floats32]:
        """The linear layer's weights and biases as they are now."""
        return _arrays(self.model.head.classifier)

    @property
    def filters(self) -> tuple[Floats32, Floats32]:
        """The convolution's weights and biases as they are now."""
        cnn = self.model.head.cnn
        if not isinstance(cnn, TextCNN):
            raise ModelError(NO_FILTERS)
        return _arrays(cnn)

    @torch.inference_mode()
    def run(self, batches: Iterable[Batch], *, with_states: bool = False) -> Iterator[Pooled]:
        """Yield what is found in each batch, a batch later than computed: a GPU is not waited for between batches."""
        self.model.eval()
        within = products(self.model.device, bf16=self.bf16)
        waiting: tuple[Batch, Tensor, Tensor, Tensor | None] | None = None
        for batch in batches:
            states = self.model.head.mix(batch_states(self.model, batch, self.max_tokens, within=within))
            mask = torch.from_numpy(batch.source_mask).to(states.device)
            found = (batch, *self.model.head.cnn(states, mask), states if with_states else None)
            if waiting is not None:
                yield _fetched(*waiting)
            waiting = found
        if waiting is not None:
            yield _fetched(*waiting)


def _arrays(layer: nn.Linear | TextCNN) -> tuple[Floats32, Floats32]:
    weight, bias = (tensor.detach().float().cpu().numpy() for tensor in (layer.weight, layer.bias))
    return weight, bias


def _fetched(batch: Batch, features: Tensor, positions: Tensor, states: Tensor | None) -> Pooled:
    return Pooled(
        batch,
        features.float().cpu().numpy(),
        positions.cpu().numpy().astype(np.int64, copy=False),
        None if states is None else states.float().cpu().numpy(),
    )
