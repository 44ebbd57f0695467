"""U-Net++, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D: nested U-Nets with attention between.

Node (i, j) of Zhou et al. 2018 (arXiv:1807.10165) works at level i and sees all nodes before it at
that level, and node (i + 1, j - 1) doubled in size. With ``attention`` what comes from the same
level passes through an additive gate (Oktay et al. 2018, arXiv:1804.03999) that what comes up from
below controls, as in the attention U-Net++ for livers (Li et al. 2020,
doi:10.1109/ICIP40778.2020.9190761). The last node of full resolution, (0, levels - 1), answers;
deep supervision gives the nodes before it, (0, levels - 2) down to (0, 1), losses of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from delineate.networks import _blocks as blocks

PAPER = "Zhou et al. 2018, arXiv:1807.10165; Oktay et al. 2018, arXiv:1804.03999"
KIND = "segmenter"


@dataclass(frozen=True)
class Config(blocks.UShapeConfig):
    """Shape of a U-Net++."""

    deep_supervision: int = field(
        default=3, metadata={"help": "shallower nested U-Nets that get a loss of their own"}
    )
    attention: bool = field(default=True, metadata={"help": "gates between nodes of a level"})


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return int(2 ** (config.levels - 1))


def build(config: Config, channels: int, outputs: int) -> UNetPlusPlus:
    """A U-Net++ with fresh weights (He initialisation)."""
    return UNetPlusPlus(config, channels, outputs)


class UNetPlusPlus(nn.Module):
    """See the module's docstring; in training a list, the deepest nested U-Net first."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        nd, kind, widths, levels = config.ndim, config.norm, config.widths, config.levels
        self.pool = blocks.max_pool(nd)
        self.encoder = nn.ModuleList(
            blocks.double_conv(nd, before, width, kind)
            for before, width in pairwise([channels, *widths])
        )
        places = [(i, j) for j in range(1, levels) for i in range(levels - j)]
        self.up = nn.ModuleDict(
            {f"{i}_{j}": blocks.up_conv(nd, widths[i + 1], widths[i]) for i, j in places}
        )
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": blocks.double_conv(nd, (j + 1) * widths[i], widths[i], kind)
                for i, j in places
            }
        )
        self.gates = nn.ModuleDict(
            {
                f"{i}_{j}_{k}": blocks.AttentionGate(nd, widths[i], widths[i])
                for i, j in places
                for k in range(j)
                if config.attention
            }
        )
        count = 1 + min(config.deep_supervision, levels - 2)
        self.heads = nn.ModuleList(blocks.conv(nd, widths[0], outputs, 1) for _ in range(count))
        blocks.initialise(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs, *S)``; while training with deep supervision a list of them.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        levels = self.config.levels
        blocks.require_levels(x.shape[2:], levels)
        grid: list[list[Tensor]] = []
        for stage in self.encoder:
            x = stage(self.pool(x) if grid else x)
            grid.append([x])
        for j in range(1, levels):
            for i in range(levels - j):
                grid[i].append(self._node(i, j, grid[i], grid[i + 1][j - 1]))
        finest = grid[0][::-1]
        if self.training and len(self.heads) > 1:
            return [head(y) for head, y in zip(self.heads, finest, strict=False)]
        logits: Tensor = self.heads[0](finest[0])
        return logits

    def _node(self, i: int, j: int, lateral: list[Tensor], below: Tensor) -> Tensor:
        up = self.up[f"{i}_{j}"](below)
        if self.config.attention:
            lateral = [self.gates[f"{i}_{j}_{k}"](y, up) for k, y in enumerate(lateral)]
        output: Tensor = self.nodes[f"{i}_{j}"](torch.cat([*lateral, up], 1))
        return output
