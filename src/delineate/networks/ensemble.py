"""Ensemble of VGGs, ``(B, C, H, W) -> (B, outputs)``, in 2D.

VGG-16 and VGG-19 side by side; their probabilities are averaged, which is all that the paper's
name for it says. Logits are logarithms of the mean probabilities, so that a softmax gives these
back, and members learn together from the loss of their mean. ``mean: logits`` averages logits: then
all is linear in the features of both, as a support vector machine behind them is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _imagenet as imagenet

PAPER = "Simonyan & Zisserman 2015, arXiv:1409.1556; Lakshminarayanan et al. 2017, arXiv:1612.01474"
KIND = "classifier"


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of an ensemble."""

    depths: tuple[int, ...] = field(
        default=(16, 19), metadata={"help": "depth of every member: 11, 13, 16 or 19"}
    )
    batch_norm: bool = field(default=True, metadata={"help": "a norm after every convolution"})
    dropout: float = field(default=0.5, metadata={"help": "dropout behind the dense layers"})
    mean: Literal["probabilities", "logits"] = field(
        default="probabilities", metadata={"help": "what is averaged: probabilities or logits"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.depths:
            raise ConfigError("expected at least one member, got none")
        for depth in self.depths:
            imagenet.require_one_of("depths among", depth, list(imagenet.VGG_STAGES))
        imagenet.require_share(self.dropout)
        if self.mean not in ("probabilities", "logits"):
            raise ConfigError(f"expected mean probabilities or logits, got {self.mean!r}")


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> Ensemble:
    """An ensemble with fresh weights (He initialisation); members begin differently.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return Ensemble(config, channels, outputs)


class Ensemble(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(
            imagenet.Vgg(depth, config.width, channels, outputs, config.batch_norm, config.dropout)
            for depth in config.depths
        )

    @property
    def heads(self) -> list[nn.Linear]:
        """The last layer of every member, in the order of ``embed``."""
        dense = (member.get_submodule("classifier") for member in self.members)
        return [
            layer for part in dense if isinstance(layer := list(part.children())[-1], nn.Linear)
        ]

    def embed(self, x: Tensor) -> Tensor:
        """Features of all members before their last layers, ``(B, members * 64 width)``."""
        return torch.cat([member.embed(x) for member in self.members], 1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the mean probabilities, or mean logits, ``(B, outputs)``."""
        logits = torch.stack([member(x).float() for member in self.members])
        if self.config.mean == "logits":
            return logits.mean(0)
        logs = logits.log_softmax(2)
        return logs.logsumexp(0) - math.log(len(self.members))
