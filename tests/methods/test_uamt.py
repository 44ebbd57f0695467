"""Where an uncertainty-aware teacher is heard, and where not."""

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
from delineate.core.schema import Label, Schema
from delineate.methods import uamt
from delineate.methods._plan import Plan
from delineate.networks import unet

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
NOBODY = torch.zeros(4, dtype=torch.bool)


def make(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2), 1, 3)
    return uamt.build(uamt.Config(**given), network, CONTEXT)


class Says(nn.Module):
    """A network that gives the same probabilities everywhere, whatever it sees."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(shares).log())
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.get_buffer("logits").view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


def test_sure_is_an_entropy_below_a_share_of_the_largest_that_rises_to_all_of_it() -> None:
    # three outputs: ln 3 = 1.0986; 0.75 of it is 0.8240
    mean = torch.tensor([[1, 0, 0], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    mean = mean.T.view(1, 3, 4, 1)  # entropies 0, 0.8018, 0.8979 and 1.0986
    at_first, in_the_end = (
        uamt.is_sure(mean, 0.75, progress).flatten().tolist() for progress in (0.0, 1.0)
    )
    assert at_first == [True, True, False, False]
    assert in_the_end[:3] == [True, True, True]


def test_the_teacher_is_asked_several_times_under_noise_of_its_own_each_time() -> None:
    teacher = Says(0.5, 0.3, 0.2)
    torch.manual_seed(0)
    mean = uamt.mean_of_passes(teacher, torch.zeros(2, 1, 8, 8), uamt.Config(passes=3))
    assert mean[1, :, 4, 4].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert len(teacher.seen) == 3
    assert not torch.equal(teacher.seen[0], teacher.seen[1])


@pytest.mark.parametrize(
    ("shares", "teaches"), [((0.9, 0.05, 0.05), True), ((0.4, 0.3, 0.3), False)]
)
def test_a_teacher_that_is_not_sure_teaches_nothing(
    shares: tuple[float, ...], teaches: bool, squares: Batch, lending: Callable[..., Any]
) -> None:
    plan = make(weight_decay=0.0)
    before = [p.detach().clone() for p in plan.predictor.parameters()]
    update = lending(Says(*shares), progress=0.1)
    logged = plan.stages[0].step(dataclasses.replace(squares, labelled=NOBODY), update)
    assert logged["sure"].item() == float(teaches)
    moved = any(
        not torch.equal(p, was) for p, was in zip(plan.predictor.parameters(), before, strict=True)
    )
    assert moved == teaches


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"noise": -1.0}, {"passes": 0}, {"threshold": 0.0}, {"threshold": 1.5}):
        with pytest.raises(ConfigError, match="expected a noise of 0 or more, 1 pass or more"):
            uamt.Config(**given)
