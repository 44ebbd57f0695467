"""The game between a segmenter and its critics: what they see, what they learn, who keeps score.

The bricks of every adversarial method. The defaults of ``Rules`` are the stable kit: a patch critic
on image and mask, spectral norm, hinge loss with lazy R1, smoothed expert masks, one random view
for both sides, a warm-up, and a cap on how hard the critics may push.

Two choices differ from common practice, for reasons measured in docs/LOG.md. The critic's accuracy
is counted on pairs: at how many places does it score the expert's mask above the guess of the same
image? Scores vary more from image to image than from expert to guess, so that a fixed threshold
says one half long before the critic is at a loss. And a critic that is nearly always right rests,
instead of falling silent: silent, it would stay right for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached
from torch.optim import Adam

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import adversarial
from delineate.losses._common import annotated, one_hot
from delineate.methods._plan import Part, Update, require_rates
from delineate.networks import global_critic, patch_critic
from delineate.networks._critics import Activation, CriticInput, Sees, input_channels, see


@dataclass(frozen=True)
class Rules:
    """Settings of the critics' side."""

    critic: Literal["patch", "global"] = field(
        default="patch", metadata={"help": "a score for every patch, or one for the image"}
    )
    critic_width: int = field(default=16, metadata={"help": "channels of the critic's first layer"})
    critic_layers: int = field(
        default=0, metadata={"help": "layers that halve the resolution; 0: 2 in 3D, 3 in 2D"}
    )
    wide_field: bool = field(
        default=False, metadata={"help": "pix2pix's last layers: 3 halvings then see 70 voxels"}
    )
    critic_norm: Literal["none", "instance", "batch"] = field(
        default="none", metadata={"help": "behind the critic's layers"}
    )
    spectral_norm: bool = field(default=True, metadata={"help": "bound every critic layer's gain"})
    critic_rate: float = field(default=4e-3, metadata={"help": "critic's peak (Adam)"})
    critic_momentum: float = field(default=0.5, metadata={"help": "beta 1 of the critic's Adam"})
    sees: Sees = field(
        default="joined",
        metadata={
            "help": "the mask alone; image and mask joined, or each with a first layer of its own; "
            "or the image times every channel of the mask"
        },
    )
    expert: Literal["smoothed", "one_hot", "scaled"] = field(
        default="smoothed",
        metadata={"help": "expert masks softened a little, as they are, or as near the guess"},
    )
    views: bool = field(
        default=True, metadata={"help": "one random shift, flip and cut-out for both masks"}
    )
    noise: float = field(
        default=0.1, metadata={"help": "on both masks; fades over the first 30 % of training"}
    )
    game: Literal["hinge", "nonsaturating"] = field(
        default="hinge", metadata={"help": "loss of both sides"}
    )
    weight: float = field(default=0.02, metadata={"help": "lambda_adv after the warm-up"})
    warm_up: float = field(default=0.2, metadata={"help": "share of training without adversary"})
    ramp: float = field(default=0.2, metadata={"help": "share over which the weight then rises"})
    gate: tuple[float, float] = field(
        default=(0.55, 0.9),
        metadata={"help": "accuracy below which a critic is not heard, and above which it rests"},
    )
    gradient_cap: float = field(
        default=0.1, metadata={"help": "adversarial / segmentation gradient at most; 0: no cap"}
    )
    r1_weight: float = field(default=1.0, metadata={"help": "gamma of the R1 penalty; 0: none"})
    r1_every: int = field(default=8, metadata={"help": "steps between R1 penalties"})

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up < 1 or self.ramp < 0 or self.r1_every < 1:
            raise ConfigError(
                "expected 0 <= warm_up < 1, ramp >= 0 and r1_every >= 1, "
                f"got {self.warm_up}, {self.ramp}, {self.r1_every}"
            )
        if not 0 <= self.gate[0] < self.gate[1] <= 1:
            raise ConfigError(f"expected 0 <= gate[0] < gate[1] <= 1, got {self.gate}")
        if min(self.weight, self.gradient_cap, self.r1_weight, self.noise) < 0:
            raise ConfigError(
                "expected weight, gradient_cap, r1_weight and noise of 0 or more, "
                f"got {self.weight}, {self.gradient_cap}, {self.r1_weight}, {self.noise}"
            )
        if self.critic_width < 1 or self.critic_layers < 0:
            raise ConfigError(
                "expected critic_width >= 1 and critic_layers >= 0, "
                f"got {self.critic_width} and {self.critic_layers}"
            )
        require_rates(self)

    def complete(self, ndim: int) -> Self:
        """What was left open, for images of so many dimensions: the critic's layers."""
        return replace(self, critic_layers=self.critic_layers or (2 if ndim == 3 else 3))


