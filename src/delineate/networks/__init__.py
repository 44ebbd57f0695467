"""One file a network; its name is the file's. This is the contract: all that other rooms may ask.

A file holds what :class:`NetworkFile` says, and what it likes of :class:`NetworkFileHooks`. The
module that it builds is called with a patch, ``(B, channels, *S)``, and gives

- a segmenter: logits ``(B, outputs, *S)``, or a list of them, finest first, while it trains;
- a classifier: logits ``(B, outputs)``, or a list with those of further heads last, while it
  trains;
- a critic: scores of any shape, one for each place that it looks at.

It may offer what :class:`ModuleHooks` says. Whatever is not named here, nobody looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = Literal["segmenter", "classifier", "critic"]


class NetworkFile(Protocol):
    """What every file has. Its docstring begins with a line that says what the network is."""

    #: Authors, year, and where it was published.
    PAPER: str
    #: What it is for.
    KIND: Kind
    #: A frozen dataclass with ``ndim`` (2, 3; others are refused by a ConfigError) and a help text
    #: for every field. What is called ``width``, ``levels``, ``deep_supervision`` or ``features``
    #: is derived from patch and budget where nobody gives it, and so are ``strides`` and
    #: ``kernels`` (see ``networks.unet``) where ``levels`` is left open too.
    Config: type[Any]

    @staticmethod
    def divisor(config: Any) -> int | tuple[int, ...]:
        """What every side of a patch must be a multiple of; one number an axis where they differ.

        Of another size, the network raises a ConfigError with the code ``size`` that names the
        next larger one: ``networks._blocks.require_multiple`` does.
        """

    @staticmethod
    def build(config: Any, channels: int, outputs: int) -> nn.Module:
        """The network, with fresh weights drawn from torch's generator."""


class NetworkFileHooks(Protocol):
    """What a file may have besides."""

    #: Settings that make it small, with which tests and ``delineate check`` try it out.
    SMALL: Mapping[str, Any]
    #: Least side of a patch; 1 by default.
    LEAST: int
    #: False: its last convolution sees less than the whole image, so that no head can share it.
    WHOLE_IMAGE: bool

    @staticmethod
    def derived(patch: Sequence[int]) -> Mapping[str, Any]:
        """Further settings that follow from the size of the patch."""

    @staticmethod
    def load_pretrained(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
        """Take weights of another program whose tensors are named otherwise.

        Returns:
            A line a tensor: ``loaded NAME``, ``resized NAME: how``, ``left out NAME: why``, each
            of the file, or ``fresh NAME`` of the network.
        """


class ConfigHooks(Protocol):
    """What a ``Config`` may have."""

    def complete(self, ndim: int) -> Any:
        """The same settings, without those left open until the dimensions are known."""


class ModuleHooks(Protocol):
    """What a built network may have."""

    #: The settings that it was built from.
    config: Any
    #: Of a classifier: the linear layers whose mean are the logits; by default its last one.
    heads: Sequence[nn.Linear]

    def embed(self, x: Tensor) -> Tensor:
        """Of a classifier: what its logits are made from, ``(B, C, *S) -> (B, F)``."""

    def slice_weights(self, x: Tensor) -> Tensor | None:
        """Of a classifier of volumes: what each slice counted, ``(B, slices)``, sums 1."""

    def score_map(self, x: Tensor) -> Tensor:
        """Of a critic whose scores have a place: ``(B, C', *S) -> (B, K, *S)``.

        Prediction writes it as a map, where a method has kept the critic.
        """
