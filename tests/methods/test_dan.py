"""A critic that tells guesses of labelled scans from others: what each side learns.

``sassnet`` shows it signed distances, ``dan`` probabilities.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core import config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.losses import _sum
from delineate.methods import _semi, dan, sassnet
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
SOME = torch.tensor([True, True, False, False])
METHODS = pytest.mark.parametrize("method", [dan, sassnet])


def make(method: Any, **given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3)
    chosen = config.from_dict({"critic_width": 2, **given}, method.Config)
    plan: Plan = method.build(chosen, network, CONTEXT)
    return plan


def weights(plan: Plan, part: str = "segmenter") -> Tensor:
    module = plan.stages[0].modules[part]
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_being_taken_for_labelled_is_a_cross_entropy() -> None:
    scores = torch.tensor([[0.0], [math.log(3.0)]])  # taken for labelled with 1/2 and 3/4
    truth = _semi.taken_for(scores, torch.tensor([True, False]))
    assert truth.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    hoped_for = _semi.taken_for(scores, torch.tensor([True, True]))
    assert hoped_for.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert _semi.taken_for(scores[:0], torch.tensor([]).bool()).item() == 0


@METHODS
def test_the_critic_learns_who_is_labelled(
    method: Any, squares: Batch, engine: Callable[..., Any]
) -> None:
    plan = make(method, critic_rate=0.02)
    stage = plan.stages[0]
    image = squares.image * SOME.view(4, 1, 1, 1)  # nothing to be seen without a label
    batch = dataclasses.replace(squares, image=image, labelled=SOME)
    update = engine(moves=(stage.optimisers["critic"],))
    logged = [stage.step(batch, update) for _ in range(30)]
    assert logged[-1]["d_loss"] < 0.7 * logged[0]["d_loss"]
    assert logged[-1]["d_accuracy"] == 1


@METHODS
@pytest.mark.parametrize(("consistency", "teaches"), [(10.0, True), (0.0, False)])
def test_others_teach_the_segmenter_through_the_critic_alone(
    method: Any, consistency: float, teaches: bool, squares: Batch, engine: Callable[..., Any]
) -> None:
    learnt = []
    for brightness in (0.0, 1.0):
        plan = make(method, consistency=consistency)
        image = squares.image + brightness * ~SOME.view(4, 1, 1, 1)
        torch.manual_seed(1)
        plan.stages[0].step(dataclasses.replace(squares, image=image, labelled=SOME), engine())
        learnt.append(weights(plan))
    assert torch.equal(*learnt) != teaches


@METHODS
def test_where_everybody_is_labelled_the_segmenter_learns_from_labels_alone(
    method: Any, squares: Batch, engine: Callable[..., Any]
) -> None:
    plan, other = make(method, consistency=10.0), make(method, consistency=0.0)
    for learner in (plan, other):
        logged = learner.stages[0].step(squares, engine())
        assert logged["loss_adversarial"].item() == 0
    assert torch.equal(weights(plan), weights(other))


def test_the_head_of_distances_is_trained_and_left_behind(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    plan = make(sassnet)
    before = weights(plan, "distance_head")
    logged = plan.stages[0].step(squares, engine())
    assert "loss_signed_distance" in logged
    assert not torch.equal(weights(plan, "distance_head"), before)
    assert plan.keeps == {}
    assert "distance_head" not in dict(plan.predictor.named_children())


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected signed_distance among the losses"):
        sassnet.Config(losses=_sum.DEFAULT)
    for method in (dan, sassnet):
        with pytest.raises(ConfigError, match="expected a critic_width of 1 or more"):
            make(method, critic_width=0)
