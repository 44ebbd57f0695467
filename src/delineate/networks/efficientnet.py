"""EfficientNet, ``(B, C, H, W) -> (B, outputs)``, in 2D.

Inverted bottlenecks with squeeze and excitation, made wider and deeper together (Tan & Le 2019,
arXiv:1905.11946). ``width=32`` is the paper's and takes torchvision's weights ``efficientnet_b0``
to ``efficientnet_b7``; ``scale`` is the number behind the b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _imagenet as imagenet

PAPER = "Tan & Le 2019, arXiv:1905.11946"
KIND = "classifier"
SMALL = {"drop_path": 0.0}
#: Table 1 of the paper: expansion, kernel, stride, channels, layers.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
#: B0 to B7: factor of the channels, factor of the layers, dropout before the last layer.
SCALES = (
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)


@dataclass(frozen=True)
class Config(imagenet.Flat):
    """Shape of an EfficientNet."""

    width: int = field(default=16, metadata={"help": "channels of B0's first layer; paper: 32"})
    scale: int = field(default=0, metadata={"help": "0 for B0 to 7 for B7"})
    drop_path: float = field(
        default=0.2, metadata={"help": "share of images for which training skips the last block"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        imagenet.require_one_of("scale", self.scale, range(len(SCALES)))
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"expected 0 <= drop_path < 1, got {self.drop_path}")


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> EfficientNet:
    """An EfficientNet with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return EfficientNet(config, channels, outputs)


def rounded(channels: float, step: int) -> int:
    """The nearest multiple of step that takes away no more than a tenth, at least one step."""
    nearest = max(step, int(channels + step / 2) // step * step)
    return nearest + step if nearest < 0.9 * channels else nearest


class Squeeze(nn.Module):
    """Weights of channels by their means: ``(B, C, H, W) -> (B, C, H, W)``."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, inner, 1)
        self.fc2 = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels times their weights in (0, 1)."""
        hidden = nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(hidden))


class Bottleneck(nn.Module):
    """Wider, depthwise, squeezed, narrower again; a shortcut where the shape stays.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        inner: Channels between.
        kernel: Of the depthwise convolution.
        stride: Of the depthwise convolution.
        eps: Of the norms.
        skipped: Share of images for which training takes the shortcut alone.
    """

    def __init__(
        self, before: int, after: int, inner: int, kernel: int, stride: int, eps: float,
        skipped: float,
    ) -> None:  # fmt: skip
        super().__init__()
        parts: list[nn.Module] = [_unit(before, inner, 1, eps=eps)] if inner != before else []
        self.block = nn.Sequential(
            *parts,
            _unit(inner, inner, kernel, stride, groups=inner, eps=eps),
            Squeeze(inner, max(1, before // 4)),
            _unit(inner, after, 1, eps=eps)[:2],
        )
        self.shortcut = stride == 1 and before == after
        self.skipped = skipped

    def forward(self, x: Tensor) -> Tensor:
        """``(B, before, H, W) -> (B, after, H', W')``."""
        y: Tensor = self.block(x)
        if not self.shortcut:
            return y
        if self.training and self.skipped:
            survives = torch.rand((len(y), 1, 1, 1), device=y.device) >= self.skipped
            y = y * survives / (1 - self.skipped)
        return x + y


def _unit(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=eps),
        nn.SiLU(),
    )


class EfficientNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        wider, deeper, dropout = SCALES[config.scale]
        step = max(1, config.width // 4)  # 8 at the paper's width
        eps = 1e-3 if config.scale >= 5 else 1e-5

        def channels_of(paper: int) -> int:
            return rounded(paper * config.width / 32 * wider, step)

        counts = [math.ceil(layers * deeper) for *_, layers in STAGES]
        before, done = channels_of(32), 0
        parts: list[nn.Module] = [_unit(channels, before, 3, 2, eps=eps)]
        for (expansion, kernel, stride, paper, _), count in zip(STAGES, counts, strict=True):
            after, layers = channels_of(paper), []
            for i in range(count):
                inner = before if expansion == 1 else rounded(before * expansion, step)
                skipped = config.drop_path * done / sum(counts)
                layers.append(
                    Bottleneck(before, after, inner, kernel, 1 if i else stride, eps, skipped)
                )
                before, done = after, done + 1
            parts.append(nn.Sequential(*layers))
        parts.append(_unit(before, 4 * before, 1, eps=eps))
        self.features = nn.Sequential(*parts)
        last = nn.Linear(4 * before, outputs)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last)
        imagenet.initialise(self, last)

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, F)``."""
        embedding: Tensor = self.features(x).mean((2, 3))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits
