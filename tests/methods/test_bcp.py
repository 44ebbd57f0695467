"""Whose voxels and whose masks a mixed sample holds, and what its two stages learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED, Label, Schema
from delineate.methods import bcp
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
SOME = torch.tensor([True, True, False, False])


def make(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3)
    return bcp.build(bcp.Config(**given), network, CONTEXT)


def weights(plan: Plan) -> Tensor:
    return torch.cat([p.detach().flatten() for p in plan.predictor.parameters()])


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        ([1, 1, 0, 0], [2, 3, 0, 1]),
        ([1, 1, 0], [2, 2, 0]),
        ([0, 1, 0, 0], [1, 0, 1, 1]),
        ([1, 1, 1], [1, 2, 0]),
        ([0, 0], [1, 0]),
        ([1], [0]),
    ],
)
def test_partners_are_of_the_other_kind_if_there_is_any(
    labelled: list[int], expected: list[int]
) -> None:
    assert bcp.partners(torch.tensor(labelled).bool()).tolist() == expected


def test_masks_come_from_the_expert_or_the_teacher_of_whoever_is_seen_there() -> None:
    image = torch.tensor([10.0, 20.0]).view(2, 1, 1, 1).repeat(1, 1, 9, 9)
    label = torch.ones(2, 9, 9, dtype=torch.uint8)
    batch = Batch(image, label, labelled=torch.tensor([True, False]))
    guess = torch.full_like(label, IGNORED)
    guess[1] = 2
    torch.manual_seed(0)
    seen, real, pseudo = bcp.mixed(batch, guess, 2 / 3)
    labelled_voxels = seen[:, 0] == 10
    assert (real == torch.where(labelled_voxels, 1, IGNORED)).all()
    assert (pseudo == torch.where(labelled_voxels, IGNORED, 2)).all()
    # boxes of six by six: both samples hold voxels of both kinds
    assert labelled_voxels.flatten(1).sum(1).tolist() == [81 - 36, 36]


def test_islands_of_a_guess_teach_nothing() -> None:
    label = torch.tensor(
        [[1, 1, 0, 1], [0, 0, 1, 0], [2, 0, 0, 0], [2, 2, 0, 2]], dtype=torch.uint8
    )
    expected = label.clone()
    expected[3, 3] = IGNORED  # what touches at a corner belongs together
    both = bcp.without_islands(torch.stack([label, torch.zeros_like(label)]))
    assert torch.equal(both[0], expected)
    assert not both[1].any()


def test_at_first_samples_without_labels_are_not_even_looked_at(
    squares: Batch, lending: Callable[..., Any]
) -> None:
    plan, seen = make(), list[Tensor]()
    assert [(stage.name, stage.share) for stage in plan.stages] == [
        ("pasting", 0.25), ("both_ways", 0.75),
    ]  # fmt: skip
    plan.predictor.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    image = squares.image + 100.0 * ~SOME.view(4, 1, 1, 1)
    plan.stages[0].step(dataclasses.replace(squares, image=image, labelled=SOME), lending(plan))
    (batch,) = seen
    assert len(batch) == 2
    assert batch.max() < 50
    assert len(make(pasting=0.0).stages) == 1


@pytest.mark.parametrize(("consistency", "teaches"), [(0.5, True), (0.0, False)])
def test_then_the_teachers_masks_count_with_their_weight(
    squares: Batch, lending: Callable[..., Any], consistency: float, teaches: bool
) -> None:
    class Draws(nn.Module):
        def __init__(self, output: int) -> None:
            super().__init__()
            self.output = output

        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 3, *x.shape[2:])
            logits[:, self.output] = 5
            return logits

    batch, learnt = dataclasses.replace(squares, labelled=SOME), []
    for output in (0, 1):
        plan, update = make(consistency=consistency), lending(Draws(output))
        torch.manual_seed(2)
        plan.stages[1].step(batch, update)
        learnt.append(weights(plan))
    assert torch.equal(*learnt) != teaches


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"pasting": 1.0}, {"box": 0.0}, {"box": 1.0}):
        with pytest.raises(ConfigError, match="expected pasting from 0 to below 1"):
            bcp.Config(**given)
