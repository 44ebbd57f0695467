"""ResGANet, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

A classifier of residual group-attention blocks (Cheng et al. 2022,
doi:10.1016/j.media.2021.102313): two blocks a stage (2-2-2-2), in each a softmax across groups of
channels and a 7-wide spatial gate, then the mean over space and one linear layer. Batch norm is
the default here: instance norm takes the mean of an image away, by which a class may be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _resganet as family

PAPER = "Cheng et al. 2022, doi:10.1016/j.media.2021.102313"
KIND = "classifier"


@dataclass(frozen=True)
class Config:
    """Shape of a ResGANet."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(default=4, metadata={"help": "stages; each but the first halves"})
    max_width: int = field(default=320, metadata={"help": "channels of the last stage at most"})
    groups: int = field(default=2, metadata={"help": "groups of channels in a block, 2 to 4"})
    norm: Literal["instance", "batch"] = field(
        default="batch", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        blocks.UShapeConfig(self.ndim, self.width, self.levels, self.max_width)
        if self.groups < 2:
            raise ConfigError(f"expected groups >= 2, got {self.groups}")


def divisor(config: Config) -> int:
    """Any size will do from ``2 ** (levels - 1) + 1`` on: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> ResGANetClassifier:
    """A ResGANet with fresh weights (He initialisation for leaky ReLU).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return ResGANetClassifier(config, channels, outputs)


class ResGANetClassifier(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        widths = [min(config.width * 2**i, config.max_width) for i in range(config.levels)]
        stages = family.stages(config.ndim, channels, widths, config.groups, config.norm)
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(widths[-1], outputs)
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: One voxel would be left at the coarsest stage; a size that works is named.
        """
        least = 2 ** (self.config.levels - 1)
        if all(n <= least for n in x.shape[2:]):
            raise ConfigError(
                f"expected more than one voxel at the coarsest stage, got {tuple(x.shape[2:])}",
                fix=f"pad to {(least + 1,) * self.config.ndim}, or use fewer levels",
                code="size",
            )
        logits: Tensor = self.head(self.features(x).flatten(2).mean(2))
        return logits
