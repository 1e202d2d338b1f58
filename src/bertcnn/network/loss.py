"""What a head is trained to lower, for one label a text or many."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean loss of a batch.

    Args:
        logits: Float ``(B, K)``.
        labels: One label a text: class ids, int64 ``(B,)``, cross entropy over a softmax. Many:
            0 or 1 for each label, float ``(B, K)``, binary cross entropy over sigmoids.
        class_weights: K factors. One label: of each text by its class, the mean weighted alike.
            Many: of each label where it holds.
        focal_gamma: Exponent of ``(1 - p)``, p the probability of the truth; 0 turns it off.
        label_smoothing: Share of the target spread over all classes, in [0, 1).

    Returns:
        A scalar.

    Source:
        Lin et al. (2017), "Focal Loss for Dense Object Detection", eq. 4;
        Szegedy et al. (2016), "Rethinking the Inception Architecture", sec. 7.
    """
    weights = (
        None if class_weights is None else torch.as_tensor(class_weights, dtype=logits.dtype, device=logits.device)
    )
    if labels.dim() == 2:
        target = labels.to(logits.dtype)
        smoothed = target * (1 - label_smoothing) + label_smoothing / 2
        loss = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
        if focal_gamma:
            right = torch.sigmoid(torch.where(target > 0.5, logits, -logits))
            loss = loss * (1 - right) ** focal_gamma
        if weights is not None:
            loss = torch.where(target > 0.5, loss * weights, loss)
        return loss.mean()
    loss = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if focal_gamma:
        right = logits.softmax(dim=-1).gather(1, labels[:, None]).squeeze(1)
        loss = loss * (1 - right) ** focal_gamma
    if weights is None:
        return loss.mean()
    factors = weights[labels]
    return (loss * factors).sum() / factors.sum()
