"""DICOM: real series against their published conversions, made-up ones against each fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)  # fmt: skip

from delineate.core.errors import (
    DelineateError,
    GeometryError,
    LabelError,
    MissingExtraError,
    ReadError,
)
from delineate.data.cohort import Cohort
from delineate.data.readers import dicom, probe, read, read_label
from delineate.findings.examine import examine

CT, MR, PET = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "128"))
CR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.4.1"
SERIES, STUDY = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])


def make(kind: str, modality: str, pixels: np.ndarray) -> Dataset:
    """A minimal sound object; ``pixels`` is ``(rows, columns)`` int16 or uint16."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(kind)
    data.SOPInstanceUID = generate_uid()
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.SeriesInstanceUID, data.StudyInstanceUID = SERIES, STUDY
    data.PatientID, data.PatientName, data.Modality = "one", "Planted^Name", modality
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    return data


def slices(count: int = 5, tilt: float = 0.0) -> list[Dataset]:
    """An oblique MR series of 6 x 4 pixels (rows x columns), 2.5 mm apart, 5 mm thick."""
    angle = np.deg2rad(20)
    row, column = np.array([1, 0, 0]), np.array([0, np.cos(angle), np.sin(angle)])
    normal = np.cross(row, column)
    found = []
    for k in range(count):
        data = make(MR, "MR", np.arange(24, dtype=np.int16).reshape(6, 4) + 100 * k)
        data.ImageOrientationPatient = [*row.tolist(), *column.tolist()]
        place = np.array([10, 20, 30]) + 2.5 * k * normal + tilt * k * column
        data.ImagePositionPatient = place.round(6).tolist()
        data.PixelSpacing, data.SliceThickness = [0.75, 0.5], 5
        data.InstanceNumber = count - k
        found.append(data)
    return found


