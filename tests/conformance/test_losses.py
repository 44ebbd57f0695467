"""What every segmentation loss owes the house: one test a promise, over all of ``losses/``."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core import catalog, config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import IGNORED, Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.losses._common import Term
from delineate.losses._distance import signed
from delineate.methods import supervised
from delineate.methods._plan import Plan
from delineate.networks import unet

OUTPUTS = 3
KINDS = {"output", "finest", "head"}
SHAPES = {2: (2, 18, 22), 3: (2, 10, 12, 9)}
NAMES = [n for n in catalog.members("losses") if hasattr(catalog.load("losses", n), "KIND")]
every = pytest.mark.parametrize("name", NAMES)
each_dimension = pytest.mark.parametrize("ndim", [2, 3])


def labels(ndim: int) -> Tensor:
    """A box in a box, elsewhere in each case."""
    found = torch.zeros(SHAPES[ndim], dtype=torch.uint8)
    for case, start in zip(found, (1, 2), strict=True):
        case[tuple(slice(start, start + 6) for _ in range(ndim))] = 1
        case[tuple(slice(start + 2, start + 4) for _ in range(ndim))] = 2
    return found


def answer(module: ModuleType, label: Tensor, sharpness: float = 8.0) -> Tensor:
    """What a network that believes in ``label`` says."""
    hot = nn.functional.one_hot(label.long(), OUTPUTS).movedim(-1, 1).float()
    if module.KIND == "head":
        return -signed(label, OUTPUTS) / module.Config().tau_mm
    return sharpness * hot


def random(module: ModuleType, ndim: int) -> Tensor:
    channels = OUTPUTS - 1 if module.KIND == "head" else OUTPUTS
    shape = SHAPES[ndim]
    generator = torch.Generator().manual_seed(3)
    return torch.randn((shape[0], channels, *shape[1:]), generator=generator)


@every
def test_a_loss_file_has_what_the_catalog_promises(name: str) -> None:
    module = catalog.load("losses", name)
    assert module.__doc__
    assert module.KIND in KINDS
    assert issubclass(module.Config, Term)
    assert module.Config.__dataclass_params__.frozen
    for setting in dataclasses.fields(module.Config):
        assert setting.metadata.get("help"), f"{setting.name} has no help"
    assert config.from_dict(config.to_dict(module.Config()), module.Config) == module.Config()
    parameters = list(inspect.signature(module.loss).parameters)
    assert parameters[1:] == ["label", "config", "spacing_mm"]


@every
@each_dimension
def test_the_truth_costs_least_and_nothing_is_negative(name: str, ndim: int) -> None:
    module, label = catalog.load("losses", name), labels(ndim)
    spacing = (0.9, 1.3, 2.0)[:ndim]
    guesses = [answer(module, label), answer(module, label.roll(1, 1)), random(module, ndim)]
    truth, shifted, noise = (module.loss(g, label, module.Config(), spacing) for g in guesses)
    for value in (truth, shifted, noise):
        assert value.ndim == 0
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert value >= 0
    assert truth < shifted
    assert truth < noise


@every
@each_dimension
@pytest.mark.parametrize("fill", [None, 0, 1, 2])
def test_its_gradient_is_finite_even_where_a_class_is_absent(
    name: str, ndim: int, fill: int | None
) -> None:
    module, label = catalog.load("losses", name), labels(ndim)
    if fill is not None:
        label.fill_(fill)
    for guess in (random(module, ndim), 50 * random(module, ndim), answer(module, label, 200.0)):
        guess.requires_grad_()
        value = module.loss(guess, label)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(guess.grad).all()
    if fill is None:
        guess = random(module, ndim).requires_grad_()
        module.loss(guess, label).backward()
        assert guess.grad.abs().max() > 0


@every
@each_dimension
def test_going_down_its_gradient_makes_it_smaller(name: str, ndim: int) -> None:
    module, label = catalog.load("losses", name), labels(ndim)
    guess = random(module, ndim).requires_grad_()
    before = module.loss(guess, label)
    (slope,) = torch.autograd.grad(before, guess)
    after = module.loss(guess - 0.1 * slope / slope.norm(), label)
    assert after < before


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_single_comes_out(name: str, dtype: torch.dtype) -> None:
    module, label = catalog.load("losses", name), labels(2)
    guess = (4 * random(module, 2)).to(dtype).requires_grad_()
    found = module.loss(guess, label)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(module.loss(guess.float(), label).item(), rel=1e-5)
    found.backward()
    assert guess.grad.dtype == dtype
    assert torch.isfinite(guess.grad).all()


@every
@each_dimension
def test_what_nobody_annotated_has_no_say(name: str, ndim: int) -> None:
    """Neither the loss nor its slope anywhere knows what a network says of ignored voxels."""
    module, label = catalog.load("losses", name), labels(ndim)
    label[:, 5:9, 2:8] = IGNORED
    ignored = (label == IGNORED).unsqueeze(1)
    guess = random(module, ndim).requires_grad_()
    other = torch.where(ignored, 30 * torch.randn(guess.shape), guess.detach()).requires_grad_()
    values = [module.loss(x, label) for x in (guess, other)]
    slopes = [torch.autograd.grad(v, x)[0] for v, x in zip(values, (guess, other), strict=True)]
    assert values[0] == values[1]
    assert torch.equal(*slopes)
    assert not slopes[0].masked_select(ignored).any()
    assert slopes[0].masked_select(~ignored).any()


@every
@each_dimension
def test_a_half_that_is_ignored_costs_what_the_other_half_costs_alone(name: str, ndim: int) -> None:
    module, label = catalog.load("losses", name), labels(ndim)
    guess, half = random(module, ndim), SHAPES[ndim][1] // 2
    alone = module.loss(guess[:, :, :half], label[:, :half])
    label[:, half:] = IGNORED
    within = 0.1 if name == "cldice" else 1e-6  # skeletons end where a vessel is cut
    assert module.loss(guess, label).item() == pytest.approx(alone.item(), rel=within)


@every
@each_dimension
def test_a_batch_of_which_nothing_is_annotated_teaches_nothing(name: str, ndim: int) -> None:
    module, label = catalog.load("losses", name), labels(ndim).fill_(IGNORED)
    guess = random(module, ndim).requires_grad_()
    value = module.loss(guess, label)
    (slope,) = torch.autograd.grad(value, guess)
    assert torch.isfinite(value)
    assert not slope.any()


@every
def test_the_type_of_the_label_does_not_matter(name: str) -> None:
    module, label = catalog.load("losses", name), labels(2)
    guess = random(module, 2)
    found = {module.loss(guess, label.to(t)).item() for t in (torch.uint8, torch.long, torch.float)}
    assert len(found) == 1


class Descent:
    """Takes the engine's place."""

    progress = 1.0

    def __call__(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@every
@each_dimension
def test_it_can_train_a_small_network(name: str, ndim: int) -> None:
    """Named in the settings, with deep supervision, in millimetres."""
    module = catalog.load("losses", name)
    chosen: dict[str, Any] = {name: {"weight": 1.0, "warm_up": 0.0, "ramp": 0.0}}
    if module.KIND == "head":
        chosen["dice"] = 1.0
    torch.manual_seed(0)
    net = unet.build(unet.Config(ndim=ndim, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
    schema = Schema((Label("a", 1), Label("b", 2)))
    context = Context(ndim, 1, OUTPUTS, schema)
    plan = supervised.build(supervised.Config(losses=chosen, learning_rate=5e-3), net, context)
    label = torch.zeros((2, *(16,) * ndim), dtype=torch.uint8)
    label[:, 3:12, 4:13] = 1
    label[:, 6:9, 7:10] = 2
    image = label.float()[:, None] - 1 + 0.2 * torch.randn((2, 1, *(16,) * ndim))
    batch = Batch(image, label, (1.5,) * ndim)
    seen = [plan.stages[0].step(batch, Descent())[f"loss_{name}"].item() for _ in range(20)]
    assert sum(seen[-3:]) < 0.9 * sum(seen[:3])


def test_a_distance_head_survives_a_crash_and_is_not_in_the_model(tmp_path: Path) -> None:
    chosen = {"dice": 1, "cross_entropy": 1, "signed_distance": 0.3, "hausdorff": {"warm_up": 0.3}}
    schema = Schema((Label("a", 1), Label("b", 2)))

    def plan() -> Plan:
        torch.manual_seed(0)
        net = unet.build(unet.Config(ndim=2, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
        return supervised.build(
            supervised.Config(losses=chosen), net, Context(2, 1, OUTPUTS, schema)
        )

    def batches(step: int, micro: int, split: int) -> Batch:
        label = torch.zeros((2, 16, 16), dtype=torch.uint8)
        label[:, 3:12, 2 + step : 8 + step] = 1
        return Batch(label.float()[:, None], label, (0.7, 1.2))

    def loop(folder: str) -> Loop:
        (tmp_path / folder).mkdir(exist_ok=True)
        fabric = Fabric(accelerator="cpu", devices=1)
        return Loop(
            plan(), batches, Settings(), tmp_path / folder, fabric=fabric, seed=1,
            pace=Pace(6, None),
        )  # fmt: skip

    whole = loop("whole")
    head = whole.plan.stages[0].modules["distance_head"]
    start = {key: tensor.clone() for key, tensor in head.state_dict().items()}
    one = whole.run()
    first = loop("part")
    first.stop = lambda: first.pace.step >= 4
    first.run()
    second = loop("part")
    two = second.run()
    plain = unet.build(unet.Config(ndim=2, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
    assert list(one.predictor.state_dict()) == list(plain.state_dict())
    for key, tensor in one.predictor.state_dict().items():
        assert torch.equal(tensor, two.predictor.state_dict()[key]), key
    heads = [run.plan.stages[0].modules["distance_head"].state_dict() for run in (whole, second)]
    for key, tensor in heads[0].items():
        assert torch.equal(tensor, heads[1][key]), key
        assert not torch.equal(tensor, start[key]), key
    lines = (tmp_path / "part" / "log.jsonl").read_text().splitlines()
    assert "loss_hausdorff" not in lines[0]
    assert {"loss_signed_distance", "factor_hausdorff"} <= set(json.loads(lines[-1]))
