from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import axial_attention

DIMENSIONS = pytest.mark.parametrize("nd", [2, 3])


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(
    nd: int = 2, width: int = 8, heads: int = 2, reach: int = 8, axis: int = 0, gates: float = 1.0
) -> axial_attention.AxialAttention:
    torch.manual_seed(0)
    net = axial_attention.AxialAttention(nd, width, heads, reach, axis)
    nn.init.constant_(net.gates, gates)
    return net


def seen_by_centre(net: nn.Module, x: Tensor) -> Tensor:
    """Which places the answer at (3, 3[, 3]) depends on."""
    x = x.clone().requires_grad_()
    net(x)[(0, slice(None), *[3] * (x.ndim - 2))].square().sum().backward()
    assert x.grad is not None
    return x.grad.abs().sum((0, 1)) > 0


# ------------------------------------------------------------------------------------ one layer


@DIMENSIONS
def test_a_layer_sees_all_of_its_line_and_nothing_else(nd: int) -> None:
    shape = (7, 6, 5)[:nd]
    for axis in range(nd):
        seen = seen_by_centre(layer(nd, axis=axis), image(1, 8, *shape))
        expected = torch.zeros(shape, dtype=torch.bool)
        expected[tuple(slice(None) if i == axis else 3 for i in range(nd))] = True
        assert torch.equal(seen, expected)


@DIMENSIONS
def test_a_layer_an_axis_sees_everything(nd: int) -> None:
    net = nn.Sequential(*(layer(nd, axis=axis) for axis in range(nd)))
    assert seen_by_centre(net, image(1, 8, *(7, 6, 5)[:nd])).all()


def test_it_is_the_equation_of_the_paper() -> None:
    """One line of five voxels, each sum written out."""
    net = layer(heads=2, reach=3, axis=1)
    nn.init.uniform_(net.gates, 0.2, 0.9)
    x = image(1, 8, 1, 5)
    with torch.no_grad():
        found = net(x)[0, :, 0]
        a, b, c = net.gates
        qkv = net.qkv(x)[0, :, 0]
        for head in range(2):
            q, k, v = qkv[8 * head : 8 * head + 8].split([2, 2, 4])
            for o in range(5):
                r = [net.relative[:, max(-2, min(2, p - o)) + 2] for p in range(5)]
                logits = [
                    (q[:, o] @ k[:, p] + a * q[:, o] @ r[p][:2] + b * k[:, p] @ r[p][2:4]) / 2**0.5
                    for p in range(5)
                ]
                weights = torch.stack(logits).softmax(0)
                y = sum(weights[p] * (v[:, p] + c * r[p][4:]) for p in range(5))
                assert torch.allclose(found[4 * head : 4 * head + 4, o], y, atol=1e-5)


@pytest.mark.parametrize(("gates", "reach", "minds"), [(0, 8, False), (1, 1, False), (1, 8, True)])
def test_only_positions_tell_one_order_from_another(gates: float, reach: int, minds: bool) -> None:
    """Gates closed, or all distances alike: a shuffled line gives the shuffled answer."""
    net = layer(reach=reach, gates=gates)
    x = image(1, 8, 6, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(net(x[:, :, order]), net(x)[:, :, order], atol=1e-5) is not minds


def test_positions_are_relative_and_directed() -> None:
    net = layer()
    x = image(1, 8, 6, 3)
    mirrored = net(x.flip(2))
    assert not torch.allclose(mirrored, net(x).flip(2), atol=1e-3)
    with torch.no_grad():
        net.relative.copy_(net.relative.flip(1))
    assert torch.allclose(net(x).flip(2), mirrored, atol=1e-5)
    # the same line elsewhere is answered in the same way
    assert torch.allclose(net(x.roll(1, 3)), net(x).roll(1, 3), atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 9, 40])
def test_lines_may_be_longer_than_the_reach(length: int) -> None:
    found = layer(reach=4)(image(1, 8, length, 2))
    assert found.shape == (1, 8, length, 2)
    assert torch.isfinite(found).all()


def test_a_line_of_one_voxel_passes_its_value() -> None:
    net = layer(gates=0)
    x = image(1, 8, 1, 3)
    values = net.qkv(x).reshape(1, 2, 8, 1, 3)[:, :, 4:].flatten(1, 2)
    assert torch.allclose(net(x), values, atol=1e-6)


# ---------------------------------------------------------------------------------- the network


def attention_by_stage(**changes: Any) -> list[int]:
    net = axial_attention.build(axial_attention.Config(width=4, **changes), 1, 2)
    return [
        sum(isinstance(part, axial_attention.AxialAttention) for part in stage.modules())
        for stage in (*net.encoder, *net.decoder)
    ]


def test_attention_is_where_the_image_is_coarse() -> None:
    # four encoder stages and three decoder stages, finest first; one layer an axis
    assert attention_by_stage(ndim=2) == [0, 0, 2, 2, 0, 0, 2]
    assert attention_by_stage(ndim=3) == [0, 0, 3, 3, 0, 0, 3]
    assert attention_by_stage(ndim=2, attention_levels=1) == [0, 0, 0, 2, 0, 0, 0]
    assert attention_by_stage(ndim=2, attention_levels=9) == [0, 2, 2, 2, 0, 2, 2]
    assert attention_by_stage(ndim=2, levels=2) == [0, 2, 0]


def test_a_block_adds_to_what_it_sees_whatever_the_heads() -> None:
    config = axial_attention.Config(ndim=2, attention_heads=4)
    block = axial_attention.AxialBlock(config, 6)  # 8 channels inside
    assert block.branch[0].out_channels == 8
    nn.init.zeros_(block.branch[-1].weight)
    x = image(2, 6, 5, 4)
    assert torch.equal(block(x), F.leaky_relu(x, 0.01))


@pytest.mark.slow
def test_a_mark_at_the_other_end_of_the_row_is_learnt_within_sixty_steps() -> None:
    """Out of a convolution's sight, and no mean of the image says which rows are marked."""
    torch.manual_seed(0)
    net = axial_attention.build(axial_attention.Config(ndim=2, width=8, levels=3), 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(59):
        label = torch.randint(2, (8, 4, 1), generator=draw).repeat_interleave(4, 1)
        x = 0.3 * torch.randn((8, 1, 16, 64), generator=draw)
        x[..., :4] += 2 * label.unsqueeze(1)
        loss = F.cross_entropy(net(x)[..., -4:], label.expand(8, 16, 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert sum(losses[-5:]) / 5 < 0.45  # a U-Net of this depth stays at chance, 0.69


@pytest.mark.parametrize(
    "wrong",
    [{"ndim": 1}, {"attention_levels": 0}, {"attention_heads": 0}, {"reach": 0}, {"norm": "layer"}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        axial_attention.build(axial_attention.Config(**{"ndim": 2, "width": 4, **wrong}), 1, 2)


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_the_planners_settings_are_taken_at_every_depth(levels: int) -> None:
    deep = max(0, levels - 3)
    config = axial_attention.Config(ndim=2, width=2, levels=levels, deep_supervision=deep)
    net = axial_attention.build(config, 1, 2)
    found = net.train()(image(1, 1, 64, 32))
    assert len(found) == 1 + deep
    assert net.eval()(image(1, 1, 64, 32)).shape == (1, 2, 64, 32)
