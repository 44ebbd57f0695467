"""What every method owes the house: one parametrised test a promise, over all of ``methods/``."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from delineate.core import catalog, config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import IGNORED, Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods._plan import Plan
from delineate.networks import resganet_classifier, unet

SCHEMA = Schema((Label("a", 1), Label("b", 2)), classes=("dark", "grey", "bright"))
#: What each kind of model gives, and how much of it.
OUTPUTS = {"segmenter": SCHEMA.num_outputs, "classifier": len(SCHEMA.classes), "translator": 1}
SIZE = 32
#: Who of a batch is labelled, where some are not.
TAUGHT = torch.tensor([True, False, True, False])
#: Fields that only decide how much there is to compute, made small.
SMALL: dict[str, Any] = {"critic_width": 4, "critic_layers": 3}


def options(name: str) -> list[dict[str, Any]]:
    """The defaults, and every preset that the method's settings name."""
    presets = getattr(catalog.load("methods", name).Config, "PRESETS", None)
    return [{"preset": p} for p in presets] if presets else [{}]


VARIANTS = [
    pytest.param(name, kind, chosen, id="-".join([name, kind, *chosen.values()]))
    for name in catalog.members("methods")
    for kind in catalog.load("methods", name).TRAINS
    for chosen in options(name)
]
every = pytest.mark.parametrize(("name", "kind", "chosen"), VARIANTS)
#: Presets that show a fault: what they minimise does not say whether they learn.
FAULTY = ("gan_features-classifier-literal", "gan_features-segmenter-literal")
sound = pytest.mark.parametrize(
    ("name", "kind", "chosen"), [variant for variant in VARIANTS if variant.id not in FAULTY]
)

outlining = pytest.mark.parametrize(
    ("name", "kind", "chosen"), [one for one in VARIANTS if one.values[1] == "segmenter"]
)


def batches(step: int, micro: int, split: int) -> Batch:
    """Three batches over and over: a square in a square, each of another brightness."""
    generator = torch.Generator().manual_seed(step % 3)
    label = torch.zeros((4, SIZE, SIZE), dtype=torch.uint8)
    for case, (i, j) in zip(label, torch.randint(2, 14, (4, 2), generator=generator), strict=True):
        case[i : i + 14, j : j + 14] = 1
        case[i + 4 : i + 10, j + 4 : j + 10] = 2
    noise = 0.2 * torch.randn(label.shape, generator=generator)
    return Batch((label.float() - 1 + noise)[:, None], label)


def pictures(step: int, micro: int, split: int) -> Batch:
    """The same with a class for each image, which its brightness tells."""
    batch = batches(step, micro, split)
    class_index = torch.tensor([0, 1, 2, step % 3])
    return dataclasses.replace(
        batch,
        image=batch.image + 2.0 * class_index[:, None, None, None],
        class_index=class_index,
        subject=4 * (step % 3) + torch.arange(4),
    )


def scans(step: int, micro: int, split: int) -> Batch:
    """The same with another image of each to be given, without the noise."""
    batch = batches(step, micro, split)
    return dataclasses.replace(batch, target=2.0 - batch.label[:, None].float())


def feed(plan: Plan) -> Callable[[int, int, int], Batch]:
    modules = plan.stages[-1].modules
    return pictures if "classifier" in modules else scans if "translator" in modules else batches


def make(name: str, kind: str, chosen: Mapping[str, Any]) -> Plan:
    torch.manual_seed(0)
    module = catalog.load("methods", name)
    # a method that trains no network but its own says which
    own: str | None = getattr(module, "NETWORKS", {}).get(kind)
    network: Any = resganet_classifier if kind == "classifier" else unet
    if own is not None:
        network = catalog.load("networks", own)
    size = {"width": 4, "features": len(SCHEMA.labels)}
    size |= {"levels": 3} if kind != "classifier" else {}
    own_names = {f.name for f in dataclasses.fields(network.Config)}
    size = {key: value for key, value in size.items() if key in own_names}
    outputs = OUTPUTS[kind]
    net: nn.Module = network.build(network.Config(ndim=2, **size), 1, outputs)
    names = {f.name for f in dataclasses.fields(module.Config)}
    small = {key: value for key, value in SMALL.items() if key in names}
    settings = config.from_dict({**small, **chosen}, module.Config)
    target = {"classifier": "class", "segmenter": "outline", "translator": "image"}[kind]
    plan: Plan = module.build(settings, net, Context(2, 1, outputs, SCHEMA, target=target))
    return plan


