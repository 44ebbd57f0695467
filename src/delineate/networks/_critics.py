"""What a critic sees of an image and a predicted mask: one rule for training and for prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

Sees = Literal["mask", "joined", "branches", "product"]
Activation = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class CriticInput:
    """What a critic's input is made of; travels with it in the model file.

    Args:
        sees: See :func:`see`.
        activation: What turns the segmenter's logits into the mask that is seen.
    """

    sees: Sees = "joined"
    activation: Activation = "softmax"


def see(sees: str, image: Tensor, mask: Tensor) -> Tensor:
    """What a critic sees, ``(B, C', *S)``.

    Args:
        sees: ``mask`` alone; ``joined``, or ``branches`` (which differs in the critic's first
            layer): the image and the mask; ``product``: the image times every channel of the mask.
        image: ``(B, C, *S)``.
        mask: ``(B, outputs, *S)``.
    """
    if sees == "mask":
        return mask
    if sees == "product":
        return (image.unsqueeze(2) * mask.unsqueeze(1)).flatten(1, 2)
    return torch.cat([image, mask], 1)


def input_channels(sees: str, channels: int, outputs: int) -> int:
    """C' of what :func:`see` gives of ``channels`` of image and ``outputs`` of mask."""
    return {"mask": outputs, "product": channels * outputs}.get(sees, channels + outputs)


def activate(activation: Activation, logits: Tensor) -> Tensor:
    """The mask that a critic is shown of a segmenter's logits, ``(B, outputs, *S)`` each."""
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)


def score_map(critic: nn.Module, inputs: CriticInput, image: Tensor, logits: Tensor) -> Tensor:
    """A critic's scores of a prediction, ``(B, K, *S)``: the higher, the more like an expert mask.

    Args:
        critic: A network with ``score_map``.
        inputs: What its input is made of.
        image: ``(B, C, *S)``.
        logits: ``(B, outputs, *S)`` of the segmenter.
    """
    masked = see(inputs.sees, image, activate(inputs.activation, logits))
    return cast(Tensor, cast(Any, critic).score_map(masked))
