"""DICOM pixels -> real values: codecs, rescaling, inversion, colours, SUV."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
)

from delineate.core.errors import MissingExtraError, ReadError
from delineate.data.readers._common import check_size, parsing
from delineate.data.readers._dicom_frames import Frame

_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
#: JPEG kinds that pydicom decodes only with a GPL-licensed plugin, but imagecodecs without.
_JPEG = (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
#: All JPEG kinds for which that plugin is the last resort.
_JPEG_FAMILY = "1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.7"


def decode(path: Path, frames: list[Frame]) -> NDArray[np.float32]:
    """Real values of some frames of one file.

    Args:
        path: The file.
        frames: Frames of that file, in the order wanted.

    Returns:
        ``(N, rows, columns, samples)`` float32: rescaled, higher is brighter, palettes and
        YCbCr as RGB.

    Raises:
        ReadError: The pixels are truncated, damaged or not what the header says.
        MissingExtraError: No codec for the transfer syntax is installed.
    """
    with parsing(path, "DICOM", "dicom-damaged"):
        dataset = pydicom.dcmread(path)
        _check_pixels(dataset, path)
        stored = _own_bits(_stored(dataset, path), dataset)
        count = int(dataset.get("NumberOfFrames") or 1)
        samples = int(dataset.SamplesPerPixel)
        stored = stored.reshape(count, dataset.Rows, dataset.Columns, samples)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            stored = apply_color_lut(stored[..., 0], dataset)
        elif dataset.PhotometricInterpretation == "MONOCHROME1":
            stored = _inverted(stored, dataset)
        values = np.empty((len(frames), *stored.shape[1:]), np.float32)
        for out, frame in zip(values, frames, strict=True):
            plane = stored[frame.index]
            if dataset.get("ModalityLUTSequence"):
                out[...] = apply_modality_lut(plane, dataset)
            else:
                out[...] = plane * np.float64(frame.slope) + frame.intercept
        return values


def is_lossy(header: pydicom.Dataset) -> bool:
    """True if the pixels were ever compressed with loss, as far as the file says."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    return syntax in _LOSSY or str(header.get("LossyImageCompression", "")) == "01"


