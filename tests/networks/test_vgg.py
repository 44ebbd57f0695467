from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.losses import _sum
from delineate.networks import _vgg as vgg


def convolutions(net: nn.Module) -> list[Any]:
    return [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]


def test_the_encoder_has_the_weights_of_vgg_16() -> None:
    """14,714,688 weights before the dense layers is what every VGG-16 for RGB images has."""
    net = vgg.encoder(2, channels=3, width=64, stages=5, norm="batch")
    assert len(convolutions(net)) == 13
    assert sum(p.numel() for c in convolutions(net) for p in c.parameters()) == 14_714_688
    assert vgg.widths(64, 5) == [64, 128, 256, 512, 512]


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_atrous_encoder_stays_at_an_eighth(ndim: int) -> None:
    net = vgg.atrous_encoder(ndim, 1, 2, "instance")
    size = (32, 16, 24)[:ndim]
    assert net(torch.zeros(1, 1, *size)).shape == (1, 16, *(n // 8 for n in size))
    assert [c.dilation[0] for c in convolutions(net)] == [1] * 10 + [2] * 3


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4)])
def test_enlarging_keeps_a_constant_up_to_the_border(shape: tuple[int, ...]) -> None:
    level = torch.full((1, 1, *shape), 2.5)
    large = vgg.resize(level, [8 * n for n in shape])
    assert large.shape[2:] == tuple(8 * n for n in shape)
    assert torch.allclose(large, torch.tensor(2.5))


def test_sizes_are_refused_in_words() -> None:
    vgg.require_size((8, 16), 8)
    with pytest.raises(ConfigError, match=r"\(8, 16\)"):
        vgg.require_size((8, 15), 8)
    with pytest.raises(ConfigError, match=r"one voxel[\s\S]*\(16, 16\)"):
        vgg.require_size((8, 8), 8)


def discs(seed: int, batch: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A bright ball in noise in the first of two channels, and where it is."""
    draw = torch.Generator().manual_seed(seed)
    axes = [torch.arange(n, dtype=torch.float32) for n in size]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    centre = (0.3 + 0.4 * torch.rand((batch, len(size)), generator=draw)) * torch.tensor(size)
    away = (grid - centre.view(batch, len(size), *[1] * len(size))).square().sum(1).sqrt()
    label = (away < 0.22 * min(size)).long()
    image = 0.5 * torch.randn((batch, 2, *size), generator=draw)
    image[:, 0] += label
    return image, label


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fcn", {"levels": 4}),
        ("segnet", {"levels": 4}),
        ("deeplab_v1", {}),
        ("deeplab_v2", {}),
        ("fcn3d_multipath", {"levels": 3}),
        ("bi_convlstm_unet", {"levels": 3}),
    ],
)
def test_each_network_learns_to_find_a_bright_disc(
    name: str, shape: dict[str, Any], norm: str
) -> None:
    """Fifty small steps, then images that it has not seen."""
    module = catalog.load("networks", name)
    torch.manual_seed(0)
    net = module.build(module.Config(ndim=2, width=8, norm=norm, **shape), 2, 2).train()
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    losses = []
    for step in range(50):
        image, label = discs(step, 4, (32, 40))
        loss, _ = _sum.build(_sum.DEFAULT)(net(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
    image, label = discs(999, 8, (32, 40))
    net.train(norm == "batch")  # running averages lag behind so few and so large steps
    with torch.no_grad():
        found = net(image).argmax(1)
    dice = 2 * (found * label).sum() / (found.sum() + label.sum())
    assert dice > 0.5
