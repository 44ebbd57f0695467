"""Soft Dice, ``1 - 2 |P Y| / (|P| + |Y|)`` (Milletari et al. 2016, arXiv:1606.04797)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from delineate.losses._common import EPSILON, Term, annotated, one_hot, pooled

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of soft Dice."""

    background: bool = field(default=False, metadata={"help": "count the background as a class"})
    pool: Literal["batch", "case"] = field(
        default="batch", metadata={"help": "sum over the batch before dividing, or case by case"}
    )


def soft_dice(
    probabilities: Tensor, target: Tensor, background: bool = False, per_case: bool = False
) -> Tensor:
    """``1 - Dice`` pooled over the batch, mean over foreground channels.

    Args:
        probabilities: ``(B, C, *S)``, background first.
        target: ``(B, C, *S)`` one-hot.
        background: Whether channel 0 counts too.
        per_case: Whether every case has its own ratio.
    """
    axes = pooled(probabilities)[1:] if per_case else pooled(probabilities)
    first = 0 if background else 1
    overlap = (probabilities * target).sum(axes)[..., first:]
    total = (probabilities + target).sum(axes)[..., first:]
    return 1 - ((2 * overlap + EPSILON) / (total + EPSILON)).mean()


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Soft Dice of the softmax.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Not used.
    """
    config, logits = config or Config(), logits.float()  # sums over a patch need more than 8 bits
    target = one_hot(label, logits)
    probabilities = logits.softmax(1) * annotated(label, logits)
    return soft_dice(probabilities, target, config.background, config.pool == "case")
