"""Layouts, one by one on folders made here, and all together on real data sets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from delineate.core import catalog
from delineate.core.errors import DelineateError, LabelError, LayoutError
from delineate.data.cohort import Cohort
from delineate.data.layouts._recognise import ORDER

RealData = Callable[[str], Path]


def nifti(path: Path, *values: int, shape: tuple[int, ...] = (4, 4, 4)) -> Path:
    """A NIfTI file that holds these values, zero elsewhere."""
    array = np.zeros(shape, np.uint8)
    array.flat[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def picture(path: Path, *values: int, channels: int = 1) -> Path:
    array = np.zeros((6, 5, channels), np.uint8)
    array[0, : len(values)] = np.array(values)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if channels == 1 else array).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def msd(root: Path, **changes: object) -> None:
    document = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "left hippocampus", "2": "right hippocampus"},
        "training": [
            {"image": f"./imagesTr/a{n}.nii.gz", "label": f"./labelsTr/a{n}.nii.gz"} for n in (1, 2)
        ],
        "test": ["./imagesTs/b.nii.gz"],
    }
    write(root / "dataset.json", json.dumps({**document, **changes}))
    for n in (1, 2):
        nifti(root / f"imagesTr/a{n}.nii.gz")
        nifti(root / f"labelsTr/a{n}.nii.gz", 1, 2)
    nifti(root / "imagesTs/b.nii.gz")


def lgg_slices(root: Path, patient: str, *numbers: int) -> None:
    for n in numbers:
        picture(root / patient / f"{patient}_{n}.tif", n, channels=3)
        picture(root / patient / f"{patient}_{n}_mask.tif", 255)


# --- the order ------------------------------------------------------------------------------


def test_every_layout_has_a_place_in_the_order() -> None:
    assert sorted(ORDER) == catalog.members("data.layouts")


@pytest.mark.parametrize(
    ("name", "layout", "cases", "subjects", "labelled"),
    [
        ("msd-task04-hippocampus", "msd", 208, 208, 208),
        ("lgg-mri-segmentation", "lgg", 24, 24, 24),
        ("brats2015-deepmedic", "brats", 2, 2, 2),
        ("chase-db1", "folder", 28, 28, 28),
        ("sts-petct-mr-ibsi/nifti", "folder", 34, 22, 34),
        ("pyradiomics-roi", "folder", 4, 4, 4),
        ("brain-tumor-classification", "classes", 1794, 1794, 0),
        ("totalsegmentator-example", "scans", 3, 3, 0),
        ("dicom-brain-mr", "dicom", 2, 1, 0),
    ],
)
def test_real_sets_are_recognised(
    real_data: RealData, name: str, layout: str, cases: int, subjects: int, labelled: int
) -> None:
    top, _, below = name.partition("/")
    cohort = Cohort.open(real_data(top) / below)
    assert cohort.layout == layout
    assert len(cohort) == cases
    assert len({case.subject for case in cohort}) == subjects
    assert len(cohort.labelled()) == labelled
    assert json.dumps(cohort.to_dict())


@pytest.mark.parametrize("name", ["cxr-anatomy-open-3", "pneumoniamnist"])
def test_real_sets_without_a_layout_say_what_to_do(real_data: RealData, name: str) -> None:
    with pytest.raises(LayoutError, match="table") as caught:
        Cohort.open(real_data(name))
    assert caught.value.code in ("no-pairs", "layout-unknown")
    assert caught.value.fix


# --- msd ------------------------------------------------------------------------------------


def test_msd_reads_names_splits_and_sides(tmp_path: Path) -> None:
    msd(tmp_path)
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "msd"
    assert [(c.id, c.split, c.label is not None) for c in cohort] == [
        ("a1", "train", True),
        ("a2", "train", True),
        ("b", "test", False),
    ]
    assert [(label.name, label.value) for label in cohort.schema.labels] == [
        ("left hippocampus", 1),
        ("right hippocampus", 2),
    ]
    assert cohort.schema.lateral
    assert cohort.modalities == {"image": "MR"}
    assert cohort.unpaired == ()


def test_msd_names_the_channels_of_a_fourth_axis(tmp_path: Path) -> None:
    msd(tmp_path, modality={"0": "FLAIR", "1": "T1w"})
    assert Cohort.open(tmp_path)["a1"].meta["channels"] == ["FLAIR", "T1w"]


def test_msd_notes_entries_without_files_and_files_without_entries(tmp_path: Path) -> None:
    msd(tmp_path)
    (tmp_path / "imagesTr/a1.nii.gz").unlink()
    (tmp_path / "labelsTr/a2.nii.gz").unlink()
    nifti(tmp_path / "imagesTr/extra.nii.gz")
    nifti(tmp_path / "imagesTr/._a2.nii.gz")
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort] == ["a2", "b"]
    assert cohort["a2"].label is None
    assert cohort.unpaired == (
        "./imagesTr/a1.nii.gz (in dataset.json, not on disk)",
        "imagesTr/a2.nii.gz (no label)",
        "imagesTr/extra.nii.gz (not in dataset.json)",
    )


def test_msd_entries_that_leave_the_folder_are_not_followed(tmp_path: Path) -> None:
    nifti(tmp_path / "secret.nii.gz")
    entries = [{"image": "../secret.nii.gz", "label": str(tmp_path / "secret.nii.gz")}]
    msd(tmp_path / "set", training=entries)
    cohort = Cohort.open(tmp_path / "set")
    assert [case.id for case in cohort] == ["b"]
    assert "../secret.nii.gz (in dataset.json, not on disk)" in cohort.unpaired


@pytest.mark.parametrize("text", ["{", "[1]", '{"training": [], "labels": 3, "modality": {}}'])
def test_a_broken_dataset_json_is_an_error(tmp_path: Path, text: str) -> None:
    write(tmp_path / "dataset.json", text)
    with pytest.raises(LayoutError, match=r"dataset\.json"):
        Cohort.open(tmp_path)


# --- nnunet ---------------------------------------------------------------------------------


def nnunet(root: Path, labels: dict[str, object], values: tuple[int, ...]) -> None:
    document = {
        "channel_names": {"0": "T1", "1": "CT"},
        "labels": labels,
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    write(root / "dataset.json", json.dumps(document))
    for name, part in (("x_1", "Tr"), ("x_2", "Tr"), ("x_3", "Ts")):
        for channel in (0, 1):
            nifti(root / f"images{part}/{name}_{channel:04d}.nii.gz")
    for name in ("x_1", "x_2"):
        nifti(root / f"labelsTr/{name}.nii.gz", *values)


def test_nnunet_joins_channels(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "cyst": 1}, (1,))
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "nnunet"
    assert list(cohort["x_2"].images) == ["T1", "CT"]
    assert cohort.modalities == {"T1": "MR", "CT": "CT"}
    assert cohort["x_3"].split == "test"
    assert cohort.schema.regions == {}


@pytest.mark.parametrize("ignore", ["ignore", "Ignore"])
def test_nnunet_regions_are_unions_and_the_ignore_label_is_told(
    tmp_path: Path, ignore: str
) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3, ignore: 4}
    nnunet(tmp_path, labels, (1, 2, 3))
    cohort = Cohort.open(tmp_path)
    assert [label.value for label in cohort.schema.labels] == [1, 2, 3]
    masks = cohort.schema.region_masks(np.array([0, 1, 2, 3]))
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "whole": [False, True, True, True],
        "core": [False, False, True, True],
        "active": [False, False, False, True],
    }
    assert cohort.schema.ignore == 4
    assert any("value 4 are not annotated" in note for note in cohort.notes)


@pytest.mark.parametrize("name", ["val.csv", "Test.json", "splits_final.json"])
def test_a_list_of_a_kind_that_is_not_read_is_told(tmp_path: Path, name: str) -> None:
    nnunet(tmp_path, {"background": 0, "cyst": 1}, (1,))
    (tmp_path / name).write_text("x_1\nx_2\n")
    cohort = Cohort.open(tmp_path)
    assert any(note.startswith(f"{name} declares no parts here") for note in cohort.notes)


def test_nnunet_leaves_out_a_case_that_lacks_a_channel(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "cyst": 1}, (1,))
    (tmp_path / "imagesTr/x_1_0001.nii.gz").unlink()
    nifti(tmp_path / "labelsTr/x_9.nii.gz")
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort] == ["x_2", "x_3"]
    assert cohort.unpaired == (
        "labelsTr/x_9.nii.gz (no image)",
        "x_1 (left out: no CT)",
    )


def nnunet_v1(root: Path, **changes: object) -> None:
    document = {
        "modality": {"0": "MRI", "1": "CT"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "numTraining": 2,
        "training": [
            {"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in (0, 1)
        ],
        "test": ["./imagesTs/t.nii.gz"],
    }
    whole = {k: v for k, v in {**document, **changes}.items() if v is not None}
    write(root / "dataset.json", json.dumps(whole))
    for name in ("imagesTr/c0", "imagesTr/c1", "imagesTs/t"):
        for channel in (0, 1):
            nifti(root / f"{name}_{channel:04d}.nii.gz")
    for name in ("labelsTr/c0", "labelsTr/c1", "labelsTs/t"):
        nifti(root / f"{name}.nii.gz", 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": [], "test": []},
        {"training": None, "test": None, "numTraining": None},
        {"training": ["./imagesTr/c0_0000.nii.gz"]},
        {"modality": ["MRI", "CT"]},
        {"modality": None, "channel_names": {"0": "MRI", "1": "CT"}},
        {"file_ending": ".NII.GZ"},
    ],
)
def test_nnunet_version_1_is_read_with_its_channels(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    nnunet_v1(tmp_path, **changes)
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "nnunet"
    assert [(c.id, c.split, c.label is not None) for c in cohort] == [
        ("c0", "train", True), ("c1", "train", True), ("t", "test", True)
    ]  # fmt: skip
    assert cohort.modalities == {"MRI": "MR", "CT": "CT"}
    assert [(label.name, label.value) for label in cohort.schema.labels] == [
        ("front", 1), ("back", 2)
    ]  # fmt: skip
    assert cohort.unpaired == ()


def test_what_an_nnunet_dataset_json_lacks_is_taken_from_the_files(tmp_path: Path) -> None:
    nnunet_v1(tmp_path, modality=None, labels=None, numTraining=7)
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, list(cohort["c0"].images)) == ("nnunet", ["channel 0", "channel 1"])
    assert [label.name for label in cohort.schema.labels] == ["label 1", "label 2"]
    assert {"dataset.json names no channels", "dataset.json names no labels"} <= set(cohort.notes)
    assert "dataset.json says numTraining 7, got 2" in cohort.notes
    (tmp_path / "dataset.json").unlink()
    assert Cohort.open(tmp_path).layout == "nnunet"


def test_channels_that_dataset_json_does_not_name_are_told(tmp_path: Path) -> None:
    nnunet_v1(tmp_path, modality={"0": "MRI"})
    cohort = Cohort.open(tmp_path)
    assert list(cohort["c0"].images) == ["MRI"]
    assert any("does not name are left out: [1]" in note for note in cohort.notes)


def test_nnunet_version_2_may_list_its_files(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "cyst": 1}, (1,))
    document = json.loads((tmp_path / "dataset.json").read_text())
    scans = [nifti(tmp_path / f"raw/p7_{name}.nii.gz").name for name in ("t1", "ct")]
    nifti(tmp_path / "raw/p7_seg.nii.gz", 1)
    document["dataset"] = {
        "p7": {"images": [f"raw/{name}" for name in scans], "label": "raw/p7_seg.nii.gz"}
    }
    write(tmp_path / "dataset.json", json.dumps(document))
    case = Cohort.open(tmp_path)["p7"]
    assert list(case.images) == ["T1", "CT"]
    assert case.label == tmp_path / "raw/p7_seg.nii.gz"


def test_a_decathlon_set_whose_names_end_in_numbers_is_not_taken_for_nnunet(tmp_path: Path) -> None:
    document = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "spleen"},
        "training": [{"image": "imagesTr/amos_0001.nii.gz", "label": "labelsTr/amos_0001.nii.gz"}],
    }
    write(tmp_path / "dataset.json", json.dumps(document))
    nifti(tmp_path / "imagesTr/amos_0001.nii.gz")
    nifti(tmp_path / "labelsTr/amos_0001.nii.gz", 1)
    assert Cohort.open(tmp_path).layout == "msd"


# --- brats ----------------------------------------------------------------------------------

OLD = ("_t1", "_t1ce", "_t2", "_flair", "_seg")
NEW = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")


def brats(folder: Path, endings: tuple[str, ...], *values: int) -> None:
    for ending in endings:
        seen = values if ending[1:] == "seg" else ()
        nifti(folder / f"{folder.name}{ending}.nii.gz", *seen)


def names(cohort: Cohort) -> dict[int, str]:
    return {label.value: label.name for label in cohort.schema.labels}


@pytest.mark.parametrize(
    ("endings", "values", "expected"),
    [
        (OLD, (1, 2, 4), {1: "necrosis", 2: "oedema", 4: "enhancing"}),
        (OLD, (1, 2, 3), {1: "necrosis", 2: "oedema", 3: "enhancing"}),
        (OLD, (2,), {1: "necrosis", 2: "oedema", 4: "enhancing"}),
        (NEW, (2,), {1: "necrosis", 2: "oedema", 3: "enhancing"}),
        (
            OLD,
            (1, 2, 3, 4),
            {1: "necrosis", 2: "oedema", 3: "non-enhancing", 4: "enhancing"},
        ),
        (
            NEW,
            (1, 2, 3, 4),
            {1: "necrosis", 2: "oedema", 3: "enhancing", 4: "resection cavity"},
        ),
    ],
)
def test_brats_values_are_decided_by_files_and_spelling(
    tmp_path: Path, endings: tuple[str, ...], values: tuple[int, ...], expected: dict[int, str]
) -> None:
    brats(tmp_path / "A1", endings, *values)
    brats(tmp_path / "A2", endings)
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "brats"
    assert list(cohort.cases[0].images) == ["t1", "t1gd", "t2", "flair"]
    assert names(cohort) == expected
    assert set(cohort.schema.regions) >= {"WT", "TC", "ET"}


def test_brats_grade_site_and_age_are_joined(tmp_path: Path) -> None:
    brats(tmp_path / "HGG/Brats18_TCIA01_186_1", OLD, 1, 2, 4)
    brats(tmp_path / "LGG/Brats18_2013_2_1", OLD, 1, 2, 4)
    write(tmp_path / "survival_data.csv", "Brats18ID,Age,Survival\nBrats18_2013_2_1,41.5,300\n")
    cohort = Cohort.open(tmp_path)
    assert [(c.id, c.class_name, c.site, c.age) for c in cohort] == [
        ("Brats18_TCIA01_186_1", "HGG", "TCIA01", None),
        ("Brats18_2013_2_1", "LGG", "2013", 41.5),
    ]
    assert cohort.schema.classes == ("HGG", "LGG")


def test_brats_visits_of_one_subject_stay_together(tmp_path: Path) -> None:
    for visit in ("000", "001"):
        brats(tmp_path / f"BraTS-GLI-00005-{visit}", NEW, 3)
    assert {case.subject for case in Cohort.open(tmp_path)} == {"BraTS-GLI-00005"}


def test_brats_refuses_subjects_that_lack_a_channel(tmp_path: Path) -> None:
    for name in ("A1", "A2", "A3"):
        brats(tmp_path / name, OLD, 1, 2, 4)
    (tmp_path / "A2/A2_flair.nii.gz").unlink()
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort] == ["A1", "A3"]
    assert cohort.unpaired == ("A2 (left out: no flair)",)


def test_brats_understands_the_nested_folders_of_2015(tmp_path: Path) -> None:
    for subject in ("p1", "p2"):
        for n, sequence in enumerate(("MR_T1", "MR_T1c", "MR_T2", "MR_Flair", "OT")):
            name = f"VSD.Brain.XX.O.{sequence}.{n}"
            nifti(tmp_path / subject / name / f"{name}.nii", *((1, 3, 4) if n == 4 else ()))
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, [case.id for case in cohort]) == ("brats", ["p1", "p2"])
    assert list(cohort["p1"].images) == ["t1", "t1gd", "t2", "flair"]
    assert cohort["p1"].label is not None


# --- lgg ------------------------------------------------------------------------------------


def test_lgg_stacks_slices_in_numeric_order(tmp_path: Path) -> None:
    base = tmp_path / "kaggle_3m"
    lgg_slices(base, "TCGA_CS_4943_20000902", 1, 2, 10, 3)
    lgg_slices(base, "TCGA_FG_5964_20010511", 1, 2)
    (base / "TCGA_FG_5964_20010511/TCGA_FG_5964_20010511_2_mask.tif").unlink()
    write(
        base / "data.csv",
        "Patient,neoplasm_histologic_grade,gender,age_at_initial_pathologic,race\n"
        "TCGA_CS_4943,2,1,37,3\nTCGA_FG_5964,1,,,\n",
    )
    cohort = Cohort.open(tmp_path)
    case = cohort["TCGA_CS_4943_20000902"]
    assert [p.name.split("_")[-1] for p in case.images["rgb"]] == [
        "1.tif",
        "2.tif",
        "3.tif",
        "10.tif",
    ]
    assert isinstance(case.label, tuple)
    assert len(case.label) == 4
    assert (case.subject, case.site, case.sex, case.age, case.class_name) == (
        "TCGA_CS_4943",
        "CS",
        "F",
        37.0,
        "G3",
    )
    assert case.meta["race"] == "3"
    assert len(cohort["TCGA_FG_5964_20010511"].images["rgb"]) == 1  # type: ignore[arg-type]
    assert any("gaps" in note for note in cohort.notes)
    assert "_2.tif (no partner)" in cohort.unpaired[0]


def test_real_lgg_has_sites_sexes_and_825_slices(real_data: RealData) -> None:
    cohort = Cohort.open(real_data("lgg-mri-segmentation"))
    assert Counter(case.site for case in cohort) == {"CS": 4, "DU": 11, "HT": 9}
    assert all(case.sex for case in cohort)
    assert len(cohort.slices()) == 825


# --- phantom --------------------------------------------------------------------------------


def test_phantom_twins_are_one_subject_and_incomplete_scans_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "phantom.json", "{}")
    write(
        tmp_path / "participants.tsv",
        "participant_id\tsubject\tsex\tage\tsite\tscanner\tgrade\ttwin_of\n"
        "sub-001\tp001\tF\t40\tA\t3T\tHGG\tn/a\n"
        "sub-002\tp002\tM\t50\tB\t3T\tcontrol\tn/a\n"
        "sub-003\tp001\tF\t40\tB\t1.5T\tHGG\tsub-001\n"
        "sub-004\tp004\tM\t50\tB\t1.5T\tLGG\tn/a\n",
    )
    for n in (1, 2, 3, 4):
        for channel in ("t1", "t1gd", "t2", "flair", "seg"):
            nifti(tmp_path / f"sub-00{n}/{channel}.nii.gz")
    (tmp_path / "sub-004/t2.nii.gz").unlink()
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "phantom"
    assert [case.subject for case in cohort] == ["p001", "p002", "p001"]
    assert cohort["sub-003"].meta == {"scanner": "1.5T", "twin_of": "sub-001"}
    assert (cohort["sub-001"].sex, cohort["sub-001"].class_name) == ("F", "HGG")
    assert cohort.schema.classes == ("HGG", "control")
    assert cohort.unpaired == ("sub-004 (left out: no t2)",)
    assert set(cohort.schema.regions) == {"WT", "TC", "ET"}


@pytest.mark.parametrize(("kind", "layout"), [("bids", "phantom"), ("kaggle", "lgg")])
def test_phantoms_made_by_the_generator_are_recognised(
    tmp_path: Path, kind: str, layout: str
) -> None:
    from delineate.phantoms.generate import generate

    root = generate(tmp_path / "p", 4, 6.0, anatomy="ellipsoid", layout=kind, twins=0.5)
    cohort = Cohort.open(root)
    assert cohort.layout == layout
    assert len(cohort.labelled()) == 4
    assert len({case.subject for case in cohort}) < 4
    assert len({case.site for case in cohort}) > 1


# --- folder ---------------------------------------------------------------------------------


def test_sibling_folders_pair_by_name_with_or_without_suffix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.png", 9, channels=3)
    picture(tmp_path / "masks/a.png", 255)
    picture(tmp_path / "masks/b_mask.png", 255)
    picture(tmp_path / "masks/c.png", 255)
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, len(cohort.labelled())) == ("folder", 2)
    assert cohort.unpaired == ("masks/c.png (no image)",)
    assert [label.value for label in cohort.schema.labels] == [255]
    assert any("0 and 255" in note for note in cohort.notes)
    assert cohort.modalities == {"image": "RGB"}


def test_sibling_folders_below_split_folders_keep_the_split(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / part / "images/a.png", 9)
        picture(tmp_path / part / "labels/a.png", 1, 2)
    cohort = Cohort.open(tmp_path)
    assert [case.split for case in cohort] == ["train", "validation"]
    assert [label.name for label in cohort.schema.labels] == ["label 1", "label 2"]


def test_masks_beside_images_and_an_image_without_one(tmp_path: Path) -> None:
    nifti(tmp_path / "x.nii.gz")
    nifti(tmp_path / "x_seg.nii.gz", 1)
    nifti(tmp_path / "y.nii.gz")
    cohort = Cohort.open(tmp_path)
    assert [(c.id, c.label is not None) for c in cohort] == [("x", True), ("y", False)]
    assert cohort.unpaired == ("y.nii.gz (no label)",)


def test_one_pair_a_folder_is_named_after_the_folder(tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        nifti(tmp_path / subject / "image.nii.gz")
        nifti(tmp_path / subject / "mask.nii.gz", 1)
    cohort = Cohort.open(tmp_path)
    assert [(c.id, c.subject, list(c.images)) for c in cohort] == [
        ("s1", "s1", ["image"]),
        ("s2", "s2", ["image"]),
    ]


def test_slices_in_a_patient_folder_are_one_subject(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for n in range(3):
            picture(tmp_path / patient / f"{patient}_{n}.png", 9)
            picture(tmp_path / patient / f"{patient}_{n}_mask.png", 255)
    cohort = Cohort.open(tmp_path)
    assert len(cohort) == 6
    assert {case.subject for case in cohort} == {"p1", "p2"}
    assert cohort.channels == ("image",)


def test_names_that_come_back_in_every_folder_are_channels(tmp_path: Path) -> None:
    for subject in ("s1", "s2"):
        for scan in ("PET", "CT"):
            nifti(tmp_path / subject / f"{scan}_image.nii.gz")
            nifti(tmp_path / subject / f"{scan}_mask.nii.gz", 1)
    cohort = Cohort.open(tmp_path)
    assert cohort.modalities == {"ct": "CT", "pet": "PET"}
    assert [case.id for case in cohort if "pet" in case.images] == ["s1_PET", "s2_PET"]
    assert {case.subject for case in cohort} == {"s1", "s2"}


def test_masks_of_too_many_values_are_refused(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    values = np.arange(300, dtype=np.int16).reshape(10, 10, 3)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a_mask.nii.gz")
    with pytest.raises(LabelError, match=r"at most 255 labels, got 300") as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "label-values"


def test_a_second_mask_of_the_same_name_is_noted(tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x_label.nii.gz", "x_label.nii"):
        nifti(tmp_path / name, 1)
    cohort = Cohort.open(tmp_path)
    assert cohort["x"].label == tmp_path / "x_label.nii"
    assert cohort.unpaired == ("x_label.nii.gz (another mask of the same image)",)


def test_damaged_files_do_not_keep_a_folder_from_being_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.png", 9)
        picture(tmp_path / f"masks/{name}.png", 255)
    for path in (tmp_path / "images/a.png", tmp_path / "masks/b.png"):
        path.write_bytes(path.read_bytes()[:30])
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort.labelled()] == ["a", "b"]
    assert any("b.png" in note and "cannot be read" in note for note in cohort.notes)


def test_unreadable_labels_alone_are_an_error(tmp_path: Path) -> None:
    nifti(tmp_path / "x.nii.gz")
    (tmp_path / "x_seg.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DelineateError, match=r"x_seg\.nii\.gz"):
        Cohort.open(tmp_path)


def test_chase_has_one_subject_for_two_eyes_and_keeps_the_second_observer(
    real_data: RealData,
) -> None:
    cohort = Cohort.open(real_data("chase-db1"), subject_pattern=r"Image_(\d+)[LR]")
    assert len({case.subject for case in cohort}) == 14
    assert cohort["Image_07R"].label == cohort.root / "Image_07R_1stHO.png"
    assert cohort["Image_07R"].meta["other_labels"] == {"2ndho": "Image_07R_2ndHO.png"}


# --- classes --------------------------------------------------------------------------------


def test_class_folders_below_splits(tmp_path: Path) -> None:
    for part in ("Training", "Testing"):
        for klass in ("glioma", "none"):
            for n in range(2):
                picture(tmp_path / part / klass / f"image({n}).png", n)
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "classes"
    assert cohort.schema.classes == ("glioma", "none")
    assert Counter(case.split for case in cohort) == {"test": 4, "train": 4}
    assert len({case.id for case in cohort}) == 8


def test_many_folders_that_differ_by_a_number_are_not_classes(tmp_path: Path) -> None:
    for subject in range(11):
        for n in range(2):
            picture(tmp_path / f"patient{subject}" / f"{n}.png", n)
    assert Cohort.open(tmp_path).layout == "scans"


# --- table ----------------------------------------------------------------------------------


def test_a_table_gives_everything(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for channel in ("t1", "flair"):
            nifti(tmp_path / f"scans/{name}_{channel}.nii.gz")
    nifti(tmp_path / "a_lesion.nii.gz", 1)
    table = write(
        tmp_path / "mine.csv",
        "subject,image_t1,image_flair,label,site,class,sex,age,split,scanner\n"
        "a,scans/a_t1.nii.gz,scans/a_flair.nii.gz,a_lesion.nii.gz,X,MS,F,31.5,train,3T\n"
        "b,scans/b_t1.nii.gz,scans/b_flair.nii.gz,,Y,control,M,,val,1.5T\n",
    )
    cohort = Cohort.open(table)
    assert Cohort.open(tmp_path) == cohort
    a, b = cohort.cases
    assert (a.id, a.subject, list(a.images)) == ("a", "a", ["t1", "flair"])
    assert (a.site, a.class_name, a.sex, a.age, a.split) == ("X", "MS", "F", 31.5, "train")
    assert (b.label, b.age, b.split, b.meta) == (None, None, "validation", {"scanner": "1.5T"})
    assert cohort.schema.classes == ("MS", "control")
    assert cohort.modalities == {"t1": "MR", "flair": "MR"}
    assert cohort.unpaired == ("b (no label)",)


def test_table_errors_name_the_rows(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    write(
        tmp_path / "cohort.tsv",
        "image\tage\na.nii.gz\t30\nmissing.nii.gz\t30\na.nii.gz\told\n\t4\n",
    )
    with pytest.raises(LayoutError) as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "table-row"
    assert "row 3: image: no such file: missing.nii.gz" in caught.value.message
    assert "row 4: expected an age in years, got 'old'" in caught.value.message
    assert "row 5: expected a file in image, got nothing" in caught.value.message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "table-header"),
        ("image,image\n", "table-header"),
        ("image,site\na.nii.gz,x,y\n", "table-row"),
        ("picture\na.nii.gz\n", "table-columns"),
        ("image\n", "table-columns"),
    ],
)
def test_tables_that_are_not_tables(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Cohort.open(write(tmp_path / "t.csv", text))
    assert caught.value.code == code


@pytest.mark.parametrize("word", ["val", "valid", "Validation", "dev", "VAL"])
def test_a_validation_list_by_any_of_its_names(tmp_path: Path, word: str) -> None:
    rows = ["image,split"]
    for n, part in enumerate(("train", word, "TEST", "", "n/a")):
        nifti(tmp_path / f"t/{n}.nii.gz")
        rows.append(f"t/{n}.nii.gz,{part}")
    table = write(tmp_path / "list.csv", "\n".join(rows))
    assert [c.split for c in Cohort.open(table)] == ["train", "validation", "test", None, None]
    for part in ("train", word):
        picture(tmp_path / "f" / part / "images/a.png", 9)
        picture(tmp_path / "f" / part / "labels/a.png", 1, 2)
        for name in ("x", "y"):
            picture(tmp_path / "c" / part / f"sick/{name}.png", 9)
            picture(tmp_path / "c" / part / f"well/{name}.png", 9)
    for folder in ("f", "c"):
        assert {case.split for case in Cohort.open(tmp_path / folder)} == {"train", "validation"}


def test_a_part_of_another_name_is_refused_before_it_is_trained_on(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    table = write(tmp_path / "list.csv", "image,split\na.nii.gz,external\n")
    with pytest.raises(LayoutError, match="expected train, validation or test, got 'external'"):
        Cohort.open(table)


def test_lists_beside_the_data_declare_parts(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"images/{name}.png", 9)
        picture(tmp_path / f"masks/{name}.png", 1)
    write(tmp_path / "train.txt", "a\nimages/b.png\n")
    write(tmp_path / "val.txt", "c.png\nmissing\n.\n/\n..\n")
    cohort = Cohort.open(tmp_path)
    assert [case.split for case in cohort] == ["train", "train", "validation", None]
    assert "val.txt declares 1 cases for validation" in cohort.notes
    assert "val.txt: 4 of 5 names are no case" in cohort.notes
    write(tmp_path / "test.list", "a\n")
    with pytest.raises(LayoutError, match=r"'a' in test\.list too") as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "list-twice"


def test_a_name_of_several_cases_in_a_list_is_not_guessed_at(tmp_path: Path) -> None:
    for folder in ("benign", "malignant"):
        for name in ("1", "2"):
            picture(tmp_path / f"{folder}/{name}.png", 9)
    write(tmp_path / "test.txt", "benign/2.png\nmalignant_1\n")
    assert [case.id for case in Cohort.open(tmp_path) if case.split] == ["benign_2", "malignant_1"]
    write(tmp_path / "test.txt", "benign/2.png\n1\n")
    with pytest.raises(LayoutError, match="got '1', which 2 cases bear") as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "list-ambiguous"
    assert "benign_1" in str(caught.value.fix)


def test_a_list_may_repeat_names_that_folders_of_parts_share(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("1", "2"):
            picture(tmp_path / f"images/{part}/{name}.png", 9)
            picture(tmp_path / f"masks/{part}/{name}.png", 1)
    write(tmp_path / "train.txt", "1\n2\n")
    assert Counter(case.split for case in Cohort.open(tmp_path)) == {"train": 2, "test": 2}


def test_a_table_for_each_part(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        nifti(tmp_path / f"scans/{name}.nii.gz")
    for part, name in (("train", "a"), ("Validation", "b"), ("test", "c")):
        write(tmp_path / f"{part}.csv", f"image,subject\nscans/{name}.nii.gz,{name}\n")
    cohort = Cohort.open(tmp_path)
    assert cohort.layout == "table"
    assert {c.id: c.split for c in cohort} == {"a": "train", "b": "validation", "c": "test"}


def test_msd_validation_lists_are_a_part(tmp_path: Path) -> None:
    pair = {"image": "./imagesTr/a2.nii.gz", "label": "./labelsTr/a2.nii.gz"}
    first = {"image": "./imagesTr/a1.nii.gz", "label": "./labelsTr/a1.nii.gz"}
    msd(tmp_path, training=[first], validation=[pair])
    assert [c.split for c in Cohort.open(tmp_path)] == ["train", "validation", "test"]
    assert not Cohort.open(tmp_path).unpaired


def test_a_table_may_write_paths_as_windows_does(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        nifti(tmp_path / folder / "a.nii.gz")
    (tmp_path / "t.csv").write_text("image,label\nimages\\a.nii.gz,labels\\a.nii.gz\n")
    (case,) = Cohort.open(tmp_path / "t.csv")
    assert case.images["image"] == tmp_path / "images/a.nii.gz"
    assert case.label == tmp_path / "labels/a.nii.gz"


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"image,site\na.nii.gz,K\xf6ln\n")
    with pytest.raises(LayoutError, match="UTF-8"):
        Cohort.open(tmp_path / "t.csv")


def test_a_dicom_series_beside_a_damaged_file_is_left_out(
    tmp_path: Path, real_data: RealData
) -> None:
    source = real_data("dicom-brain-mr") / "Study1"
    for number, series in enumerate(sorted(p for p in source.iterdir() if p.is_dir())):
        (tmp_path / f"s{number}").mkdir()
        for path in sorted(series.iterdir())[:6]:
            (tmp_path / f"s{number}" / path.name).write_bytes(path.read_bytes())
    last = sorted((tmp_path / "s1").iterdir())[-1]
    last.write_bytes(b"\0" * 128)
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort] == ["s0"]
    assert len(cohort.unpaired) == 2
    assert cohort.unpaired[1] == "s1 (left out: a damaged file lies beside this series)"


def test_no_patient_id_reaches_a_cohort(tmp_path: Path, real_data: RealData) -> None:
    import pydicom

    path = next((real_data("dicom-brain-mr") / "Study1").rglob("*.dcm"))
    header = pydicom.dcmread(path)
    header.PatientID, header.PatientName = "PLANTED-ID-7", "PLANTED^NAME"
    header.save_as(tmp_path / "a.dcm")
    text = json.dumps(Cohort.open(tmp_path).to_dict())
    assert "PLANTED" not in text


# --- dicom and scans ------------------------------------------------------------------------


def test_a_dicom_study_is_one_subject(real_data: RealData) -> None:
    cohort = Cohort.open(real_data("dicom-brain-mr"))
    assert set(cohort.modalities.values()) == {"MR"}
    assert len({case.subject for case in cohort}) == 1


def test_a_few_series_among_other_images_are_listed_where_dicom_is_asked_for(
    tmp_path: Path, real_data: RealData
) -> None:
    slices = sorted((real_data("dicom-brain-mr") / "Study1").rglob("*.dcm"))[:2]
    (tmp_path / "series").mkdir()
    for path in slices:
        (tmp_path / "series" / path.name).write_bytes(path.read_bytes())
    nifti(tmp_path / "head.nii.gz")
    by_itself = Cohort.open(tmp_path)
    assert by_itself.layout == "scans"
    assert any("the layout dicom" in note for note in by_itself.notes)
    asked = Cohort.open(tmp_path, "dicom")
    assert asked.layout == "dicom"
    assert any("1 image files of other formats" in note for note in asked.notes)
    with pytest.raises(LayoutError, match="DICOM"):
        Cohort.open(tmp_path / "head.nii.gz", "dicom")


def test_a_single_scan_is_a_cohort_of_one(tmp_path: Path) -> None:
    cohort = Cohort.open(nifti(tmp_path / "head_ct.nii.gz"))
    assert (cohort.layout, [case.id for case in cohort]) == ("scans", ["head_ct"])
    assert cohort.modalities == {"image": "CT"}
    assert cohort.root == tmp_path
