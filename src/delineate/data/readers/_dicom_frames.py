"""DICOM headers -> frames: where each frame of each file lies, and what tells volumes apart.

Geometry is in the patient system of DICOM here (LPS+, mm); ``dicom.py`` turns it to RAS+.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from delineate.core.errors import ReadError
from delineate.core.image import FloatArray
from delineate.data.readers._common import parsing

#: Suffixes that claim DICOM; other files that are not DICOM are passed over in a folder.
SUFFIXES = (".dcm", ".dicom", ".ima")
SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_UID = re.compile(r"[0-9.]{1,64}")
#: When a frame was made; such a time may be each slice's own.
TIME_KEYS = ("TriggerTime", "FrameReferenceTime", "AcquisitionTime", "ContentTime")
#: What may tell apart the volumes of one series, likeliest first.
VOLUME_KEYS = (
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "InversionTime",
    "FlipAngle",
    "KVP",
    "ConvolutionKernel",
    "ImageType",
    "AcquisitionNumber",
    *TIME_KEYS,
)
#: Where scanners kept the b-value before the standard had a place for it: creator, element.
_PRIVATE_B = (("SIEMENS MR HEADER", 0x0019, 0x0C), ("GEMS_PARM_01", 0x0043, 0x39))
#: The same where an enhanced object keeps it: functional group, attribute, name as above.
_FRAME_KEYS = (
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionTime"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("CTImageFrameTypeSequence", "FrameType", "ImageType"),
)


@dataclass(frozen=True)
class Frame:
    """One frame of one file.

    Args:
        path: The file.
        header: Its data set without the pixels.
        index: Number of the frame in the file, from 0.
        count: Number of frames in the file.
        position: Centre of the first pixel, ``(3,)`` LPS mm; None where the file has none.
        orientation: ``(2, 3)``: direction along a row, direction along a column, LPS.
        spacing: Distance between rows and between columns, mm.
        slope: Stored value -> real value.
        intercept: Stored value -> real value.
        keys: What may tell this frame from another at the same place.
    """

    path: Path
    header: pydicom.Dataset
    index: int = 0
    count: int = 1
    position: FloatArray | None = None
    orientation: FloatArray | None = None
    spacing: tuple[float, float] | None = None
    slope: float = 1.0
    intercept: float = 0.0
    keys: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An attribute of the file as text, empty where absent."""
        value = self.header.get(name)
        return "" if value is None else str(value)

    @property
    def uid(self) -> str:
        """SOPInstanceUID, from the file's own header where the data set has none."""
        return self.text("SOPInstanceUID") or str(
            self.header.file_meta.get("MediaStorageSOPInstanceUID") or ""
        )

    @property
    def colour(self) -> bool:
        """True if a pixel is a colour."""
        palette = self.text("PhotometricInterpretation") == "PALETTE COLOR"
        return palette or int(self.header.get("SamplesPerPixel") or 1) > 1


def open_header(path: Path) -> pydicom.Dataset | None:
    """Data set of a file without its pixels, None if the file is not DICOM and claims no such.

    Raises:
        ReadError: The file is empty or damaged, or named as DICOM and is none.
    """
    with parsing(path, "DICOM", "dicom-damaged"):
        if path.stat().st_size == 0:
            raise ReadError(
                "the file is empty", where=path, fix="fetch it again", code="empty-file"
            )
        try:
            return pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            if path.suffix.lower() not in SUFFIXES:
                return None
            raise ReadError(
                "expected DICOM, but the preamble 'DICM' is missing",
                where=path,
                fix="fetch the file again, or take it out of the folder",
                code="dicom-preamble",
            ) from None


def frames_of(path: Path, header: pydicom.Dataset) -> list[Frame]:
    """Every frame of a file, in file order; none for objects that are not images.

    Raises:
        ReadError: An attribute that geometry or values rest on is damaged or unsafe.
    """
    if header.get("Rows") is None or header.get("Columns") is None:
        _refuse_cut_image(path, header)
        return []
    with parsing(path, "DICOM", "dicom-damaged"):
        for name in ("SeriesInstanceUID", "SOPInstanceUID", "StudyInstanceUID"):
            uid = str(header.get(name) or "")
            if uid and not _UID.fullmatch(uid):
                raise ReadError(
                    f"expected digits and points in {name}, got {uid!r:.80}",
                    where=path,
                    fix="the file breaks the standard; do not trust it",
                    code="dicom-uid",
                )
        count = int(header.get("NumberOfFrames") or 1)
        if count < 1 or count > 2**20:
            raise ReadError(
                f"expected a sensible NumberOfFrames, got {count}",
                where=path,
                code="dicom-frames",
            )
        if "PerFrameFunctionalGroupsSequence" in header:
            return _enhanced(path, header, count)
        return _classic(path, header, count)


