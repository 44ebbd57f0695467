from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import res2net_unet


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def block(nd: int, width: int = 8, groups: int = 4) -> res2net_unet.Res2Block:
    torch.manual_seed(0)
    return res2net_unet.Res2Block(res2net_unet.Config(ndim=nd, groups=groups), width, width)


@pytest.mark.parametrize("nd", [2, 3])
def test_the_receptive_field_grows_from_group_to_group(nd: int) -> None:
    net = block(nd)
    net.split[1] = nn.Identity()  # a norm sees all of the image
    for conv in net.convs:
        conv[1] = nn.Identity()
    reach = []
    for group in range(4):
        x = image(1, 8, *[11] * nd).requires_grad_()
        net.hierarchy(x)[group][(0, slice(None), *[5] * nd)].sum().backward()
        assert x.grad is not None
        reach.append(int((x.grad.flatten(0, -2).abs().amax(0) > 0).sum()))
    assert reach == [1, 3, 5, 7]


def test_the_first_group_passes_as_it_is() -> None:
    net = block(2)
    x = image(1, 8, 6, 6)
    assert torch.equal(net.hierarchy(x)[0], net.split(x)[:, :2])


def test_a_block_adds_to_what_it_sees() -> None:
    net = block(2)
    nn.init.zeros_(net.fuse[1].weight)
    x = image(2, 8, 6, 6)
    assert torch.equal(net(x), nn.functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize(("width", "groups", "part"), [(8, 4, 2), (6, 4, 2), (3, 4, 1), (9, 3, 3)])
def test_widths_need_not_divide_by_the_groups(width: int, groups: int, part: int) -> None:
    net = block(2, width, groups)
    assert [y.shape[1] for y in net.hierarchy(image(1, width, 6, 6))] == [part] * groups
    assert net(image(1, width, 6, 6)).shape == (1, width, 6, 6)


def test_a_single_group_is_refused() -> None:
    with pytest.raises(ConfigError):
        res2net_unet.Config(groups=1)