def save(folder: Path, objects: list[Dataset]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(objects):
        data.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return folder


def refused(source: Path | tuple[Path, ...], code: str) -> DelineateError:
    with pytest.raises(DelineateError) as caught:
        read(source)
    assert caught.value.code == code
    assert caught.value.where
    assert "Planted" not in str(caught.value)
    return caught.value


# -- geometry and values ---------------------------------------------------------------------


def test_slices_are_placed_by_position_alone(tmp_path: Path) -> None:
    objects = slices()
    folder = save(tmp_path / "series", [objects[i] for i in (3, 0, 4, 1, 2)])
    image = read(folder)
    assert image.array.shape == (1, 4, 6, 5)
    assert image.spacing_mm == pytest.approx((0.5, 0.75, 2.5), abs=1e-5)  # not the 5 mm thickness
    np.testing.assert_array_equal(image.array[0, 1, 2], 9 + 100 * np.arange(5))
    ras = image.grid.affine @ (0, 0, 4, 1)
    lps = np.array(objects[4].ImagePositionPatient, float)
    np.testing.assert_allclose(ras[:3], lps * (-1, -1, 1), atol=1e-6)
    assert image.meta["instances"] == tuple(data.SOPInstanceUID for data in objects)
    grid, channels = probe(folder)
    assert grid.same_as(image.grid)
    assert channels == 1
    files = tuple(folder.iterdir())
    np.testing.assert_array_equal(read(files).array, image.array)


def test_simpleitk_puts_the_voxels_at_the_same_places(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", slices())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    referee, image = reader.Execute(), read(folder)
    np.testing.assert_array_equal(image.array[0], sitk.GetArrayFromImage(referee).T)
    for index in [(0, 0, 0), (3, 5, 4)]:
        lps = referee.TransformIndexToPhysicalPoint(index)
        ras = image.grid.affine @ (*index, 1)
        np.testing.assert_allclose(ras[:3], (-lps[0], -lps[1], lps[2]), atol=1e-4)


def test_rescaling_is_that_of_each_slice(tmp_path: Path) -> None:
    objects = slices(3)
    for k, data in enumerate(objects):
        data.RescaleSlope, data.RescaleIntercept = str(k + 0.5), str(-10 * k)
    image = read(save(tmp_path / "series", objects))
    for k in range(3):
        stored = np.arange(24).reshape(6, 4).T + 100 * k
        np.testing.assert_allclose(image.array[0, ..., k], stored * (k + 0.5) - 10 * k)
    objects[1].RescaleSlope = "0"
    refused(save(tmp_path / "series", objects), "dicom-damaged")


@pytest.mark.parametrize("signed", [False, True])
def test_the_bits_below_a_pixel_are_told_by_high_bit_if_they_are_free(
    tmp_path: Path, signed: bool
) -> None:
    low = -2000 if signed else 0
    values = np.linspace(low, low + 4000, 24).astype(np.int16).reshape(6, 4)
    for name, stored in (("up", values << 4), ("down", values)):  # "down": HighBit alone is wrong
        data = make(CT, "CT", stored.view(np.uint16))
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 15, int(signed)
        save(tmp_path / name, [data])
        np.testing.assert_array_equal(read(tmp_path / name).array[0], values)
    data.PixelData = (values.view(np.uint16) | 0x8001).tobytes()
    data.PixelRepresentation = 0
    save(tmp_path / "both", [data])
    with pytest.raises(ReadError, match="HighBit 15") as caught:
        read(tmp_path / "both")
    assert caught.value.code == "dicom-high-bit"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", ["native", "big endian", "rle", "jpeg", "jpeg-ls", "jpeg 2000"])
def test_bits_above_those_stored_are_no_part_of_a_pixel(
    tmp_path: Path, syntax: str, signed: bool
) -> None:
    low = -2048 if signed else 0
    values = np.linspace(low, low + 4095, 24).astype(np.int16).reshape(6, 4)
    overlay = np.zeros((6, 4), np.uint16)
    overlay[1:3], overlay[:, 2] = 0x1000, 0x8000
    data = make(CT, "CT", (values.view(np.uint16) & 0x0FFF | overlay))
    data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, int(signed)
    pixels = np.frombuffer(data.PixelData, np.uint16).reshape(6, 4)
    if syntax == "big endian":
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data["PixelData"].VR = "OW"
        data.PixelData = pixels.astype(">u2").tobytes()
    elif syntax != "native":
        uid, code = {
            "rle": (RLELossless, rle),
            "jpeg": (JPEGLosslessSV1, lambda a: imagecodecs.ljpeg_encode(a, bitspersample=16)),
            "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode),
            "jpeg 2000": (
                JPEG2000Lossless,
                lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", reversible=True),
            ),
        }[syntax]
        data.file_meta.TransferSyntaxUID = uid
        data.PixelData = encapsulate([code(pixels)])
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    folder = save(tmp_path / "one", [data])
    np.testing.assert_array_equal(read(folder).array[0], values)


def rle(pixels: np.ndarray) -> bytes:
    """16-bit pixels as two RLE segments, high bytes first, of literal runs alone."""
    segments = []
    for shift in (8, 0):
        row = (pixels >> shift & 0xFF).astype(np.uint8).tobytes()
        segments.append(bytes([len(row) - 1]) + row + b"\0" * ((len(row) + 1) % 2))
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + len(segments[0])
    return header.tobytes() + b"".join(segments)


@pytest.mark.parametrize("state", ["absent", "empty", "empty and compressed"])
def test_a_file_without_pixels_is_named_and_the_others_go_on(tmp_path: Path, state: str) -> None:
    objects = slices(4)
    if state == "absent":
        del objects[2].PixelData
    else:
        objects[2].PixelData = b""
    if state == "empty and compressed":
        objects[2].file_meta.TransferSyntaxUID = RLELossless
        objects[2].PixelData = b"\xfe\xff\x00\xe0" + bytes(4)  # a table of no frames
        objects[2]["PixelData"].VR, objects[2]["PixelData"].is_undefined_length = "OB", True
    folder = save(tmp_path / "set" / "series", objects)
    error = refused(folder, "dicom-truncated")
    assert error.where == str(folder / "002.dcm")
    assert f"PixelData is {state.split()[0]}" in str(error)
    whole = slices(4)
    for data in whole:
        data.SeriesInstanceUID = STUDY
    save(tmp_path / "set" / "other", whole)
    found = examine(Cohort.open(tmp_path / "set"))
    faults = [f for f in found["findings"] if f["code"] == "dicom-truncated"]
    assert [f["where"] for f in faults] == [["series/002.dcm"]]
    assert found["facts"]["files_read_to_the_end"] == 1


def test_monochrome1_is_turned_and_said_so(tmp_path: Path) -> None:
    data = make(CR, "CR", np.arange(24, dtype=np.uint16).reshape(6, 4))
    data.PhotometricInterpretation, data.BitsStored, data.HighBit = "MONOCHROME1", 12, 11
    data.ImagerPixelSpacing = [0.2, 0.1]
    image = read(save(tmp_path / "cr", [data]))
    np.testing.assert_array_equal(image.array[0], 4095 - np.arange(24).reshape(6, 4))
    assert image.meta["inverted"]
    assert image.spacing_mm == (0.2, 0.1)
    assert not image.grid.oriented


def test_enhanced_multiframe_objects_are_volumes(tmp_path: Path) -> None:
    single = slices(4)
    order = [2, 0, 3, 1]
    pixels = np.stack([np.frombuffer(single[k].PixelData, np.int16) for k in order])
    data = make(ENHANCED_MR, "MR", pixels.reshape(4, 6, 4))
    data.NumberOfFrames = 4
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.75, 0.5]
    shared.PlaneOrientationSequence = Sequence([Dataset()])
    orientation = single[0].ImageOrientationPatient
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = orientation
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        own = Dataset()
        own.PlanePositionSequence = Sequence([Dataset()])
        own.PlanePositionSequence[0].ImagePositionPatient = single[k].ImagePositionPatient
        own.PixelValueTransformationSequence = Sequence([Dataset()])
        own.PixelValueTransformationSequence[0].RescaleSlope = k + 1
        own.PixelValueTransformationSequence[0].RescaleIntercept = 0
        frames.append(own)
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image = read(save(tmp_path / "enhanced", [data]))
    plain = read(save(tmp_path / "plain", single))
    np.testing.assert_array_equal(image.array, plain.array * (1 + np.arange(4)))
    assert image.grid.same_as(plain.grid)
    data.NumberOfFrames = 3
    refused(save(tmp_path / "enhanced", [data]), "dicom-frames")


def pet() -> Dataset:
    data = slices(1)[0]
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID(PET)
    data.Modality, data.Units, data.DecayCorrection = "PT", "BQML", "START"
    data.CorrectedImage = ["ATTN", "DECY"]
    data.PatientWeight = 70
    data.SeriesDate = data.AcquisitionDate = "20200102"
    data.SeriesTime = data.AcquisitionTime = "003000.000000"
    radio = Dataset()
    radio.RadionuclideTotalDose, radio.RadionuclideHalfLife = 4e8, 3600
    radio.RadiopharmaceuticalStartTime = "233000.00"  # the evening before
    data.RadiopharmaceuticalInformationSequence = Sequence([radio])
    return data


def test_pet_becomes_suv_only_if_every_tag_is_there(tmp_path: Path) -> None:
    data = pet()
    stored = np.arange(24).reshape(6, 4).T
    image = read(save(tmp_path / "pet", [data]))
    # one half-life after injection 2e8 Bq are left for 70 000 g
    np.testing.assert_allclose(image.array[0, ..., 0], stored * 70000 / 2e8, rtol=1e-6)
    assert image.meta["units"] == "SUVbw"
    data.DecayCorrection = "ADMIN"
    image = read(save(tmp_path / "pet", [data]))
    np.testing.assert_allclose(image.array[0, ..., 0], stored * 70000 / 4e8, rtol=1e-6)
    del data.PatientWeight
    image = read(save(tmp_path / "pet", [data]))
    np.testing.assert_array_equal(image.array[0, ..., 0], stored)
    assert image.meta["units"] == "BQML"
    assert "PatientWeight" in image.meta["notes"][-1]


# -- faults ----------------------------------------------------------------------------------


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", slices())
    (folder / "002.dcm").unlink()
    message = str(refused(folder, "dicom-gap"))
    assert "1 slice(s) missing between 001.dcm and 003.dcm: 5.00 mm" in message
    with pytest.raises(GeometryError):
        probe(folder)


def test_the_same_slice_twice_is_dropped_and_another_at_its_place_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", slices())
    shutil.copy(folder / "002.dcm", folder / "copy.dcm")
    image = read(folder)
    assert image.array.shape == (1, 4, 6, 5)
    assert "copy.dcm is a copy of 002.dcm" in image.meta["notes"][0]
    other = pydicom.dcmread(folder / "copy.dcm")
    other.PixelData = bytes(48)
    other.save_as(folder / "copy.dcm")
    refused(folder, "dicom-duplicate")
    other.SOPInstanceUID = generate_uid()
    other.save_as(folder / "copy.dcm")
    refused(folder, "dicom-duplicate")


def test_one_uid_for_two_slices_is_refused(tmp_path: Path) -> None:
    objects = slices()
    objects[1].SOPInstanceUID = objects[0].SOPInstanceUID
    refused(save(tmp_path / "series", objects), "dicom-duplicate")


def test_a_truncated_slice_is_found_before_the_series_is_accepted(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", slices())
    whole = (folder / "003.dcm").read_bytes()
    (folder / "003.dcm").write_bytes(whole[:-10])
    assert refused(folder, "dicom-truncated").where == str(folder / "003.dcm")
    (folder / "003.dcm").write_bytes(whole[:200])
    refused(folder, "dicom-truncated")
    (folder / "004.dcm").write_bytes(b"")
    (folder / "003.dcm").write_bytes(whole)
    refused(folder, "empty-file")
    (folder / "004.dcm").write_bytes(bytes(500))
    refused(folder, "dicom-preamble")


def test_what_does_not_belong_together_is_not_joined(tmp_path: Path) -> None:
    objects = slices(6)
    for data in objects[3:]:
        data.SeriesInstanceUID = STUDY
    folder = save(tmp_path / "two", objects)
    assert "3 frame(s)" in str(refused(folder, "dicom-several"))
    assert [len(series.frames) for series in dicom.find_series(folder)] == [3, 3]
    assert dicom.read(dicom.find_series(folder)[1]).array.shape == (1, 4, 6, 3)

    objects = slices(4)
    objects[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    assert "orientation" in str(refused(save(tmp_path / "ways", objects), "dicom-several"))

    objects = slices(4)
    objects[0].PatientID = "two"
    refused(save(tmp_path / "patients", objects), "dicom-patients")

    objects = slices(4)
    objects[2].PixelSpacing = [0.75, 0.6]
    refused(save(tmp_path / "spacing", objects), "dicom-spacing")


def test_echoes_are_volumes_of_their_own(tmp_path: Path) -> None:
    objects = slices(4) + slices(4)
    for number, data in enumerate(objects):
        data.EchoTime = 10 if number < 4 else 80
    folder = save(tmp_path / "echoes", objects)
    assert "EchoTime 80" in str(refused(folder, "dicom-several"))
    parts = [(series.part, len(series.frames)) for series in dicom.find_series(folder)]
    assert sorted(parts) == [("EchoTime 10.0", 4), ("EchoTime 80.0", 4)]


def phased(*volumes: dict[str, object]) -> list[Dataset]:
    """Volumes at one place, each of ``count`` slices and with attributes of its own."""
    objects = []
    for volume in volumes:
        facts = {"count": 4, **volume}
        count = facts.pop("count")
        for data in slices(count):  # type: ignore[arg-type]
            for name, value in facts.items():
                setattr(data, name, value)
            objects.append(data)
    for number, data in enumerate(objects):
        data.InstanceNumber = number + 1
    return objects


def parts(folder: Path) -> list[tuple[str, int]]:
    return sorted((series.part, len(series.frames)) for series in dicom.find_series(folder))


@pytest.mark.parametrize(
    ("name", "first", "second", "names"),
    [
        ("AcquisitionNumber", 1, 2, ("AcquisitionNumber 1", "AcquisitionNumber 2")),
        ("TemporalPositionIdentifier", 1, 2, ("TemporalPositionIdentifier 1", "… 2")),
        ("EchoNumbers", 1, 2, ("EchoNumbers 1", "… 2")),
        ("TriggerTime", 0, 425.5, ("TriggerTime 0.0", "… 425.5")),
        ("DiffusionBValue", 0.0, 1000.0, ("DiffusionBValue 0.0", "… 1000.0")),
        ("AcquisitionTime", "101500", "101630.25", ("AcquisitionTime 101500", "… 101630.25")),
        ("ContentTime", "101500", "101630.25", ("ContentTime 101500", "… 101630.25")),
    ],
)
@pytest.mark.parametrize("counts", [(5, 5), (5, 4)])
def test_phases_are_volumes_named_after_what_tells_them_apart(
    tmp_path: Path, name: str, first: object, second: object, names: tuple[str, str],
    counts: tuple[int, int],
) -> None:  # fmt: skip
    one, two = ({"count": n, name: v} for n, v in zip(counts, (first, second), strict=True))
    folder = save(tmp_path / "phases", phased(one, two))
    expected = [(names[0], counts[0]), (names[1].replace("…", name), counts[1])]
    assert parts(folder) == sorted(expected)
    for series in dicom.find_series(folder):
        assert dicom.read(series).array.shape == (1, 4, 6, len(series.frames))


def test_dixon_and_private_b_values_tell_volumes_apart(tmp_path: Path) -> None:
    kinds = [["ORIGINAL", "PRIMARY", "M", kind] for kind in ("WATER", "FAT", "IN_PHASE")]
    folder = save(tmp_path / "dixon", phased(*({"ImageType": kind} for kind in kinds)))
    assert [count for _, count in parts(folder)] == [4, 4, 4]
    assert all(part.startswith("ImageType") for part, _ in parts(folder))
    objects = phased({}, {})
    for number, data in enumerate(objects):
        block = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", "50" if number < 4 else "800")
    folder = save(tmp_path / "diffusion", objects)
    assert parts(folder) == [("DiffusionBValue 50", 4), ("DiffusionBValue 800", 4)]
    objects = phased({}, {})
    for number, data in enumerate(objects):
        block = data.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [1000000050 if number < 4 else 1000000800, 8, 0, 0])
    assert parts(save(tmp_path / "ge", objects)) == parts(folder)


def test_phases_in_which_each_slice_has_its_own_time_go_by_the_order_of_time(
    tmp_path: Path,
) -> None:
    objects = phased({}, {}, {})
    for number, data in enumerate(objects):  # every slice through all phases, then the next
        data.TriggerTime = 1000 * (number % 4) + 300 * (number // 4) + number
        data.PixelData = np.full((6, 4), number // 4, np.int16).tobytes()
    folder = save(tmp_path / "cine", objects)
    assert parts(folder) == [(f"TriggerTime {n} of 3", 4) for n in (1, 2, 3)]
    for phase, series in enumerate(dicom.find_series(folder)):
        assert np.unique(dicom.read(series).array).tolist() == [phase]


def test_phases_that_lie_beside_each_other_are_parted_but_stations_with_a_gap_are_not(
    tmp_path: Path,
) -> None:
    def shifted(millimetres: float) -> Path:
        objects = phased({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2})
        normal = np.cross(*np.reshape(objects[0].ImageOrientationPatient, (2, 3)).astype(float))
        for data in objects[4:]:
            place = np.array(data.ImagePositionPatient, float) + millimetres * normal
            data.ImagePositionPatient = place.round(6).tolist()
        return save(tmp_path / f"{millimetres}", objects)

    assert parts(shifted(0.4)) == [("AcquisitionNumber 1", 4), ("AcquisitionNumber 2", 4)]
    assert parts(shifted(10.0)) == [("", 8)]  # the next station: one volume
    refused(shifted(12.5), "dicom-gap")


@pytest.mark.parametrize("again", [1, 2])
def test_slices_made_again_are_no_phase(tmp_path: Path, again: int) -> None:
    objects = slices(6) + slices(again)
    for number, data in enumerate(objects):
        data.AcquisitionNumber, data.InstanceNumber = 1 + number // 6, number
        data.AcquisitionTime = f"10{number:02}00"
        data.PixelData = np.full((6, 4), number, np.int16).tobytes()
    refused(save(tmp_path / "again", objects), "dicom-duplicate")


@pytest.mark.parametrize(
    "drawn",
    [("FrameOfReferenceUID",), ("SeriesInstanceUID",),
     ("FrameOfReferenceUID", "SeriesInstanceUID"),
     ("FrameOfReferenceUID", "SeriesInstanceUID", "StudyInstanceUID")],
)  # fmt: skip
def test_a_volume_whose_files_have_uids_of_their_own_is_one_volume(
    tmp_path: Path, drawn: tuple[str, ...]
) -> None:
    objects = slices(5)
    for data in objects:
        for name in drawn:
            setattr(data, name, generate_uid())
    folder = save(tmp_path / "drawn", objects)
    image = read(folder)
    assert image.array.shape == (1, 4, 6, 5)
    names = " and a ".join(sorted(drawn, reverse=True))
    assert f"5 files, each with a {names} of its own" in image.meta["notes"][0]
    cohort = Cohort.open(folder)
    assert len(cohort) == 1
    assert any("are taken as one series" in note for note in cohort.notes)
    # two echoes of it are still two volumes, and a hole keeps the slices apart
    for number, data in enumerate(more := slices(5)):
        for name in drawn:
            setattr(data, name, generate_uid())
        data.EchoTime, data.InstanceNumber = 80, 6 + number
    folder_of_two = save(tmp_path / "echoes", objects + more)
    assert parts(folder_of_two) == [("EchoTime 80.0", 5), ("EchoTime absent", 5)]
    (folder / "002.dcm").unlink()
    assert len(dicom.find_series(folder)) == 4


def test_single_slices_of_their_own_series_stay_apart_and_the_audit_asks(tmp_path: Path) -> None:
    objects = slices(5)
    for number, data in enumerate(objects):
        data.SeriesInstanceUID, data.SeriesNumber = generate_uid(), number + 1
    folder = save(tmp_path / "apart", objects)
    assert len(dicom.find_series(folder)) == 5
    findings = {f["code"]: f for f in examine(Cohort.open(folder))["findings"]}
    assert findings["slices-apart"]["severity"] == "warning"
    assert findings["slices-apart"]["places"] == 5


def test_tilted_and_uneven_series_are_refused(tmp_path: Path) -> None:
    refused(save(tmp_path / "tilt", slices(tilt=0.3)), "dicom-tilt")
    objects = slices()
    objects[2].ImagePositionPatient = (
        np.array(objects[2].ImagePositionPatient, float) + np.array([0, -0.2, 0.55])
    ).tolist()
    refused(save(tmp_path / "uneven", objects), "dicom-uneven")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("Rows", 7, "dicom-truncated"),
        ("Rows", 5, "dicom-length"),
        ("NumberOfFrames", 10**8, "dicom-frames"),
        ("NumberOfFrames", 2, "dicom-kind"),
        ("SeriesInstanceUID", "../../evil", "dicom-uid"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "dicom-kind"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "dicom-kind"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "dicom-damaged"),
        ("PixelSpacing", [0, 1], "dicom-damaged"),
        ("PixelSpacing", None, "dicom-spacing"),
        ("PixelData", None, "dicom-truncated"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.481.2", "dicom-kind"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_damaged_or_foreign_object_is_refused(
    tmp_path: Path, name: str, value: object, code: str
) -> None:
    data = slices(1)[0]
    if value is None:
        delattr(data, name)
    else:
        setattr(data, name, value)
    refused(save(tmp_path / "odd", [data]) / "000.dcm", code)


def test_colour_pictures_are_flat_and_a_loop_of_them_is_refused(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 4, 3)).astype(np.uint8)
    data = make("1.2.840.10008.5.1.4.1.1.7", "OT", np.zeros((6, 4), np.uint16))
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = rgb.tobytes()
    image = read(save(tmp_path / "rgb", [data]))
    np.testing.assert_array_equal(image.array, np.moveaxis(rgb, -1, 0))
    data.NumberOfFrames, data.PixelData = 2, rgb.tobytes() * 2
    refused(save(tmp_path / "rgb", [data]), "dicom-kind")


def test_an_image_is_no_label_and_a_folder_without_images_is_said_so(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", slices())
    with pytest.raises(LabelError):
        read_label(folder)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("nothing here")
    refused(tmp_path / "none", "dicom-no-image")


def test_a_codec_that_is_missing_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Callable[[str], Path]
) -> None:
    path = next(real_data("dicom-pydicom").rglob("SC_rgb_jpeg_dcmtk.dcm"))
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    with pytest.raises(MissingExtraError, match=r"delineate\[gpl\]") as caught:
        read(path)
    assert caught.value.code == "dicom-codec"


# -- real series -----------------------------------------------------------------------------


def canonical(array: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(array, affine))


def test_scanners_agree_with_their_published_conversion(real_data: Callable[[str], Path]) -> None:
    truths = sorted(real_data("dicom-scanners-dicom2nifti").rglob("*_ground_truth.nii.gz"))
    assert truths
    for truth in truths:
        image = read(truth.with_name(truth.name.replace("_ground_truth.nii.gz", "")))
        found = canonical(image.array[0], image.grid.affine)
        expected = nib.as_closest_canonical(nib.load(truth))
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())


def test_thick_slices_are_as_far_apart_as_they_lie(real_data: Callable[[str], Path]) -> None:
    image = read(real_data("dicom-brain-mr") / "Study1" / "12-T1post-05670")
    assert image.array.shape == (1, 512, 512, 22)
    assert image.spacing_mm[2] == pytest.approx(6.5, abs=1e-4)  # SliceThickness says 5
    refused(real_data("dicom-brain-mr"), "dicom-several")


@pytest.mark.parametrize(("name", "units"), [("CT", "HU"), ("PET", "SUVbw"), ("MR_T1", None)])
def test_a_petct_study_agrees_with_its_nifti(
    real_data: Callable[[str], Path], name: str, units: str | None
) -> None:
    root = real_data("sts-petct-mr-ibsi")
    image = read(root / "dicom" / "STS_008" / name)
    found = canonical(image.array[0], image.grid.affine)
    path = root / "nifti" / "STS_008" / f"{name}_image.nii.gz"
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-3)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=1e-6)
    assert image.meta["units"] == units


