"""Readers: one file a format family. Geometry is never guessed and never lost.

What a file is, its bytes say; its name matters only for writing. A folder is a DICOM series. A
tuple of files is a stack of slices in that order, or, if they are DICOM, the files of one series.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from delineate.core.case import STRICT, Colour, Masks, Reading, Source
from delineate.core.errors import GeometryError, OutputError, ReadError
from delineate.core.image import Grid, Image, flat_grid
from delineate.data.readers._common import parsing
from delineate.data.readers._masks import numbered, unite
from delineate.data.readers._placing import onto, union

__all__ = [
    "label_names", "onto", "probe", "read", "read_label", "union", "write",
]  # fmt: skip

#: Extension -> member that writes it.
_WRITERS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "itk",
    ".mha": "itk",
    ".png": "raster",
    ".tif": "raster",
    ".tiff": "raster",
}


def read(source: Source, reading: Reading = STRICT) -> Image:
    """Read an image in its file's own orientation.

    Args:
        source: A file, a folder of one DICOM series, or a stack of slices in order.
        reading: What the user has decided where a file leaves a choice.

    Returns:
        float32 ``(C, I, J, K)`` or ``(C, I, J)``, affine to RAS+ mm. NaN voxels are left; see
        ``require_finite``. ``meta["notes"]`` tells what was done on reading.

    Raises:
        ReadError: Damaged, foreign or unsafe file.
        GeometryError: The geometry is absent, invalid or contradicts itself.
        MissingExtraError: A codec is not installed.
    """
    if isinstance(source, tuple) and not _is_dicom(source):
        return _stack([read(path, reading) for path in source], source)
    member, choices = _member(source, reading)
    image: Image = member.read(source, **choices)
    return _coloured(image, reading.colour, source)


def read_label(source: Source, reading: Reading = STRICT, grid: Grid | None = None) -> Image:
    """Read a label map as integers ``(1, *S)``, values as stored.

    Where the file names its structures (DICOM SEG, ``.seg.nrrd``), ``meta["names"]`` says which
    value is which: in another file it may be another. ``Schema.to_index`` takes both.

    Args:
        source: As in ``read``.
        reading: As in ``read``.
        grid: Of the image, for formats that leave out what is empty: they are brought onto it.

    Raises:
        LabelError: Values are not whole numbers, there is more than one channel, or segments
            overlap.
        ReadError: As in ``read``.
        GeometryError: As in ``read``.
        MissingExtraError: As in ``read``.
    """
    if isinstance(source, Masks):
        return unite([read_label(path, reading, grid) for path in source], source)
    if isinstance(source, tuple) and not _is_dicom(source):
        return _stack([read_label(path, reading) for path in source], source)
    member, choices = _member(source, reading)
    if grid is not None and member.__name__.endswith(".dicom"):
        choices["grid"] = grid
    image: Image = member.read_label(source, **choices)
    return image if grid is None else onto(image, grid, _first(source))


def _first(source: Source) -> Path:
    return source[0] if isinstance(source, tuple) else source


def label_names(source: Source) -> dict[int, str] | None:
    """Value -> structure, from the header alone; None where the file does not name any.

    Raises:
        LabelError: The header contradicts itself.
        ReadError: As in ``read``, so far as the header shows it.
    """
    if isinstance(source, Masks):
        names_by_mask = [label_names(path) for path in source]
        return (
            {n: name for name, n in numbered(names_by_mask).items()} if any(names_by_mask) else None
        )
    if isinstance(source, tuple) and not _is_dicom(source):
        return None
    member, _ = _member(source, STRICT)
    names: dict[int, str] | None = None
    if hasattr(member, "label_names"):
        names = member.label_names(source)
    return names


def probe(source: Source, reading: Reading = STRICT) -> tuple[Grid, int]:
    """Grid and number of channels that ``read`` would give, from the headers alone.

    Raises:
        ReadError: As in ``read``, so far as the header shows it.
        GeometryError: As in ``read``.
    """
    if isinstance(source, Masks):
        return probe(source[0], reading)
    if isinstance(source, tuple) and not _is_dicom(source):
        slices = [probe(path, reading) for path in source]
        _agree([(channels, *grid.shape) for grid, channels in slices], source)
        return _stack_grid(slices[0][0], len(slices)), slices[0][1]
    member, choices = _member(source, reading)
    grid, channels = member.probe(source, **choices)
    if reading.colour and _is_picture(member.__name__, grid) and channels in (1, 3):
        return grid, 1 if reading.colour == "grey" else 3
    return grid, channels


def write(path: Path, image: Image) -> None:
    """Write an image or a label map in the type of its array; a half file is never seen.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha``; flat images also ``.png`` and ``.tif``.
        image: ``(C, *S)``.

    Raises:
        OutputError: Unknown extension, a format that would lose something, or a full disk.
    """
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    if suffix not in _WRITERS:
        raise OutputError(
            f"expected one of {', '.join(_WRITERS)}, got {suffix or 'no extension'!r}",
            where=path,
            fix="choose another extension" + ("; JPEG is lossy" if suffix[:3] == ".jp" else ""),
            code="output-format",
        )
    _load(_WRITERS[suffix]).write(path, image)


def _load(name: str) -> ModuleType:
    # each member pulls in its own library, so only the one that is needed is imported
    from importlib import import_module

    return import_module(f"delineate.data.readers.{name}")


def _member(source: Source, reading: Reading) -> tuple[ModuleType, dict[str, Any]]:
    """What reads a source, and the choices that it is given."""
    name = "dicom" if isinstance(source, tuple) or source.is_dir() else _kind(source)
    return _load(name), {"geometry": reading.geometry} if name == "nifti" else {}


def _kind(path: Path) -> str:
    """Which member reads the file, by its first bytes."""
    with parsing(path, "image", "unreadable"), path.open("rb") as stream:
        start = stream.read(352)
    if not start:
        raise ReadError("the file is empty", where=path, fix="fetch it again", code="empty-file")
    if start[128:132] == b"DICM":
        return "dicom"
    if start[:8] == b"\x89PNG\r\n\x1a\n" or start[:3] == b"\xff\xd8\xff" or start[:2] == b"BM":
        return "raster"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "raster"
    if start[:4] == b"NRRD" or start.lstrip()[:10] in (b"ObjectType", b"NDims = 3", b"NDims = 2"):
        return "itk"
    if start[:2] == b"\x1f\x8b" or start[344:346] in (b"n+", b"ni") or start[4:6] in (b"n+", b"ni"):
        return "nifti"
    suffixes = path.name.lower()
    for ends, name in (
        ((".nii", ".nii.gz", ".hdr"), "nifti"),
        ((".dcm", ".dicom", ".ima"), "dicom"),
        ((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), "raster"),
        ((".nrrd", ".nhdr", ".mha", ".mhd"), "itk"),
    ):
        if suffixes.endswith(ends):
            return name  # its reader says what is wrong
    raise ReadError(
        "not an image that can be read: neither NIfTI, DICOM, NRRD, MetaImage, PNG, JPEG, TIFF "
        "nor BMP by its first bytes",
        where=path,
        fix="convert it to .nii.gz",
        code="unknown-format",
    )


def _is_dicom(source: tuple[Path, ...]) -> bool:
    if not source:
        raise ReadError("expected at least one file, got none", code="empty-source")
    return _kind(source[0]) == "dicom"


def _is_picture(member: str, grid: Grid) -> bool:
    return member.endswith("raster") or (member.endswith("dicom") and grid.ndim == 2)


def _coloured(image: Image, colour: Colour | None, source: Source) -> Image:
    """A picture in the channels that its cohort has, if nothing is lost by it."""
    stored = image.meta.get("format")
    if not colour or stored in ("nifti", "itk") or (stored == "dicom" and image.grid.ndim == 3):
        return image
    if colour == "grey" and image.channels == 3:
        if not image.meta.get("grey"):
            raise ReadError(
                "expected a grey picture as the others are, got colours",
                where=source if isinstance(source, Path) else source[0],
                fix="leave it out, or turn it grey yourself",
                code="picture-colour",
            )
        array, note = image.array[:1], "three equal channels are read as one: grey"
    elif colour == "rgb" and image.channels == 1:
        array = np.repeat(image.array, 3, axis=0)
        note = "grey among colours: read as three equal channels"
    else:
        return image
    notes = (*image.meta.get("notes", ()), note)
    return Image(array, image.grid, image.history, {**image.meta, "notes": notes})


def _agree(shapes: list[tuple[int, ...]], source: tuple[Path, ...]) -> None:
    """Every slice must be flat and look like most of the others."""
    common = max(set(shapes), key=shapes.count)
    for path, shape in zip(source, shapes, strict=True):
        if shape != common:
            raise GeometryError(
                f"expected a slice of (channels, rows, columns) {common} as in "
                f"{shapes.count(common)} of {len(shapes)}, got {shape}",
                where=path,
                fix="take the odd slice out, or make it again in the common size",
                code="stack-shape",
            )
    if len(common) != 3:
        raise GeometryError(
            f"expected flat slices to stack, got shape {common}",
            where=source[0],
            fix="give volumes one by one",
            code="stack-shape",
        )


def _stack_grid(first: Grid, count: int) -> Grid:
    # how far apart the slices lie is not known, so no spacing is
    return flat_grid((*first.shape, count))


def _stack(slices: list[Image], source: tuple[Path, ...]) -> Image:
    _agree([image.array.shape for image in slices], source)
    array = np.stack([image.array for image in slices], axis=-1)
    meta = {**slices[0].meta, "slices": len(slices)}
    meta["notes"] = tuple(dict.fromkeys(n for image in slices for n in image.meta.get("notes", ())))
    if "grey" in meta:
        meta["grey"] = all(image.meta["grey"] for image in slices)
    return Image(array, _stack_grid(slices[0].grid, len(slices)), meta=meta)
