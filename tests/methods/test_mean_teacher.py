"""What a mean teacher teaches: agreement, by everyone, and labels by those who have them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.methods import mean_teacher
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
NOBODY = torch.zeros(4, dtype=torch.bool)
SOME = torch.tensor([True, True, False, False])


def make(deep_supervision: int = 0, **given: Any) -> Plan:
    torch.manual_seed(0)
    config = unet.Config(ndim=2, width=4, levels=3, deep_supervision=deep_supervision)
    return mean_teacher.build(mean_teacher.Config(**given), unet.build(config, 1, 3), CONTEXT)


def weights(plan: Plan) -> Tensor:
    return torch.cat([p.detach().flatten() for p in plan.predictor.parameters()])


@pytest.mark.parametrize("deep_supervision", [0, 1])
def test_without_any_label_it_comes_to_agree_with_its_teacher(
    squares: Batch, lending: Callable[..., Any], deep_supervision: int
) -> None:
    plan, other = make(deep_supervision, noise=0.0), make(deep_supervision)
    torch.manual_seed(7)
    for parameter in other.predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    update, batch = lending(other), dataclasses.replace(squares, labelled=NOBODY)
    before = copy.deepcopy(update.averaged.state_dict())
    apart = [plan.stages[0].step(batch, update)["loss_consistency"].item() for _ in range(12)]
    assert apart[-1] < 0.7 * apart[0]
    for key, tensor in update.averaged.state_dict().items():
        assert torch.equal(tensor, before[key]), "the teacher is the engine's"


@pytest.mark.parametrize(("consistency", "teaches"), [(10.0, True), (0.0, False)])
def test_samples_without_labels_teach_by_agreement_alone(
    squares: Batch, lending: Callable[..., Any], consistency: float, teaches: bool
) -> None:
    found = []
    for brightness in (0.0, 1.0):
        plan = make(consistency=consistency)
        image = squares.image + brightness * ~SOME[:, None, None, None]
        torch.manual_seed(1)
        batch = dataclasses.replace(squares, image=image, labelled=SOME)
        plan.stages[0].step(batch, lending(plan))
        found.append(weights(plan))
    assert torch.equal(*found) != teaches


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"consistency": -1.0}, {"ramp": 1.5}, {"noise": -0.1}):
        with pytest.raises(ConfigError, match=r"expected a (consistency|noise) of 0 or more"):
            mean_teacher.Config(**given)
