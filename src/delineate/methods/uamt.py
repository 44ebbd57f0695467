"""Uncertainty-aware mean teacher (Yu et al. 2019, arXiv:1907.07034): agree where it is sure.

A mean teacher that looks at every sample several times, under noise of its own each time. Its mean
probabilities are what the student should agree with, but only in voxels where their entropy lies
below a threshold, which rises from three quarters of the largest possible entropy to all of it.

The teacher is the engine's average and in evaluation mode, so that noise on the image alone makes
its passes differ, not dropout. The published code compares the student with one further pass, and
takes 8 for the entropy; here the mean of those that are there anyway is both, and 4 cost half.
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
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of an uncertainty-aware mean teacher."""

    noise: float = field(
        default=0.1, metadata={"help": "spread of the noise on images of spread 1, anew each pass"}
    )
    passes: int = field(default=4, metadata={"help": "of the teacher; published: 8"})
    threshold: float = field(
        default=0.75,
        metadata={"help": "share of the largest entropy that counts as sure at first; rises to 1"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0 or self.passes < 1 or not 0 < self.threshold <= 1:
            raise ConfigError(
                "expected a noise of 0 or more, 1 pass or more and a threshold above 0 up to 1, "
                f"got {self.noise}, {self.passes} and {self.threshold}"
            )


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: losses of labelled samples, and agreement on all where the teacher is sure.

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
        teacher = mean_of_passes(update.averaged, batch.image, config)
        sure = is_sure(teacher, config.threshold, update.progress)
        consistency = _semi.disagreement(logits, teacher, sure)
        weight = config.weight_at(update.progress)
        update(optimiser, loss + weight * consistency)
        return {
            "loss": loss.detach(),
            **terms,
            "loss_consistency": consistency.detach(),
            "consistency_weight": loss.new_tensor(weight),
            "sure": sure.float().mean(),
        }

    stage = Stage("uamt", 1.0, {"segmenter": network}, {"segmenter": optimiser}, step)
    return Plan((stage,), network)


@torch.no_grad()
def mean_of_passes(teacher: nn.Module, image: Tensor, config: Config) -> Tensor:
    """The teacher's probabilities ``(B, outputs, *S)``, mean over passes under noise."""
    views = (_semi.noisy(image, config.noise) for _ in range(config.passes))
    return torch.stack([_semi.probabilities(teacher(view)) for view in views]).mean(0)


def is_sure(mean: Tensor, threshold: float, progress: float) -> Tensor:
    """``(B, *S)``: where the entropy of probabilities lies below what is asked by now.

    Args:
        mean: ``(B, outputs, *S)``.
        threshold: Share of the largest entropy, ``ln outputs``, at first.
        progress: 0 to 1; at the end all of it is allowed.
    """
    share = threshold + (1 - threshold) * _semi.rampup(progress, 1.0)
    entropy: Tensor = torch.special.entr(mean).sum(1)
    return entropy < share * math.log(mean.shape[1])
