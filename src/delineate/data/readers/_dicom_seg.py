"""DICOM SEG: one label map from frames that each show a segment on a plane (PS3.3 A.51, A.95).

Frames come in any order and empty ones may be left out, so that every plane is placed by its own
position. Segments are numbered in their own file only; what they are, their labels say. BINARY and
LABELMAP are taken as they are, FRACTIONAL from one half up. Segments of several files of one image
are joined. Where segments of different names share a voxel, there is no one label map.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import iter_pixels

from delineate.core.errors import LabelError, ReadError
from delineate.core.image import Grid, Image
from delineate.data.readers._common import check_size, parsing, structure_name
from delineate.data.readers._dicom_frames import frames_of
from delineate.data.readers._dicom_grid import SPACING_TOLERANCE
from delineate.data.readers._dicom_seg_planes import lattice
from delineate.data.readers._dicom_values import require_codec

#: A fraction from which on a voxel belongs to its segment.
HALF = 0.5
#: What people and programs call a segment that nobody has named.
_UNNAMED = re.compile(r"Segment[ _]?\d+", re.I)
#: SegmentedPropertyType of what is no structure (SCT and DCM).
_BACKGROUND = ("125040", "Background")


@dataclass(frozen=True)
class Segment:
    """One segment of one file, and the value that it has in the label map."""

    number: int
    name: str
    value: int


@dataclass(frozen=True)
class _File:
    """A segmentation with its pixels unread."""

    path: Path
    header: pydicom.Dataset
    segments: dict[int, Segment]

    @property
    def kind(self) -> str:
        """BINARY, FRACTIONAL or LABELMAP."""
        return str(self.header.get("SegmentationType") or "BINARY")


def names(headers: Sequence[tuple[Path, pydicom.Dataset]]) -> dict[int, str] | None:
    """Value of the label map -> segment label, None where nobody has named a segment.

    Raises:
        LabelError: Segments without a number, or of one name in several files.
    """
    return _names(_files(headers))


def read(headers: Sequence[tuple[Path, pydicom.Dataset]], like: Grid | None = None) -> Image:
    """One label map ``(1, I, J, K)``, or ``(1, I, J)`` of segments without a place in the body.

    It reaches from the first plane to the last that the files hold, and ``meta["partial"]`` says
    so; see ``_placing.onto``.

    Args:
        headers: Files and their data sets without pixels.
        like: Of the image: its slice distance is that of planes too few to tell theirs.

    Raises:
        LabelError: Segments overlap, or frames show none.
        GeometryError: Planes that do not make one volume.
        ReadError: Damaged, or a whole-slide image.
        MissingExtraError: No codec is installed.
    """
    files = _files(headers)
    frames = [frames_of(file.path, file.header) for file in files]
    all_frames = list(itertools.chain(*frames))
    if not all(frames):
        raise ReadError(
            "truncated: a segmentation without Rows or Columns",
            where=next(
                f.path for f, file_frames in zip(files, frames, strict=True) if not file_frames
            ),
            fix="fetch the file again",
            code="dicom-truncated",
        )
    grid, places = lattice(all_frames, like)
    if all_frames[0].position is None:
        _refuse_loops(files)
    check_size(int(np.prod(grid.shape)), 2 * int(np.prod(grid.shape)), None, files[0].path)
    highest = max(s.value for file in files for s in file.segments.values())
    depth = 1 if grid.ndim == 2 else grid.shape[2]
    rows, columns = int(files[0].header.Rows), int(files[0].header.Columns)
    volume = np.zeros((depth, rows, columns), np.min_scalar_type(highest))
    place = iter(places)
    for file, file_frames in zip(files, frames, strict=True):
        with parsing(file.path, "DICOM SEG", "dicom-damaged"):
            for index, pixels in enumerate(_pixels(file)):
                _draw(volume[next(place)], pixels, file, index, files)
            if index + 1 != len(file_frames):
                raise ReadError(
                    f"expected {len(file_frames)} frames, got {index + 1}",
                    where=file.path,
                    fix="fetch the file again",
                    code="dicom-truncated",
                )
    labels = volume[0][None] if grid.ndim == 2 else volume.transpose(2, 1, 0)[None]
    meta = {
        "format": "dicom",
        "modality": "SEG",
        "series_uid": str(files[0].header.get("SeriesInstanceUID") or ""),
        "names": _names(files),
        "partial": True,
        "slack_mm": SPACING_TOLERANCE * grid.spacing_mm[-1] if grid.ndim == 3 else 0.0,
        "notes": _notes(files),
    }
    return Image(np.ascontiguousarray(labels), grid, meta=meta)


# ----------------------------------------------------------------------------------- segments


def _files(headers: Sequence[tuple[Path, pydicom.Dataset]]) -> list[_File]:
    files: list[_File] = []
    owners: dict[str, Path] = {}
    values = itertools.count(1)
    for path, header in headers:
        with parsing(path, "DICOM SEG", "dicom-damaged"):
            _refuse_slides(path, header)
            segments = {}
            for item in header.get("SegmentSequence") or ():
                number = int(item.SegmentNumber)
                if number and not _is_background(item):
                    value = number if len(headers) == 1 else next(values)
                    segments[number] = Segment(number, _name(item), value)
            if not segments:
                raise LabelError(
                    "expected segments, got a segmentation that lists none",
                    where=path,
                    fix="export the segmentation again",
                    code="label-segments",
                )
        for name in {segment.name for segment in segments.values()}:
            if name in owners:
                raise LabelError(
                    f"expected every structure in one file, got {name!r} in {owners[name].name} "
                    f"and {path.name}",
                    where=path,
                    fix="keep the segmentation that counts: nothing says which of the two does",
                    code="label-ambiguous",
                )
            owners[name] = path
        files.append(_File(path, header, segments))
    return files


def _name(item: pydicom.Dataset) -> str:
    for text in (item.get("SegmentLabel"), item.get("SegmentDescription")):
        if text and str(text).strip():
            return structure_name(str(text))
    kind = item.get("SegmentedPropertyTypeCodeSequence")
    return str(kind[0].get("CodeMeaning") or "").strip() if kind else ""


def _is_background(item: pydicom.Dataset) -> bool:
    kind = item.get("SegmentedPropertyTypeCodeSequence")
    return bool(kind) and str(kind[0].get("CodeValue") or "") in _BACKGROUND


def _names(files: Sequence[_File]) -> dict[int, str] | None:
    segments = [segment for file in files for segment in file.segments.values()]
    if all(not s.name or _UNNAMED.fullmatch(s.name) for s in segments):
        return None
    return {segment.value: segment.name for segment in segments}


def _notes(files: Sequence[_File]) -> tuple[str, ...]:
    notes = []
    if any(file.kind == "FRACTIONAL" for file in files):
        notes.append(f"fractions of {HALF:g} and more belong to their segment, smaller ones do not")
    labels = [segment.name for file in files for segment in file.segments.values()]
    if duplicates := sorted({name for name in labels if labels.count(name) > 1}):
        notes.append(f"segments of one name are taken as one structure: {', '.join(duplicates)}")
    return tuple(notes)


def _refuse_slides(path: Path, header: pydicom.Dataset) -> None:
    tiled = str(header.get("DimensionOrganizationType") or "").startswith("TILED")
    if tiled or header.get("TotalPixelMatrixRows") is not None:
        raise ReadError(
            "expected a segmentation of an image or a volume, got one of a whole-slide image",
            where=path,
            fix="cut tiles to PNG or TIFF",
            code="dicom-kind",
        )


# ------------------------------------------------------------------------------------- pixels


def _pixels(file: _File) -> Iterator[NDArray[Any]]:
    """Frames ``(rows, columns)`` as stored, one at a time: there may be a hundred segments."""
    dataset = pydicom.dcmread(file.path)
    if not dataset.get("PixelData"):
        raise ReadError(
            "truncated: the file has no pixels",
            where=file.path,
            fix="fetch the file again",
            code="dicom-truncated",
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
        needed = -(-size * int(dataset.get("NumberOfFrames") or 1) // 8)
        if len(dataset.PixelData) < needed:
            raise ReadError(
                f"truncated: expected {needed:,} bytes of pixels by the header, "
                f"got {len(dataset.PixelData):,}",
                where=file.path,
                fix="fetch the file again",
                code="dicom-truncated",
            )
        if int(dataset.BitsAllocated) == 1:
            yield from _bits(dataset)
            return
    require_codec(syntax, file.path)
    yield from iter_pixels(dataset, raw=True)


def _bits(dataset: pydicom.Dataset) -> Iterator[NDArray[np.uint8]]:
    """Frames of single bits, packed one after the other: a frame may begin within a byte."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    size = rows * columns
    for index in range(int(dataset.get("NumberOfFrames") or 1)):
        first, skip = divmod(index * size, 8)
        last = -(-(index + 1) * size // 8)
        bits = np.unpackbits(packed[first:last], bitorder="little")
        yield bits[skip : skip + size].reshape(rows, columns)


def _draw(
    plane: NDArray[Any], pixels: NDArray[Any], file: _File, index: int, files: Sequence[_File]
) -> None:
    """Write the segments of a frame into a slice ``(rows, columns)`` of the label map."""
    if file.kind == "LABELMAP":
        padding = file.header.get("PixelPaddingValue")
        numbers = [int(v) for v in np.unique(pixels) if v and (padding is None or v != padding)]
        masks = [(number, pixels == number) for number in numbers]
    else:
        threshold = 1
        if file.kind == "FRACTIONAL":
            threshold = int(np.ceil(HALF * int(file.header.get("MaximumFractionalValue") or 255)))
        masks = [(_number(file, index), pixels >= threshold)]
    listed = {int(s.SegmentNumber) for s in file.header.SegmentSequence}
    for number, mask in masks:
        segment = file.segments.get(number)
        if segment is None:
            if number in listed:
                continue  # background, by its own label
            raise LabelError(
                f"frame {index + 1} shows segment {number}, which the file does not list",
                where=file.path,
                fix="export the segmentation again",
                code="label-segments",
            )
        _refuse_overlap(plane[mask], segment, file, files)
        plane[mask] = segment.value


def _number(file: _File, index: int) -> int:
    """Segment that a frame shows."""
    groups = (file.header.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()])[index]
    shared = (file.header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    sequence = groups.get("SegmentIdentificationSequence") or shared.get(
        "SegmentIdentificationSequence"
    )
    if sequence:
        return int(sequence[0].ReferencedSegmentNumber)
    if len(file.segments) == 1:
        return next(iter(file.segments))
    raise LabelError(
        f"frame {index + 1} does not say which segment it shows",
        where=file.path,
        fix="export the segmentation again",
        code="label-segments",
    )


def _refuse_loops(files: Sequence[_File]) -> None:
    """Frames without a place in the body are of one picture only if each shows another segment."""
    for file in files:
        count = int(file.header.get("NumberOfFrames") or 1)
        numbers = [_number(file, index) for index in range(count)] if count > 1 else []
        if len(set(numbers)) < len(numbers) or (file.kind == "LABELMAP" and count > 1):
            raise ReadError(
                "expected one picture, got frames of a segment that do not say where they lie",
                where=file.path,
                fix="export one segmentation for each picture",
                code="dicom-kind",
            )


def _refuse_overlap(
    covered: NDArray[Any], segment: Segment, file: _File, files: Sequence[_File]
) -> None:
    for value in np.unique(covered).tolist() if covered.any() else ():
        other = next(
            (s for segmented in files for s in segmented.segments.values() if s.value == value),
            segment,
        )
        if value and (other.name != segment.name or not segment.name):
            raise LabelError(
                f"segments overlap: {other.name!r} ({other.number}) and {segment.name!r} "
                f"({segment.number}) share voxels",
                where=file.path,
                fix="a voxel has one label here: cut one segment out of the other and export again",
                code="label-overlap",
            )
