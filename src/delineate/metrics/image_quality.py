"""How like a predicted image is to the true one: MAE, PSNR and SSIM, within a mask or everywhere.

Every figure is a mean over the voxels that count, so that air, which anybody can predict, does not
flatter it; what lies beyond them has no say in the windows of SSIM either. The data range is the
caller's to say: PSNR and SSIM of other ranges do not compare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from delineate.core.errors import ConfigError, GeometryError
from delineate.metrics.surface import bounding_box

Array = NDArray[Any]

#: Window and constants of SSIM (Wang et al. 2004, doi:10.1109/TIP.2003.819861, section III-C): a
#: Gaussian of this many voxels, cut off at 5 voxels, K1 and K2.
_SIGMA, _RADIUS, _K1, _K2 = 1.5, 5, 0.01, 0.03


def score_image(
    prediction: Array, truth: Array, data_range: float, inside: Array | None = None
) -> dict[str, float]:
    """Figures of one image.

    Args:
        prediction: ``(*S)``, in the units of the truth.
        truth: ``(*S)``.
        data_range: What PSNR and SSIM take for the span of values, in the same units.
        inside: ``(*S)`` bool, the voxels that count; None: all.

    Returns:
        ``mae`` (mean absolute error, units), ``rmse`` (units), ``psnr_db`` (infinite where every
        voxel is right) and ``ssim``; NaN where no voxel counts.

    Raises:
        GeometryError: The shapes differ.
        ConfigError: The range is not above 0.
    """
    if prediction.shape != truth.shape or (inside is not None and inside.shape != truth.shape):
        raise GeometryError(
            f"expected a prediction of the truth's shape {truth.shape}, got {prediction.shape}"
        )
    if not (np.isfinite(data_range) and data_range > 0):
        raise ConfigError(f"expected a data range above 0, got {data_range}")
    counted = np.ones(truth.shape, bool) if inside is None else inside
    if not counted.any():
        return dict.fromkeys(("mae", "rmse", "psnr_db", "ssim"), float("nan"))
    error = prediction[counted].astype(np.float64) - truth[counted]
    mse = float(np.mean(error**2))
    # Windows at the rim look beyond it, and no further than this box.
    box = tuple(
        slice(max(0, side.start - _RADIUS), side.stop + _RADIUS) for side in bounding_box(counted)
    )
    counted, truth = counted[box], truth[box]
    compared = np.where(counted, prediction[box], truth)
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(mse)),
        "psnr_db": float(10 * np.log10(data_range**2 / mse)) if mse else float("inf"),
        "ssim": float(ssim(compared, truth, data_range)[counted].mean()),
    }


def ssim(prediction: Array, truth: Array, data_range: float) -> NDArray[np.float64]:
    """The map ``(*S)`` of structural similarity, eq. 13 of Wang et al. 2004, in 2D or 3D.

    The window lies in voxels, whatever their size in mm; beyond the image its values are mirrored.
    """
    x, y = prediction.astype(np.float64), truth.astype(np.float64)

    def local(values: Array) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = gaussian_filter(values, _SIGMA, radius=_RADIUS)
        return mean

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    similarity: NDArray[np.float64] = luminance * structure
    return similarity


def best_mix(inputs: Array, truth: Array, inside: Array) -> Array:
    """The weighted sum of images, and a constant, that is nearest to the truth (least squares).

    What it scores is what an image takes that knows nothing but how its inputs are to be mixed.

    Args:
        inputs: ``(C, *S)``.
        truth: ``(*S)``.
        inside: ``(*S)`` bool, the voxels by which the weights are found.

    Returns:
        ``(*S)``.
    """
    columns = np.stack([*(c[inside].astype(np.float64) for c in inputs), np.ones(inside.sum())], 1)
    weights = np.linalg.lstsq(columns, truth[inside].astype(np.float64), rcond=None)[0]
    mixed: Array = np.tensordot(weights[:-1], inputs, 1) + weights[-1]
    return mixed
