"""Batches made ahead are those that would have been made, and end with the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ResourceError
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop, Settings
from delineate.methods._plan import Plan, Stage


def batches(step: int, micro: int, split: int) -> Batch:
    generator = torch.Generator().manual_seed(step * 100 + micro * 10 + split)
    image = torch.randn((4 // split, 1, 8, 8), generator=generator)
    return Batch(image, (image[:, 0] > 0).byte())


def plan() -> Plan:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 2, 1))
    optimiser = torch.optim.AdamW(net.parameters(), 0.01)

    def step(batch: Batch, update: Any) -> dict[str, Tensor]:
        loss = nn.functional.cross_entropy(net(batch.image), batch.label.long())
        update(optimiser, loss)
        return {"loss": loss.detach()}

    return Plan((Stage("only", 1.0, {"net": net}, {"adam": optimiser}, step),), net)


def loop(folder: Path, ahead: int, feed: Callable[[int, int, int], Batch] = batches) -> Loop:
    return Loop(
        plan(), feed, Settings(accumulate=2), folder,
        fabric=Fabric(accelerator="cpu", devices=1), seed=1, pace=Pace(6, None), ahead=ahead,
    )  # fmt: skip


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("ahead", [1, 3])
def test_batches_made_ahead_give_the_same_weights_to_the_bit(tmp_path: Path, ahead: int) -> None:
    makers = set[str]()

    def feed(step: int, micro: int, split: int) -> Batch:
        makers.add(threading.current_thread().name)
        return batches(step, micro, split)

    one = loop(tmp_path / "one", 0).run()
    two = loop(tmp_path / "two", ahead, feed).run()
    assert torch.equal(weights(one.predictor), weights(two.predictor))
    assert threading.main_thread().name not in makers
    assert not makers & {thread.name for thread in threading.enumerate()}, "they have ended"


@pytest.mark.parametrize("ahead", [0, 2])
def test_data_after_a_roll_back_and_half_batches_are_the_same_too(
    tmp_path: Path, ahead: int
) -> None:
    def feed(step: int, micro: int, split: int) -> Batch:
        if (step, micro, split) == (1, 1, 1):
            raise MemoryError("no more")
        batch = batches(step, micro, split)
        bad = 2 <= step < 10  # other data are drawn after a roll-back
        return Batch(batch.image * (float("nan") if bad else 1.0), batch.label)

    run = loop(tmp_path / str(ahead), ahead, feed)
    run.settings = Settings(accumulate=2, skip_limit=1)
    outcome = run.run()
    plain = loop(tmp_path / "plain", 0, feed)
    plain.settings = run.settings
    expected = plain.run()
    assert outcome.events == expected.events
    assert sum("half the batch" in event for event in outcome.events) == 1
    assert sum("rolled back" in event for event in outcome.events) == 1
    assert torch.equal(weights(outcome.predictor), weights(expected.predictor))


def test_what_fails_ahead_is_raised_and_no_thread_stays(tmp_path: Path) -> None:
    before = threading.active_count()

    def feed(step: int, micro: int, split: int) -> Batch:
        if step == 3:
            raise ResourceError("the disk is gone")
        return batches(step, micro, split)

    run = loop(tmp_path, 2, feed)
    with pytest.raises(ResourceError, match="disk is gone"):
        run.run()
    assert run.pace.step == 3, "earlier batches were trained on"
    assert threading.active_count() == before
    run = loop(tmp_path / "stopped", 2)
    run.stop = lambda: run.pace.step == 2
    assert run.run().status == "interrupted"
    assert threading.active_count() == before
