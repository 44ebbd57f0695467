"""Bricks shared by networks; ``nd`` is the number of spatial dimensions, 2 or 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.errors import ConfigError

SLOPE = 0.01
#: Offset of an attention gate's score: at first a gate lets most (0.88) through.
OPEN = 2.0


#: One number for every axis, or one an axis.
Sides = int | Sequence[int]


def per_axis(nd: int, numbers: Sides) -> tuple[int, ...]:
    """One number an axis."""
    return (numbers,) * nd if isinstance(numbers, int) else tuple(numbers)


def conv(nd: int, before: int, after: int, kernel: Sides = 3, stride: Sides = 1) -> nn.Module:
    """Convolution that keeps the size at stride 1; kernels are odd."""
    kind: Any = nn.Conv3d if nd == 3 else nn.Conv2d
    kernel, stride = per_axis(nd, kernel), per_axis(nd, stride)
    layer: nn.Module = kind(
        before, after, kernel, stride=stride, padding=tuple(n // 2 for n in kernel)
    )
    return layer


class _InstanceNorm2d(nn.InstanceNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _by_sample(self, x) if _channels_last(x) else super().forward(x)


class _InstanceNorm3d(nn.InstanceNorm3d):
    def forward(self, x: Tensor) -> Tensor:
        return _by_sample(self, x) if _channels_last(x) else super().forward(x)


def _channels_last(x: Tensor) -> bool:
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return not x.is_contiguous() and x.is_contiguous(memory_format=last)


def _by_sample(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    """Instance norm that keeps channels last, as batch norm of one sample after the other.

    PyTorch's own puts the features in another order and back, in both directions.
    """
    samples = (
        F.batch_norm(sample, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)
        for sample in torch.split(x, 1)
    )
    return torch.cat(list(samples))


def norm(nd: int, width: int, kind: str = "instance") -> nn.Module:
    """Instance or batch norm with affine parameters."""
    if kind not in ("instance", "batch"):
        raise ConfigError(f"expected norm 'instance' or 'batch', got {kind!r}")
    table = {
        ("instance", 2): _InstanceNorm2d,
        ("instance", 3): _InstanceNorm3d,
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
    }
    return table[kind, nd](width, affine=True)


def conv_unit(
    nd: int,
    before: int,
    after: int,
    kind: str = "instance",
    stride: Sides = 1,
    kernel: Sides = 3,
) -> nn.Sequential:
    """Convolution, norm, leaky ReLU."""
    return nn.Sequential(
        conv(nd, before, after, kernel, stride),
        norm(nd, after, kind),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def double_conv(
    nd: int,
    before: int,
    after: int,
    kind: str = "instance",
    stride: Sides = 1,
    kernel: Sides = 3,
) -> nn.Sequential:
    """Two convolution units, a stage of a U-Net."""
    return nn.Sequential(
        conv_unit(nd, before, after, kind, stride, kernel),
        conv_unit(nd, after, after, kind, kernel=kernel),
    )


def up_conv(nd: int, before: int, after: int, stride: Sides = 2) -> nn.Module:
    """Transposed convolution that makes every spatial size ``stride`` times as large."""
    kind: Any = nn.ConvTranspose3d if nd == 3 else nn.ConvTranspose2d
    layer: nn.Module = kind(before, after, per_axis(nd, stride), per_axis(nd, stride))
    return layer


def max_pool(nd: int, stride: Sides = 2) -> nn.Module:
    """Maximum over 2 x 2 (x 2), or over what ``stride`` says."""
    kind: Any = nn.MaxPool3d if nd == 3 else nn.MaxPool2d
    layer: nn.Module = kind(stride if isinstance(stride, int) else tuple(stride))
    return layer


def require_multiple(size: Sequence[int], multiple: Sides) -> None:
    """Refuse sizes a network cannot halve often enough.

    Raises:
        ConfigError: Names the nearest size that works.
    """
    steps = per_axis(len(size), multiple)
    if any(n % step for n, step in zip(size, steps, strict=True)):
        nearest = tuple(-(-n // step) * step for n, step in zip(size, steps, strict=True))
        raise ConfigError(
            f"expected spatial sizes that are multiples of {multiple}, got {tuple(size)}",
            fix=f"pad to {nearest}",
            code="size",
        )


def require_levels(size: Sequence[int], levels: int) -> None:
    """Refuse sizes that cannot be halved ``levels - 1`` times with more than one voxel left.

    Raises:
        ConfigError: Names the nearest size and, where there is one, the number of levels that work.
    """
    possible = levels
    while possible > 1 and not _halves(size, 2 ** (possible - 1)):
        possible -= 1
    if possible == levels:
        return
    multiple = 2 ** (levels - 1)
    nearest = tuple(-(-n // multiple) * multiple for n in size)
    if not _halves(nearest, multiple):
        nearest = (2 * multiple,) * len(nearest)
    expected = f"spatial sizes that are multiples of {multiple}"
    if not any(n % multiple for n in size):
        expected = "more than one voxel at the coarsest level"
    raise ConfigError(
        f"expected {expected} for {levels} levels, got {tuple(size)}",
        fix=f"pad to {nearest}" + (f", or use levels={possible}" if possible > 1 else ""),
        code="size",
    )


def require_strides(size: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
    """Refuse sizes that these strides do not divide, or of which they leave a single voxel.

    Raises:
        ConfigError: Names the nearest size that works.
    """
    steps = shrinkage(strides)
    require_multiple(size, steps)
    if tuple(size) == steps:
        raise ConfigError(
            f"expected more than one voxel at the coarsest level, got {tuple(size)}",
            fix=f"pad to {tuple(2 * step for step in steps)}",
            code="size",
        )


def shrinkage(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """How many times as small the coarsest level is along each axis."""
    return tuple(math.prod(column) for column in zip(*strides, strict=True))


def _halves(size: Sequence[int], multiple: int) -> bool:
    """Whether whole steps of ``multiple`` fit, and more than one of them in all."""
    return not any(n % multiple for n in size) and any(n > multiple for n in size)


def initialise(module: nn.Module) -> None:
    """He initialisation for leaky ReLU, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.kaiming_normal_(part.weight, a=SLOPE)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def bound(module: nn.Module) -> None:
    """Spectral norm on every convolution and linear layer (Miyato et al. 2018)."""
    for part in list(module.modules()):
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
            nn.utils.parametrizations.spectral_norm(part)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


