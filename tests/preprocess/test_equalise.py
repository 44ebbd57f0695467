"""Equalisation against hand-worked tables, OpenCV and scikit-image."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import exposure

from delineate.core.errors import ConfigError
from delineate.core.image import Image, flat_grid
from delineate.preprocess import equalise


def picture(shape: tuple[int, ...] = (250, 250), seed: int = 0) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).gamma(2, 30, shape).clip(0, 255)
    return values.astype(np.uint8)


def ball(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return sum(x**2 for x in axes) < 0.7


def test_both_printed_forms_by_hand() -> None:
    values = np.array([[10, 10, 20, 30], [10, 20, 20, 40]], np.uint8)  # counts 3, 3, 1, 1
    plain = equalise.histogram(values, stretch=False)
    # round(cdf / 8 * 255) = round(95.625), round(191.25), round(223.125), 255
    assert dict(zip(values.ravel(), plain.ravel(), strict=True)) == {
        10: 96, 20: 191, 30: 223, 40: 255,
    }  # fmt: skip
    stretched = equalise.histogram(values, levels=6)
    # round((cdf - 3) / (8 - 3) * 5) = 0, 3, 4, 5
    assert dict(zip(values.ravel(), stretched.ravel(), strict=True)) == {10: 0, 20: 3, 30: 4, 40: 5}


def test_the_stretched_form_is_opencvs() -> None:
    for seed in range(5):
        values = picture(seed=seed)
        np.testing.assert_array_equal(equalise.histogram(values), cv2.equalizeHist(values))


def test_the_plain_form_is_scikit_images_inside_a_mask() -> None:
    values, mask = picture(), ball((250, 250))
    referee = exposure.equalize_hist(values, nbins=256, mask=mask)
    ours = equalise.histogram(values, mask, stretch=False)
    np.testing.assert_array_equal(ours[mask], np.floor(referee[mask] * 255 + 0.5))
    assert not ours[~mask].any()


def test_background_does_not_count() -> None:
    values = picture((60, 60)).clip(1)
    wide = np.zeros((100, 100), np.uint8)
    wide[20:80, 20:80] = values
    inside = np.s_[20:80, 20:80]
    for stretch in (True, False):
        masked = equalise.histogram(wide, wide > 0, stretch=stretch)[inside]
        np.testing.assert_array_equal(masked, equalise.histogram(values, stretch=stretch))
    assert equalise.histogram(wide, stretch=False)[inside].mean() > masked.mean() + 30


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.int64])
def test_every_bit_depth_has_a_bin_a_value(kind: type) -> None:
    values = picture()
    shifted = values.astype(kind) * 100 - (1000 if np.issubdtype(kind, np.signedinteger) else 0)
    np.testing.assert_array_equal(equalise.histogram(shifted), equalise.histogram(values))


def test_more_grey_levels_than_a_byte_holds() -> None:
    values = np.random.default_rng(0).normal(size=(64, 64, 16)).astype(np.float32)
    levels = equalise.histogram(values, levels=4096)
    assert levels.dtype == np.uint16
    assert (levels.min(), levels.max()) == (0, 4095)
    share = np.histogram(levels, 16)[0] / levels.size
    np.testing.assert_allclose(share, 1 / 16, atol=0.01)


def test_order_is_kept_and_volumes_are_treated_as_one() -> None:
    values = np.random.default_rng(0).normal(100, 20, (40, 50, 30)).astype(np.float32)
    mask = ball(values.shape)
    levels = equalise.histogram(values, mask)
    order = np.argsort(values[mask], kind="stable")
    assert (np.diff(levels[mask][order].astype(int)) >= 0).all()
    # A value has one level, in whatever slice it lies.
    turned = equalise.histogram(values.transpose(2, 0, 1), mask.transpose(2, 0, 1))
    np.testing.assert_array_equal(turned.transpose(1, 2, 0), levels)


def test_constant_and_empty_regions_become_0() -> None:
    values = np.full((9, 9), 7, np.uint8)
    assert not equalise.histogram(values).any()
    assert not equalise.histogram(values, np.zeros((9, 9), bool)).any()
    assert not equalise.adaptive(values, np.zeros((9, 9), bool)).any()
    assert np.isfinite(equalise.adaptive(np.full((9, 9), 3.5, np.float32), ball((9, 9)))).all()


@pytest.mark.parametrize("clip", [None, 2.0, 40.0])
@pytest.mark.parametrize("shape", [(256, 256), (250, 250), (64, 72)])
def test_our_tiles_are_opencvs(clip: float | None, shape: tuple[int, int]) -> None:
    values = picture(shape)
    ours = equalise.adaptive(values, np.ones(shape, bool), clip=clip)
    theirs = equalise.adaptive(values, clip=clip)
    np.testing.assert_array_equal(theirs, cv2.createCLAHE(clip or 0.0, (8, 8)).apply(values))
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # it rounds the tables, we the mixture


def test_tiles_of_a_volume_that_repeats_a_slice_are_those_of_the_slice() -> None:
    values = picture((64, 64))
    volume = np.repeat(values[..., None], 7, axis=2)  # too thin for two tiles
    flat = equalise.adaptive(values, np.ones(values.shape, bool), clip=None)
    deep = equalise.adaptive(volume, clip=None)
    assert np.abs(deep.astype(int) - flat[..., None]).max() <= 1


def test_adaptive_brings_out_what_is_faint_in_the_dark() -> None:
    generator = np.random.default_rng(0)
    values = np.linspace(20, 220, 128)[:, None] + generator.normal(0, 1, (128, 128))
    values[8:16, 60:68] += 6
    values = values.astype(np.uint8)

    def contrast(image: NDArray[np.uint8]) -> float:
        return float(image[8:16, 60:68].mean() - image[8:16, 72:80].mean())

    assert contrast(equalise.adaptive(values, clip=None)) > 3 * contrast(equalise.histogram(values))
    limited = contrast(equalise.adaptive(values, clip=2.0))
    assert contrast(values) < limited < contrast(equalise.adaptive(values, clip=None))


def test_what_is_outside_the_mask_changes_nothing() -> None:
    mask = ball((48, 52, 40))
    values = picture(mask.shape)
    other = np.where(mask, values, 255 - values).astype(np.uint8)
    for rule in (equalise.histogram, equalise.adaptive):
        np.testing.assert_array_equal(rule(values, mask), rule(other, mask))


def test_an_image_records_its_rules() -> None:
    image = Image(np.stack([picture(), picture(seed=1)]).astype(np.float32), flat_grid((250, 250)))
    rules = [equalise.MODALITIES["MR"], equalise.MODALITIES["US"]]
    done = equalise.equalise(image, rules)
    assert done.array.dtype == np.float32
    step = done.history[-1]
    assert step["channels"] == [{"rule": "histogram"}, {"rule": "adaptive", "clip": 3.0}]
    assert json.loads(json.dumps(step)) == step
    np.testing.assert_array_equal(done.array, equalise.equalise(image, rules).array)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="histogram, adaptive"):
        equalise.rule("histogramm")
    with pytest.raises(ConfigError, match="got 1"):
        equalise.histogram(picture(), levels=1)
    with pytest.raises(ConfigError, match="above 0"):
        equalise.adaptive(picture(), clip=0.0)
