"""Multiple-instance CNN: a volume as a bag of slices, ``(B, C, *S) -> (B, outputs)``, 3D alone.

One small 2D CNN embeds every slice, a pooling makes one vector of them, and a dense layer names the
class. The class is known of the volume alone: which slices show it is for the network to find.

    attention   mean weighted by a gated attention (Ilse et al. 2018); the order does not matter,
                and the weights say which slices decided
    gru         what a recurrent network, 128 wide, knows after all slices, read up and down
    mean        every slice counts as much

All slices are embedded at once. Training keeps about ``21 * width`` bytes a voxel of a channel:
100 MB for 32 slices of 96 x 96 at width 16.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _cnn as family
from delineate.networks import _imagenet as imagenet
from delineate.networks import _pooling as pooling

PAPER = "Ilse et al. 2018, arXiv:1802.04712; Cho et al. 2014, arXiv:1406.1078"
KIND = "classifier"


@dataclass(frozen=True)
class Config(family.PlainConfig):
    """Shape of the CNN that sees a slice, and how slices are pooled."""

    ndim: int = field(default=3, metadata={"help": "3: for volumes and stacks of slices alone"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    axis: int = field(default=2, metadata={"help": "spatial axis along which slices are taken"})
    pool: Literal["attention", "gru", "mean"] = field(
        default="attention", metadata={"help": "how slices become one: attention, gru or mean"}
    )

    def __post_init__(self) -> None:
        if self.ndim != 3:
            raise ConfigError(f"expected ndim 3, got {self.ndim}")
        if self.axis not in (0, 1, 2):
            raise ConfigError(f"expected axis 0, 1 or 2, got {self.axis}")
        if self.pool not in ("attention", "gru", "mean"):
            raise ConfigError(f"expected pool 'attention', 'gru' or 'mean', got {self.pool!r}")
        super().__post_init__()


def divisor(config: Config) -> int:
    """Any size from ``2 ** (depth - 1) + 1`` on in the plane, and any number of slices."""
    return 1


def build(config: Config, channels: int, outputs: int) -> Mil:
    """A multiple-instance CNN with fresh weights (He initialisation; the GRU as PyTorch does).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return Mil(config, channels, outputs)


class Mil(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.features = family.stack(config, 2, channels)
        self.dense = nn.Sequential(nn.Linear(family.widths(config)[-1], config.hidden), nn.ReLU())
        self.pool: pooling.AttentionPool | pooling.GruPool | None = None
        if config.pool == "attention":
            self.pool = pooling.AttentionPool(config.hidden)
        elif config.pool == "gru":
            self.pool = pooling.GruPool(config.hidden)
        last = nn.Linear(config.hidden if self.pool is None else self.pool.width, outputs)
        self.head = nn.Sequential(nn.Dropout(config.dropout), last)
        imagenet.initialise(self, last)

    def slices(self, x: Tensor) -> Tensor:
        """Features of every slice ``(B, K, hidden)``, K being the size along ``axis``.

        Raises:
            ConfigError: One pixel of a slice would be left in the last block.
        """
        by_slice = x.movedim(2 + self.config.axis, 1)
        family.require_voxels(by_slice.shape[3:], self.config.depth)
        features = self.dense(self.features(by_slice.flatten(0, 1)).flatten(2).mean(2))
        bags: Tensor = features.unflatten(0, by_slice.shape[:2])
        return bags

    def embed(self, x: Tensor) -> Tensor:
        """Features of the volume before the last layer, ``(B, F)``."""
        bags = self.slices(x)
        if self.pool is None:
            return bags.mean(1)
        embedding: Tensor = self.pool(bags)
        return embedding

    def slice_weights(self, x: Tensor) -> Tensor | None:
        """What every slice counts, ``(B, K)``, summing to 1; None where the pooling does not say.

        It says where the network looks, not why; a high weight is no proof of a finding.
        """
        if not isinstance(self.pool, pooling.AttentionPool):
            return None
        return self.pool.weights(self.slices(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits
