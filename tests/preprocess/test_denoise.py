"""Denoising: exact transforms, known noise, and each kind of noise in its own scale."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from delineate.core.errors import ConfigError
from delineate.core.image import Image, flat_grid
from delineate.preprocess import denoise


def steps(ndim: int = 2) -> NDArray[np.float32]:
    """Regions of 40, 120 and 200."""
    clean = np.full((128, 128), 40.0, np.float32)
    clean[30:90, 30:90] = 120
    clean[50:70, 50:70] = 200
    return clean if ndim == 2 else np.repeat(clean[::2, ::2, None], 24, 2)


def noisy(clean: NDArray[np.float32], noise: str) -> NDArray[np.float32]:
    generator = np.random.default_rng(1)
    if noise == "additive":
        found = clean + generator.normal(0, 10, clean.shape)
    elif noise == "rician":
        parts = generator.normal(0, 10, (2, *clean.shape))
        found = np.hypot(clean + parts[0], parts[1])
    elif noise == "poisson":
        found = generator.poisson(clean / 4) * 4.0
    else:
        found = clean * np.exp(generator.normal(0, 0.15, clean.shape))
    return found.astype(np.float32)


def error(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_bayes_shrink_by_hand() -> None:
    """One level of Haar: every band is shrunk by the noise's variance over the signal's spread."""
    values = noisy(steps()[:32, :32], "additive")
    noise = denoise.noise_std(values)
    blocks = values.reshape(16, 2, 16, 2).transpose(0, 2, 1, 3).reshape(16, 16, 4)
    haar = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    bands = blocks @ haar.T
    for i in (1, 2, 3):
        signal = np.sqrt(max(float((bands[..., i] ** 2).mean()) - noise**2, 1e-12))
        limit = noise**2 / signal
        bands[..., i] = np.sign(bands[..., i]) * np.maximum(np.abs(bands[..., i]) - limit, 0)
    wanted = (bands @ haar).reshape(16, 16, 2, 2).transpose(0, 2, 1, 3).reshape(32, 32)
    found = denoise.wavelet(values, name="haar", levels=1, shifts=1)
    np.testing.assert_allclose(found, wanted, atol=0.02)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_noise_is_measured(ndim: int) -> None:
    values = noisy(steps(ndim), "additive")
    assert denoise.noise_std(values) == pytest.approx(10, rel=0.05)
    stripped = np.where(steps(ndim) > 100, values, 0)  # half of the image cut away
    assert denoise.noise_std(stripped) == pytest.approx(10, rel=0.1)
    assert denoise.noise_std(np.full((8, 8), 3.0)) == 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("rule", ["gaussian", "median", "non_local_means", "wavelet"])
def test_every_rule_takes_noise_away_and_keeps_the_mean(rule: str, ndim: int) -> None:
    clean = steps(ndim)
    values = noisy(clean, "additive")
    done = denoise.rule(rule)(values)
    assert done.dtype == np.float32
    assert done.shape == values.shape
    assert error(done, clean) < 0.75 * error(values, clean)
    assert float(done.mean()) == pytest.approx(float(values.mean()), rel=0.01)
    np.testing.assert_array_equal(done, denoise.rule(rule)(values))


def test_white_noise_shrinks_to_its_mean_and_odd_sizes_are_kept() -> None:
    values = np.random.default_rng(0).normal(50, 5, (61, 47)).astype(np.float32)
    done = denoise.wavelet(values)
    assert done.shape == values.shape
    assert done.std() < 5 / 4 + 0.1  # two levels leave means of 4 × 4 voxels
    still = np.full((61, 47), 7.0, np.float32)
    np.testing.assert_allclose(denoise.wavelet(still), still, rtol=1e-5)


def test_medians_of_opencv_and_scipy_agree() -> None:
    values = noisy(steps(), "additive")
    np.testing.assert_array_equal(
        denoise.median(values), ndimage.median_filter(values, 3, mode="nearest")
    )


@pytest.mark.parametrize("noise", ["rician", "poisson", "speckle"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_its_own_scale_suits_each_noise(noise: str, ndim: int) -> None:
    clean = steps(ndim)
    values = noisy(clean, noise)
    image = Image(values[None], flat_grid(clean.shape))
    done = denoise.denoise(image, [(noise, "non_local_means", {})])
    plain = denoise.non_local_means(values)
    assert error(done.array[0], clean) < 0.9 * error(plain, clean)


def test_the_bias_of_magnitudes_is_taken_off() -> None:
    clean = np.full((96, 96), 40.0, np.float32)
    values = noisy(clean, "rician")
    assert values.mean() - 40 > 1.0
    image = Image(values[None], flat_grid(clean.shape))
    done = denoise.denoise(image, [("rician", "non_local_means", {})])
    assert abs(float(done.array.mean()) - 40) < 0.3


def test_the_gain_of_counts_is_found_and_every_scale_leads_back() -> None:
    counts = noisy(np.full((128, 128), 80.0, np.float32), "poisson")
    assert denoise.even_scale(counts - counts.min(), "poisson")[2]["gain"] > 0
    from_zero = counts.copy()
    from_zero[0, 0] = 0  # the darkest voxel is where counting begins
    assert denoise.even_scale(from_zero, "poisson")[2]["gain"] == pytest.approx(4, rel=0.1)
    for noise in ("additive", "speckle"):
        forth, back, _ = denoise.even_scale(counts, noise)
        np.testing.assert_allclose(back(forth), counts, rtol=1e-4)
    # The unbiased way back gives the mean of the counts, which the plain one underestimates.
    forth, back, _ = denoise.even_scale(from_zero, "poisson")
    mean = float(back(np.full((1, 1), forth.mean(), np.float32)).item())
    assert mean == pytest.approx(float(counts.mean()), rel=0.01)


@pytest.mark.parametrize("modality", denoise.MODALITIES)
def test_every_modality_has_a_rule_that_works_and_is_recorded(modality: str) -> None:
    noise, rule, parameters = denoise.MODALITIES[modality]
    clean = steps()[:64, :64]
    values = noisy(clean, noise)
    image = Image(values[None], flat_grid(clean.shape))
    done = denoise.denoise(image, [(noise, rule, parameters)])
    assert error(done.array[0], clean) < error(values, clean)
    step = done.history[-1]
    assert step["channels"][0]["rule"] == rule
    assert json.loads(json.dumps(step)) == step


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="wavelett"):
        denoise.rule("wavelett")
    with pytest.raises(ConfigError, match="db3"):
        denoise.wavelet(steps(), name="db3")
    with pytest.raises(ConfigError, match="gaussian"):
        denoise.even_scale(steps(), "gaussian")