def loop(plan: Plan, folder: Path, steps: int) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Loop(plan, feed(plan), Settings(), folder, fabric=fabric, seed=1, pace=Pace(steps, None))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@dataclasses.dataclass
class Spy:
    """Takes the engine's place and writes down what a step asks for."""

    averaged: nn.Module
    progress: float = 0.9
    last: bool = True
    asked: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        assert loss.ndim == 0
        assert loss.requires_grad
        self.asked.append(id(optimiser))
        owned = [p for group in optimiser.param_groups for p in group["params"]]
        loss.backward(inputs=owned)
        optimiser.step()
        optimiser.zero_grad()


def spy(plan: Plan) -> Spy:
    return Spy(copy.deepcopy(plan.predictor).eval().requires_grad_(False))


@pytest.mark.parametrize("name", catalog.members("methods"))
def test_a_method_file_has_what_the_catalog_promises(name: str) -> None:
    module = catalog.load("methods", name)
    assert module.__doc__
    assert module.TRAINS
    assert set(module.TRAINS) <= OUTPUTS.keys()
    for kind, network in getattr(module, "NETWORKS", {}).items():
        assert kind == catalog.load("networks", network).KIND
    assert module.Config.__dataclass_params__.frozen
    assert module.USES in (("labelled",), ("labelled", "unlabelled"))
    assert list(inspect.signature(module.build).parameters) == ["config", "network", "context"]
    for setting in dataclasses.fields(module.Config):
        assert setting.metadata.get("help"), f"{setting.name} has no help"
    assert config.from_dict(config.to_dict(module.Config()), module.Config) == module.Config()


@every
def test_its_plan_keeps_the_contract(name: str, kind: str, chosen: Mapping[str, Any]) -> None:
    plan = make(name, kind, chosen)
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
        assert set().union(*owners) <= inside, "what is trained is saved"
        assert sum(map(len, owners)) == len(set().union(*owners)), "one optimiser a parameter"
        trained |= set().union(*owners)
    assert {id(p) for p in plan.predictor.parameters()} <= trained


@every
def test_a_step_updates_every_optimiser_once_and_says_its_loss(
    name: str, kind: str, chosen: Mapping[str, Any]
) -> None:
    plan = make(name, kind, chosen)
    for stage in plan.stages:
        for step in range(3):
            engine = spy(plan)
            said = stage.step(feed(plan)(step, 0, 1), engine)
            assert sorted(engine.asked) == sorted(map(id, stage.optimisers.values()))
            assert "loss" in said
            for key, value in said.items():
                assert isinstance(value, Tensor), key
                assert value.ndim == 0, key
                assert not value.requires_grad, key
                assert torch.isfinite(value), key


@outlining
def test_what_nobody_annotated_teaches_it_nothing(
    name: str, kind: str, chosen: Mapping[str, Any]
) -> None:
    """No optimiser's loss has a slope at what the network says of ignored voxels."""
    settings = {f.name for f in dataclasses.fields(catalog.load("methods", name).Config)}
    if "consistency" in settings:
        chosen = {**chosen, "consistency": 0.0}  # of a guess with itself: it asks for no label
    plan = make(name, kind, chosen)
    network: Any = plan.predictor
    slopes: list[Tensor] = []

    def listen(said: Any) -> Any:
        fine = said if isinstance(said, Tensor) else said[0]
        if fine.requires_grad:
            fine.register_hook(slopes.append)
        return said

    if hasattr(network, "segment"):
        whole = network.segment
        network.segment = lambda *given: listen(whole(*given))
    else:  # the maps, where a network draws some before its answer
        drawn = getattr(network, "generator", network)
        drawn.register_forward_hook(lambda _module, _given, said: listen(said))
    batch = feed(plan)(0, 0, 1)
    ignored = torch.zeros_like(batch.label, dtype=torch.bool)
    ignored[:, 8:24, 8:20] = True
    batch.label[ignored] = IGNORED
    for stage in plan.stages:
        said = stage.step(batch, spy(plan))
        assert all(torch.isfinite(value) for value in said.values())
    assert slopes
    for slope in slopes:
        assert not slope.movedim(1, -1)[ignored].any()
        assert slope.movedim(1, -1)[~ignored].any()


def after_some_steps(plan: Plan, labelled: Tensor, otherwise: bool) -> dict[str, Tensor]:
    """All that a plan has learnt, where samples are not labelled, or labelled otherwise."""
    torch.manual_seed(1)
    state = {}
    for stage in plan.stages:
        for step in range(2):
            batch = feed(plan)(step, 0, 1)
            label, class_index, target = batch.label.clone(), batch.class_index, batch.target
            if otherwise:
                label[~TAUGHT] = 0
                class_index = None if class_index is None else class_index.where(TAUGHT, 0)
                target = None if target is None else target.where(TAUGHT[:, None, None, None], 0)
            given = dataclasses.replace(
                batch, label=label, class_index=class_index, labelled=labelled, target=target
            )
            said = stage.step(given, spy(plan))
            assert all(torch.isfinite(value) for value in said.values())
        for part, module in stage.modules.items():
            for key, tensor in module.state_dict().items():
                state[f"{stage.name}.{part}.{key}"] = tensor.clone()
    return state


