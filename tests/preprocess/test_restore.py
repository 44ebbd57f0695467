"""Shading and noise are taken off in a fixed order, and the background stays background."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Grid, Image, flat_grid
from delineate.preprocess import autoencoder, denoise, presets, restore
from delineate.preprocess.presets import Channel, Preparation


def head(shape: tuple[int, ...] = (24, 28, 20), background: float = 0.0) -> Image:
    """Two sequences of two tissues under a strong field, with noise; a constant background."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    inside = sum(x**2 for x in axes) < 0.8
    tissue = 100 + 60 * (np.sin(7 * axes[0]) * np.cos(6 * axes[1]) > 0)
    field = np.exp(0.5 * axes[0])
    values = tissue * field + generator.normal(0, 6, (2, *shape))
    array = np.where(inside, values + background, background).astype(np.float32)
    return Image(array, Grid(shape, np.diag([*(4.0,) * len(shape), *(1.0,) * (4 - len(shape))])))


def prepared(image: Image, modality: str = "MR", **asked: Any) -> Image:
    plan = presets.plan([image.grid], [modality] * image.channels, **asked)
    return presets.apply(plan, image)


def test_the_steps_come_in_the_order_that_is_promised() -> None:
    done = prepared(head(), bias_correction=True, denoise="median", derived=["clahe"])
    steps = [step["step"] for step in done.history]
    assert [s for s in steps if s not in ("orient", "crop")] == [
        "bias", "denoise", "normalise", "derive",
    ]  # fmt: skip
    assert json.loads(json.dumps(done.history)) == list(done.history)
    plain = prepared(head())
    assert [s["step"] for s in plain.history if s["step"] not in ("orient", "crop")] == [
        "normalise"
    ]


def test_the_field_goes() -> None:
    image = head()
    spread = [prepared(image, bias_correction=on).array[0] for on in (False, True)]
    rows = [a[:12][a[:12] != 0].mean() - a[12:][a[12:] != 0].mean() for a in spread]
    assert abs(rows[1]) < 0.2 * abs(rows[0])


@pytest.mark.parametrize("name", restore.NAMES[1:-1])
@pytest.mark.parametrize("background", [0.0, 50.0])
def test_the_background_stays_exactly_the_background(name: str, background: float) -> None:
    image = head((40, 44), background)
    done = prepared(image, denoise=name)
    plain = prepared(image)
    for before, after in zip(plain.array, done.array, strict=True):
        np.testing.assert_array_equal(before == 0, after == 0)
    assert not np.array_equal(plain.array, done.array)


def test_tissue_that_is_darkened_to_the_backgrounds_value_is_still_tissue() -> None:
    """Rician bias is taken off dark tissue until 0, which is the background's value."""
    generator = np.random.default_rng(0)
    values = np.abs(generator.normal(0, 5, (1, 40, 40))).astype(np.float32) + 0.1
    values[:, :20] += 300
    values[:, :4] = values[:, -4:] = values[:, :, :4] = values[:, :, -4:] = 0
    image = Image(values, flat_grid((40, 40)))
    done = restore.remove_noise(image, "gaussian", ["MR"], [0.0])
    np.testing.assert_array_equal(done.array == 0, values == 0)


def test_stacks_of_slices_are_treated_slice_by_slice() -> None:
    generator = np.random.default_rng(0)
    stack = generator.normal(100, 10, (1, 32, 32, 5)).astype(np.float32)
    other = stack.copy()
    other[..., 4] = 500
    rule = ("additive", "gaussian", {})
    done = [
        denoise.denoise(Image(a, flat_grid((32, 32, 5))), [rule], 2).array for a in (stack, other)
    ]
    np.testing.assert_array_equal(done[0][..., :4], done[1][..., :4])
    np.testing.assert_array_equal(done[0][0, ..., 2], denoise.gaussian(stack[0, ..., 2]))
    plan = presets.plan([flat_grid((32, 32, 5))], ["MR"], denoise="gaussian")
    assert plan.slice_axis == 2
    prepared_ = presets.apply(plan, Image(stack, flat_grid((32, 32, 5))))
    assert prepared_.history[0]["channels"][0]["rule"] == "gaussian"


