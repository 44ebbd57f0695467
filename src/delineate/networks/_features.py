"""The features that a segmenter's logits are made from, for heads that only training uses."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks._blocks import per_axis


class Tap:
    """Catches what goes into the last layer of a network whenever it is run in training mode.

    Nothing of it is in the network's state, and in evaluation mode nothing is caught, so neither
    model file nor export know of it.
    """

    def __init__(self, layer: nn.Module, width: int) -> None:
        self.width = width
        self._caught: list[Tensor] = []
        caught = self._caught

        # a function, not a method: averaged copies of the network must not copy what was caught
        def catch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module.training:
                caught[:] = [inputs[0]]

        layer.register_forward_pre_hook(catch)

    def take(self) -> Tensor:
        """``(B, width, *S')`` of the latest pass; it is let go at once."""
        return self._caught.pop()


def tap(segmenter: nn.Module, channels: int, outputs: int) -> Tap:
    """Find the last convolution that gives as many channels as there are outputs, and tap it.

    A small image is sent through the network to see which one is called last. A network whose last
    layer sees anything but the whole image, such as a crop of it, says so: ``WHOLE_IMAGE = False``.

    Args:
        segmenter: ``(B, channels, *S) -> (B, outputs, *S)``; its mode is left as it was.
        channels: Input channels.
        outputs: Output channels.

    Raises:
        ConfigError: The network does not end in such a convolution over the whole image.
    """
    module = importlib.import_module(type(cast(Any, segmenter).config).__module__)
    called: list[nn.Module] = []

    def note(layer: nn.Module, _: Any, result: Tensor) -> None:
        if result.shape[1] == outputs:
            called.append(layer)

    convolutions = [m for m in segmenter.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    hooks = [m.register_forward_hook(note) for m in convolutions]
    training = segmenter.training
    try:
        with torch.no_grad():
            segmenter.eval()(_small_image(module, cast(Any, segmenter).config, channels))
    finally:
        segmenter.train(training)
        for hook in hooks:
            hook.remove()
    if not called or not getattr(module, "WHOLE_IMAGE", True):
        raise ConfigError(
            f"expected a network that ends in a convolution of the whole image with {outputs} "
            f"channels, got {module.__name__.rpartition('.')[2]!r}",
            where="network",
            fix="choose another network, for instance unet, or leave out signed_distance",
            code="no-features",
        )
    return Tap(called[-1], cast(Any, called[-1]).in_channels)


def _small_image(module: ModuleType, config: Any, channels: int) -> Tensor:
    """Zeros of a size that the network takes, with several voxels at its coarsest level."""
    steps = per_axis(config.ndim, module.divisor(config))
    return torch.zeros((1, channels, *(max(2, -(-16 // step)) * step for step in steps)))
