"""SegAN (Xue et al. 2018, arXiv:1706.01805): features of masked images, drawn apart and together.

There is no real or fake. The critic looks at the image under the expert's mask and under the guess,
and is trained to drive its features of the two apart, at every scale at once; the segmenter is
trained to bring them together. ``preset: stable`` bounds the critic by spectral norm, lets it see
the mask beside the masked image (where the intensity is 0 the product hides every error), and caps
how hard it may push. ``preset: literal`` clips the critic's weights at 0.05 and adds Dice, as the
published code does.

The critic is not kept in the model file: it scores no mask, it compares one with an expert's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.losses import _sum
from delineate.losses._common import annotated, one_hot
from delineate.losses.adversarial import feature_distance
from delineate.methods._game import capped, rise
from delineate.methods._plan import Plan, Stage, Update, require_rates
from delineate.networks import segan_critic
from delineate.networks._critics import see

TRAINS = ("segmenter",)
USES = ("labelled",)

#: What a preset changes of the defaults of ``Config``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "stable": {},
    "literal": {
        "losses": {"dice": 1.0},
        "learning_rate": 2e-4,
        "weight_decay": 0.0,
        "momentum": 0.5,
        "critic_rate": 2e-4,
        "critic_width": 64,
        "critic_norm": "batch",
        "spectral_norm": False,
        "clip": 0.05,
        "with_mask": False,
        "gradient_cap": 0.0,
    },
}


@dataclass(frozen=True)
class Config:
    """Settings of SegAN."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "files of losses/ with their weights, beside the critic's",
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "segmenter's peak (AdamW)"})
    weight_decay: float = field(default=1e-4, metadata={"help": "segmenter's"})
    momentum: float = field(default=0.9, metadata={"help": "beta 1 of the segmenter's AdamW"})
    weight: float = field(default=1.0, metadata={"help": "of the distance of features"})
    warm_up: float = field(default=0.0, metadata={"help": "share of training without it"})
    ramp: float = field(default=0.2, metadata={"help": "share over which its weight then rises"})
    gradient_cap: float = field(
        default=0.5, metadata={"help": "critic's / segmentation gradient at most; 0: no cap"}
    )
    critics: Literal["one", "each"] = field(
        default="one", metadata={"help": "one critic for all regions, or one for each"}
    )
    with_mask: bool = field(
        default=True, metadata={"help": "show the mask beside the masked image"}
    )
    critic_width: int = field(default=16, metadata={"help": "channels of the critic's first layer"})
    critic_layers: int = field(default=4, metadata={"help": "scales beside the image's own"})
    critic_norm: Literal["none", "instance", "batch"] = field(
        default="none", metadata={"help": "behind the critic's layers"}
    )
    spectral_norm: bool = field(default=True, metadata={"help": "bound every critic layer's gain"})
    clip: float = field(
        default=0.0, metadata={"help": "largest absolute weight of the critic; 0: no limit"}
    )
    critic_rate: float = field(default=4e-3, metadata={"help": "critic's peak (Adam 0.5, 0.999)"})

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < 1 or min(self.ramp, self.clip, self.gradient_cap) < 0:
            raise ConfigError(
                "expected 0 <= warm_up < 1 and ramp, clip and gradient_cap of 0 or more, "
                f"got {self.warm_up}, {self.ramp}, {self.clip}, {self.gradient_cap}"
            )
        if self.critic_width < 1 or self.critic_layers < 1:
            raise ConfigError(
                "expected critic_width and critic_layers of 1 or more, "
                f"got {self.critic_width} and {self.critic_layers}"
            )
        require_rates(self)
        _sum.build(self.losses)


class Critics(nn.Module):
    """The critics of a game: one for all regions, or one for each."""

    member: Tensor

    def __init__(self, config: Config, ndim: int, channels: int, member: Tensor) -> None:
        super().__init__()
        self.with_mask = config.with_mask
        self.share = 1 if config.critics == "each" else len(member)
        self.register_buffer("member", member)
        shape = segan_critic.Config(
            ndim,
            config.critic_width,
            config.critic_layers,
            config.critic_norm,
            config.spectral_norm,
        )
        self.each = [
            segan_critic.build(shape, (channels + config.with_mask) * self.share)
            for _ in range(len(member) // self.share)
        ]
        self.critics = nn.ModuleList(self.each)

    def distance(self, image: Tensor, predicted: Tensor, expert: Tensor) -> Tensor:
        """How far the features of the two masked images lie apart, mean over critics.

        Args:
            image: ``(B, C, *S)``.
            predicted: ``(B, outputs, *S)`` probabilities.
            expert: Likewise, one-hot.
        """
        if self.with_mask:
            image = torch.cat([image, torch.ones_like(image[:, :1])], 1)
        regions = (torch.einsum("rk,bk...->br...", self.member, m) for m in (predicted, expert))
        parts = (torch.split(m, self.share, 1) for m in regions)
        distances = []
        with cached():  # spectral norm moves on at every use, and equal masks would lie apart
            for critic, *masks in zip(self.each, *parts, strict=True):
                features = (critic.features(see("product", image, m)) for m in masks)
                distances.append(feature_distance(*features))
        return torch.stack(distances).mean()


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which critic and segmenter take turns.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data; the regions of its schema are what is masked, or else its labels.
    """
    critics = Critics(config, context.ndim, context.channels, membership(context.schema))
    losses = _sum.build(config.losses)
    optimiser = torch.optim.AdamW(
        network.parameters(),
        config.learning_rate,
        (config.momentum, 0.999),
        weight_decay=config.weight_decay,
    )
    critic_optimiser = torch.optim.Adam(critics.parameters(), config.critic_rate, (0.5, 0.999))

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        loss, logged = losses(logits, batch.label, batch.spacing_mm, update.progress)
        fine = logits if isinstance(logits, Tensor) else logits[0]
        predicted = fine.softmax(1) * annotated(batch.label, fine)
        expert = one_hot(batch.label, predicted)
        critic_distance = critics.distance(batch.image, predicted.detach(), expert)
        update(critic_optimiser, -critic_distance)
        if config.clip > 0:
            with torch.no_grad():
                for parameter in critics.parameters():
                    parameter.clamp_(-config.clip, config.clip)
        weight = config.weight * rise(update.progress, config.warm_up, config.ramp)
        remaining = critics.distance(batch.image, predicted, expert)
        term, ratio = capped(loss, weight * remaining, fine, config.gradient_cap or math.inf)
        update(optimiser, loss + term)
        return {
            "loss": loss.detach(),
            **logged,
            "d_distance": critic_distance.detach(),
            "grad_ratio": ratio.detach(),
            "adversarial_weight": loss.new_tensor(weight),
        }

    modules = {"segmenter": network, "critic": critics}
    stage = Stage("segan", 1.0, modules, {"segmenter": optimiser, "critic": critic_optimiser}, step)
    return Plan((stage,), network)


def membership(schema: Schema) -> Tensor:
    """``(regions, outputs)``: 1 where an output is part of a region, or else of a label."""
    names = [label.name for label in schema.labels]
    groups = list(schema.regions.values()) or [(name,) for name in names]
    member = torch.zeros(len(groups), schema.num_outputs)
    for row, group in zip(member, groups, strict=True):
        row[[1 + names.index(name) for name in group]] = 1
    return member