@pytest.mark.parametrize("modality", denoise.MODALITIES)
def test_auto_is_the_usual_rule_of_the_modality(modality: str) -> None:
    image = Image(head((40, 44)).array[:1], flat_grid((40, 44)))
    found = restore.rules("auto", image, [modality])
    assert found == [denoise.MODALITIES[modality]]
    (named,) = restore.rules("nlm", image, [modality])
    assert named == (denoise.MODALITIES[modality][0], "non_local_means", {})


def test_mr_with_negative_values_has_no_bias_of_magnitudes_to_take_off() -> None:
    image = head((40, 44))
    moved = Image(image.array - 200, image.grid)
    assert {noise for noise, _, _ in restore.rules("median", moved, ["MR", "MR"])} == {"additive"}
    assert float(restore.remove_noise(moved, "median", ["MR", "MR"], [None, None]).array.min()) < 0
    with pytest.raises(InputError, match="expected magnitudes"):
        prepared(moved, bias_correction=True)


def test_a_constant_channel_stops_nobody() -> None:
    array = head().array.copy()
    array[1] = 3
    done = prepared(Image(array, head().grid), bias_correction=True, denoise="median")
    assert not done.array[1].any()
    assert done.history[1]["range_of_field"][1] == [1.0, 1.0]


@pytest.mark.parametrize("modality", ["CT", "RGB", "US", "unknown"])
def test_shading_is_a_matter_of_mr(modality: str) -> None:
    with pytest.raises(ConfigError, match=rf"channels of MR.*t1 \({modality}\)") as caught:
        presets.plan([head().grid], ["MR", modality], names=["t2", "t1"], bias_correction=True)
    assert caught.value.code == "bias-not-mr"


def test_what_is_unknown_or_unlearned_is_refused() -> None:
    with pytest.raises(ConfigError, match="autoencoder, got 'bm3d'"):
        presets.plan([head().grid], ["MR"], denoise="bm3d")
    with pytest.raises(ConfigError, match="got autoencoder without them"):
        presets.plan([head().grid], ["MR"], denoise="autoencoder")
    with pytest.raises(ConfigError, match="got median with them"):
        Preparation((Channel("t1", "MR", "zscore"),), 3, denoise="median", denoiser={})


def test_the_autoencoder_travels_in_the_preparation() -> None:
    image = head()
    drawn = autoencoder.pictures(image.array[0], 16, np.random.default_rng(0), 0.0, 2)
    learned = autoencoder.fit(drawn, steps=20)
    channels = (Channel("t1", "MR", "zscore"), Channel("t2", "MR", "zscore"))
    plan = Preparation(channels, 3, denoise="autoencoder", denoiser=learned)
    read = Preparation.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert read == plan
    done = presets.apply(plan, image)
    np.testing.assert_array_equal(presets.apply(read, image).array, done.array)
    step = next(s for s in done.history if s["step"] == "denoise")
    assert step["weights"] == autoencoder.fingerprint(learned)
    assert "AAAA" not in json.dumps(step)


def test_files_of_older_versions_do_nothing_new() -> None:
    data = presets.plan([head().grid], ["MR", "MR"]).to_dict()
    for key in ("bias_correction", "denoise", "denoiser", "elbow", "derived", "clusters"):
        del data[key]
    old = Preparation.from_dict(data)
    assert (old.bias_correction, old.denoise, old.denoiser) == (False, "none", None)


def test_slices_are_cut_across_the_longest_voxels() -> None:
    affine = np.diag([1.0, 5.0, 1.0, 1.0])
    assert restore.across(Grid((9, 9, 9), affine)) == 1
    assert restore.across(Grid((9, 9, 9), np.eye(4))) == 2
    assert restore.across(flat_grid((9, 9))) is None


def test_clahe_is_a_channel_beside_the_others() -> None:
    image = head()
    plan = presets.plan([image.grid], ["MR", "MR"], names=["t1", "flair"], derived=["clahe"])
    assert plan.outputs == ("t1", "flair", "clahe:t1", "clahe:flair")
    assert plan.sources == (0, 1, 0, 1)
    done = presets.apply(plan, image).array
    assert done.shape[0] == 4
    inside = done[0] != 0
    assert not done[2][~inside].any()
    assert done[2][inside].std() > 0.5
