"""Inception-v3, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Branches in which 5 x 5 kernels have become two of 3 x 3, and 7 x 7 ones 1 x 7 and 7 x 1 (Szegedy et
al. 2016, arXiv:1512.00567). ``width=32`` is the paper's and takes torchvision's weights
``inception_v3``. Images have 75 pixels a side at least; the paper's have 299.
``auxiliary=True`` adds the paper's head in the middle, whose logits training returns as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.networks import _imagenet as imagenet

PAPER = "Szegedy et al. 2016, arXiv:1512.00567"
KIND = "classifier"
#: Pixels along a side, so that one is left at the end.
LEAST = 75
#: A step of a branch: name, channels, kernel, stride. Steps of stride 2 have no padding.
Step = tuple[str, int, int | tuple[int, int], int]
Branch = tuple[Step, ...]
_AVERAGE: Step = ("average", 0, 3, 1)
_MAXIMUM: Step = ("maximum", 0, 3, 2)
#: The first layers: name, channels, kernel, stride, padding.
_STEM = (
    ("Conv2d_1a_3x3", 32, 3, 2, 0),
    ("Conv2d_2a_3x3", 32, 3, 1, 0),
    ("Conv2d_2b_3x3", 64, 3, 1, 1),
    ("Conv2d_3b_1x1", 80, 1, 1, 0),
    ("Conv2d_4a_3x3", 192, 3, 1, 0),
)
_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
_TAPPED = "Mixed_6e"


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of an Inception-v3."""

    width: int = field(default=8, metadata={"help": "channels of the first layer; paper: 32"})
    dropout: float = field(default=0.5, metadata={"help": "dropout before the last layer"})
    auxiliary: bool = field(default=False, metadata={"help": "one more head while training"})

    def __post_init__(self) -> None:
        super().__post_init__()
        imagenet.require_share(self.dropout)


def divisor(config: Config) -> int:
    """Any size from 75 on will do."""
    return 1


def build(config: Config, channels: int, outputs: int) -> InceptionV3:
    """An Inception-v3 with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return InceptionV3(config, channels, outputs)


def _chain(
    name: str, widths: tuple[int, ...], kernels: tuple[int | tuple[int, int], ...]
) -> Branch:
    """Steps ``name_1``, ``name_2`` ..., all of stride 1."""
    both = zip(widths, kernels, strict=True)
    return tuple((f"{name}_{i}", width, kernel, 1) for i, (width, kernel) in enumerate(both, 1))


def _mixed_5(pooled: int) -> list[Branch]:
    return [
        (("branch1x1", 64, 1, 1),),
        _chain("branch5x5", (48, 64), (1, 5)),
        _chain("branch3x3dbl", (64, 96, 96), (1, 3, 3)),
        (_AVERAGE, ("branch_pool", pooled, 1, 1)),
    ]


def _mixed_6(inner: int) -> list[Branch]:
    across, down = (1, 7), (7, 1)
    double = (1, down, across, down, across)
    return [
        (("branch1x1", 192, 1, 1),),
        _chain("branch7x7", (inner, inner, 192), (1, across, down)),
        _chain("branch7x7dbl", (*(inner,) * 4, 192), double),
        (_AVERAGE, ("branch_pool", 192, 1, 1)),
    ]


def _mixed_7() -> list[Branch]:
    three = _chain("branch3x3", (384,), (1,))
    double = _chain("branch3x3dbl", (448, 384), (1, 3))
    return [
        (("branch1x1", 320, 1, 1),),
        (*three, ("branch3x3_2a", 384, (1, 3), 1)),
        (*three, ("branch3x3_2b", 384, (3, 1), 1)),
        (*double, ("branch3x3dbl_3a", 384, (1, 3), 1)),
        (*double, ("branch3x3dbl_3b", 384, (3, 1), 1)),
        (_AVERAGE, ("branch_pool", 192, 1, 1)),
    ]


#: Figures 5 to 7 of the paper, and the modules that halve the image; one branch after the other.
MODULES: dict[str, list[Branch]] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": [
        (("branch3x3", 384, 3, 2),),
        (*_chain("branch3x3dbl", (64, 96), (1, 3)), ("branch3x3dbl_3", 96, 3, 2)),
        (_MAXIMUM,),
    ],
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": [
        (*_chain("branch3x3", (192,), (1,)), ("branch3x3_2", 320, 3, 2)),
        (
            *_chain("branch7x7x3", (192, 192, 192), (1, (1, 7), (7, 1))),
            ("branch7x7x3_4", 192, 3, 2),
        ),
        (_MAXIMUM,),
    ],
    "Mixed_7b": _mixed_7(),
    "Mixed_7c": _mixed_7(),
}


class Mixed(nn.Module):
    """Branches side by side; what two of them begin with is computed once.

    Args:
        before: Channels that come in.
        branches: Their steps, with the paper's channels.
        width: Channels of the network's first layer.
    """

    def __init__(self, before: int, branches: list[Branch], width: int) -> None:
        super().__init__()
        self.branches = [tuple(name for name, *_ in branch) for branch in branches]
        self.after = 0
        for branch in branches:
            last = before
            for name, channels, kernel, stride in branch:
                after = imagenet.scaled(channels, width, 32) if channels else last
                if name not in self._modules:
                    self.add_module(name, _layer(last, after, kernel, stride, name))
                last = after
            self.after += last

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W) -> (B, after, H', W')``."""
        outputs: dict[tuple[str, ...], Tensor] = {(): x}
        for branch in self.branches:
            for i, name in enumerate(branch):
                if branch[: i + 1] not in outputs:
                    outputs[branch[: i + 1]] = self.get_submodule(name)(outputs[branch[:i]])
        return torch.cat([outputs[branch] for branch in self.branches], 1)


