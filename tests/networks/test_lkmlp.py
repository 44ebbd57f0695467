from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _lkmlp as family
from delineate.networks import lkmlp, lkmlp_classifier

DIMENSIONS = pytest.mark.parametrize("nd", [2, 3])


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reach(net: nn.Module, nd: int, width: int, size: int) -> list[int]:
    """Extent along each axis of what one output voxel depends on, gaps included."""
    x = image(1, width, *[size] * nd).requires_grad_()
    net(x)[(0, slice(None), *[size // 2] * nd)].sum().backward()
    assert x.grad is not None
    places = x.grad.abs().sum((0, 1)).nonzero()
    return (places.amax(0) - places.amin(0) + 1).tolist()


# -------------------------------------------------------------------------------------- kernels


@DIMENSIONS
def test_the_large_kernel_sees_as_far_as_it_says(nd: int) -> None:
    torch.manual_seed(0)
    net = family.LinearAttention(nd, 2)
    assert family.REACH == 23
    assert reach(net.large_kernel, nd, 2, 27) == [23] * nd
    assert reach(net, nd, 2, 27) == [23] * nd


@DIMENSIONS
def test_the_large_kernel_leaves_no_gap(nd: int) -> None:
    """5 wide, then 7 wide with gaps of 3: the first fills what the second leaves out."""
    net = family.LinearAttention(nd, 1).large_kernel
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    x = torch.zeros(1, 1, *[25] * nd)
    x[(0, 0, *[12] * nd)] = 1
    answer = net(x)[0, 0]
    assert (answer[(slice(1, 24),) * nd] > 0).all()
    assert answer.sum() == (5 * 7) ** nd


@DIMENSIONS
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (7, 1), (7, 3)])
def test_depthwise_convolutions_keep_channels_apart(nd: int, kernel: int, dilation: int) -> None:
    net = family.depthwise(nd, 3, kernel, dilation)
    x = image(1, 3, *[21] * nd).requires_grad_()
    assert net(x).shape == x.shape
    net(x)[0, 1].sum().backward()
    assert x.grad is not None
    assert [bool(g.any()) for g in x.grad[0]] == [False, True, False]
    assert reach(net, nd, 3, 21) == [1 + dilation * (kernel - 1)] * nd


def test_wide_kernels_in_3d_are_lines() -> None:
    assert blocks.count_parameters(family.depthwise(2, 4, 7)) == 4 * (49 + 1)
    assert blocks.count_parameters(family.depthwise(3, 4, 7)) == 4 * 3 * (7 + 1)
    assert blocks.count_parameters(family.depthwise(3, 4, 3)) == 4 * (27 + 1)


@DIMENSIONS
def test_three_scales_are_summed(nd: int) -> None:
    torch.manual_seed(0)
    net = family.SpatialEncoding(nd, 2)
    assert reach(net, nd, 2, 11) == [7] * nd
    x = image(1, 2, *[9] * nd)
    by_hand = net.mix(net.scales[0](x) + net.scales[1](x) + net.scales[2](x))
    assert torch.allclose(net(x), by_hand, atol=1e-6)


def test_features_are_gated_by_the_large_kernels_view() -> None:
    torch.manual_seed(0)
    net = family.LinearAttention(2, 4)
    x = image(1, 4, 9, 9)
    inner = net.first(x)
    assert torch.equal(net(x), net.second(F.gelu(inner) * net.large_kernel(inner)))
    for part in net.large_kernel.modules():  # a view that sees nothing lets nothing through
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    assert torch.equal(net(x), net.second(torch.zeros_like(x)))


# --------------------------------------------------------------------------------------- blocks


@DIMENSIONS
def test_a_fresh_block_is_nearly_the_identity(nd: int) -> None:
    torch.manual_seed(0)
    net = family.block(nd, 8)
    blocks.initialise(net)
    x = image(2, 8, *[8] * nd)
    with torch.no_grad():
        assert (net(x) - x).norm() < 0.1 * x.norm()
        assert not torch.equal(net(x), x)
        scales = [p for name, p in net.named_parameters() if name.endswith("scale")]
        assert len(scales) == 3
        for scale in scales:
            assert torch.equal(scale, torch.full((8,), 1e-2))
            scale.zero_()
        assert torch.equal(net(x), x)


def test_each_residual_adds_its_scaled_share() -> None:
    torch.manual_seed(0)
    net = family.Residual(3, nn.Identity())
    x = image(2, 3, 5, 5)
    normed = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True, correction=0)
    assert torch.allclose(net(x), x + 0.01 * normed, atol=1e-5)


def test_the_full_resolution_has_no_large_kernels() -> None:
    net = lkmlp.build(lkmlp.Config(ndim=2, width=4, depth=2), 1, 2)
    by_stage = [
        sum(isinstance(part, family.LinearAttention) for part in stage.modules())
        for stage in (*net.encoder, *net.decoder)
    ]
    assert by_stage == [0, 2, 2, 2, 0, 2, 2]


# ------------------------------------------------------------------------------------- networks


@pytest.mark.slow
def test_a_disc_is_found_within_sixty_steps() -> None:
    torch.manual_seed(0)
    net = lkmlp.build(lkmlp.Config(ndim=2, width=8, levels=3, deep_supervision=1), 1, 2)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        centre = 8 + 16 * torch.rand((4, 2, 1, 1), generator=draw)
        label = ((grid - centre).square().sum(1) < 36).long()
        x = (label + 0.3 * torch.randn((4, 32, 32), generator=draw)).unsqueeze(1)
        fine, coarse = net(x)
        loss = F.cross_entropy(fine, label) + F.cross_entropy(coarse, label[:, ::2, ::2])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = net.eval()(x).argmax(1)
    assert 2 * (found & label).sum() / (found.sum() + label.sum()) > 0.9


@pytest.mark.slow
def test_the_classifier_tells_bright_from_dark_within_sixty_steps() -> None:
    """Nothing but the mean of the image decides."""
    torch.manual_seed(0)
    net = lkmlp_classifier.build(lkmlp_classifier.Config(ndim=2, width=4, levels=3), 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(50):
        label = torch.randint(2, (8,), generator=draw)
        x = torch.randn((8, 1, 17, 16), generator=draw) + label.reshape(8, 1, 1, 1) - 0.5
        loss = F.cross_entropy(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3
    assert (net.eval()(x).argmax(1) == label).float().mean() > 0.8


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (17, 33)])
def test_the_classifier_takes_any_size(shape: tuple[int, int]) -> None:
    net = lkmlp_classifier.build(lkmlp_classifier.Config(ndim=2, width=4), 1, 3)
    found = net.train()(image(2, 1, *shape))
    assert found.shape == (2, 3)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("module", [lkmlp, lkmlp_classifier])
@pytest.mark.parametrize("wrong", [{"ndim": 1}, {"depth": 0}, {"levels": 1}, {"width": 0}])
def test_impossible_settings_are_refused(module: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        module.Config(**{"ndim": 2, "width": 4, **wrong})


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_the_planners_settings_are_taken_at_every_depth(levels: int) -> None:
    config = lkmlp.Config(ndim=2, width=2, levels=levels, deep_supervision=max(0, levels - 3))
    net = lkmlp.build(config, 1, 2).eval()
    with torch.no_grad():
        assert net(image(1, 1, 64, 32)).shape == (1, 2, 64, 32)
