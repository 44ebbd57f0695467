"""Deep belief network, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Restricted Boltzmann machines one upon the other, trained one after the other without labels by
``pretrain``, then all together as a classifier (Hinton et al. 2006). Images are averaged to a
coarse grid, and a sigmoid brings normalised intensities into (0, 1), where they count as
probabilities. Without ``pretrain`` it is a perceptron with sigmoid units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError

PAPER = "Hinton et al. 2006, doi:10.1162/neco.2006.18.7.1527"
KIND = "classifier"
#: Epochs of small momentum, 0.5; thereafter 0.9 (Hinton 2012, doi:10.1007/978-3-642-35289-8_32).
_FIRST_EPOCHS = 5


@dataclass(frozen=True)
class Config:
    """Shape of a deep belief network."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    grid: int = field(default=16, metadata={"help": "points of the grid along each axis"})
    units: tuple[int, ...] = field(
        default=(256, 128, 64), metadata={"help": "hidden units of each machine"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or self.grid < 1:
            raise ConfigError(f"expected ndim 2 or 3 and grid >= 1, got {self.ndim}, {self.grid}")
        if not self.units or min(self.units) < 1:
            raise ConfigError(f"expected units >= 1 of one machine at least, got {self.units}")


def divisor(config: Config) -> int:
    """Any size will do."""
    return 1


def build(config: Config, channels: int, outputs: int) -> DeepBelief:
    """A deep belief network with fresh weights (variance one over the inputs).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return DeepBelief(config, channels, outputs)


class DeepBelief(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        first = nn.Conv3d if config.ndim == 3 else nn.Conv2d  # a kernel as large as the grid
        self.machines = nn.ModuleList([first(channels, config.units[0], config.grid)])
        self.machines.extend(nn.Linear(*pair) for pair in pairwise(config.units))
        self.head = nn.Linear(config.units[-1], outputs)
        for part in (*self.machines, self.head):
            nn.init.kaiming_normal_(part.weight, nonlinearity="sigmoid")
            nn.init.zeros_(part.bias)

    def visible(self, x: Tensor) -> Tensor:
        """What the first machine sees: ``(B, C, *grid)`` in (0, 1)."""
        pool = F.adaptive_avg_pool3d if x.ndim == 5 else F.adaptive_avg_pool2d
        return torch.sigmoid(pool(x, self.config.grid))

    def hidden(self, x: Tensor, machines: int) -> Tensor:
        """What the machine after so many others sees, flat."""
        x = self.visible(x)
        for machine in list(self.machines)[:machines]:
            x = torch.sigmoid(machine(x)).flatten(1)
        return x.flatten(1)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``: probabilities of the last hidden units."""
        return self.hidden(x, len(self.machines))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits


@torch.no_grad()
def pretrain(
    network: DeepBelief,
    batches: Iterable[Tensor],
    *,
    epochs: int = 20,
    rate: float = 0.05,
    seed: int = 0,
) -> list[list[float]]:
    """Train the machines one after the other by contrastive divergence with one step (CD-1).

    Their weights are drawn anew; the last layer stays as it is. Momentum is 0.5 and from the sixth
    epoch on 0.9.

    Args:
        network: Changed in place.
        batches: Images ``(B, C, *S)``; gone through anew in every epoch.
        epochs: For each machine.
        rate: Learning rate.
        seed: Of weights and samples.

    Returns:
        Mean squared error of the reconstruction, for each machine by epoch.

    Raises:
        ConfigError: ``batches`` is empty, or can be gone through only once.
    """
    if isinstance(batches, Iterator):
        raise ConfigError(
            "expected batches that can be gone through again, got an iterator",
            fix="give a list, or an object whose __iter__ begins anew",
        )
    draw = torch.Generator().manual_seed(seed)
    return [
        _train(network, level, batches, epochs, rate, draw)
        for level in range(len(network.machines))
    ]


def _train(
    network: DeepBelief, level: int, batches: Iterable[Tensor], epochs: int, rate: float,
    draw: torch.Generator,
) -> list[float]:  # fmt: skip
    """Errors of one machine by epoch."""
    parts = dict(network.machines[level].named_parameters())
    parts["weight"].copy_(0.01 * torch.randn(parts["weight"].shape, generator=draw))
    weight, bias = parts["weight"].flatten(1), parts["bias"].zero_()
    seen = weight.new_zeros(weight.shape[1])  # biases of the units below, only needed here
    speed = [torch.zeros_like(tensor) for tensor in (weight, bias, seen)]
    found: list[float] = []
    for epoch in range(epochs):
        momentum = 0.5 if epoch < _FIRST_EPOCHS else 0.9
        total, count = 0.0, 0
        for images in batches:
            below = network.hidden(images.to(weight), level)
            up = torch.sigmoid(F.linear(below, weight, bias))
            sample = (torch.rand(up.shape, generator=draw).to(up) < up).to(up)
            down = torch.sigmoid(F.linear(sample, weight.T, seen))
            again = torch.sigmoid(F.linear(down, weight, bias))
            size = len(below)
            slopes = (
                (up.T @ below - again.T @ down) / size,
                (up - again).mean(0),
                (below - down).mean(0),
            )
            for tensor, moved, slope in zip((weight, bias, seen), speed, slopes, strict=True):
                moved.mul_(momentum).add_(slope, alpha=rate)
                tensor.add_(moved)
            total += float((below - down).square().mean()) * size
            count += size
        if not count:
            raise ConfigError("expected batches of images, got none")
        found.append(total / count)
    return found
