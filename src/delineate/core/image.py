"""Image and Grid: an array that knows where it is in the body.

Axis order, said once: arrays are ``(C, I, J, K)`` for volumes and ``(C, I, J)`` for flat images.
The affine maps voxel index ``(i, j, k, 1)`` to RAS+ millimetres. Flat raster images have
``I`` = row, ``J`` = column and no known place in the body (``oriented=False``).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError

FloatArray = NDArray[np.float64]
#: Two grids are the same if no voxel corner differs by more than this (mm); see ``slack_mm``.
TOLERANCE_MM = 1e-3
#: Half a unit in the last of the six significant digits that text headers keep.
_SIX_DIGITS = 5e-6


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie.

    Args:
        shape: Spatial shape ``(I, J, K)`` or ``(I, J)``.
        affine: ``(4, 4)`` voxel index -> RAS+ mm. For flat images the third column is a unit axis.
        oriented: False where the file does not say how it lies in the body (PNG, JPEG, stacks).
        spacing_known: False where the file gives no physical size; the spacing is then nominal.
    """

    shape: tuple[int, ...]
    affine: FloatArray
    oriented: bool = True
    spacing_known: bool = True

    def __post_init__(self) -> None:
        affine = np.asarray(self.affine, dtype=np.float64)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) not in (2, 3) or min(self.shape, default=0) < 1:
            raise GeometryError(
                f"expected a spatial shape of 2 or 3 positive sizes, got {self.shape}"
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError("expected a finite 4x4 affine", code="affine-invalid")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is singular: no voxel size", code="affine-singular")

    @property
    def ndim(self) -> int:
        """Number of spatial dimensions."""
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each array axis, mm."""
        return tuple(float(np.linalg.norm(self.affine[:3, a])) for a in range(self.ndim))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml: ``|det|``, since the product of spacings is too much if sheared.

        NaN for flat images, which have no volume.
        """
        if self.ndim == 2:
            return float("nan")
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    def difference_mm(self, other: Grid) -> float:
        """Largest displacement of a corner voxel between two grids of one shape, mm."""
        if self.shape != other.shape:
            return float("inf")
        last = [n - 1 for n in self.shape] + [0] * (3 - self.ndim)
        corners = np.array(np.meshgrid(*[(0, n) for n in last], indexing="ij")).reshape(3, -1)
        points = np.vstack([corners, np.ones(corners.shape[1])])
        return float(np.linalg.norm(((self.affine - other.affine) @ points)[:3], axis=0).max())

    def same_as(self, other: Grid, tolerance_mm: float | None = None) -> bool:
        """Same shape, no corner further apart than ``tolerance_mm``, by default ``slack_mm``."""
        if tolerance_mm is None:
            tolerance_mm = max(slack_mm(grid.affine, grid.shape) for grid in (self, other))
        return self.difference_mm(other) <= tolerance_mm


@dataclass(frozen=True)
class Image:
    """An array with its grid.

    Args:
        array: ``(C, *S)`` float32 for images; ``(1, *S)`` of an integer type for label maps.
        grid: Grid of the array.
        history: Steps done to the image since it was read, each a plain dictionary.
        meta: Facts from the file that later rooms may want (modality, units, series UID).
    """

    array: NDArray[Any]
    grid: Grid
    history: tuple[dict[str, Any], ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.array.shape[1:]) != self.grid.shape:
            raise GeometryError(
                f"expected an array (C, *{self.grid.shape}), got {tuple(self.array.shape)}"
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along each array axis, mm."""
        return self.grid.spacing_mm

    def with_step(
        self, name: str, array: NDArray[Any] | None = None, grid: Grid | None = None, **facts: Any
    ) -> Image:
        """A copy with a new array or grid and one more step in the history."""
        return dataclasses.replace(
            self,
            array=self.array if array is None else array,
            grid=self.grid if grid is None else grid,
            history=(*self.history, {"step": name, **facts}),
        )


def slack_mm(affine: FloatArray, shape: tuple[int, ...]) -> float:
    """How far apart two headers of one grid may put a corner voxel, mm.

    ``TOLERANCE_MM``, or what rounding to six significant digits, as in the text headers of NRRD
    and MetaImage, can move it: more where a volume is long or lies far from the origin.
    """
    last = np.array([n - 1 for n in (*shape, 1, 1)[:3]])
    reach = np.abs(affine[:3, :3]) @ last + np.abs(affine[:3, 3])
    return max(TOLERANCE_MM, _SIX_DIGITS * float(np.linalg.norm(reach)))


def flat_grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None = None) -> Grid:
    """Grid of an image or a stack that does not say how it lies in the body."""
    spacing = spacing_mm or (1.0,) * len(shape)
    affine = np.diag([*spacing, *([1.0] * (4 - len(spacing)))])
    return Grid(shape, affine, oriented=False, spacing_known=spacing_mm is not None)
