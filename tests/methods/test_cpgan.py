from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.methods import cpgan
from delineate.methods._plan import Plan
from delineate.networks import unet


def make(lateral: bool = False, **given: Any) -> Plan:
    torch.manual_seed(0)
    net = unet.build(unet.Config(2, 4, 3), 1, 3)
    schema = Schema((Label("a", 1), Label("b", 2)), lateral=lateral)
    return cpgan.build(cpgan.Config(**{"critic_width": 4, **given}), net, Context(2, 1, 3, schema))


# ------------------------------------------------------------------------------ old guesses


def view(value: float) -> Tensor:
    return torch.full((1, 2, 4, 4), value)


def test_the_buffer_gives_what_it_was_given() -> None:
    torch.manual_seed(0)
    replay = cpgan.Replay(3 * 32)  # room for three views
    assert torch.equal(replay.exchange(view(1)), view(1))  # there is nothing older yet
    seen = [replay.exchange(view(n)).unique().tolist() for n in range(2, 9)]
    assert all(len(values) == 1 and 1 <= values[0] <= n for n, values in enumerate(seen, start=2))
    assert any(values[0] < n for n, values in enumerate(seen, start=2)), "older ones come back"
    assert int(replay.count) == 8
    kept = replay.numbers.view(3, 32)
    assert all(len(row.unique()) == 1 for row in kept)
    assert max(row[0].item() for row in kept) == 8, "the newest is among them"


def test_the_buffer_survives_a_crash() -> None:
    torch.manual_seed(0)
    one, two = cpgan.Replay(5 * 32), cpgan.Replay(5 * 32)
    for n in range(4):
        one.exchange(view(n))
    two.load_state_dict(one.state_dict())
    torch.manual_seed(1)
    first = [one.exchange(view(9)) for _ in range(6)]
    torch.manual_seed(1)
    assert all(torch.equal(a, two.exchange(view(9))) for a in first)


def test_a_view_too_large_for_the_buffer_is_kept_in_part() -> None:
    replay = cpgan.Replay(2 * 3 * 4)
    assert replay.exchange(torch.ones(2, 2, 8, 4)).shape == (2, 2, 3, 4)
    assert cpgan.Replay(4).exchange(torch.ones(2, 2, 8, 4)).shape == (2, 2, 1, 4)


# ---------------------------------------------------------------------- consistent perception


def test_a_segmenter_that_moves_with_its_image_pays_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 24)
    pointwise = nn.Conv2d(1, 3, 1)
    ring = nn.Conv2d(1, 3, (1, 3), padding=(0, 1), padding_mode="circular")
    with torch.no_grad():
        for _ in range(8):
            found = cpgan.perception(pointwise, x, pointwise(x).softmax(1), flip=True)
            assert found.item() == pytest.approx(0, abs=1e-10)
            found = cpgan.perception(ring, x, ring(x).softmax(1), flip=False)
            assert found.item() == pytest.approx(0, abs=1e-10)
        mirrored = [
            cpgan.perception(ring, x, ring(x).softmax(1), flip=True).item() for _ in range(8)
        ]
    assert max(mirrored) > 1e-3  # it looks to one side


def test_a_segmenter_that_knows_places_pays() -> None:
    torch.manual_seed(0)
    place = torch.randn(1, 3, 16, 16)
    found = cpgan.perception(
        _Place(place), torch.randn(2, 1, 16, 16), place.softmax(1).expand(2, -1, -1, -1), flip=True
    )
    assert found > 1e-3


class _Place(nn.Module):
    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return self.place.expand(len(x), -1, -1, -1)


# ---------------------------------------------------------------------------------- the game


def test_both_critics_learn_and_the_assistant_from_old_guesses(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    stage = make().stages[0]
    before = {
        name: {k: p.detach().clone() for k, p in stage.modules[name].named_parameters()}
        for name in ("critic", "assistant")
    }
    for _ in range(2):
        stage.step(squares, engine())
    for name, weights in before.items():
        pairs = stage.modules[name].named_parameters()
        assert any(not torch.equal(p, weights[k]) for k, p in pairs), name
    assert int(stage.modules["replay"].count) == 2 * len(squares.label)  # type: ignore[arg-type]


def test_perception_joins_after_the_warm_up(squares: Batch, engine: Callable[..., Any]) -> None:
    step = make(lateral=True).stages[0].step
    assert step(squares, engine(0.1))["loss_perception"] == 0
    assert step(squares, engine(0.9))["loss_perception"] > 0
    assert make(consistency=0.0).stages[0].step(squares, engine())["loss_perception"] == 0


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"consistency": -1.0}, {"replay": 0}, {"warm_up": 1.0}):
        with pytest.raises(ConfigError):
            cpgan.Config(**wrong)


def test_both_critics_are_kept_or_neither() -> None:
    assert set(make().keeps) == {"critic", "assistant"}
    assert make(keep_critic=False).keeps == {}
