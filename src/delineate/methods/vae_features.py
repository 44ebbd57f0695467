"""DL-VAE-CNN: features of two variational auto-encoders that share a code, and what they tell.

The input's channels make two pictures (see ``networks/_vae.py``): two sequences, or an image and
what is derived from it. Of each, an encoder gives a common code and a unique code. Decoders, which
only training has, make each picture again of the mean of both common codes and its own unique one,
and once more of the *other's* common code: without that swap, nothing makes a common code common.

- ``vae_cnn`` learns classes from the joined code, and its encoders hear of it.
- ``film_unet`` learns outlines under the code, and the gradient stops there: its encoders describe
  the image and nothing else.

One stage, not two: what is minimised is a single sum,
``reconstruction + beta * KL + 0.1 * cosines + answer``, and the warm-up of beta already gives the
auto-encoders a time in which they learn freely.

Presets: ``sound``, the default, and ``literal``, the sum with the terms as they were printed. There
the cosine of the two common codes is itself minimised, which drives apart what should be alike (a
fault, shown by a test); the distances are not squared, nothing is swapped, and every weight is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import _sum
from delineate.methods import _classes
from delineate.methods._game import rise
from delineate.methods._plan import Plan, Stage, Update, require_rates
from delineate.networks import _vae as vae
from delineate.networks.film_unet import FilmUNet
from delineate.networks.vae_cnn import VaeCnn

TRAINS = ("classifier", "segmenter")
USES = ("labelled",)
#: What it trains of each kind.
NETWORKS = {"classifier": "vae_cnn", "segmenter": "film_unet"}

#: Variance over a batch above which a number of a code is in use (Burda et al. 2016).
_ACTIVE = 0.01

#: What a preset changes of the defaults of ``Config``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "sound": {},
    "literal": {
        "distance": "unsquared",
        "cosine": "printed",
        "swap_weight": 0.0,
        "cosine_weight": 1.0,
        "beta": 1.0,
        "warm_up": 0.0,
        "free_nats": 0.0,
    },
}


@dataclass(frozen=True)
class Config:
    """Settings of training by the features of auto-encoders."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    distance: Literal["mean_squared", "unsquared"] = field(
        default="mean_squared",
        metadata={"help": "of a picture and its reconstruction: mean over voxels, or the norm"},
    )
    swap_weight: float = field(
        default=0.5, metadata={"help": "of reconstructions by the other picture's common code"}
    )
    cosine: Literal["corrected", "printed"] = field(
        default="corrected", metadata={"help": "what is asked of the codes' angles"}
    )
    cosine_weight: float = field(default=0.1, metadata={"help": "of the codes' angles"})
    beta: float = field(default=1e-3, metadata={"help": "of the KL divergence after the warm-up"})
    warm_up: float = field(default=0.3, metadata={"help": "share of training in which beta rises"})
    free_nats: float = field(
        default=0.05, metadata={"help": "KL divergence of a code's number that costs nothing"}
    )
    answer_weight: float = field(default=1.0, metadata={"help": "of the classes or outlines"})
    label_smoothing: float = field(default=0.05, metadata={"help": "of classes; 0: none"})
    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={"room": "losses", "help": "of outlines: files of losses/ with their weights"},
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "peak, AdamW"})
    weight_decay: float = field(default=1e-2, metadata={"help": "AdamW"})

    def __post_init__(self) -> None:
        weights = {
            name: getattr(self, name)
            for name in ("swap_weight", "cosine_weight", "beta", "free_nats", "answer_weight")
        }
        if min(weights.values()) < 0:
            raise ConfigError(f"expected {', '.join(weights)} of 0 or more, got {weights}")
        if not 0 <= self.warm_up <= 1 or not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                "expected 0 <= warm_up <= 1 and 0 <= label_smoothing < 1, "
                f"got {self.warm_up} and {self.label_smoothing}"
            )
        require_rates(self)
        _sum.build(self.losses)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage: reconstruct, keep the codes apart that differ, and answer.

    Args:
        config: Settings.
        network: ``vae_cnn`` or ``film_unet``.
        context: Of the data and the task.

    Raises:
        ConfigError: Another network, which has no encoders of that kind.
    """
    if isinstance(network, VaeCnn):
        kind, answer = "classifier", _class_answer(config, network)
    elif isinstance(network, FilmUNet):
        kind, answer = "segmenter", _outline_answer(config, network)
    else:
        name = type(getattr(network, "config", network)).__module__.rpartition(".")[2]
        raise ConfigError(
            f"expected a network with the encoders of two auto-encoders, got {name!r}",
            where="network",
            fix="choose vae_cnn for classes, film_unet for outlines",
            code="method-network",
        )
    branches, shape = network.branches, network.config
    decoders = nn.ModuleList(
        vae.Decoder(shape.ndim, len(channels), shape.width, shape) for channels in branches.channels
    )
    modules = {kind: network, "decoders": decoders}
    optimiser = torch.optim.AdamW(
        [p for module in modules.values() for p in module.parameters()],
        config.learning_rate,
        weight_decay=config.weight_decay,
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        codes = branches(batch.image)
        commons, uniques = ([n.draw() for n in pair] for pair in zip(*codes, strict=True))
        loss, logged = auto_encoding(
            config, decoders, branches.pictures(batch.image), codes, commons, uniques,
            config.beta * rise(update.progress, 0.0, config.warm_up),
        )  # fmt: skip
        answered, more = answer(batch, vae.join(commons, uniques), update.progress)
        loss = loss + config.answer_weight * answered
        update(optimiser, loss)
        return {"loss": loss.detach(), "loss_answer": answered.detach(), **more, **logged}

    stage = Stage("vae_features", 1.0, modules, {"all": optimiser}, step)
    return Plan((stage,), network)


# ------------------------------------------------------------------------------------ the answers

Answer = Callable[[Batch, Tensor, float], tuple[Tensor, Mapping[str, Tensor]]]


def _class_answer(config: Config, network: VaeCnn) -> Answer:
    """Cross-entropy of the class, as the plain classifier has it; the encoders hear of it."""

    def answer(batch: Batch, code: Tensor, _: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, logged = _classes.cross_entropy(network.classify(code), batch, config.label_smoothing)
        return loss, {"train_accuracy": logged["train_accuracy"]}

    return answer


def _outline_answer(config: Config, network: FilmUNet) -> Answer:
    """Losses of the outlines under a code through which no gradient goes back."""
    losses = _sum.build(config.losses)

    def answer(batch: Batch, code: Tensor, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits = network.segment(batch.image, code.detach())
        return losses(logits, batch.label, batch.spacing_mm, progress)

    return answer


# ------------------------------------------------------------------------------- the auto-encoders


def auto_encoding(
    config: Config,
    decoders: nn.ModuleList,
    pictures: Sequence[Tensor],
    codes: tuple[vae.Codes, vae.Codes],
    commons: Sequence[Tensor],
    uniques: Sequence[Tensor],
    beta: float,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Everything that is minimised but the answer, and what the log should say.

    Args:
        config: Weights of the terms.
        decoders: Of both pictures.
        pictures: ``(B, C', *S)`` each.
        codes: Of both pictures.
        commons: ``(B, D)`` each, drawn.
        uniques: ``(B, D')`` each, drawn.
        beta: Weight of the KL divergence by now.
    """
    reconstructed, swapped = reconstruction(config, decoders, pictures, commons, uniques)
    nats, free = divergence(codes, config.free_nats)
    printed = printed_cosine(*codes)
    angles = disentangled(*codes) if config.cosine == "corrected" else printed
    loss = (
        reconstructed + config.swap_weight * swapped + beta * free + config.cosine_weight * angles
    )
    logged = {
        "loss_reconstruction": reconstructed,
        "loss_swapped": swapped,
        "loss_cosine": angles,
        "cosine_common": printed,
        "kl": nats,
        "active_units": active_units(codes),
    }
    return loss, {name: value.detach() for name, value in logged.items()}


