"""DICOM SEG as a label: made-up files against each fault, highdicom's and dcmqi's as referees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, generate_uid

from delineate.core.errors import DelineateError, LabelError
from delineate.core.schema import Label
from delineate.data.labels import read_indices
from delineate.data.opening import Opening
from delineate.data.readers import label_names, probe, read_label
from delineate.findings.examine import examine
from delineate.tasks.evaluate import evaluate

ROWS, COLUMNS, SLICES = 9, 7, 6  # a frame of 63 bits does not end with a byte
STEP = 2.5
SEG, LABELMAP = (f"1.2.840.10008.5.1.4.1.1.66.{end}" for end in "47")
UNIT = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def start(kind: str, modality: str) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(kind)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), "1.2.3"
    data.FrameOfReferenceUID, data.PatientID, data.Modality = "1.2.3.4", "one", modality
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    return data


def position(k: int) -> list[float]:
    return [10.0, -20.0, 5.0 + STEP * k]


def series(folder: Path) -> Path:
    """An upright MR series."""
    folder.mkdir(parents=True)
    uid = generate_uid()
    rng = np.random.default_rng(len(str(folder)))
    for k in range(SLICES):
        data = start("1.2.840.10008.5.1.4.1.1.4", "MR")
        data.SeriesInstanceUID = uid
        data.ImagePositionPatient, data.ImageOrientationPatient = position(k), UNIT
        data.PixelSpacing, data.SliceThickness = [0.8, 0.5], STEP
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelData = rng.integers(0, 900, (ROWS, COLUMNS)).astype(np.uint16).tobytes()
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


def masks() -> dict[str, np.ndarray]:
    """``(slices, rows, columns)`` of two structures; the last slice is empty, so is the third."""
    front, back = np.zeros((2, SLICES, ROWS, COLUMNS), np.uint8)
    front[1, 1:4, 1:5] = front[3, 2:5, 1:3] = 1
    back[1, 5:8, 2:6] = back[4, 1:8, 1:6] = 1
    return {"front": front, "back": back}


def seg(
    path: Path,
    drawn: Mapping[str, np.ndarray],
    kind: str = "BINARY",
    syntax: str = ExplicitVRLittleEndian,
    **changes: Any,
) -> Path:
    """A segmentation that leaves out empty slices, its frames not in order."""
    data = start(LABELMAP if kind == "LABELMAP" else SEG, "SEG")
    data.SegmentationType = kind
    data.SegmentSequence = Sequence()
    for number, name in enumerate(drawn, 1):
        item = Dataset()
        item.SegmentNumber, item.SegmentLabel = number, name
        data.SegmentSequence.append(item)
    volume = np.stack(list(drawn.values()))
    planes = [
        (number, k, volume[number - 1, k])
        for k in reversed(range(SLICES))
        for number in range(1, len(drawn) + 1)
        if volume[number - 1, k].any()
    ]
    if kind == "LABELMAP":
        numbered = sum(n * mask for n, mask in enumerate(volume, 1))
        planes = [(0, k, numbered[k]) for k in range(SLICES) if numbered[k].any()]
    shared = Dataset()
    measures, direction = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.5], STEP
    direction.ImageOrientationPatient = UNIT
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([direction])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence()
    for number, k, _ in planes:
        group, place, shown = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = position(k)
        group.PlanePositionSequence = Sequence([place])
        if number:
            shown.ReferencedSegmentNumber = number
            group.SegmentIdentificationSequence = Sequence([shown])
        data.PerFrameFunctionalGroupsSequence.append(group)
    data.NumberOfFrames = len(planes)
    frames = np.stack([mask for _, _, mask in planes])
    bits = 1 if kind == "BINARY" else 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    if kind == "FRACTIONAL":
        data.MaximumFractionalValue = 200
    packed = pack_bits(frames.ravel()) if bits == 1 else frames.astype(np.uint8).tobytes()
    data.PixelData = packed + b"\0" * (len(packed) % 2)
    for name, value in changes.items():
        setattr(data, name, value)
    if syntax != ExplicitVRLittleEndian:
        data.compress(syntax)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def volume(front: int = 1, back: int = 2) -> np.ndarray:
    """What a reader of ``masks`` should give on the series' grid, ``(columns, rows, slices)``."""
    drawn = masks()
    return (front * drawn["front"] + back * drawn["back"]).transpose(2, 1, 0)


