"""CPGAN (Wang et al. 2020, arXiv:2008.13109): two critics, and a guess that moves with its image.

Beside the critic of the stable game (``_game``) an assistant judges with it: it learns from guesses
of earlier steps, which a replay buffer keeps, so that it does not forget what the segmenter used to
do wrong. The segmenter hears the mean of both. Consistent perception asks that the guess of a moved
image be the moved guess. Any segmenter will do; the published one is ``scm_unet``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.losses import _sum
from delineate.methods._game import Game, Rules, build_critic, critic_part, random_shifts, rise
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("segmenter",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config(Rules):
    """Settings of CPGAN."""

    losses: _sum.Losses = field(
        default_factory=lambda: dict(_sum.DEFAULT),
        metadata={
            "room": "losses",
            "help": "files of losses/ with their weights, as in supervised training",
        },
    )
    learning_rate: float = field(default=2e-3, metadata={"help": "segmenter's peak (AdamW)"})
    weight_decay: float = field(default=1e-4, metadata={"help": "segmenter's"})
    consistency: float = field(
        default=1.0, metadata={"help": "weight of ||S(Tx) - T S(x)||^2; 0: none"}
    )
    replay: int = field(
        default=2**22, metadata={"help": "numbers of earlier guesses kept, 2 bytes each"}
    )
    keep_critic: bool = field(
        default=True,
        metadata={"help": "and its assistant, in the model file, for `predict --maps critic`"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency < 0 or self.replay < 1:
            raise ConfigError(
                f"expected consistency >= 0 and replay >= 1, got {self.consistency}, {self.replay}"
            )
        _sum.build(self.losses)


class Replay(nn.Module):
    """Views of earlier guesses; buffers of a fixed size, so that they survive a crash."""

    numbers: Tensor
    count: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.register_buffer("numbers", torch.zeros(capacity, dtype=torch.float16))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def exchange(self, fake: Tensor) -> Tensor:
        """Keep the views of this step, and give as many of earlier ones, these included.

        Args:
            fake: ``(B, C', *S)``, of the same C' and S at every step.

        Returns:
            ``(B, C', *S')``; where not even one view fits, S' is thinner along its first axis.
        """
        row = fake[0].numel() // fake.shape[2]
        fake = fake.detach()[:, :, : max(1, len(self.numbers) // row)]
        slots = len(self.numbers) // fake[0].numel()
        if slots == 0:
            return fake
        stored = self.numbers[: slots * fake[0].numel()].view(slots, *fake.shape[1:])
        for view in fake:  # fill first, then overwrite at random
            full = int(self.count) >= slots
            place = int(torch.randint(slots, ())) if full else int(self.count)
            stored[place] = view.to(stored.dtype)
            self.count += 1
        chosen = torch.randint(min(int(self.count), slots), (len(fake),), device=fake.device)
        return stored[chosen].to(fake.dtype)


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """One stage in which the critics and the segmenter take turns.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, outputs, *S)``.
        context: Of the data and the task.
    """
    critic, assistant = (
        build_critic(config, context.ndim, context.channels, context.outputs) for _ in range(2)
    )
    game, replay = Game(config, [critic, assistant]), Replay(config.replay)
    losses = _sum.build(config.losses)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        logits = network(batch.image)
        loss, logged = losses(logits, batch.label, batch.spacing_mm, update.progress)
        fine = logits if isinstance(logits, Tensor) else logits[0]
        predicted = fine.softmax(1)
        real, fake = game.show(batch, predicted, update.progress)
        scores = game.teach(update, real, fake.detach(), replay.exchange(fake))
        term, push = game.push(loss, fine, fake, update.progress)
        weight = config.consistency * rise(update.progress, config.warm_up, config.ramp)
        perception_loss = loss.new_zeros(())
        if weight > 0:
            perception_loss = perception(
                network, batch.image, predicted, flip=not context.schema.lateral
            )
        update(optimiser, loss + term + weight * perception_loss)
        return {
            "loss": loss.detach(),
            **logged,
            **scores,
            **push,
            "loss_perception": perception_loss.detach(),
        }

    modules = {
        "segmenter": network,
        "critic": critic,
        "assistant": assistant,
        "referee": game.referee,
        "replay": replay,
    }
    stage = Stage("cpgan", 1.0, modules, {"segmenter": optimiser, "critic": game.rival}, step)
    critics = {"critic": critic, "assistant": assistant}
    keeps = {name: critic_part(config, module, context) for name, module in critics.items()}
    return Plan((stage,), network, keeps if config.keep_critic else {})


def perception(segmenter: nn.Module, image: Tensor, predicted: Tensor, flip: bool) -> Tensor:
    """``||S(Tx) - T S(x)||^2`` of a random shift and flip T, mean over voxels.

    Args:
        segmenter: S.
        image: x, ``(B, C, *S)``.
        predicted: S(x), ``(B, outputs, *S)`` probabilities.
        flip: Whether mirroring is allowed: not where left and right are different labels.
    """
    axes = list(range(2, image.ndim))
    shifts = random_shifts(image.shape[2:])
    flips = [axis for axis in axes if flip and bool(torch.rand(()) < 0.5)]
    inside = torch.ones_like(image[:1, :1])
    for axis, shift in zip(axes, shifts, strict=True):  # what comes in at the other end is no guess
        if shift:
            start = 0 if shift > 0 else inside.shape[axis] + shift
            inside.narrow(axis, start, abs(shift)).zero_()

    def moved(x: Tensor) -> Tensor:
        return torch.flip(torch.roll(x, shifts, axes), flips)

    again = segmenter(moved(image))
    fine = again if isinstance(again, Tensor) else again[0]
    gap = (fine.softmax(1) - moved(predicted)).square().sum(1, keepdim=True)
    inside_both = torch.flip(inside, flips)
    return (gap * inside_both).sum() / (inside_both.sum() * len(image))
