from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from delineate.core.errors import ConfigError, MissingExtraError
from delineate.networks import swin_unetr


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**changes: Any) -> swin_unetr.SwinUNETR:
    torch.manual_seed(0)
    small = {"ndim": 2, "depths": (2, 1, 1, 1), "window": 4}
    return swin_unetr.build(swin_unetr.Config(**{**small, **changes}), 1, 2)


@pytest.mark.parametrize(("width", "channels"), [(1, 12), (8, 12), (12, 12), (16, 24), (32, 36)])
def test_the_planners_widths_become_multiples_of_twelve(width: int, channels: int) -> None:
    net = make(width=width, depths=(1, 1, 1, 1))
    assert net.net.encoder1.layer.conv1.out_channels == channels


@pytest.mark.parametrize("window", [3, 4, 7])
@pytest.mark.parametrize("shape", [(32, 64), (96, 32), (160, 64)])
def test_windows_are_padded_to_every_multiple_of_32(window: int, shape: tuple[int, int]) -> None:
    net = make(window=window)
    with torch.no_grad():
        found = net(image(1, 1, *shape))
    assert found.shape == (1, 2, *shape)
    assert torch.isfinite(found).all()


def test_volumes_of_unequal_sides_work() -> None:
    net = make(ndim=3, window=3)
    with torch.no_grad():
        assert net(image(1, 1, 32, 64, 32)).shape == (1, 2, 32, 64, 32)


@pytest.mark.parametrize(
    ("shape", "fix"), [((33, 64), "(64, 64)"), ((64, 48), "(64, 64)"), ((32, 32), "(64, 32)")]
)
def test_other_sizes_are_refused_with_one_that_works(shape: tuple[int, int], fix: str) -> None:
    net = make()
    with pytest.raises(ConfigError) as caught:
        net(image(1, 1, *shape))
    assert caught.value.code == "size"
    assert fix in str(caught.value)


def test_the_fast_attention_without_gradients_gives_the_same_answer() -> None:
    net, x = make().eval(), image(2, 1, 64, 96)
    slow = net(x)
    with torch.no_grad():
        fast = net(x)
    assert torch.allclose(fast, slow, atol=1e-5)


@pytest.mark.parametrize("nd", [2, 3])
def test_merging_patches_leaves_no_neighbour_out(nd: int) -> None:
    """MONAI's first version took two of eight neighbours twice and two never."""
    merge = make(ndim=nd, depths=(1, 1, 1, 1)).net.swinViT.layers1[0].downsample
    x = image(1, *[2] * nd, 12).requires_grad_()
    merge(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()


@pytest.mark.slow
def test_a_disc_is_found_within_sixty_steps() -> None:
    net = make(depths=(2, 1, 1, 1))
    size = (32, 64)
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        centre = 8 + 16 * torch.rand((4, 2, 1, 1), generator=draw)
        label = ((grid - centre).square().sum(1) < 36).long()
        x = (label + 0.3 * torch.randn((4, *size), generator=draw)).unsqueeze(1)
        loss = F.cross_entropy(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = net.eval()(x).argmax(1)
    assert 2 * (found & label).sum() / (found.sum() + label.sum()) > 0.9


@pytest.mark.parametrize(
    "wrong",
    [{"ndim": 1}, {"width": 0}, {"window": 1}, {"depths": (2, 2, 2)}, {"depths": (2, 2, 2, 0)}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        swin_unetr.Config(**wrong)


def test_without_monai_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(MissingExtraError, match=r"delineate\[monai\]"):
        swin_unetr.build(swin_unetr.Config(), 1, 2)
