from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import _resganet as family
from delineate.networks import resganet, resganet_classifier

DIMENSIONS = pytest.mark.parametrize("nd", [2, 3])


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parts_of(net: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [part for part in net.modules() if isinstance(part, kind)]


# ------------------------------------------------------------------------------ group attention


@DIMENSIONS
@pytest.mark.parametrize("groups", [2, 4])
def test_the_weights_of_corresponding_channels_sum_to_one(nd: int, groups: int) -> None:
    torch.manual_seed(0)
    weights = family.GroupAttention(nd, 8, groups).weights(5 * image(3, 8, *[4] * nd))
    assert weights.shape == (3, groups, 8 // groups)
    assert torch.allclose(weights.sum(1), torch.ones(3, 8 // groups))
    assert (weights > 0).all()


def test_two_groups_worked_by_hand() -> None:
    """Means 0 and ln 3 through an identity: weights 1/4 and 3/4."""
    net = family.GroupAttention(2, 2, 2)
    nn.init.ones_(net.score.weight)
    nn.init.zeros_(net.score.bias)
    x = torch.zeros(1, 2, 2, 2)
    x[0, 1] = torch.tensor([[0.0, 2 * math.log(3)], [math.log(3), math.log(3)]])
    assert torch.allclose(net.weights(x).flatten(), torch.tensor([0.25, 0.75]))
    assert torch.allclose(net(x)[0, 1], 0.75 * x[0, 1])


def test_a_group_is_scored_by_itself_and_without_regard_to_places() -> None:
    torch.manual_seed(0)
    net = family.GroupAttention(2, 8, 2)
    x = image(1, 8, 4, 4)
    other = torch.cat([x[:, :4], image(1, 4, 4, 4, seed=1)], 1)
    pooled, changed = (net.score(y.mean((2, 3), keepdim=True)) for y in (x, other))
    assert torch.equal(pooled[:, :4], changed[:, :4])
    assert not torch.allclose(pooled[:, 4:], changed[:, 4:])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    expected = net(x).flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(net(shuffled), expected, atol=1e-6)


# --------------------------------------------------------------------------------- spatial gate


@DIMENSIONS
def test_the_gate_weighs_places_alike_for_all_channels(nd: int) -> None:
    torch.manual_seed(0)
    gate = family.SpatialGate(nd)
    x = image(2, 5, *[6] * nd)
    weights = gate.weights(3 * x)
    assert weights.shape == (2, 1, *[6] * nd)
    assert ((weights > 0) & (weights < 1)).all()
    assert torch.allclose(gate(3 * x), 3 * x * weights.expand_as(x))
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(gate(x), 0.5 * x)


@DIMENSIONS
def test_the_gate_sees_seven_voxels_along_each_axis(nd: int) -> None:
    gate = family.SpatialGate(nd)
    x = image(1, 3, *[11] * nd).requires_grad_()
    gate.weights(x)[(0, 0, *[5] * nd)].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros([11] * nd, dtype=torch.bool)
    expected[(slice(2, 9),) * nd] = True
    assert torch.equal(seen, expected)


# --------------------------------------------------------------------------------------- blocks


def test_parameters_of_a_block_are_those_counted_by_hand() -> None:
    reduce, norms = 8 * 8 + 8, 3 * 16
    grouped = 8 * 4 * 9 + 8
    attention, gate = 8 * 4 + 8, 2 * 49 + 1
    expand = 8 * 8 + 8
    total = reduce + norms + grouped + attention + gate + expand
    assert blocks.count_parameters(family.Block(2, 8, 8, 2, "instance")) == total == 627


def test_groups_save_what_the_paper_says() -> None:
    """1.51 to 3.47 times fewer parameters than a residual block of two full convolutions."""
    full = 2 * (64 * 64 * 9 + 64 + 2 * 64)
    ours = blocks.count_parameters(family.Block(2, 64, 64, 2, "batch"))
    assert 1.51 < full / ours < 3.47


@DIMENSIONS
def test_a_block_adds_to_what_it_sees(nd: int) -> None:
    block = family.Block(nd, 6, 6, 4, "instance")  # 4 groups: 8 channels inside
    assert block.branch[3].in_channels == 8
    nn.init.zeros_(block.branch[-1].weight)
    x = image(2, 6, *[5] * nd)
    assert torch.equal(block(x), F.leaky_relu(x, 0.01))


@pytest.mark.parametrize("module", [resganet, resganet_classifier])
def test_stages_are_two_blocks_each(module: Any) -> None:
    net = module.build(module.Config(ndim=2, width=4), 1, 2)
    found = [b for b in parts_of(net, family.Block) if isinstance(b, family.Block)]
    assert [b.branch[-1].num_features for b in found] == [4, 4, 8, 8, 16, 16, 32, 32]
    assert [b.branch[3].stride[0] for b in found] == [1, 1, 2, 1, 2, 1, 2, 1]


def test_the_attention_is_in_the_encoder() -> None:
    net = resganet.build(resganet.Config(ndim=2, width=4), 1, 2)
    assert len(parts_of(net.encoder, family.GroupAttention)) == 8
    assert not parts_of(net.decoder, family.GroupAttention)


# ------------------------------------------------------------------------------------- networks


@pytest.mark.slow
def test_a_disc_is_found_within_sixty_steps() -> None:
    torch.manual_seed(0)
    net = resganet.build(resganet.Config(ndim=2, width=8, levels=3, deep_supervision=1), 1, 2)
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
    """Nothing but the mean of the image decides: an instance norm everywhere would hide it."""
    torch.manual_seed(0)
    net = resganet_classifier.build(resganet_classifier.Config(ndim=2, width=4, levels=3), 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(40):
        label = torch.randint(2, (8,), generator=draw)
        x = torch.randn((8, 1, 17, 16), generator=draw) + label.reshape(8, 1, 1, 1) - 0.5
        loss = F.cross_entropy(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.3
    assert (net.eval()(x).argmax(1) == label).float().mean() > 0.8


def test_the_classifier_takes_any_size_but_a_single_coarse_voxel() -> None:
    net = resganet_classifier.build(resganet_classifier.Config(ndim=2, width=4), 1, 3).eval()
    for shape in ((9, 1), (17, 33), (40, 9)):
        assert net(image(2, 1, *shape)).shape == (2, 3)
    with pytest.raises(ConfigError, match="one voxel") as caught:
        net(image(2, 1, 8, 8))
    assert caught.value.code == "size"
    assert "(9, 9)" in str(caught.value)
    assert net(image(2, 1, 9, 9)).shape == (2, 3)


@pytest.mark.parametrize("module", [resganet, resganet_classifier])
@pytest.mark.parametrize(
    "wrong", [{"ndim": 1}, {"groups": 1}, {"levels": 1}, {"width": 0}, {"norm": "layer"}]
)
def test_impossible_settings_are_refused(module: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        module.build(module.Config(**{"ndim": 2, "width": 4, **wrong}), 1, 2)


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_the_planners_settings_are_taken_at_every_depth(levels: int) -> None:
    config = resganet.Config(ndim=2, width=2, levels=levels, deep_supervision=max(0, levels - 3))
    net = resganet.build(config, 1, 2).eval()
    with torch.no_grad():
        assert net(image(1, 1, 64, 32)).shape == (1, 2, 64, 32)
