"""Cross pseudo supervision (Chen et al. 2021, arXiv:2106.01226): two networks teach each other.

Both learn what experts drew. Of samples that nobody has labelled, each learns the mask that the
other would draw, taken as it is, without gradient into who drew it. They must see things
differently to have something to say: the second begins with random weights of its own, also where
the first begins with those of a file.

The model is the first network's average; the second is left behind, as in the published code. The
first is the one that was planned for and that weights were loaded into, and which of two that
learn alike is taken home makes no difference that could be known beforehand.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.losses import _sum
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks import _blocks as blocks

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of cross pseudo supervision."""


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which two networks learn from labels, and from each other's masks elsewhere.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    losses = _sum.build(config.losses)
    other = with_weights_of_its_own(network)
    optimiser, other_optimiser = map(config.optimiser, (network, other))

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits, other_logits = network(batch.image), other(batch.image)
        weight = config.weight_at(update.progress)

        def learn(own: Tensor, from_: Tensor) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
            loss, terms = losses(own, batch.label, batch.spacing_mm, update.progress)
            guess = _semi.of_unlabelled(_semi.pseudo_labels(from_), batch)
            return loss, losses(own, guess, batch.spacing_mm, update.progress)[0], terms

        loss, loss_pseudo, terms = learn(logits, other_logits)
        other_loss, other_pseudo, _ = learn(other_logits, logits)
        update(optimiser, loss + weight * loss_pseudo)
        update(other_optimiser, other_loss + weight * other_pseudo)
        return {
            "loss": loss.detach(),
            **terms,
            "loss_pseudo": loss_pseudo.detach(),
            "loss_other": other_loss.detach(),
            "consistency_weight": loss.new_tensor(weight),
        }

    modules = {"segmenter": network, "other": other}
    optimisers = {"segmenter": optimiser, "other": other_optimiser}
    return Plan((Stage("cps", 1.0, modules, optimisers, step),), network)


def with_weights_of_its_own(network: nn.Module) -> nn.Module:
    """A copy that begins anew: its convolutions and linear layers are drawn at random."""
    other = copy.deepcopy(network).requires_grad_(True)
    blocks.initialise(other)
    return other
