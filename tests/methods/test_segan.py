from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core import config as settings
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.methods import segan
from delineate.methods._plan import Plan
from delineate.networks import unet

SCHEMA = Schema((Label("a", 1), Label("b", 2)))
CONTEXT = Context(2, 1, 3, SCHEMA)


class Table(nn.Module):
    """A segmenter that says what it is told to."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def make(segmenter: nn.Module | None = None, **given: Any) -> Plan:
    torch.manual_seed(0)
    net = segmenter or unet.build(unet.Config(2, 4, 3), 1, 3)
    return segan.build(settings.from_dict({"critic_width": 4, **given}, segan.Config), net, CONTEXT)


def expert(batch: Batch) -> Tensor:
    return torch.nn.functional.one_hot(batch.label.long(), 3).movedim(-1, 1).float()


@pytest.mark.parametrize("preset", ["stable", "literal"])
def test_a_perfect_segmenter_has_nothing_to_fear(
    preset: str, squares: Batch, engine: Callable[..., Any]
) -> None:
    plan = make(Table(200 * expert(squares)), preset=preset)
    assert plan.stages[0].step(squares, engine())["d_distance"] == 0
    plan = make(Table(200 * expert(squares).flip(0)), preset=preset)
    assert plan.stages[0].step(squares, engine())["d_distance"] > 0


def test_critic_and_segmenter_pull_in_opposite_directions(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    for moving, sign in (("critic", 1), ("segmenter", -1)):
        plan = make(learning_rate=1e-2, losses={"cross_entropy": 1e-6}, gradient_cap=0.0)
        who = (plan.stages[0].optimisers[moving],)
        found = [
            plan.stages[0].step(squares, engine(moves=who))["d_distance"].item() for _ in range(6)
        ]
        assert sign * (found[-1] - found[0]) > 0, moving


def test_the_loss_of_the_critic_is_minus_the_distance(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    update = engine()
    said = make().stages[0].step(squares, update)
    assert update.losses[0] == pytest.approx(-said["d_distance"].item())


def test_literal_weights_are_clipped_and_stable_ones_bounded(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    literal = make(preset="literal")
    literal.stages[0].step(squares, engine())
    sizes = [p.abs().max().item() for p in literal.stages[0].modules["critic"].parameters()]
    assert max(sizes) == pytest.approx(0.05)
    stable = make().stages[0].modules["critic"]
    assert any("parametrizations" in key for key in stable.state_dict())


def test_the_literal_preset_is_the_published_code() -> None:
    chosen = settings.from_dict({"preset": "literal"}, segan.Config)
    assert (chosen.learning_rate, chosen.critic_rate, chosen.momentum) == (2e-4, 2e-4, 0.5)
    assert (chosen.critic_width, chosen.clip) == (64, 0.05)
    assert {name: term.weight for name, term in chosen.losses.items()} == {"dice": 1.0}
    chosen = settings.from_dict({"preset": "literal", "critic_rate": 1e-3}, segan.Config)
    assert chosen.critic_rate == 1e-3


def test_an_error_where_the_image_is_zero_shows_in_the_mask_alone(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    dark = Batch(torch.zeros_like(squares.image), squares.label)
    wrong = Table(200 * expert(squares).flip(0))
    found = {
        shown: make(wrong, with_mask=shown).stages[0].step(dark, engine())["d_distance"].item()
        for shown in (False, True)
    }
    assert found[False] == 0
    assert found[True] > 0


def test_regions_are_unions_of_outputs() -> None:
    labels = (Label("oedema", 2), Label("core", 1), Label("enhancing", 4))
    regions = {"WT": ("oedema", "core", "enhancing"), "TC": ("core", "enhancing")}
    assert segan.membership(Schema(labels, regions)).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]
    assert segan.membership(Schema(labels)).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(("critics", "number", "channels"), [("one", 1, 4), ("each", 2, 2)])
def test_there_is_one_critic_or_one_for_each_region(
    critics: str, number: int, channels: int, squares: Batch, engine: Callable[..., Any]
) -> None:
    plan = make(critics=critics, spectral_norm=False)
    found = plan.stages[0].modules["critic"].critics
    assert len(found) == number  # type: ignore[arg-type]
    assert found[0].layers[0][0].in_channels == channels  # type: ignore[index]
    assert plan.stages[0].step(squares, engine())["d_distance"] > 0


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"warm_up": 1.0}, {"clip": -1.0}, {"ramp": -1.0}):
        with pytest.raises(ConfigError):
            segan.Config(**wrong)
