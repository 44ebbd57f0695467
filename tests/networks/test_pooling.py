from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from delineate.networks import _pooling


def bags(batch: int, count: int, features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, count, features), generator=generator)


@pytest.mark.parametrize("gated", [True, False])
def test_attention_is_a_weighted_mean_in_any_order(gated: bool) -> None:
    torch.manual_seed(0)
    pool = _pooling.AttentionPool(5, 8, gated)
    x = bags(3, 7, 5)
    weights = pool.weights(x)
    assert torch.allclose(weights.sum(1), torch.ones(3))
    assert torch.allclose(pool(x), (weights.unsqueeze(2) * x).sum(1))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert torch.allclose(pool(x[:, order]), pool(x), atol=1e-6)
    assert pool(x).shape == (3, pool.width)


def test_two_instances_worked_by_hand() -> None:
    """tanh of 0 and of atanh(1/2), gates of 1/2, a score of 4 log 3: weights 1/4 and 3/4."""
    pool = _pooling.AttentionPool(1, 1)
    assert pool.gate is not None
    nn.init.ones_(pool.value.weight)
    nn.init.constant_(pool.score.weight, 4 * math.log(3))
    for tensor in (pool.value.bias, pool.gate.weight, pool.gate.bias):
        nn.init.zeros_(tensor)
    x = torch.tensor([0.0, math.atanh(0.5)]).reshape(1, 2, 1)
    assert torch.allclose(pool.weights(x), torch.tensor([[0.25, 0.75]]))


def test_instances_that_are_not_there_count_for_nothing() -> None:
    torch.manual_seed(0)
    pool = _pooling.AttentionPool(4)
    x = bags(2, 5, 4)
    present = torch.tensor([[True] * 3 + [False] * 2] * 2)
    assert torch.allclose(pool(x, present), pool(x[:, :3]), atol=1e-6)
    assert (pool.weights(x, present)[:, 3:] == 0).all()


def test_a_gru_reads_slices_up_and_down() -> None:
    torch.manual_seed(0)
    pool = _pooling.GruPool(4, 6)
    x = bags(3, 5, 4)
    found = pool(x)
    assert found.shape == (3, pool.width) == (3, 12)
    states = pool.gru(x)[0]
    assert torch.equal(found, torch.cat([states[:, -1, :6], states[:, 0, 6:]], 1))
    assert not torch.allclose(pool(x.flip(1)), found)


@pytest.mark.parametrize("kind", [_pooling.AttentionPool, _pooling.GruPool])
def test_the_slice_that_decides_is_found(kind: type[nn.Module]) -> None:
    """One of twelve slices is marked or none is; which one differs from bag to bag."""
    torch.manual_seed(0)
    pool = kind(4, 16)
    head = nn.Linear(int(pool.width), 1)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam([*pool.parameters(), *head.parameters()], 0.02)
    generator = torch.Generator().manual_seed(0)

    def draw(batch: int) -> tuple[Tensor, Tensor]:
        x = torch.randn((batch, 12, 4), generator=generator)
        label = torch.randint(2, (batch,), generator=generator)
        place = torch.randint(12, (batch,), generator=generator)
        x[torch.arange(batch), place, 0] += 6.0 * label
        return x, label.float()

    for _ in range(100):
        x, label = draw(32)
        loss = nn.functional.binary_cross_entropy_with_logits(head(pool(x))[:, 0], label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, label = draw(200)
    assert ((head(pool(x))[:, 0] > 0) == (label > 0)).float().mean() > 0.9


def test_attention_exports() -> None:
    torch.manual_seed(0)
    pool = _pooling.AttentionPool(4).eval()
    x = bags(2, 5, 4)
    program = torch.export.export(pool, (x,))
    assert torch.allclose(program.module()(x + 1), pool(x + 1), atol=1e-6)