@every
def test_samples_without_labels_teach_it_no_label(
    name: str, kind: str, chosen: Mapping[str, Any]
) -> None:
    """Whatever was written where nobody has drawn: 0 and class 0 are no answers."""
    one, other = (
        after_some_steps(make(name, kind, chosen), TAUGHT, otherwise) for otherwise in (False, True)
    )
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key
    everyone = torch.ones_like(TAUGHT)
    one, other = (
        after_some_steps(make(name, kind, chosen), everyone, otherwise)
        for otherwise in (False, True)
    )
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.items())


@every
def test_a_batch_of_which_nobody_is_labelled_does_no_harm(
    name: str, kind: str, chosen: Mapping[str, Any]
) -> None:
    state = after_some_steps(make(name, kind, chosen), torch.zeros_like(TAUGHT), False)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@sound
def test_it_learns(name: str, kind: str, chosen: Mapping[str, Any], tmp_path: Path) -> None:
    plan = make(name, kind, chosen)
    for stage in plan.stages:
        for optimiser in stage.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = max(group["lr"], 2e-3)  # the literal preset's would take all day
    outcome = loop(plan, tmp_path, 30).run()
    assert outcome.status == "finished"
    assert not outcome.events
    said = log(tmp_path)
    for stage in plan.stages:
        losses = [line["loss"] for line in said if line["stage"] == stage.name]
        few = len(losses) // 3
        assert not stage.optimisers or sum(losses[-few:]) < 0.95 * sum(losses[:few]), stage.name


@every
def test_it_goes_on_bit_exactly(
    name: str, kind: str, chosen: Mapping[str, Any], tmp_path: Path
) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    one = loop(make(name, kind, chosen), whole, 6).run()
    first = loop(make(name, kind, chosen), part, 6)
    first.stop = lambda: first.pace.step >= 3
    first.run()
    two = loop(make(name, kind, chosen), part, 6).run()
    for key, tensor in one.predictor.state_dict().items():
        assert torch.equal(tensor, two.predictor.state_dict()[key]), key
    for name_of_part, kept in one.keeps.items():
        again = two.keeps[name_of_part].module.state_dict()
        assert all(torch.equal(again[k], v) for k, v in kept.module.state_dict().items())
    for a, b in zip(log(whole), log(part), strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {
            k: v for k, v in b.items() if k != "seconds"
        }


@every
def test_what_it_keeps_can_be_built_again_from_what_is_written(
    name: str, kind: str, chosen: Mapping[str, Any], tmp_path: Path
) -> None:
    plan = make(name, kind, chosen)
    if not plan.keeps:
        return
    trained = [module for stage in plan.stages for module in stage.modules.values()]
    before = {
        key: {k: v.clone() for k, v in part.module.state_dict().items()}
        for key, part in plan.keeps.items()
    }
    keeps = loop(plan, tmp_path, 6).run().keeps
    assert keeps.keys() == plan.keeps.keys()
    for key, part in keeps.items():
        assert any(part.module is module for module in trained), "checkpoints hold it"
        assert part.module is not plan.predictor
        assert not part.module.training
        network = catalog.load("networks", part.network)
        written = json.loads(json.dumps(config.to_dict(part.config)))
        fresh = network.build(
            config.from_dict(written, network.Config), part.channels, part.outputs
        )
        fresh.load_state_dict(part.module.state_dict())
        seen = torch.randn(1, part.channels, SIZE, SIZE)
        with torch.no_grad():
            assert torch.equal(fresh.eval()(seen), part.module(seen))
        sees = json.loads(json.dumps(config.to_dict(part.sees)))
        assert config.from_dict(sees, type(part.sees)) == part.sees
        after = part.module.state_dict()
        assert any(not torch.equal(after[k], tensor) for k, tensor in before[key].items())


@every
def test_its_predictor_gives_logits(
    name: str, kind: str, chosen: Mapping[str, Any], tmp_path: Path
) -> None:
    predictor = loop(make(name, kind, chosen), tmp_path, 6).run().predictor
    assert not predictor.training
    with torch.no_grad():
        logits = predictor(torch.zeros(2, 1, SIZE, 2 * SIZE))
    place = () if kind == "classifier" else (SIZE, 2 * SIZE)
    assert logits.shape == (2, OUTPUTS[kind], *place)
    assert torch.isfinite(logits).all()
