"""What a plain BERT classifier reads instead of windows: the mean of a text's states, or the first.

They are here to be compared with :class:`~bertcnn.network.cnn.TextCNN`, and answer as it does.
"""

from typing import Literal

import torch
from torch import Tensor, nn


class StatePool(nn.Module):
    """States to one vector a text.

    Args:
        hidden_size: Width of the states, D.
        kind: ``mean`` of all states of a text, or its ``first`` ([CLS] in BERT).
    """

    def __init__(self, hidden_size: int, kind: Literal["mean", "first"]) -> None:
        super().__init__()
        self.kind = kind
        self.num_features = hidden_size

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool ``(B, T, D)`` to features ``(B, D)``; no window wins, so positions are -1."""
        kept = mask.bool()[..., None]
        if self.kind == "first":
            first = kept.int().argmax(dim=1, keepdim=True).expand(-1, 1, states.shape[2])  # padding may be on the left
            features = (states * kept).gather(1, first).squeeze(1)
        else:
            counts = kept.sum(dim=1).clamp(min=1)
            # Half precision would overflow over some thousand pieces.
            wide = torch.promote_types(states.dtype, torch.float32)
            features = ((states * kept).sum(dim=1, dtype=wide) / counts).to(states.dtype)
        return features, torch.full(features.shape, -1, dtype=torch.long, device=states.device)