def _refuse_cut_image(path: Path, header: pydicom.Dataset) -> None:
    """A slice cut off in its header must not pass for an object that is no image."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if not kind or "Image Storage" in UID(kind).name:
        raise ReadError(
            f"truncated: {UID(kind).name if kind else 'an unknown object'} without Rows or Columns",
            where=path,
            fix="fetch the file again",
            code="dicom-truncated",
        )


def _numbers(value: Any, count: int) -> FloatArray | None:
    """``count`` finite numbers, None where the attribute is absent or empty."""
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        return None
    numbers = np.atleast_1d(np.asarray(value, dtype=float))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"expected {count} finite numbers, got {value}")
    return numbers


def _orientation(value: Any) -> FloatArray | None:
    numbers = _numbers(value, 6)
    if numbers is None:
        return None
    cosines = numbers.reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > 1e-3:
        raise ValueError(f"expected two orthogonal unit vectors of orientation, got {value}")
    return np.asarray(cosines)


def _spacing(value: Any) -> tuple[float, float] | None:
    numbers = _numbers(value, 2)
    if numbers is None:
        return None
    if (numbers <= 0).any():
        raise ValueError(f"expected positive PixelSpacing, got {value}")
    return float(numbers[0]), float(numbers[1])


def _rescale(dataset: pydicom.Dataset) -> tuple[float, float]:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    pair = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not all(map(math.isfinite, pair)) or pair[0] == 0:
        raise ValueError(f"expected a finite RescaleSlope other than 0, got {slope}, {intercept}")
    return pair


def _classic(path: Path, header: pydicom.Dataset, count: int) -> list[Frame]:
    spacing = _spacing(header.get("PixelSpacing"))
    slope, intercept = _rescale(header)
    keys = {name: str(header[name].value) for name in VOLUME_KEYS if header.get(name) is not None}
    if "DiffusionBValue" not in keys and (weight := _private_b(header)):
        keys["DiffusionBValue"] = weight
    place = header
    detector = header.get("DetectorInformationSequence")
    if detector and "ImagePositionPatient" not in header:  # nuclear medicine
        place = detector[0]
    position = _numbers(place.get("ImagePositionPatient"), 3)
    orientation = _orientation(place.get("ImageOrientationPatient"))
    positions: list[FloatArray | None] = [position]
    if count > 1:
        step = _frame_step(header, orientation)
        positions = [None] * count
        if step is not None and position is not None:
            positions = [position + i * step for i in range(count)]
    return [
        Frame(path, header, i, count, p, orientation, spacing, slope, intercept, keys)
        for i, p in enumerate(positions)
    ]


def _private_b(header: pydicom.Dataset) -> str:
    """The b-value as Siemens and GE write it, empty where there is none."""
    for creator, group, element in _PRIVATE_B:
        try:
            value = header.private_block(group, creator)[element].value
        except KeyError:
            continue
        first = value if isinstance(value, (str, bytes, int, float)) else value[0]
        text = first.decode("ascii", "replace") if isinstance(first, bytes) else str(first)
        # GE adds a flag of 10^9
        return str(int(text) % 10**9) if text.strip().isdecimal() else text.strip()
    return ""


def _frame_step(header: pydicom.Dataset, orientation: FloatArray | None) -> FloatArray | None:
    """Step between frames of a classic multi-frame object that are slices, None if they are not.

    Only reconstructed nuclear medicine says so: frames run along SliceVector (0054,0080).
    """
    increment = header.get("FrameIncrementPointer")
    distance = header.get("SpacingBetweenSlices")
    if orientation is None or not distance or increment != 0x00540080:
        return None
    return np.asarray(np.cross(*orientation) * float(distance))


def _enhanced(path: Path, header: pydicom.Dataset, count: int) -> list[Frame]:
    groups = header.PerFrameFunctionalGroupsSequence
    if len(groups) != count:
        raise ReadError(
            f"NumberOfFrames is {count}, but {len(groups)} frames are described",
            where=path,
            fix="the file breaks the standard; export it again",
            code="dicom-frames",
        )
    shared = (header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    frames = []
    for index, frame_groups in enumerate(groups):

        def item(name: str, own: pydicom.Dataset = frame_groups) -> pydicom.Dataset:
            sequence = own.get(name) or shared.get(name)
            return sequence[0] if sequence else pydicom.Dataset()

        keys = {
            key: str(item(group).get(name))
            for group, name, key in _FRAME_KEYS
            if item(group).get(name) is not None
        }
        slope, intercept = _rescale(item("PixelValueTransformationSequence"))
        frames.append(
            Frame(
                path,
                header,
                index,
                count,
                _numbers(item("PlanePositionSequence").get("ImagePositionPatient"), 3),
                _orientation(item("PlaneOrientationSequence").get("ImageOrientationPatient")),
                _spacing(item("PixelMeasuresSequence").get("PixelSpacing")),
                slope,
                intercept,
                keys,
            )
        )
    return frames