def test_jpeg_2000_series_lie_where_their_segmentation_does(
    real_data: Callable[[str], Path],
) -> None:
    root = real_data("totalsegmentator-example")
    grid, _ = probe(root / "example_ct_dicom")
    label = probe(root / "example_seg_dicom.nii.gz")[0]
    blank = canonical(np.zeros(grid.shape, np.uint8), grid.affine)
    other = canonical(np.zeros(label.shape, np.uint8), label.affine)
    np.testing.assert_allclose(blank.affine, other.affine, atol=1e-3)


def test_lossless_and_12_bit_jpeg_agree_with_gdcm(real_data: Callable[[str], Path]) -> None:
    root = real_data("dicom-pydicom")
    for name in ("SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm"):
        path = next(root.rglob(name))
        image = read(path)
        referee = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze()
        referee = np.moveaxis(referee, -1, 0) if referee.ndim == 3 else referee[None]
        np.testing.assert_array_equal(image.array, referee)
    assert read(next(root.rglob("JPGExtended.dcm"))).meta["lossy"]


@pytest.mark.parametrize("name", ["dicom-pydicom", "dicom-seg-highdicom"])
def test_every_file_reads_or_is_refused_by_name(
    real_data: Callable[[str], Path], name: str
) -> None:
    sound = 0
    for path in sorted(p for p in real_data(name).rglob("*") if p.is_file()):
        for reader in (read, probe, read_label):
            try:
                reader(path)
                sound += reader is read
            except DelineateError as error:
                caught = error
                if caught.where != str(path):
                    raise
    assert sound >= (70 if name == "dicom-pydicom" else 2)


