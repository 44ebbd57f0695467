"""Bidirectional copy-paste (Bai et al. 2023, arXiv:2305.00673): scans mixed with others' boxes.

Two stages. *Pasting*: labelled samples with boxes of other labelled samples in them, image and mask
alike; no other sample is used. *Both ways*: labelled samples with boxes of unlabelled ones, and
unlabelled ones with boxes of labelled ones, so that both kinds look alike to the network. What a
mean teacher, the engine's average, draws on the unlabelled sample is the mask of its voxels; they
count half (``consistency``).

A batch need not hold as many labelled samples as others: whoever finds none of the other kind gets
a box of its own kind, or, alone, none. Of each structure that the teacher draws, the published code
keeps the largest component and calls the rest background. Here the rest teaches nothing, which does
no harm where structures come in several pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses import _sum
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of bidirectional copy-paste."""

    consistency: float = field(
        default=0.5, metadata={"help": "weight of what guesses teach, after its ramp"}
    )
    ramp: float = field(default=0.0, metadata={"help": "share of training over which it rises"})
    pasting: float = field(
        default=0.25, metadata={"help": "share of training with labelled samples alone; 0: none"}
    )
    box: float = field(default=2 / 3, metadata={"help": "sides of a box, in those of the patch"})
    largest: bool = field(
        default=True, metadata={"help": "of a guess, the largest piece of each structure alone"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pasting < 1 or not 0 < self.box < 1:
            raise ConfigError(
                "expected pasting from 0 to below 1 and a box between 0 and 1, "
                f"got {self.pasting} and {self.box}"
            )


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """Two stages: copy-paste among labelled samples, then between both kinds.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    losses = _sum.build(config.losses)

    def stage(name: str, share: float, guesses: bool) -> Stage:
        optimiser = config.optimiser(network)

        def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
            if not guesses and batch.labelled.any():
                known = batch.labelled
                batch = Batch(batch.image[known], batch.label[known], batch.spacing_mm)
            guess = torch.full_like(batch.label, IGNORED)
            if guesses and not batch.labelled.all():
                guess[~batch.labelled] = drawn_by(
                    update.averaged, batch.image[~batch.labelled], config.largest
                )
            image, label, guess = mixed(batch, guess, config.box)
            logits = network(image)
            loss, terms = losses(logits, label, batch.spacing_mm, update.progress)
            loss_pseudo, _ = losses(logits, guess, batch.spacing_mm, update.progress)
            weight = config.weight_at(update.progress)
            update(optimiser, loss + weight * loss_pseudo)
            return {"loss": loss.detach(), **terms, "loss_pseudo": loss_pseudo.detach()}

        return Stage(name, share, {"segmenter": network}, {"segmenter": optimiser}, step)

    both_ways = stage("both_ways", 1 - config.pasting, guesses=True)
    if not config.pasting:
        return Plan((both_ways,), network)
    return Plan((stage("pasting", config.pasting, guesses=False), both_ways), network)


def drawn_by(teacher: nn.Module, image: Tensor, largest: bool) -> Tensor:
    """Masks ``(B, *S)`` of images ``(B, C, *S)``; with ``largest``, islands are ``IGNORED``."""
    with torch.no_grad():
        label = _semi.pseudo_labels(teacher(image))
    return without_islands(label) if largest else label


def mixed(batch: Batch, guess: Tensor, side: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and guesses of a batch, each with a box of the sample's partner.

    Args:
        batch: Of B samples.
        guess: ``(B, *S)``; ``IGNORED`` of labelled samples.
        side: Of the box, as a share of the patch's.
    """
    partner, inside = partners(batch.labelled), _semi.boxes(batch.image, (side, side))
    image, label, guess = (
        _semi.pasted(x, partner, inside) for x in (batch.image, batch.label, guess)
    )
    return image, label, guess


def partners(labelled: Tensor) -> Tensor:
    """``(B,)`` indices: for each sample one of the other kind, or else the next of its own."""
    order = torch.arange(len(labelled), device=labelled.device)
    known, unknown = order[labelled], order[~labelled]
    if not len(known) or not len(unknown):
        return order.roll(-1)
    partner = torch.empty_like(order)
    partner[known] = unknown[torch.arange(len(known)) % len(unknown)]
    partner[unknown] = known[torch.arange(len(unknown)) % len(known)]
    return partner


def without_islands(label: Tensor) -> Tensor:
    """Masks ``(B, *S)``, ``IGNORED`` outside the largest component of each structure.

    Neighbours may touch at a corner; of components of one size the first in array order stays.
    """
    cleaned = label.cpu().numpy().copy()
    corners = np.ones((3,) * (label.ndim - 1))
    for case in cleaned:
        for index in np.unique(case[(case > 0) & (case != IGNORED)]):
            parts, count = ndimage.label(case == index, structure=corners)
            if count > 1:
                largest = 1 + np.bincount(parts[parts > 0] - 1).argmax()
                case[(parts > 0) & (parts != largest)] = IGNORED
    return torch.from_numpy(cleaned).to(label.device)
