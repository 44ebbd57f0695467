"""Adversarial segmentation: a segmenter against a critic of its masks.

Presets are tables of settings (``PRESETS``), and whatever is given beside them wins:

- ``stable``, the sound reading and the default: see ``_game``.
- ``literal``: S1 as printed. A global critic on the mask alone, cross-entropy of every class, the
  non-saturating game, Adam at 1e-4 for both. ``swapped_labels`` uses the discriminator loss exactly
  as printed, whose labels are exchanged: it teaches the critic to call fakes real, and exists so
  that a test can show it.
- ``luc``: Luc et al. 2016 (arXiv:1611.08408). Image and mask by branches of their own,
  cross-entropy, lambda = 1. Their other inputs are ``sees: product`` and ``expert: scaled``.
- ``pix2pix``: Isola et al. 2017 (arXiv:1611.07004). Patches of 70 voxels on image and mask, 100
  times the absolute difference, Adam at 2e-4 with beta 1 of 0.5 for both.
- ``scan``: Dai et al. 2018 (arXiv:1703.08770). A global critic with average pooling on the mask
  alone, and a small lambda.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.losses import _sum
from delineate.methods._game import Game, Rules, build_critic, critic_part
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks._critics import Activation, activate

TRAINS = ("segmenter",)
USES = ("labelled",)

#: The game without any of the kit's precautions, as it was played before 2017.
_PLAIN: Mapping[str, Any] = {
    "spectral_norm": False,
    "expert": "one_hot",
    "views": False,
    "noise": 0.0,
    "game": "nonsaturating",
    "weight": 1.0,
    "warm_up": 0.0,
    "ramp": 0.0,
    "gate": (0.0, 1.0),
    "gradient_cap": 0.0,
    "r1_weight": 0.0,
}

#: What a preset changes of the defaults of ``Config``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "stable": {},
    "literal": {
        **_PLAIN,
        "losses": {"class_bce": 1.0},
        "critic": "global",
        "critic_norm": "batch",
        "sees": "mask",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "critic_rate": 1e-4,
        "critic_momentum": 0.9,
    },
    "luc": {**_PLAIN, "losses": {"cross_entropy": 1.0}, "sees": "branches"},
    "pix2pix": {
        **_PLAIN,
        "losses": {"class_l1": 100.0},
        "critic_layers": 3,
        "critic_norm": "instance",
        "wide_field": True,
        "learning_rate": 2e-4,
        "weight_decay": 0.0,
        "momentum": 0.5,
        "critic_rate": 2e-4,
    },
    "scan": {
        **_PLAIN,
        "losses": {"cross_entropy": 1.0},
        "critic": "global",
        "critic_norm": "batch",
        "sees": "mask",
        "weight": 0.01,
    },
}


@dataclass(frozen=True)
class Config(Rules):
    """Settings of adversarial training."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    swapped_labels: bool = field(
        default=False, metadata={"help": "the discriminator loss as S1 prints it (a fault, shown)"}
    )
    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "files of losses/ with their weights, as in supervised training",
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "segmenter's peak (AdamW)"})
    weight_decay: float = field(default=1e-4, metadata={"help": "segmenter's"})
    momentum: float = field(default=0.9, metadata={"help": "beta 1 of the segmenter's AdamW"})
    keep_critic: bool = field(
        default=True, metadata={"help": "in the model file, for `predict --maps critic`"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _sum.build(self.losses)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which critic and segmenter take turns.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    critic = build_critic(config, context.ndim, context.channels, context.outputs)
    game = Game(config, [critic], "swapped" if config.swapped_labels else "")
    losses = _sum.build(config.losses)
    activation: Activation = "sigmoid" if "class_bce" in config.losses else "softmax"
    optimiser = torch.optim.AdamW(
        network.parameters(),
        config.learning_rate,
        (config.momentum, 0.999),
        weight_decay=config.weight_decay,
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        loss, logged = losses(logits, batch.label, batch.spacing_mm, update.progress)
        fine = logits if isinstance(logits, Tensor) else logits[0]
        predicted = activate(activation, fine)
        real, fake = game.show(batch, predicted, update.progress)
        scores = game.teach(update, real, fake.detach())
        term, push = game.push(loss, fine, fake, update.progress)
        update(optimiser, loss + term)
        return {"loss": loss.detach(), **logged, **scores, **push}

    modules = {"segmenter": network, "critic": critic, "referee": game.referee}
    stage = Stage("adversarial", 1.0, modules, {"segmenter": optimiser, "critic": game.rival}, step)
    keeps = (
        {"critic": critic_part(config, critic, context, activation)} if config.keep_critic else {}
    )
    return Plan((stage,), network, keeps)
