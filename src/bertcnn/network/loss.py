"""What a head is trained to lower, for one label a text or many."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bertcnn.network.folder import MULTI, REGRESSION, SINGLE

IGNORED = -100
"""The label of a text that does not count, as in Hugging Face's models."""
SUREST = 1e-6
"""What is left to the surest answer: at 0 a power below 1 is infinitely steep."""


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    problem_type: str | None = None,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: Float ``(B, K)``.
        labels: One label a text: class ids, integers ``(B,)``, -100 for a text that does not count; cross entropy
            over a softmax. Many: 0 or 1 for each label, ``(B, K)``, binary cross entropy over sigmoids.
            Regression: numbers, as many as logits; mean squared error, to which nothing below applies.
        problem_type: Which of these, in Hugging Face's names; None: told by the labels.
        class_weights: K factors. One label: of each text by its class, the mean weighted alike.
            Many: of each label where it holds.
        focal_gamma: Exponent of ``(1 - p)``, p the probability of the truth; 0 turns it off.
        label_smoothing: Share of the target spread over all classes, in [0, 1).

    Returns:
        A scalar.

    Raises:
        ValueError: The labels are not what the problem needs.

    Source:
        Lin et al. (2017), "Focal Loss for Dense Object Detection", eq. 4;
        Szegedy et al. (2016), "Rethinking the Inception Architecture", sec. 7.
    """
    problem = problem_type or _problem_of(logits, labels)
    if problem not in {SINGLE, MULTI, REGRESSION}:
        raise ValueError(f"problem_type is {problem!r}, expected {SINGLE!r}, {MULTI!r} or {REGRESSION!r}.")
    wanted = labels.numel() == (len(logits) if problem == SINGLE else logits.numel())
    if not wanted or (problem == SINGLE and labels.is_floating_point()):
        shape = f"class ids, int64 ({len(logits)},)" if problem == SINGLE else f"numbers, {tuple(logits.shape)}"
        raise ValueError(f"Got labels of {labels.dtype} {tuple(labels.shape)}, expected for {problem}: {shape}.")
    if problem == REGRESSION:
        return functional.mse_loss(logits, labels.to(logits.dtype).view_as(logits))
    weights = (
        None if class_weights is None else torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    )
    if problem == MULTI:
        target = labels.to(logits.dtype).view_as(logits)
        smoothed = target * (1 - label_smoothing) + label_smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
        if focal_gamma:
            right = torch.sigmoid(torch.where(target > 0.5, logits, -logits))
            loss = loss * (1 - right).clamp(min=SUREST) ** focal_gamma
        if weights is not None:
            loss = torch.where(target > 0.5, loss * weights, loss)
        return loss.mean()
    ids = labels.reshape(-1).long()
    counts = ids != IGNORED
    ids = ids.clamp(min=0)
    loss = functional.cross_entropy(logits, ids, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        right = logits.softmax(dim=-1).gather(1, ids[:, None]).squeeze(1)
        loss = loss * (1 - right).clamp(min=SUREST) ** focal_gamma
    factors = counts.to(loss.dtype) if weights is None else weights[ids] * counts
    return (loss * factors).sum() / factors.sum()


def _problem_of(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[1] == 1:
        return REGRESSION
    return MULTI if labels.numel() == logits.numel() else SINGLE
