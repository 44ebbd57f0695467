from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import sam_medcls as medcls


def make(**changes: Any) -> medcls.SamMedCls:
    torch.manual_seed(0)
    small = {"image_size": 64, "dim": 48, "depth": 2, "heads": 3, "neck": 32}
    return medcls.build(medcls.Config(**{**small, **changes}), 1, 2)


def test_gates_of_one_half_leave_a_quarter() -> None:
    """With all weights 0 both gates are sigmoid(0) = 1/2."""
    attention = medcls.DualAttention(16)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 16, 3, 5)
    assert torch.allclose(attention(x), x / 4)


def test_attention_to_places_sees_mean_and_maximum_over_channels() -> None:
    attention = medcls.DualAttention(16)
    for parameter in attention.parameters():
        nn.init.zeros_(parameter)
    attention.places.weight.data[0, 1, 3, 3] = 1000.0  # the maximum at the very place
    x = torch.zeros(1, 16, 1, 2)
    x[0, 0, 0] = torch.tensor([1.0, -1.0])
    x[0, 1:, 0, 1] = -1.0
    gated = attention(x).detach()
    assert gated[0, 0, 0, 0] == pytest.approx(0.5)  # open: only the channels' gate is left
    assert gated[0, 0, 0, 1] == pytest.approx(0.0)  # its maximum is negative: shut


def test_any_number_of_patches_works_and_one_will_do() -> None:
    net = make().eval()
    for size in ((8, 8), (8, 40), (72, 16)):
        assert net(torch.randn(2, 1, *size)).shape == (2, 2)


def test_dropout_is_checked_and_works_in_training_alone() -> None:
    net, x = make(dropout=0.5), torch.randn(1, 1, 16, 16)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    with pytest.raises(ConfigError):
        make(dropout=1.0)


def test_it_learns_whether_a_square_is_there() -> None:
    net = make().train()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    rng = torch.Generator().manual_seed(0)

    def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, label = torch.randn((n, 1, 32, 32), generator=rng) * 0.5, torch.arange(n) % 2
        for i in range(1, n, 2):
            r, c = torch.randint(0, 24, (2,), generator=rng).tolist()
            x[i, 0, r : r + 8, c : c + 8] += 3
        return x, label

    losses = []
    for _ in range(50):
        x, label = batch(16)
        loss = F.cross_entropy(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.4 * losses[0]
    x, label = batch(32)
    with torch.no_grad():
        assert (net.eval()(x).argmax(1) == label).float().mean() > 0.9
