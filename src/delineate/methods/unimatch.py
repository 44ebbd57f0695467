"""UniMatch (Yang et al. 2023, arXiv:2208.09910) and FixMatch (Sohn et al. 2020, arXiv:2001.07685).

Of samples without labels, as the feed gives them (the weak view), the network draws masks. Where
it is sure enough of them, they are what it learns to draw of strong views of the same samples:
intensities changed much more than in the feed, and boxes of other unlabelled samples pasted in,
image and mask alike (CutMix: Yun et al. 2019, arXiv:1905.04899). In one more stream the weak view
stays, and channels of its features are left out at random before they are decoded. Labelled
samples teach as in supervised training.

``preset: fixmatch`` is one strong view and no left-out features. As published the network draws the
masks itself; ``teacher: averaged`` lets its moving average do so. The streams weigh as published: a
quarter for each of two strong views and a half for the features, against one for the labels; and
all of them times the share of voxels that the guess is sure of. So cross-entropy is a mean over all
voxels, as published, and at first a handful of sure voxels does not outweigh the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses import _sum
from delineate.methods import _semi
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks._blocks import UShape

TRAINS = ("segmenter",)
USES = ("labelled", "unlabelled")

#: What a preset changes of the defaults of ``Config``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "unimatch": {},
    "fixmatch": {"views": 1, "features": 0.0},
}
#: Sides of boxes, as shares of the image's.
_SIDES = (0.25, 0.6)


@dataclass(frozen=True)
class Config(_semi.Rules):
    """Settings of UniMatch."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    ramp: float = field(default=0.0, metadata={"help": "share of training over which it rises"})
    threshold: float = field(
        default=0.95, metadata={"help": "least probability with which a guess teaches"}
    )
    views: int = field(default=2, metadata={"help": "strong views of each unlabelled sample"})
    mix: float = field(default=0.5, metadata={"help": "chance of a box of another sample in each"})
    features: float = field(
        default=0.5, metadata={"help": "share of features left out in a stream of its own; 0: none"}
    )
    teacher: Literal["itself", "averaged"] = field(
        default="itself", metadata={"help": "who draws masks of weak views"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1 or not 0 <= self.mix <= 1 or not 0 <= self.features < 1:
            raise ConfigError(
                "expected threshold and mix from 0 to 1 and features from 0 to below 1, "
                f"got {self.threshold}, {self.mix} and {self.features}"
            )
        if self.views < 1:
            raise ConfigError(f"expected 1 strong view or more, got {self.views}")


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: labelled samples, and strong views of the others under masks of their weak ones.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.

    Raises:
        ConfigError: Features are to be left out of a network that does not encode and decode.
    """
    if config.features and not isinstance(network, UShape):
        raise ConfigError(
            "expected a network that decodes features of an encoder, such as unet, got "
            f"{type(network).__name__}",
            where="method_settings.features",
            fix="use features: 0, or network: unet",
            code="no-features",
        )
    losses = _sum.build(config.losses)
    optimiser = config.optimiser(network)

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        weak, guess = batch.image[~batch.labelled], batch.label[~batch.labelled]
        parts = [(batch.image[batch.labelled], batch.label[batch.labelled])]
        if len(weak):
            teacher = update.averaged if config.teacher == "averaged" else network
            with torch.no_grad():
                guess = _semi.pseudo_labels(teacher(weak), config.threshold)
            parts += [strong_view(weak, guess, config.mix) for _ in range(config.views)]
        images, labels = zip(*parts, strict=True)
        logits = network(torch.cat(images))
        nothing = [torch.full_like(label, IGNORED) for label in labels]
        real = torch.cat([labels[0], *nothing[1:]])
        pseudo = torch.cat([nothing[0], *labels[1:]])
        loss, terms = losses(logits, real, batch.spacing_mm, update.progress)
        loss_pseudo, _ = losses(logits, pseudo, batch.spacing_mm, update.progress)
        if isinstance(network, UShape) and config.features and len(weak):
            fewer = [torch.feature_dropout(x, config.features, True) for x in network.encode(weak)]
            logits = network.decode(fewer)
            loss_features, _ = losses(logits, guess, batch.spacing_mm, update.progress)
            loss_pseudo = (loss_pseudo + loss_features) / 2
        sure = (guess != IGNORED).sum() / max(1, guess.numel())
        weight = config.weight_at(update.progress)
        update(optimiser, loss + weight * sure * loss_pseudo)
        return {
            "loss": loss.detach(),
            **terms,
            "loss_pseudo": loss_pseudo.detach(),
            "consistency_weight": loss.new_tensor(weight),
            "sure": sure,
        }

    stage = Stage("unimatch", 1.0, {"segmenter": network}, {"segmenter": optimiser}, step)
    return Plan((stage,), network)


def strong_view(image: Tensor, label: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """The same samples, much changed and with boxes of the next one; labels follow the boxes.

    Args:
        image: ``(B, C, *S)``.
        label: ``(B, *S)``.
        mix: Chance of a box.
    """
    inside = _semi.boxes(image, _SIDES, mix)
    partner = torch.arange(len(image), device=image.device).roll(-1)
    image = _semi.pasted(_semi.strongly_changed(image), partner, inside)
    return image, _semi.pasted(label, partner, inside)