def _layer(
    before: int, after: int, kernel: int | tuple[int, int], stride: int, name: str
) -> nn.Module:
    if name == _AVERAGE[0]:
        return nn.AvgPool2d(3, 1, 1)
    if name == _MAXIMUM[0]:
        return nn.MaxPool2d(3, 2)
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (high // 2, wide // 2) if stride == 1 else 0
    return imagenet.Unit(before, after, (high, wide), stride, padding)


class Head(nn.Module):
    """A classifier of features in the middle, ``(B, before, H, W) -> (B, outputs)``."""

    def __init__(self, before: int, width: int, outputs: int) -> None:
        super().__init__()
        inner, after = imagenet.scaled(128, width, 32), imagenet.scaled(768, width, 32)
        self.conv0 = imagenet.Unit(before, inner)
        self.conv1 = imagenet.Unit(inner, after, 5)
        self.fc = nn.Linear(after, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; maps of any size are averaged to 5 x 5, as the paper's 17 x 17 are."""
        x = self.conv1(self.conv0(F.adaptive_avg_pool2d(x, 5)))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class InceptionV3(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width, before = config.width, channels
        for name, paper, kernel, stride, padding in _STEM:
            after = imagenet.scaled(paper, width, 32)
            self.add_module(name, imagenet.Unit(before, after, kernel, stride, padding))
            before = after
        self.maxpool = nn.MaxPool2d(3, 2)
        tapped = before
        for name, branches in MODULES.items():
            module = Mixed(before, branches, width)
            self.add_module(name, module)
            before = module.after
            tapped = before if name == _TAPPED else tapped
        self.AuxLogits = Head(tapped, width, outputs) if config.auxiliary else None
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(before, outputs)
        imagenet.initialise(self, self.fc)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the tapped module gives, and what the last one gives."""
        imagenet.require_least(x.shape[2:], LEAST)
        for name, *_ in _STEM:
            x = self.get_submodule(name)(x)
            if name in _POOLED:
                x = self.maxpool(x)
        tapped = x
        for name in MODULES:
            x = self.get_submodule(name)(x)
            tapped = x if name == _TAPPED else tapped
        return tapped, x

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``."""
        return self._maps(x)[1].flatten(2).mean(2)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs)``; while training with a further head a list, its own last.

        Raises:
            ConfigError: Less than 75 pixels along a side; the nearest size is named.
        """
        tapped, x = self._maps(x)
        logits: Tensor = self.fc(self.dropout(x.flatten(2).mean(2)))
        if self.training and self.AuxLogits is not None:
            return [logits, self.AuxLogits(tapped)]
        return logits
