"""Whatever blocks training names the option or command that settles it, and that settles it."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from scipy.ndimage import gaussian_filter

import delineate.findings
from delineate.core.errors import AuditError, ConfigError, InputError
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.findings.examine import examine
from delineate.tasks.audit import audit
from delineate.tasks.train import train

SHAPE = (12, 12, 12)


def scan(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.rint(1000 * (noise - noise.min()) / np.ptp(noise)).astype(np.int16)


def mask(value: int = 1, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[3:8, 3:8, 4:8] = value
    return label


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six cases in a table, of people and of declared parts, with nothing wrong."""
    rows = []
    for n in range(6):
        rows.append(
            {
                "id": f"c{n}",
                "image": save(tmp_path / f"data/files/i{n}.nii", scan(n)),
                "label": save(tmp_path / f"data/files/l{n}.nii", mask()),
                "subject": f"p{n}",
                "split": "test" if n > 3 else "train",
            }
        )
    write(tmp_path / "data", rows)
    return tmp_path / "data/cases.csv"


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "cases.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def change(folder: Path, number: int, **values: str) -> None:
    with (folder / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rows[number] |= values
    write(folder, rows)


def two_eyes(folder: Path) -> None:
    with (folder / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for n, row in enumerate(rows):
        row["id"] = f"{n // 2}{'LR'[n % 2]}"
        del row["subject"], row["split"]
    write(folder, rows)


def near_copy(folder: Path) -> None:
    image = scan(0).astype(np.float32)
    save(folder / "files/i5.nii", image + np.random.default_rng(0).normal(size=SHAPE))


def all_empty(folder: Path) -> None:
    for n in range(6):
        save(folder / f"files/l{n}.nii", mask() * 0)


def named_nearly_alike(folder: Path) -> None:
    for n in range(6):
        label = sitk.GetImageFromArray(mask().T)
        label.SetMetaData("Segment0_Name", "Liver" if n < 5 else "liver")
        label.SetMetaData("Segment0_LabelValue", "1")
        label.SetMetaData("Segment0_Layer", "0")
        label.SetOrigin((0.0, 0.0, 0.0))
        label.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # the grid of the images, in LPS
        sitk.WriteImage(label, str(folder / f"files/l{n}.seg.nrrd"))
        change(folder, n, label=f"files/l{n}.seg.nrrd")


def two_palettes(folder: Path) -> None:
    red, green = (255, 0, 0), (0, 255, 0)
    for n in range(6):
        grey = Image.fromarray((scan(n)[..., 5] // 4).astype(np.uint8))
        grey.save(folder / f"files/i{n}.png")
        both = np.maximum(mask()[..., 5], np.roll(mask(2)[..., 5], 4, axis=0))
        label = Image.fromarray(both)
        label.putpalette([0, 0, 0, *(red + green if n < 5 else green + red)])
        label.save(folder / f"files/l{n}.png")
        change(folder, n, image=f"files/i{n}.png", label=f"files/l{n}.png")


#: By code: what brings the finding about.
BLOCKING: dict[str, Callable[[Path], object]] = {
    "subjects-suspected": two_eyes,
    "subject-in-two-parts": lambda f: change(f, 5, subject="p0"),
    "duplicate-across-splits": lambda f: save(f / "files/i5.nii", scan(0)),
    "near-duplicate-across-splits": near_copy,
    "channels-differ": lambda f: save(f / "files/i5.nii", np.stack([scan(5), scan(6)], -1)),
    "dimensions-differ": lambda f: (
        save(f / "files/i5.nii", scan(5)[..., 0]),
        save(f / "files/l5.nii", mask()[..., 5]),
    ),
    "labels-all-empty": all_empty,
    "label-names-alike": named_nearly_alike,
    "label-palettes": two_palettes,
    "label-shape": lambda f: save(f / "files/l5.nii", mask(shape=(12, 12, 11))),
    "voxels-not-finite": lambda f: save(f / "files/i5.nii", np.full(SHAPE, np.nan, np.float32)),
    "image-constant": lambda f: save(f / "files/i5.nii", np.ones(SHAPE, np.float32)),
    "nifti-truncated": lambda f: (f / "files/i5.nii").write_bytes(
        (f / "files/i5.nii").read_bytes()[:-9]
    ),
}


def blocking(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [f for f in result["findings"] if f["severity"] == "blocking"]


@pytest.mark.parametrize("code", BLOCKING)
def test_a_blocking_finding_names_what_settles_it_and_that_settles_it(
    data: Path, tmp_path: Path, code: str
) -> None:
    assert not blocking(examine(Cohort.open(data)))
    BLOCKING[code](data.parent)
    result = examine(Cohort.open(data))
    found = blocking(result)
    assert code in [f["code"] for f in found]
    for finding in found:
        assert re.search(r"--[a-z]|`delineate [a-z]", finding["fix"]), finding
    if code == "labels-all-empty":  # no case can be spared
        return
    out = tmp_path / "out"
    with pytest.raises(AuditError) as caught:
        audit(data, out=out)
    ways = re.findall(r"--(?:exclude \S+|drop-duplicates|subject-pattern '.*?')", str(caught.value))
    assert ways
    for option, *value in map(shlex.split, ways):
        how = Opening(
            exclude=Path(value[0]) if option == "--exclude" else None,
            subject_pattern=value[0] if option == "--subject-pattern" else None,
        )
        drop = option == "--drop-duplicates"
        assert not blocking(examine(how.cohort(data), drop_duplicates=drop)), option


def test_every_code_that_can_block_is_tried_here() -> None:
    """Codes that stand in the source beside a severity that may be blocking."""
    text = "".join(p.read_text() for p in Path(delineate.findings.__path__[0]).glob("*.py"))
    severity = r'(?:"blocking"|severity|"blocking" if all_empty else "note")'
    codes = set(re.findall(rf'"([a-z-]+)"(?: if all_empty else "[a-z-]+")?,\s*{severity}', text))
    codes -= {"modality-mismatch"}  # a warning or a note
    copies = re.findall(r'f"\{kind_of_copy\}-([a-z-]+)", "blocking"', text)
    codes |= {f"{same}-{rest}" for rest in copies for same in ("duplicate", "near-duplicate")}
    assert len(codes) >= 6
    assert codes <= BLOCKING.keys() | {"label-all-ignored"}


def test_labels_without_one_annotated_voxel_name_what_to_do(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"imagesTr/c{n}_0000.nii", scan(n))
        save(tmp_path / f"labelsTr/c{n}.nii", np.full(SHAPE, 2, np.uint8))
    document = {
        "channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1, "ignore": 2},
        "numTraining": 3, "file_ending": ".nii",
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(document))
    found = {f["code"]: f["fix"] for f in blocking(examine(Cohort.open(tmp_path)))}
    assert "`delineate audit`" in found["label-all-ignored"]


def test_a_list_leaves_cases_out_and_the_cohort_says_so(data: Path, tmp_path: Path) -> None:
    listed = tmp_path / "out.txt"
    listed.write_text("# mine\n\nc1  # moved\nc4\n", encoding="utf-8")
    cohort = Opening(exclude=listed).cohort(data)
    assert [case.id for case in cohort] == ["c0", "c2", "c3", "c5"]
    assert cohort.to_dict()["excluded"] == {"c1": "moved", "c4": ""}
    listed.write_text("c1\nc44\n")
    with pytest.raises(ConfigError, match=r"line 2.*'c44'") as caught:
        Opening(exclude=listed).cohort(data)
    assert "c4" in (caught.value.fix or "")
    with pytest.raises(ConfigError) as caught:
        Opening(exclude=tmp_path / "absent.txt").cohort(data)
    assert caught.value.code == "exclude-list"
    listed.write_text("".join(f"c{n}\n" for n in range(6)))
    with pytest.raises(InputError, match="all 6 are left out"):
        Opening(exclude=listed).cohort(data)


def test_the_list_that_an_audit_writes_keeps_what_was_left_out_before(
    data: Path, tmp_path: Path
) -> None:
    BLOCKING["label-shape"](data.parent)
    listed = tmp_path / "mine.txt"
    listed.write_text("c1 # moved\n")
    with pytest.raises(AuditError, match="exclude"):
        audit(data, out=tmp_path / "out", exclude=listed)
    written = tmp_path / "out/exclude.txt"
    assert written.read_text().splitlines()[1:] == ["c1  # moved", "c5  # label-shape"]
    assert audit(data, out=tmp_path / "out", exclude=written)["cases"] == 4
    assert not written.exists(), "nothing blocks, so there is nothing to leave out"


def test_of_copies_one_stays_where_it_trains_and_none_whose_class_is_open(
    data: Path, tmp_path: Path
) -> None:
    save(data.parent / "files/i5.nii", scan(0))
    save(data.parent / "files/i3.nii", scan(2))
    with data.open() as stream:
        rows = list(csv.DictReader(stream))
    for n, row in enumerate(rows):
        row["class"] = "b" if n == 3 else "a"
    write(data.parent, rows)
    result = examine(Cohort.open(data), drop_duplicates=True)
    assert result["excluded"] == {
        "c5": "copy of c0", "c2": "copies with the classes a, b",
        "c3": "copies with the classes a, b",
    }  # fmt: skip
    assert result["cases"] == 3
    assert not blocking(result)


def test_training_leaves_copies_out_and_its_folder_and_page_say_which(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delineate.reports import training
    from delineate.targets import results
    from delineate.training.job import Job

    save(data.parent / "files/i5.nii", scan(0))
    with pytest.raises(ConfigError, match="no-audit"):
        train(data, steps=1, out=tmp_path / "run", drop_duplicates=True, audit=False)
    with pytest.raises(AuditError):
        train(data, steps=1, out=tmp_path / "run")
    seen = []
    monkeypatch.setattr(
        Job, "run", lambda job, cache, finish=False: seen.append(len(job.cohort)) or {}
    )
    for _ in range(2):  # a run that goes on leaves out the same
        train(data, steps=1, out=tmp_path / "run", drop_duplicates=True)
    assert seen == [5, 5]
    assert "c5  # copy of c0" in (tmp_path / "run/excluded.txt").read_text()
    assert json.loads((tmp_path / "run/cohort.json").read_text())["excluded"] == {
        "c5": "copy of c0"
    }
    page = training.write(tmp_path / "run/report.html", tmp_path / "run", results).read_text(
        "utf-8"
    )
    assert "c5: copy of c0" in page


def test_eyes_of_one_child_are_not_parted_unawares(data: Path, tmp_path: Path) -> None:
    two_eyes(data.parent)
    with pytest.raises(AuditError, match=r"0L and 0R\) differ in left and right") as caught:
        audit(data, out=tmp_path / "a")
    assert "--subject-pattern '^(.+?)(?:L|R)?$'" in str(caught.value)
    assert audit(data, out=tmp_path / "a", subject_pattern="^(.+?)(?:L|R)?$")["subjects"] == 3
    said = audit(data, out=tmp_path / "a", subject_pattern="(.+)")
    assert said["subjects"] == 6
    remarks = json.loads((tmp_path / "a/audit.json").read_text())["facts"]["remarks"]
    assert "subjects are taken from case ids by '(.+)'" in remarks


def test_without_an_audit_suspected_subjects_are_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from delineate.training.job import Job

    two_eyes(data.parent)
    monkeypatch.setattr(Job, "run", lambda job, cache, finish=False: {})
    said: list[str] = []
    train(data, steps=1, out=tmp_path / "run", audit=False, say=said.append)
    assert any("--subject-pattern '^(.+?)(?:L|R)?$'" in line for line in said)
