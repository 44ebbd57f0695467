"""Supervised training: the reference that every other method must beat at equal budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.losses import _sum
from delineate.methods._plan import Plan, Stage, Update, require_rates
from delineate.networks import _blocks as blocks
from delineate.networks import _features as features

TRAINS = ("segmenter",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config:
    """Settings of supervised training."""

    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "losses with their weights, or with settings: focal: {weight: 1}",
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW"})

    def __post_init__(self) -> None:
        require_rates(self)
        _sum.build(self.losses, head=True)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: a weighted sum of losses, by default Dice + cross-entropy, on labelled patches.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    criterion = _sum.build(config.losses, head=True)
    modules = {"segmenter": network}
    if criterion.needs_head:
        tap = features.tap(network, context.channels, context.outputs)
        labels = len(context.schema.labels)
        head = modules["distance_head"] = blocks.conv(context.ndim, tap.width, labels, 1)
    optimiser = torch.optim.AdamW(
        [p for module in modules.values() for p in module.parameters()],
        config.learning_rate,
        weight_decay=config.weight_decay,
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        distances = head(tap.take()) if criterion.needs_head else None
        loss, terms = criterion(logits, batch.label, batch.spacing_mm, update.progress, distances)
        update(optimiser, loss)
        return {"loss": loss.detach(), **terms}

    stage = Stage("supervised", 1.0, modules, {"segmenter": optimiser}, step)
    return Plan((stage,), network)
