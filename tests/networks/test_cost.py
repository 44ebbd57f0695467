"""Counts of multiply-accumulates, against values worked out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import _cost, unet


class Attention(nn.Module):
    """Self-attention over places, by one of several roads that PyTorch offers."""

    def __init__(self, road: str) -> None:
        super().__init__()
        self.road = road
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        if self.road == "module":
            found: Tensor = self.layer(x, x, x, need_weights=False)[0]
            return found
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.road == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return torch.relu(self.out(mixed.transpose(1, 2).flatten(2)))


#: 20 places, 8 channels, 2 heads of 4: three projections, scores, mixing, projection.
ATTENTION = 20 * 8 * 24 + 2 * 20 * 20 * 4 + 2 * 20 * 20 * 4 + 20 * 8 * 8

HAND = [
    pytest.param(nn.Conv2d(3, 8, 3, padding=1), 3, (8, 6), 8 * 6 * 8 * 3 * 9, id="conv2d"),
    pytest.param(nn.Conv3d(2, 4, 3, 2, 1), 2, (8, 8, 8), 4**3 * 4 * 2 * 27, id="strided-conv3d"),
    pytest.param(nn.Conv3d(4, 8, 3, groups=4), 4, (4, 4, 4), 2**3 * 8 * 27, id="grouped-conv3d"),
    pytest.param(nn.Conv2d(2, 2, 3, dilation=2), 2, (8, 8), 4**2 * 2 * 2 * 9, id="dilated"),
    # each input place meets every output channel and tap once
    pytest.param(nn.ConvTranspose2d(3, 5, 2, 2), 3, (4, 4), 16 * 3 * 5 * 4, id="transposed-2d"),
    pytest.param(nn.ConvTranspose3d(4, 6, 2, 2), 4, (4, 4, 2), 32 * 4 * 6 * 8, id="transposed-3d"),
    *(pytest.param(Attention(r), 8, (4, 5), ATTENTION, id=r) for r in ("module", "fused", "plain")),
    pytest.param(nn.Sequential(nn.InstanceNorm2d(3), nn.ReLU()), 3, (8, 8), 0, id="not-counted"),
]


@pytest.mark.parametrize(("network", "channels", "size", "expected"), HAND)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_counts_are_those_worked_out_by_hand(
    network: nn.Module, channels: int, size: tuple[int, ...], expected: int, device: str
) -> None:
    assert _cost.macs(network, channels, size, device) == expected
    assert _cost.gmac(network, channels, size) == pytest.approx(expected / 1e9)


def test_counting_leaves_the_network_as_it_is() -> None:
    config = unet.Config(ndim=2, width=4, levels=3, norm="batch", deep_supervision=1)
    network = unet.build(config, 2, 3).train()
    network.encoder[0].eval()
    twin = copy.deepcopy(network)
    generator = torch.get_rng_state()
    _cost.gmac(network, 2, (16, 16))
    _cost.macs(network, 2, (16, 16), "cpu")
    _cost.order(network, 2, (16, 16))
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.backends.mha.get_fastpath_enabled()
    for (name, was), (_, now) in zip(twin.named_modules(), network.named_modules(), strict=True):
        assert was.training == now.training, name
        assert not now._forward_pre_hooks, name
    for name, tensor in twin.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
        assert network.state_dict()[name].device.type == "cpu"


def test_a_unet_by_hand() -> None:
    """Two levels of width 2 in 2D, one channel to three outputs, on 8 x 8."""
    network = unet.build(unet.Config(ndim=2, width=2, levels=2), 1, 3)
    fine = 64 * 9 * (1 * 2 + 2 * 2)
    coarse = 16 * 9 * (2 * 4 + 4 * 4)
    up = 16 * 4 * 2 * 4
    decoder = 64 * 9 * (4 * 2 + 2 * 2)
    head = 64 * 2 * 3
    assert _cost.macs(network, 1, (8, 8), "meta") == fine + coarse + up + decoder + head
    convolutions = 9 * (2 + 4 + 8 + 16 + 8 + 4) + (2 + 2 + 4 + 4 + 2 + 2)
    norms = 2 * (2 + 2 + 4 + 4 + 2 + 2)
    assert _cost.parameters(network) == convolutions + norms + (4 * 4 * 2 + 2) + (2 * 3 + 3)


def test_shared_and_frozen_parameters_count_once() -> None:
    layer = nn.Linear(3, 3)
    layer.bias.requires_grad_(False)
    assert _cost.parameters(nn.Sequential(layer, layer)) == 12


def test_a_size_that_does_not_fit_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"\(16, 16\)"):
        _cost.gmac(unet.build(unet.Config(ndim=2, levels=4), 1, 2), 1, (15, 15))


def test_what_cannot_do_without_values_is_counted_on_the_cpu() -> None:
    class Choosy(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) == 0 else x * 2)

    assert _cost.gmac(Choosy(1, 1, 1), 1, (4, 4)) == pytest.approx(16e-9)


def test_a_training_step_counts_its_backward_pass() -> None:
    layer = nn.Conv2d(2, 4, 3, padding=1)
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    with _cost.Counter() as counter:
        layer(x).sum().backward()
    assert counter.macs == 3 * 64 * 2 * 4 * 9  # forward, gradient of the input, of the weights


@pytest.mark.parametrize(
    ("layer", "channels"),
    [(nn.Conv2d(8, 12, 3, stride=2), 8), (nn.ConvTranspose2d(8, 12, 3, stride=2), 8),
     (nn.Conv2d(8, 8, 3, groups=8), 8), (nn.Conv2d(8, 16, 3, groups=4), 8)],
)  # fmt: skip
def test_a_backward_pass_costs_twice_the_forward_pass(layer: nn.Module, channels: int):
    x = torch.zeros(2, channels, 9, 9, requires_grad=True)
    with _cost.Counter() as forward:
        y = layer(x)
    with _cost.Counter() as backward:
        y.sum().backward()
    assert backward.macs == 2 * forward.macs > 0
