"""What a stage does at its end: once, on averaged weights, whatever the run goes through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods._plan import Plan, Stage, Update


class Seen(nn.Module):
    """The sum of what a stage has seen."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))


class Toy:
    """Train, look, and (if asked) train again; the look ends by setting the bias."""

    def __init__(self, again: bool = False) -> None:
        torch.manual_seed(0)
        self.net = nn.Linear(2, 1)
        self.seen = Seen()
        self.ends: list[Tensor] = []
        self.looked: list[Tensor] = []
        self.fail_in_end = False
        optimiser = torch.optim.SGD(self.net.parameters(), 0.1)

        def train(batch: Batch, update: Update) -> Mapping[str, Tensor]:
            loss = (self.net(batch.image) - 1).square().mean()
            update(optimiser, loss)
            return {"loss": loss.detach()}

        def look(batch: Batch, update: Update) -> Mapping[str, Tensor]:
            self.looked.append(self.net.weight.detach().clone())
            self.seen.total += batch.image.sum()
            return {"loss": self.seen.total.clone()}

        def end(say: Any) -> Mapping[str, float]:
            with torch.no_grad():
                self.net.bias.fill_(float(self.seen.total) + float(self.net.weight.sum()))
            if self.fail_in_end:
                raise OSError("killed")
            self.ends.append(self.net.bias.detach().clone())
            say("found")
            return {"found": 1.0}

        modules, optimisers = {"net": self.net}, {"net": optimiser}
        stages = [Stage("train", 0.5, modules, optimisers, train)]
        stages.append(
            Stage("look", 0.25 if again else 0.5, {**modules, "seen": self.seen}, {}, look, end)
        )
        if again:
            stages.append(Stage("again", 0.25, modules, optimisers, train))
        self.plan = Plan(tuple(stages), self.net)


def batches(step: int, micro: int, split: int) -> Batch:
    image = torch.randn((4, 2), generator=torch.Generator().manual_seed(step))
    return Batch(image, torch.zeros(4), spacing_mm=(1.0,))


def loop(toy: Toy, folder: Path, steps: int = 8, **given: Any) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    settings = Settings(ema=given.pop("ema", 0.9))
    return Loop(
        toy.plan, batches, settings, folder, fabric=fabric, seed=1, pace=Pace(steps, None), **given
    )


def state(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_it_works_on_averaged_weights_and_leaves_the_model(tmp_path: Path, ema: float) -> None:
    toy, said = Toy(), list[str]()
    run = loop(toy, tmp_path, ema=ema, say=said.append)
    trained = []
    before = run._step

    def step() -> dict[str, float]:
        found = before()
        if toy.plan.stages[run.turn].name == "train":
            trained.append((run.averaged.weight.detach().clone(), toy.net.weight.detach().clone()))
        return found

    run._step = step  # type: ignore[method-assign]
    outcome = run.run()
    average, latest = trained[-1]
    assert torch.equal(average, latest) == (ema == 0)
    assert len(toy.looked) == 4
    assert all(torch.equal(weight, average) for weight in toy.looked)
    assert len(toy.ends) == 1
    assert said.count("found") == 1
    assert torch.equal(outcome.predictor.bias.detach(), toy.ends[0])
    assert torch.equal(outcome.predictor.weight.detach(), average)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert ['"found"' in line for line in lines] == [False] * 7 + [True]
    assert ['"look"' in line for line in lines] == [False] * 4 + [True] * 4


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("at", [1, 4, 5, 6, 7])
def test_a_stopped_run_goes_on_bit_exactly(tmp_path: Path, at: int, again: bool) -> None:
    whole = loop(Toy(again), tmp_path / "whole").run()
    first = loop(Toy(again), tmp_path / "part")
    first.stop = lambda: first.pace.step >= at
    stopped = first.run()
    missing = at < 6 or not again
    assert any("stopped early" in event for event in stopped.events) == missing
    second = Toy(again)
    outcome = loop(second, tmp_path / "part").run()
    assert torch.equal(state(whole.predictor), state(outcome.predictor))
    assert len(second.ends) == missing


def test_killed_at_the_end_before_and_after_it_is_the_same_model(tmp_path: Path) -> None:
    whole = loop(Toy(), tmp_path / "whole").run()
    toy = Toy()
    toy.fail_in_end = True
    with pytest.raises(OSError, match="killed"):
        loop(toy, tmp_path / "part").run()
    after = loop(Toy(), tmp_path / "part")
    save = after._save

    def killed() -> None:
        if after.pace.done:
            raise OSError("killed")
        save()

    after._save = killed  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        after.run()
    outcome = loop(Toy(), tmp_path / "part").run()
    assert torch.equal(state(whole.predictor), state(outcome.predictor))


def test_a_finished_run_is_not_ended_twice(tmp_path: Path) -> None:
    whole = loop(Toy(), tmp_path).run()
    toy = Toy()
    again = loop(toy, tmp_path).run()
    assert not toy.ends
    assert torch.equal(state(whole.predictor), state(again.predictor))


def test_training_goes_on_from_what_a_stage_found(tmp_path: Path) -> None:
    toy = Toy(again=True)
    outcome = loop(toy, tmp_path).run()
    found = float(toy.ends[0])
    assert float(outcome.predictor.bias) != found
    assert abs(float(outcome.predictor.bias) - found) < 0.9 * abs(found - 1), "averaged from there"
