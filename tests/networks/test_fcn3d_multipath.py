from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import fcn3d_multipath as multipath


def make(channels: int = 4, **changes: Any) -> multipath.MultiPathFCN:
    torch.manual_seed(0)
    settings = {"ndim": 3, "width": 2, "levels": 3, **changes}
    return multipath.build(multipath.Config(**settings), channels, 2).eval()


def image(channels: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn((1, channels, 8, 12, 8), generator=draw)


def features(net: multipath.MultiPathFCN, x: Tensor) -> list[list[Tensor]]:
    seen: list[list[Tensor]] = []
    hooks = [p.register_forward_hook(lambda m, i, out: seen.append(list(out))) for p in net.paths]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("modality", range(4))
def test_a_modality_changes_its_own_path_alone(modality: int) -> None:
    net, x = make(), image()
    other = x.clone()
    other[:, modality] = other[:, modality].flip(-1)
    before, after = features(net, x), features(net, other)
    assert len(before) == 4
    for path in range(4):
        for one, two in zip(before[path], after[path], strict=True):
            assert torch.equal(one, two) is (path != modality)


def test_the_decoder_sees_every_path_at_every_level() -> None:
    x = image().requires_grad_()
    net = make()
    net(x).square().mean().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((0, 2, 3, 4)) > 0).all()
    # bottom: 4 paths of 8 channels; above it 4 paths and what comes up, of 4 and of 2 channels
    assert net.bottom[0].in_channels == 32
    assert [unit[0].in_channels for unit in net.decoder] == [5 * 2, 5 * 4]


def test_paths_do_not_share_weights() -> None:
    """The same image in every channel is seen by four different eyes."""
    net, x = make(), image(1).expand(1, 4, -1, -1, -1)
    first, second, *_ = features(net, x)
    assert not torch.equal(first[0], second[0])


def test_one_channel_is_enough() -> None:
    assert make(1)(image(1)).shape == (1, 2, 8, 12, 8)


def test_the_atrous_rate_is_that_of_the_second_convolution() -> None:
    for path in make(rate=3).paths:
        assert [[u[0].dilation[0] for u in stage] for stage in path.stages] == [[1, 3]] * 3


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"rate": 0}, {"levels": 1}, {"max_width": 0}, {"norm": "layer"}, {"ndim": 5}):
        with pytest.raises(ConfigError):
            make(**wrong)
    with pytest.raises(ConfigError, match="one voxel"):
        make()(torch.zeros(1, 4, 4, 4, 4))
