"""What every method owes the house: one parametrised test a promise, over all of ``methods/``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from delineate.core import catalog, config
from delineate.core.case import Batch
from delineate.core.schema import Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods import adversarial
from delineate.methods._plan import Plan
from delineate.networks import unet

SCHEMA = Schema((Label("a", 1), Label("b", 2)))
SIZE = 32


def options(name: str) -> list[dict[str, Any]]:
    """The defaults, and every preset that the method's settings name."""
    cls = catalog.load("methods", name).Config
    preset = get_type_hints(cls).get("preset")
    return [{"preset": p} for p in get_args(preset)] if get_origin(preset) is Literal else [{}]


VARIANTS = [
    pytest.param(name, chosen, id="-".join([name, *chosen.values()]))
    for name in catalog.members("methods")
    for chosen in options(name)
]
every = pytest.mark.parametrize(("name", "chosen"), VARIANTS)


def batches(step: int, micro: int, split: int) -> Batch:
    """Three batches over and over: a square in a square, each of another brightness."""
    generator = torch.Generator().manual_seed(step % 3)
    label = torch.zeros((4, SIZE, SIZE), dtype=torch.uint8)
    for case, (i, j) in zip(label, torch.randint(2, 14, (4, 2), generator=generator), strict=True):
        case[i : i + 14, j : j + 14] = 1
        case[i + 4 : i + 10, j + 4 : j + 10] = 2
    noise = 0.2 * torch.randn(label.shape, generator=generator)
    return Batch((label.float() - 1 + noise)[:, None], label)


def make(name: str, chosen: Mapping[str, Any]) -> Plan:
    torch.manual_seed(0)
    net = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, SCHEMA.num_outputs)
    module = catalog.load("methods", name)
    plan: Plan = module.build(module.Config(**chosen), net, 1, SCHEMA)
    return plan


def loop(plan: Plan, folder: Path, steps: int) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Loop(plan, batches, Settings(), folder, fabric=fabric, seed=1, pace=Pace(steps, None))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@dataclasses.dataclass
class Spy:
    """Takes the engine's place and writes down what a step asks for."""

    progress: float = 0.9
    asked: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        assert loss.ndim == 0
        assert loss.requires_grad
        self.asked.append(id(optimiser))
        owned = [p for group in optimiser.param_groups for p in group["params"]]
        loss.backward(inputs=owned)
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("name", catalog.members("methods"))
def test_a_method_file_has_what_the_catalog_promises(name: str) -> None:
    module = catalog.load("methods", name)
    assert module.__doc__
    assert module.Config.__dataclass_params__.frozen
    for setting in dataclasses.fields(module.Config):
        assert setting.metadata.get("help"), f"{setting.name} has no help"
    assert config.from_dict(config.to_dict(module.Config()), module.Config) == module.Config()


@every
def test_its_plan_keeps_the_contract(name: str, chosen: Mapping[str, Any]) -> None:
    plan = make(name, chosen)
    assert math.isclose(sum(stage.share for stage in plan.stages), 1)
    assert all(stage.share > 0 for stage in plan.stages)
    assert len({stage.name for stage in plan.stages}) == len(plan.stages)
    trained: set[int] = set()
    for stage in plan.stages:
        inside = {id(p) for module in stage.modules.values() for p in module.parameters()}
        owners = [
            {id(p) for group in o.param_groups for p in group["params"]}
            for o in stage.optimisers.values()
        ]
        assert set.union(*owners) <= inside, "what is trained is saved"
        assert sum(map(len, owners)) == len(set.union(*owners)), "one optimiser a parameter"
        trained |= set.union(*owners)
    assert {id(p) for p in plan.predictor.parameters()} <= trained


@every
def test_a_step_updates_every_optimiser_once_and_says_its_loss(
    name: str, chosen: Mapping[str, Any]
) -> None:
    plan = make(name, chosen)
    for stage in plan.stages:
        for step in range(3):
            spy = Spy()
            said = stage.step(batches(step, 0, 1), spy)
            assert sorted(spy.asked) == sorted(map(id, stage.optimisers.values()))
            assert "loss" in said
            for key, value in said.items():
                assert isinstance(value, Tensor), key
                assert value.ndim == 0, key
                assert not value.requires_grad, key
                assert torch.isfinite(value), key


@every
def test_it_learns(name: str, chosen: Mapping[str, Any], tmp_path: Path) -> None:
    plan = make(name, chosen)
    for stage in plan.stages:
        for optimiser in stage.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = max(group["lr"], 2e-3)  # the literal preset's would take all day
    outcome = loop(plan, tmp_path, 30).run()
    losses = [line["loss"] for line in log(tmp_path)]
    assert outcome.status == "finished"
    assert not outcome.events
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])


