"""Predicted images are scored as the literature does, and as an independent library does."""

from __future__ import annotations

import numpy as np
import pytest

from delineate.core.errors import ConfigError, GeometryError
from delineate.metrics.image_quality import best_mix, score_image, ssim


def _pair(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(100, 30, shape).astype(np.float32)
    return truth + rng.normal(5, 10, shape).astype(np.float32), truth


@pytest.mark.parametrize("shape", [(40, 33), (18, 24, 20)])
def test_scikit_image_gives_the_same_ssim_and_psnr(shape: tuple[int, ...]) -> None:
    referee = pytest.importorskip("skimage.metrics")
    prediction, truth = _pair(shape)
    theirs = referee.structural_similarity(
        truth.astype(float), prediction.astype(float), data_range=200.0, full=True,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )[1]  # fmt: skip
    np.testing.assert_allclose(ssim(prediction, truth, 200.0), theirs, atol=1e-10)
    psnr = referee.peak_signal_noise_ratio(
        truth.astype(float), prediction.astype(float), data_range=200.0
    )
    assert score_image(prediction, truth, 200.0)["psnr_db"] == pytest.approx(psnr)


def test_a_case_worked_by_hand() -> None:
    truth = np.zeros((8, 8))
    # Constant images: no variance, so that SSIM is the luminance term alone:
    # (2*0*2 + (0.01*10)^2) / (0 + 2^2 + (0.01*10)^2) = 0.01 / 4.01
    found = score_image(truth + 2, truth, data_range=10)
    assert found["mae"] == found["rmse"] == 2
    assert found["psnr_db"] == pytest.approx(10 * np.log10(100 / 4))
    assert found["ssim"] == pytest.approx(0.01 / 4.01)


def test_only_the_voxels_inside_count() -> None:
    truth = np.zeros((20, 20))
    prediction, inside = truth.copy(), np.zeros((20, 20), bool)
    prediction[:9], inside[10:] = 50.0, True
    found = score_image(prediction, truth, 10, inside)
    assert found["mae"] == 0
    assert found["ssim"] == pytest.approx(1)  # windows reach 5 voxels beyond
    assert score_image(prediction, truth, 10)["mae"] == pytest.approx(50 * 9 / 20)


def test_a_mask_gives_the_mean_of_the_same_map() -> None:
    prediction, truth = _pair((30, 24, 28))
    inside = np.zeros(truth.shape, bool)
    inside[9:21, 6:20, 0:11] = True
    masked = ssim(np.where(inside, prediction, truth), truth, 200.0)[inside].mean()
    assert score_image(prediction, truth, 200.0, inside)["ssim"] == pytest.approx(masked)


def test_a_perfect_image_has_a_ssim_of_one_and_no_noise() -> None:
    _, truth = _pair((12, 12, 12))
    found = score_image(truth, truth, 200.0)
    assert found["ssim"] == pytest.approx(1)
    assert found["psnr_db"] == np.inf


def test_a_single_slice_is_scored_as_a_flat_image() -> None:
    prediction, truth = _pair((30, 30))
    flat = score_image(prediction, truth, 200.0)
    assert score_image(prediction[..., None], truth[..., None], 200.0) == pytest.approx(flat)


def test_the_best_mix_of_inputs_finds_a_mix() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(2, 9, 9))
    truth = 3 * inputs[0] - 2 * inputs[1] + 7
    inside = np.zeros((9, 9), bool)
    inside[2:7] = True
    np.testing.assert_allclose(best_mix(inputs, truth, inside), truth, atol=1e-9)


def test_other_shapes_and_ranges_of_nothing_are_refused() -> None:
    image = np.zeros((4, 4))
    with pytest.raises(GeometryError, match="shape"):
        score_image(image, np.zeros((4, 5)), 1.0)
    with pytest.raises(ConfigError, match="above 0"):
        score_image(image, image, 0.0)
