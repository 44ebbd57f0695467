"""Features before the last layer, for heads that only training uses."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _features as features
from delineate.networks import unet


@pytest.mark.parametrize(("ndim", "deep"), [(2, 0), (2, 2), (3, 1)])
def test_it_catches_what_the_finest_logits_are_made_from(ndim: int, deep: int) -> None:
    config = unet.Config(ndim=ndim, width=3, levels=4, deep_supervision=deep)
    net = unet.build(config, 2, 3)  # as many outputs as channels: the last layer counts
    tap = features.tap(net, 2, 3)
    assert net.training
    found = net(torch.randn(2, 2, *(16,) * ndim))
    finest = found if isinstance(found, Tensor) else found[0]
    caught = tap.take()
    assert caught.shape == (2, tap.width, *(16,) * ndim)
    assert torch.equal(net.heads[0](caught), finest)
    assert caught.requires_grad


def test_the_model_does_not_know_of_it() -> None:
    torch.manual_seed(0)
    net = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 2)
    keys, x = list(net.state_dict()), torch.randn(2, 1, 16, 16)
    tap = features.tap(net, 1, 2)
    assert list(net.state_dict()) == keys
    net(x)
    averaged = copy.deepcopy(net).eval()  # with features caught, as in the midst of training
    kept = tap._caught[0]
    with torch.no_grad():
        wanted = averaged(x)
        program = torch.export.export(averaged, (x,))
        assert torch.allclose(program.module()(x), wanted, atol=1e-6)
    assert tap._caught[0] is kept, "in evaluation nothing is caught"


@dataclass(frozen=True)
class Config:
    ndim: int = 2


def divisor(config: Config) -> int:
    return 1


class Odd(nn.Module):
    """Ends in a matrix product, not in a convolution."""

    config = Config()

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 5, 3, padding=1)
        self.last = nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oc,bchw->bohw", self.last, self.first(x))


def test_a_network_that_ends_otherwise_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, Config.__module__, sys.modules[__name__])
    with pytest.raises(ConfigError) as caught:
        features.tap(Odd(), 1, 2)
    assert caught.value.code == "no-features"


def test_a_network_whose_end_sees_a_crop_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "WHOLE_IMAGE", False, raising=False)
    net = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 2)
    with pytest.raises(ConfigError):
        features.tap(net, 1, 2)
