from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import vnet_agse


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(guide: np.ndarray, x: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Box by box, as He et al. 2013 write it; one channel."""
    boxes = {
        at: tuple(slice(max(0, i - radius), i + radius + 1) for i in at)
        for at in itertools.product(*map(range, guide.shape))
    }
    slope, offset = np.zeros(guide.shape), np.zeros(guide.shape)
    for at, box in boxes.items():
        g, f = guide[box], x[box]
        slope[at] = np.mean((g - g.mean()) * (f - f.mean())) / (g.var() + eps)
        offset[at] = f.mean() - slope[at] * g.mean()
    return np.array(
        [slope[box].mean() * guide[at] + offset[box].mean() for at, box in boxes.items()]
    ).reshape(guide.shape)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("size", [(7, 6), (1, 5), (5, 4, 6), (2, 1, 3)])
def test_the_guided_filter_is_that_of_the_paper(size: tuple[int, ...], radius: int) -> None:
    guide, x = image(2, 3, *size), image(2, 3, *size, seed=1)
    found = vnet_agse.guided_filter(guide, x, radius, 1e-2).numpy()
    for b, c in itertools.product(range(2), range(3)):
        expected = by_hand(guide[b, c].double().numpy(), x[b, c].double().numpy(), radius, 1e-2)
        np.testing.assert_allclose(found[b, c], expected, atol=1e-4)


def test_a_filter_guided_by_its_input_changes_nothing() -> None:
    x = image(1, 2, 9, 8)
    assert torch.allclose(vnet_agse.guided_filter(x, x, 1, 1e-9), x, atol=1e-4)
    # and any line in the guide is such a case
    assert torch.allclose(vnet_agse.guided_filter(x, 3 * x - 2, 1, 1e-9), 3 * x - 2, atol=1e-3)


def test_a_guide_without_edges_gives_means_of_means() -> None:
    x = image(1, 1, 9, 9)
    found = vnet_agse.guided_filter(torch.full_like(x, 5.0), x)
    assert torch.allclose(found[0, 0, 4, 4], _twice(x)[0, 0, 4, 4], atol=1e-5)


def _twice(x: Tensor) -> Tensor:
    for _ in range(2):
        x = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return x


def test_the_guides_edge_comes_back_into_a_blurred_image() -> None:
    edge = torch.zeros(1, 1, 8, 16)
    edge[..., 8:] = 1.0
    blurred = _twice(edge)
    found = vnet_agse.guided_filter(edge, blurred, 1, 1e-4)
    steps = [float(y[0, 0, 4, 8] - y[0, 0, 4, 7]) for y in (blurred, found)]
    assert steps[1] > 1.5 * steps[0]


def test_large_features_survive_half_precision() -> None:
    guide, x = 30 * image(1, 2, 8, 8), image(1, 2, 8, 8, seed=1)
    exact = vnet_agse.guided_filter(guide, x)
    found = vnet_agse.guided_filter(guide.bfloat16(), x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().max() < 0.1


def test_every_stage_is_squeezed_and_every_skip_guided() -> None:
    net = vnet_agse.build(vnet_agse.Config(ndim=2, width=8, levels=4), 1, 2)
    squeezed = [m for m in net.modules() if isinstance(m, blocks.SqueezeExcite)]
    assert [m.layers[0].in_features for m in squeezed] == [8, 16, 32, 64]
    assert [m.layers[0].out_features for m in squeezed] == [4, 4, 4, 8], "an eighth, four at least"
    assert len([m for m in net.modules() if isinstance(m, vnet_agse.GuidedSkip)]) == 3


@pytest.mark.parametrize("wrong", [{"eps": 0.0}, {"radius": 0}, {"reduction": 0}, {"kernel": 2}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        vnet_agse.Config(**wrong)
