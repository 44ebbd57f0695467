"""What the tests of methods share: a small batch, and a stand-in for the engine."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from delineate.core.case import Batch
from delineate.methods._plan import Plan


@dataclass
class Engine:
    """Does an update as the engine does, for the optimisers that may move."""

    progress: float = 0.9
    moves: tuple[Optimizer, ...] | None = None
    losses: list[float] = field(default_factory=list)
    averaged: nn.Module = field(default_factory=nn.Identity)
    last: bool = True

    @classmethod
    def lending(cls, network: nn.Module | Plan, progress: float = 0.9) -> Engine:
        """With a teacher that does not move, a copy of a network or of a plan's predictor."""
        teacher = network.predictor if isinstance(network, Plan) else network
        return cls(progress, averaged=copy.deepcopy(teacher).eval().requires_grad_(False))

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        self.losses.append(loss.item())
        if self.moves is not None and optimiser not in self.moves:
            return
        owned = [p for group in optimiser.param_groups for p in group["params"]]
        loss.backward(inputs=owned)
        optimiser.step()
        optimiser.zero_grad()


@pytest.fixture
def engine() -> Callable[..., Engine]:
    return Engine


@pytest.fixture
def lending() -> Callable[..., Engine]:
    return Engine.lending


@pytest.fixture
def squares() -> Batch:
    """Four flat images of 32 x 32: a square in a square, labels 1 and 2."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros((4, 32, 32), dtype=torch.uint8)
    for case, (i, j) in zip(label, torch.randint(2, 14, (4, 2), generator=generator), strict=True):
        case[i : i + 14, j : j + 14] = 1
        case[i + 4 : i + 10, j + 4 : j + 10] = 2
    noise = 0.2 * torch.randn(label.shape, generator=generator)
    return Batch((label.float() - 1 + noise)[:, None], label)
