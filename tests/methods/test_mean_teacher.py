"""What a mean teacher teaches: agreement, by everyone, and labels by those who have them."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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


@dataclass
class Engine:
    """Steps an optimiser and lends a teacher that does not move."""

    averaged: nn.Module
    progress: float = 0.9
    last: bool = True

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def make(deep_supervision: int = 0, **given: Any) -> Plan:
    torch.manual_seed(0)
    config = unet.Config(ndim=2, width=4, levels=3, deep_supervision=deep_supervision)
    return mean_teacher.build(mean_teacher.Config(**given), unet.build(config, 1, 3), CONTEXT)


def engine(plan: Plan, teacher: nn.Module | None = None) -> Engine:
    return Engine(copy.deepcopy(teacher or plan.predictor).eval().requires_grad_(False))


def weights(plan: Plan) -> Tensor:
    return torch.cat([p.detach().flatten() for p in plan.predictor.parameters()])


def test_disagreement_is_the_squared_difference_of_the_structures_probabilities() -> None:
    def logits(p: float) -> Tensor:
        return torch.tensor([1 - p, p]).log().view(1, 2, 1, 1)

    assert mean_teacher.disagreement(logits(0.8), logits(0.6)).item() == pytest.approx(0.04)
    assert mean_teacher.disagreement([logits(0.3), logits(0.9)], logits(0.3)).item() == 0


def test_its_weight_rises_slowly_and_then_stays() -> None:
    found = [mean_teacher.rampup(progress, 0.4) for progress in (0.0, 0.2, 0.4, 1.0)]
    assert found == pytest.approx([math.exp(-5), math.exp(-1.25), 1, 1])
    assert mean_teacher.rampup(0.0, 0.0) == 1


def test_both_see_noise_of_their_own_that_is_bounded() -> None:
    image = torch.zeros(1, 1, 64, 64)
    torch.manual_seed(0)
    one, other = (mean_teacher.noisy(image, 0.1) for _ in range(2))
    assert not torch.equal(one, other)
    assert one.abs().max() <= 0.2
    assert one.std().item() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("deep_supervision", [0, 1])
def test_without_any_label_it_comes_to_agree_with_its_teacher(
    squares: Batch, deep_supervision: int
) -> None:
    plan, other = make(deep_supervision, noise=0.0), make(deep_supervision)
    torch.manual_seed(7)
    for parameter in other.predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    update, batch = engine(plan, other.predictor), dataclasses.replace(squares, labelled=NOBODY)
    before = copy.deepcopy(update.averaged.state_dict())
    apart = [plan.stages[0].step(batch, update)["loss_consistency"].item() for _ in range(12)]
    assert apart[-1] < 0.7 * apart[0]
    for key, tensor in update.averaged.state_dict().items():
        assert torch.equal(tensor, before[key]), "the teacher is the engine's"


@pytest.mark.parametrize(("consistency", "teaches"), [(10.0, True), (0.0, False)])
def test_samples_without_labels_teach_by_agreement_alone(
    squares: Batch, consistency: float, teaches: bool
) -> None:
    found = []
    for brightness in (0.0, 1.0):
        plan = make(consistency=consistency)
        image = squares.image + brightness * ~SOME[:, None, None, None]
        torch.manual_seed(1)
        batch = dataclasses.replace(squares, image=image, labelled=SOME)
        plan.stages[0].step(batch, engine(plan))
        found.append(weights(plan))
    assert torch.equal(*found) != teaches


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"consistency": -1.0}, {"noise": -0.1}, {"ramp": 1.5}):
        with pytest.raises(ConfigError, match="expected consistency and noise of 0 or more"):
            mean_teacher.Config(**given)
