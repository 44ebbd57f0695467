"""Noise, blur, brightness, contrast, gamma and low resolution, per case and channel.

Ranges follow nnU-Net's (Isensee et al. 2021, supplement); images are expected z-scored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Config:
    """Chances and ranges of the intensity augmentation."""

    noise: float = field(default=0.15, metadata={"help": "chance of Gaussian noise"})
    noise_std: float = field(default=0.1, metadata={"help": "largest standard deviation"})
    blur: float = field(default=0.1, metadata={"help": "chance of Gaussian blur"})
    blur_voxels: tuple[float, float] = field(default=(0.5, 1.0), metadata={"help": "its sigma"})
    brightness: float = field(default=0.15, metadata={"help": "chance of a gain"})
    contrast: float = field(default=0.15, metadata={"help": "chance of a contrast change"})
    gain: tuple[float, float] = field(default=(0.75, 1.25), metadata={"help": "of both"})
    low_resolution: float = field(default=0.15, metadata={"help": "chance of a coarser scan"})
    low_resolution_zoom: tuple[float, float] = field(
        default=(0.5, 1.0), metadata={"help": "how coarse"}
    )
    gamma: float = field(default=0.3, metadata={"help": "chance of a gamma curve"})
    gamma_range: tuple[float, float] = field(default=(0.7, 1.5), metadata={"help": "exponent"})
    inverted_gamma: float = field(default=0.1, metadata={"help": "chance of one on the negative"})


#: A step and its strength; drawn by ``draw``, done by ``apply``.
Action = tuple[str, float]


def draw(config: Config, batch: int, generator: torch.Generator) -> list[list[Action]]:
    """For every case of a batch, the actions to do, in order."""
    plans = [
        ("noise", config.noise, (0.0, config.noise_std)),
        ("blur", config.blur, config.blur_voxels),
        ("brightness", config.brightness, config.gain),
        ("contrast", config.contrast, config.gain),
        ("low_resolution", config.low_resolution, config.low_resolution_zoom),
        ("inverted_gamma", config.inverted_gamma, config.gamma_range),
        ("gamma", config.gamma, config.gamma_range),
    ]
    actions_by_case: list[list[Action]] = []
    for _ in range(batch):
        chances, places = torch.rand((2, len(plans)), generator=generator).tolist()
        actions_by_case.append(
            [
                (name, low + (high - low) * place)
                for (name, chance, (low, high)), draw_, place in zip(
                    plans, chances, places, strict=True
                )
                if draw_ < chance
            ]
        )
    return actions_by_case


def apply(actions: list[list[Action]], image: Tensor, generator: torch.Generator) -> Tensor:
    """Do the drawn actions.

    Args:
        actions: From ``draw``.
        image: ``(B, C, *S)``; not changed.
        generator: For the noise's voxels, on the CPU.
    """
    augmented = []
    for case, case_actions in zip(image, actions, strict=True):
        for name, strength in case_actions:
            case = _apply_one(name, strength, case, generator)
        augmented.append(case)
    return torch.stack(augmented)


def _apply_one(name: str, strength: float, x: Tensor, generator: torch.Generator) -> Tensor:
    """One action on one case ``(C, *S)``."""
    axes = tuple(range(1, x.ndim))
    if name == "noise":
        return x + strength * torch.randn(x.shape, generator=generator).to(x.device)
    if name == "blur":
        return _blur(x, strength)
    if name == "brightness":
        return x * strength
    if name == "contrast":
        mean, low, high = x.mean(axes, True), x.amin(axes, True), x.amax(axes, True)
        return ((x - mean) * strength + mean).clamp(low, high)
    if name == "low_resolution":
        mode = "trilinear" if x.ndim == 4 else "bilinear"
        size = [max(2, round(n * strength)) for n in x.shape[1:]]
        small = F.interpolate(x[None], size=size, mode="area")
        return F.interpolate(small, size=x.shape[1:], mode=mode)[0]
    sign = -1.0 if name == "inverted_gamma" else 1.0
    x = sign * x
    low, mean, std = x.amin(axes, True), x.mean(axes, True), x.std(axes, keepdim=True)
    width = (x.amax(axes, True) - low).clamp_min(1e-6)
    y = ((x - low) / width).pow(strength)
    y = (y - y.mean(axes, True)) / y.std(axes, keepdim=True).clamp_min(1e-6)
    return sign * (y * std + mean)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian with reflected edges, ``(C, *S)``.

    As a sum of shifted images: PyTorch's convolution of one channel takes four times as long.
    """
    radius = max(1, round(3 * sigma))
    place = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    weights = (kernel / kernel.sum()).tolist()
    for axis in range(1, x.ndim):
        n = x.shape[axis]
        if n > radius:
            places = torch.arange(-radius, n + radius, device=x.device).abs()
            padded = x.index_select(axis, n - 1 - (n - 1 - places).abs())
            x = padded.narrow(axis, 0, n) * weights[0]
            for shift, weight in enumerate(weights[1:], 1):
                x.add_(padded.narrow(axis, shift, n), alpha=weight)
    return x
