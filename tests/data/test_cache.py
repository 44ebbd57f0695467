"""The cache of prepared cases: whole or not there, reused, and made anew when damaged."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from delineate.core import atomic
from delineate.core.case import Case
from delineate.core.errors import InputError, OutputError, PartialError, ResourceError
from delineate.core.image import flat_grid
from delineate.data import cache
from delineate.data.cache import PreparedArrays

SHAPE = (8, 7, 6)


class Maker:
    """Prepares a case from its file, and counts how often it was asked."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, case: Case) -> PreparedArrays:
        self.made.append(case.id)
        source = case.images["image"]
        assert isinstance(source, Path)
        values = np.frombuffer(source.read_bytes(), np.uint8).astype(np.float32)
        image = np.resize(values, (2, *SHAPE))
        label = None if case.label is None else (image[0] > 120).astype(np.uint8) * 2
        step = {"step": "crop", "box": [[1, 9]], "from_affine": np.eye(4).tolist()}
        return PreparedArrays(
            image, label, (step,), flat_grid((9, 9, 9)), flat_grid(SHAPE), {"Größe": 1}
        )


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(4):
        file = tmp_path / "source" / f"{i} ü.bin"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(generator.integers(0, 256, 999, np.uint8).tobytes())
        found.append(Case(f"case {i}", f"subject {i}", {"image": file}, file if i else None))
    return found


