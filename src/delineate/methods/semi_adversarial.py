"""Semi-supervised adversarial segmentation (Hung et al. 2018, arXiv:1802.07934).

A fully convolutional critic learns to tell experts' masks from guesses of the same labelled scans,
patch by patch, as in ``adversarial``. During the warm-up the segmenter learns from labels alone.
Then it also learns to be scored as an expert, on all scans; and of those that nobody has labelled
it learns its own masks wherever the critic takes them for an expert's with a probability above
``threshold``: the critic selects pseudo-labels, as in the semi-supervised GAN for arteries.

Weights and threshold are as published, and what is selected weighs with its share of the voxels, so
that a handful does not outweigh the labels. Beside the mask the critic sees the image (``sees:
mask`` as published), and the kit of ``_game`` keeps it steady. The critic's scores are logits of a
probability, so the game is the classical one, not the hinge's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses import _sum, adversarial
from delineate.methods import _semi
from delineate.methods._game import Game, Rules, build_critic, critic_part, rise
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks._critics import see

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(Rules):
    """Settings of semi-supervised adversarial segmentation."""

    critic: Literal["patch"] = field(
        default="patch", metadata={"help": "a score for every patch: it selects by place"}
    )
    game: Literal["nonsaturating"] = field(
        default="nonsaturating", metadata={"help": "loss of both sides: scores mean probabilities"}
    )
    weight: float = field(
        default=0.01, metadata={"help": "of being scored as an expert on labelled scans"}
    )
    weight_unlabelled: float = field(default=0.001, metadata={"help": "likewise on the others"})
    warm_up: float = field(
        default=0.25, metadata={"help": "share of training with labels alone, critic's turns apart"}
    )
    consistency: float = field(
        default=0.1, metadata={"help": "weight of masks that the critic selects, after its ramp"}
    )
    threshold: float = field(
        default=0.2, metadata={"help": "probability of an expert above which the critic selects"}
    )
    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "of labelled samples: files of losses/ with their weights",
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "segmenter's peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "segmenter's"})
    keep_critic: bool = field(
        default=True, metadata={"help": "in the model file, for `predict --maps critic`"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.consistency, self.weight_unlabelled) < 0 or not 0 <= self.threshold <= 1:
            raise ConfigError(
                "expected consistency and weight_unlabelled of 0 or more and a threshold from 0 "
                f"to 1, got {self.consistency}, {self.weight_unlabelled} and {self.threshold}"
            )
        _sum.build(self.losses)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which critic and segmenter take turns; the others join after the warm-up.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    critic = build_critic(config, context.ndim, context.channels, context.outputs)
    game, losses = Game(config, [critic]), _sum.build(config.losses)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        loss, terms = losses(logits, batch.label, batch.spacing_mm, update.progress)
        fine = logits if isinstance(logits, Tensor) else logits[0]
        predicted = _semi.probabilities(fine)
        # of nobody labelled there is no expert: both masks are empty, and nothing tells them apart
        known = batch.labelled if batch.labelled.any() else ~batch.labelled
        real, fake = game.show(of(batch, known), predicted[known], update.progress)
        scores = game.teach(update, real, fake.detach())
        term, push = game.push(loss, fine, fake, update.progress)

        others = ~batch.labelled
        rising = rise(update.progress, config.warm_up, config.ramp)
        guess = torch.full_like(batch.label, IGNORED)
        if rising > 0 and others.any():
            masked = see(config.sees, batch.image[others], predicted[others])
            guess[others] = selected(critic, masked, fine[others], config.threshold)
            fooled = adversarial.segmenter_loss(critic(masked), config.game)
            term = term + rising * config.weight_unlabelled * fooled
        loss_pseudo, _ = losses(logits, guess, batch.spacing_mm, update.progress)
        share = (guess != IGNORED).sum() / max(1, guess[others].numel())
        update(optimiser, loss + term + rising * config.consistency * share * loss_pseudo)
        return {
            "loss": loss.detach(),
            **terms,
            **scores,
            **push,
            "loss_pseudo": loss_pseudo.detach(),
            "selected": share,
        }

    modules = {"segmenter": network, "critic": critic, "referee": game.referee}
    optimisers = {"segmenter": optimiser, "critic": game.rival}
    stage = Stage("semi_adversarial", 1.0, modules, optimisers, step)
    keeps = {"critic": critic_part(config, critic, context)} if config.keep_critic else {}
    return Plan((stage,), network, keeps)


def of(batch: Batch, samples: Tensor) -> Batch:
    """A batch of some samples' images and labels."""
    return replace(
        batch, image=batch.image[samples], label=batch.label[samples],
        labelled=batch.labelled[samples],
    )  # fmt: skip


@torch.no_grad()
def selected(critic: nn.Module, masked: Tensor, logits: Tensor, threshold: float) -> Tensor:
    """The mask ``(B, *S)`` of a guess, ``IGNORED`` where a critic does not take it for an expert's.

    Args:
        critic: With a ``score_map``, whose scores are logits.
        masked: ``(B, C', *S)``, what it sees of the guess.
        logits: ``(B, outputs, *S)``, the guess.
        threshold: Probability above which it is taken for an expert's.
    """
    scores: Tensor = cast(Any, critic).score_map(masked)
    expert = scores.float().sigmoid()[:, 0] > threshold
    return _semi.pseudo_labels(logits).masked_fill(~expert, IGNORED)
