"""Mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780): learns from cases without labels too.

The teacher is the moving average of the student's weights, which the engine keeps anyway and which
is the model in the end. Both see every sample under noise of their own. The student learns what
experts drew where they drew, by any weighted sum of losses, and everywhere to agree with the
teacher: the squared difference of their probabilities of every structure, whose weight rises as
``exp(-5 (1 - t)^2)`` over the first part of training, for at first the teacher knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import _sum
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of a mean teacher."""

    noise: float = field(
        default=0.1, metadata={"help": "spread of the noise on images of spread 1, apart for both"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise ConfigError(f"expected a noise of 0 or more, got {self.noise}")


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: losses of labelled samples, and agreement with the teacher on all.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    losses = _sum.build(config.losses)
    optimiser = config.optimiser(network)

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(_semi.noisy(batch.image, config.noise))
        loss, terms = losses(logits, batch.label, batch.spacing_mm, update.progress)
        with torch.no_grad():
            teacher = update.averaged(_semi.noisy(batch.image, config.noise))
        consistency = _semi.disagreement(logits, _semi.probabilities(teacher))
        weight = config.weight_at(update.progress)
        update(optimiser, loss + weight * consistency)
        return {
            "loss": loss.detach(),
            **terms,
            "loss_consistency": consistency.detach(),
            "consistency_weight": loss.new_tensor(weight),
        }

    stage = Stage("mean_teacher", 1.0, {"segmenter": network}, {"segmenter": optimiser}, step)
    return Plan((stage,), network)
