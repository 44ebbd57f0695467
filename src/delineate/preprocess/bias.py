"""Take the slow shading of MR away: it multiplies, so it is a slow field in the logarithm.

Each rule is a pure function ``(values (*S), mask, spacing_mm) -> field (*S)``, by which the values
are divided; its mean logarithm inside the mask is 0, so that the overall brightness stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Image
from delineate.preprocess import resample

Array = NDArray[Any]
Mask = NDArray[np.bool_]
#: The field is measured on voxels of about this size, in mm: it is far smoother than that. N4's
#: finest splines are some 25 mm wide; at 4 mm it takes four times as long and finds the same field.
_COARSE_MM, _N4_MM = 4.0, 8.0


def correct(
    image: Image, masks: NDArray[np.bool_] | None = None, *, rule: str = "n4", **parameters: Any
) -> Image:
    """Divide each channel of ``(C, *S)`` by its field.

    Args:
        image: Magnitudes: no negative values.
        masks: ``(C, *S)`` the tissue; by default what is above 0. A channel without any is left
            as it is.
        rule: ``n4`` or ``smooth``.
        parameters: Of the rule.

    Raises:
        ConfigError: No such rule.
        InputError: Negative values, or no tissue.
    """
    if rule not in _RULES:
        raise ConfigError(
            f"expected a bias correction, got {rule!r}",
            fix=f"choose one of: {', '.join(_RULES)}",
            code="unknown-name",
        )
    array = np.empty(image.array.shape, np.float32)
    largest = []
    for i, values in enumerate(image.array):
        if masks is not None and not masks[i].any():
            array[i] = values
            largest.append([1.0, 1.0])
            continue
        field = _RULES[rule](values, None if masks is None else masks[i], image.spacing_mm,
                             **parameters)  # fmt: skip
        array[i] = values / field
        largest.append([float(field.min()), float(field.max())])
    return image.with_step("bias", array, rule=rule, **parameters, range_of_field=largest)


def n4(
    values: Array,
    mask: Mask | None = None,
    spacing_mm: Sequence[float] | None = None,
    *,
    iterations: int = 50,
    levels: int = 4,
) -> Array:
    """N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908), by SimpleITK, on one thread.

    Args:
        values: ``(*S)``, not negative.
        mask: ``(*S)`` the tissue; by default what is above 0.
        spacing_mm: Of the axes; ones by default.
        iterations: At most, at each level.
        levels: Each doubles the mesh of the splines.
    """
    import SimpleITK

    sitk: Any = SimpleITK  # its functions carry no types
    values, mask, spacing = _checked(values, mask, spacing_mm)
    shrink = _shrink(values.shape, spacing, _N4_MM)
    small, inside = (a[tuple(slice(s // 2, None, s) for s in shrink)] for a in (values, mask))
    image, region = (
        sitk.GetImageFromArray(np.ascontiguousarray(a, t))
        for a, t in ((small, np.float32), (inside if inside.any() else small > 0, np.uint8))
    )
    step = [float(mm * s) for mm, s in zip(spacing, shrink, strict=True)][::-1]
    image.SetSpacing(step)
    region.SetSpacing(step)
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations([iterations] * levels)
    filter_.SetNumberOfThreads(1)  # sums in any other order would differ in the last digits
    filter_.Execute(image, region)
    log_field = sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(image))
    return _field(log_field, shrink, mask)


def smooth(
    values: Array,
    mask: Mask | None = None,
    spacing_mm: Sequence[float] | None = None,
    *,
    scales_mm: Sequence[float] = (80.0, 60.0, 45.0, 30.0),
    clip: float = 2.0,
) -> Array:
    """A small relative of N4: Gaussian means of the logarithm inside the mask, from coarse to fine.

    Tissue much brighter or darker than the rest (a tumour, fluid) is held to ``clip`` robust
    standard deviations, so that it makes no field of its own. Less exact than N4, and a hundred
    times as fast.

    Args:
        values: ``(*S)``, not negative.
        mask: ``(*S)`` the tissue; by default what is above 0.
        spacing_mm: Of the axes; ones by default.
        scales_mm: Standard deviations of the Gaussians.
        clip: In robust standard deviations.
    """
    from scipy import ndimage

    values, mask, spacing = _checked(values, mask, spacing_mm)
    shrink = _shrink(values.shape, spacing, _COARSE_MM)
    places = tuple(slice(s // 2, None, s) for s in shrink)
    small, inside = values[places], mask[places]
    inside = inside & (small > 0) if (inside & (small > 0)).any() else small > 0
    residual = np.log(np.where(inside, small, 1)).astype(np.float64)
    weight = inside.astype(np.float64)
    total = np.zeros_like(residual)
    for scale in scales_mm:
        sigma = [scale / (mm * s) for mm, s in zip(spacing, shrink, strict=True)]
        middle = float(np.median(residual[inside]))
        width = clip * 1.4826 * float(np.median(np.abs(residual[inside] - middle)))
        clipped = np.where(inside, np.clip(residual - middle, -width, width), 0)
        # Edges are filled with nothing and divided by as little: they do not pull the field.
        options: dict[str, Any] = {"sigma": sigma, "mode": "constant", "truncate": 3.0}
        amount = ndimage.gaussian_filter(weight, **options)
        field = ndimage.gaussian_filter(clipped, **options) / np.maximum(amount, 1e-6)
        residual -= field
        total += field
    return _field(total, shrink, mask)


def _checked(
    values: Array, mask: Mask | None, spacing_mm: Sequence[float] | None
) -> tuple[Array, Mask, Sequence[float]]:
    if float(values.min()) < 0:
        raise InputError(
            f"expected magnitudes, got values down to {float(values.min()):.3g}",
            fix="give scans as the scanner wrote them, or do without the correction of shading",
            code="bias-negative",
        )
    mask = values > 0 if mask is None else mask
    if not (mask & (values > 0)).any():
        raise InputError("expected tissue above 0 inside the mask, got none", code="mask-empty")
    return values, mask, spacing_mm or (1.0,) * values.ndim


def _shrink(shape: Sequence[int], spacing: Sequence[float], coarse: float) -> list[int]:
    """Every how many voxels the field is measured, by axis."""
    return [max(1, min(round(coarse / mm), n // 16)) for n, mm in zip(shape, spacing, strict=True)]


def _field(log_field: Array, shrink: Sequence[int], mask: Mask) -> Array:
    """The field ``(*S)`` from its logarithm on coarse voxels, the middles of their blocks."""
    grown = log_field.astype(np.float32)
    for axis, (step, n) in enumerate(zip(shrink, mask.shape, strict=True)):
        if step > 1:
            where = np.clip((np.arange(n) - step // 2) / step, 0, grown.shape[axis] - 1)
            grown = resample._linear(grown, where, axis)
    grown -= np.float32(grown[mask].mean(dtype=np.float64))
    field: Array = np.exp(grown)
    return field


_RULES: dict[str, Callable[..., Array]] = {"n4": n4, "smooth": smooth}
