"""Adversarial segmentation (S1; Luc et al. 2016, arXiv:1611.08408): a segmenter against a critic.

``preset: stable`` is the sound reading: a patch critic on image and mask, spectral norm, hinge
loss with lazy R1, smoothed expert masks, a warm-up, and a cap that keeps the adversarial gradient
at the logits below a tenth of the segmentation gradient. ``preset: literal`` follows the printed
paper: a global critic on the mask alone, per-class cross-entropy, the non-saturating game, Adam at
1e-4. ``swapped_labels`` uses the discriminator loss exactly as printed, whose labels are exchanged:
it teaches the critic to call fakes real, and exists so that a test can show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.losses import adversarial, class_bce, dice_ce
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks import _blocks as blocks
from delineate.networks import global_critic, patch_critic


@dataclass(frozen=True)
class Config:
    """Settings of adversarial training."""

    preset: Literal["stable", "literal"] = field(
        default="stable", metadata={"help": "stable: the sound reading; literal: S1 as printed"}
    )
    swapped_labels: bool = field(
        default=False, metadata={"help": "the discriminator loss as S1 prints it (a fault, shown)"}
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "segmenter's peak (AdamW)"})
    weight_decay: float = field(default=1e-4, metadata={"help": "segmenter's"})
    critic_rate: float = field(default=4e-4, metadata={"help": "critic's peak (Adam 0.5, 0.999)"})
    critic_width: int = field(default=16, metadata={"help": "channels of the critic's first layer"})
    weight: float = field(default=0.02, metadata={"help": "lambda_adv after the warm-up"})
    warm_up: float = field(default=0.2, metadata={"help": "share of training without adversary"})
    ramp: float = field(default=0.2, metadata={"help": "share over which the weight then rises"})
    gradient_cap: float = field(default=0.1, metadata={"help": "adversarial / segmentation norm"})
    r1_weight: float = field(default=1.0, metadata={"help": "gamma of the R1 penalty"})
    r1_every: int = field(default=8, metadata={"help": "steps between R1 penalties"})

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < 1 or self.ramp <= 0 or self.r1_every < 1:
            raise ConfigError(
                "expected 0 <= warm_up < 1, ramp > 0 and r1_every >= 1, "
                f"got {self.warm_up}, {self.ramp}, {self.r1_every}"
            )


class Referee(nn.Module):
    """Counters of the game; buffers, so that they survive a crash."""

    steps: Tensor
    accuracy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("accuracy", torch.tensor(0.75))

    def watch(self, real: Tensor, fake: Tensor) -> None:
        """Follow how often the critic is right, over about twenty steps."""
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        self.accuracy.lerp_(right.detach(), 0.05)
        self.steps += 1


def build(config: Config, segmenter: nn.Module, channels: int, schema: Schema) -> Plan:
    """One stage in which critic and segmenter take turns.

    Args:
        config: Settings.
        segmenter: ``(B, channels, *S) -> (B, outputs, *S)``.
        channels: Input channels.
        schema: Labels of the cohort.
    """
    literal = config.preset == "literal"
    outputs, nd = schema.num_outputs, int(cast(Any, segmenter).config.ndim)
    critic: nn.Module
    if literal:
        critic = global_critic.build(global_critic.Config(nd), outputs)
    else:
        shape = patch_critic.Config(nd, config.critic_width, layers=2 if nd == 3 else 3)
        critic = patch_critic.build(shape, channels + outputs)
    referee = Referee()
    own = torch.optim.AdamW(
        segmenter.parameters(),
        1e-4 if literal else config.learning_rate,
        weight_decay=0.0 if literal else config.weight_decay,
    )
    rival = torch.optim.Adam(
        critic.parameters(), 1e-4 if literal else config.critic_rate, betas=(0.5, 0.999)
    )
    game = "swapped" if config.swapped_labels else "nonsaturating" if literal else "hinge"
    reconstruction = class_bce.loss if literal else dice_ce.loss

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = segmenter(batch.image)
        loss = dice_ce.deep(reconstruction, logits, batch.label)
        fine = logits if isinstance(logits, Tensor) else logits[0]
        fake = fine.sigmoid() if literal else fine.softmax(1)
        expert = blocks.one_hot(batch.label, outputs).to(fake.dtype)
        if literal:
            pair = (expert, fake.detach())
            see = fake
        else:
            shown = _same_view(batch.image, _smooth(expert), fake, update.progress)
            pair = (shown[0], shown[1].detach())
            see = shown[1]

        lazy = not literal and int(referee.steps) % config.r1_every == 0
        inputs = pair[0].requires_grad_(lazy)
        real_score, fake_score = critic(inputs), critic(pair[1])
        rival_loss = adversarial.critic_loss(real_score, fake_score, game)
        penalty = adversarial.r1(real_score, inputs) if lazy else rival_loss.new_zeros(())
        update(rival, rival_loss + 0.5 * config.r1_weight * config.r1_every * penalty)
        referee.watch(real_score, fake_score)

        weight = 1.0 if literal else _ramp(config, update.progress)
        if not literal and not 0.55 <= float(referee.accuracy) <= 0.95:
            weight = 0.0  # a critic that is always or never right has nothing to teach
        term, ratio = loss.new_zeros(()), loss.new_zeros(())
        if weight > 0:
            fooled = weight * adversarial.segmenter_loss(critic(see), game)
            if literal:
                term = fooled
            else:
                term, ratio = _capped(loss, fooled, fine, config.gradient_cap)
        update(own, loss + term)
        return {
            "loss": loss.detach(),
            "d_loss": rival_loss.detach(),
            "d_accuracy": referee.accuracy.clone(),
            "d_real": real_score.detach().mean(),
            "d_fake": fake_score.detach().mean(),
            "r1": penalty.detach(),
            "grad_ratio": ratio.detach(),
            "adversarial_weight": loss.new_tensor(weight),
        }

    modules = {"segmenter": segmenter, "critic": critic, "referee": referee}
    stage = Stage("adversarial", 1.0, modules, {"segmenter": own, "critic": rival}, step)
    return Plan((stage,), segmenter)


def _ramp(config: Config, progress: float) -> float:
    """The adversarial weight: nothing during the warm-up, then a linear rise."""
    return config.weight * min(1.0, max(0.0, (progress - config.warm_up) / config.ramp))


def _smooth(expert: Tensor) -> Tensor:
    """Soften one-hot masks by up to a tenth, so that hardness alone does not betray them."""
    epsilon = 0.1 * torch.rand((len(expert), *(1,) * (expert.ndim - 1)), device=expert.device)
    return (1 - epsilon) * expert + epsilon / expert.shape[1]


def _same_view(
    image: Tensor, expert: Tensor, fake: Tensor, progress: float
) -> tuple[Tensor, Tensor]:
    """Critic inputs under one random shift, flip and cut-out; early on with noise on the masks."""
    axes = list(range(2, image.ndim))
    shifts = [int(torch.randint(-n // 8, n // 8 + 1, ())) for n in image.shape[2:]]
    flips = [axis for axis in axes if bool(torch.rand(()) < 0.5)]
    hole = [slice(None), slice(None)]
    for n in image.shape[2:]:
        start = int(torch.randint(0, n - n // 4 + 1, ()))
        hole.append(slice(start, start + n // 4))
    keep = torch.ones_like(image[:1, :1])
    keep[tuple(hole)] = 0
    noise = 0.1 * max(0.0, 1 - progress / 0.3)

    def view(mask: Tensor) -> Tensor:
        if noise > 0:
            mask = mask + noise * torch.randn_like(mask)
        pair = torch.cat([image, mask], 1)
        return torch.flip(torch.roll(pair, shifts, axes), flips) * keep

    return view(expert), view(fake)


def _capped(loss: Tensor, term: Tensor, logits: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """A stand-in for ``term`` whose gradient at the logits is at most ``cap`` times the loss's.

    Returns:
        The stand-in, and the ratio of the two gradients before the cap.
    """
    (wanted,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (pushed,) = torch.autograd.grad(term, logits, retain_graph=True)
    ratio = pushed.norm() / wanted.norm().clamp_min(1e-12)
    scale = (cap / ratio.clamp_min(1e-12)).clamp_max(1.0)
    return (scale * pushed.detach() * logits).sum(), ratio
