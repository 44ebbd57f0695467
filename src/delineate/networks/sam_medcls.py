"""SAM-MedCls, ``(B, C, H, W) -> (B, outputs)``, in 2D: SAM's encoder as a classifier.

SAM's image encoder with adapters, attention to channels and then to places, the mean over the
places, and an MLP (Sun et al. 2024). The paper's attention modules are read as those of CBAM (Woo
et al. 2018, arXiv:1807.06521). With ``preset: vit_b`` the encoder of a public SAM checkpoint fits:
``_sam.load_sam``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _sam as sam

PAPER = "Sun et al. 2024, doi:10.1186/s12880-024-01401-6; Woo et al. 2018, arXiv:1807.06521"
KIND = "classifier"
SMALL = {"dim": 24, "depth": 2, "neck": 16, "adapter": 6}
#: What takes weights of the original program, see ``_transfer``.
load_pretrained = sam.load_sam


@dataclass(frozen=True)
class Config(sam.EncoderConfig):
    """Shape of SAM-MedCls."""

    dropout: float = field(default=0.0, metadata={"help": "dropout before the last layer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"expected 0 <= dropout < 1, got {self.dropout}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this."""
    return sam.resolve(config).patch


def build(config: Config, channels: int, outputs: int) -> SamMedCls:
    """SAM-MedCls with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.
    """
    return SamMedCls(config, channels, outputs)


class DualAttention(nn.Module):
    """Gates on channels, then on places, each from means and maxima."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Linear(width, width // 8), nn.ReLU(), nn.Linear(width // 8, width)
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w) -> (B, C, h, w)``."""
        gate = self.channels(x.mean((2, 3))) + self.channels(x.amax((2, 3)))
        x = x * gate.sigmoid()[..., None, None]
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        output: Tensor = x * self.places(summary).sigmoid()
        return output


class SamMedCls(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width = sam.resolve(config).neck
        self.image_encoder = sam.Encoder(config, channels)
        self.attention = DualAttention(width)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(width, outputs),
        )  # fmt: skip
        sam.initialise(self.attention)
        sam.initialise(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``.

        Raises:
            ConfigError: A side is no multiple of the patch; the nearest size is named.
        """
        logits: Tensor = self.head(self.attention(self.image_encoder(x)).mean((2, 3)))
        return logits
