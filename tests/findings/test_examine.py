"""The audit: every fault put into a sound cohort is found, and a sound cohort is left alone."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.findings.examine import examine

SHAPE = (20, 22, 24)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
CASES = 6


def scan(seed: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Something smooth, unlike for every seed, from 0 to 1000."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.rint(1000 * (noise - noise.min()) / np.ptp(noise)).astype(np.int16)


def mask(seed: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    i, j, k = 4 + np.random.default_rng(seed).integers(0, 6, 3)
    label[i : i + 6, j : j + 7, k : k + 8] = 1
    label[i + 1 : i + 4, j + 2 : j + 5, k + 3 : k + 6] = 2
    return label


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def declare(root: Path, **more: Any) -> None:
    names = sorted(p.name for p in (root / "imagesTr").iterdir())
    document = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": [],
        **more,
    }
    (root / "dataset.json").write_text(json.dumps(document))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A sound cohort in the layout of the Decathlon."""
    for n in range(CASES):
        save(tmp_path / f"imagesTr/c{n}.nii.gz", scan(n))
        save(tmp_path / f"labelsTr/c{n}.nii.gz", mask(n))
    declare(tmp_path)
    return tmp_path


def image(root: Path, n: int = 3) -> Path:
    return root / f"imagesTr/c{n}.nii.gz"


def label(root: Path, n: int = 3) -> Path:
    return root / f"labelsTr/c{n}.nii.gz"


def audit(root: Path, **settings: Any) -> dict[str, Any]:
    result = examine(Cohort.open(root, **settings))
    json.dumps(result, allow_nan=False)  # plain data
    return result


def severities(result: dict[str, Any]) -> dict[str, str]:
    return {f["code"]: f["severity"] for f in result["findings"]}


def grave(result: dict[str, Any]) -> dict[str, str]:
    return {code: level for code, level in severities(result).items() if level != "note"}


def finding(result: dict[str, Any], code: str) -> dict[str, Any]:
    found = [f for f in result["findings"] if f["code"] == code]
    assert len(found) == 1, severities(result)
    return found[0]


# ------------------------------------------------------------------------------ a sound cohort


def test_a_sound_cohort_raises_no_alarm_and_its_facts_are_right(sound: Path) -> None:
    result = audit(sound)
    assert grave(result) == {}
    assert (result["cases"], result["subjects"], result["layout"]) == (CASES, CASES, "msd")
    facts = result["facts"]
    assert facts["labelled_cases"] == CASES
    assert facts["files_read_to_the_end"] == 2 * CASES
    assert facts["shapes"] == {"20 × 22 × 24": CASES}
    assert facts["orientations"] == {"RAS": CASES}
    assert facts["spacing_mm"][2] == {"axis": "superior", "min": 2.0, "median": 2.0, "max": 2.0}
    organ, lesion = facts["labels"]
    # 3 x 3 x 3 voxels of 2 mm3 are 0.054 ml; the organ is 6 x 7 x 8 less the lesion.
    assert lesion["ml_median"] == pytest.approx(0.054)
    assert organ["ml_max"] == pytest.approx((6 * 7 * 8 - 27) * 0.002)
    assert (lesion["cases"], lesion["value"]) == (CASES, 2)
    assert facts["intensities"][0]["highest"] == 1000


def test_other_orientations_and_a_sub_micrometre_shift_are_no_fault(sound: Path) -> None:
    flipped = AFFINE.copy()
    flipped[0, 0], flipped[0, 3] = -1, SHAPE[0] - 1
    save(image(sound), scan(3)[::-1], flipped)
    shifted = flipped.copy()
    shifted[:3, 3] += 2e-4
    save(label(sound), mask(3)[::-1], shifted)
    result = audit(sound)
    assert grave(result) == {}
    assert severities(result)["orientations-mixed"] == "note"
    assert result["facts"]["orientations"] == {"RAS": CASES - 1, "LAS": 1}


# --------------------------------------------------------------- one fault in one file or label


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)


