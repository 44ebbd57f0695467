"""DL-VAE-CNN's classifier, ``(B, C, *S) -> (B, outputs)``, in 2D or 3D.

Two encoders of variational auto-encoders, one for each of two groups of channels, part what the
groups share from what each has alone. The mean of the common codes and both unique ones go through
one hidden layer (an MLP, since the codes are vectors: there is no map left to convolve). In use
the codes are the means of their distributions; training draws them.

The method ``vae_features`` trains it as an auto-encoder too, with decoders of its own. Another
method trains it as a plain classifier with a noisy code in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _vae as family

PAPER = "Kingma & Welling 2014, arXiv:1312.6114; Zuo et al. 2023, arXiv:2306.09629"
KIND = "classifier"


@dataclass(frozen=True)
class Config(family.CodeConfig):
    """Shape of both encoders and of the classifier behind them."""

    ndim: int = field(default=2, metadata={"help": "2 or 3 spatial dimensions"})
    width: int = field(default=16, metadata={"help": "channels after an encoder's first halving"})
    hidden: int = field(default=128, metadata={"help": "features before the last layer"})
    dropout: float = field(default=0.2, metadata={"help": "dropout before the last layer"})

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3) or min(self.width, self.hidden) < 1:
            raise ConfigError(
                "expected ndim 2 or 3, width and hidden >= 1, got "
                f"{self.ndim}, {self.width}, {self.hidden}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"expected 0 <= dropout < 1, got {self.dropout}")
        self.require_codes()


def divisor(config: Config) -> int:
    """Any size will do: odd sizes are halved upwards."""
    return 1


def build(config: Config, channels: int, outputs: int) -> VaeCnn:
    """Two encoders and a classifier with fresh weights (He initialisation).

    Args:
        config: Shape of the network.
        channels: Input channels C.
        outputs: Classes.

    Raises:
        ConfigError: A channel is asked for that the input does not have.
    """
    return VaeCnn(config, channels, outputs)


class VaeCnn(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.branches = family.Branches(config.ndim, channels, config.width, config)
        self.dense = nn.Sequential(nn.Linear(self.branches.length, config.hidden), nn.SiLU())
        self.head = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.hidden, outputs))
        blocks.initialise(self)

    def classify(self, code: Tensor) -> Tensor:
        """Logits ``(B, outputs)`` of a joined code ``(B, common + 2 unique)``."""
        logits: Tensor = self.head(self.dense(code))
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """Features before the last layer, ``(B, hidden)``."""
        embedding: Tensor = self.dense(self.branches.code(x))
        return embedding

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, outputs)``."""
        logits: Tensor = self.head(self.embed(x))
        return logits
