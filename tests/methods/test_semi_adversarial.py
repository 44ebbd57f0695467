"""A critic that selects what a segmenter learns of its own masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core import config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED, Label, Schema
from delineate.methods import semi_adversarial
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
SOME = torch.tensor([True, True, False, False])


def make(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3)
    chosen = config.from_dict({"critic_width": 4, **given}, semi_adversarial.Config)
    return semi_adversarial.build(chosen, network, CONTEXT)


def weights(plan: Plan, part: str) -> Tensor:
    module = plan.stages[0].modules[part]
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Scores(nn.Module):
    """A critic that takes the left half for an expert's with 3/4, the right half with 1/10."""

    def score_map(self, masked: Tensor) -> Tensor:
        scores = torch.full_like(masked[:, :1], math.log(1 / 9))
        scores[..., : masked.shape[-1] // 2] = math.log(3)
        return scores


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.05, [1, 1, 1, 1]), (0.2, [1, 1, IGNORED, IGNORED]), (0.8, [IGNORED] * 4)],
)
def test_a_mask_is_selected_where_the_critic_takes_it_for_an_experts(
    threshold: float, expected: list[int]
) -> None:
    logits = torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 4)
    label = semi_adversarial.selected(Scores(), torch.zeros(1, 4, 2, 4), logits, threshold)
    assert label.tolist() == [[expected, expected]]


@pytest.mark.parametrize(
    ("progress", "weighed", "teaches"),
    [
        (0.2, {"consistency": 10.0, "weight_unlabelled": 10.0}, False),  # the warm-up
        (0.9, {"consistency": 10.0, "weight_unlabelled": 0.0}, True),
        (0.9, {"consistency": 0.0, "weight_unlabelled": 10.0}, True),
        (0.9, {"consistency": 0.0, "weight_unlabelled": 0.0}, False),
    ],
)
def test_scans_without_labels_join_after_the_warm_up(
    progress: float,
    weighed: dict[str, float],
    teaches: bool,
    squares: Batch,
    engine: Callable[..., Any],
) -> None:
    learnt = []
    for brightness in (0.0, 1.0):
        plan = make(threshold=0.0, **weighed)
        image = squares.image + brightness * torch.rand_like(squares.image) * ~SOME.view(4, 1, 1, 1)
        torch.manual_seed(1)
        batch = dataclasses.replace(squares, image=image, labelled=SOME)
        plan.stages[0].step(batch, engine(progress))
        learnt.append([weights(plan, "segmenter"), weights(plan, "critic")])
    assert torch.equal(learnt[0][0], learnt[1][0]) != teaches
    # nobody has drawn on them: the critic never learns from them
    assert torch.equal(learnt[0][1], learnt[1][1])


def test_the_critic_plays_during_the_warm_up_too(
    squares: Batch, engine: Callable[..., Any]
) -> None:
    plan = make()
    before = weights(plan, "critic")
    logged = plan.stages[0].step(dataclasses.replace(squares, labelled=SOME), engine(0.1))
    assert not torch.equal(weights(plan, "critic"), before)
    assert logged["selected"].item() == 0


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"threshold": 1.1}, {"consistency": -1.0}, {"weight_unlabelled": -1.0}):
        with pytest.raises(ConfigError, match="expected consistency and weight_unlabelled"):
            semi_adversarial.Config(**given)
