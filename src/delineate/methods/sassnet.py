"""SASSNet (Li et al. 2020, arXiv:2007.10732): shapes of unlabelled scans as of labelled ones.

A head beside the logits learns signed distances to the surface of every structure, ``tanh``, from
labels (the loss ``signed_distance``). A critic sees image and distances and learns to tell labelled
scans from those that nobody has labelled; the network learns to have the distances of the others
taken for those of labelled ones. Head and critic are left behind after training.

As published the distances weigh 0.3 and the critic 0.01 to 0.015. The published critic has a fully
connected end; a global average takes patches of any size, and spectral norm bounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import _sum, signed_distance
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks import _blocks as blocks
from delineate.networks import _features as features
from delineate.networks._critics import see

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of SASSNet."""

    HEAD: ClassVar[bool] = True

    losses: _sum.Losses = field(
        default_factory=lambda: {**_sum.DEFAULT, "signed_distance": signed_distance.Config()},
        metadata={
            "room": "losses",
            "help": "of labelled samples: files of losses/ with their weights",
        },
    )
    consistency: float = field(
        default=0.01, metadata={"help": "weight of being taken for a labelled scan, after its ramp"}
    )
    critic_width: int = field(default=16, metadata={"help": "half the channels of its first layer"})
    critic_rate: float = field(default=1e-3, metadata={"help": "critic's peak, Adam"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_width < 1:
            raise ConfigError(f"expected a critic_width of 1 or more, got {self.critic_width}")
        if not _sum.build(self.losses, head=True).needs_head:
            raise ConfigError(
                f"expected signed_distance among the losses, got {list(self.losses)}",
                where="losses",
                fix="add signed_distance: 0.3, or use method: dan",
                code="no-loss",
            )


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which critic and segmenter take turns.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.

    Raises:
        ConfigError: The network has no features that a head could share.
    """
    tap = features.tap(network, context.channels, context.outputs)
    labels = len(context.schema.labels)
    head = blocks.conv(context.ndim, tap.width, labels, 1)
    critic = _semi.global_critic(config.critic_width, context.ndim, context.channels, labels)
    losses = _sum.build(config.losses, head=True)
    optimiser = config.optimiser(nn.ModuleList([network, head]))
    rival = torch.optim.Adam(critic.parameters(), config.critic_rate, (0.9, 0.99))

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        distances = head(tap.take())
        loss, terms = losses(logits, batch.label, batch.spacing_mm, update.progress, distances)
        maps = F.interpolate(distances.float().tanh(), size=batch.image.shape[2:])
        view = see("joined", batch.image, maps)
        push, scores = _semi.tell_apart(critic, rival, update, view, batch.labelled)
        weight = config.weight_at(update.progress)
        update(optimiser, loss + weight * push)
        return {
            "loss": loss.detach(),
            **terms,
            **scores,
            "loss_adversarial": push.detach(),
            "consistency_weight": loss.new_tensor(weight),
        }

    modules = {"segmenter": network, "distance_head": head, "critic": critic}
    optimisers = {"segmenter": optimiser, "critic": rival}
    return Plan((Stage("sassnet", 1.0, modules, optimisers, step),), network)
