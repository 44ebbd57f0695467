from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.methods import _game as game
from delineate.networks._critics import see


def rules(**changes: Any) -> game.Rules:
    return game.Rules(**{"critic_width": 4, **changes})


def play(chosen: game.Rules, kind: str = "") -> game.Game:
    torch.manual_seed(0)
    return game.Game(chosen, [game.build_critic(chosen, 2, 1, 3)], kind)


def guess_of(batch: Batch) -> torch.Tensor:
    """A guess that blurs every mask: plainly no expert's."""
    hot = torch.nn.functional.one_hot(batch.label.long(), 3).movedim(-1, 1).float()
    return torch.nn.functional.avg_pool2d(hot, 5, 1, 2, count_include_pad=False)


# ------------------------------------------------------------------------------ what is seen


def test_expert_and_guess_are_seen_through_one_view() -> None:
    """Were they moved apart, the critic could tell them by their place."""
    torch.manual_seed(0)
    image, mask = torch.randn(2, 1, 16, 24), torch.rand(2, 3, 16, 24)
    for _ in range(10):
        seen, expert, guess = game.same_view(image, mask, mask)
        assert torch.equal(expert, guess)
        hidden = (torch.cat([seen, expert], 1) == 0).all(1).float().mean().item()
        assert hidden == pytest.approx(1 / 16)  # a quarter of each side is cut out


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (15, 1), (12, 1), (20, 2), (7, 0), (1, 0)])
def test_views_shift_as_far_to_one_side_as_to_the_other(size: int, reach: int) -> None:
    torch.manual_seed(0)
    seen = {shift for _ in range(60) for shift in game.random_shifts((size, size))}
    assert seen == set(range(-reach, reach + 1))


def test_noise_is_on_the_masks_alone_and_fades(squares: Batch) -> None:
    one = play(rules(expert="one_hot", views=False))
    hot = torch.nn.functional.one_hot(squares.label.long(), 3).movedim(-1, 1).float()
    real, fake = one.show(squares, hot, progress=0.0)
    assert torch.equal(real[:, :1], squares.image)
    assert (real[:, 1:] - hot).std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(real, fake)
    real, fake = one.show(squares, hot, progress=0.3)
    assert torch.equal(real, torch.cat([squares.image, hot], 1))
    assert torch.equal(real, fake)


def test_smoothed_masks_are_still_distributions_with_the_same_winner() -> None:
    hot = torch.nn.functional.one_hot(torch.randint(0, 3, (4, 8, 8)), 3).movedim(-1, 1).float()
    soft = game.smooth(hot)
    assert torch.allclose(soft.sum(1), torch.ones(4, 8, 8))
    assert torch.equal(soft.argmax(1), hot.argmax(1))
    assert 0.9 <= soft.amax(1).min() <= 1


def test_scaled_masks_of_a_hand_worked_case() -> None:
    """The true class gets 0.9 at least, the others share the rest as the guess has it."""
    hot = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1)
    for guess, wanted in (
        ([0.2, 0.5, 0.3], [0.04, 0.9, 0.06]),
        ([0.01, 0.95, 0.04], [0.01, 0.95, 0.04]),  # sure and right: the guess itself
        ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
    ):
        found = game.scale(hot, torch.tensor(guess).view(1, 3, 1))
        assert found.flatten().tolist() == pytest.approx(wanted)


def test_a_critic_is_built_for_what_it_sees() -> None:
    for sees in ("mask", "joined", "branches", "product"):
        critic = game.build_critic(rules(sees=sees, spectral_norm=False), 2, 2, 3)
        seen = see(sees, torch.randn(1, 2, 16, 16), torch.rand(1, 3, 16, 16))
        assert critic(seen).shape == (1, 1, 2, 2)


# ------------------------------------------------------------------------------ keeping score


def test_accuracy_is_counted_on_pairs() -> None:
    """Scores differ more between images than between expert and guess; a threshold is blind."""
    referee, offset = game.Referee(), torch.tensor([[-5.0], [0.0], [7.0]])
    fake = offset.expand(3, 4)
    for _ in range(200):
        referee.watch(fake + 0.1, fake)
    assert referee.accuracy.item() == pytest.approx(1.0, abs=1e-3)
    assert int(referee.steps) == 200
    for _ in range(200):
        referee.watch(fake, fake)
    assert referee.accuracy.item() == pytest.approx(0.5, abs=1e-3)  # it cannot tell
    referee.watch(fake, fake + 0.1)
    assert referee.accuracy.item() == pytest.approx(0.95 * 0.5, abs=1e-3)


