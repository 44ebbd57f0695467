from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import deeplab_v1


def make(**changes: Any) -> deeplab_v1.DeepLabV1:
    torch.manual_seed(0)
    settings = {"ndim": 2, "width": 2, "norm": "batch", **changes}
    return deeplab_v1.build(deeplab_v1.Config(**settings), 1, 2).eval()


def reach(net: nn.Module, size: int) -> int:
    """Voxels along an axis from the first to the last that the centre's logits depend on."""
    for part in net.parameters():  # nothing cancels where every weight is positive
        part.data.abs_()
    x = torch.rand((1, 1, size, size), generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    net(x)[0, 0, size // 2, size // 2].backward()
    assert x.grad is not None
    touched = torch.nonzero(x.grad[0, 0].abs().sum(0))
    return int(touched.max() - touched.min()) + 1


def test_the_head_looks_exactly_twelve_steps_away() -> None:
    net = make(norm="batch")
    features = torch.randn((1, 16, 33, 33), generator=torch.Generator().manual_seed(0))
    features.requires_grad_()
    net.head(features)[0, 0, 16, 16].backward()
    assert features.grad is not None
    rows, columns = torch.nonzero(features.grad[0].abs().sum(0), as_tuple=True)
    assert set(rows.tolist()) == set(columns.tolist()) == {4, 16, 28}
    assert len(rows) == 9


def test_the_atrous_head_widens_the_view() -> None:
    """11 steps more on either side, of 8 voxels each, give or take the maxima's places."""
    far, near = reach(make(), 512), reach(make(rate=1), 512)
    assert abs(far - near - 2 * 11 * 8) <= 8
    assert far > 380


def test_logits_are_those_of_an_eighth_of_the_resolution() -> None:
    net = make()
    x = torch.randn((1, 1, 40, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, found = net.head(net.encoder(x)), net(x)
    assert scores.shape == (1, 2, 5, 3)
    assert found.shape == (1, 2, 40, 24)
    # linear interpolation by 8: the corner is the corner's, voxel 4 is 1/16 on the way to the next
    assert torch.allclose(found[:, :, 0, 0], scores[:, :, 0, 0], atol=1e-6)
    mixed = (15 * scores[:, :, 0, 0] + scores[:, :, 0, 1]) / 16
    assert torch.allclose(found[:, :, 0, 4], mixed, atol=1e-6)


def test_three_dimensions_and_refusals() -> None:
    net = make(ndim=3, norm="instance")
    assert net(torch.zeros(1, 1, 16, 8, 8)).shape == (1, 2, 16, 8, 8)
    with pytest.raises(ConfigError, match=r"one voxel[\s\S]*\(16, 16, 16\)"):
        net(torch.zeros(1, 1, 8, 8, 8))
    for wrong in ({"rate": 0}, {"dropout": 1.0}, {"ndim": 1}, {"norm": "layer"}):
        with pytest.raises(ConfigError):
            make(**wrong)