def with_voxel(path: Path, value: float) -> None:
    loaded = nib.load(path)
    array = np.asarray(loaded.dataobj).astype(np.float32)
    array[5, 6, 7] = value
    save(path, array, loaded.affine)


def moved(axis: int, by: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[axis, 3] += by
    return affine


def sized(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


ONE_FAULT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image-shape": ("label-shape", lambda r: save(image(r), scan(3)[:, :, :-1])),
    "label-shape": ("label-shape", lambda r: save(label(r), mask(3)[:-1])),
    "label-shift": ("label-affine", lambda r: save(label(r), mask(3), moved(1, 0.01))),
    "label-spacing": ("label-affine", lambda r: save(label(r), mask(3), sized(1, 1, 2.01))),
    "label-turned": ("label-affine", lambda r: save(label(r), mask(3), sized(-1, 1, 2))),
    "label-value": ("label-unknown", lambda r: save(label(r), mask(3) * 2)),
    "label-255": ("label-unknown", lambda r: save(label(r), (mask(3) > 0) * np.uint8(255))),
    "label-negative": ("label-unknown", lambda r: save(label(r), -mask(3).astype(np.int16))),
    "label-fraction": ("label-not-integer", lambda r: with_voxel(label(r), 0.5)),
    "label-nan": ("label-not-integer", lambda r: with_voxel(label(r), np.nan)),
    "nan": ("voxels-not-finite", lambda r: with_voxel(image(r), np.nan)),
    "infinite": ("voxels-not-finite", lambda r: with_voxel(image(r), -np.inf)),
    "constant": ("image-constant", lambda r: save(image(r), np.full(SHAPE, 7, np.int16))),
    "image-cut": ("nifti-damaged", lambda r: cut(image(r))),
    "label-cut": ("nifti-damaged", lambda r: cut(label(r))),
    "checksum": ("nifti-damaged", lambda r: spoil_checksum(image(r))),
    "empty-file": ("empty-file", lambda r: image(r).write_bytes(b"")),
    "text": ("nifti-damaged", lambda r: label(r).write_text("to be uploaded " * 40)),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_FAULT)
def test_one_spoilt_file_blocks_and_is_named(sound: Path, name: str) -> None:
    code, spoil = ONE_FAULT[name]
    spoil(sound)
    result = audit(sound)
    (found,) = [f for f in result["findings"] if f["severity"] == "blocking"]
    assert found["code"] == code or (name == "text" and found["code"].startswith("nifti"))
    assert found["places"] == 1
    assert found["where"][0].endswith("c3.nii.gz")
    assert found["fix"]
    assert "c3.nii.gz" in found["message"]
    assert grave(result) == {found["code"]: "blocking"}, "one fault, one alarm"


def test_every_damaged_file_has_a_finding_of_its_own(sound: Path) -> None:
    for n in (0, 2, 4):
        cut(image(sound, n))
    cut(label(sound, 1))
    result = audit(sound)
    places = [f["where"] for f in result["findings"] if f["severity"] == "blocking"]
    assert sorted(p for (p,) in places) == [
        "imagesTr/c0.nii.gz", "imagesTr/c2.nii.gz", "imagesTr/c4.nii.gz", "labelsTr/c1.nii.gz"
    ]  # fmt: skip
    assert result["facts"]["files_read_to_the_end"] == 2 * CASES - 4


def test_a_fault_that_nobody_foresaw_is_a_finding_of_its_case(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = readers.read

    def fail(source: Any, *more: Any) -> Any:
        if source == image(sound):
            raise ZeroDivisionError("of all things")
        return read(source, *more)

    monkeypatch.setattr(readers, "read", fail)
    found = finding(audit(sound), "unreadable")
    assert found["severity"] == "blocking"
    assert "ZeroDivisionError: of all things" in json.dumps(found)


def test_a_cohort_of_nothing_but_damaged_files_is_told_of_too(sound: Path) -> None:
    for n in range(CASES):
        cut(image(sound, n))
    result = audit(sound)
    assert sum(f["severity"] == "blocking" for f in result["findings"]) == CASES


def test_faults_of_cases_that_training_leaves_out_are_warnings(sound: Path) -> None:
    save(sound / "imagesTs/t.nii.gz", scan(50))
    cut(sound / "imagesTs/t.nii.gz")
    declare(sound, test=["./imagesTs/t.nii.gz"])
    assert grave(audit(sound)) == {"nifti-damaged": "warning"}


# ------------------------------------------------------------------------------ cohort by cohort


def test_one_empty_label_is_allowed_and_counted_but_not_all(sound: Path) -> None:
    nothing = np.zeros(SHAPE, np.uint8)
    save(label(sound, 0), nothing)
    result = audit(sound)
    assert grave(result) == {}
    assert finding(result, "label-empty")["where"] == ["c0"]
    for n in range(CASES):
        save(label(sound, n), nothing)
    assert severities(audit(sound))["labels-all-empty"] == "blocking"


def test_a_declared_structure_that_never_occurs(sound: Path) -> None:
    for n in range(CASES):
        save(label(sound, n), np.minimum(mask(n), 1))
    found = finding(audit(sound), "label-absent")
    assert found["severity"] == "warning"
    assert "lesion" in found["message"]


def test_an_inverted_mask_and_a_mask_of_another_case(sound: Path) -> None:
    save(label(sound, 2), (mask(2) == 0).astype(np.uint8))
    save(label(sound, 4), mask(5))
    result = audit(sound)
    assert finding(result, "label-inverted")["where"] == ["c2"]
    assert finding(result, "label-duplicated")["where"] == ["c4 = c5"]
    assert set(grave(result).values()) == {"warning"}


def test_palettes_that_number_colours_differently_are_no_labels(tmp_path: Path) -> None:
    """In one file white has index 1, in another index 0: as indices, that mask is inverted."""
    black_white, rng = [0, 0, 0, 255, 255, 255], np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    drawn = np.zeros((16, 16), np.uint8)
    drawn[4:9, 5:12] = 1
    for n in range(5):
        picture = rng.integers(0, 255, (16, 16)).astype(np.uint8)
        Picture.fromarray(picture).save(tmp_path / f"images/c{n}.png")
        mask = Picture.fromarray(1 - drawn if n == 3 else drawn).convert("P")
        mask.putpalette(black_white[::-1] if n == 3 else black_white)
        mask.save(tmp_path / f"masks/c{n}.png")
    found = finding(audit(tmp_path), "label-palettes")
    assert (found["severity"], found["where"]) == ("blocking", ["c3"])
    assert "#ffffff is 0 or 1" in found["message"] or "#000000 is 0 or 1" in found["message"]
    (tmp_path / "images/c3.png").unlink()
    (tmp_path / "masks/c3.png").unlink()
    assert "label-palettes" not in {f["code"] for f in audit(tmp_path)["findings"]}


def test_label_files_that_are_listed_as_images_are_told(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"p{n}/CT.nii.gz", scan(n))
        save(tmp_path / f"p{n}/GTV.nii.gz", (mask(n) > 0) * np.uint8(1))
    found = finding(audit(tmp_path), "label-as-image")
    assert (found["severity"], found["where"]) == ("warning", ["p0_GTV", "p1_GTV", "p2_GTV"])
    assert "3 of 6" in found["message"]


def test_files_of_a_kind_that_is_not_read_are_told(tmp_path: Path) -> None:
    """As the masks of DRIVE are."""
    for n in range(3):
        save(tmp_path / f"images/c{n}.nii.gz", scan(n))
        (tmp_path / "masks").mkdir(exist_ok=True)
        Picture.new("L", (8, 8)).save(tmp_path / f"masks/c{n}.GIF")
    found = finding(audit(tmp_path), "kind-not-read")
    assert found["message"] == "3 files of a kind that is not read: 3 .gif"
    assert found["where"][0] == "masks/c0.GIF"
    assert "PNG" in found["fix"]


@pytest.mark.parametrize(("value", "asked"), [(255, True), (-1, True), (2, False)])
def test_a_value_that_often_means_not_annotated_is_asked_about(
    tmp_path: Path, value: int, asked: bool
) -> None:
    for n in range(3):
        save(tmp_path / f"images/c{n}.nii.gz", scan(n))
        drawn = (mask(n) > 0).astype(np.int16)
        drawn[:2] = value
        save(tmp_path / f"masks/c{n}.nii.gz", drawn)
    found = {f["code"]: f for f in audit(tmp_path)["findings"]}
    assert ("label-unannotated" in found) == asked
    if asked:
        assert f"--ignore-label {value}" in found["label-unannotated"]["fix"]


def test_masks_in_two_styles(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"images/c{n}.nii.gz", scan(n))
        value = 255 if n == 3 else 1
        save(tmp_path / f"masks/c{n}.nii.gz", (mask(n) > 0) * np.uint8(value))
    found = finding(audit(tmp_path), "label-two-styles")
    assert (found["severity"], found["where"]) == ("warning", ["c3"])


@pytest.mark.parametrize(
    ("spacing", "code"),
    [((1.0, 1.0, 20.0), "spacing-outlier"), ((0.1, 0.1, 0.2), "spacing-outlier"),
     ((0.001, 0.001, 0.002), "spacing-implausible"), ((1e3, 1e3, 2e3), "spacing-implausible")],
)  # fmt: skip
def test_a_voxel_size_that_cannot_be_right(
    sound: Path, spacing: tuple[float, ...], code: str
) -> None:
    save(image(sound), scan(3), sized(*spacing))
    save(label(sound), mask(3), sized(*spacing))
    result = audit(sound)
    assert grave(result) == {code: "warning"}
    assert finding(result, code)["where"] == ["c3"]


def test_the_same_voxels_along_other_axes_are_no_outlier(sound: Path) -> None:
    turned = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 0, 1.0]])
    for n in range(CASES):
        save(image(sound, n), scan(n), sized(1, 1, 9))
        save(label(sound, n), mask(n), sized(1, 1, 9))
    save(image(sound), scan(3), turned)
    save(label(sound), mask(3), turned)
    assert grave(audit(sound)) == {}


