"""DICOM: series of single- or multi-frame files, single pictures, segmentations.

A series becomes ``(1, I, J, K)`` with ``I`` along a row, ``J`` along a column and ``K`` along the
slice normal, placed by ImagePositionPatient alone (never SliceThickness), LPS turned to RAS.
Pictures without a place in the body (CR, DX, US, photographs) become ``(C, I, J)`` with ``I`` the
row. Nothing is accepted before every slice is decoded. Errors name no patient.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import UID

from delineate.core.errors import LabelError, ReadError
from delineate.core.image import Grid, Image
from delineate.data.readers import _dicom_seg
from delineate.data.readers._common import check_size
from delineate.data.readers._dicom_frames import SEGMENTATION, Frame, open_header
from delineate.data.readers._dicom_grid import grid_of
from delineate.data.readers._dicom_phases import placed
from delineate.data.readers._dicom_series import Series, files_of, find_series
from delineate.data.readers._dicom_values import decode, is_lossy, suv_factor

__all__ = ["Series", "find_series", "label_names", "probe", "read", "read_label"]

_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def read(source: Path | tuple[Path, ...] | Series) -> Image:
    """Read one series.

    Args:
        source: A folder or files that hold one series of images, or one of ``find_series``.

    Returns:
        float32, rescaled (CT in HU, PET in SUVbw where the tags allow). ``meta`` holds
        ``modality``, ``series_uid``, ``instances`` (SOPInstanceUID of each frame, in order),
        ``units``, ``lossy``, ``inverted`` and ``notes``.

    Raises:
        ReadError: Damaged, several series or patients, or an object that is not a plain image.
        GeometryError: Slices missing, doubled, tilted or unevenly spaced.
        MissingExtraError: A codec is not installed.
    """
    series = _single_series(source)
    grid = grid_of(series)
    first = series.frames[0]
    values = grid.shape[0] * grid.shape[1] * len(series.frames)
    check_size(values, 4 * values, None, first.path)
    array = _pixels(series, grid)
    notes = list(series.notes)
    inverted = first.text("PhotometricInterpretation") == "MONOCHROME1"
    if inverted:
        notes.append("MONOCHROME1 inverted: higher is brighter")
    if first.spacing is None and grid.spacing_known:
        notes.append("spacing is that of the detector, not of the body")
    if grid.ndim == 3 and len(series.frames) == 1:
        notes.append("a single slice: its thickness stands for the slice spacing")
    lossy = any(is_lossy(frame.header) for frame in series.frames)
    if lossy:
        notes.append("the pixels were once compressed with loss")
    meta = {
        "format": "dicom",
        "modality": series.modality,
        "series_uid": series.uid,
        "instances": tuple(frame.uid for frame in series.frames),
        "lossy": lossy,
        "inverted": inverted,
        "units": _units(series, array, notes),
        "notes": tuple(notes),
    }
    if len(array) == 3:
        meta["grey"] = bool((array == array[:1]).all())
    return Image(array, grid, meta=meta)


def read_label(source: Path | tuple[Path, ...], grid: Grid | None = None) -> Image:
    """Read DICOM SEG as ``(1, I, J, K)`` segment numbers; ``meta["names"]`` are their labels.

    Args:
        source: A file, or a folder or files with segmentations of one image and nothing else.
        grid: Of the image; see ``_dicom_seg.read``.

    Raises:
        LabelError: Not a segmentation, or segments that overlap.
        ReadError: As in ``read``.
        GeometryError: As in ``read``.
        MissingExtraError: As in ``read``.
    """
    return _dicom_seg.read(_segmentations(source), grid)


def label_names(source: Path | tuple[Path, ...]) -> dict[int, str] | None:
    """Value -> segment label, from the headers alone; None where nobody has named a segment.

    Raises:
        LabelError: Not a segmentation.
        ReadError: As in ``read``.
    """
    return _dicom_seg.names(_segmentations(source))


def probe(source: Path | tuple[Path, ...] | Series) -> tuple[Grid, int]:
    """Grid and number of channels, from the headers alone."""
    series = _single_series(source)
    return grid_of(series), 3 if series.frames[0].colour else 1


def _segmentations(source: Path | tuple[Path, ...]) -> list[tuple[Path, pydicom.Dataset]]:
    """Files of a source that are segmentations, if all are."""
    segmentations, others = [], []
    for path in files_of(source):
        header = open_header(path)
        if header is None:
            continue
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if kind in SEGMENTATION:
            segmentations.append((path, header))
        else:
            others.append(f"{path.name} ({UID(kind).name if kind else 'an unknown object'})")
    if others or not segmentations:
        listed = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        raise LabelError(
            f"expected DICOM segmentations (SEG), got {listed or 'none'}",
            where=_where(source),
            fix="give a SEG file, or the label map as .nii.gz",
            code="label-dicom",
        )
    return segmentations


def _where(source: Path | tuple[Path, ...]) -> Path:
    return source[0].parent if isinstance(source, tuple) else source


def _single_series(source: Path | tuple[Path, ...] | Series) -> Series:
    """The only series of a source, if it is a plain image."""
    if isinstance(source, Series):
        _refuse_other_objects(source)
        return source
    where, candidates = _where(source), find_series(source)
    if not candidates:
        raise ReadError(
            "expected DICOM images, found none (reports, plans and directories hold no pixels)",
            where=where,
            fix="give the folder that holds the slices of one series",
            code="dicom-no-image",
        )
    patients = {series.patient for series in candidates}
    if len(patients) > 1:
        raise ReadError(
            f"expected one patient, found the files of {len(patients)}",
            where=where,
            fix="sort the files into one folder for each patient",
            code="dicom-patients",
        )
    if len(candidates) > 1:
        listed = "; ".join(str(series) for series in candidates[:8])
        raise ReadError(
            f"expected one volume, found {len(candidates)}: "
            f"{listed}{' …' if candidates[8:] else ''}",
            where=where,
            fix="give the files of one of them, or choose with dicom.find_series",
            code="dicom-several",
        )
    _refuse_other_objects(candidates[0])
    return candidates[0]


def _refuse_other_objects(series: Series) -> None:
    """Objects that are not plain images are refused with the way out."""
    first, several = series.frames[0], len(series.frames) > 1
    kind, image_type = first.text("SOPClassUID"), first.text("ImageType").upper()
    reasons = (
        (kind in SEGMENTATION, "a segmentation (SEG)", "read it as a label"),
        (kind == _DOSE, "a dose grid", "give the images that it was planned on"),
        (kind == _WHOLE_SLIDE, "a whole-slide image", "cut tiles to PNG or TIFF"),
        ("LOCALIZER" in image_type, "a localiser (scout)", "give the diagnostic series"),
        ("MOSAIC" in image_type, "a Siemens mosaic (time series)", "convert it to volumes first"),
        (several and first.colour, "a loop or series of colour pictures", "give them one by one"),
        (
            several and not placed(series.frames),
            "frames that do not say where they lie (a cine loop, or several views)",
            "give single pictures one by one; export a loop as pictures",
        ),
    )
    for refused, kind_in_words, fix in reasons:
        if refused:
            raise ReadError(
                f"expected an image or a volume, got {kind_in_words}",
                where=first.path,
                fix=fix,
                code="dicom-kind",
            )
    _refuse_shared_uids(series)


def _refuse_shared_uids(series: Series) -> None:
    owners: dict[str, Path] = {}
    for frame in series.frames:
        other = owners.setdefault(frame.uid, frame.path)
        if frame.uid and other != frame.path:
            raise ReadError(
                f"{other.name} and {frame.path.name} differ, but share one SOPInstanceUID",
                where=frame.path,
                fix="find out which is right and take the other out",
                code="dicom-duplicate",
            )


def _pixels(series: Series, grid: Grid) -> NDArray[np.float32]:
    """``(C, *S)``; every frame is decoded before any is used."""
    by_file: dict[Path, list[tuple[int, Frame]]] = defaultdict(list)
    for number, frame in enumerate(series.frames):
        by_file[frame.path].append((number, frame))
    planes: dict[int, NDArray[np.float32]] = {}
    for path, numbered in by_file.items():
        values = decode(path, [frame for _, frame in numbered])
        planes.update(zip((number for number, _ in numbered), values, strict=True))
    stack = np.stack([planes[number] for number in range(len(planes))])  # (K, rows, columns, C)
    if grid.ndim == 2:
        return np.ascontiguousarray(np.moveaxis(stack[0], -1, 0))
    return np.ascontiguousarray(stack.transpose(3, 2, 1, 0))


def _units(series: Series, array: NDArray[np.float32], notes: list[str]) -> str | None:
    """Units of the values; PET in Bq/ml is turned to SUVbw in place, where that is certain."""
    header = series.frames[0].header
    if series.modality != "PT":
        units = str(header.get("RescaleType") or "") or None
        return "HU" if series.modality == "CT" and units is None else units
    units = str(header.get("Units") or "") or None
    if units == "GML":
        return "SUVbw" if str(header.get("SUVType") or "BW") == "BW" else units
    if units != "BQML":
        return units
    factor, reason = suv_factor(header)
    if factor is None:
        notes.append(f"left in Bq/ml: {reason}")
        return units
    array *= np.float32(factor)
    notes.append(f"Bq/ml times {factor:.6g} = SUVbw")
    return "SUVbw"
