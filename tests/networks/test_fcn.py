from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import fcn


def make(**changes: Any) -> fcn.FCN:
    torch.manual_seed(0)
    return fcn.build(fcn.Config(**{"ndim": 2, "width": 2, **changes}), 1, 1)


def answer(net: fcn.FCN, scored: int) -> Tensor:
    """Output for a 128 x 128 image where one score map, finest first, has a single 1 and rest 0."""

    def instead(index: int) -> Any:
        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            fixed = torch.zeros_like(output)
            fixed[0, 0, 1, 2] = float(index == scored)
            return fixed

        return hook

    for i, score in enumerate(net.scores):
        score.register_forward_hook(instead(i))
    with torch.no_grad():
        return net.eval()(torch.zeros(1, 1, 128, 128))[0, 0]


def test_scores_are_taken_at_strides_8_16_and_32() -> None:
    seen: list[tuple[int, ...]] = []
    net = make()
    for score in net.scores:
        score.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[2:])))
    assert net(torch.zeros(1, 1, 128, 64)).shape == (1, 1, 128, 64)
    assert seen == [(4, 2), (8, 4), (16, 8)]


def test_the_finest_score_adds_detail_of_eight_voxels() -> None:
    """Linear interpolation by 8: the four voxels around a cell's centre get (15/16)^2 of it."""
    fine = answer(make(), scored=0)
    assert torch.allclose(fine[11:13, 19:21], torch.tensor((15 / 16) ** 2))
    rows, columns = torch.nonzero(fine, as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 19, 12, 27)


def test_the_coarsest_score_alone_reaches_far() -> None:
    rows, columns = torch.nonzero(answer(make(), scored=2), as_tuple=True)
    assert rows.max() - rows.min() >= 63
    assert columns.max() - columns.min() >= 63


def test_scores_decide_between_32s_16s_and_8s() -> None:
    assert [len(make(scores=n).scores) for n in (1, 2, 3)] == [1, 2, 3]
    # with two levels there is one pooling, so one map to score
    assert len(make(levels=2).scores) == 1
    assert make(levels=2)(torch.zeros(1, 1, 6, 4)).shape == (1, 1, 6, 4)


def test_scores_are_added_up() -> None:
    """Scores without weights give their biases, up to the border."""
    net = make().eval()
    for bias, score in zip((1.0, 2.0, 4.0), net.scores, strict=True):
        torch.nn.init.zeros_(score.weight)
        torch.nn.init.constant_(score.bias, bias)
    with torch.no_grad():
        assert torch.allclose(net(torch.randn(1, 1, 64, 96)), torch.tensor(7.0))


def test_sizes_and_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"one voxel[\s\S]*\(64, 64\)"):
        make()(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ConfigError, match=r"\(64, 96\)"):
        make()(torch.zeros(1, 1, 64, 70))
    for wrong in ({"levels": 1}, {"levels": 7}, {"scores": 0}, {"dropout": 1.0}, {"norm": "layer"}):
        with pytest.raises(ConfigError):
            make(**wrong)
