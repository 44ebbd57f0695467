"""Mean teacher (Tarvainen & Valpola 2017, arXiv:1703.01780): learns from cases without labels too.

The teacher is the moving average of the student's weights, which the engine keeps anyway and which
is the model in the end. Both see every sample under noise of their own. The student learns what
experts drew where they drew, by any weighted sum of losses, and everywhere to agree with the
teacher: the squared difference of their probabilities of every structure, whose weight rises as
``exp(-5 (1 - t)^2)`` over the first part of training, for at first the teacher knows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import _sum
from delineate.methods._plan import Plan, Stage, Update, require_rates

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config:
    """Settings of a mean teacher."""

    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "of labelled samples: files of losses/ with their weights",
        },
    )
    consistency: float = field(
        default=1.0, metadata={"help": "weight of the agreement with the teacher, after its ramp"}
    )
    ramp: float = field(default=0.4, metadata={"help": "share of training over which it rises"})
    noise: float = field(
        default=0.1, metadata={"help": "spread of the noise on images of spread 1, apart for both"}
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW"})

    def __post_init__(self) -> None:
        if min(self.consistency, self.noise) < 0 or not 0 <= self.ramp <= 1:
            raise ConfigError(
                "expected consistency and noise of 0 or more and a ramp from 0 to 1, "
                f"got {self.consistency}, {self.noise}, {self.ramp}"
            )
        require_rates(self)
        _sum.build(self.losses)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: losses of labelled samples, and agreement with the teacher on all.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    losses = _sum.build(config.losses)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(noisy(batch.image, config.noise))
        loss, terms = losses(logits, batch.label, batch.spacing_mm, update.progress)
        with torch.no_grad():
            teacher = update.averaged(noisy(batch.image, config.noise))
        consistency = disagreement(logits, teacher)
        weight = config.consistency * rampup(update.progress, config.ramp)
        update(optimiser, loss + weight * consistency)
        return {
            "loss": loss.detach(),
            **terms,
            "loss_consistency": consistency.detach(),
            "consistency_weight": loss.new_tensor(weight),
        }

    stage = Stage("mean_teacher", 1.0, {"segmenter": network}, {"segmenter": optimiser}, step)
    return Plan((stage,), network)


def noisy(image: Tensor, spread: float) -> Tensor:
    """The image with Gaussian noise, at most two spreads of it."""
    return image + (spread * torch.randn_like(image)).clamp(-2 * spread, 2 * spread)


def disagreement(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> Tensor:
    """Squared difference of probabilities, mean over structures and voxels; of the finest outputs.

    The background is left out: it is what remains, and would count every difference twice.

    Args:
        student: Logits ``(B, outputs, *S)``, or those of deep supervision, finest first.
        teacher: Likewise.
    """
    fine = [x if isinstance(x, Tensor) else x[0] for x in (student, teacher)]
    student_probabilities, teacher_probabilities = (
        logits.float().softmax(1)[:, 1:] for logits in fine
    )
    return (student_probabilities - teacher_probabilities).square().mean()


def rampup(progress: float, ramp: float) -> float:
    """``exp(-5 (1 - t)^2)`` with t rising from 0 to 1 over ``ramp``."""
    t = min(1.0, progress / ramp) if ramp else 1.0
    return math.exp(-5 * (1 - t) ** 2)
