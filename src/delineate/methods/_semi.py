"""Bricks of methods that learn from cases without labels: what a guess teaches another guess.

Masks of guesses are taught by the same weighted sum of losses as those of experts, so that any of
its members serves; where a guess is not sure enough it is ``IGNORED`` and teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.augment import intensity
from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses import _sum
from delineate.methods import _game
from delineate.methods._plan import Update, require_rates

#: Chances and ranges of a strong view's intensities.
_STRONG = intensity.Config(
    noise=0.5,
    noise_std=0.2,
    blur=0.5,
    blur_voxels=(0.5, 1.5),
    brightness=0.5,
    contrast=0.8,
    gain=(0.5, 1.5),
    low_resolution=0.25,
    gamma=0.5,
    gamma_range=(0.5, 2.0),
    inverted_gamma=0.25,
)


@dataclass(frozen=True)
class Rules:
    """Settings that all of them share."""

    #: Whether there is a head of signed distances.
    HEAD: ClassVar[bool] = False

    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "of labelled samples: files of losses/ with their weights",
        },
    )
    consistency: float = field(
        default=1.0, metadata={"help": "weight of what guesses teach, after its ramp"}
    )
    ramp: float = field(default=0.4, metadata={"help": "share of training over which it rises"})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-4, metadata={"help": "AdamW"})

    def __post_init__(self) -> None:
        if self.consistency < 0 or not 0 <= self.ramp <= 1:
            raise ConfigError(
                "expected a consistency of 0 or more and a ramp from 0 to 1, "
                f"got {self.consistency} and {self.ramp}"
            )
        require_rates(self)
        _sum.build(self.losses, self.HEAD)

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """AdamW of all of a network."""
        return torch.optim.AdamW(
            network.parameters(), self.learning_rate, weight_decay=self.weight_decay
        )

    def weight_at(self, progress: float) -> float:
        """Of what guesses teach, at a progress of 0 to 1."""
        return self.consistency * rampup(progress, self.ramp)


def rampup(progress: float, ramp: float) -> float:
    """``exp(-5 (1 - t)^2)`` with t rising from 0 to 1 over ``ramp``."""
    t = min(1.0, progress / ramp) if ramp else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def noisy(image: Tensor, spread: float) -> Tensor:
    """The image with Gaussian noise, at most two spreads of it."""
    return image + (spread * torch.randn_like(image)).clamp(-2 * spread, 2 * spread)


def probabilities(logits: Tensor | Sequence[Tensor]) -> Tensor:
    """``(B, outputs, *S)`` of logits, or of the finest of several; 32 bits."""
    fine = logits if isinstance(logits, Tensor) else logits[0]
    return fine.float().softmax(1)


def disagreement(
    student: Tensor | Sequence[Tensor], teacher: Tensor, counts: Tensor | None = None
) -> Tensor:
    """Squared difference of probabilities, mean over structures and voxels; of the finest output.

    The background is left out: it is what remains, and would count every difference twice.

    Args:
        student: Logits ``(B, outputs, *S)``, or those of deep supervision, finest first.
        teacher: Probabilities ``(B, outputs, *S)``.
        counts: ``(B, *S)`` bool, the voxels of which the mean is; by default all. Of none it is 0.
    """
    gap = (probabilities(student) - teacher)[:, 1:].square().mean(1)
    if counts is None:
        return gap.mean()
    return (gap * counts).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def pseudo_labels(logits: Tensor | Sequence[Tensor], threshold: float = 0.0) -> Tensor:
    """``(B, *S)`` uint8: the likeliest output; ``IGNORED`` where it is less likely than asked.

    Args:
        logits: ``(B, outputs, *S)``, or several with the finest first.
        threshold: Least probability.
    """
    confidence, label = probabilities(logits).max(1)
    return label.to(torch.uint8).masked_fill(confidence < threshold, IGNORED)


def of_unlabelled(label: Tensor, batch: Batch) -> Tensor:
    """Guessed labels ``(B, *S)`` of samples that nobody has labelled; ``IGNORED`` of the others."""
    return label.masked_fill(batch.labelled.view(-1, *(1,) * (label.ndim - 1)), IGNORED)


def strongly_changed(image: Tensor) -> Tensor:
    """Images ``(B, C, *S)`` whose intensities differ much more than a feed makes them differ."""
    generator = torch.default_generator
    with torch.autocast(image.device.type, enabled=False):
        return intensity.apply(intensity.draw(_STRONG, len(image), generator), image, generator)


def boxes(image: Tensor, sides: tuple[float, float], chance: float = 1.0) -> Tensor:
    """A box in each sample at a random place: ``(B, *S)`` bool, where it is.

    Args:
        image: ``(B, C, *S)``.
        sides: Range of its sides, as shares of the image's.
        chance: Of there being one.
    """
    inside = torch.zeros_like(image[:, 0], dtype=torch.bool)
    for case in inside:
        low, high = sides
        drawn, *shares = torch.rand(1 + case.ndim).tolist()
        place = []
        for size, share in zip(case.shape, shares, strict=True):
            side = max(1, round(size * (low + (high - low) * share)))
            start = int(torch.randint(size - side + 1, ()))
            place.append(slice(start, start + side))
        case[tuple(place)] = drawn < chance
    return inside


def pasted(x: Tensor, partner: Tensor, inside: Tensor) -> Tensor:
    """Samples with what their partners hold inside a box.

    Args:
        x: ``(B, C, *S)`` or ``(B, *S)``.
        partner: ``(B,)`` indices of samples.
        inside: ``(B, *S)`` bool.
    """
    return torch.where(inside if x.ndim == inside.ndim else inside.unsqueeze(1), x[partner], x)


def global_critic(width: int, ndim: int, channels: int, maps: int) -> nn.Module:
    """A critic with one score a sample, of so many channels of image and maps, joined."""
    rules = _game.Rules("global", width, sees="joined")
    return _game.build_critic(rules, ndim, channels, maps)


def tell_apart(
    critic: nn.Module, rival: torch.optim.Optimizer, update: Update, view: Tensor, labelled: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """A critic learns to tell guesses of labelled samples from others.

    Args:
        critic: ``(B, C', *S) -> (B, 1)``; high: labelled.
        rival: Its optimiser.
        update: The engine's side of the step.
        view: ``(B, C', *S)``, what the critic sees of the guesses, with gradient.
        labelled: ``(B,)``.

    Returns:
        What the others add to the segmenter's loss to be taken for labelled ones, and what the log
        should say.
    """
    # 16 bits: strided convolutions of a single voxel have random gradients on processors
    with torch.autocast(view.device.type, enabled=False):
        scores = critic(view.detach())
        loss = taken_for(scores, labelled)
        update(rival, loss)
        others = critic(view)[~labelled]
    right = (scores[:, 0] > 0) == labelled
    return taken_for(others, torch.ones_like(others[:, 0], dtype=torch.bool)), {
        "d_loss": loss.detach(),
        "d_accuracy": right.float().mean(),
    }


def taken_for(scores: Tensor, labelled: Tensor) -> Tensor:
    """Cross-entropy of scores ``(B, 1)`` of being labelled, mean over samples; 0 of none."""
    signs = torch.where(labelled, -1.0, 1.0).unsqueeze(1)
    return F.softplus(signs * scores.float()).sum() / max(1, len(scores))