def test_mosaics_are_refused(real_data: Callable[[str], Path]) -> None:
    folder = real_data("dicom-orientation-dcm-qa") / "In" / "cor" / "corasc35"
    assert "mosaic" in str(refused(sorted(folder.iterdir())[0], "dicom-kind"))


def test_a_binary_segmentation_is_a_label_map(real_data: Callable[[str], Path]) -> None:
    path = next(real_data("dicom-seg-highdicom").rglob("seg_image_ct_binary.dcm"))
    label = read_label(path)
    segmentation = pydicom.dcmread(path)
    assert int((label.array > 0).sum()) == int(segmentation.pixel_array.sum())
    frame = segmentation.PerFrameFunctionalGroupsSequence[0]
    position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float) * (-1, -1, 1)
    ijk = np.linalg.solve(label.grid.affine, [*position, 1])[:3]
    np.testing.assert_allclose(ijk[:2], 0, atol=1e-4)
    np.testing.assert_array_equal(
        label.array[0, :, :, round(ijk[2])] > 0, segmentation.pixel_array[0].T > 0
    )
    fractions = pydicom.dcmread(path.with_name("seg_image_ct_true_fractional.dcm"))
    half = int((fractions.pixel_array >= fractions.MaximumFractionalValue / 2).sum())
    assert int(read_label(path.with_name("seg_image_ct_true_fractional.dcm")).array.sum()) == half
    with pytest.raises(LabelError) as caught:
        read_label(path.with_name("seg_image_ct_binary_overlap.dcm"))
    assert caught.value.code == "label-overlap"
