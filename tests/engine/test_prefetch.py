"""Batches made ahead are those that would have been made, and their thread ends with the run."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import ResourceError
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.prefetch import Batches, made_ahead
from delineate.engine.settings import Settings
from delineate.methods._plan import Plan, Stage

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


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


def loop(folder: Path, feed: Batches = batches, **settings: Any) -> Loop:
    return Loop(
        plan(), feed, Settings(accumulate=2, **settings), folder,
        fabric=Fabric(accelerator="cpu", devices=1), seed=1, pace=Pace(6, None),
    )  # fmt: skip


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def troubled(step: int, micro: int, split: int) -> Batch:
    """Too large once, and then not finite until other data are drawn after a roll-back."""
    if (step, micro, split) == (1, 1, 1):
        raise MemoryError("no more")
    batch = batches(step, micro, split)
    return Batch(batch.image * (float("nan") if 2 <= step < 10 else 1.0), batch.label)


@pytest.mark.parametrize("feed", [batches, troubled])
def test_a_run_gives_the_same_weights_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: Batches
) -> None:
    ahead = loop(tmp_path / "ahead", feed, skip_limit=1).run()
    monkeypatch.setattr(
        "delineate.engine.loop.made_ahead", lambda feed, *_: contextlib.nullcontext(feed)
    )
    plain = loop(tmp_path / "plain", feed, skip_limit=1).run()
    assert torch.equal(weights(ahead.predictor), weights(plain.predictor))
    assert ahead.events == plain.events
    words = " ".join(plain.events)
    assert ("half the batch" in words, "rolled back" in words) == (feed is troubled,) * 2


def test_the_next_batch_is_begun_while_a_step_computes_and_no_more_than_that() -> None:
    asked, begun = list[tuple[int, ...]](), threading.Semaphore(0)

    def feed(*key: int) -> Batch:
        asked.append(key)
        begun.release()
        return batches(*key)

    steps = [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    halved = [(7, 0, 2), (7, 1, 2), (7, 2, 2)]  # what was begun after step 1 is dropped
    with made_ahead(feed, 2, CPU) as ahead:
        for expected in (steps, halved):
            for key, following in itertools.pairwise(expected):
                assert torch.equal(ahead(*key).image, batches(*key).image)
                while following not in asked:
                    assert begun.acquire(timeout=20)
    assert asked == [*steps, *halved]


def test_what_making_a_batch_raises_is_raised_where_it_is_asked_for(tmp_path: Path) -> None:
    def feed(step: int, micro: int, split: int) -> Batch:
        if step == 3:
            raise ResourceError("the disk is gone")
        return batches(step, micro, split)

    run = loop(tmp_path, feed)
    with pytest.raises(ResourceError, match="disk is gone"):
        run.run()
    assert run.pace.step == 3, "earlier batches were trained on"


def test_the_thread_ends_where_the_run_is_stopped(tmp_path: Path) -> None:
    run = loop(tmp_path)
    run.stop = lambda: run.pace.step == 2
    assert run.run().status == "interrupted"
    at_once = loop(tmp_path)

    def step() -> dict[str, float]:
        raise KeyboardInterrupt

    at_once._step = step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        at_once.run()


def test_batches_are_made_on_one_core_and_all_else_keeps_its_threads() -> None:
    before = torch.get_num_threads()

    def cores() -> int:
        torch.zeros(1)
        return torch.get_num_threads()

    seen = list[int]()

    def feed(step: int, micro: int, split: int) -> Batch:
        seen.append(cores())
        return batches(step, micro, split)

    torch.set_num_threads(2)
    try:
        with made_ahead(feed, 1, CPU) as ahead:
            ahead(0, 0, 1)
            assert cores() == 2
            with ThreadPoolExecutor(1) as another:
                assert another.submit(cores).result() == 2
        assert set(seen) == {1}
    finally:
        torch.set_num_threads(before)