def backwards() -> dict[str, np.ndarray]:
    return dict(reversed(masks().items()))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_lie_where_their_positions_say_on_the_series_grid(tmp_path: Path, kind: str) -> None:
    grid = probe(series(tmp_path / "mr"))[0]
    path = seg(tmp_path / "seg.dcm", masks(), kind)
    label = read_label(path, grid=grid)
    assert label.grid.same_as(grid)
    np.testing.assert_array_equal(label.array[0], volume())
    assert label.meta["names"] == label_names(path) == {1: "front", 2: "back"}


def test_without_an_image_it_reaches_from_the_first_plane_to_the_last(tmp_path: Path) -> None:
    label = read_label(seg(tmp_path / "seg.dcm", masks()))
    np.testing.assert_array_equal(label.array[0], volume()[..., 1:5])
    assert label.grid.spacing_mm == pytest.approx((0.5, 0.8, STEP))
    assert label.grid.affine[:3, 3] == pytest.approx((-10, 20, 5 + STEP))


def test_fractions_count_from_one_half_and_the_audit_says_so(tmp_path: Path) -> None:
    drawn = masks()["front"] * 99
    drawn[1, 2, 2] = 100
    series(tmp_path / "c0/mr")
    path = seg(tmp_path / "c0/seg.dcm", {"front": drawn}, "FRACTIONAL")
    assert int(read_label(path).array.sum()) == 1
    (tmp_path / "cohort.csv").write_text("id,image,label\nc0,c0/mr,c0/seg.dcm\n")
    found = examine(Opening().cohort(tmp_path))["findings"]
    assert any("0.5" in f["message"] for f in found if f["code"] == "label-read")


def test_compressed_frames_are_the_same(tmp_path: Path) -> None:
    path = seg(tmp_path / "seg.dcm", masks(), "LABELMAP", RLELossless)
    np.testing.assert_array_equal(read_label(path).array[0], volume()[..., 1:5])


def test_padding_of_a_label_map_is_background(tmp_path: Path) -> None:
    path = seg(tmp_path / "seg.dcm", masks(), "LABELMAP", PixelPaddingValue=2)
    assert set(np.unique(read_label(path).array)) == {0, 1}


def test_segments_that_overlap_are_refused_by_name(tmp_path: Path) -> None:
    drawn = masks()
    drawn["back"][1] = drawn["front"][1]
    with pytest.raises(LabelError, match=r"'front'.*'back'") as caught:
        read_label(seg(tmp_path / "seg.dcm", drawn))
    assert caught.value.code == "label-overlap"


def test_segments_of_several_files_are_one_map(tmp_path: Path) -> None:
    grid = probe(series(tmp_path / "mr"))[0]
    for name, mask in masks().items():
        seg(tmp_path / f"segs/{name}.dcm", {name: mask})
    label = read_label(tmp_path / "segs", grid=grid)
    assert label.meta["names"] == {1: "back", 2: "front"}
    np.testing.assert_array_equal(label.array[0], volume(2, 1))
    seg(tmp_path / "segs/other.dcm", {"front": masks()["front"]})
    with pytest.raises(LabelError, match=r"front\.dcm and other\.dcm"):
        read_label(tmp_path / "segs", grid=grid)


