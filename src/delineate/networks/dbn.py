"""Deep belief network, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Restricted Boltzmann machines one upon the other, trained one after the other without labels, then
all together as a classifier (Hinton et al. 2006): ``method: layerwise``. By another method it is a
perceptron with sigmoid units. Images are averaged to a coarse grid, and a sigmoid brings normalised
intensities into (0, 1), where they count as probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError

PAPER = "Hinton et al. 2006, doi:10.1162/neco.2006.18.7.1527"
KIND = "classifier"
SMALL = {"grid": 4, "units": (16, 8)}


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


def contrast(
    network: DeepBelief, level: int, visible_bias: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Contrastive divergence of one machine with one step (CD-1), as a loss to be minimised.

    The free energy of what the machine sees less that of what it makes of it. Its gradient is the
    rule of Hinton 2002, doi:10.1162/089976602760128018: for the weights, what hidden and visible
    units do together when they reconstruct, less what they do together on the images.

    Args:
        network: The machines below are left alone.
        level: Index of the machine.
        visible_bias: Biases of the units that the machine sees, flat; only needed here.
        x: Images ``(B, C, *S)``.

    Returns:
        The loss, whose value means little, and the mean squared error of the reconstruction.
    """
    machine = network.machines[level]
    weight, bias = machine.get_parameter("weight").flatten(1), machine.get_parameter("bias")
    with torch.no_grad():
        below = network.hidden(x, level).float()
        up = torch.sigmoid(F.linear(below, weight, bias))
        down = torch.sigmoid(F.linear(torch.bernoulli(up), weight.T, visible_bias)).float()

    def energy(visible: Tensor) -> Tensor:
        hidden = F.softplus(F.linear(visible, weight, bias).float()).sum(1)
        return -(visible @ visible_bias) - hidden

    loss = (energy(below) - energy(down)).mean()
    return loss, (below - down).square().mean()
