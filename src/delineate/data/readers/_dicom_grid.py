"""Where the frames of a DICOM series lie: a grid, or the reason why there is none."""

from __future__ import annotations

import numpy as np

from delineate.core.errors import GeometryError
from delineate.core.image import FloatArray, Grid, flat_grid
from delineate.data.readers._dicom_frames import Frame
from delineate.data.readers._dicom_phases import SAME_PLACE_MM, normal_of, placed
from delineate.data.readers._dicom_series import Series

#: A slice may be off its place on a regular grid by this share of the spacing ...
SPACING_TOLERANCE = 0.05
#: ... and slices may drift sideways by this share of their distance (about half a degree).
TILT_TOLERANCE = 0.01
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid_of(series: Series) -> Grid:
    """Grid of a series: ``(columns, rows, slices)`` placed in RAS+ mm, or flat ``(rows, columns)``.

    Raises:
        GeometryError: The slices do not make a regular, upright, complete volume.
    """
    frames = series.frames
    first = frames[0]
    rows, columns = int(first.header.Rows), int(first.header.Columns)
    if not placed(frames) or first.colour:
        return flat_grid((rows, columns), first.spacing or _detector_spacing(first))
    if first.spacing is None:
        raise GeometryError(
            "expected PixelSpacing in every slice",
            where=first.path,
            fix="export the series again with its geometry",
            code="dicom-spacing",
        )
    for frame in frames:
        if frame.spacing is None or np.abs(np.subtract(frame.spacing, first.spacing)).max() > 1e-3:
            raise GeometryError(
                f"PixelSpacing {frame.spacing} differs from {first.spacing} of the first slice",
                where=frame.path,
                fix="the files belong to different acquisitions; sort them apart",
                code="dicom-spacing",
            )
    affine = np.eye(4)
    along_row, along_column = np.asarray(first.orientation)
    affine[:3, 0] = along_row * first.spacing[1]
    affine[:3, 1] = along_column * first.spacing[0]
    affine[:3, 2] = _slice_step(series)
    affine[:3, 3] = np.asarray(first.position)
    return Grid((columns, rows, len(frames)), LPS_TO_RAS @ affine)


def _slice_step(series: Series) -> FloatArray:
    """Vector from one slice to the next, LPS mm, after every check on the positions."""
    frames, normal = series.frames, normal_of(series.frames)
    if len(frames) == 1:
        # one slice has no neighbour: its thickness is all that is known of its extent
        thickness = float(frames[0].header.get("SliceThickness") or 0)
        return np.asarray(normal * (thickness if thickness > 0 else 1.0))
    positions = np.array([frame.position for frame in frames])
    along = positions @ normal
    gaps = np.diff(along)
    # the lower median, so that one wide gap of two is not taken for the usual one
    usual = float(np.percentile(gaps, 50, method="lower"))
    _refuse_doubled(frames, along, gaps)
    _refuse_gaps(frames, along, gaps, usual)
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    drift = positions - positions[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(drift, axis=1).max() > TILT_TOLERANCE * (along[-1] - along[0]):
        raise GeometryError(
            "slices are shifted sideways against each other (gantry tilt)",
            where=frames[0].path.parent,
            fix="resample the series to upright slices first",
            code="dicom-tilt",
        )
    off = np.abs(along - along[0] - np.arange(len(frames)) * float(step @ normal))
    if off.max() > SPACING_TOLERANCE * usual:
        at = int(off.argmax())
        raise GeometryError(
            f"slices are unevenly spaced: {gaps.min():.3f} to {gaps.max():.3f} mm; "
            f"{frames[at].path.name} is {off[at]:.3f} mm off its place",
            where=frames[at].path,
            fix="resample the series to even slices first",
            code="dicom-uneven",
        )
    return np.asarray(step)


def _refuse_doubled(frames: tuple[Frame, ...], along: FloatArray, gaps: FloatArray) -> None:
    at = int(gaps.argmin())
    if gaps[at] < SAME_PLACE_MM:
        raise GeometryError(
            f"{_name(frames[at])} and {_name(frames[at + 1])} differ, but lie at one place "
            f"({along[at]:.2f} mm along the normal)",
            where=frames[at + 1].path,
            fix="find out which is right and take the other out",
            code="dicom-duplicate",
        )


def _refuse_gaps(
    frames: tuple[Frame, ...], along: FloatArray, gaps: FloatArray, usual: float
) -> None:
    wide = np.flatnonzero(gaps > 1.5 * usual)
    if wide.size:
        at = int(wide[0])
        raise GeometryError(
            f"{round(gaps[at] / usual) - 1} slice(s) missing between {_name(frames[at])} and "
            f"{_name(frames[at + 1])}: {gaps[at]:.2f} mm from {along[at]:.2f} to "
            f"{along[at + 1]:.2f} mm along the normal, elsewhere {usual:.2f} mm"
            + (f" ({wide.size} such gaps)" if wide.size > 1 else ""),
            where=frames[at].path.parent,
            fix="fetch the missing slices; a volume with a gap is not read",
            code="dicom-gap",
        )


def _name(frame: Frame) -> str:
    return frame.path.name + (f" frame {frame.index + 1}" if frame.count > 1 else "")


def _detector_spacing(frame: Frame) -> tuple[float, float] | None:
    for name in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        value = frame.header.get(name)
        if value and len(value) == 2 and min(map(float, value)) > 0:
            return float(value[0]), float(value[1])
    return None
