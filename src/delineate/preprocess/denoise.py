"""Take noise away, each kind of noise in the scale in which it is even.

Each rule is a pure function ``(values (*S) float32) -> (*S) float32`` in two or three dimensions;
``denoise`` applies one to each channel of an image, within a scale that makes the noise even.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError
from delineate.core.image import Image

Array = NDArray[Any]
#: Standard deviation of a normal distribution over the median of its absolute values.
_MAD = 1.482602218505602
_WAVELETS = ("haar", "db2")


def denoise(
    image: Image,
    rules: Sequence[tuple[str, str, Mapping[str, Any]]],
    slice_axis: int | None = None,
) -> Image:
    """Apply one rule to each channel of ``(C, *S)``.

    Args:
        image: Any image.
        rules: ``(kind of noise, name of the rule, parameters)`` by channel, see ``MODALITIES``.
        slice_axis: Across which a stack is cut into slices, each treated by itself: they lie too
            far apart to be mixed.
    """
    array = np.empty(image.array.shape, np.float32)
    done = []
    for i, (noise, name, parameters) in enumerate(rules):
        forth, back, facts = even_scale(np.asarray(image.array[i], np.float32), noise)
        if slice_axis is None or forth.ndim == 2:
            array[i] = back(rule(name)(forth, **parameters))
        else:
            slices = np.ascontiguousarray(np.moveaxis(forth, slice_axis, 0))
            denoised = np.stack([rule(name)(plane, **parameters) for plane in slices], slice_axis)
            array[i] = back(denoised)
        done.append({"noise": noise, "rule": name, **parameters, **facts})
    return image.with_step("denoise", array, channels=done)


# ------------------------------------------------------------------------------------- rules


def gaussian(values: Array, *, sigma: float = 1.0) -> Array:
    """Gaussian blur of ``sigma`` voxels, edges reflected."""
    from scipy import ndimage

    blurred: Array = ndimage.gaussian_filter(np.asarray(values, np.float32), sigma)
    return blurred


def median(values: Array, *, size: int = 3) -> Array:
    """Median of the ``size`` voxels along each axis, edges repeated."""
    import cv2
    from scipy import ndimage

    values = np.ascontiguousarray(values, np.float32)
    if values.ndim == 2 and size in (3, 5):  # all that OpenCV takes of such numbers
        fast: Array = cv2.medianBlur(values, size)
        return fast
    slow: Array = ndimage.median_filter(values, size, mode="nearest")
    return slow


def non_local_means(
    values: Array, *, strength: float = 0.8, patch: int = 5, reach: int | None = None
) -> Array:
    """Average voxels whose surroundings look alike (Buades et al. 2005), by scikit-image.

    Args:
        values: ``(*S)``. Takes seconds a million voxels in three dimensions.
        strength: Of the smoothing, as a multiple of the noise.
        patch: Edge of what is compared, voxels.
        reach: How far away is compared, voxels; 6 in two dimensions, 2 in three.
    """
    from skimage.restoration import denoise_nl_means

    values = np.asarray(values, np.float32)
    noise = noise_std(values)
    if noise == 0:
        return values
    denoised: Array = denoise_nl_means(
        values,
        patch_size=patch,
        patch_distance=reach or (6 if values.ndim == 2 else 2),
        h=strength * noise,
        sigma=noise,
        fast_mode=True,
    )
    return denoised.astype(np.float32)


def wavelet(
    values: Array, *, name: str = "db2", levels: int | None = None, shifts: int | None = None
) -> Array:
    """Shrink wavelet coefficients by BayesShrink (Chang et al. 2000, doi:10.1109/83.862633).

    In every band the threshold is the noise's variance over the signal's standard deviation; by
    scikit-image and PyWavelets.

    Args:
        values: ``(*S)``.
        name: ``haar`` or ``db2``.
        levels: Halvings; by default until the shortest axis is 8 voxels long, 4 at most.
        shifts: Results for as many shifts along each axis are averaged (cycle spinning), so that
            the grid of the wavelets does not show; 2 in two dimensions, 1 in three, where it would
            take eight times as long.

    Raises:
        ConfigError: No such wavelet.
    """
    from skimage.restoration import denoise_wavelet

    if name not in _WAVELETS:
        raise ConfigError(
            f"expected a wavelet among {', '.join(_WAVELETS)}, got {name!r}", code="unknown-name"
        )
    if levels is None:
        levels = max(1, min(4, int(math.log2(max(2, min(values.shape) / 8)))))
    values = np.asarray(values, np.float32)
    noise = noise_std(values)
    if noise == 0:
        return values
    axes = tuple(range(values.ndim))
    places = list(
        itertools.product(range(shifts or (2 if values.ndim == 2 else 1)), repeat=len(axes))
    )
    total = np.zeros(values.shape, np.float32)
    for place in places:
        shifted = np.roll(values, place, axes)
        done = denoise_wavelet(
            shifted, sigma=noise, wavelet=name, wavelet_levels=levels, rescale_sigma=False
        )
        total += np.roll(done, [-p for p in place], axes)
    return total / np.float32(len(places))


def noise_std(values: Array) -> float:
    """Standard deviation of the noise of ``(*S)``, by the finest diagonal Haar coefficients.

    Donoho and Johnstone 1994, doi:10.1093/biomet/81.3.425: the median of their absolute values.
    Coefficients of exactly 0 are taken for background that was cut away.
    """
    diagonal = np.abs(_finest(values)[1])
    non_zero = diagonal[diagonal > 0]
    return float(_MAD * np.median(non_zero)) if non_zero.size else 0.0


def _finest(values: Array) -> tuple[Array, Array]:
    """Means and diagonal Haar differences of the blocks of two voxels along each axis."""
    mean: Array = np.asarray(values, np.float32)
    diagonal = mean
    for axis in range(values.ndim):
        pairs = values.shape[axis] // 2
        halves = [
            [np.take(part, np.arange(i, 2 * pairs, 2), axis) for i in (0, 1)]
            for part in (mean, diagonal)
        ]
        mean = (halves[0][0] + halves[0][1]) / 2
        diagonal = (halves[1][0] - halves[1][1]) / np.float32(math.sqrt(2))
    return mean, diagonal


# ------------------------------------------------------------------------------------ scales

Back = Callable[[Array], Array]


def even_scale(values: Array, noise: str) -> tuple[Array, Back, dict[str, float]]:
    """Bring ``(*S)`` to a scale in which noise of a kind is as strong everywhere.

    - ``additive``: as it is.
    - ``speckle``, which multiplies: the logarithm above the darkest voxel.
    - ``poisson``, whose variance grows with the mean: Anscombe's root above the darkest voxel, with
      a gain measured in the image, and the closed form of its unbiased inverse (Makitalo and Foi
      2011, doi:10.1109/TIP.2011.2121085).
    - ``rician``, of magnitudes: as it is, and the bias, known where the signal is well above the
      noise, is taken off afterwards: ``sqrt(m² - s²)``.

    Returns:
        The values in that scale, the way back, and what was measured.

    Raises:
        ConfigError: No such kind of noise.
    """
    if noise == "additive":
        return values, lambda y: y, {}
    if noise == "rician":
        std = noise_std(values)
        return values, lambda y: np.sqrt(np.maximum(y * y - np.float32(std**2), 0)), {"std": std}
    darkest = float(values.min())
    above = values - np.float32(darkest)
    if noise == "speckle":
        unit = float(above.mean(dtype=np.float64)) or 1.0  # far below the mean, nearly linear
        even = np.log1p(above * np.float32(100 / unit))
        return (
            even,
            lambda y: np.expm1(y) * np.float32(unit / 100) + np.float32(darkest),
            {"unit": unit, "darkest": darkest},
        )
    if noise == "poisson":
        gain = _gain(above)
        even = 2 * np.sqrt(above / np.float32(gain) + np.float32(0.375))
        return (
            even,
            lambda y: _anscombe_back(y) * np.float32(gain) + np.float32(darkest),
            {"gain": gain, "darkest": darkest},
        )
    raise ConfigError(
        f"expected noise to be additive, speckle, poisson or rician, got {noise!r}",
        code="unknown-name",
    )


def _gain(above: Array) -> float:
    """Variance over mean of noise that grows with the mean."""
    mean, diagonal = _finest(above)
    lit = (mean > 0) & (diagonal != 0)
    if not lit.any():
        return 1.0
    return float((_MAD * np.median(np.abs(diagonal[lit]) / np.sqrt(mean[lit]))) ** 2) or 1.0


def _anscombe_back(y: Array) -> Array:
    """Closed form of the exact unbiased inverse of Anscombe's root."""
    y = np.maximum(y, np.float32(2 * math.sqrt(0.375)))
    root = np.float32(math.sqrt(1.5))
    back: Array = y**2 / 4 + root / 4 / y - 11 / 8 / y**2 + 5 / 8 * root / y**3 - np.float32(0.125)
    return np.maximum(back, 0)


_RULES: dict[str, Callable[..., Array]] = {
    "gaussian": gaussian, "median": median, "non_local_means": non_local_means, "wavelet": wavelet,
}  # fmt: skip

#: Modality -> kind of noise, rule and parameters. On simulated counts the root halves the error of
#: non-local means and does nothing for a Gaussian.
MODALITIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MR": ("rician", "non_local_means", {}),  # magnitudes
    "CT": ("poisson", "non_local_means", {}),  # few photons at a low dose
    "PET": ("additive", "gaussian", {"sigma": 1.0}),  # its noise is blurred, so none looks alike
    "XR": ("poisson", "non_local_means", {}),
    "US": ("speckle", "non_local_means", {}),
    "OCT": ("speckle", "wavelet", {}),
    "RGB": ("additive", "median", {"size": 3}),
    "unknown": ("additive", "wavelet", {}),
}


def rule(name: str) -> Callable[..., Array]:
    """A rule by name.

    Raises:
        ConfigError: No such rule.
    """
    if name not in _RULES:
        raise ConfigError(
            f"expected a rule of denoising, got {name!r}",
            fix=f"choose one of: {', '.join(_RULES)}",
            code="unknown-name",
        )
    return _RULES[name]
