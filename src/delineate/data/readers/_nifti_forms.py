"""sform and qform of a NIfTI header: where each puts the voxels, and which of them is followed.

The qform keeps b, c and d of a unit quaternion in 32 bits, and a = sqrt(1 - b² - c² - d²) is not
stored. Near a half turn a is the root of a rounding error, so that an exact sform and the qform of
the same image may lie a millimetre apart. Such a gap contradicts nothing, and the sform is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from delineate.core.case import Geometry
from delineate.core.errors import GeometryError
from delineate.core.image import TOLERANCE_MM, FloatArray, slack_mm

#: b, c and d may be off by this much: four steps of a 32-bit float below 1.
_STEP = 4 * float(np.finfo(np.float32).eps)
#: |a| below this cannot be told from 0, nor can its sign.
_UNSEEN = float(np.sqrt(4 * _STEP))
_turn: Any = nib.quaternions  # nibabel says nothing of its types


def place(
    raw: Any,
    shape: tuple[int, ...],
    path: Path,
    geometry: Geometry | Literal["any"] | None,
    notes: list[str],
) -> FloatArray | None:
    """The affine ``(4, 4)`` in the units of the header, None where neither form is set.

    Raises:
        GeometryError: The forms contradict each other, or the one to be followed is invalid.
    """
    sform = np.asarray(raw.get_sform(), float) if int(raw["sform_code"]) > 0 else None
    if int(raw["qform_code"]) <= 0:
        return sform
    if sform is not None and geometry in ("sform", "any"):
        _note_choice(sform, _qform(raw), shape, "sform", notes)
        return sform
    qform = _qform(raw)
    if qform is None:
        length = float(np.linalg.norm(_imaginary(raw)))
        raise GeometryError(
            f"the qform is invalid: its quaternion is {length:.6g} long, expected at most 1",
            where=path,
            fix="write the true affine into the header"
            + (", or choose the sform with --geometry sform" if sform is not None else ""),
            code="affine-invalid",
        )
    if sform is None:
        return qform
    if geometry == "qform":
        _note_choice(qform, sform, shape, "qform", notes)
        return qform
    gap = gap_mm(sform, qform, shape)
    if gap <= slack_mm(sform, shape):
        return sform
    if not np.isfinite(sform).all() or not _rounded(sform, raw, shape):
        raise GeometryError(
            f"sform and qform put the voxels up to {gap:.4g} mm apart",
            where=path,
            fix="find out which is right and choose it with --geometry sform or --geometry qform "
            '(in Python, geometry="sform"), or make them agree in the file',
            code="nifti-forms",
        )
    notes.append(f"placed by the sform; the qform is {gap:.2g} mm off by 32-bit rounding alone")
    return sform


def gap_mm(first: FloatArray, second: FloatArray, shape: tuple[int, ...]) -> float:
    """Largest distance between a corner voxel placed by two affines; NaN if one is not finite."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in (*shape, 1)[:3]], indexing="ij"))
    points = np.vstack([corners.reshape(3, -1), np.ones(8)])
    return float(np.linalg.norm(((first - second) @ points)[:3], axis=0).max())


def _note_choice(
    chosen: FloatArray,
    other: FloatArray | None,
    shape: tuple[int, ...],
    geometry: Geometry,
    notes: list[str],
) -> None:
    gap = np.nan if other is None else gap_mm(chosen, other, shape)
    if not gap <= TOLERANCE_MM:
        gap_in_words = f"{gap:.4g} mm away" if np.isfinite(gap) else "invalid"
        notes.append(f"placed by the {geometry} as asked; the other form is {gap_in_words}")


def _imaginary(raw: Any) -> FloatArray:
    return np.array([raw["quatern_b"], raw["quatern_c"], raw["quatern_d"]], float)


def _qform(raw: Any) -> FloatArray | None:
    """The affine of the qform, None where its quaternion is longer than rounding explains."""
    imaginary = _imaginary(raw)
    square = float(imaginary @ imaginary)
    if not square <= (1 + 2 * _STEP) ** 2:
        return None
    quaternion = np.array([np.sqrt(max(0.0, 1 - square)), *imaginary])
    quaternion /= np.linalg.norm(quaternion)
    return _compose(raw, np.asarray(_turn.quat2mat(quaternion), float))


def _compose(raw: Any, rotation: FloatArray) -> FloatArray:
    """Affine of a rotation with the voxel size, handedness and offset that the header stores."""
    zooms = np.asarray(raw["pixdim"][1:4], float) * (1, 1, _handed(raw))
    affine = np.eye(4)
    affine[:3, :3] = rotation * zooms
    affine[:3, 3] = [float(raw[name]) for name in ("qoffset_x", "qoffset_y", "qoffset_z")]
    return affine


def _handed(raw: Any) -> float:
    return -1.0 if raw["pixdim"][0] < 0 else 1.0  # the standard: "if 0, take 1"


def _rounded(sform: FloatArray, raw: Any, shape: tuple[int, ...]) -> bool:
    """Whether the qform is the sform, but for the rounding of its quaternion."""
    zooms = np.linalg.norm(sform[:3, :3], axis=0)
    if not zooms.all() or np.linalg.det(sform[:3, :3]) * _handed(raw) <= 0:
        return False
    left, _, right = np.linalg.svd(sform[:3, :3] / zooms * (1, 1, _handed(raw)))
    rotation = left @ right  # the nearest: an sform is rounded too
    if gap_mm(sform, _compose(raw, rotation), shape) > slack_mm(sform, shape):
        return False  # another voxel size, another place, or a shear
    a, *exact = _turn.mat2quat(rotation)
    exact, stored = np.array(exact) * (1 if a >= 0 else -1), _imaginary(raw)
    if np.abs(stored - exact).max() <= _STEP:
        return True
    unseen = abs(a) <= _UNSEEN and 1 - float(stored @ stored) <= _UNSEEN**2
    return bool(unseen and np.abs(stored + exact).max() <= _STEP)
