"""Hashes of content: read once, known again, and never stale."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from delineate.core.errors import ReadError
from delineate.data.content import Hashes, content_hash, source_files


def aged(file: Path, text: str) -> Path:
    """A file that was last changed an hour ago, as far as its modification time tells."""
    file.write_text(text)
    os.utime(file, (file.stat().st_atime - 3600, file.stat().st_mtime - 3600))
    return file


def test_equal_bytes_have_equal_hashes_whatever_the_name(tmp_path: Path) -> None:
    a, b, c = (aged(tmp_path / n, t) for n, t in (("a", "one"), ("b", "one"), ("c", "two")))
    assert content_hash(a) == content_hash(b) != content_hash(c)
    assert content_hash((a, c)) != content_hash((c, a))  # slices have an order
    (tmp_path / "series").mkdir()
    a.rename(tmp_path / "series/1")
    c.rename(tmp_path / "series/2")
    assert content_hash(tmp_path / "series") == content_hash(
        (tmp_path / "series/1", tmp_path / "series/2")
    )


def test_a_file_is_read_once_and_known_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delineate.data.content._SETTLED_SECONDS", -1.0)
    file = aged(tmp_path / "a", "one")
    first = Hashes(tmp_path / "known.json")
    digest = first.all([file])[0]
    assert digest == hashlib.sha256(b"one").hexdigest()

    def no_reading(*args: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hashlib, "file_digest", no_reading)
    assert Hashes(tmp_path / "known.json").of(file) == digest


def test_an_edit_in_place_is_seen_though_size_and_time_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delineate.data.content._SETTLED_SECONDS", -1.0)
    file = aged(tmp_path / "a", "one")
    facts = file.stat()
    hashes = Hashes()
    before = hashes.of(file)
    with file.open("r+") as stream:
        stream.write("two")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_mtime_ns == facts.st_mtime_ns
    if os.name == "posix":
        assert hashes.of(file) != before


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    hashes = Hashes(tmp_path / "known.json")
    hashes.all([file])
    assert not (tmp_path / "known.json").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{x", '{"a": 1}'])
def test_a_damaged_list_of_hashes_only_costs_time(tmp_path: Path, text: str) -> None:
    (tmp_path / "known.json").write_text(text)
    file = aged(tmp_path / "a", "one")
    assert Hashes(tmp_path / "known.json").of(file) == hashlib.sha256(b"one").hexdigest()


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="No such file") as caught:
        content_hash(tmp_path / "gone")
    assert caught.value.code == "file-missing"
    assert caught.value.where == str(tmp_path / "gone")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("a.mhd", "ObjectType = Image\nNDims = 3\nElementDataFile = voxels.raw\n"),
        ("a.nhdr", "NRRD0004\ntype: uchar\ndata file: voxels.raw\n"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndatafile: voxels.raw\n"),
    ],
)
def test_voxels_that_a_header_names_are_what_the_image_holds(
    tmp_path: Path, header: str, text: str
) -> None:
    found = []
    for case, voxels in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / case).mkdir()
        (tmp_path / case / "voxels.raw").write_text(voxels)
        (tmp_path / case / header).write_text(text)
        found.append(content_hash(tmp_path / case / header))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("named", ["LOCAL", "../other", "gone.raw", ""])
def test_a_header_that_names_no_file_beside_it_stands_alone(tmp_path: Path, named: str) -> None:
    (tmp_path / "other").write_text("of someone else")
    (tmp_path / "case").mkdir()
    file = tmp_path / "case/a.mha"
    file.write_bytes(f"NDims = 3\nElementDataFile = {named}\n".encode() + b"\0\xff" * 9)
    assert source_files(file) == [file]
