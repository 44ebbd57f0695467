"""Supervised training: the reference that every other method must beat at equal budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.schema import Schema
from delineate.losses import dice_ce
from delineate.methods._plan import Plan, Stage, Update


@dataclass(frozen=True)
class Config:
    """Settings of supervised training."""

    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW"})


def build(config: Config, segmenter: nn.Module, channels: int, schema: Schema) -> Plan:
    """One stage: Dice + cross-entropy on labelled patches.

    Args:
        config: Settings.
        segmenter: ``(B, channels, *S) -> (B, outputs, *S)``.
        channels: Input channels.
        schema: Labels of the cohort.
    """
    optimiser = torch.optim.AdamW(
        segmenter.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        loss = dice_ce.deep(dice_ce.loss, segmenter(batch.image), batch.label)
        update(optimiser, loss)
        return {"loss": loss.detach()}

    stage = Stage("supervised", 1.0, {"segmenter": segmenter}, {"segmenter": optimiser}, step)
    return Plan((stage,), segmenter)
