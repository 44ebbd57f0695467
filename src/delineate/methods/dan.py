"""Deep adversarial network (Zhang et al. 2017, doi:10.1007/978-3-319-66179-7_47).

A critic learns to tell the network's guesses of labelled scans from those of scans that nobody has
labelled: where it can, the network does worse on the latter. The network learns from labels, and to
have its guesses of the others taken for those of labelled ones. No expert's mask is ever shown to
the critic.

The critic sees image and probabilities. In public code each has a first layer of its own and the
two are added, which is one layer of both joined. A global average in place of its fully connected
end takes patches of any size, and spectral norm bounds it. It is left behind after training.
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
from delineate.networks._critics import see

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of a deep adversarial network."""

    consistency: float = field(
        default=0.1, metadata={"help": "weight of being taken for a labelled scan, after its ramp"}
    )
    critic_width: int = field(default=16, metadata={"help": "half the channels of its first layer"})
    critic_rate: float = field(default=1e-3, metadata={"help": "critic's peak, Adam"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic_width < 1:
            raise ConfigError(f"expected a critic_width of 1 or more, got {self.critic_width}")


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which critic and segmenter take turns.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    critic = _semi.global_critic(
        config.critic_width, context.ndim, context.channels, context.outputs
    )
    losses = _sum.build(config.losses)
    optimiser = config.optimiser(network)
    rival = torch.optim.Adam(critic.parameters(), config.critic_rate, (0.9, 0.99))

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        loss, terms = losses(logits, batch.label, batch.spacing_mm, update.progress)
        view = see("joined", batch.image, _semi.probabilities(logits))
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

    modules = {"segmenter": network, "critic": critic}
    optimisers = {"segmenter": optimiser, "critic": rival}
    return Plan((Stage("dan", 1.0, modules, optimisers, step),), network)
