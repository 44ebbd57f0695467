"""Logarithm of the hyperbolic cosine of soft Dice (Jadon 2020, arXiv:2006.14822).

A loss of your own in one file. Copy it, change it, try it out with ``delineate check myloss.py``,
and name it in a file of settings, alone or beside others:

    method_settings:
      losses:
        myloss.py: 1
        cross_entropy: 0.5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from delineate.losses import Term, annotated, one_hot

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings; those of every loss (``weight``, ``warm_up``, ``ramp``) come with ``Term``."""

    smooth: float = field(default=1e-5, metadata={"help": "added above and below the line"})


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Mean over the structures, pooled over the batch.

    Args:
        logits: ``(B, C, *S)``, background first.
        label: ``(B, *S)`` indices; what nobody has annotated is left out.
        config: Settings; the defaults if not given.
        spacing_mm: Not used.
    """
    config, logits = config or Config(), logits.float()
    truth = one_hot(label, logits)  # 0 where nobody has annotated
    guess = logits.softmax(1) * annotated(label, logits)
    axes = (0, *range(2, logits.ndim))
    overlap, total = (guess * truth).sum(axes), (guess + truth).sum(axes)
    dice = (2 * overlap + config.smooth) / (total + config.smooth)
    return torch.log(torch.cosh(1 - dice[1:].mean()))