class Referee(nn.Module):
    """Counters of the game; buffers, so that they survive a crash."""

    steps: Tensor
    accuracy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("accuracy", torch.tensor(0.75))

    def watch(self, real: Tensor, fake: Tensor) -> None:
        """Follow how often the critic is right, over about twenty steps.

        Args:
            real: Scores of expert masks.
            fake: Scores of guesses of the same images, seen in the same way.
        """
        right = (real > fake).float() + 0.5 * (real == fake).float()
        self.accuracy.lerp_(right.mean().detach(), 0.05)
        self.steps += 1


class Game:
    """Critics against a segmenter; holds no state but what ``critics`` and ``referee`` save."""

    def __init__(self, rules: Rules, critics: Sequence[nn.Module], kind: str = "") -> None:
        self.rules, self.critics, self.kind = rules, list(critics), kind or rules.game
        self.referee = Referee()
        self.rival = Adam(
            [p for critic in self.critics for p in critic.parameters()],
            rules.critic_rate,
            betas=(rules.critic_momentum, 0.999),
        )

    def show(self, batch: Batch, predicted: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """What the critics see of an expert mask and of a guess, ``(B, C', *S)`` each.

        Args:
            batch: Images and labels.
            predicted: ``(B, outputs, *S)`` probabilities.
            progress: Of the stage, 0 to 1.
        """
        hot = one_hot(batch.label, predicted)
        expert = hot
        if self.rules.expert == "smoothed":
            expert = smooth(hot)
        elif self.rules.expert == "scaled":
            expert = scale(hot, predicted.detach())
        # nobody says what a mask should look like elsewhere
        mask = annotated(batch.label, predicted)
        return self.view(batch.image, expert * mask, predicted * mask, progress)

    def view(
        self, image: Tensor, expert: Tensor, predicted: Tensor, progress: float
    ) -> tuple[Tensor, Tensor]:
        """The same of maps of any kind: noise, one random view for all, and what is joined.

        Args:
            image: ``(B, C, *S)``.
            expert: ``(B, R, *S)``, what the guess should look like.
            predicted: ``(B, R, *S)``.
            progress: Of the stage, 0 to 1.
        """
        noise = self.rules.noise * max(0.0, 1 - progress / 0.3)
        if noise > 0:
            expert, predicted = (x + noise * torch.randn_like(x) for x in (expert, predicted))
        if self.rules.views:
            image, expert, predicted = same_view(image, expert, predicted)
        return see(self.rules.sees, image, expert), see(self.rules.sees, image, predicted)

    def teach(self, update: Update, real: Tensor, *fakes: Tensor) -> Mapping[str, Tensor]:
        """The critics' turn.

        Args:
            update: The engine's side of the step.
            real: Views of expert masks, from ``show``.
            fakes: Views of guesses, detached: one tensor for each critic.

        Returns:
            What the log should say.
        """
        rules = self.rules
        lazy = rules.r1_weight > 0 and int(self.referee.steps) % rules.r1_every == 0
        inputs = real.detach().requires_grad_(lazy)
        loss, penalty = real.new_zeros(()), real.new_zeros(())
        scores: list[tuple[Tensor, Tensor]] = []
        for critic, fake in zip(self.critics, fakes, strict=True):
            with cached():  # both by the same weights: spectral norm moves on at every use
                scores.append((critic(inputs), critic(fake)))
            loss = loss + adversarial.critic_loss(*scores[-1], self.kind)
            if lazy:
                signs = torch.randint_like(scores[-1][0], 2) * 2 - 1
                penalty = penalty + adversarial.r1(scores[-1][0], inputs, signs)
        awake = 1.0 if float(self.referee.accuracy) <= rules.gate[1] else 0.0
        total = loss + 0.5 * rules.r1_weight * rules.r1_every * penalty
        update(self.rival, awake * total)
        self.referee.watch(*scores[0])
        return {
            "d_loss": loss.detach(),
            "d_accuracy": self.referee.accuracy.clone(),
            "d_real": scores[0][0].detach().mean(),
            "d_fake": scores[0][1].detach().mean(),
            "r1": penalty.detach(),
        }

    def push(
        self, loss: Tensor, logits: Tensor, fake: Tensor, progress: float
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the segmenter adds to its loss to be scored as an expert.

        Args:
            loss: Its segmentation loss.
            logits: Its finest output, which ``loss`` and ``fake`` hang on.
            fake: View of its guess, from ``show``, with gradient.
            progress: Of the stage, 0 to 1.

        Returns:
            The term, and what the log should say.
        """
        rules, term, ratio = self.rules, loss.new_zeros(()), loss.new_zeros(())
        weight = rules.weight * rise(progress, rules.warm_up, rules.ramp)
        if float(self.referee.accuracy) < rules.gate[0]:
            weight = 0.0  # a critic that cannot tell has nothing to teach; it goes on learning
        if weight > 0:
            scores = [adversarial.segmenter_loss(c(fake), self.kind) for c in self.critics]
            fooled = weight * torch.stack(scores).mean()
            term, ratio = capped(loss, fooled, logits, rules.gradient_cap or math.inf)
        return term, {"grad_ratio": ratio.detach(), "adversarial_weight": loss.new_tensor(weight)}


def build_critic(rules: Rules, ndim: int, channels: int, outputs: int) -> nn.Module:
    """A fresh critic for what ``rules.sees`` of ``channels`` of image and ``outputs`` of mask."""
    channels_seen = input_channels(rules.sees, channels, outputs)
    if rules.critic == "global":
        widths = tuple(2 * rules.critic_width * 2**i for i in range(4))
        return global_critic.build(
            global_critic.Config(ndim, widths, rules.critic_norm, rules.spectral_norm),
            channels_seen,
        )
    shape = patch_critic.Config(
        ndim,
        rules.critic_width,
        layers=rules.complete(ndim).critic_layers,
        wide_field=rules.wide_field,
        norm=rules.critic_norm,
        spectral_norm=rules.spectral_norm,
        apart=channels if rules.sees == "branches" else 0,
    )
    return patch_critic.build(shape, channels_seen)


def critic_part(
    rules: Rules, critic: nn.Module, context: Context, activation: Activation = "softmax"
) -> Part:
    """A critic as the model file keeps it.

    Args:
        rules: That it was built by.
        critic: From ``build_critic``, for the channels and outputs of the context.
        context: Of the data and the task.
        activation: What turned the segmenter's logits into the guesses that it was shown.
    """
    channels_seen = input_channels(rules.sees, context.channels, context.outputs)
    return Part(
        f"{rules.critic}_critic", cast(Any, critic).config, channels_seen, 1,
        CriticInput(rules.sees, activation), critic,
    )  # fmt: skip


def rise(progress: float, warm_up: float, ramp: float) -> float:
    """Nothing during the warm-up, then a linear rise to 1 over ``ramp``."""
    if ramp == 0:
        return float(progress >= warm_up)
    return min(1.0, max(0.0, (progress - warm_up) / ramp))


def smooth(expert: Tensor) -> Tensor:
    """Soften one-hot masks by up to a tenth, so that hardness alone does not betray them."""
    epsilon = 0.1 * torch.rand((len(expert), *(1,) * (expert.ndim - 1)), device=expert.device)
    return (1 - epsilon) * expert + epsilon / expert.shape[1]


def scale(expert: Tensor, predicted: Tensor, least: float = 0.9) -> Tensor:
    """Expert masks as near the guess as can be with ``least`` for the true class (Luc et al.)."""
    true = (expert * predicted).sum(1, keepdim=True)
    lifted = true.clamp_min(least)
    others = predicted * (1 - lifted) / (1 - true).clamp_min(1e-6)
    return torch.where(expert > 0, lifted, others)


def random_shifts(sizes: Sequence[int]) -> list[int]:
    """For each axis a shift of up to an eighth of its size, to either side alike."""
    return [int(torch.randint(-(n // 8), n // 8 + 1, ())) for n in sizes]


def same_view(image: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
    """One random shift, flip and cut-out for all of them.

    Args:
        image: ``(B, C, *S)``.
        masks: ``(B, outputs, *S)`` each.
    """
    axes = list(range(2, image.ndim))
    shifts = random_shifts(image.shape[2:])
    flips = [axis for axis in axes if bool(torch.rand(()) < 0.5)]
    hole = [slice(None), slice(None)]
    for n in image.shape[2:]:
        start = int(torch.randint(0, n - n // 4 + 1, ()))
        hole.append(slice(start, start + n // 4))
    keep = torch.ones_like(image[:1, :1])
    keep[tuple(hole)] = 0
    return tuple(torch.flip(torch.roll(x, shifts, axes), flips) * keep for x in (image, *masks))


def capped(loss: Tensor, term: Tensor, logits: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """A stand-in for ``term`` whose gradient at the logits is at most ``cap`` times the loss's.

    Returns:
        The stand-in, and the ratio of the two gradients before the cap.
    """
    (loss_gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (term_gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
    ratio = term_gradient.norm() / loss_gradient.norm().clamp_min(1e-12)
    factor = (cap / ratio.clamp_min(1e-12)).clamp_max(1.0)
    return (factor * term_gradient.detach() * logits).sum(), ratio
