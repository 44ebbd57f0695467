"""Where the frames of a DICOM SEG lie: planes of one volume; empty ones may be left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom

from delineate.core.errors import GeometryError
from delineate.core.image import FloatArray, Grid, flat_grid
from delineate.data.readers._dicom_frames import Frame
from delineate.data.readers._dicom_grid import LPS_TO_RAS, SPACING_TOLERANCE, TILT_TOLERANCE

#: Planes of one volume agree in direction (cosine) and pixel size (mm) to this.
_TOLERANCE = 1e-3


def lattice(frames: Sequence[Frame], like: Grid | None) -> tuple[Grid, list[int]]:
    """The grid that holds every plane, and the slice of it that each frame lies on.

    Args:
        frames: Of all files.
        like: Of the image: its slice distance is that of planes too few to tell theirs.

    Raises:
        GeometryError: The planes do not make one volume.
    """
    first = frames[0]
    shape = (int(first.header.Rows), int(first.header.Columns))
    for frame in frames[1:]:
        _refuse_other_plane(frame, first, shape)
    if first.position is None or first.orientation is None:
        return flat_grid(shape, first.spacing), [0] * len(frames)
    if first.spacing is None:
        raise GeometryError(
            "expected PixelSpacing in every frame",
            where=first.path,
            fix="export the segmentation again with its geometry",
            code="dicom-spacing",
        )
    positions = np.array([frame.position for frame in frames])
    normal = np.cross(*first.orientation)
    normal /= np.linalg.norm(normal)
    along = positions @ normal
    step = _step(along, normal, first, like)
    places = np.rint((along - along.min()) / step).astype(int)
    lowest, highest = positions[along.argmin()], positions[along.argmax()]
    off = np.linalg.norm(positions - lowest - np.outer(along - along.min(), normal), axis=1)
    if off.max() > max(TILT_TOLERANCE * np.ptp(along), _TOLERANCE):
        raise GeometryError(
            "planes are shifted sideways against each other (gantry tilt)",
            where=first.path,
            fix="resample image and segmentation to upright slices first",
            code="dicom-tilt",
        )
    count = int(places.max()) + 1
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing[1]
    affine[:3, 1] = first.orientation[1] * first.spacing[0]
    affine[:3, 2] = (highest - lowest) / (count - 1) if count > 1 else normal * step
    affine[:3, 3] = lowest
    return Grid((shape[1], shape[0], count), LPS_TO_RAS @ affine), places.tolist()


def _refuse_other_plane(frame: Frame, first: Frame, shape: tuple[int, int]) -> None:
    pairs = {
        "orientation": (frame.orientation, first.orientation),
        "pixel size": (frame.spacing, first.spacing),
    }
    difference = next(
        (
            name
            for name, (value, first_value) in pairs.items()
            if value is not None and first_value is not None
            if np.abs(np.subtract(value, first_value)).max() > _TOLERANCE
        ),
        "",
    )
    if (int(frame.header.Rows), int(frame.header.Columns)) != shape:
        difference = "size"
    elif (frame.position is None) != (first.position is None):
        difference = "place in the body"
    elif frame.text("FrameOfReferenceUID") != first.text("FrameOfReferenceUID"):
        difference = "frame of reference"
    if difference:
        raise GeometryError(
            f"expected frames on the planes of one volume, got another {difference} in frame "
            f"{frame.index + 1}",
            where=frame.path,
            fix="export one segmentation for each image",
            code="dicom-planes",
        )


def _step(along: FloatArray, normal: FloatArray, first: Frame, like: Grid | None) -> float:
    """Distance between neighbouring slices, of which some may be left out, mm."""
    offsets = np.unique(np.round(along - along.min(), 4))
    gaps = np.diff(offsets)
    candidates = []
    if like is not None and like.ndim == 3:
        axes = like.affine[:3, :3] / like.spacing_mm
        across = int(np.abs(normal @ LPS_TO_RAS[:3, :3] @ axes).argmax())
        candidates.append(like.spacing_mm[across])
    shared = (first.header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    groups = first.header.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    measures = shared.get("PixelMeasuresSequence") or groups[0].get("PixelMeasuresSequence")
    if measures:
        candidates += [
            float(measures[0].get(n) or 0) for n in ("SpacingBetweenSlices", "SliceThickness")
        ]
    candidates = [mm for mm in candidates if mm > 0]
    if not gaps.size:
        return candidates[0] if candidates else 1.0
    for step in (*candidates, float(gaps.min())):
        if np.abs(offsets - np.rint(offsets / step) * step).max() <= SPACING_TOLERANCE * step:
            return step
    raise GeometryError(
        f"planes are unevenly spaced: {gaps.min():.3f} to {gaps.max():.3f} mm apart",
        where=first.path,
        fix="resample image and segmentation to even slices first",
        code="dicom-uneven",
    )
