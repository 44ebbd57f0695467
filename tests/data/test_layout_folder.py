"""Images and label files that are paired by their names, as data sets are really named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from delineate.core.case import Masks
from delineate.core.errors import ConfigError, DelineateError, LabelError, LayoutError
from delineate.data.cohort import Cohort
from delineate.data.readers import read_label

RealData = Callable[[str], Path]


def volume(path: Path, label: bool = False) -> Path:
    array = np.zeros((4, 4, 4), np.uint8)
    array[1:3, 1:3, 1] = 1 if label else 9
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".gz", ".nii"):
        made = path.with_name("made.nii.gz" if path.suffix.lower() == ".gz" else "made.nii")
        nib.save(nib.Nifti1Image(array, np.eye(4)), made)
        made.rename(path)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return path


def picture(path: Path, row: int | None = None) -> Path:
    """A grey picture, or a mask that marks two rows from this one on."""
    array = np.random.default_rng(list(path.name.encode())).integers(0, 99, (12, 8), np.uint8)
    if row is not None:
        array = np.zeros((12, 8), np.uint8)
        array[row : row + 2, 2:6] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def written(root: Path, *names: str) -> Path:
    """Files in a folder; a star makes those of three cases, and a mark behind it a label."""
    for name in names:
        for n in range(3):
            path = root / name.rstrip("!").replace("*", str(n))
            label = name.endswith("!")
            volume(path, label) if ".png" not in name.lower() else picture(
                path, 3 if label else None
            )
    return root


def pairs(cohort: Cohort) -> dict[str, str]:
    """Image file -> label file, below the root."""
    told = {}
    for case in cohort:
        images = [str(Path(str(p)).relative_to(cohort.root)) for p in case.images.values()]
        label = case.label
        files = label if isinstance(label, tuple) else (label,) if label else ()
        told["+".join(images)] = "+".join(str(p.relative_to(cohort.root)) for p in files)
    return told


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("case_0000*/imaging.nii.gz", "case_0000*/segmentation.nii.gz"),  # KiTS
        ("volume-*.nii", "segmentation-*.nii"),  # LiTS
        ("Training Batch 1/volume-*.nii", "segmentations/segmentation-*.nii"),
        ("volume_pt1/volume-*.nii", "segmentations/segmentation-*.nii"),
        ("volume-*.nii.gz", "labels-*.nii.gz"),  # CT-ORG
        ("p00*/p00*_frame01.nii.gz", "p00*/p00*_frame01_gt.nii.gz"),  # ACDC
        ("img/img000*.nii.gz", "label/label000*.nii.gz"),  # BTCV
        ("averaged-training-images/D*_avg.nii", "averaged-training-labels/D*_avg_seg.nii"),
        ("imagesTr/amos_*.nii.gz", "labelsTr/amos_*.nii.gz"),
        ("Case0*.mhd", "Case0*_segmentation.mhd"),  # Promise12
        ("p*.mha", "p*-label.mha"),
        ("p*.nrrd", "p*.seg.nrrd"),
        ("p*.nii.gz", "P*_Mask.NII.GZ"),
        ("*/ct.nii.gz", "*/liver_mask.nii.gz"),
        ("images/x*.png", "Ground truth/x*.png"),
        ("x (*).png", "x (*)_mask.png"),
        ("x*.png", "x*_mask (1).png"),
        ("image_*.png", "mask_*.png"),
        ("images/roi_*.png", "masks/roi_*.png"),
    ],
)
def test_an_image_and_its_label_file_differ_by_the_words_that_say_so(
    tmp_path: Path, image: str, label: str
) -> None:
    cohort = Cohort.open(written(tmp_path, image, f"{label}!"))
    assert cohort.layout == "folder"
    every = ("0", "1", "2")
    assert pairs(cohort) == {image.replace("*", n): label.replace("*", n) for n in every}
    assert cohort.unpaired == ()
    assert len({case.subject for case in cohort}) == 3


def test_names_that_only_look_alike_are_not_paired(tmp_path: Path) -> None:
    written(tmp_path, "p*/scan.nii.gz", "a*.nii.gz", "a*_seg.nii.gz!")
    volume(tmp_path / "q9/scan_mask.nii.gz", label=True)
    volume(tmp_path / "a7_seg_T2.nii.gz", label=True)
    volume(tmp_path / "mask.nii.gz", label=True)
    cohort = Cohort.open(tmp_path)
    assert len(cohort.labelled()) == 3
    assert "q9/scan_mask.nii.gz (no image)" in cohort.unpaired
    assert "a7_seg_T2.nii.gz (no image)" in cohort.unpaired
    assert "mask.nii.gz (no image)" in cohort.unpaired


def test_numbered_images_keep_their_own_masks(tmp_path: Path) -> None:
    for name in ("x", "x_1", "x_2"):
        picture(tmp_path / f"{name}.png")
    for name in ("x_mask", "x_1_mask", "x_mask_2"):
        picture(tmp_path / f"{name}.png", 3)
    assert pairs(Cohort.open(tmp_path)) == {
        "x.png": "x_mask.png",
        "x_1.png": "x_1_mask.png",
        "x_2.png": "x_mask_2.png",
    }


def test_channels_share_a_label_file(tmp_path: Path) -> None:
    written(tmp_path / "nested", "p*/t1.nii.gz", "p*/flair.nii.gz", "p*/lesion_mask.nii.gz!")
    written(tmp_path / "flat", "p*__CT.nii.gz", "p*__PT.nii.gz", "p*_seg.nii.gz!")
    nested, flat = Cohort.open(tmp_path / "nested"), Cohort.open(tmp_path / "flat")
    assert nested.modalities == {"flair": "MR", "t1": "MR"}
    assert [case.id for case in nested] == ["p0", "p1", "p2"]
    assert flat.modalities == {"ct": "CT", "pt": "PET"}
    assert [case.id for case in flat] == ["p0", "p1", "p2"]
    assert pairs(flat)["p1__CT.nii.gz+p1__PT.nii.gz"] == "p1_seg.nii.gz"


def test_channels_are_joined_where_no_label_file_says_so(tmp_path: Path) -> None:
    written(tmp_path / "some", "p*_ct.nii", "p*_pt.nii", "p*_seg.nii!", "q*_ct.nii", "q*_pt.nii")
    cohort = Cohort.open(tmp_path / "some")  # the unlabelled ones are cases like the others
    assert {tuple(case.images) for case in cohort} == {("ct", "pt")}
    assert (len(cohort), len(cohort.labelled())) == (6, 3)
    written(tmp_path / "new", "r*/ct.nii", "r*/pt.nii")
    cohort = Cohort.open(tmp_path / "new")
    assert (cohort.layout, cohort.modalities) == ("scans", {"ct": "CT", "pt": "PET"})
    assert [case.id for case in cohort] == ["r0", "r1", "r2"]
    assert [case.id for case in Cohort.open(tmp_path / "new/r1")] == ["r1"]
    volume(tmp_path / "new/r1/extra.nii")  # then nothing is sure, and every file is a case
    assert len(Cohort.open(tmp_path / "new")) == 7


def test_a_cine_beside_its_frames_is_no_case(tmp_path: Path) -> None:
    written(tmp_path, "p*/p*_4d.nii.gz", "p*/p*_frame01.nii.gz", "p*/p*_frame01_gt.nii.gz!")
    cohort = Cohort.open(tmp_path)
    assert len(cohort) == 3
    assert cohort.unpaired[0] == "p0/p0_4d.nii.gz (left out: over time)"


def test_a_folder_whose_name_says_with_masks_holds_both(tmp_path: Path) -> None:
    for top in ("Dataset_BUSI_with_GT", "Fundus_gt", "images and masks"):
        written(tmp_path / top / top, "a*.png", "a*_mask.png!")
        assert len(Cohort.open(tmp_path / top).labelled()) == 3


def test_a_mask_is_never_an_image(tmp_path: Path) -> None:
    written(tmp_path, "a*.png", "b*_mask_1.png!")
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, [case.id for case in cohort]) == ("scans", ["a0", "a1", "a2"])
    written(tmp_path / "CXR_png", "M_*.png")
    written(tmp_path / "ManualMask", "N_*.png!")
    for folder in (tmp_path / "CXR_png", tmp_path / "ManualMask"):
        assert folder.is_dir()
    with pytest.raises(LayoutError, match="named like their images"):
        Cohort.open(tmp_path)


# --- several masks of a picture ---------------------------------------------------------------


def busi(root: Path, *classes: str, second: str = "{}_mask_1") -> Path:
    for name in classes:
        for n in range(1, 5):
            picture(root / name / f"{name} ({n}).png")
            picture(root / name / f"{name} ({n})_mask.png", 1)
        picture(root / name / f"{second.format(f'{name} (3)')}.png", 6)
    return root


@pytest.mark.parametrize(
    "second", ["{}_mask_1", "{}_mask_2", "{}_Mask (1)", "{}-mask2", "{}_1_mask", "mask_{}_2"]
)
def test_masks_of_one_picture_are_united_and_folders_are_classes(
    tmp_path: Path, second: str
) -> None:
    cohort = Cohort.open(busi(tmp_path, "benign", "malignant", "normal", second=second))
    assert (len(cohort), len({case.subject for case in cohort})) == (12, 12)
    assert cohort.schema.classes == ("benign", "malignant", "normal")
    assert {case.id: case.class_name for case in cohort}["normal_normal (2)"] == "normal"
    third = cohort["benign_benign (3)"].label
    assert isinstance(third, Masks)
    rows = read_label(third).array[0].any(axis=1)
    assert np.flatnonzero(rows).tolist() == [1, 2, 6, 7]
    assert any("3 images have several masks each" in note for note in cohort.notes)
    (way,) = (note for note in cohort.notes if "if these are people" in note)
    pattern = way.split("'")[1]
    people = Cohort.open(tmp_path, subject_pattern=pattern)
    assert {case.subject for case in people} == {"benign", "malignant", "normal"}
    assert cohort.unpaired == ()


def test_masks_in_twin_folders_are_united_too(tmp_path: Path) -> None:
    for name in ("benign", "malignant"):
        for n in (1, 2, 3):
            picture(tmp_path / f"images/{name}/{n}.png")
            picture(tmp_path / f"masks/{name}/{n}.png", 1)
        picture(tmp_path / f"masks/{name}/2_1.png", 6)
    cohort = Cohort.open(tmp_path)
    assert cohort.schema.classes == ("benign", "malignant")
    assert len({case.subject for case in cohort}) == 6
    assert pairs(cohort)["images/benign/2.png"] == "masks/benign/2.png+masks/benign/2_1.png"


def test_numbered_masks_that_cover_each_other_are_not_united(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    masks = Masks((picture(tmp_path / "a_mask.png", 1), picture(tmp_path / "a_mask_1.png", 1)))
    with pytest.raises(LabelError, match="shares 8 of 8") as caught:
        read_label(masks)
    assert caught.value.code == "masks-overlap"
    assert "--observer" in str(caught.value.fix)
    with pytest.raises(DelineateError, match="masks of different parts"):
        Cohort.open(tmp_path)


def test_a_table_names_masks_to_unite(tmp_path: Path) -> None:
    for name, row in (("a", None), ("m", 1), ("n", 6)):
        picture(tmp_path / f"{name}.png", row)
    (tmp_path / "cohort.csv").write_text("id,image,label\n1,a.png,m.png|n.png\n")
    (case,) = Cohort.open(tmp_path)
    assert case.label == Masks((tmp_path / "m.png", tmp_path / "n.png"))
    assert isinstance(case.label, Masks)


# --- folders ----------------------------------------------------------------------------------


def test_numbered_folders_are_subjects_and_sites_are_sites(tmp_path: Path) -> None:
    written(tmp_path / "a", "p1/*.png", "p1/*_mask.png!", "p2/*.png", "p2/*_mask.png!")
    cohort = Cohort.open(tmp_path / "a")
    assert {case.subject for case in cohort} == {"p1", "p2"}
    assert cohort.channels == ("image",)
    written(
        tmp_path / "b", "siteA/*.png", "siteA/*_mask.png!", "site2/x*.png", "site2/x*_mask.png!"
    )
    cohort = Cohort.open(tmp_path / "b")
    assert {case.site for case in cohort} == {"siteA", "site2"}
    assert len({case.subject for case in cohort}) == 6


def test_class_folders_above_subject_folders(tmp_path: Path) -> None:
    written(tmp_path, "benign/p*/scan.nii", "benign/p*/scan_seg.nii!")
    written(tmp_path, "malign/q*/scan.nii", "malign/q*/scan_seg.nii!")
    cohort = Cohort.open(tmp_path)
    assert {(case.class_name, case.subject) for case in cohort} == {
        *(("benign", f"benign/p{n}") for n in range(3)),
        *(("malign", f"malign/q{n}") for n in range(3)),
    }


def test_a_picture_may_be_called_roi_or_label_itself(tmp_path: Path) -> None:
    written(tmp_path, "ROI_*.png", "ROI_*_mask.png!")
    assert pairs(Cohort.open(tmp_path))["ROI_1.png"] == "ROI_1_mask.png"
    written(tmp_path / "b", "label_*.png", "label_*_seg.png!")
    assert len(Cohort.open(tmp_path / "b").labelled()) == 3


def test_a_folder_of_masks_for_one_image_is_united_unless_they_name_structures(
    tmp_path: Path,
) -> None:
    for case in ("a1", "b2"):
        picture(tmp_path / f"cells/{case}/images/{case}.png")
        volume(tmp_path / f"organs/{case}/ct.nii.gz")
        for n, name in enumerate(("x", "y", "z")):
            picture(tmp_path / f"cells/{case}/masks/{case[::-1]}{name}.png", 3 * n)
            volume(tmp_path / f"organs/{case}/segmentations/{name}.nii.gz", label=True)
    cells = Cohort.open(tmp_path / "cells")
    assert [len(case.label) for case in cells if isinstance(case.label, Masks)] == [3, 3]
    with pytest.raises(LayoutError) as caught:
        Cohort.open(tmp_path / "organs")
    assert caught.value.code == "no-pairs"


def test_a_class_of_one_picture_and_classes_below_a_folder(tmp_path: Path) -> None:
    written(
        tmp_path, *(f"top/{n}/{k}" for n in ("ill", "well") for k in ("x*.png", "x*_mask.png!"))
    )
    picture(tmp_path / "top/odd/x.png")
    picture(tmp_path / "top/odd/x_mask.png", 3)
    cohort = Cohort.open(tmp_path)
    assert cohort.schema.classes == ("ill", "odd", "well")
    assert len({case.subject for case in cohort}) == 7
    pattern = next(note for note in cohort.notes if "people" in note).split("'")[1]
    people = Cohort.open(tmp_path, subject_pattern=pattern)
    assert {case.subject for case in people} == {"ill", "odd", "well"}


def test_numbered_grades_are_classes_and_sides_are_not(tmp_path: Path) -> None:
    written(tmp_path / "a", *(f"grade {n}/{k}" for n in (1, 2) for k in ("x*.png", "x*_mask.png!")))
    assert Cohort.open(tmp_path / "a").schema.classes == ("grade 1", "grade 2")
    written(tmp_path / "b", *(f"{n}/{k}" for n in ("OD", "OS") for k in ("x*.png", "x*_mask.png!")))
    assert Cohort.open(tmp_path / "b").schema.classes == ()


# --- bids -----------------------------------------------------------------------------------


def bids(root: Path, masks: str, *people: str) -> Path:
    for name in people:
        for sequence in ("T1w", "FLAIR"):
            volume(root / f"{name}/anat/{name}_{sequence}.nii.gz")
        volume(root / f"{name}/func/{name}_task-rest_bold.nii.gz")
        volume(root / masks.format(name), label=True)
    return root


@pytest.mark.parametrize(
    "masks",
    [
        "derivatives/manual/{0}/anat/{0}_label-lesion_dseg.nii.gz",
        "derivatives/{0}/{0}_msk.nii.gz",
        "{0}/anat/{0}_label-L_desc-T1lesion_mask.nii.gz",
    ],
)
def test_bids_subjects_have_their_sequences_and_a_derived_mask(tmp_path: Path, masks: str) -> None:
    bids(tmp_path, masks, "sub-01", "sub-02", "sub-03")
    (tmp_path / "sub-03/anat/sub-03_FLAIR.nii.gz").unlink()
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tsex\tgroup\nsub-01\t61\tF\tMS\nsub-02\tn/a\tM\tMS\n"
    )
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, cohort.modalities) == ("bids", {"flair": "MR", "t1w": "MR"})
    assert [(c.id, c.subject, c.age, c.sex) for c in cohort] == [
        ("sub-01", "sub-01", 61.0, "F"),
        ("sub-02", "sub-02", None, "M"),
    ]
    assert len(cohort.labelled()) == 2
    assert cohort.unpaired == ("sub-03 (left out: no FLAIR)",)
    assert cohort["sub-01"].meta["group"] == "MS"


@pytest.mark.parametrize("folder", ["", "derivatives/"])
def test_names_of_bids_need_no_folders(tmp_path: Path, folder: str) -> None:
    for n in (1, 2):
        volume(tmp_path / f"sub-0{n}_T1w.nii.gz")
        volume(tmp_path / f"{folder}sub-0{n}_mask.nii.gz", label=True)
    assert pairs(Cohort.open(tmp_path)) == {
        f"sub-0{n}_T1w.nii.gz": f"{folder}sub-0{n}_mask.nii.gz" for n in (1, 2)
    }


def test_bids_sessions_spaces_and_raters(tmp_path: Path) -> None:
    for ses in ("01", "02"):
        name = f"sub-a_ses-{ses}"
        for space in ("", "_space-MNI"):
            volume(tmp_path / f"sub-a/ses-{ses}/anat/{name}{space}_T1w.nii.gz")
        for rater in ("rater1", "rater2"):
            place = f"derivatives/{rater}/sub-a/ses-{ses}"
            volume(tmp_path / f"{place}/{name}_space-MNI_label-wm_mask.nii.gz", label=True)
        volume(tmp_path / f"derivatives/prep/sub-a/{name}_space-MNI_desc-brain_mask.nii.gz", True)
    cohort = Cohort.open(tmp_path)
    assert [(case.id, case.subject) for case in cohort] == [
        ("sub-a_ses-01", "sub-a"),
        ("sub-a_ses-02", "sub-a"),
    ]
    assert "space-MNI" in str(cohort.cases[0].images["t1w"])
    assert "rater1" in str(cohort.cases[0].label)
    assert "rater2" in str(Cohort.open(tmp_path, observer="rater2").cases[0].label)


def test_glioma_sets_with_names_of_bids_keep_their_regions(tmp_path: Path) -> None:
    for n in range(3):
        for word in ("t1", "t1ce", "t2", "flair", "seg"):
            volume(tmp_path / f"sub-{n}/sub-{n}_{word}.nii.gz", label=word == "seg")
    cohort = Cohort.open(tmp_path)
    assert (cohort.layout, set(cohort.schema.regions)) == ("brats", {"WT", "TC", "ET"})


def test_bids_without_labels_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    bids(tmp_path, "{0}_seg.nii.gz", "sub-01")
    (tmp_path / "sub-01_seg.nii.gz").unlink()
    assert Cohort.open(tmp_path).layout == "scans"
    (case,) = Cohort.open(tmp_path, "bids")
    assert (list(case.images), case.label) == (["flair", "t1w"], None)


# --- several observers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "used", "observer", "other"),
    [
        (("x*_1stHO.png!", "x*_2ndHO.png!"), "x0_1stHO.png", "2nd", "x0_2ndHO.png"),
        (("x*_manual1.png!", "x*_manual2.png!"), "x0_manual1.png", "manual2", "x0_manual2.png"),
        (("x*_rater1.png!", "x*_rater2.png!"), "x0_rater1.png", "Rater 2", "x0_rater2.png"),
        (("x*_mask_rater_A.png!", "x*_mask_rater_B.png!"), "x0_mask_rater_A.png", "rater_b",
         "x0_mask_rater_B.png"),
        (("x*_label.png!", "x*_seg.png!"), "x0_label.png", "seg", "x0_seg.png"),
        (("x*_OR_seg.png!", "x*_MAJ_seg.png!"), "x0_MAJ_seg.png", "or", "x0_OR_seg.png"),
        (("1st_manual/x*.png!", "mask/x*.png!"), "1st_manual/x0.png", "mask", "mask/x0.png"),
        (("labels-ah/x*.ah.png!", "labels-vk/x*.vk.png!"), "labels-ah/x0.ah.png", "vk",
         "labels-vk/x0.vk.png"),
    ],
)  # fmt: skip
def test_which_observer_is_used_is_said_and_chosen(
    tmp_path: Path, labels: tuple[str, ...], used: str, observer: str, other: str
) -> None:
    written(tmp_path, "images/x*.png" if "/" in used else "x*.png", *labels)
    cohort = Cohort.open(tmp_path)
    assert cohort.cases[0].label == tmp_path / used
    assert cohort.unpaired == ()
    (note,) = (note for note in cohort.notes if "several observers" in note)
    assert "--observer" in note
    assert list(cohort.cases[0].meta["other_labels"].values()) == [other]
    chosen = Cohort.open(tmp_path, observer=observer)
    assert chosen.cases[0].label == tmp_path / other


def test_an_image_without_the_observer_asked_for_has_no_label(tmp_path: Path) -> None:
    written(tmp_path, "x*.png", "x*_rater1.png!", "x*_rater2.png!")
    (tmp_path / "x1_rater2.png").unlink()
    cohort = Cohort.open(tmp_path, observer="rater2")
    assert [case.label is not None for case in cohort] == [True, False, True]
    assert cohort.unpaired == ("x1.png (no label)",)
    (tmp_path / "x0_rater1.png").unlink()  # by default another observer's is taken, and counted
    (note,) = (note for note in Cohort.open(tmp_path).notes if "several observers" in note)
    assert "rater_1 (2 images) and rater_2 (1 images)" in note
    for wrong, code in (("third", "observer-unknown"), ("rater", "observer-ambiguous")):
        with pytest.raises(ConfigError) as caught:
            Cohort.open(tmp_path, observer=wrong)
        assert caught.value.code == code
    (tmp_path / "cohort.csv").write_text("image,label_quality\nx0.png,3\n")
    assert Cohort.open(tmp_path, "table").cases[0].label is None
    for layout in ("table", "scans"):
        with pytest.raises(ConfigError) as caught:
            Cohort.open(tmp_path, layout, observer="1")
        assert caught.value.code == "observer-unknown"


def test_a_table_has_a_column_for_each_observer(tmp_path: Path) -> None:
    written(tmp_path, "x*.png", "a*.png!", "b*.png!")
    table = tmp_path / "list.csv"
    table.write_text("image,label_first,label_second\nx0.png,a0.png,b0.png\nx1.png,a1.png,\n")
    cohort = Cohort.open(table)
    assert [case.label for case in cohort] == [tmp_path / "a0.png", tmp_path / "a1.png"]
    assert any("--observer takes those of label_second" in note for note in cohort.notes)
    second = Cohort.open(table, observer="second")
    assert [case.label for case in second] == [tmp_path / "b0.png", None]


def test_chase_is_read_by_either_observer(real_data: RealData) -> None:
    for observer, used in ((None, "1stHO"), ("2nd", "2ndHO")):
        cohort = Cohort.open(real_data("chase-db1"), observer=observer)
        assert {Path(str(case.label)).stem.split("_")[-1] for case in cohort} == {used}


def test_every_verb_says_and_takes_the_observer(tmp_path: Path) -> None:
    from delineate.tasks.audit import audit
    from delineate.tasks.evaluate import evaluate

    data = tmp_path / "eyes"
    for n in range(3):
        for name, row in ((f"x{n}", None), (f"x{n}_1stHO", 2), (f"x{n}_2ndHO", 7)):
            picture(data / f"{name}.png", row)
        picture(tmp_path / f"masks/x{n}.png", 7)
    said: list[str] = []
    audit(data, out=tmp_path / "audit", say=said.append)
    assert any("used: 1stho (3 images); --observer takes one of: 2ndho" in one for one in said)
    for observer, dice in ((None, 0.0), ("2nd", 1.0)):
        said.clear()
        out = tmp_path / f"scores-{observer}"
        evaluate(tmp_path / "masks", data, out, observer=observer, resamples=100, say=said.append)
        with (out / "cases.csv").open() as stream:
            assert {float(row["dice"]) for row in csv.DictReader(stream)} == {dice}
        assert any("--observer takes" in one for one in said)


def test_masks_that_give_a_pixel_two_values_are_not_united(tmp_path: Path) -> None:
    for name, columns, value in (("a_mask.png", slice(0, 5), 1), ("a_mask_1.png", slice(4, 8), 2)):
        array = np.zeros((8, 8), np.uint8)
        array[:, columns] = value
        Image.fromarray(array).save(tmp_path / name)
    with pytest.raises(LabelError, match="1 and 2 share 8 voxels") as caught:
        read_label(Masks((tmp_path / "a_mask.png", tmp_path / "a_mask_1.png")))
    assert caught.value.code == "label-overlap"


def test_labels_that_change_behind_their_header_are_read_again(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    for name in ("a.mhd", "a_seg.mhd"):
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(array * (name == "a.mhd")), str(tmp_path / name)
        )
    voxels = tmp_path / "a_seg.raw"
    voxels.write_bytes(bytes([0, 3] * 32))
    assert [label.value for label in Cohort.open(tmp_path).schema.labels] == [3]
    voxels.write_bytes(bytes([0, 4] * 32))
    assert [label.value for label in Cohort.open(tmp_path).schema.labels] == [4]
