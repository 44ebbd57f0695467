"""The key of a site: made once, for its owner alone, beside the data and never in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from delineate.core.errors import ConfigError, OutputError
from delineate.data import site_key
from delineate.data.opening import Opening
from delineate.data.site_key import existing, find


@pytest.fixture(autouse=True)
def name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that whoever tests has above the folder of the tests is not taken for theirs."""
    monkeypatch.setattr(site_key, "NAME", f"{site_key.NAME}-of-tests")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "home/config/site-key"
    monkeypatch.setattr(site_key, "_home_file", lambda: file)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "hospital/2026/scans"
    folder.mkdir(parents=True)
    return folder


def test_a_key_is_made_once_beside_the_data_for_its_owner_alone(data: Path, home: Path) -> None:
    assert existing(data) is None
    key = find(data)
    assert key.file == data.parent / site_key.NAME
    assert str(key.file) in key.remark
    assert not list(data.iterdir())
    assert not home.exists()
    assert [p.name for p in data.parent.iterdir() if p.is_file()] == [site_key.NAME]
    if os.name == "posix":
        assert stat.S_IMODE(key.file.stat().st_mode) == 0o600
    again = find(data)
    assert (again.secret, again.remark) == (key.secret, "")
    assert len(key.secret) == 32
    assert key.mark("1234567") == again.mark("1234567") != key.mark("1234568")
    assert key.id not in key.secret.hex()


def test_folders_of_one_site_share_a_key_that_lies_above_them(data: Path, home: Path) -> None:
    key = find(data)
    key.file.rename(data.parents[1] / site_key.NAME)
    other = data.parents[1] / "2027/scans"
    other.mkdir(parents=True)
    assert find(other).id == find(data).id == key.id


def test_two_keys_have_no_mark_in_common(data: Path, tmp_path: Path, home: Path) -> None:
    one, other = find(data), find(data, tmp_path / "mine.key")
    assert other.file == tmp_path / "mine.key"
    assert one.id != other.id
    assert one.mark("1234567") != other.mark("1234567")
    assert find(data, tmp_path / "mine.key").id == other.id


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_where_nothing_may_be_written_beside_the_data_the_key_is_the_users_and_that_is_said(
    data: Path, home: Path
) -> None:
    data.parent.chmod(0o555)
    try:
        key = find(data)
    finally:
        data.parent.chmod(0o755)
    assert key.file == home
    assert str(data.parent) in key.remark
    assert str(home) in key.remark
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    # The next folder of this user has the same, written beside or not.
    assert find(data).id == key.id


def test_no_key_lies_in_a_folder_that_may_be_passed_on(tmp_path: Path, home: Path) -> None:
    run = tmp_path / "bench"
    (run / "tables").mkdir(parents=True)
    assert find(run / "tables", away_from=run).file == home
    assert not list(run.rglob(f"{site_key.NAME}*"))
    (run / site_key.NAME).write_text("0" * 64)
    assert find(run / "tables", away_from=run).file == home


def test_without_any_place_for_a_key_the_option_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(site_key, "_home_file", lambda: tmp_path / "file/config/site-key")
    monkeypatch.setattr(site_key, "_writable", lambda folder: False)
    with pytest.raises(OutputError, match="key") as caught:
        find(data)
    assert "--site-key" in (caught.value.fix or "")


@pytest.mark.parametrize("text", ["", "secret", "0" * 63, "é" * 64])
def test_a_file_that_is_no_key_is_refused(
    data: Path, tmp_path: Path, home: Path, text: str
) -> None:
    (tmp_path / "wrong").write_text(text)
    with pytest.raises(ConfigError) as caught:
        find(data, tmp_path / "wrong")
    assert caught.value.code == "site-key"


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_key_that_everybody_may_read_is_said(data: Path, home: Path) -> None:
    find(data).file.chmod(0o644)
    assert "chmod 600" in find(data).remark
    (data.parent / site_key.NAME).chmod(0o640)  # of a group: a team
    assert find(data).remark == ""


def dicom(path: Path, patient: str) -> None:
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID, data.StudyInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.PatientName, data.Modality = patient, "Planted^Name", "CT"
    data.Rows = data.Columns = 8
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelData = np.arange(64, dtype=np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def test_a_patient_has_one_name_over_runs_and_folders_and_no_number_leads_to_it(
    data: Path, home: Path
) -> None:
    import hashlib
    import json

    dicom(data / "a/1.dcm", "1234567")
    dicom(data / "b/1.dcm", "7654321")
    dicom(data.parent / "more/c/1.dcm", "1234567")
    said: list[str] = []
    cohort = Opening().cohort(data, said.append)
    assert any(site_key.NAME in line for line in said)
    subjects = {case.id: case.subject for case in cohort}
    assert subjects["a"] != subjects["b"]
    assert {case.id: case.subject for case in Opening().cohort(data)} == subjects
    assert Opening().cohort(data.parent / "more").cases[0].subject == subjects["a"]
    text = json.dumps(cohort.to_dict())
    assert "1234567" not in text
    assert "Planted" not in text
    assert (data.parent / site_key.NAME).read_text().strip() not in text
    for digest in ("sha256", "sha1", "md5"):
        assert hashlib.new(digest, b"1234567").hexdigest()[:12] not in text
    elsewhere = Opening(site_key=data.parent / "other.key").cohort(data)
    assert {c.id: c.subject for c in elsewhere}["a"] != subjects["a"]


def test_a_key_is_not_kept_among_results_though_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for ask in (find, existing):
        with pytest.raises(ConfigError) as caught:
            ask(data, runs / "key", away_from=runs)
        assert caught.value.code == "site-key-place"
    assert not list(runs.iterdir())


def test_a_run_folder_that_holds_the_data_gets_no_key(data: Path, home: Path) -> None:
    dicom(data / "a/1.dcm", "1234567")
    cohort = Opening().cohort(data, away_from=data.parent)
    assert cohort.cases[0].subject.startswith("patient-")
    assert home.exists()
    assert not list(data.parent.rglob(f"{site_key.NAME}*"))
