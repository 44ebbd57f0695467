"""NRRD and MetaImage (``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``) through SimpleITK.

SimpleITK parses and decodes. Sizes, byte counts and checksums are compared here first, because
ITK returns wrong voxels for a compressed MetaImage with damaged bytes. Volumes come out as
``(C, I, J, K)`` with ``I`` the fastest axis of the file, LPS turned to RAS. Flat images come out
as ``(C, I, J)`` with ``I`` the row, as pictures do.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from delineate.core.errors import GeometryError, OutputError, ReadError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers import _seg_nrrd
from delineate.data.readers._common import (
    MAX_CHANNELS,
    check_size,
    one_channel,
    parsing,
    replace_file,
    storable,
)
from delineate.data.readers._label_values import lossless, whole

sitk: Any = SimpleITK  # its functions carry no types

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Key under which it is written what the image does not know of itself.
_UNKNOWN = "delineate_unknown"
#: A text header longer than this is not a header.
_MAX_HEADER = 2**20


@dataclass(frozen=True)
class _Layout:
    """What the text header says of the bytes after it."""

    data: Path
    offset: int
    packed: str  # "", "gzip" or "zlib"
    oriented: bool
    spacing_known: bool


def read(path: Path) -> Image:
    """Read an image as float32 ``(C, I, J, K)``, or ``(C, I, J)`` for a flat one.

    Raises:
        ReadError: Damaged, truncated, too large, complex, or of more than three dimensions.
        GeometryError: The directions cannot be inverted.
    """
    array, grid, meta = _load(path)
    return Image(array.astype(np.float32), grid, meta=meta)


def read_label(path: Path) -> Image:
    """Read a label map as ``(1, *S)`` integers; of a ``.seg.nrrd``, ``meta["names"]`` too.

    Raises:
        LabelError: More than one channel, values that are not whole numbers, or segments that
            overlap.
        ReadError: As in ``read``.
        GeometryError: As in ``read``.
    """
    array, grid, meta = _load(path)
    segments, layers = _seg_nrrd.segments(path)
    if not segments:
        one_channel(len(array), path)
        array, notes = whole(array, path)
        array, _ = lossless(array, False, path)
        return Image(array, grid, meta={**meta, "notes": (*meta["notes"], *notes)})
    array, notes = whole(array, path)
    array = array if layers == 1 else _seg_nrrd.merge(array, segments, path)
    one_channel(len(array), path)
    meta |= {"names": _seg_nrrd.names(segments, layers), "partial": True}
    meta["notes"] = (*meta["notes"], *notes)
    return Image(array, grid, meta=meta)


def label_names(path: Path) -> dict[int, str] | None:
    """Value -> name of the segments of a ``.seg.nrrd``, from the header alone; None elsewhere."""
    return _seg_nrrd.names(*_seg_nrrd.segments(path))


def probe(path: Path) -> tuple[Grid, int]:
    """Grid and number of channels, from the header alone."""
    with parsing(path, "NRRD or MetaImage", "itk-damaged"):
        reader, layout = _open(path)
        return _grid(reader, layout, path), int(reader.GetNumberOfComponents())


def write(path: Path, image: Image) -> None:
    """Write ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd``, compressed and atomically."""
    if path.suffix.lower() in (".nhdr", ".mhd"):
        raise OutputError(
            f"{path.suffix} would be two files, which cannot be replaced at once",
            where=path,
            fix="write .nrrd or .mha",
            code="output-format",
        )
    flat = image.grid.ndim == 2
    array = np.moveaxis(storable(image.array, path), 0, -1)
    array = array if flat else array.transpose(2, 1, 0, 3)
    several_channels = image.channels > 1
    out = sitk.GetImageFromArray(
        np.ascontiguousarray(array if several_channels else array[..., 0]), several_channels
    )
    spacing = image.spacing_mm
    if flat:
        out.SetSpacing(spacing[::-1])
    else:
        affine = _LPS_TO_RAS @ image.grid.affine
        out.SetSpacing(spacing)
        out.SetOrigin(affine[:3, 3].tolist())
        try:
            out.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        except RuntimeError as error:
            raise OutputError(f"the affine cannot be stored: {error}", where=path) from error
    unknown = [
        name
        for name, known in (
            ("orientation", image.grid.oriented or flat),
            ("spacing", image.grid.spacing_known),
        )
        if not known
    ]
    if unknown:
        out.SetMetaData(_UNKNOWN, " ".join(unknown))
    replace_file(path, lambda temporary: sitk.WriteImage(out, str(temporary), True))


def _load(path: Path) -> tuple[NDArray[Any], Grid, dict[str, Any]]:
    """Values ``(C, *S)`` as stored, after every check."""
    with parsing(path, "NRRD or MetaImage", "itk-damaged"):
        reader, layout = _open(path)
        grid = _grid(reader, layout, path)
        _check_payload(reader, layout, path)
        shape = reader.GetSize()
        if len(shape) > 3:
            reader.SetExtractSize([*shape[:3], *[0] * (len(shape) - 3)])
        notes = (f"singleton axes of {shape} dropped",) if len(shape) > 3 else ()
        image = reader.Execute()
        array = sitk.GetArrayFromImage(image)  # (K, J, I[, C]) or (J, I[, C])
        array = array if image.GetNumberOfComponentsPerPixel() > 1 else array[..., None]
        order = (2, 0, 1) if grid.ndim == 2 else (3, 2, 1, 0)
        return np.ascontiguousarray(array.transpose(order)), grid, {"format": "itk", "notes": notes}


def _open(path: Path) -> tuple[Any, _Layout]:
    with path.open("rb") as stream:
        start = stream.read(_MAX_HEADER)
    is_nrrd = start.startswith(b"NRRD")
    layout = _nrrd(start, path) if is_nrrd else _metaimage(start, path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    channels = reader.GetNumberOfComponents()
    volume = reader.GetDimension() >= 2 and set(reader.GetSize()[3:]) <= {1}
    if not volume or channels > MAX_CHANNELS or "complex" in kind:
        raise ReadError(
            f"expected 2 or 3 dimensions and up to {MAX_CHANNELS} real channels, "
            f"got {reader.GetSize()}, {channels} x {kind}",
            where=path,
            fix="split a time series into volumes; store the magnitude of complex data",
            code="itk-4d",
        )
    return reader, layout


def _expected(reader: Any) -> tuple[int, int]:
    """Values and bytes that the header announces."""
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    bits = re.search(r"(\d+)-bit", kind)
    values = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    return values, values * (int(bits.group(1)) // 8 if bits else 8)


def _grid(reader: Any, layout: _Layout, path: Path) -> Grid:
    values, size = _expected(reader)
    on_disk = layout.data.stat().st_size if layout.data.is_file() else 0
    check_size(values, size, on_disk if layout.packed else None, path)
    ndim = reader.GetDimension()
    spacing, shape = np.array(reader.GetSpacing()[:3]), reader.GetSize()[:3]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GeometryError(
            f"expected positive voxel sizes, got {spacing.tolist()}",
            where=path,
            fix="write the true voxel size into the header",
            code="itk-spacing",
        )
    unknown = reader.GetMetaData(_UNKNOWN) if reader.HasMetaDataKey(_UNKNOWN) else ""
    known = layout.spacing_known and "spacing" not in unknown
    if len(shape) == 2:
        return flat_grid(shape[::-1], tuple(spacing[::-1]) if known else None)
    affine = np.eye(4)
    affine[:3, :3] = np.array(reader.GetDirection()).reshape(ndim, ndim)[:3, :3] * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    return Grid(
        shape,
        _LPS_TO_RAS @ affine,
        oriented=layout.oriented and "orientation" not in unknown,
        spacing_known=known,
    )


def _fields(text: str, separator: str) -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in text.splitlines() if separator in line)
    return {key.strip().lower(): value.strip() for key, value in pairs if key[0] != "#"}


def _nrrd(start: bytes, path: Path) -> _Layout:
    end = re.search(rb"\r?\n\r?\n", start)
    text = start[: end.start() if end else None].decode("utf-8", "replace")
    fields = _fields(text.replace(":=", "="), ":")
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ReadError(
            f"expected encoding raw or gzip, got {encoding}",
            where=path,
            fix="store the file again with gzip encoding",
            code="itk-encoding",
        )
    if {"line skip", "lineskip", "byte skip", "byteskip"} & fields.keys():
        raise ReadError(
            "bytes are to be skipped before the voxels, so their number cannot be checked",
            where=path,
            fix="store the file again without line skip and byte skip",
            code="itk-encoding",
        )
    detached = fields.get("data file", fields.get("datafile", ""))
    if not detached and end is None:
        raise ReadError("the header does not end", where=path, code="itk-damaged")
    placed = "space directions" in fields
    return _Layout(
        _beside(path, detached) if detached else path,
        0 if detached or end is None else end.end(),
        "" if encoding == "raw" else "gzip",
        oriented=placed and "space" in fields,
        spacing_known=placed or "spacings" in fields,
    )


def _metaimage(start: bytes, path: Path) -> _Layout:
    end = re.search(rb"ElementDataFile[ \t]*=[^\n]*\n?", start)
    if end is None or b"\0" in start[: end.start()]:
        raise ReadError(
            "expected a MetaImage header ending in ElementDataFile, got other bytes",
            where=path,
            code="itk-damaged",
        )
    fields = _fields(start[: end.end()].decode("utf-8", "replace"), "=")
    if fields.get("headersize", "0") != "0" or fields.get("binarydata", "True").lower() == "false":
        raise ReadError(
            "expected binary voxels right after the header",
            where=path,
            fix="store the file again as .mha",
            code="itk-encoding",
        )
    local = fields["elementdatafile"].upper() == "LOCAL"
    return _Layout(
        path if local else _beside(path, fields["elementdatafile"]),
        end.end() if local else 0,
        "zlib" if fields.get("compresseddata", "False").lower() == "true" else "",
        oriented=bool({"transformmatrix", "rotation", "orientation"} & fields.keys()),
        spacing_known=bool({"elementspacing", "elementsize"} & fields.keys()),
    )


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names; it must lie in the header's own folder."""
    if not name or Path(name).name != name or name.upper().startswith("LIST") or "%" in name:
        raise ReadError(
            f"expected one file of voxels beside the header, got {name!r}",
            where=path,
            fix="store header and voxels in one file: .nrrd or .mha",
            code="itk-detached",
        )
    data = path.parent / name
    if data.is_symlink() or not data.is_file():
        raise ReadError(
            f"the file of voxels {name!r} is not beside the header",
            where=path,
            fix="fetch both files",
            code="itk-detached",
        )
    return data


