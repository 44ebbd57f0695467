"""Soft Dice and cross-entropy, the reference segmentation loss (Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from delineate.losses import cross_entropy, dice
from delineate.losses._common import EPSILON, Term
from delineate.losses._sum import deep
from delineate.losses.dice import soft_dice

__all__ = ["EPSILON", "KIND", "Config", "deep", "loss", "soft_dice"]

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of Dice + cross-entropy; each alone can be told more."""


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Dice + cross-entropy.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings.
        spacing_mm: Not used.
    """
    logits = logits.float()
    return dice.loss(logits, label) + cross_entropy.loss(logits, label)