def _check_pixels(dataset: pydicom.Dataset, path: Path) -> None:
    """Header against pixel data, before anything is allocated."""
    named = [n for n in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if n in dataset]
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if not named or not _holds_bytes(dataset[named[0]].value, compressed):
        raise ReadError(
            f"the file holds no pixels: {named[0] if named else 'PixelData'} is "
            f"{'empty' if named else 'absent'}",
            where=path,
            fix="fetch the file again; it may have been stripped or cut off on the way",
            code="dicom-truncated",
        )
    samples = int(dataset.get("SamplesPerPixel", 1))
    frames = int(dataset.get("NumberOfFrames") or 1)
    values = int(dataset.Rows) * int(dataset.Columns) * samples * frames
    size = values * max(int(dataset.BitsAllocated) // 8, 1)
    check_size(values, size, path.stat().st_size if compressed else None, path)
    if compressed or "PixelData" not in dataset:
        return
    expected = -(-values * int(dataset.BitsAllocated) // 8)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        expected = expected * 2 // 3
    got = len(dataset.PixelData)
    if got < expected:
        raise ReadError(
            f"truncated: expected {expected:,} bytes of pixels by the header, got {got:,}",
            where=path,
            fix="fetch the file again",
            code="dicom-truncated",
        )
    if got > expected + 1 and any(dataset.PixelData[expected:]):  # one byte pads to an even length
        raise ReadError(
            f"expected {expected:,} bytes of pixels by Rows, Columns and NumberOfFrames, "
            f"got {got:,}",
            where=path,
            fix="the header does not belong to these pixels; export the file again",
            code="dicom-length",
        )


def _holds_bytes(value: bytes | None, compressed: bool) -> bool:
    """Whether there is anything to decode; compressed pixels come in fragments after a table."""
    if not value or not compressed:
        return bool(value)
    stream = io.BytesIO(value)
    parse_basic_offsets(stream)
    return any(generate_fragments(stream))


def _stored(dataset: pydicom.Dataset, path: Path) -> NDArray[Any]:
    """Stored values, decompressed; YCbCr becomes RGB."""
    syntax = dataset.file_meta.TransferSyntaxUID
    grey_or_rgb = dataset.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "RGB")
    if syntax in _JPEG and grey_or_rgb and (dataset.BitsStored > 8 or syntax != _JPEG[0]):
        return _jpeg(dataset)
    require_codec(syntax, path)
    if syntax.is_compressed:
        return pixel_array(dataset)
    return pixel_array(dataset, correct_unused_bits=False)  # ``_own_bits`` knows better


def require_codec(syntax: UID, path: Path) -> None:
    """Refuse pixels that nothing installed can decode.

    Raises:
        MissingExtraError: No codec reads this transfer syntax.
    """
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        jpeg = syntax.startswith(_JPEG_FAMILY)
        raise MissingExtraError(
            f"no installed codec reads {syntax.name}",
            where=path,
            fix="pip install 'delineate[gpl]'" if jpeg else "store the file uncompressed",
            code="dicom-codec",
        )


def _jpeg(dataset: pydicom.Dataset) -> NDArray[Any]:
    """Lossless and 12-bit JPEG through imagecodecs."""
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    stored = np.stack([imagecodecs.jpeg8_decode(frame) for frame in frames])
    samples = int(dataset.SamplesPerPixel)
    if stored.size != count * dataset.Rows * dataset.Columns * samples:
        raise ValueError(f"Rows, Columns and NumberOfFrames do not fit pixels {stored.shape}")
    return stored


def _own_bits(stored: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """Stored values as their BitsStored bits say, with their sign.

    What lies above them (overlay planes, in older files) is no part of a pixel, and codecs hand it
    on as it is. Files of the years before 2014 may also leave bits below free.

    Raises:
        ReadError: Which bits are the pixel's, the file does not tell.
    """
    spare = 8 * stored.itemsize - int(dataset.BitsStored)
    if stored.dtype.kind not in "iu" or spare <= 0:
        return stored
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    kind, size = "iu"[int(dataset.PixelRepresentation) == 0], stored.itemsize
    bits = stored.view(f"u{size}")
    values: NDArray[Any] = (bits << spare).view(f"{kind}{size}") >> spare
    below = int(dataset.get("HighBit", 0)) + 1 - int(dataset.BitsStored)
    if below <= 0 or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return values
    if not (bits & (2**below - 1)).any():
        values = (bits << (spare - below)).view(f"{kind}{size}") >> spare
    elif (values != stored).any():  # else HighBit alone is wrong, as it often is
        raise ReadError(
            f"HighBit {dataset.HighBit} puts {dataset.BitsStored} bits above {below} free ones, "
            "but those are not free",
            fix="export the series again, with HighBit one less than BitsStored",
            code="dicom-high-bit",
        )
    return values


def _inverted(stored: NDArray[Any], dataset: pydicom.Dataset) -> NDArray[Any]:
    """MONOCHROME1 -> higher is brighter, within the range of the stored type."""
    if stored.dtype.kind == "f":
        return -stored
    top = -1 if int(dataset.PixelRepresentation) else 2 ** int(dataset.BitsStored) - 1
    return top - stored.astype(np.int64)


def suv_factor(header: pydicom.Dataset) -> tuple[float | None, str]:
    """Factor from Bq/ml to SUVbw (g/ml), or None and the reason.

    Follows the vendor-neutral recipe of QIBA (SUVbw, "happy path"): the dose is decayed to the
    start of the scan unless the images are already corrected to the time of injection.
    """
    radio = (header.get("RadiopharmaceuticalInformationSequence") or [pydicom.Dataset()])[0]
    weight, dose = header.get("PatientWeight"), radio.get("RadionuclideTotalDose")
    half_life = radio.get("RadionuclideHalfLife")
    corrected = [str(c) for c in _as_list(header.get("CorrectedImage"))]
    decay = str(header.get("DecayCorrection", ""))
    if not {"ATTN", "DECY"} <= set(corrected):
        return None, "not corrected for attenuation and decay (CorrectedImage)"
    if not all((weight, dose, half_life)):
        return None, "PatientWeight, RadionuclideTotalDose or RadionuclideHalfLife is absent"
    if not min(float(weight), float(dose), float(half_life)) > 0:
        return None, "weight, dose or half-life is not positive"
    if decay == "ADMIN":
        return 1000.0 * float(weight) / float(dose), ""
    if decay != "START":
        return None, f"DecayCorrection is {decay or 'absent'}"
    start = _moment(header.get("SeriesDate"), header.get("SeriesTime"))
    acquired = _moment(header.get("AcquisitionDate"), header.get("AcquisitionTime"))
    injected = _injection(header, radio)
    if start is None or acquired is None or injected is None:
        return None, "time of series, acquisition or injection is absent"
    if start > acquired:
        return None, "the series time is later than the acquisition: images were made again"
    seconds = (start - injected).total_seconds()
    if not 0 <= seconds < 86400:
        return None, f"injection {seconds:.0f} s before the scan is not plausible"
    left = float(dose) * 2.0 ** (-seconds / float(half_life))
    return 1000.0 * float(weight) / left, ""


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _moment(date: Any, time: Any) -> dt.datetime | None:
    digits, clock = str(date or "").replace(".", ""), str(time or "")
    if len(digits) < 8 or len(clock) < 6:
        return None
    whole, _, fraction = clock.partition(".")
    try:
        moment = dt.datetime.strptime(digits[:8] + whole[:6], "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return moment + dt.timedelta(seconds=float(f"0.{fraction[:6] or 0}"))


def _injection(header: pydicom.Dataset, radio: pydicom.Dataset) -> dt.datetime | None:
    full = str(radio.get("RadiopharmaceuticalStartDateTime") or "")
    if full:
        return _moment(full[:8], full[8:].split("+")[0].split("-")[0])
    injected = _moment(header.get("SeriesDate"), radio.get("RadiopharmaceuticalStartTime"))
    start = _moment(header.get("SeriesDate"), header.get("SeriesTime"))
    if injected and start and injected > start:  # injected before midnight
        injected -= dt.timedelta(days=1)
    return injected