@every
def test_it_goes_on_bit_exactly(name: str, chosen: Mapping[str, Any], tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    one = loop(make(name, chosen), whole, 6).run()
    first = loop(make(name, chosen), part, 6)
    first.stop = lambda: first.pace.step >= 3
    first.run()
    two = loop(make(name, chosen), part, 6).run()
    for key, tensor in one.predictor.state_dict().items():
        assert torch.equal(tensor, two.predictor.state_dict()[key]), key
    for a, b in zip(log(whole), log(part), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


@every
def test_its_predictor_gives_logits(name: str, chosen: Mapping[str, Any], tmp_path: Path) -> None:
    predictor = loop(make(name, chosen), tmp_path, 2).run().predictor
    assert not predictor.training
    with torch.no_grad():
        logits = predictor(torch.zeros(2, 1, SIZE, 2 * SIZE))
    assert logits.shape == (2, SCHEMA.num_outputs, SIZE, 2 * SIZE)
    assert torch.isfinite(logits).all()


# ------------------------------------------------------------------------- the adversarial one


def test_a_segmenter_of_deep_supervision_can_play_too() -> None:
    net = unet.build(unet.Config(ndim=2, width=4, levels=4, deep_supervision=2), 1, 3)
    for preset in ("stable", "literal"):
        plan = adversarial.build(adversarial.Config(preset=preset), net.train(), 1, SCHEMA)
        assert torch.isfinite(plan.stages[0].step(batches(0, 0, 1), Spy())["loss"])


def test_the_adversary_waits_for_the_end_of_the_warm_up() -> None:
    plan = make("adversarial", {"preset": "stable"})
    step = plan.stages[0].step
    early, late = (step(batches(0, 0, 1), Spy(progress)) for progress in (0.1, 0.9))
    assert early["adversarial_weight"] == 0
    assert late["adversarial_weight"].item() == pytest.approx(0.02)
    assert late["grad_ratio"] > 0


def test_the_adversary_never_pushes_harder_than_its_cap() -> None:
    logits = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = logits.square().mean()
    for factor in (1e-5, 1e-3, 1e6):
        term, ratio = adversarial._capped(loss, factor * logits.sum(), logits, 0.1)
        (pushed,) = torch.autograd.grad(term, logits, retain_graph=True)
        (wanted,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (free,) = torch.autograd.grad(factor * logits.sum(), logits)
        assert ratio.item() == pytest.approx((free.norm() / wanted.norm()).item(), rel=1e-4)
        share = (pushed.norm() / wanted.norm()).item()
        assert share == pytest.approx(min(0.1, ratio.item()), rel=1e-3)
        cosine = torch.nn.functional.cosine_similarity(pushed.flatten(), free.flatten(), 0)
        assert cosine.item() == pytest.approx(1, abs=1e-4)


def test_expert_and_guess_are_seen_through_one_view() -> None:
    """Were they moved apart, the critic could tell them by their place."""
    torch.manual_seed(0)
    image = torch.randn(2, 1, 16, 24)
    mask = torch.rand(2, 3, 16, 24)
    for _ in range(10):
        expert, guess = adversarial._same_view(image, mask, mask, progress=1.0)
        assert torch.equal(expert, guess)
        assert expert.shape == (2, 4, 16, 24)
        hidden = (expert == 0).all(1).float().mean().item()
        assert hidden == pytest.approx(1 / 16)  # a quarter of each side is cut out
    expert, guess = adversarial._same_view(image, mask, mask, progress=0.0)
    assert torch.equal(expert[:, 0], guess[:, 0])
    assert not torch.equal(expert[:, 1:], guess[:, 1:])


def test_smoothed_masks_are_still_distributions_with_the_same_winner() -> None:
    hot = torch.nn.functional.one_hot(torch.randint(0, 3, (4, 8, 8)), 3).movedim(-1, 1).float()
    soft = adversarial._smooth(hot)
    assert torch.allclose(soft.sum(1), torch.ones(4, 8, 8))
    assert torch.equal(soft.argmax(1), hot.argmax(1))
    assert 0.9 <= soft.amax(1).min() <= 1


@pytest.mark.parametrize("wrong", [{"ramp": 0.0}, {"r1_every": 0}, {"warm_up": 1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    from delineate.core.errors import ConfigError

    with pytest.raises(ConfigError):
        adversarial.Config(**wrong)