def test_a_scan_in_another_unit_stands_out_but_a_mixed_cohort_is_only_noted(sound: Path) -> None:
    save(image(sound), scan(3).astype(np.float32) * 1e4)
    result = audit(sound)
    assert grave(result) == {"intensity-outlier": "warning"}
    assert finding(result, "intensity-outlier")["where"] == ["c3"]
    for n in range(CASES):
        save(image(sound, n), scan(n).astype(np.float32) * 10**n)
    result = audit(sound)
    assert grave(result) == {}
    assert severities(result)["intensity-range"] == "note"


def test_units_of_ct(sound: Path) -> None:
    declare(sound, modality={"0": "CT"})
    for n in range(CASES):
        save(image(sound, n), scan(n) * 2 - np.int16(1024))
    assert grave(audit(sound)) == {}
    save(image(sound), scan(3) * 2)
    found = finding(audit(sound), "ct-not-hu")
    assert (found["severity"], found["where"]) == ("warning", ["c3"])


def test_values_that_belie_the_modality(sound: Path) -> None:
    for n in range(CASES):
        save(image(sound, n), scan(n) * 2 - np.int16(1024))
    assert grave(audit(sound)) == {"modality-mismatch": "warning"}


def test_files_without_a_partner_are_told_with_the_reason(sound: Path) -> None:
    label(sound, 1).unlink()
    save(sound / "labelsTr/stray (2).nii.gz", mask(9))
    found = [f for f in audit(sound)["findings"] if f["code"] == "unpaired"]
    assert {f["severity"] for f in found} == {"warning"}
    told = {f["message"].split(": ")[1]: f["where"] for f in found}
    assert told["no label"] == ["imagesTr/c1.nii.gz"]
    assert any("mean_teacher" in f["fix"] for f in found)
    assert told["not in dataset.json"] == ["labelsTr/stray (2).nii.gz"]