def test_the_weight_waits_and_then_rises() -> None:
    found = [game.rise(progress, 0.2, 0.4) for progress in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([0, 0, 0.5, 1, 1])
    assert [game.rise(progress, 0.5, 0.0) for progress in (0.4, 0.5)] == [0, 1]


def moved(critic: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(p, before[k]) for k, p in critic.named_parameters())


@pytest.mark.parametrize(
    ("accuracy", "learns", "heard"), [(0.5, True, False), (0.75, True, True), (0.97, False, True)]
)
def test_a_lost_critic_is_not_heard_and_a_sure_one_rests(
    accuracy: float,
    learns: bool,
    heard: bool,
    squares: Batch,
    engine: Callable[..., Any],
) -> None:
    """Either way it recovers: a lost one goes on learning, a sure one is still played against."""
    one = play(rules())
    one.referee.accuracy.fill_(accuracy)
    logits = torch.randn(4, 3, 32, 32, requires_grad=True)
    real, fake = one.show(squares, logits.softmax(1), 0.9)
    before = {k: p.detach().clone() for k, p in one.critics[0].named_parameters()}
    one.teach(engine(), real, fake.detach())
    assert moved(one.critics[0], before) is learns
    one.referee.accuracy.fill_(accuracy)
    term, said = one.push(logits.square().mean(), logits, fake, 0.9)
    assert (said["adversarial_weight"] > 0).item() is heard
    assert term.requires_grad is heard


@pytest.mark.parametrize("kind", ["", "nonsaturating"])
def test_a_critic_learns_to_tell_experts(
    kind: str, squares: Batch, engine: Callable[..., Any]
) -> None:
    one = play(rules(), kind)
    for _ in range(40):
        said = one.teach(engine(), *one.show(squares, guess_of(squares), 0.9))
    assert said["d_real"] > said["d_fake"]
    assert said["d_accuracy"] > 0.8


def test_swapped_labels_teach_a_critic_the_opposite(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    """A4 of S1: D(fake) rises above D(real)."""
    one = play(rules(game="nonsaturating", gate=(0.0, 1.0)), "swapped")
    for _ in range(25):
        said = one.teach(engine(), *one.show(squares, guess_of(squares), 0.9))
    assert said["d_fake"] > said["d_real"]
    assert said["d_accuracy"] < 0.5


@pytest.mark.parametrize("kind", ["hinge", "nonsaturating"])
def test_the_segmenter_is_pushed_to_please_the_critic(kind: str, squares: Batch) -> None:
    one = play(rules(game=kind, views=False, expert="one_hot", weight=1.0, gradient_cap=0.0))
    logits = torch.zeros(4, 3, 32, 32, requires_grad=True)
    _, fake = one.show(squares, logits.softmax(1), 0.9)
    term, _ = one.push(logits.square().sum() + logits.sum(), logits, fake, 0.9)
    (gradient,) = torch.autograd.grad(term, logits)
    with torch.no_grad():
        one.critics[0].eval()
        _, better = one.show(squares, (logits - 100 * gradient).softmax(1), 0.9)
        assert one.critics[0](better).mean() > one.critics[0](fake).mean()


def test_the_adversary_never_pushes_harder_than_its_cap() -> None:
    logits = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = logits.square().mean()
    for factor in (1e-5, 1e-3, 1e6):
        term, ratio = game.capped(loss, factor * logits.sum(), logits, 0.1)
        (pushed,) = torch.autograd.grad(term, logits, retain_graph=True)
        (wanted,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (free,) = torch.autograd.grad(factor * logits.sum(), logits)
        assert ratio.item() == pytest.approx((free.norm() / wanted.norm()).item(), rel=1e-4)
        share = (pushed.norm() / wanted.norm()).item()
        assert share == pytest.approx(min(0.1, ratio.item()), rel=1e-3)
        cosine = torch.nn.functional.cosine_similarity(pushed.flatten(), free.flatten(), 0)
        assert cosine.item() == pytest.approx(1, abs=1e-4)
        (all_of_it,) = torch.autograd.grad(
            game.capped(loss, factor * logits.sum(), logits, torch.inf)[0], logits
        )
        assert torch.allclose(all_of_it, free)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ramp": -0.1},
        {"r1_every": 0},
        {"warm_up": 1.0},
        {"gate": (0.9, 0.5)},
        {"gate": (0.5, 1.1)},
        {"weight": -1.0},
        {"noise": -1.0},
    ],
)
def test_impossible_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        rules(**wrong)
