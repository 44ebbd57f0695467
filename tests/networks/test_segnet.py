from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import segnet


def make(**changes: Any) -> segnet.SegNet:
    torch.manual_seed(0)
    return segnet.build(segnet.Config(**{"ndim": 2, "width": 2, "levels": 4, **changes}), 1, 2)


def test_a_maximum_is_put_back_where_it_came_from() -> None:
    x = torch.tensor([[1.0, 2, 0, 0], [3, 0, 0, 9], [0, 0, -1, -2], [7, 0, -3, -4]])[None, None]
    found, places = segnet.pool(x)
    assert torch.equal(found[0, 0], torch.tensor([[3.0, 9], [7, -1]]))
    back = segnet.unpool(10 * found, places, x.shape)[0, 0]
    expected = torch.tensor([[0.0, 0, 0, 0], [30, 0, 0, 90], [0, 0, -10, 0], [70, 0, 0, 0]])
    assert torch.equal(back, expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_unpooling_agrees_with_torch(ndim: int) -> None:
    x = torch.randn((2, 3, 8, 4, 6)[: 2 + ndim], generator=torch.Generator().manual_seed(0))
    found, places = segnet.pool(x)
    referee = F.max_unpool3d if ndim == 3 else F.max_unpool2d
    assert torch.equal(segnet.unpool(found, places, x.shape), referee(found, places, 2))


def test_of_equal_values_one_alone_is_put_back() -> None:
    x = torch.ones(1, 1, 2, 2, 2)
    found, places = segnet.pool(x)
    assert segnet.unpool(found, places, x.shape).sum() == 1


def test_results_can_be_made_to_repeat() -> None:
    """PyTorch's own unpooling is refused in this mode."""
    net = make()
    torch.use_deterministic_algorithms(True)
    try:
        net(torch.randn(1, 1, 16, 16)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_decoder_gets_places_and_no_features() -> None:
    """Each decoder stage's input is zero in three of four voxels."""
    net = make().eval()
    shares: list[float] = []

    def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
        shares.append((inputs[0] != 0).float().mean().item())

    for stage in net.decoder:
        stage.register_forward_pre_hook(hook)
    net(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert shares == [0.25] * 3


def test_the_decoder_mirrors_the_encoder() -> None:
    net = make(levels=6, width=4)
    down = [[unit[0].out_channels for unit in stage] for stage in net.encoder]
    up = [[unit[0].out_channels for unit in stage] for stage in net.decoder]
    assert down == [[4, 4], [8, 8], [16] * 3, [32] * 3, [32] * 3]
    assert up == [[4], [8, 4], [16, 16, 8], [32, 32, 16], [32, 32, 32]]


def test_the_smallest_size_works_and_others_are_refused() -> None:
    assert make()(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)
    with pytest.raises(ConfigError, match=r"\(16, 16\)"):
        make()(torch.zeros(1, 1, 9, 16))
    for wrong in ({"levels": 7}, {"levels": 1}, {"width": 0}, {"norm": "layer"}):
        with pytest.raises(ConfigError):
            make(**wrong)