def _check_payload(reader: Any, layout: _Layout, path: Path) -> None:
    """Compare the number of bytes, and the checksum of compressed ones, with the header."""
    _, expected = _expected(reader)
    if layout.packed:
        got = _unpacked_size(layout, expected, path)
    else:
        got = layout.data.stat().st_size - layout.offset
    if got != expected:
        raise ReadError(
            f"{'truncated' if got < expected else 'too long'}: expected {expected:,} bytes of "
            f"voxels by the header, got {got:,}",
            where=path,
            fix="fetch the file again",
            code="itk-truncated" if got < expected else "itk-length",
        )


def _unpacked_size(layout: _Layout, expected: int, path: Path) -> int:
    """Bytes of a compressed payload; zlib compares the checksum at its end."""
    # 47: gzip or zlib header, whichever is there
    unpacker, size = zlib.decompressobj(wbits=47), 0
    with layout.data.open("rb") as stream:
        stream.seek(layout.offset)
        while not unpacker.eof and size <= expected:
            piece = unpacker.unconsumed_tail or stream.read(2**20)
            if not piece:
                raise ReadError(
                    "truncated: the compressed voxels end early",
                    where=path,
                    fix="fetch the file again",
                    code="itk-truncated",
                )
            size += len(unpacker.decompress(piece, 2**22))
    return size
