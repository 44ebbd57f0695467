"""Binary cross-entropy of every class, S1's reconstruction loss in its sound form (A2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def loss(logits: Tensor, label: Tensor) -> Tensor:
    """``-(1/NC) sum [Y log p + (1 - Y) log(1 - p)]`` on sigmoid outputs.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
    """
    target = torch.zeros_like(logits).scatter_(1, label.long().unsqueeze(1), 1.0)
    return F.binary_cross_entropy_with_logits(logits, target)