def test_prepared_cases_come_back_as_they_were_made(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()
    found = cache.prepare(cases, "recipe", maker, tmp_path / "cache")
    assert [case.id for case in found] == [case.id for case in cases]
    for case, given in zip(found, cases, strict=True):
        truth = maker(given)
        np.testing.assert_array_equal(case.image, truth.image)
        assert case.image.dtype == np.float32
        assert isinstance(case.image, np.memmap)
        assert not case.image.flags.writeable
        assert case.shape == (2, *SHAPE)
        assert case.history == truth.history
        assert case.original.same_as(truth.original)
        assert case.grid.same_as(truth.grid)
        assert (case.original.oriented, case.grid.spacing_known) == (False, False)
        assert case.meta == {"Größe": 1}
        assert case.subject == given.subject
    assert found[0].label is None
    assert found[0].samples == {}
    label = found[1].label
    assert label is not None
    assert set(found[1].samples) == {2}
    np.testing.assert_array_equal(found[1].samples[2], np.argwhere(label == 2))


def test_existing_entries_are_reused(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()
    cache.prepare(cases[:2], "recipe", maker, tmp_path / "cache")
    again = cache.prepare(cases, "recipe", maker, tmp_path / "cache", verify=True)
    assert sorted(maker.made) == [case.id for case in cases]
    assert [case.id for case in again] == [case.id for case in cases]


def test_a_class_is_what_the_cohort_says_now(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()
    for class_name in ("benign", "malignant"):
        said = [dataclasses.replace(case, class_name=class_name) for case in cases]
        found = cache.prepare(said, "recipe", maker, tmp_path / "cache")
        assert {case.class_name for case in found} == {class_name}
    assert len(maker.made) == len(cases)


def test_another_file_recipe_or_subject_is_another_entry(tmp_path: Path, cases: list[Case]) -> None:
    maker, folder = Maker(), tmp_path / "cache"
    case = cases[1]
    first = cache.prepare([case], "recipe", maker, folder)[0]
    assert cache.prepare([case], "other", maker, folder)[0].folder != first.folder
    twin = dataclasses.replace(case, subject="someone else")
    assert cache.prepare([twin], "recipe", maker, folder)[0].subject == "someone else"
    Path(str(case.images["image"])).write_bytes(b"new content")
    assert cache.prepare([case], "recipe", maker, folder)[0].folder != first.folder
    assert len(maker.made) == 4


def test_channels_that_are_named_anew_are_prepared_anew(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()
    for names in (["T1", "T2"], ["T2", "T1"], ["T1", "T2"]):
        named = [dataclasses.replace(cases[0], meta={"channels": names, "ward": str(names)})]
        cache.prepare(named, "recipe", maker, tmp_path / "cache")
    assert len(maker.made) == 2


def test_a_file_edited_in_place_is_prepared_anew_though_size_and_time_stay(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delineate.data.content._SETTLED_SECONDS", -1.0)
    cache.prepare(cases, "recipe", Maker(), tmp_path / "cache")
    assert (tmp_path / "cache/content.json").exists()
    file = cases[2].images["image"]
    assert isinstance(file, Path)
    facts = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"\0\1\2\3")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    maker = Maker()
    found = cache.prepare(cases, "recipe", maker, tmp_path / "cache")
    assert maker.made == ["case 2"]
    assert found[2].image.reshape(-1)[:4].tolist() == [0, 1, 2, 3]


def test_the_place_of_the_files_does_not_matter(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()
    first = cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache")[0]
    moved = tmp_path / "elsewhere.bin"
    shutil.copy(str(cases[1].images["image"]), moved)
    case = dataclasses.replace(cases[1], images={"image": moved}, label=moved)
    assert cache.prepare([case], "recipe", maker, tmp_path / "cache")[0].folder == first.folder


def truncate(entry: Path) -> None:
    data = (entry / "image.npy").read_bytes()
    (entry / "image.npy").write_bytes(data[: len(data) // 2])


def empty(entry: Path) -> None:
    (entry / "label.npy").write_bytes(b"")


def drop_samples(entry: Path) -> None:
    (entry / "samples.npz").unlink()


def drop_facts(entry: Path) -> None:
    (entry / "case.json").unlink()


def edit_facts(entry: Path) -> None:
    text = (entry / "case.json").read_text(encoding="utf-8")
    (entry / "case.json").write_text(text.replace("subject 1", "subject 2"), encoding="utf-8")


def garbage_facts(entry: Path) -> None:
    (entry / "case.json").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
    "harm", [truncate, empty, drop_samples, drop_facts, edit_facts, garbage_facts]
)
def test_damaged_entries_are_made_anew(
    tmp_path: Path, cases: list[Case], harm: Callable[[Path], None]
) -> None:
    maker = Maker()
    before = cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache")[0]
    truth = np.array(before.image)
    harm(before.folder)
    after = cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache")[0]
    assert len(maker.made) == 2
    np.testing.assert_array_equal(after.image, truth)
    assert after.subject == "subject 1"


def test_a_flipped_bit_is_found_when_every_byte_is_compared(
    tmp_path: Path, cases: list[Case]
) -> None:
    maker = Maker()
    entry = cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache")[0].folder
    data = bytearray((entry / "image.npy").read_bytes())
    data[-5] ^= 1
    (entry / "image.npy").write_bytes(data)
    cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache")
    assert len(maker.made) == 1
    cache.prepare(cases[1:2], "recipe", maker, tmp_path / "cache", verify=True)
    assert len(maker.made) == 2


def test_all_failures_are_listed_and_the_others_kept(tmp_path: Path, cases: list[Case]) -> None:
    maker = Maker()

    def fail(case: Case) -> PreparedArrays:
        if case.id in ("case 1", "case 3"):
            raise InputError("expected a scan", where=case.id, code="image-constant")
        return maker(case)

    with pytest.raises(PartialError) as caught:
        cache.prepare(cases, "recipe", fail, tmp_path / "cache")
    text = str(caught.value)
    assert "2 of 4" in text
    assert "case 1: [image-constant]" in text
    assert "case 3: [image-constant]" in text
    assert "case 2:" not in text
    cache.prepare(cases, "recipe", maker, tmp_path / "cache")
    assert sorted(maker.made) == ["case 0", "case 1", "case 2", "case 3"]


def test_a_missing_file_is_a_failure_of_its_case(tmp_path: Path, cases: list[Case]) -> None:
    Path(str(cases[2].images["image"])).unlink()
    with pytest.raises(PartialError, match=r"case 2: \[file-missing\] .*2 ü.bin"):
        cache.prepare(cases, "recipe", Maker(), tmp_path / "cache")


def test_a_full_disk_stops_before_it_is_full(
    tmp_path: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OutputError) as caught:
        cache.prepare(cases, "recipe", Maker(), tmp_path / "cache")
    assert caught.value.code == "disk-full"
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("*/case.json"))
    assert len(cache.prepare(cases, "recipe", Maker(), tmp_path / "cache")) == 4


def test_memory_that_runs_out_is_said_so(tmp_path: Path, cases: list[Case]) -> None:
    def greedy(case: Case) -> PreparedArrays:
        raise MemoryError

    with pytest.raises(ResourceError, match="fewer workers"):
        cache.prepare(cases, "recipe", greedy, tmp_path / "cache")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, cases: list[Case]) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(OutputError):
        cache.prepare(cases, "recipe", Maker(), tmp_path / "cache")
    assert (tmp_path / "cache").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from delineate.core.case import Case
from delineate.core.image import flat_grid
from delineate.data import cache
count = 0
sync = os.fsync
def fsync(descriptor):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = fsync
def make(case):
    label = np.ones((8, 7, 6), np.uint8)
    image = np.ones((1, 8, 7, 6), np.float32)
    return cache.PreparedArrays(image, label, (), flat_grid((8, 7, 6)), flat_grid((8, 7, 6)))
file = Path(sys.argv[1])
cache.prepare([Case("a", "a", {"image": file}, file)], "r", make, Path(sys.argv[2]), workers=1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_killed_run_leaves_nothing_half_written(
    tmp_path: Path, cases: list[Case], at: int
) -> None:
    folder = tmp_path / "cache"
    source = str(cases[1].images["image"])
    killed = [sys.executable, "-c", KILLED, source, str(folder)]
    path = {"PYTHONPATH": str(Path(cache.__file__).parents[2]), "PATH": ""}
    assert subprocess.run([*killed, str(at)], env=path, check=False).returncode == -9
    left = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in left if p.name == "case.json"]
    assert [p for p in left if p.name.startswith(".tmp-")]
    assert subprocess.run([*killed, "0"], env=path, check=False).returncode == 0
    names = {p.name for p in folder.rglob("*") if p.is_file()}
    assert names == {"image.npy", "label.npy", "samples.npz", "case.json"}


def test_samples_are_drawn_evenly_without_repeats_and_repeatably() -> None:
    label = np.zeros((40, 50, 60), np.uint8)
    label[:20] = 3
    label[30, 1, 2] = 1
    drawn = cache.foreground_samples(label, seed=5, limit=2000)
    assert drawn[1].tolist() == [[30, 1, 2]]
    assert drawn[3].shape == (2000, 3)
    assert len(np.unique(drawn[3], axis=0)) == 2000
    assert np.all(label[tuple(drawn[3].T)] == 3)
    assert abs(drawn[3][:, 2].mean() - 29.5) < 2
    again = cache.foreground_samples(label, seed=5, limit=2000)
    np.testing.assert_array_equal(drawn[3], again[3])
    assert not np.array_equal(cache.foreground_samples(label, 6, 2000)[3], drawn[3])


def test_prepared_cases_are_small_to_send(tmp_path: Path, cases: list[Case]) -> None:
    def large(case: Case) -> PreparedArrays:
        image = np.zeros((1, 100, 100, 100), np.float32)
        grid = flat_grid(image.shape[1:])
        return PreparedArrays(image, np.zeros(grid.shape, np.uint8), (), grid, grid)

    case = cache.prepare(cases[1:2], "recipe", large, tmp_path / "cache")[0]
    assert case.image.nbytes == 4_000_000
    sent: Any = pickle.dumps(case)
    assert len(sent) < 4000
    assert pickle.loads(sent).image.shape == case.shape
    assert case.nbytes == 5_000_000


def test_facts_are_plain_json_with_content_hashes(tmp_path: Path, cases: list[Case]) -> None:
    entry = cache.prepare(cases[1:2], "recipe", Maker(), tmp_path / "cache")[0].folder
    facts = json.loads((entry / "case.json").read_text(encoding="utf-8").partition("\n")[2])
    assert set(facts["sources"]) == {"image", ""}
    assert set(facts["files"]) == {"image.npy", "label.npy", "samples.npz"}


def test_headers_of_arrays_are_parsed_by_one_thread_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 now and then fails to parse a literal while another thread does."""
    load, inside, most = np.load, [0], [0]

    def slow(*given: Any, **named: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1
        return load(*given, **named)

    monkeypatch.setattr(np, "load", slow)
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.float32))
    with ThreadPoolExecutor(8) as pool:
        shapes = list(pool.map(lambda n: cache._mapped(tmp_path / "a.npy", n).shape, range(40)))
    assert set(shapes) == {(4, 5, 6)}
    assert most == [1]
