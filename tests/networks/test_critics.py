from __future__ import annotations

import pytest
import torch
from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import global_critic, patch_critic, segan_critic
from delineate.networks._critics import CriticInput, input_channels, score_map, see


@pytest.mark.parametrize(
    ("layers", "wide", "field"), [(2, False, 18), (3, False, 38), (3, True, 70)]
)
def test_a_score_sees_as_far_as_the_paper_says(layers: int, wide: bool, field: int) -> None:
    shape = patch_critic.Config(2, 2, layers, wide_field=wide, spectral_norm=False)
    critic = patch_critic.build(shape, 1)
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    scores = critic(x)
    middle = scores.shape[2] // 2
    (gradient,) = torch.autograd.grad(scores[0, 0, middle, middle], x)
    for axis in (0, 1):
        seen = gradient[0, 0].abs().amax(axis).nonzero().flatten()
        assert int(seen[-1] - seen[0]) + 1 == field


def test_an_odd_size_is_seen_to_its_last_voxel() -> None:
    critic = patch_critic.build(patch_critic.Config(2, 4, 2, spectral_norm=False), 1)
    x = torch.randn(1, 1, 13, 15, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x).square().sum(), x)
    assert (gradient != 0).all()


def test_a_size_too_small_for_one_score_is_refused() -> None:
    for wide, least in ((False, 8), (True, 24)):
        critic = patch_critic.build(patch_critic.Config(2, 4, 3, wide_field=wide), 1)
        assert critic(torch.zeros(1, 1, least, least)).shape[2] == 1
        with pytest.raises(ConfigError, match=f"pad to \\({least}, {least}\\)") as caught:
            critic(torch.zeros(1, 1, least - 1, least))
        assert caught.value.code == "size"


def test_branches_keep_image_and_mask_apart_in_the_first_layer() -> None:
    critic = patch_critic.build(patch_critic.Config(2, 4, 2, apart=1, spectral_norm=False), 3)
    first = critic.layers[0]
    x, other = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    other[:, 1:] = x[:, 1:]
    one, two = first(x), first(other)
    assert one.shape == (1, 4, 8, 8)
    assert torch.equal(one[:, 2:], two[:, 2:])
    assert not torch.equal(one[:, :2], two[:, :2])
    with pytest.raises(ConfigError):
        patch_critic.Config(width=1, apart=1)


def test_spectral_norm_bounds_every_layer() -> None:
    for critic in (
        patch_critic.build(patch_critic.Config(2, 8), 2),
        segan_critic.build(segan_critic.Config(2, 8), 2),
        global_critic.build(global_critic.Config(2, (8, 8), spectral_norm=True), 2),
    ):
        layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for _ in range(20):  # the power iteration goes one step on at each use in training
            critic(torch.randn(2, 2, 32, 32))
        for layer in layers:
            gain = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert gain.item() == pytest.approx(1, abs=0.1)


def test_the_features_of_segan_are_the_image_and_every_scale() -> None:
    critic = segan_critic.build(segan_critic.Config(2, 4, 3, spectral_norm=False), 2)
    assert [layer[0].kernel_size[0] for layer in critic.layers] == [7, 5, 4]
    x = torch.randn(2, 2, 16, 24)
    found = critic.features(x)
    assert torch.equal(found[0], x)
    assert [tuple(f.shape[1:]) for f in found] == [(2, 16, 24), (4, 8, 12), (8, 4, 6), (16, 2, 3)]
    assert critic(x).shape == (2, 1, sum(f[0].numel() for f in found))
    with pytest.raises(ConfigError, match="fewer layers") as caught:
        critic(torch.zeros(1, 2, 7, 16))
    assert "(8, 16)" in str(caught.value)


def test_a_norm_with_one_value_is_refused_in_words() -> None:
    """Torch would stop with a bare ValueError."""
    critic = global_critic.build(global_critic.Config(2, (4, 4)), 1)
    assert critic(torch.zeros(2, 1, 4, 4)).shape == (2, 1)
    with pytest.raises(ConfigError, match="one voxel") as caught:
        critic(torch.zeros(1, 1, 4, 4))
    assert "(8, 4)" in str(caught.value)
    assert critic.eval()(torch.zeros(1, 1, 4, 4)).shape == (1, 1)


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        (patch_critic, {"norm": "layer"}),
        (patch_critic, {"apart": -1}),
        (patch_critic, {"layers": 0}),
        (segan_critic, {"norm": "layer"}),
        (segan_critic, {"width": 0}),
        (global_critic, {"norm": "layer"}),
        (global_critic, {"widths": ()}),
    ],
)
def test_impossible_settings_are_refused(module: object, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        module.Config(**wrong)  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------- scores as a map


@pytest.mark.parametrize(("ndim", "layers", "wide"), [(2, 3, False), (3, 2, False), (2, 3, True)])
def test_a_score_lies_where_the_critic_looked(ndim: int, layers: int, wide: bool) -> None:
    """A critic that averages what it sees must give a ramp back where no rim is in the way."""
    shape = patch_critic.Config(ndim, 2, layers, wide_field=wide, spectral_norm=False)
    critic = patch_critic.build(shape, 1).eval()
    for layer in critic.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    for axis in range(ndim):
        lengths = [24] * ndim
        lengths[axis] = 131  # no multiple of the stride
        steps = torch.arange(1.0, 132)
        ramp = steps.view(-1, *(1,) * (ndim - 1 - axis)).expand(lengths)
        with torch.no_grad():
            found = critic.score_map(ramp[None, None])
        assert found.shape == (1, 1, *lengths)
        along = found[0, 0].movedim(axis, -1)[(12,) * (ndim - 1)][48:-48]
        # zeros beyond the other rims make all of it smaller, but move it nowhere
        assert torch.allclose(along / along.mean(), steps[48:-48] / steps[48:-48].mean(), 1e-4)


def test_a_global_score_stands_everywhere() -> None:
    critic = global_critic.build(global_critic.Config(2, (4, 8)), 2).eval()
    x = torch.randn(3, 2, 16, 12)
    found = critic.score_map(x)
    assert found.shape == (3, 1, 16, 12)
    assert torch.equal(found, critic(x).view(3, 1, 1, 1).expand(3, 1, 16, 12))


def test_a_critic_sees_what_it_is_told_to() -> None:
    image, mask = torch.randn(2, 2, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.equal(see("mask", image, mask), mask)
    for sees in ("joined", "branches"):
        assert torch.equal(see(sees, image, mask), torch.cat([image, mask], 1))
    product = see("product", image, mask)
    assert torch.equal(product[:, 4], image[:, 1] * mask[:, 1])
    for sees in ("mask", "joined", "branches", "product"):
        assert see(sees, image, mask).shape[1] == input_channels(sees, 2, 3)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_map_is_of_the_guess_that_the_critic_was_taught_with(activation: str) -> None:
    critic = global_critic.build(global_critic.Config(2, (4,)), 3).eval()
    image, logits = torch.randn(1, 1, 8, 8), torch.randn(1, 3, 8, 8)
    wanted = critic(logits.softmax(1) if activation == "softmax" else logits.sigmoid())
    found = score_map(critic, CriticInput("mask", activation), image, logits)  # type: ignore[arg-type]
    assert torch.equal(found, wanted.view(1, 1, 1, 1).expand(1, 1, 8, 8))