class SqueezeExcite(nn.Module):
    """Weight channels by what all of the image says, ``(B, C, *S) -> (B, C, *S)``.

    Hu et al. 2018, arXiv:1709.01507; leaky, since behind an instance norm images have much the same
    means, and a ReLU that none of them passes would stay dead.
    """

    def __init__(self, width: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(4, width // reduction)
        self.layers = nn.Sequential(
            nn.Linear(width, inner), nn.LeakyReLU(SLOPE), nn.Linear(inner, width), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Channels times their weights in (0, 1)."""
        weights: Tensor = self.layers(x.flatten(2).mean(2))
        return x * weights.reshape(*weights.shape, *[1] * (x.ndim - 2))


class AttentionGate(nn.Module):
    """Weight places of a skip connection by what a coarser level says, ``(B, C, *S)`` in and out.

    Additive attention of Oktay et al. 2018, arXiv:1804.03999, at the skip's resolution.
    """

    def __init__(self, nd: int, width: int, signal_width: int) -> None:
        super().__init__()
        inner = max(2, width // 2)
        self.lateral = conv(nd, width, inner, 1)
        self.signal = conv(nd, signal_width, inner, 1)
        self.score = conv(nd, inner, 1, 1)

    def weights(self, x: Tensor, signal: Tensor) -> Tensor:
        """Weights ``(B, 1, *S)`` in (0, 1)."""
        score = self.score(torch.relu(self.lateral(x) + self.signal(signal)))
        return torch.sigmoid(score + OPEN)

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        """The skip's features times their weights."""
        return x * self.weights(x, signal)


@dataclass(frozen=True)
class UShapeConfig:
    """What networks of a U's shape have in common; the budget planner sets what is left open."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels at full resolution"})
    levels: int = field(default=4, metadata={"help": "resolutions, the full one included"})
    max_width: int = field(default=320, metadata={"help": "channels at the coarsest level at most"})
    deep_supervision: int = field(
        default=0, metadata={"help": "coarser decoder levels that get a loss of their own"}
    )
    norm: Literal["instance", "batch"] = field(
        default="instance", metadata={"help": "instance or batch"}
    )

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if self.levels < 2 or min(self.width, self.max_width) < 1 or self.deep_supervision < 0:
            raise ConfigError(
                "expected levels >= 2, width and max_width >= 1, deep_supervision >= 0, got "
                f"{self.levels}, {self.width}, {self.max_width}, {self.deep_supervision}"
            )

    @property
    def widths(self) -> list[int]:
        """Channels by level, finest first."""
        return [min(self.width * 2**i, self.max_width) for i in range(self.levels)]


class UShape(nn.Module):
    """Encoder, decoder and skip connections, ``(B, C, *S) -> (B, outputs, *S)``.

    Args:
        config: Kept for whoever asks the network.
        encoder: Stages, finest first; all but the first halve the resolution.
        up: One a decoder stage, finest first; each doubles the resolution.
        decoder: Stages, finest first; each sees the skip's features and those that come up.
        heads: Features to logits, finest first; all but the first serve training alone.
        lateral: What a skip passes, given what comes up; None: as it is.
        skips: False: nothing passes beside the coarsest level.
        dropout: Share of the coarsest features that training leaves out.
        strides: How each axis shrinks from a level to the next; empty: every axis is halved.
    """

    def __init__(
        self,
        config: Any,
        encoder: nn.Module,
        up: nn.ModuleList,
        decoder: nn.ModuleList,
        heads: nn.ModuleList,
        lateral: nn.ModuleList | None = None,
        skips: bool = True,
        dropout: float = 0.0,
        strides: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        self.config, self.strides = config, strides
        self.encoder, self.up, self.decoder, self.heads = encoder, up, decoder, heads
        self.lateral, self.skips = lateral, skips
        self.dropout = nn.Dropout(dropout)

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features of every level, finest first."""
        features = []
        for stage in self.encoder.children():
            x = stage(x)
            features.append(x)
        return features

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits ``(B, outputs, *S)``; while training with several heads a list, finest first.

        Raises:
            ConfigError: A size that cannot be halved often enough; the nearest is named.
        """
        if self.strides:
            require_strides(x.shape[2:], self.strides)
        else:
            require_levels(x.shape[2:], len(self.up) + 1)
        return self.decode(self.encode(x))

    def decode(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        """Logits, as ``forward`` gives them, of what ``encode`` gives; the list is emptied."""
        x = self.dropout(skips.pop())
        outputs: list[Tensor] = []
        for i in reversed(range(len(self.decoder))):
            x, skip = self.up[i](x), skips.pop()
            if self.lateral is not None:
                skip = self.lateral[i](skip, x)
            x = self.decoder[i](torch.cat([skip, x], 1) if self.skips else x)
            if i < len(self.heads) and (i == 0 or self.training):
                outputs.append(self.heads[i](x))
        outputs.reverse()
        return outputs if self.training and len(outputs) > 1 else outputs[0]


def heads(nd: int, widths: Sequence[int], outputs: int, coarser: int) -> nn.ModuleList:
    """Heads of the finest decoder level and of at most ``coarser`` more; widths by level."""
    count = 1 + min(coarser, len(widths) - 2)
    return nn.ModuleList(conv(nd, width, outputs, 1) for width in widths[:count])
