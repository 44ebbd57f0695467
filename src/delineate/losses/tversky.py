"""Tversky: Dice with false alarms and misses weighed apart (Salehi et al. 2017, arXiv:1706.05721).

``1 - TP / (TP + alpha FP + beta FN)``; one half each is soft Dice. The default costs misses more,
for small structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.losses._common import EPSILON, Term, annotated, one_hot, pooled

KIND = "output"


@dataclass(frozen=True)
class Config(Term):
    """Settings of the Tversky loss."""

    alpha: float = field(default=0.3, metadata={"help": "cost of false alarms"})
    beta: float = field(default=0.7, metadata={"help": "cost of misses"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0 or self.beta < 0 or self.alpha + self.beta == 0:
            raise ConfigError(
                f"expected alpha and beta >= 0, not both 0, got {self.alpha}, {self.beta}"
            )


def loss(
    logits: Tensor,
    label: Tensor,
    config: Config | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Tensor:
    """Pooled over the batch, mean over foreground classes.

    Args:
        logits: ``(B, C, *S)``.
        label: ``(B, *S)`` indices.
        config: Settings; the defaults if not given.
        spacing_mm: Not used.
    """
    config, logits = config or Config(), logits.float()
    probabilities = (logits.softmax(1) * annotated(label, logits))[:, 1:]
    truth = one_hot(label, logits)[:, 1:]
    axes = pooled(logits)
    hit = (probabilities * truth).sum(axes)
    false, missed = probabilities.sum(axes) - hit, truth.sum(axes) - hit
    total = hit + config.alpha * false + config.beta * missed
    return 1 - ((hit + EPSILON) / (total + EPSILON)).mean()
