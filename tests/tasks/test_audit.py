"""The audit as a verb: what it writes, says and refuses, as training would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from delineate.cli.main import main
from delineate.core.errors import AuditError, ConfigError, DelineateError, LayoutError, OutputError
from delineate.data.cohort import Cohort
from delineate.findings.audit import passed, run_audit
from delineate.reports import audit as page
from delineate.tasks.audit import audit
from delineate.training.preparing import plan_preparation, prepare_case

SHAPE = (12, 12, 12)


def save(path: Path, array: np.ndarray, shift: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4)
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(array, affine), path)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 999, SHAPE).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for n in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[2 + n : 8, 3:8, 4:8] = 1
        label[9, 9, 9] = 2
        save(root / f"imagesTr/c{n}.nii", scan(n))
        save(root / f"labelsTr/c{n}.nii", label)
    names = [f"c{n}.nii" for n in range(4)]
    document = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [{"image": f"imagesTr/{n}", "label": f"labelsTr/{n}"} for n in names],
    }
    (root / "dataset.json").write_text(json.dumps(document))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_sound_data_set(data: Path, tmp_path: Path) -> None:
    before, said = contents(data), []
    result = audit(data, out=tmp_path / "out", say=said.append)
    assert contents(data) == before
    assert (result["cases"], result["blocking"], result["warning"]) == (4, 0, 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]
    written = json.loads((tmp_path / "out/audit.json").read_text())
    assert written["facts"]["labels"][0]["cases"] == 4
    assert [f["code"] for f in written["findings"]] == [f["code"] for f in result["findings"]]
    assert "0 blocking" in said[0]
    assert [line[:8] for line in said[1:]] == ["  note: ", "    -> n"]
    assert passed(tmp_path / "out")


def test_blocking_findings_are_raised_after_everything_is_written(
    data: Path, tmp_path: Path
) -> None:
    save(data / "labelsTr/c1.nii", np.zeros((12, 12, 11), np.uint8))
    save(data / "labelsTr/stray.nii", np.zeros(SHAPE, np.uint8))
    said: list[str] = []
    with pytest.raises(AuditError, match=r"labelsTr/c1\.nii") as caught:
        run_audit(Cohort.open(data), tmp_path / "run", write_page=page.write, say=said.append)
    assert caught.value.exit_code == 2
    assert caught.value.code == "label-shape"
    assert str(tmp_path / "run/audit.html") in str(caught.value)
    assert any("unpaired" in line for line in said)
    assert "label-shape" in (tmp_path / "run/audit.html").read_text("utf-8")
    written = json.loads((tmp_path / "run/audit.json").read_text())
    assert written["findings"][0]["severity"] == "blocking"
    assert passed(tmp_path / "run") is None
    assert passed(tmp_path / "nowhere") is None


def test_at_the_command_line(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main(["audit", str(data)]) == 0
    assert (here / "audit-study/audit.html").is_file()
    shown = capsys.readouterr()
    assert not shown.out
    assert "note: every file is taken as its own subject" in shown.err
    assert "[subjects-unknown]\n    -> name subjects with --subject-pattern" in shown.err
    (data / "imagesTr/c2.nii").write_bytes(b"damaged")
    assert main(["audit", str(data), "--out", "again", "--layout", "msd"]) == 2
    assert "imagesTr/c2.nii" in capsys.readouterr().err
    assert (here / "again/audit.json").is_file()


def test_nothing_is_written_into_the_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(data)
    for out in (data, data / "audit"):
        with pytest.raises(OutputError) as caught:
            audit(data, out=out)
        assert caught.value.code == "output-in-input"
    monkeypatch.chdir(data)
    with pytest.raises(OutputError):
        audit(data)
    assert contents(data) == before


def test_what_is_no_cohort_is_told_before_anything_is_written(tmp_path: Path) -> None:
    for path, settings, kind in (
        (tmp_path / "absent", {}, LayoutError),
        (tmp_path, {}, LayoutError),
        (tmp_path, {"layout": "msdd"}, ConfigError),
    ):
        with pytest.raises(kind):
            audit(path, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_pattern_names_the_subjects(data: Path, tmp_path: Path) -> None:
    assert audit(data, out=tmp_path / "a", subject_pattern=r"c(\d)")["subjects"] == 4
    assert audit(data, out=tmp_path / "b", subject_pattern="(c)")["subjects"] == 1


def test_names_of_files_need_not_be_text(data: Path, tmp_path: Path) -> None:
    odd = data / "labelsTr" / "caf\udce9.nii"
    try:
        odd.write_bytes(b"")
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    audit(data, out=tmp_path / "out")
    written = json.loads((tmp_path / "out/audit.json").read_text())
    assert any("caf" in place for f in written["findings"] for place in f["where"])


def label_of(root: Path, value: float = 1, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.float32)
    label[2:8, 3:8, 4:8] = value
    return label


FAULTS: dict[str, Callable[[Path], object]] = {
    "none": lambda r: None,
    "label shape": lambda r: save(r / "labelsTr/c1.nii", label_of(r, shape=(12, 12, 11))),
    "label elsewhere": lambda r: save(r / "labelsTr/c1.nii", label_of(r), shift=0.01),
    "label nearly there": lambda r: save(r / "labelsTr/c1.nii", label_of(r), shift=0.0005),
    "label value": lambda r: save(r / "labelsTr/c1.nii", label_of(r, 3)),
    "label fraction": lambda r: save(r / "labelsTr/c1.nii", label_of(r, 0.5)),
    "label empty": lambda r: save(r / "labelsTr/c1.nii", label_of(r, 0)),
    "label cut": lambda r: (r / "labelsTr/c1.nii").write_bytes(b"\0" * 400),
    "image cut": lambda r: (r / "imagesTr/c1.nii").write_bytes(
        (r / "imagesTr/c1.nii").read_bytes()[:-9]
    ),
    "image NaN": lambda r: save(r / "imagesTr/c1.nii", np.where(scan(1) > 990, np.nan, scan(1))),
    "image infinite": lambda r: save(r / "imagesTr/c1.nii", np.where(scan(1) > 990, np.inf, 1.0)),
    "image constant": lambda r: save(r / "imagesTr/c1.nii", np.ones(SHAPE, np.float32)),
    "other intensities": lambda r: save(r / "imagesTr/c1.nii", scan(1) * 1e6),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_audit_blocks_exactly_what_preparation_would_refuse(
    data: Path, tmp_path: Path, name: str
) -> None:
    plan = plan_preparation(Cohort.open(data))
    FAULTS[name](data)
    cohort = Cohort.open(data)
    refused = False
    try:
        prepare_case(cohort["c1"], plan, cohort.schema)
    except DelineateError:
        refused = True
    try:
        run_audit(cohort, tmp_path / "out", write_page=page.write)
        blocked = False
    except AuditError:
        blocked = True
    assert blocked == refused == (name not in ("none", "label nearly there", "label empty",
                                               "other intensities"))  # fmt: skip
