"""The header of a NIfTI file: parsed by nibabel, checked here before any voxel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from delineate.core.case import Geometry
from delineate.core.errors import GeometryError, ReadError
from delineate.core.image import Grid
from delineate.data.readers._common import MAX_CHANNELS
from delineate.data.readers._nifti_forms import place

#: Written into ``descrip`` where the image does not say how it lies in the body.
UNORIENTED = b"delineate: orientation unknown"
#: ``xyzt_units & 7`` -> mm. 0 (not said) is taken as mm, as all readers do.
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True)
class Header:
    """What is known of the voxels before they are read."""

    shape: tuple[int, ...]  # as stored, without singleton axes after the third
    channels: int
    dtype: np.dtype[Any]
    offset: int
    size: int
    slope: float
    intercept: float
    grid: Grid
    notes: tuple[str, ...]


def parse(block: bytes, path: Path, geometry: Geometry | None) -> Header:
    """Check a header.

    Args:
        block: The first 544 bytes of the file, unpacked.
        path: The file, for messages.
        geometry: Which form places the voxels where that must be decided, see ``Reading``.

    Raises:
        ReadError: Foreign or damaged header, or data that is not one image.
        GeometryError: The affine is absent, singular, not finite or contradicts itself.
    """
    raw = _raw_header(block, path)
    ndim = int(raw["dim"][0])
    dims = [int(n) for n in raw["dim"][1 : ndim + 1]] if 1 <= ndim <= 7 else []
    if len(dims) < 2 or min(dims) < 1:
        raise ReadError(
            f"expected 2 to 7 positive dimensions, got dim = {raw['dim'].tolist()}",
            where=path,
            fix="the header is damaged; convert the file again from its source",
            code="nifti-dims",
        )
    notes = []
    if len(dims) > 3 and dims[-1] == 1:
        notes.append(f"singleton axes of {tuple(dims)} dropped")
    shape, extra = tuple(dims[:3]), [n for n in dims[3:] if n != 1]
    channels = extra[0] if extra else 1
    if len(extra) > 1 or channels > MAX_CHANNELS:
        raise ReadError(
            f"expected one volume of at most {MAX_CHANNELS} channels, got shape {tuple(dims)}",
            where=path,
            fix="split the time series or diffusion series into volumes and choose one",
            code="nifti-4d",
        )
    dtype, channels = _data_type(raw, channels, path)
    offset = _offset(raw, path)
    slope, intercept = _scaling(raw, path)
    values = math.prod(shape) * channels
    size = values * (1 if dtype.fields else dtype.itemsize)
    grid = _grid(raw, shape, path, geometry, notes)
    return Header(shape, channels, dtype, offset, size, slope, intercept, grid, tuple(notes))


def _raw_header(block: bytes, path: Path) -> Any:
    if not block:
        raise ReadError("the file is empty", where=path, fix="fetch it again", code="empty-file")
    sizes = {int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big")}
    if 348 in sizes and block[344:347] == b"n+1":
        nifti1: Any = nib.Nifti1Header
        return nifti1(block[:348], check=False)
    if 540 in sizes and block[4:8] == b"n+2\0" and len(block) >= 540:
        nifti2: Any = nib.Nifti2Header
        return nifti2(block[:540], check=False)
    if block[344:347] == b"ni1" or block[4:7] == b"ni2":
        raise ReadError(
            "expected a single file, got the header of a .hdr/.img pair",
            where=path,
            fix="convert the pair to one .nii.gz",
            code="nifti-pair",
        )
    raise ReadError(
        "expected a NIfTI-1 or NIfTI-2 header, got other bytes"
        + (" (Analyze 7.5 does not say left from right)" if 348 in sizes else ""),
        where=path,
        fix="convert the file to .nii.gz",
        code="nifti-magic",
    )


def _data_type(raw: Any, channels: int, path: Path) -> tuple[np.dtype[Any], int]:
    code = int(raw["datatype"])
    try:
        dtype = np.dtype(raw.get_data_dtype())
    except (nib.spatialimages.HeaderDataError, KeyError):
        dtype = np.dtype("V0")
    colours = len(dtype.fields) if dtype.fields else 0
    if (dtype.kind not in "iuf" and not colours) or (colours and channels > 1):
        raise ReadError(
            f"expected integers, floats or RGB, got datatype {code} ({dtype})",
            where=path,
            fix="store real numbers; for complex data, its magnitude",
            code="nifti-datatype",
        )
    if int(raw["bitpix"]) != dtype.itemsize * 8:
        raise ReadError(
            f"datatype {code} has {dtype.itemsize * 8} bits, but bitpix says {int(raw['bitpix'])}",
            where=path,
            fix="the header is damaged; convert the file again from its source",
            code="nifti-datatype",
        )
    return dtype, colours or channels


def _offset(raw: Any, path: Path) -> int:
    offset, lowest = float(raw["vox_offset"]), int(raw["sizeof_hdr"]) + 4
    if not (math.isfinite(offset) and offset >= lowest and offset == int(offset)):
        raise ReadError(
            f"expected vox_offset of at least {lowest}, got {offset:g}",
            where=path,
            fix="the header is damaged; convert the file again from its source",
            code="nifti-offset",
        )
    return int(offset)


def _scaling(raw: Any, path: Path) -> tuple[float, float]:
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if slope == 0.0:  # the standard's way to say "not scaled"
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ReadError(
            f"expected finite scl_slope and scl_inter, got {slope} and {intercept}",
            where=path,
            fix="set scl_slope to 1 and scl_inter to 0 if the values need no scaling",
            code="nifti-scaling",
        )
    return slope, intercept


def _grid(
    raw: Any, shape: tuple[int, ...], path: Path, geometry: Geometry | None, notes: list[str]
) -> Grid:
    pixdim = np.asarray(raw["pixdim"][1 : len(shape) + 1], float)
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise GeometryError(
            f"expected positive voxel sizes, got pixdim {pixdim.tolist()}",
            where=path,
            fix="write the true voxel size into the header",
            code="nifti-pixdim",
        )
    unit = _UNITS_MM.get(int(raw["xyzt_units"]) & 7)
    if unit is None:
        raise GeometryError(
            f"unknown unit of length: xyzt_units {int(raw['xyzt_units'])}",
            where=path,
            fix="write xyzt_units 2 (mm) into the header",
            code="nifti-units",
        )
    affine = place(raw, shape, path, geometry, notes)
    oriented = affine is not None and not bytes(raw["descrip"].item()).startswith(UNORIENTED)
    if affine is None:
        if geometry not in ("pixdim", "any"):
            raise GeometryError(
                "neither sform nor qform is set: the file does not say how the voxels lie",
                where=path,
                fix="set the affine, or take the voxel size alone with --geometry pixdim "
                '(in Python, geometry="pixdim")',
                code="nifti-no-affine",
            )
        affine = np.diag([*pixdim, *([1.0] * (4 - len(shape)))])
        notes.append("neither sform nor qform is set: voxel size alone, as asked")
    if unit != 1.0:
        affine[:3] *= unit
        notes.append(f"lengths converted to mm by {unit:g}")
    if len(shape) == 2 and not np.abs(affine[:3, 2]).any():
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(
            f"expected an affine that can be inverted, got {affine.tolist()}",
            where=path,
            fix="write the true affine into the header",
            code="affine-invalid",
        )
    # in float32 units of the header, "unknown" spacing is only what we wrote ourselves
    known = oriented or int(raw["xyzt_units"]) & 7 != 0
    return Grid(shape, affine, oriented=oriented, spacing_known=known)