def reconstruction(
    config: Config,
    decoders: nn.ModuleList,
    pictures: Sequence[Tensor],
    commons: Sequence[Tensor],
    uniques: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """How far both pictures are from what the decoders make of the codes.

    Args:
        config: Which distance, and whether codes are swapped.
        decoders: Of both pictures.
        pictures: ``(B, C', *S)`` each.
        commons: ``(B, D)`` each, drawn.
        uniques: ``(B, D')`` each, drawn.

    Returns:
        By the mean of both common codes, and by the other picture's, each summed over the pictures.
    """
    common = torch.stack(list(commons)).mean(0)
    reconstructed, swapped = pictures[0].new_zeros(2)
    for decoder, picture, other, unique in zip(
        decoders, pictures, commons[::-1], uniques, strict=True
    ):
        used = [common, other] if config.swap_weight > 0 else [common]
        decoded = decoder(torch.cat(used), torch.cat([unique] * len(used)), picture.shape[2:])
        gaps = [
            _distance(config, picture_decoded.float() - picture)
            for picture_decoded in decoded.chunk(len(used))
        ]
        reconstructed = reconstructed + gaps[0]
        swapped = swapped + sum(gaps[1:])
    return reconstructed, swapped


def _distance(config: Config, gap: Tensor) -> Tensor:
    """Mean square over voxels and images, or the norm of each image's, mean over images."""
    if config.distance == "mean_squared":
        return gap.square().mean()
    norms: Tensor = torch.linalg.vector_norm(gap.flatten(1), dim=1)
    return norms.mean()


def kl(code: vae.Normal) -> Tensor:
    """Divergence from the standard normal, nats: ``(B, D) -> (D,)``, mean over the batch.

    Of each number of a code ``(mu^2 + sigma^2 - 1 - log sigma^2) / 2``.
    """
    per_number = code.mean.square() + code.log_variance.exp() - 1 - code.log_variance
    return per_number.mean(0) / 2


def divergence(codes: tuple[vae.Codes, vae.Codes], free_nats: float) -> tuple[Tensor, Tensor]:
    """Sum over all four codes of ``kl``, and the same where the first nats of each are free.

    Args:
        codes: Of both pictures.
        free_nats: A number of a code whose divergence is below this costs that much and has no
            gradient, so that it is not switched off for a small gain (Kingma et al. 2016,
            arXiv:1606.04934, section 5.1).
    """
    per_number = torch.cat([kl(normal) for pair in codes for normal in pair])
    return per_number.sum(), per_number.clamp_min(free_nats).sum()


def active_units(codes: tuple[vae.Codes, vae.Codes]) -> Tensor:
    """Numbers of all four codes whose mean differs from image to image (arXiv:1509.00519)."""
    means = torch.cat([normal.mean for pair in codes for normal in pair], 1).detach()
    return (means.var(0, correction=0) > _ACTIVE).sum().float()


def disentangled(first: vae.Codes, second: vae.Codes) -> Tensor:
    """Common codes alike, unique codes at right angles, to each other and to the common ones.

    ``[1 - cos(c1, c2)] + |cos(u1, u2)| + (|cos(c1, u1)| + |cos(c2, u2)|) / 2``, mean over the
    batch, of the means. A unique code is shorter than a common one: zeros are put behind it.

    Args:
        first: Of the first picture.
        second: Of the second.
    """
    common_gap = 1 - _cosine(first.common.mean, second.common.mean)
    unique_overlap = _cosine(first.unique.mean, second.unique.mean).abs()
    within = [_cosine(code.common.mean, code.unique.mean).abs() for code in (first, second)]
    return (common_gap + unique_overlap + (within[0] + within[1]) / 2).mean()


def printed_cosine(first: vae.Codes, second: vae.Codes) -> Tensor:
    """The cosine of the common codes, which as a loss drives them apart (a fault, shown)."""
    return _cosine(first.common.mean, second.common.mean).mean()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """``(B, D), (B, D') -> (B,)``; zeros are put behind the shorter one."""
    longest = max(a.shape[1], b.shape[1])
    a, b = (F.pad(x, (0, longest - x.shape[1])) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)
