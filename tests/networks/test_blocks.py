"""Bricks, and what all networks of a U's shape owe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks

FAMILY = ("mobilenet_unet", "res2net_unet", "scm_unet", "unet", "unetpp", "vnet", "vnet_agse")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in FAMILY),
    ("unet", {"residual": True, "squeeze": True}),
    ("unetpp", {"attention": False}),
]


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nd", [2, 3])
def test_squeeze_and_excitation_of_zero_weights_halves(nd: int) -> None:
    brick = blocks.SqueezeExcite(8)
    for parameter in brick.parameters():
        nn.init.zeros_(parameter)
    x = image(2, 8, *[4] * nd)
    assert torch.allclose(brick(x), x / 2)


def test_squeeze_and_excitation_weighs_channels_and_not_places() -> None:
    torch.manual_seed(0)
    x = image(3, 8, 5, 6)
    weights = blocks.SqueezeExcite(8)(x) / x
    assert torch.allclose(weights, weights[:, :, :1, :1].expand_as(x), atol=1e-5)
    assert ((weights > 0) & (weights < 1)).all()
    assert blocks.SqueezeExcite(64, 8).layers[0].out_features == 8


@pytest.mark.parametrize("nd", [2, 3])
def test_an_attention_gate_weighs_places_and_not_channels(nd: int) -> None:
    torch.manual_seed(0)
    gate = blocks.AttentionGate(nd, 4, 6)
    x, signal = image(2, 4, *[5] * nd), 10 * image(2, 6, *[5] * nd, seed=1)
    weights = gate.weights(x, signal)
    assert weights.shape == (2, 1, *[5] * nd)
    assert ((weights > 0) & (weights <= 1)).all()
    assert weights.std() > 0
    assert torch.allclose(gate(x, signal), x * weights)


def test_an_attention_gate_without_opinion_is_open() -> None:
    gate = blocks.AttentionGate(2, 4, 4)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    x = image(1, 4, 3, 3)
    assert torch.allclose(gate(x, x), x * torch.sigmoid(torch.tensor(blocks.OPEN)))
    assert torch.sigmoid(torch.tensor(blocks.OPEN)) > 0.85


@pytest.mark.parametrize(
    ("size", "levels", "said"),
    [
        ((64, 63), 4, "pad to (64, 64)"),  # no halving at all: only padding helps
        ((64, 62), 4, "pad to (64, 64), or use levels=2"),
        ((8, 8), 4, "pad to (16, 16), or use levels=3"),
        ((7, 7), 4, "pad to (16, 16)"),  # (8, 8) would leave one voxel
        ((16, 24, 20), 4, "pad to (16, 24, 24), or use levels=3"),
    ],
)
def test_a_refused_size_comes_with_what_would_work(
    size: tuple[int, ...], levels: int, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        blocks.require_levels(size, levels)
    assert caught.value.code == "size"
    assert str(caught.value).endswith(said)


def test_a_size_that_can_be_halved_passes() -> None:
    blocks.require_levels((8, 16), 4)
    blocks.require_levels((2, 2, 2), 1)
    blocks.require_levels((256, 128), 8)


def blobs(steps: int) -> list[tuple[Tensor, Tensor]]:
    """Noisy images with one bright disc each, and the discs."""
    draw = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij"))
    found = []
    for _ in range(steps):
        centre = 8 + 16 * torch.rand((2, 2, 1, 1), generator=draw)
        label = ((grid - centre).square().sum(1) < 36).long()
        noise = torch.randn((2, 32, 32), generator=draw)
        found.append(((label + 0.3 * noise).unsqueeze(1), label))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_trivial_task_is_learnt_within_sixty_steps(name: str, options: dict[str, Any]) -> None:
    module = catalog.load("networks", name)
    torch.manual_seed(0)
    net = module.build(module.Config(ndim=2, width=8, levels=3, **options), 1, 2).train()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    *batches, (x, label) = blobs(60)
    for seen, wanted in batches:
        answers = net(seen)
        answers = [answers] if isinstance(answers, Tensor) else answers
        loss = torch.stack([F.cross_entropy(y, wanted) for y in answers]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = net.eval()(x).argmax(1)
    dice = 2 * (found & label).sum() / (found.sum() + label.sum())
    assert dice > 0.9


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    "wrong", [{"ndim": 1}, {"levels": 1}, {"width": 0}, {"deep_supervision": -1}, {"norm": "layer"}]
)
def test_impossible_settings_are_refused(name: str, wrong: dict[str, Any]) -> None:
    module = catalog.load("networks", name)
    with pytest.raises(ConfigError):
        module.build(module.Config(**{"ndim": 2, "width": 4, **wrong}), 1, 2)


@pytest.mark.parametrize("name", sorted(set(FAMILY) - {"unetpp"}))
def test_coarser_decoder_levels_answer_while_training_alone(name: str) -> None:
    module = catalog.load("networks", name)
    config = module.Config(ndim=2, width=4, levels=4, deep_supervision=9)
    net = module.build(config, 1, 3).train()
    found = net(image(2, 1, 32, 16))
    assert [tuple(y.shape) for y in found] == [(2, 3, 32, 16), (2, 3, 16, 8), (2, 3, 8, 4)]
    assert torch.allclose(net.eval()(image(2, 1, 32, 16)), found[0], atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_the_planners_settings_are_taken_at_every_depth(name: str) -> None:
    """The budget planner gives two to six levels, and as many extra losses as fit."""
    module = catalog.load("networks", name)
    for levels in (2, 3, 5, 6):
        net = module.build(
            module.Config(ndim=2, width=2, levels=levels, deep_supervision=max(0, levels - 3)),
            1,
            2,
        ).eval()
        with torch.no_grad():
            assert net(image(1, 1, 64, 32)).shape == (1, 2, 64, 32)
