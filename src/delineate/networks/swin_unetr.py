"""Swin UNETR, ``(B, C, *S) -> (B, outputs, *S)``, in 2D or 3D.

A transformer with shifted windows as encoder, convolutions as decoder (Hatamizadeh et al. 2022,
arXiv:2201.01266), in MONAI's implementation and in its smallest form. It is here for comparison: a
controlled study found plain convolutions still ahead (Isensee et al. 2024, arXiv:2404.09556).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.core.errors import ConfigError, MissingExtraError
from delineate.networks import _blocks as blocks

PAPER = "Hatamizadeh et al. 2022, arXiv:2201.01266"
KIND = "segmenter"
SMALL = {"depths": (2, 1, 1, 1), "window": 4}
#: Channels come in twelves, so that the heads divide them.
_UNIT = 12


@dataclass(frozen=True)
class Config:
    """Shape of a Swin UNETR."""

    ndim: int = field(default=3, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(
        default=12,
        metadata={"help": "channels at full resolution, rounded up to a multiple of 12"},
    )
    depths: tuple[int, ...] = field(
        default=(2, 2, 2, 2), metadata={"help": "transformer blocks of the four stages"}
    )
    window: int = field(default=7, metadata={"help": "voxels of an attention window's side"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ConfigError(f"expected ndim 2 or 3, got {self.ndim}")
        if self.width < 1 or self.window < 2:
            raise ConfigError(
                f"expected width >= 1 and window >= 2, got {self.width}, {self.window}"
            )
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ConfigError(f"expected four depths >= 1, got {self.depths}")


def divisor(config: Config) -> int:
    """Every spatial size must be a multiple of this: it is halved five times."""
    return 32


def build(config: Config, channels: int, outputs: int) -> SwinUNETR:
    """A Swin UNETR with fresh weights.

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Output channels, background included.
    """
    return SwinUNETR(config, channels, outputs)


class SwinUNETR(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        try:
            from monai.networks.nets import swin_unetr as monai  # takes seconds to import
        except ImportError as error:
            raise MissingExtraError(
                f"expected MONAI with einops, whose implementation this is, got: {error}",
                where="swin_unetr",
                fix='pip install "delineate[monai]"',
            ) from None
        super().__init__()
        self.config = config
        self.net = monai.SwinUNETR(
            channels,
            outputs,
            depths=config.depths,
            window_size=config.window,
            feature_size=-(-config.width // _UNIT) * _UNIT,
            spatial_dims=config.ndim,
            use_flash_attention=True,  # the same answer, in 3D twice as fast without gradients
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs, *S)``.

        Raises:
            ConfigError: A spatial size is no multiple of 32, or nothing but one voxel would be
                left at the coarsest level; the nearest size is named.
        """
        least = divisor(self.config)
        blocks.require_multiple(x.shape[2:], least)
        if all(n == least for n in x.shape[2:]):
            raise ConfigError(
                f"expected more than one voxel at the coarsest level, got {tuple(x.shape[2:])}",
                fix=f"pad to {(2 * least, *x.shape[3:])}",
                code="size",
            )
        logits: Tensor = self.net(x)
        return logits
