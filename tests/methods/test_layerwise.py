"""A deep belief network: machines that learn without labels, and then classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods import layerwise as method
from delineate.methods._plan import Plan
from delineate.networks import cnn, dbn

SCHEMA = Schema((), classes=("vertical", "horizontal"))
CONTEXT = Context(2, 1, 2, SCHEMA, target="class")


def stripes(step: int, micro: int = 0, split: int = 1, batch: int = 32) -> Batch:
    """Vertical or horizontal stripes, of four phases each: not linear in the pixels."""
    generator = torch.Generator().manual_seed(step)
    klass = torch.randint(2, (batch,), generator=generator)
    phase = torch.randint(4, (batch, 1, 1), generator=generator)
    wave = torch.where((torch.arange(8) + phase) % 4 < 2, 2.0, -2.0).expand(batch, 8, 8)
    x = torch.where(klass.reshape(-1, 1, 1) == 1, wave, wave.transpose(1, 2))[:, None]
    noise = 0.3 * torch.randn(x.shape, generator=generator)
    return Batch(x + noise, torch.zeros(batch, 8, 8).byte(), class_index=klass)


def build(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = dbn.build(dbn.Config(grid=8, units=(64, 32)), 1, 2)
    return method.build(method.Config(**given), network, CONTEXT)


def loop(plan: Plan, folder: Path, steps: int, **given: Any) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    settings = Settings(ema=0.0, checkpoint_seconds=1e9, **given)
    return Loop(plan, stripes, settings, folder, fabric=fabric, seed=1, pace=Pace(steps, None))


def readable(net: torch.nn.Module) -> float:
    """Accuracy on new images when only a new last layer is trained."""
    assert isinstance(net, dbn.DeepBelief)
    batch, new = stripes(10_000, batch=200), stripes(20_000, batch=200)
    with torch.no_grad():
        known, asked = net.embed(batch.image), net.embed(new.image)
    torch.manual_seed(0)
    head = torch.nn.Linear(known.shape[1], 2)
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(head(known), batch.class_index)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((head(asked).argmax(1) == new.class_index).float().mean())


def test_what_it_has_learnt_without_labels_can_be_read_by_a_linear_layer(tmp_path: Path) -> None:
    fresh = dbn.build(dbn.Config(grid=8, units=(64, 32)), 1, 2)
    plan = build()
    run = loop(plan, tmp_path, 800, power=0.0, warm_up=0.0)
    run.stop = lambda: run.turn == 2
    run.run()
    assert [stage.name for stage in plan.stages] == ["machine 1", "machine 2", "classify"]
    assert readable(plan.predictor) > readable(fresh) + 0.15
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("machine 1", "machine 2"):
        errors = [line["loss"] for line in lines if line["stage"] == name]
        assert 199 <= len(errors) <= 201
        assert sum(errors[-10:]) < 0.5 * sum(errors[:10])


def test_machines_begin_with_small_weights_unless_they_have_learned() -> None:
    plan = build()
    spread = [float(m.get_parameter("weight").detach().std()) for m in plan.predictor.machines]
    assert spread == pytest.approx([0.01, 0.01], rel=0.1)
    network = dbn.build(dbn.Config(grid=8, units=(64, 32)), 1, 2)
    with torch.no_grad():
        network.machines[0].get_parameter("bias")[0] = 0.1
    before = network.machines[0].get_parameter("weight").clone()
    method.build(method.Config(), network, CONTEXT)
    assert torch.equal(network.machines[0].get_parameter("weight"), before)


def test_a_machine_learns_alone_and_with_the_momentum_of_its_time() -> None:
    plan = build()
    net = plan.predictor
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    class Engine:
        def __init__(self, progress: float) -> None:
            self.progress = progress

        def __call__(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
            self.momentum = optimiser.param_groups[0]["momentum"]
            loss.backward(inputs=[p for g in optimiser.param_groups for p in g["params"]])
            optimiser.step()
            optimiser.zero_grad()

    for progress, momentum in ((0.0, 0.5), (0.24, 0.5), (0.26, 0.9), (1.0, 0.9)):
        engine = Engine(progress)
        plan.stages[1].step(stripes(0), engine)
        assert engine.momentum == momentum
    moved = {name for name, t in net.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {"machines.1.weight", "machines.1.bias"}


@pytest.mark.parametrize("at", [2, 5, 9])
def test_a_stopped_run_keeps_its_momentum(tmp_path: Path, at: int) -> None:
    whole = loop(build(), tmp_path / "whole", 12).run().predictor.state_dict()
    first = loop(build(), tmp_path / "part", 12)
    first.stop = lambda: first.pace.step >= at
    first.run()
    parted = loop(build(), tmp_path / "part", 12).run().predictor.state_dict()
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def test_other_networks_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cnn'") as found:
        method.build(method.Config(), cnn.build(cnn.Config(), 1, 2), CONTEXT)
    assert found.value.code == "method-network"
    for wrong in ({"share": 1.0}, {"share": 0.0}, {"rate": 0.0}, {"label_smoothing": 1.0}):
        with pytest.raises(ConfigError):
            method.Config(**wrong)
