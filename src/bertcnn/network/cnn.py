"""The convolution over a text's states. Knows only torch.

Size letters: B texts, T pieces, D width of a state, F filters a width, W widths, P windows.

Source:
    Kim (2014), "Convolutional Neural Networks for Sentence Classification", sec. 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextCNN(nn.Module):
    """Several window widths, ReLU, max over time, side by side.

    A window counts only if it lies wholly inside the text, so the result does not depend on how
    far a batch was padded. A text too short for a width finds nothing there: feature 0,
    position -1.

    All widths are one matrix product: a window's response is the sum over its pieces of what each
    gives at its place in the window, so the products of all places of all widths are made once,
    ``(B, T, sum(kernel_sizes) * F)``, and windows are shifted sums of them. Bias and ReLU follow
    the maximum, which is the same, for both are monotone.

    Args:
        hidden_size: Width of the states, D.
        num_filters: Filters of each width, F.
        kernel_sizes: Window widths, in pieces.
    """

    def __init__(self, hidden_size: int, num_filters: int = 100, kernel_sizes: Sequence[int] = (3, 4, 5)) -> None:
        super().__init__()
        if num_filters < 1 or not kernel_sizes or min(kernel_sizes) < 1:
            raise ValueError(
                f"num_filters and kernel_sizes must be positive, got {num_filters} and {tuple(kernel_sizes)}."
            )
        self.hidden_size = hidden_size
        self.num_filters = num_filters
        self.kernel_sizes = tuple(kernel_sizes)
        # Rows: for each width, for each place in the window, F filters.
        self.weight = nn.Parameter(torch.empty(sum(self.kernel_sizes) * num_filters, hidden_size))
        self.bias = nn.Parameter(torch.empty(self.num_features))
        self.reset_parameters()

    @property
    def num_features(self) -> int:
        """Features that come out, ``F * W``, widths one after the other."""
        return self.num_filters * len(self.kernel_sizes)

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw new filters: normal weights, biases of zero."""
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the strongest response of each filter, and the window it came from.

        Args:
            states: One vector a piece, float ``(B, T, D)``.
            mask: True where there is a piece, bool ``(B, T)``.

        Returns:
            Features, float ``(B, F * W)``, each >= 0, and the first piece of the winning
            windows, int64 ``(B, F * W)``; -1 where no window fits into the text.
        """
        short = max(self.kernel_sizes) - states.shape[1]
        if short > 0:
            states = functional.pad(states, (0, 0, 0, short))
            mask = functional.pad(mask, (0, short))
        mask = mask.bool()
        products = functional.linear(states, self.weight)
        responses, positions = [], []
        place = 0
        for width in self.kernel_sizes:
            windows = products.shape[1] - width + 1
            scores, inside = None, None
            for shift in range(width):
                at_place = products[:, shift : shift + windows, place : place + self.num_filters]
                piece_is_real = mask[:, shift : shift + windows]
                scores = at_place if scores is None else scores + at_place
                inside = piece_is_real if inside is None else inside & piece_is_real
                place += self.num_filters
            assert scores is not None
            assert inside is not None
            best, where = scores.masked_fill(~inside[:, :, None], -torch.inf).max(dim=1)
            responses.append(best)
            positions.append(where.masked_fill(~inside.any(dim=1, keepdim=True), -1))
        return functional.relu(torch.cat(responses, dim=1) + self.bias), torch.cat(positions, dim=1)
