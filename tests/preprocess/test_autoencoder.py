"""The denoising autoencoder: it learns without clean images, and is nothing but numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from delineate.core.errors import ConfigError, InputError
from delineate.preprocess import autoencoder, denoise


def scene(seed: int, shape: tuple[int, ...] = (96, 104)) -> NDArray[np.float32]:
    """Tissues with sharp and curved borders inside a head; 0 around it."""
    generator = np.random.default_rng(seed)
    bumps = ndimage.gaussian_filter(generator.standard_normal(shape), 4)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    head = sum(x**2 for x in axes) < 0.85
    tissue = np.array([100.0, 180.0, 260.0])[np.digitize(bumps / bumps.std(), (-0.5, 0.5))]
    return np.where(head, tissue, 0).astype(np.float32)


def noisy(clean: NDArray[np.float32], noise: str, seed: int = 1) -> NDArray[np.float32]:
    parts = np.random.default_rng(seed).normal(0, 15, (2, *clean.shape))
    found = np.hypot(clean + parts[0], parts[1]) if noise == "rician" else clean + parts[0]
    return np.where(clean > 0, found, 0).astype(np.float32)


def error(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((a - b)[b > 0] ** 2)))


def learn(noise: str, steps: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    drawn = [
        autoencoder.pictures(noisy(scene(i), noise, 50 + i), 64, generator, 0.0) for i in range(4)
    ]
    return autoencoder.fit(np.concatenate(drawn), steps=steps)


@pytest.fixture(scope="module")
def learned() -> dict[str, Any]:
    return learn("additive", 200)


@pytest.mark.parametrize("noise", ["additive", "rician"])
def test_it_comes_nearer_to_the_clean_image_than_a_gaussian(noise: str, learned: Any) -> None:
    """Learned from noisy images alone; the rician case with the weights of the additive one."""
    clean = scene(9)
    values = noisy(clean, noise)
    done = autoencoder.clean(values, learned)
    assert error(done, clean) < 0.7 * error(values, clean)
    assert error(done, clean) < error(denoise.gaussian(values), clean)
    assert 0.4 < learned["removed"] <= 1
    weights = json.loads(json.dumps(learned))
    np.testing.assert_array_equal(autoencoder.clean(values, weights), done)


def test_the_same_pictures_give_the_same_weights_and_no_global_state_is_touched() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state()
    one = learn("additive", 3)
    torch.manual_seed(99)
    assert learn("additive", 3) == one
    torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_volumes_go_slice_by_slice_whatever_the_threads(learned: Any) -> None:
    volume = noisy(scene(3, (41, 50, 37)), "additive")
    done = autoencoder.clean(volume, learned, axis=1)
    assert done.shape == volume.shape
    assert error(done, scene(3, (41, 50, 37))) < error(volume, scene(3, (41, 50, 37)))
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            np.testing.assert_array_equal(autoencoder.clean(volume, learned, axis=1), done)
    finally:
        torch.set_num_threads(threads)


def test_scale_and_offset_of_the_intensities_do_not_matter(learned: Any) -> None:
    values = noisy(scene(4), "additive")
    done = autoencoder.clean(values, learned)
    np.testing.assert_allclose(autoencoder.clean(values * 8, learned), done * 8, rtol=1e-4, atol=1)
    np.testing.assert_allclose(
        autoencoder.clean(values - 1000, learned), done - 1000, rtol=1e-4, atol=0.5
    )


@pytest.mark.parametrize("shape", [(3, 5), (28, 28), (7, 60, 2)])
def test_small_images_are_taken(shape: tuple[int, ...], learned: Any) -> None:
    values = np.random.default_rng(0).normal(50, 5, shape).astype(np.float32)
    assert autoencoder.clean(values, learned).shape == shape
    drawn = autoencoder.pictures(values, 3, np.random.default_rng(0), axis=len(shape) - 1)
    assert drawn.shape == (3, autoencoder.SIZE, autoencoder.SIZE)


def test_without_noise_nothing_is_learned_or_changed(learned: Any) -> None:
    still = np.full((64, 64), 7.0, np.float32)
    np.testing.assert_array_equal(autoencoder.clean(still, learned), still)
    drawn = autoencoder.pictures(still, 4, np.random.default_rng(0))
    with pytest.raises(InputError, match="images with noise") as caught:
        autoencoder.fit(drawn)
    assert caught.value.code == "denoise-no-noise"


@pytest.mark.parametrize("fault", [{"weights": "AAAA"}, {"widths": [1, 1]}, {"weights": "?"}])
def test_damaged_weights_are_refused(fault: dict[str, Any], learned: Any) -> None:
    with pytest.raises(ConfigError, match="weights of a denoising autoencoder"):
        autoencoder.clean(noisy(scene(0), "additive"), {**learned, **fault})
