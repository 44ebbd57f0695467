"""Whether volumes are seen whole or slice by slice, and along which axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from delineate.core.errors import ConfigError, GeometryError
from delineate.core.image import Grid
from delineate.preprocess import resample
from delineate.preprocess.thickness import Thickness

#: Where one slice is worth more pixels than this, volumes are seen slice by slice: nnU-Net's limit
#: of anisotropy (Isensee et al. 2021), of what is measured instead of declared.
THICK = 3.0
#: Where nothing is labelled to measure that, stacks with fewer slices than this and thick ones are.
FEW_SLICES = 16


class Slicing(NamedTuple):
    """How the volumes of a cohort are seen.

    Args:
        axis: Along which they are cut into slices; None for 3D and flat images.
        single: The cases are stacks of one slice.
        reason: In a sentence.
    """

    axis: int | None
    single: bool
    reason: str


def decide(
    grids: Sequence[Grid], dimensions: Literal["auto", 2, 3], thickness: Thickness | None
) -> Slicing:
    """How a cohort is seen: as was asked for, else by what slices are worth, else by their number.

    Args:
        grids: Of the cases, in RAS+ where that is known.
        dimensions: That a network is to see.
        thickness: Of slices by the labels, where that was measured.

    Raises:
        ConfigError: Three dimensions of flat images or single slices.
        GeometryError: Single slices that are not cut along one axis.
    """
    single, n_single = _single_slices(grids)
    flat = grids[0].ndim == 2
    if dimensions == 3 and (flat or single is not None):
        images = "flat images" if flat else f"single slices in {n_single} of {len(grids)} cases"
        raise ConfigError(
            f"expected volumes where dimensions is 3, got {images}",
            where="dimensions",
            fix="leave dimensions out",
            code="dimensions",
        )
    if flat:
        return Slicing(None, False, "2D: the images are flat")
    if single is not None:
        sentence = f"2D, slice by slice: {n_single} of {len(grids)} cases are a single slice"
        return Slicing(single, True, sentence)
    if dimensions == 3:
        return Slicing(None, False, "3D, as was asked for")
    axis = _axis(grids, thickness)
    if dimensions == 2:
        return Slicing(axis, False, "2D, slice by slice, as was asked for")
    sliced, why = _by_the_data(grids, thickness)
    sentence = f"{'2D, slice by slice' if sliced else '3D'}: {why}"
    return Slicing(axis if sliced else None, False, sentence)


def _by_the_data(grids: Sequence[Grid], thickness: Thickness | None) -> tuple[bool, str]:
    """Whether volumes are seen slice by slice, and why."""
    known = all(grid.spacing_known for grid in grids)
    thick = thickness is not None and thickness.largest > THICK
    if not known and not thick:
        return True, "the distance between slices is not known"
    if thickness is not None:
        measured = f"by the overlap of labels in {thickness.cases} cases"
        return thick, f"one slice is worth {thickness.largest:.1f} pixels, {measured}"
    coarse, mm, ratio = _coarsest(grids)
    slices = float(np.median([grid.shape[coarse] for grid in grids]))
    if ratio > resample.ANISOTROPIC and slices < FEW_SLICES:
        return True, f"{slices:.0f} slices of {mm:.3g} mm, {ratio:.1f} times the pixel size"
    return False, f"{ratio:.1f} times as coarse along the coarsest axis, {slices:.0f} slices"


def _axis(grids: Sequence[Grid], thickness: Thickness | None) -> int:
    """Along which volumes are cut where they are: the thick slices', or the last of equal ones."""
    if thickness is not None and thickness.largest > THICK:
        return thickness.axis
    coarse, _, ratio = _coarsest(grids)
    known = all(grid.spacing_known for grid in grids)
    return coarse if known and ratio > 1 + resample.SAME_SPACING else 2


def _coarsest(grids: Sequence[Grid]) -> tuple[int, float, float]:
    """The axis of the largest spacing, that spacing in mm, and how many times the next it is."""
    spacing = np.median([grid.spacing_mm for grid in grids], axis=0)
    coarse = int(np.argmax(spacing))
    return coarse, float(spacing[coarse]), float(spacing[coarse] / np.delete(spacing, coarse).max())


def _single_slices(grids: Sequence[Grid]) -> tuple[int | None, int]:
    """Axis along which at least half of the volumes are one slice thick, and how many are so.

    Raises:
        GeometryError: They are, but not along one axis.
    """
    thin = [[a for a, n in enumerate(grid.shape) if n == 1] for grid in grids if grid.ndim == 3]
    single = [axes for axes in thin if axes]
    if 2 * len(single) < len(grids) or not single:
        return None, len(single)
    common = set(single[0]).intersection(*single[1:])
    if not common:
        count = Counter(axes[0] for axes in single)
        counts = ", ".join(f"{n} across axis {a}" for a, n in sorted(count.items()))
        raise GeometryError(
            f"expected single slices that are cut the same way, got {counts}",
            fix="give each kind a cohort of its own",
            code="slices-mixed",
        )
    return max(common), len(single)
