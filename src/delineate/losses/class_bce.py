"""Binary cross-entropy of every class, S1's reconstruction loss in its sound form (A2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from delineate.losses._common import Term, mean, one_hot

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of the cross-entropy of classes."""


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """``-(1/NC) sum [Y log p + (1 - Y) log(1 - p)]`` on sigmoid outputs.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; there are none beside the weight.
        spacing_mm: Not used.
    """
    logits = logits.float()
    per_voxel = F.binary_cross_entropy_with_logits(logits, one_hot(label, logits), reduction="none")
    return mean(per_voxel, label)
