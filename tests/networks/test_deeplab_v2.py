from __future__ import annotations

from typing import Any

import pytest
import torch

from delineate.core.errors import ConfigError
from delineate.networks import deeplab_v1, deeplab_v2


def make(**changes: Any) -> deeplab_v2.DeepLabV2:
    torch.manual_seed(0)
    settings = {"ndim": 2, "width": 2, "norm": "batch", **changes}
    return deeplab_v2.build(deeplab_v2.Config(**settings), 1, 2).eval()


def test_the_pyramid_looks_6_12_18_and_24_steps_away() -> None:
    net = make()
    features = torch.randn((1, 16, 51, 51), generator=torch.Generator().manual_seed(0))
    features.requires_grad_()
    sum(head(features)[0, 0, 25, 25] for head in net.heads).backward()
    assert features.grad is not None
    rows, columns = torch.nonzero(features.grad[0].abs().sum(0), as_tuple=True)
    away = {0, 6, 12, 18, 24}
    assert {abs(n - 25) for n in rows.tolist()} == away
    assert {abs(n - 25) for n in columns.tolist()} == away
    assert len(rows) == 1 + 4 * 8  # the centre belongs to all of them


def test_scores_are_added_up() -> None:
    """A head without weights and with bias b adds b and nothing else."""
    net = make()
    for bias, head in enumerate(net.heads, start=1):
        torch.nn.init.zeros_(head[-1].weight)
        torch.nn.init.constant_(head[-1].bias, bias)
    with torch.no_grad():
        found = net(torch.randn(1, 1, 16, 24))
    assert torch.allclose(found, torch.tensor(1.0 + 2 + 3 + 4))


def test_with_one_rate_it_is_version_one() -> None:
    two = make(rates=(12,))
    one = deeplab_v1.build(deeplab_v1.Config(ndim=2, width=2, norm="batch"), 1, 2).eval()
    state = {key.replace("heads.0.", "head."): v for key, v in two.state_dict().items()}
    one.load_state_dict(state)
    x = torch.randn((1, 1, 32, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(one(x), two(x), atol=1e-6)


def test_three_dimensions_and_refusals() -> None:
    net = make(ndim=3, norm="instance")
    assert net(torch.zeros(1, 1, 16, 8, 8)).shape == (1, 2, 16, 8, 8)
    with pytest.raises(ConfigError, match="one voxel"):
        net(torch.zeros(1, 1, 8, 8, 8))
    for wrong in ({"rates": ()}, {"rates": (6, 0)}, {"dropout": -0.1}, {"width": 0}):
        with pytest.raises(ConfigError):
            make(**wrong)


def test_rates_follow_the_patch_so_that_no_tap_falls_outside():
    assert deeplab_v2.derived((321, 321)) == {"rates": (6, 12, 18, 24)}
    assert deeplab_v2.derived((128, 128)) == {"rates": (2, 5, 7, 10)}
    assert deeplab_v2.derived((32, 64, 32)) == {"rates": (1, 1, 2, 2)}
    for side in (64, 128, 256, 512):
        assert max(deeplab_v2.derived((side, side))["rates"]) < side / 8
