"""Mean absolute difference of probabilities and one-hot labels, pix2pix's reconstruction loss.

Isola et al. 2017 (arXiv:1611.07004), who weigh it by 100 beside the critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from delineate.losses._common import Term, mean, one_hot

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of the absolute difference."""


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """``(1/NC) sum |Y - p|`` on softmax outputs, 0 to 1.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; there are none beside the weight.
        spacing_mm: Not used.
    """
    probabilities = logits.float().softmax(1)
    return mean((probabilities - one_hot(label, probabilities)).abs(), label)
