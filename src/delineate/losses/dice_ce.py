"""Soft Dice and cross-entropy, the reference segmentation loss (Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5


def soft_dice(probabilities: Tensor, target: Tensor) -> Tensor:
    """``1 - Dice`` pooled over the batch, mean over foreground channels.

    Args:
        probabilities: ``(B, C, *S)``, background first.
        target: ``(B, C, *S)`` one-hot.
    """
    axes = (0, *range(2, probabilities.ndim))
    overlap = (probabilities * target).sum(axes)[1:]
    total = (probabilities + target).sum(axes)[1:]
    return 1 - ((2 * overlap + EPSILON) / (total + EPSILON)).mean()


def loss(logits: Tensor, label: Tensor) -> Tensor:
    """Dice + cross-entropy.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
    """
    label, logits = label.long(), logits.float()  # sums over a patch need more than 8 or 11 bits
    target = torch.zeros_like(logits).scatter_(1, label.unsqueeze(1), 1.0)
    return soft_dice(logits.softmax(1), target) + F.cross_entropy(logits, label)


def deep(
    one: Callable[[Tensor, Tensor], Tensor], logits: Tensor | Sequence[Tensor], label: Tensor
) -> Tensor:
    """A loss over deep supervision's outputs, weights 1, 1/2, 1/4 ... normalised.

    Args:
        one: Loss of one output and labels of its size.
        logits: One tensor, or several with the finest first.
        label: ``(B, *S)`` indices at the finest resolution.
    """
    if isinstance(logits, Tensor):
        return one(logits, label)
    weights = [0.5**i for i in range(len(logits))]
    total = logits[0].new_zeros(())
    for weight, output in zip(weights, logits, strict=True):
        size = output.shape[2:]
        small = F.interpolate(label.unsqueeze(1).float(), size=size, mode="nearest")[:, 0]
        total = total + weight / sum(weights) * one(output, small)
    return total