def test_an_image_is_no_label_and_a_slide_no_volume(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="MR Image Storage"):
        read_label(series(tmp_path / "mr"))
    path = seg(tmp_path / "seg.dcm", masks(), TotalPixelMatrixRows=100)
    with pytest.raises(DelineateError, match="whole-slide"):
        read_label(path)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"PixelData": b"\0\0"}, "dicom-truncated"),
        ({"PixelData": b""}, "dicom-truncated"),
        ({"SegmentSequence": Sequence()}, "label-segments"),
        ({"NumberOfFrames": 3}, "dicom-frames"),
        ({"Rows": None}, "dicom-truncated"),
    ],
)
def test_damage_is_told_and_names_the_file(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    path = seg(tmp_path / "seg.dcm", masks(), **changes)
    with pytest.raises(DelineateError) as caught:
        read_label(path)
    assert caught.value.code == code
    assert "seg.dcm" in str(caught.value.where)


def test_a_loop_that_does_not_say_where_it_lies_is_no_label(tmp_path: Path) -> None:
    path = seg(tmp_path / "seg.dcm", masks())
    data = pydicom.dcmread(path)
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    data.save_as(path)
    with pytest.raises(DelineateError, match="do not say where they lie"):
        read_label(path)


def test_a_segment_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = seg(tmp_path / "seg.dcm", masks())
    data = pydicom.dcmread(path)
    del data.SegmentSequence[1]
    data.save_as(path)
    with pytest.raises(LabelError, match="segment 2"):
        read_label(path)


def table(root: Path) -> Path:
    """Two cases whose segments are numbered in different orders."""
    for i, drawn in enumerate((masks(), backwards())):
        series(root / f"c{i}/mr")
        seg(root / f"c{i}/seg.dcm", drawn)
    rows = "".join(f"c{i},c{i}/mr,c{i}/seg.dcm\n" for i in range(2))
    (root / "cohort.csv").write_text("id,image,label\n" + rows)
    return root


def test_a_table_of_series_and_segmentations_is_a_labelled_cohort(tmp_path: Path) -> None:
    cohort = Opening().cohort(table(tmp_path))
    assert cohort.schema.labels == (Label("back", 1), Label("front", 2))
    for case in cohort.cases:
        grid = probe(case.images["image"])[0]
        indices = read_indices(case, cohort.schema, grid)
        np.testing.assert_array_equal(indices.array[0], volume(2, 1))
    result = examine(cohort)
    assert result["facts"]["labelled_cases"] == 2
    assert not any(f["severity"] == "blocking" for f in result["findings"])


def test_segmentations_are_scored_file_by_file_and_folder_by_folder(tmp_path: Path) -> None:
    drawn = masks()
    one = seg(tmp_path / "a/c0/seg.dcm", drawn)
    drawn["front"][3] = 0  # another extent, and frames in another order
    other = seg(tmp_path / "b/c0/seg.dcm", dict(reversed(drawn.items())))
    found = evaluate(one, other, tmp_path / "file")
    assert found["regions"]["back"]["dice"]["mean"] == 1
    assert found["regions"]["front"]["dice"]["mean"] == pytest.approx(2 * 12 / (18 + 12))
    table(tmp_path / "data")
    for i, some in enumerate((masks(), backwards())):
        seg(tmp_path / f"pred/c{i}/seg.dcm", some)
    whole = evaluate(tmp_path / "pred", tmp_path / "data", tmp_path / "folder")
    assert whole["n_cases"] == 2
    assert whole["mean_dice"]["mean"] == 1


def test_two_segmentations_are_compared_though_their_image_lies_elsewhere(tmp_path: Path) -> None:
    series(tmp_path / "data/c0/mr")
    for path in (tmp_path / "data/c0/mr").iterdir():
        data = pydicom.dcmread(path)
        data.ImagePositionPatient[0] += 0.25
        data.save_as(path)
    seg(tmp_path / "data/c0/seg.dcm", masks())
    (tmp_path / "data/cohort.csv").write_text("id,image,label\nc0,c0/mr,c0/seg.dcm\n")
    seg(tmp_path / "pred/c0.dcm", backwards())
    found = evaluate(tmp_path / "pred", tmp_path / "data", tmp_path / "out")
    assert found["mean_dice"]["mean"] == 1
    found = examine(Opening().cohort(tmp_path / "data"))["findings"]
    [finding] = [f for f in found if f["code"] == "label-affine"]
    assert "voxels do not lie on those of the image" in finding["message"]


def refers(mr: Path) -> Sequence:
    """What a segmentation says of the series that it was drawn on."""
    item = Dataset()
    item.SeriesInstanceUID = pydicom.dcmread(mr / "0.dcm").SeriesInstanceUID
    return Sequence([item])


def test_a_folder_of_series_and_segmentations_needs_no_table(tmp_path: Path) -> None:
    """As it comes out of an archive: which belongs to which, the files say."""
    for i, drawn in enumerate((masks(), backwards())):
        mr = series(tmp_path / f"c{i}/mr")
        seg(tmp_path / f"segs/{i}.dcm", drawn, ReferencedSeriesSequence=refers(mr))
    series(tmp_path / "c2/mr")
    elsewhere = Dataset()
    elsewhere.SeriesInstanceUID = "1.2.9"
    seg(tmp_path / "segs/9.dcm", masks(), ReferencedSeriesSequence=Sequence([elsewhere]))
    cohort = Opening().cohort(tmp_path)
    assert [case.label and case.label.name for case in cohort.cases] == ["0.dcm", "1.dcm", None]
    assert [label.name for label in cohort.schema.labels] == ["back", "front"]
    assert any("segs/9.dcm (a segmentation of a series that is not here)" in u
               for u in cohort.unpaired)  # fmt: skip
    for case in cohort.labelled().cases:
        grid = probe(case.images["image"])[0]
        found = read_indices(case, cohort.schema, grid).array[0]
        np.testing.assert_array_equal(found, volume(2, 1))


def test_two_segmentations_of_one_series_are_joined_or_neither_is_taken(tmp_path: Path) -> None:
    mr = series(tmp_path / "mr")
    for name, mask in masks().items():
        seg(tmp_path / f"{name}.dcm", {name: mask}, ReferencedSeriesSequence=refers(mr))
    cohort = Opening().cohort(tmp_path)
    assert len(cohort.cases[0].label) == 2
    assert [label.name for label in cohort.schema.labels] == ["back", "front"]
    seg(tmp_path / "again.dcm", masks(), ReferencedSeriesSequence=refers(mr))
    cohort = Opening().cohort(tmp_path)
    assert cohort.cases[0].label is None
    assert sum("in a table" in entry for entry in cohort.unpaired) == 3


def test_highdicom_reads_and_writes_the_same(tmp_path: Path) -> None:
    hd: Any = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    images = [pydicom.dcmread(p) for p in sorted(series(tmp_path / "mr").iterdir())]
    for image in images:
        image.StudyDate, image.StudyTime, image.PatientName = "20200101", "000000", "A^B"
        image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.StudyID = ""
        image.ReferringPhysicianName = ""
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    descriptions = [
        hd.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Organ, "MANUAL")
        for number, name in enumerate(masks(), 1)
    ]
    pixels = np.stack(list(masks().values()), axis=-1)
    for kind in ("BINARY", "LABELMAP"):
        hd.seg.Segmentation(
            images, pixels if kind == "BINARY" else volume().transpose(2, 1, 0),
            kind, descriptions, generate_uid(), 1, generate_uid(), 1, "maker", "model", "1", "2",
        ).save_as(tmp_path / f"{kind}.dcm")  # fmt: skip
        label = read_label(tmp_path / f"{kind}.dcm", grid=probe(tmp_path / "mr")[0])
        np.testing.assert_array_equal(label.array[0], volume())


@pytest.mark.parametrize(
    ("dicom", "converted", "structures"),
    [("liver.dcm", "liver_seg.nrrd", {1: "Liver"}),
     ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", {1: "Liver"})],
)  # fmt: skip
def test_dcmqi_puts_every_voxel_at_the_same_place(
    real_data: Callable[[str], Path], dicom: str, converted: str, structures: dict[int, str]
) -> None:
    root = real_data("dicom-seg-dcmqi") / "segmentations"
    theirs = read_label(root / converted)
    ours = read_label(root / dicom, grid=theirs.grid)
    assert ours.meta["names"] == structures
    assert ours.grid.same_as(theirs.grid)
    np.testing.assert_array_equal(ours.array > 0, theirs.array > 0)


def test_a_segmentation_lies_on_its_own_series(real_data: Callable[[str], Path]) -> None:
    root = real_data("dicom-seg-dcmqi") / "segmentations"
    grid = probe(root / "ct-3slice")[0]
    label = read_label(root / "liver.dcm", grid=grid)
    assert label.grid.same_as(grid)
    assert int(label.array.sum()) == 107098
