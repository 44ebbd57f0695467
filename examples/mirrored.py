"""Supervised training that asks for the same outline of an image and of its mirror image.

Dice and cross-entropy as usual, and the squared distance between the probabilities of both, which
rises over the first half of training (after Laine & Aila 2017, arXiv:1610.02242).

A method of your own in one file. Copy it, change it, and try it out with

    delineate check mymethod.py
    delineate train SCANS --method mymethod.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.losses import cross_entropy, dice
from delineate.methods import Plan, Stage, Update, require_rates

TRAINS = ("segmenter",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config:
    """Settings."""

    consistency: float = field(default=1.0, metadata={"help": "weight of the distance of both"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})

    def __post_init__(self) -> None:
        require_rates(self)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage with one optimiser.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: What it is trained for.
    """
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate)

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        both = network(torch.cat([batch.image, batch.image.flip(2)]))
        finest = both if isinstance(both, Tensor) else both[0]  # else deep supervision's outputs
        logits, mirrored = finest.float().chunk(2)  # of images, of their mirror images
        supervised = dice.loss(logits, batch.label) + cross_entropy.loss(logits, batch.label)
        apart = (logits.softmax(1) - mirrored.flip(2).softmax(1)).square().sum(1).mean()
        loss = supervised + config.consistency * min(1.0, 2 * update.progress) * apart
        update(optimiser, loss)
        return {"loss": loss.detach(), "apart": apart.detach()}

    stage = Stage("mirrored", 1.0, {"segmenter": network}, {"segmenter": optimiser}, step)
    return Plan((stage,), network)
