"""Every method that learns from cases without labels, on all that a feed may give it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import IGNORED, Label, Schema
from delineate.methods._plan import Plan
from delineate.networks import unet

SCHEMA = Schema((Label("a", 1), Label("b", 2)))
METHODS = [
    name
    for name in catalog.members("methods")
    if "unlabelled" in catalog.load("methods", name).USES
]
#: Size, channels and who is labelled.
FORMS = {
    "2D": ((16, 16), 1, (True, True, False, False)),
    "2.5D": ((16, 16), 3, (True, False, False)),
    "3D": ((8, 8, 8), 2, (True, False)),
    "3D-alone": ((8, 8, 8), 1, (True,)),
    "3D-unlabelled-alone": ((8, 8, 8), 1, (False,)),
    "2D-nobody": ((16, 16), 1, (False, False, False)),
    "2D-everybody": ((16, 16), 1, (True, True, True)),
}


def make(name: str, size: tuple[int, ...], channels: int, **settings: Any) -> Plan:
    torch.manual_seed(0)
    module: Any = catalog.load("methods", name)
    shape = unet.Config(ndim=len(size), width=4, levels=2 if len(size) == 3 else 3)
    network = unet.build(dataclasses.replace(shape, deep_supervision=1), channels, 3)
    context = Context(len(size), channels, 3, SCHEMA)
    return module.build(module.Config(**settings), network, context)


def batch(size: tuple[int, ...], channels: int, labelled: tuple[bool, ...]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 3, (len(labelled), *size), generator=generator).to(torch.uint8)
    label[:, :2] = IGNORED
    image = torch.randn((len(labelled), channels, *size), generator=generator)
    return Batch(image, label, labelled=torch.tensor(labelled))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", METHODS)
def test_it_takes_whatever_a_batch_may_hold(
    name: str, form: str, lending: Callable[..., Any]
) -> None:
    """Volumes, slices with neighbours, one sample alone, nobody or everybody labelled; 16 bits."""
    size, channels, labelled = FORMS[form]
    found = []
    for _ in range(2):
        plan = make(name, size, channels)
        for stage in plan.stages:
            update = lending(plan)
            torch.manual_seed(3)
            with torch.autocast("cpu", torch.bfloat16):
                logged = stage.step(batch(size, channels, labelled), update)
            assert all(torch.isfinite(value) for value in logged.values())
        found.append([p.detach().clone() for p in plan.predictor.parameters()])
    assert all(torch.isfinite(p).all() for p in found[0])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True)), "not the same twice"


@pytest.mark.parametrize("name", METHODS)
def test_the_average_that_the_engine_lends_is_only_looked_at(
    name: str, lending: Callable[..., Any]
) -> None:
    plan = make(name, (16, 16), 1)
    for stage in plan.stages:
        update = lending(plan)
        before = {key: tensor.clone() for key, tensor in update.averaged.state_dict().items()}
        stage.step(batch((16, 16), 1, (True, False)), update)
        after = update.averaged.state_dict()
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
        assert all(parameter.grad is None for parameter in update.averaged.parameters())
        assert not update.averaged.training


#: ``bcp`` pastes labelled samples into each other.
@pytest.mark.parametrize("name", [name for name in METHODS if name != "bcp"])
def test_where_everybody_is_labelled_labels_teach_as_in_supervised_training(
    name: str, lending: Callable[..., Any]
) -> None:
    terms = []
    for method in ("supervised", name):
        quiet = {"noise": 0.0} if method in ("mean_teacher", "uamt") else {}
        plan = make(method, (16, 16), 1, **quiet)
        logged = plan.stages[0].step(batch((16, 16), 1, (True,) * 3), lending(plan))
        terms.append([logged[f"loss_{loss}"].item() for loss in ("dice", "cross_entropy")])
    assert terms[0] == pytest.approx(terms[1])
