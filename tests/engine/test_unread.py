"""A device that is asked every few steps what has come of them; here the CPU stands for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.errors import TrainingError
from delineate.engine import checkpoint
from delineate.engine.averaging import Average, Buffers
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop, Settings
from delineate.methods._plan import Plan, Stage

Feed = Callable[[int, int, int], Batch]


def batches(step: int, micro: int, split: int) -> Batch:
    generator = torch.Generator().manual_seed(step * 100 + micro)
    image = torch.randn((4, 1, 8, 8), generator=generator)
    return Batch(image, (image[:, 0] > 0).byte())


def poisoned(bad: range) -> Feed:
    def feed(step: int, micro: int, split: int) -> Batch:
        batch = batches(step, micro, split)
        return Batch(batch.image * (float("nan") if step in bad else 1.0), batch.label)

    return feed


class Toy:
    """A network with running statistics; ``seen`` has its state before every step."""

    def __init__(self, sgd: bool = False) -> None:
        torch.manual_seed(3)
        self.seen: list[dict[str, Tensor]] = []
        net = self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.Dropout(0.3),
            nn.Conv2d(4, 2, 1),
        )
        adam: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), 0.01)
        if sgd:
            adam = torch.optim.SGD(net.parameters(), 0.01)

        def step(batch: Batch, update: Any) -> dict[str, Tensor]:
            if update.micro == 0:
                self.seen.append(copy.deepcopy(net.state_dict()))
            loss = nn.functional.cross_entropy(net(batch.image), batch.label.long())
            update(adam, loss)
            return {"loss": loss.detach()}

        self.plan = Plan((Stage("only", 1.0, {"net": net}, {"adam": adam}, step),), net)


def loop(toy: Toy, folder: Path, steps: int, read_every: int, feed: Feed = batches) -> Loop:
    return Loop(
        toy.plan, feed, Settings(), folder, fabric=Fabric(accelerator="cpu", devices=1),
        seed=1, pace=Pace(steps, None), read_every=read_every,
    )  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_however_seldom_it_is_read_the_weights_and_the_log_are_the_same(tmp_path: Path) -> None:
    found = {}
    for every in (1, 2, 5, 100):
        outcome = loop(Toy(), tmp_path / str(every), 12, every).run()
        found[every] = weights(outcome.predictor)
        assert [line["step"] for line in lines(tmp_path / str(every))] == list(range(1, 13))
    assert torch.equal(found[2], found[5])
    assert torch.equal(found[2], found[100])
    assert torch.allclose(found[1], found[2], atol=1e-4)  # one kernel rounds otherwise than many
    for one, other in zip(lines(tmp_path / "1"), lines(tmp_path / "5"), strict=True):
        assert one.keys() == other.keys()
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], abs=1e-3)


@pytest.mark.parametrize("sgd", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, sgd: bool) -> None:
    toy = Toy(sgd)
    outcome = loop(toy, tmp_path, 10, 4, poisoned(range(5, 7))).run()
    assert outcome.status == "finished"
    for name, before in toy.seen[5].items():
        assert torch.equal(before, toy.seen[6][name]), name
        assert torch.equal(before, toy.seen[7][name]), name
    assert not torch.equal(toy.seen[7]["0.weight"], toy.seen[8]["0.weight"])
    assert [event.split(":")[0] for event in outcome.events] == [
        "step 5 of only left out", "step 6 of only left out"
    ]  # fmt: skip
    assert [line["loss"] is None for line in lines(tmp_path)] == [False] * 5 + [True] * 2 + [
        False
    ] * 3
    assert all(bool(torch.isfinite(t).all()) for t in outcome.predictor.state_dict().values())


def test_many_such_steps_are_gone_back_from_then_refused(tmp_path: Path) -> None:
    passing = loop(Toy(), tmp_path / "passing", 30, 4, poisoned(range(3, 30)))
    outcome = passing.run()
    assert outcome.status == "finished"
    assert sum("rolled back" in event for event in outcome.events) == 1
    assert [line["step"] for line in lines(tmp_path / "passing")] == list(range(1, 31))

    def always(step: int, micro: int, split: int) -> Batch:
        return poisoned(range(3, 30))(step % 10_000_000, micro, split)

    with pytest.raises(TrainingError, match="roll-backs"):
        loop(Toy(), tmp_path / "ever", 30, 4, always).run()
    state = checkpoint.read_newest(tmp_path / "ever" / "checkpoints", print)
    assert state is not None
    assert checkpoint.all_finite(state)


def test_trouble_in_the_last_steps_is_seen_before_the_end(tmp_path: Path) -> None:
    outcome = loop(Toy(), tmp_path, 12, 100, poisoned(range(4, 12))).run()
    assert any("rolled back" in event for event in outcome.events)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize(("first", "then"), [(4, 4), (4, 1), (1, 4)])
def test_a_stopped_run_goes_on_on_another_device_too(tmp_path: Path, first: int, then: int) -> None:
    whole = loop(Toy(), tmp_path / "whole", 9, then).run()
    part = loop(Toy(), tmp_path / "part", 9, first)
    part.stop = lambda: part.pace.step == 6
    assert part.run().status == "interrupted"
    assert [line["step"] for line in lines(tmp_path / "part")] == list(range(1, 7))
    outcome = loop(Toy(), tmp_path / "part", 9, then).run()
    tolerance = 0.0 if first == then else 1e-4
    assert torch.allclose(weights(whole.predictor), weights(outcome.predictor), atol=tolerance)


class Counting(nn.Module):
    """Puts a new buffer in the place of the old one, as people do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
        self.register_buffer("running", torch.zeros(2))
        self.register_buffer("passing", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.running = self.running + 1
        self.passing = self.passing + 1
        y: Tensor = self.net(x)
        return y


def test_the_average_is_that_of_every_tensor_apart_to_the_bit() -> None:
    torch.manual_seed(0)
    network = Counting()
    average = Average(network)
    expected = copy.deepcopy(average.module)
    for step in range(3):
        network(torch.randn(2, 1, 6, 6))
        with torch.no_grad():
            for p in network.parameters():
                p += torch.randn_like(p)
        weight = 1 - (1 + step) / (10 + step)
        for mean, now in zip(
            expected.state_dict().values(), network.state_dict().values(), strict=True
        ):
            mean.lerp_(now, weight) if mean.is_floating_point() else mean.copy_(now)
        average.update(weight)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert average.module.passing.tolist() == [0, 0], "what is not saved is not averaged"


@pytest.mark.parametrize("fault", [None, True, False])
def test_buffers_come_back_where_a_step_failed(fault: bool | None) -> None:
    network = Counting()
    buffers = Buffers([network])
    buffers.save()
    network(torch.randn(2, 1, 6, 6))
    buffers.restore(None if fault is None else torch.tensor(fault))
    assert network.running.tolist() == ([1, 1] if fault is False else [0, 0])
    assert int(network.net[1].num_batches_tracked) == int(fault is False)