def test_channels_of_a_case_copied_constant_or_on_other_grids(tmp_path: Path) -> None:
    def case(n: int, *channels: np.ndarray) -> None:
        for k, channel in enumerate(channels):
            save(tmp_path / f"imagesTr/c{n}_000{k}.nii.gz", channel)
        save(tmp_path / f"labelsTr/c{n}.nii.gz", mask(n))

    for n in range(CASES):
        case(n, scan(n), scan(n + 20))
    names = {"channel_names": {"0": "T1", "1": "FLAIR"}, "file_ending": ".nii.gz"}
    document = {**names, "labels": {"background": 0, "organ": 1, "lesion": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    assert grave(audit(tmp_path)) == {}
    case(1, scan(1), scan(1))
    case(2, scan(2), scan(2).astype(np.float32) * 0.37)
    case(3, scan(3), np.zeros(SHAPE, np.int16))
    result = audit(tmp_path)
    assert grave(result) == {"channel-duplicated": "warning", "channel-constant": "warning"}
    found = finding(result, "channel-duplicated")
    assert found["where"] == ["c1", "c2"]
    assert "T1" in found["message"]
    assert "FLAIR" in found["message"]
    assert finding(result, "channel-constant")["where"] == ["c3 (FLAIR)"]
    save(tmp_path / "imagesTr/c4_0001.nii.gz", scan(24), moved(0, 1.0))
    case(5, scan(5), scan(25)[1:])
    result = audit(tmp_path)
    assert finding(result, "channel-affine")["where"] == ["imagesTr/c4_0001.nii.gz"]
    assert finding(result, "channel-shape")["severity"] == "blocking"


def test_flat_images_among_volumes_and_colour_among_grey(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"images/c{n}.nii.gz", scan(n))
        save(tmp_path / f"masks/c{n}.nii.gz", mask(n))
    (tmp_path / "images").mkdir(exist_ok=True)
    Picture.fromarray(np.uint8(scan(7)[..., :3] / 4)).save(tmp_path / "images/flat.png")
    Picture.fromarray(mask(7)[..., 12]).save(tmp_path / "masks/flat.png")
    found = severities(audit(tmp_path))
    assert found["dimensions-differ"] == "blocking"
    assert found["channels-differ"] == "blocking"
    assert found["orientation-unknown"] == found["spacing-unknown"] == "warning"


# ------------------------------------------------------------- copies, subjects, splits, classes


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write scans 0 … 5 and a table; ``change`` sets cells as ``{row: {column: value}}``."""

    def write(change: dict[int, dict[str, str]] | None = None) -> Path:
        rows = []
        for n in range(CASES):
            if not image(tmp_path, n).exists():
                save(image(tmp_path, n), scan(n))
                save(label(tmp_path, n), mask(n))
            row = {
                "id": f"c{n}", "subject": f"s{n}", "image": f"imagesTr/c{n}.nii.gz",
                "label": f"labelsTr/c{n}.nii.gz", "split": "test" if n > 3 else "train",
                "class": "ill" if n % 2 else "well",
            }  # fmt: skip
            rows.append(row | (change or {}).get(n, {}))
        with (tmp_path / "cohort.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path

    return write


def test_a_sound_table_raises_no_alarm(table: Callable[..., Path]) -> None:
    result = audit(table())
    assert severities(result) == {}
    assert result["facts"]["classes"] == {"well": 3, "ill": 3}
    assert result["facts"]["parts"] == {"train": 4, "test": 2}


def test_a_subject_in_two_parts(table: Callable[..., Path]) -> None:
    found = finding(audit(table({4: {"subject": "s1"}})), "subject-in-two-parts")
    assert (found["severity"], found["where"]) == ("blocking", ["s1"])


def test_a_part_without_a_class_and_a_rare_class(table: Callable[..., Path]) -> None:
    found = finding(audit(table({5: {"class": "well"}})), "class-missing")
    assert found["severity"] == "warning"
    assert "test: ill" in found["message"]


def as_it_is(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array, AFFINE


def as_float(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array.astype(np.float64), AFFINE


def as_las(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    affine = AFFINE.copy()
    affine[0, 0], affine[0, 3] = -1, SHAPE[0] - 1
    return array[::-1], affine


def as_sagittal(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.moveaxis(array, 0, 2), AFFINE[:, [1, 2, 0, 3]]


def scaled(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array.astype(np.float32) * 0.731 + 12, AFFINE


def noisy(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array + np.random.default_rng(0).normal(0, 5, SHAPE).astype(np.float32), AFFINE


def finer(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return array.repeat(2, axis=0).repeat(2, axis=1), AFFINE


EXACT = (as_it_is, as_float, as_las, as_sagittal)
NEAR = (scaled, noisy, finer)


@pytest.mark.parametrize("saved", [*EXACT, *NEAR])
def test_a_copy_across_the_declared_split_blocks(
    table: Callable[..., Path], saved: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> None:
    root = table({4: {"label": ""}})
    save(image(root, 4), *saved(scan(2)))
    code = "duplicate-across-splits" if saved in EXACT else "near-duplicate-across-splits"
    found = finding(audit(root), code)
    assert found["severity"] == "blocking"
    assert found["where"] == ["c2 = c4" if saved in EXACT else "c2 ≈ c4"]
    assert "1 of 2 cases in 'test' (50%)" in found["message"]


def test_a_copy_in_one_part_is_a_warning_and_of_one_subject_a_note(
    table: Callable[..., Path],
) -> None:
    root = table({1: {"class": "well"}})
    save(image(root, 1), scan(2))
    save(label(root, 1), mask(2))
    assert grave(audit(root)) == {"duplicate-across-subjects": "warning"}
    assert grave(audit(table({1: {"class": "well", "subject": "s2"}}))) == {}
    assert severities(audit(root))["duplicate-within-subject"] == "note"


def test_copies_that_are_labelled_or_called_differently(table: Callable[..., Path]) -> None:
    root = table()
    save(image(root, 1), scan(2))
    result = audit(root)
    assert grave(result) == {
        "duplicate-across-subjects": "warning",
        "duplicate-class-differs": "warning",
        "duplicate-label-differs": "warning",
    }
    assert finding(result, "duplicate-label-differs")["where"] == ["c1 = c2"]


def test_repeated_scans_of_one_subject_are_no_near_duplicates(table: Callable[..., Path]) -> None:
    root = table({1: {"subject": "s2"}})
    save(image(root, 1), *noisy(scan(2)))
    assert severities(audit(root)) == {}


# ------------------------------------------------------------------------------------ flat images


def flat(seed: int, side: int = 96) -> np.ndarray:
    return np.uint8(scan(seed, (side, side)) / 1000 * 255)


def jpeg(array: np.ndarray) -> np.ndarray:
    packed = io.BytesIO()
    Picture.fromarray(array).save(packed, "JPEG", quality=60)
    return np.asarray(Picture.open(packed))


FLAT_COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": jpeg,
    "brighter": lambda a: np.uint8(a * 0.6 + 60),
    "noise": lambda a: np.uint8(
        np.clip(a + np.random.default_rng(0).normal(0, 2.5, a.shape), 0, 255)
    ),
    "mirrored": lambda a: a[:, ::-1],
    "smaller": lambda a: np.asarray(Picture.fromarray(a).resize((71, 71))),
    "colour": lambda a: np.stack([a, a, a], axis=-1),
}


@pytest.mark.parametrize("name", FLAT_COPIES)
def test_copies_of_flat_images_are_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    for n in range(30):
        folder = tmp_path / ("Testing" if n % 3 == 0 else "Training") / ("a" if n % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(flat(n)).save(folder / f"{n}.png")
    assert grave(audit(tmp_path)) == {}
    copy = FLAT_COPIES[name](flat(1))
    Picture.fromarray(copy).save(tmp_path / "Testing/a/100.png")
    result = audit(tmp_path)
    kind = "duplicate-across-splits" if name == "colour" else "near-duplicate-across-splits"
    found = finding(result, kind)
    assert found["severity"] == "blocking"
    assert found["places"] == 1
    assert "Training_a_1" in found["where"][0]
    assert "Testing_a_100" in found["where"][0]


def test_two_thousand_small_images_take_seconds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for n in range(2000):
        folder = tmp_path / ("Testing" if n < 400 else "Training") / f"class {n % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        seed = 1500 if n == 100 else n  # 100 shows what 1500 shows
        small = gaussian_filter(np.random.default_rng(seed).normal(size=(28, 28)), 2)
        noise = generator.normal(0, 1.5, small.shape) if n == 100 else 0
        small = (small - small.min()) / np.ptp(small) * 230 + noise
        Picture.fromarray(np.uint8(np.clip(small, 0, 255))).save(folder / f"{n}.bmp")
    cohort = Cohort.open(tmp_path)
    begun = time.process_time()
    result = examine(cohort)
    assert time.process_time() - begun < 20
    assert grave(result) == {"near-duplicate-across-splits": "blocking"}
    assert finding(result, "near-duplicate-across-splits")["where"] == [
        "Testing_class 0_100 ≈ Training_class 0_1500"
    ]


# --------------------------------------------------------------------------------------- real data


def test_the_published_test_split_of_brain_tumour_classification_leaks(
    real_data: Callable[[str], Path],
) -> None:
    cohort = Cohort.open(real_data("brain-tumor-classification"))
    no_tumour = [case.id for case in cohort if case.class_name == "no_tumor"]
    result = examine(cohort.subset(no_tumour))
    found = finding(result, "duplicate-across-splits")
    assert found["severity"] == "blocking"
    assert "Testing_no_tumor_image(100) = Training_no_tumor_image(266)" in found["where"]


def test_patients_whose_missing_sequence_is_flair_again(real_data: Callable[[str], Path]) -> None:
    cohort = Cohort.open(real_data("lgg-mri-segmentation"))
    some = ("6407_19860514", "7013_19860523", "8162_19961029", "8165_19970205")
    result = examine(cohort.subset([f"TCGA_DU_{name}" for name in some]))
    found = {f["message"].split(" are ")[0]: f for f in result["findings"]}
    assert found["flair and post"]["where"] == ["TCGA_DU_6407_19860514", "TCGA_DU_8165_19970205"]
    assert found["pre, flair and post"]["where"] == ["TCGA_DU_7013_19860523"]
    assert {f["severity"] for f in result["findings"]} == {"warning"}


def test_hippocampus_is_sound_but_its_intensities_are_far_apart(
    real_data: Callable[[str], Path],
) -> None:
    result = audit(real_data("msd-task04-hippocampus"))
    assert grave(result) == {}
    assert finding(result, "intensity-range")["severity"] == "note"
    assert result["facts"]["intensities"][0]["highest"] > 1e6
    assert [row["label"] for row in result["facts"]["labels"]] == ["Anterior", "Posterior"]
    assert len(result["facts"]["size_voxels"]) == 3  # far too many shapes to list


def test_a_segmentation_that_belongs_to_another_image(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = real_data("totalsegmentator-example")
    rows = "".join(
        f"{folder}/example_{n}.nii.gz,{folder}/example_seg.nii.gz\n" for n in ("ct", "ct_sm")
    )
    (tmp_path / "cohort.csv").write_text("image,label\n" + rows)
    result = audit(tmp_path / "cohort.csv")
    (found,) = [f for f in result["findings"] if f["severity"] == "blocking"]
    assert found["code"] == "label-shape"
    assert found["places"] == 1
    assert "122 × 101 × 112" in found["message"]


def test_malformed_files_of_nibabel_are_findings(real_data: Callable[[str], Path]) -> None:
    result = audit(real_data("nifti-edge-nibabel"))
    assert {"nifti-4d", "voxels-not-finite"} <= {
        f["code"] for f in result["findings"] if f["severity"] == "blocking"
    }
