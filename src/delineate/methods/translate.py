"""Translation of images, one sequence from others: L1 at every voxel that is known.

The absolute error, not its square: what cannot be told from the inputs becomes its median, which
blurs less than its mean (Isola et al. 2017, arXiv:1611.07004, section 3.1, whose critic is not used
here). Coarser outputs of deep supervision are compared with the nearest voxels of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.methods._plan import Plan, Stage, Update, require_rates

TRAINS = ("translator",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config:
    """Settings of a translation's training."""

    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW"})

    def __post_init__(self) -> None:
        require_rates(self)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: mean absolute error of the image that the network gives.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``, on the scale of the target.
        context: Of the data and the task.

    The step raises a ConfigError for batches without images to give.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        if batch.target is None:
            raise ConfigError(
                "expected an image to learn to give in every batch, got none",
                where="method",
                fix="choose --target image, or another method",
                code="no-target-image",
            )
        predicted = network(batch.image)
        outputs = [predicted] if isinstance(predicted, Tensor) else list(predicted)
        losses = [absolute_error(output, batch.target) for output in outputs]
        loss = _weighted(losses)
        update(optimiser, loss)
        return {"loss": loss.detach(), "train_mae": losses[0].detach()}

    stage = Stage("translate", 1.0, {"translator": network}, {"translator": optimiser}, step)
    return Plan((stage,), network)


def absolute_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean of ``|output - target|`` where the target is a number, 0 where none is.

    Args:
        output: ``(B, K, *S')``, as large as the target or coarser.
        target: ``(B, K, *S)``, NaN where it is not known.
    """
    target = F.interpolate(target, size=output.shape[2:], mode="nearest")
    known = torch.isfinite(target)
    error = (output.float() - target.nan_to_num()).abs() * known
    return error.sum() / known.sum().clamp_min(1)


def _weighted(losses: Sequence[Tensor]) -> Tensor:
    """Losses of deep supervision, the finest first: weights 1, 1/2, 1/4 ... normalised."""
    weights = [0.5**i for i in range(len(losses))]
    total = losses[0].new_zeros(())
    for weight, loss in zip(weights, losses, strict=True):
        total = total + weight / sum(weights) * loss
    return total
