"""Two networks that teach each other: who learns what from whom."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import Label, Schema
from delineate.losses import _sum
from delineate.methods import cps
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
SOME = torch.tensor([True, True, False, False])


class Constant(nn.Module):
    """One number an output, the same at every voxel; it can be trained."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


def make(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2, deep_supervision=1), 1, 3)
    return cps.build(cps.Config(**given), network, CONTEXT)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_second_network_begins_elsewhere_and_is_trained_though_the_first_is_frozen() -> None:
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3).requires_grad_(False)
    other = cps.with_weights_of_its_own(network)
    assert all(p.requires_grad for p in other.parameters())
    pairs = zip(network.parameters(), other.parameters(), strict=True)
    assert not any(torch.equal(one, two) for one, two in pairs if one.ndim > 1)


def test_the_model_is_the_first_network_and_the_second_is_left_behind() -> None:
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3)
    plan = cps.build(cps.Config(), network, CONTEXT)
    assert plan.predictor is network
    assert plan.keeps == {}


def test_each_learns_of_unlabelled_samples_what_the_other_would_draw(
    squares: Batch, lending: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Constant(0.0, 3.0, 0.0), Constant(0.0, 0.0, 3.0)
    monkeypatch.setattr(cps, "with_weights_of_its_own", lambda _: two)
    plan = cps.build(cps.Config(losses={"cross_entropy": 1.0}), one, CONTEXT)
    before = one.logits.detach().clone(), two.logits.detach().clone()
    nobody = dataclasses.replace(squares, labelled=SOME & False)
    plan.stages[0].step(nobody, lending(plan))
    moved = one.logits.detach() - before[0], two.logits.detach() - before[1]
    # towards the other's structure, away from its own
    assert moved[0][2] > 0 > moved[0][1]
    assert moved[1][1] > 0 > moved[1][2]


def test_labelled_samples_learn_from_their_labels_alone(
    squares: Batch, lending: Callable[..., Any]
) -> None:
    plan = make()
    expected, _ = _sum.build(_sum.DEFAULT)(plan.predictor(squares.image), squares.label)
    logged = plan.stages[0].step(squares, update := lending(plan))
    assert logged["loss_pseudo"].item() == 0
    assert update.losses[0] == pytest.approx(expected.item())


@pytest.mark.parametrize(("consistency", "teaches"), [(1.0, True), (0.0, False)])
def test_samples_without_labels_teach_by_the_others_masks_alone(
    squares: Batch, lending: Callable[..., Any], consistency: float, teaches: bool
) -> None:
    found = []
    for brightness in (0.0, 1.0):
        plan = make(consistency=consistency)
        image = squares.image + brightness * torch.rand_like(squares.image) * ~SOME.view(4, 1, 1, 1)
        batch = dataclasses.replace(squares, image=image, labelled=SOME)
        plan.stages[0].step(batch, lending(plan))
        found.append([weights(m) for m in plan.stages[0].modules.values()])
    assert all(torch.equal(*pair) != teaches for pair in zip(*found, strict=True))
