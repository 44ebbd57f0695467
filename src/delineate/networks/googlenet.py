"""GoogLeNet, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Nine modules of four parallel branches (Szegedy et al. 2015, arXiv:1409.4842), each convolution with
a batch norm (Ioffe & Szegedy 2015, arXiv:1502.03167). ``width=64`` is the paper's and takes
torchvision's weights ``googlenet``; as there, the third branch's kernel is 3 and not 5 wide.
``auxiliary=True`` adds the paper's two heads in the middle, whose logits training returns as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.networks import _imagenet as imagenet

PAPER = "Szegedy et al. 2015, arXiv:1409.4842"
KIND = "classifier"
#: Channels of the modules, Table 1 of the paper: 1x1; reduce, 3x3; reduce, "5x5"; pooled.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
#: After which modules the image is halved, and by what kernel.
_POOLED = {"3b": 3, "4e": 2}
#: After which modules there are heads for training.
_TAPPED = ("4a", "4d")


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of a GoogLeNet."""

    dropout: float = field(default=0.2, metadata={"help": "dropout before the last layer"})
    auxiliary: bool = field(default=False, metadata={"help": "two more heads while training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        imagenet.require_share(self.dropout)


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> GoogLeNet:
    """A GoogLeNet with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return GoogLeNet(config, channels, outputs)


class Inception(nn.Module):
    """Four branches side by side; ``widths`` as in ``MODULES``."""

    def __init__(self, before: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        width1, reduce3, width3, reduce5, width5, pooled = widths
        unit = imagenet.Unit
        self.branch1 = unit(before, width1)
        self.branch2 = nn.Sequential(unit(before, reduce3), unit(reduce3, width3, 3, padding=1))
        self.branch3 = nn.Sequential(unit(before, reduce5), unit(reduce5, width5, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(before, pooled))
        self.after = width1 + width3 + width5 + pooled

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W) -> (B, after, H, W)``."""
        return torch.cat([branch(x) for branch in self.children()], 1)


class Head(nn.Module):
    """A classifier of features in the middle, ``(B, before, H, W) -> (B, outputs)``."""

    def __init__(self, before: int, width: int, outputs: int) -> None:
        super().__init__()
        inner = imagenet.scaled(128, width, 64)
        self.conv = imagenet.Unit(before, inner)
        self.fc1 = nn.Linear(16 * inner, 8 * inner)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(8 * inner, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        logits: Tensor = self.fc2(self.dropout(torch.relu(self.fc1(x))))
        return logits


class GoogLeNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        before = imagenet.scaled(192, width, 64)
        self.conv1 = imagenet.Unit(channels, width, 7, 2, 3)
        self.conv2 = imagenet.Unit(width, width)
        self.conv3 = imagenet.Unit(width, before, 3, padding=1)
        self.pool = imagenet.HalvingPool(3)
        width_after: dict[str, int] = {}
        for name, channels_of in MODULES.items():
            widths = tuple(imagenet.scaled(c, width, 64) for c in channels_of)
            module = Inception(before, widths)
            self.add_module(f"inception{name}", module)
            before = width_after[name] = module.after
        self.aux = _TAPPED if config.auxiliary else ()
        for i, name in enumerate(self.aux, 1):
            self.add_module(f"aux{i}", Head(width_after[name], width, outputs))
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(before, outputs)
        heads = [part.fc2 for part in self.children() if isinstance(part, Head)]
        imagenet.initialise(self, self.fc, *heads)

    def _maps(self, x: Tensor) -> dict[str, Tensor]:
        """What each module gives, in order."""
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv3(self.conv2(x)))
        maps = {}
        for name in MODULES:
            x = maps[name] = self.get_submodule(f"inception{name}")(x)
            if name in _POOLED:
                x = imagenet.HalvingPool(_POOLED[name])(x)
        return maps

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``."""
        return self._maps(x)["5b"].flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs)``; while training with further heads a list, theirs last."""
        maps = self._maps(x)
        logits: Tensor = self.fc(self.dropout(maps["5b"].flatten(2).mean(2)))
        if not (self.training and self.aux):
            return logits
        heads = [self.get_submodule(f"aux{i}")(maps[name]) for i, name in enumerate(self.aux, 1)]
        return [logits, *heads]
