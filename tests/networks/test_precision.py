"""With how many bits and in which order of memory networks compute: the same, only faster."""

from __future__ import annotations

import pytest
import torch

from delineate.networks import _blocks, unet
from delineate.networks._precision import put_channels_last


@pytest.mark.parametrize("nd", [2, 3])
def test_a_network_whose_channels_lie_last_answers_the_same(nd: int) -> None:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=nd, width=4, levels=2), 2, 3)
    image = torch.randn(2, 2, *(8,) * nd)
    before = network(image)
    put_channels_last(network)
    weight = next(p for p in network.parameters() if p.ndim == nd + 2 and p.shape[1] > 1)
    assert not weight.is_contiguous()
    torch.testing.assert_close(network(image), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nd", [2, 3])
def test_instance_norm_keeps_the_order_of_memory_values_and_gradients(nd: int) -> None:
    torch.manual_seed(0)
    norm, image = _blocks.norm(nd, 3), torch.randn(2, 3, *(4, 5, 6)[:nd])
    torch.nn.init.normal_(norm.weight)
    last = torch.channels_last if nd == 2 else torch.channels_last_3d
    results = []
    for order in (torch.contiguous_format, last):
        x = image.clone(memory_format=order).requires_grad_()
        y = norm(x)
        assert y.is_contiguous(memory_format=order)
        y.pow(3).sum().backward()
        results.append((y, x.grad, norm.weight.grad.clone(), norm.bias.grad.clone()))
        norm.zero_grad()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
