"""Cohort: opening, choosing, hashing, and folders that are not what they should be."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.core.case import Case
from delineate.core.errors import ConfigError, InputError, LayoutError
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.findings.examine import examine


def nifti(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), value, np.uint8), np.eye(4)), path)
    return path


def pairs(root: Path, *names: str) -> None:
    for name in names:
        nifti(root / f"images/{name}.nii")
        nifti(root / f"masks/{name}.nii", 1)


def stack(name: str, length: int) -> Case:
    files = tuple(Path(f"{name}/{n}.png") for n in range(length))
    masks = tuple(Path(f"{name}/{n}_mask.png") for n in range(length))
    return Case(name, name, {"rgb": files}, masks, class_name="x")


def cohort_of(*cases: Case) -> Cohort:
    return Cohort(Path("/data"), "folder", cases, Schema(labels=(Label("a", 1),)))


def test_subset_keeps_the_order_asked_for_and_names_unknown_ids(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b", "c")
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort.subset(["c", "a"])] == ["c", "a"]
    with pytest.raises(InputError, match="nobody") as caught:
        cohort.subset(["a", "nobody"])
    assert caught.value.code == "case-unknown"
    assert caught.value.fix


def test_labelled(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    (tmp_path / "masks/b.nii").unlink()
    cohort = Cohort.open(tmp_path)
    assert [case.id for case in cohort.labelled()] == ["a"]


def test_slices_keep_the_subject() -> None:
    flat = cohort_of(stack("s1", 2), stack("s2", 1)).slices()
    assert [(case.id, case.subject) for case in flat] == [
        ("s1_slice001", "s1"),
        ("s1_slice002", "s1"),
        ("s2_slice001", "s2"),
    ]
    assert flat["s1_slice002"].images == {"rgb": Path("s1/1.png")}
    assert flat["s1_slice002"].label == Path("s1/1_mask.png")
    with pytest.raises(InputError, match="volumes"):
        cohort_of(Case("v", "v", {"t1": Path("v.nii")})).slices()


def test_hash_follows_content_and_not_place(tmp_path: Path) -> None:
    for place in ("here", "there"):
        pairs(tmp_path / place, "a", "b")
    here, there = Cohort.open(tmp_path / "here"), Cohort.open(tmp_path / "there")
    assert here.hash() == there.hash()
    assert here.subset(["a"]).hash() != here.hash()
    before = here.hash()
    nifti(tmp_path / "here/masks/a.nii", 2)  # another label value, the same size
    assert here.hash() != before
    site = [dataclasses.replace(case, site="X") for case in there]
    assert there.with_cases(site).hash() != before


def test_hash_names_a_file_that_is_gone(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    cohort = Cohort.open(tmp_path)
    (tmp_path / "images/a.nii").unlink()
    with pytest.raises(InputError, match=r"a\.nii") as caught:
        cohort.hash()
    assert caught.value.code == "file-missing"


@pytest.mark.parametrize("name", ["../evil", "a/b", "a\\b", ".hidden", "", "x" * 201, "a\nb"])
def test_ids_that_cannot_name_a_file_are_refused(name: str) -> None:
    with pytest.raises(LayoutError) as caught:
        cohort_of(Case(name, "s", {"t1": Path("x.nii")}))
    assert caught.value.code == "case-id"


def test_ids_come_once() -> None:
    with pytest.raises(LayoutError, match="s1") as caught:
        cohort_of(stack("s1", 1), stack("s1", 2))
    assert caught.value.code == "case-id-twice"


# --- folders that are not what they should be -------------------------------------------------


def test_nothing_there_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(LayoutError) as caught:
        Cohort.open(tmp_path / "nowhere")
    assert caught.value.code == "no-folder"
    with pytest.raises(LayoutError) as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "empty"


def test_an_unknown_folder_is_told_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LayoutError) as caught:
        Cohort.open(tmp_path)
    assert caught.value.code == "layout-unknown"
    for word in ("notes.txt", "dataset.json", "kaggle_3m", "BraTS", "DICOM", "table"):
        assert word in str(caught.value)


def test_an_npz_is_told_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    for root in (tmp_path, tmp_path / "x.npz"):
        with pytest.raises(LayoutError) as caught:
            Cohort.open(root)
        assert "one folder a class" in str(caught.value.fix)


def test_a_layout_that_was_asked_for_must_fit(tmp_path: Path) -> None:
    pairs(tmp_path, "a")
    assert Cohort.open(tmp_path, "folder").layout == "folder"
    with pytest.raises(LayoutError, match="Kaggle") as caught:
        Cohort.open(tmp_path, "lgg")
    assert caught.value.code == "layout-mismatch"
    with pytest.raises(ConfigError, match="folder"):
        Cohort.open(tmp_path, "foldr")


def test_links_that_leave_the_root_are_not_followed(tmp_path: Path) -> None:
    secret = nifti(tmp_path / "secret.nii")
    root = tmp_path / "root"
    pairs(root, "a")
    (root / "images/b.nii").symlink_to(secret)
    (root / "images/c.nii").symlink_to(root / "images/a.nii")
    (root / "images/gone.nii").symlink_to(tmp_path / "gone.nii")
    (root / "more").symlink_to(tmp_path)
    cohort = Cohort.open(root)
    assert [case.id for case in cohort] == ["a", "c"]
    assert set(cohort.unpaired) == {
        "images/c.nii (no label)",
        "images/b.nii (link that leaves the folder)",
        "images/gone.nii (link to nothing)",
        "more (link that leaves the folder)",
    }
    (note,) = (note for note in cohort.notes if "3 links were not followed" in note)
    assert "cp -rL FOLDER COPY" in note
    (finding,) = (f for f in examine(cohort)["findings"] if "link that leaves" in f["message"])
    assert "name the files in a table" in finding["fix"]


def test_labels_that_are_links_out_of_the_folder_are_told_with_the_way_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    pairs(root, "a", "b")
    for name in "ab":
        moved = (root / f"masks/{name}.nii").rename(tmp_path / f"{name}.nii")
        (root / f"masks/{name}.nii").symlink_to(moved)
    with pytest.raises(LayoutError) as caught:
        Cohort.open(root, "folder")
    assert "links that leave the folder" in str(caught.value.fix)
    assert "cp -rL" in str(caught.value.fix)
    (root / "list.csv").write_text("image,label\nimages/a.nii,masks/a.nii\n")  # the way out
    assert len(Cohort.open(root / "list.csv").labelled()) == 1


def test_unicode_forms_and_capitals_of_suffixes_do_not_part_names(tmp_path: Path) -> None:
    composed, parted = (unicodedata.normalize(form, "Zürich_é1") for form in ("NFC", "NFD"))
    pairs(tmp_path / "folder", "x")
    (tmp_path / "folder/images/x.nii").rename(tmp_path / f"folder/images/{parted}.nii")
    (tmp_path / "folder/masks/x.nii").rename(tmp_path / f"folder/masks/{composed}.NII")
    (case,) = Cohort.open(tmp_path / "folder")
    assert (case.id, case.label is not None) == (composed, True)
    for name in (f"{parted}.NII.GZ", "b.nii.gz"):
        nifti(tmp_path / f"table/{parted}/made.nii.gz", 1).rename(
            tmp_path / f"table/{parted}/{name}"
        )
    (tmp_path / "table/cohort.csv").write_text(
        f"image,subject\n{composed}/{composed}.nii.gz,{parted}\n{composed}/b.nii.gz,{composed}\n",
        encoding="utf-8",
    )
    cohort = Cohort.open(tmp_path / "table")
    assert [case.id for case in cohort] == [composed, "b"]
    assert {case.subject for case in cohort} == {composed}
    document = {
        "modality": {"0": "CT"},
        "labels": {"0": "bg", "1": "x"},
        "training": [{"image": f"{composed}/b.nii.gz", "label": f"./{composed}/{composed}.nii.gz"}],
    }
    (tmp_path / "table/cohort.csv").unlink()
    (tmp_path / "table/dataset.json").write_text(json.dumps(document))
    assert len(Cohort.open(tmp_path / "table").labelled()) == 1


def test_a_folder_of_links_alone_says_so(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.nii").symlink_to(nifti(tmp_path / "a.nii"))
    with pytest.raises(LayoutError) as caught:
        Cohort.open(root)
    assert "a.nii (link that leaves the folder)" in str(caught.value.fix)


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "._a")
    nifti(tmp_path / ".cache/images/z.nii")
    assert [case.id for case in Cohort.open(tmp_path)] == ["a"]


def test_any_column_of_the_table_can_be_the_class(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    table = "image,class,histology,sex\na.png,x,1,F\nb.png,y,2,M\nc.png,y,NA,F\n"
    (tmp_path / "cohort.csv").write_text(table)
    by = {c: Cohort.open(tmp_path, class_column=c) for c in ("histology", "sex")}
    assert [case.class_name for case in by["histology"]] == ["1", "2", None]
    assert by["histology"].schema.classes == ("1", "2")
    assert [case.class_name for case in by["sex"]] == ["F", "M", "F"]
    with pytest.raises(ConfigError, match=r"(?s)got 'grade'.*columns here: histology"):
        Cohort.open(tmp_path, class_column="grade")


def test_a_stack_of_slices_is_a_cell_of_a_table(tmp_path: Path) -> None:
    for name in ("a", "b", "c; d"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "cohort.csv").write_text("id,image\n1,a.png;b.png\n2,c; d.png\n")
    first, second = (case.images["image"] for case in Cohort.open(tmp_path))
    assert first == (tmp_path / "a.png", tmp_path / "b.png")
    assert second == tmp_path / "c; d.png"
    many = [f"slice{i:04d}.png" for i in range(60)]  # longer than a file's name may be
    for name in many:
        (tmp_path / name).touch()
    (tmp_path / "cohort.csv").write_text(f"id,image\n1,{';'.join(many)}\n")
    assert len(Cohort.open(tmp_path).cases[0].images["image"]) == 60
    (tmp_path / "cohort.csv").write_text("id,image\n1,a.png;z.png\n")
    with pytest.raises(LayoutError, match=r"no such file: z\.png"):
        Cohort.open(tmp_path)


def test_subject_pattern(tmp_path: Path) -> None:
    pairs(tmp_path, "p1_left", "p1_right", "p2_left")
    cohort = Cohort.open(tmp_path, subject_pattern=r"(p\d)_")
    assert [case.subject for case in cohort] == ["p1", "p1", "p2"]
    assert not any("own subject" in note for note in cohort.notes)
    for wrong in (r"p\d", r"(p", r"(p1)_"):
        with pytest.raises(ConfigError) as caught:
            Cohort.open(tmp_path, subject_pattern=wrong)
        assert caught.value.code == "subject-pattern"


def test_an_opening_says_what_was_given_and_opens_as_the_cohort_does(tmp_path: Path) -> None:
    pairs(tmp_path, "p1_left", "p1_right")
    how = Opening(layout="folder", subject_pattern=r"(p\d)_")
    assert dict(how.non_default()) == {"layout": "folder", "subject_pattern": r"(p\d)_"}
    assert how.cohort(tmp_path) == Cohort.open(tmp_path, "folder", r"(p\d)_")
    assert not dict(Opening().non_default())
