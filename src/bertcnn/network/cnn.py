"""The convolution over a text's states. Knows only torch.

Size letters: B texts, T pieces, D width of a state, F filters a width, W widths, P windows.

Source:
    Kim (2014), "Convolutional Neural Networks for Sentence Classification", sec. 2.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        find: Find = strongest_windows
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            find = cast(Find, _StrongestWindows.apply)
        best, positions = find(states, self.weight, mask.bool(), self.num_filters, self.kernel_sizes)
        return functional.relu(best + self.bias), positions


Find = Callable[[Tensor, Tensor, Tensor, int, tuple[int, ...]], tuple[Tensor, Tensor]]


def strongest_windows(
    states: Tensor, weight: Tensor, mask: Tensor, num_filters: int, kernel_sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return each filter's greatest response, before its bias, and the window's first piece.

    Args:
        states: Float ``(B, T, D)``, T at least the greatest width.
        weight: Of :class:`TextCNN`, float ``(sum(kernel_sizes) * F, D)``.
        mask: True where there is a piece, bool ``(B, T)``.
        num_filters: Filters of each width, F.
        kernel_sizes: Window widths.

    Returns:
        Responses, float ``(B, F * W)``, -inf where no window fits, and positions, int64, -1 there.
    """
    products = functional.linear(states, weight)
    responses, positions = [], []
    place = 0
    for width in kernel_sizes:
        windows = products.shape[1] - width + 1
        scores = products[:, :windows, place : place + num_filters]
        inside = mask[:, :windows]
        for shift in range(1, width):
            place += num_filters
            at_place = products[:, shift : shift + windows, place : place + num_filters]
            scores = scores + at_place if shift == 1 else scores.add_(at_place)
            inside = inside & mask[:, shift : shift + windows]
        place += num_filters
        outside = ~inside[:, :, None]
        # A width of one still looks into the products; others have a sum of their own to write to.
        scores = scores.masked_fill(outside, -torch.inf) if width == 1 else scores.masked_fill_(outside, -torch.inf)
        best, where = scores.max(dim=1)
        responses.append(best)
        positions.append(where.masked_fill(~inside.any(dim=1, keepdim=True), -1))
    return torch.cat(responses, dim=1), torch.cat(positions, dim=1)


class _StrongestWindows(torch.autograd.Function):
    """:func:`strongest_windows` with a backward pass over the winning windows alone.

    One window of each filter has a gradient; going back through all of them, as the plain
    operations do, costs three to five times as much.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, mask: Tensor, num_filters: int, kernel_sizes: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        best, positions = strongest_windows(states, weight, mask, num_filters, kernel_sizes)
        ctx.save_for_backward(states, weight, positions)
        ctx.sizes = num_filters, kernel_sizes
        ctx.mark_non_differentiable(positions)
        return best, positions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, positions = ctx.saved_tensors
        num_filters, kernel_sizes = ctx.sizes
        grad = grad.masked_fill(positions < 0, 0).to(weight.dtype)
        texts, pieces, width_of_state = states.shape
        begins = pieces * torch.arange(texts, device=states.device)[:, None]
        met, shares = [], []  # for each row of the weights, the piece it met in each text and the gradient, (B, rows)
        for i, width in enumerate(kernel_sizes):
            filters = slice(i * num_filters, (i + 1) * num_filters)
            where = begins + positions[:, filters].clamp(min=0)
            met += [where + shift for shift in range(width)]
            shares += [grad[:, filters]] * width
        piece, share = torch.cat(met, dim=1), torch.cat(shares, dim=1)
        grad_states = grad_weight = None
        # Both are sums of few vectors each, which is what an embedding bag is, in one operation.
        if ctx.needs_input_grad[1]:
            flat = states.reshape(-1, width_of_state).to(weight.dtype)
            grad_weight = functional.embedding_bag(
                piece.t().contiguous(), flat, mode="sum", per_sample_weights=share.t().contiguous()
            )
        if ctx.needs_input_grad[0]:
            by_piece = piece.flatten().argsort(stable=True)
            counts = torch.bincount(piece.flatten(), minlength=texts * pieces)
            rows = by_piece % len(weight)
            grad_states = functional.embedding_bag(
                rows, weight, counts.cumsum(0) - counts, mode="sum", per_sample_weights=share.flatten()[by_piece]
            )
            grad_states = grad_states.view_as(states).to(states.dtype)
        return grad_states, grad_weight, None, None, None
