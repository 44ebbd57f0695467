from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from delineate.augment import intensity

STEPS = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
CHANCES = dict.fromkeys(STEPS, 1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(9))


def one(name: str, strength: float, x: Tensor) -> Tensor:
    return intensity.apply([[(name, strength)]] * len(x), x, seeded())


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(2, 3, 12, 10), (1, 2, 8, 6, 2)])
@pytest.mark.parametrize("fill", [None, 0.0, -3.5])
def test_every_step_keeps_shape_type_and_finite_numbers(name, shape, fill) -> None:
    x = image(*shape) if fill is None else torch.full(shape, fill)
    kept = x.clone()
    for strength in (0.5, 1.0):
        found = one(name, strength, x)
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert torch.isfinite(found).all()
        if fill is not None and name not in ("noise", "brightness"):
            assert torch.allclose(found, x, atol=1e-5), "a constant image has nothing to change"
    assert torch.equal(x, kept), "the input is not changed"


def test_no_actions_change_nothing() -> None:
    x = image(3, 2, 8, 8)
    assert torch.equal(intensity.apply([[], [], []], x, seeded()), x)


def test_actions_of_one_case_leave_the_others_alone() -> None:
    x = image(3, 2, 8, 8)
    found = intensity.apply([[], [("brightness", 2.0)], []], x, seeded())
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    assert torch.equal(found[1], 2 * x[1])


def test_noise_has_the_strength_it_says() -> None:
    x = torch.zeros(1, 1, 64, 64)
    assert one("noise", 0.1, x).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(one("noise", 0.1, x), one("noise", 0.1, x))


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(12, 15), (9, 11, 13)])
def test_blur_is_scipys_gaussian(sigma: float, shape: tuple[int, ...]) -> None:
    x = image(1, 2, *shape)
    found = one("blur", sigma, x)[0]
    for ours, before in zip(found, x[0], strict=True):
        theirs = ndimage.gaussian_filter(
            before.double().numpy(), sigma, mode="mirror", radius=max(1, round(3 * sigma))
        )
        assert np.allclose(ours.numpy(), theirs, atol=1e-5)


def test_contrast_keeps_the_mean_and_never_leaves_the_range() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 2, 2)  # mean 2
    assert one("contrast", 0.5, x).flatten().tolist() == [1.0, 1.5, 2.0, 3.5]
    # 2 + 2 (x - 2) = -2, 0, 2, 8, held within 0 and 5
    assert one("contrast", 2.0, x).flatten().tolist() == [0.0, 0.0, 2.0, 5.0]


@pytest.mark.parametrize("name", ["gamma", "inverted_gamma"])
@pytest.mark.parametrize("strength", [0.7, 1.5])
def test_gamma_keeps_mean_spread_and_order(name: str, strength: float) -> None:
    x = image(1, 2, 16, 16) * 3 + 2
    found = one(name, strength, x)
    for ours, before in zip(found[0], x[0], strict=True):
        assert ours.mean().item() == pytest.approx(before.mean().item(), abs=1e-4)
        assert ours.std().item() == pytest.approx(before.std().item(), rel=1e-4)
        assert torch.equal(ours.flatten().argsort(), before.flatten().argsort())


def test_gamma_of_one_is_nothing_and_inverted_gamma_works_on_the_negative() -> None:
    x = image(1, 1, 16, 16)
    assert torch.allclose(one("gamma", 1.0, x), x, atol=1e-5)
    assert torch.allclose(one("inverted_gamma", 1.4, x), -one("gamma", 1.4, -x), atol=1e-5)
    assert not torch.allclose(one("inverted_gamma", 1.4, x), one("gamma", 1.4, x), atol=1e-2)


def test_gamma_brightens_the_middle_below_one() -> None:
    ramp = torch.linspace(0, 1, 101).view(1, 1, 101, 1).expand(1, 1, 101, 2).contiguous()
    curve = one("gamma", 0.5, ramp)[0, 0, :, 0]
    wanted = ramp[0, 0].sqrt()
    wanted = (wanted - wanted.mean()) / wanted.std() * ramp.std() + ramp.mean()
    assert torch.allclose(curve, wanted[:, 0], atol=1e-5)


def test_low_resolution_loses_detail_and_at_full_resolution_none() -> None:
    x = image(1, 1, 16, 16)
    assert torch.allclose(one("low_resolution", 1.0, x), x, atol=1e-6)
    assert one("low_resolution", 0.5, x).std() < 0.8 * x.std()
    smooth = torch.linspace(0, 1, 16).view(1, 1, 16, 1).expand(1, 1, 16, 16).contiguous()
    assert torch.allclose(one("low_resolution", 0.5, smooth), smooth, atol=1.01 / 15)  # one voxel


def test_draw_follows_its_chances_and_ranges() -> None:
    nothing = intensity.Config(**dict.fromkeys(CHANCES, 0.0))
    assert intensity.draw(nothing, 5, seeded()) == [[]] * 5
    everything = intensity.Config(**CHANCES)
    found = intensity.draw(everything, 200, seeded())
    assert all(tuple(name for name, _ in case) == STEPS for case in found)
    ranges = {
        "noise": (0.0, everything.noise_std),
        "blur": everything.blur_voxels,
        "brightness": everything.gain,
        "contrast": everything.gain,
        "low_resolution": everything.low_resolution_zoom,
        "gamma": everything.gamma_range,
        "inverted_gamma": everything.gamma_range,
    }
    for at, name in enumerate(STEPS):
        strengths = [case[at][1] for case in found]
        low, high = ranges[name]
        assert low <= min(strengths) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(strengths) <= high
    usual = [
        name for case in intensity.draw(intensity.Config(), 3000, seeded()) for name, _ in case
    ]
    assert usual.count("gamma") / 3000 == pytest.approx(0.3, abs=0.03)
    assert usual.count("blur") / 3000 == pytest.approx(0.1, abs=0.02)


def test_the_generator_alone_decides() -> None:
    before = torch.get_rng_state()
    config = dataclasses.replace(intensity.Config(), noise=1.0)
    plans = [intensity.draw(config, 8, seeded(s)) for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    x = image(8, 1, 8, 8)
    assert torch.equal(
        intensity.apply(plans[0], x, seeded(4)), intensity.apply(plans[0], x, seeded(4))
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_every_setting_has_its_help() -> None:
    for setting in dataclasses.fields(intensity.Config):
        assert setting.metadata["help"]
