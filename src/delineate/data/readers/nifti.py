"""NIfTI-1 and NIfTI-2, single files (``.nii``, ``.nii.gz``).

nibabel parses the header; every check is ours, because bare readers load damaged files: wrong
gzip checksums, zero dimensions, non-finite slopes, and (ITK) volumes with half the voxels missing.
Axes come out as ``(C, I, J, K)`` in file order; the affine is the file's, in RAS+ mm.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from delineate.core.case import Geometry
from delineate.core.errors import OutputError, ReadError
from delineate.core.image import TOLERANCE_MM, Grid, Image
from delineate.data.readers._common import (
    check_size,
    one_channel,
    parsing,
    replace_file,
    storable,
)
from delineate.data.readers._label_values import lossless, unscaled, whole
from delineate.data.readers._nifti_forms import gap_mm
from delineate.data.readers._nifti_header import UNORIENTED, Header, parse

#: Zero bytes that may follow the voxels (some writers pad to a block).
MAX_PADDING = 4096


def read(path: Path, geometry: Geometry | None = None) -> Image:
    """Read an image.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        geometry: Which of sform and qform places the voxels where they contradict each other,
            or ``"pixdim"``: the voxel size alone where neither is set. By default such files are
            refused.

    Returns:
        ``(C, I, J, K)`` or ``(C, I, J)`` float32, scaled by ``scl_slope`` and ``scl_inter``.
        NaN voxels are left.

    Raises:
        ReadError: The file is damaged, foreign, too large or a time series.
        GeometryError: The affine is absent, singular, not finite or contradicts itself.
    """
    header, values = _load(path, geometry)
    array = np.empty(values.shape, np.float32)
    if (header.slope, header.intercept) == (1.0, 0.0):
        array[...] = values
    else:
        for channel, stored in zip(array, values, strict=True):
            channel[...] = stored * np.float64(header.slope) + header.intercept
    return Image(array, header.grid, meta={"format": "nifti", "notes": header.notes})


def read_label(path: Path, geometry: Geometry | None = None) -> Image:
    """Read a label map as ``(1, *S)`` integers; values are those of the file.

    Raises:
        LabelError: More than one channel, or values that are not whole numbers.
        ReadError: As in ``read``.
        GeometryError: As in ``read``.
    """
    header, values = _load(path, geometry)
    one_channel(header.channels, path)
    if (header.slope, header.intercept) != (1.0, 0.0):
        labels, notes = unscaled(values, header.slope, header.intercept, path)
    else:
        labels, notes = whole(values, path)
    labels, _ = lossless(labels, False, path)
    meta = {"format": "nifti", "notes": (*header.notes, *notes)}
    return Image(np.ascontiguousarray(labels), header.grid, meta=meta)


def probe(path: Path, geometry: Geometry | None = None) -> tuple[Grid, int]:
    """Grid and number of channels, from the header alone."""
    with parsing(path, "NIfTI", "nifti-damaged"), _open(path) as stream:
        header = parse(stream.read(544), path, geometry)
    _check_length(header, path)
    return header.grid, header.channels


def write(path: Path, image: Image) -> None:
    """Write an image or label map, atomically; the array keeps its type.

    sform (and qform, unless the affine is sheared) hold the affine. Channels become a fourth axis.
    """
    if image.channels > 1 and image.grid.ndim == 2:
        raise OutputError(
            "NIfTI cannot tell the channels of a flat image from slices",
            where=path,
            fix="write .png, .tif or .nrrd",
            code="output-format",
        )
    array = storable(image.array, path)
    array = array[0] if image.channels == 1 else np.moveaxis(array, 0, -1)
    kind: Any = nib.Nifti1Image if max(array.shape) < 2**15 else nib.Nifti2Image
    out = kind(array, None, dtype=array.dtype)
    code = 1 if image.grid.oriented else 2
    out.set_sform(image.grid.affine, code=code)
    out.set_qform(image.grid.affine, code=code, strip_shears=True)
    if gap_mm(out.get_qform(), out.get_sform(), image.grid.shape) > TOLERANCE_MM / 10:
        out.set_qform(None, code=0)  # sheared: only the sform can say so
    if not image.grid.oriented:
        out.header["descrip"] = UNORIENTED
    out.header["xyzt_units"] = 2 if image.grid.spacing_known else 0  # mm, not said
    data = out.to_bytes()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, compresslevel=3, mtime=0)  # the same image, the same bytes
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def _packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if _packed(path) else path.open("rb")


def _load(path: Path, geometry: Geometry | None) -> tuple[Header, NDArray[Any]]:
    """Header and stored values ``(C, *S)``, after every check."""
    with parsing(path, "NIfTI", "nifti-damaged"), _open(path) as stream:
        start = stream.read(544)
        header = parse(start, path, geometry)
        _check_length(header, path)
        file_size = header.offset + header.size
        data = bytearray(file_size)
        filled = len(start[:file_size])
        data[:filled] = start[:file_size]
        view = memoryview(data)
        while filled < file_size:
            piece = stream.read(min(file_size - filled, 2**24))
            if not piece:
                raise _truncated(filled, file_size, path)
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        # reading on to the end of the stream is what makes gzip compare its checksum
        tail = start[file_size:] + stream.read(MAX_PADDING + 1)
        if len(tail) > MAX_PADDING or any(tail):
            raise ReadError(
                f"expected {file_size:,} bytes after the header's shape and type, got more",
                where=path,
                fix="the header does not belong to these voxels; convert the file again",
                code="nifti-length",
            )
        values = np.frombuffer(data, header.dtype, offset=header.offset)
        if values.dtype.fields:  # RGB24, RGBA32
            values = values.view(np.uint8).reshape(-1, len(values.dtype.fields)).T.reshape(-1)
        stored = values.reshape((*header.shape, header.channels), order="F")
    return header, np.moveaxis(stored, -1, 0)


def _truncated(got: int, expected: int, path: Path) -> ReadError:
    return ReadError(
        f"truncated: expected {expected:,} bytes by the header, got {got:,}",
        where=path,
        fix="the copy or download was cut off; fetch the file again",
        code="nifti-truncated",
    )


def _check_length(header: Header, path: Path) -> None:
    expected = header.offset + header.size
    on_disk = path.stat().st_size
    packed = on_disk if _packed(path) else None
    check_size(math.prod(header.shape) * header.channels, expected, packed, path)
    if packed is None and on_disk < expected:
        raise _truncated(on_disk, expected, path)
