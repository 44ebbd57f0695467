from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch import Tensor, nn

from delineate.cli.main import main
from delineate.core import catalog, model_file
from delineate.core.atomic import _HOST
from delineate.core.case import Prediction
from delineate.core.errors import (
    DelineateError,
    InputError,
    LockedError,
    ModelFileError,
    OutputError,
    PartialError,
    ResourceError,
)
from delineate.core.image import Grid, Image
from delineate.core.lock import folder_lock
from delineate.core.schema import Label, Schema
from delineate.data import readers
from delineate.data.outputs import file_name
from delineate.networks import unet
from delineate.preprocess.presets import Channel, Preparation
from delineate.targets._outline_answers import OutlineAnswers
from delineate.tasks.predict import predict

SCHEMA = Schema(labels=(Label("bright", 200),))
AS_IS = {"low": -1e6, "high": 1e6, "mean": 0.0, "std": 1.0}


# --- a network of one threshold: what it outlines is known in advance -----------------------------


@dataclass(frozen=True)
class Config:
    ndim: int = field(default=3)


class Threshold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.level.expand_as(x[:, 0]), x[:, 0]], 1) * 20


THRESHOLD = types.SimpleNamespace(
    Config=Config, build=lambda config, channels, outputs: Threshold()
)


@pytest.fixture(autouse=True)
def threshold_network(monkeypatch: Any) -> None:
    within = catalog.within
    more = {"networks": ["threshold"]}
    monkeypatch.setattr(catalog, "within", lambda room: [*within(room), *more.get(room, [])])
    monkeypatch.setitem(sys.modules, "delineate.networks.threshold", THRESHOLD)


def write_model(
    path: Path, ndim: int = 3, channels: tuple[str, ...] = ("image",), **change: Any
) -> Path:
    preparation = Preparation(
        channels=tuple(Channel(name, "unknown", "window", AS_IS) for name in channels),
        ndim=ndim,
        **change,
    )
    document = {
        "network": {"name": "threshold", "config": {"ndim": ndim}},
        "channels": list(channels),
        "schema": SCHEMA.to_dict(),
        "preparation": preparation.to_dict(),
        "input": {
            "patch": [6] * ndim,
            "slice_axis": preparation.slice_axis,
            "mirror_axes": list(range(ndim)),
        },
    }
    model_file.save(path, Threshold().state_dict(), document)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def write_nifti(path: Path, array: Any, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for index in range(3):
        write_nifti(tmp_path / "scans" / f"case{index}.nii.gz", blobs((9, 8, 7), index))
    return tmp_path / "scans"


def prints(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# --- geometry -------------------------------------------------------------------------------------


def orientations() -> Iterator[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    turns = list(itertools.product(itertools.permutations(range(3)), range(8)))
    for axes, flips in [turns[i] for i in rng.permutation(len(turns))[:12]]:
        matrix = np.zeros((3, 3))
        for column, row in enumerate(axes):
            matrix[row, column] = -1 if flips >> column & 1 else 1
        angle = rng.uniform(-0.35, 0.35)
        tilt = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        affine = np.eye(4)
        affine[:3, :3] = tilt @ matrix @ np.diag(rng.uniform(0.5, 3, 3))
        affine[:3, 3] = rng.uniform(-200, 200, 3)
        yield affine


@pytest.mark.parametrize("affine", list(orientations()))
@pytest.mark.parametrize("crop", [False, True])
def test_thresholded_mask_lies_exactly_where_the_scan_does(
    tmp_path: Path, affine: np.ndarray[Any, Any], crop: bool
) -> None:
    array = np.zeros((14, 9, 11), np.float32)
    array[3:12, 2:7, 1:8] = blobs((9, 5, 7))
    scan = write_nifti(tmp_path / "in" / "scan.nii.gz", array, affine)
    model = write_model(tmp_path / "m.safetensors", crop=crop)
    predict(model, scan, tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "scan.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), np.where(array > 0.5, 200, 0))
    assert mask.get_data_dtype() == np.uint8
    corners = np.array([*itertools.product((0, 13), (0, 8), (0, 10))])
    there = nib.affines.apply_affine(mask.affine, corners)
    here = nib.affines.apply_affine(nib.load(scan).affine, corners)
    assert np.abs(there - here).max() <= 1e-3


def test_resampled_prediction_comes_home(tmp_path: Path) -> None:
    """A half space stays a half space: 2 mm voxels through a model of 1 mm and back."""
    array = np.zeros((20, 16, 12), np.float32)
    array[10:] = 1
    affine = np.diag([-2.0, 2, 2, 1])
    scan = write_nifti(tmp_path / "in" / "scan.nii.gz", array, affine)
    model = write_model(tmp_path / "m.safetensors", crop=False, spacing_mm=(1.0, 1.0, 1.0))
    index = predict(model, scan, tmp_path / "out")
    mask = nib.load(tmp_path / "out" / "scan.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), array * 200)
    assert np.abs(mask.affine - affine).max() < 1e-3
    assert index["cases"][0]["facts"]["volume_ml"]["bright"] == pytest.approx(10 * 16 * 12 * 8e-3)


def test_slabs_give_the_same_files_as_the_whole(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", blobs((60, 30, 30)), np.diag([-1.0, 1.0, 1.3, 1]))
    model = write_model(tmp_path / "m.safetensors", spacing_mm=(1.6, 1.6, 1.6))
    asked = {"probabilities": True, "mirror": True}
    predict(model, tmp_path / "in", tmp_path / "whole", **asked)
    predict(model, tmp_path / "in", tmp_path / "slabs", memory="3M", **asked)
    with pytest.raises(ResourceError):
        predict(model, tmp_path / "in", tmp_path / "never", memory="1M", **asked)
    whole, slabs = prints(tmp_path / "whole"), prints(tmp_path / "slabs")
    for name in ("a.nii.gz", "a_probabilities.nii.gz"):
        assert whole[name] == slabs[name]


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.nii", "a.nii.gz"), ("a.nii.gz", "a.nii.gz"), ("a.nrrd", "a.nrrd"), ("a.mha", "a.mha")],
)
def test_volumes_keep_their_format(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "in").mkdir()
    affine = np.array([[0, -1.5, 0, 3], [2.0, 0, 0, -7], [0, 0, 1, 11], [0, 0, 0, 1]])
    array = blobs((8, 7, 6))
    readers.write(tmp_path / "in" / name, Image(array[None], Grid((8, 7, 6), affine)))
    predict(write_model(tmp_path / "m.safetensors"), tmp_path / "in", tmp_path / "out")
    found = readers.read_label(tmp_path / "out" / expected)
    assert np.array_equal(found.array[0], np.where(array > 0.5, 200, 0))
    assert found.grid.same_as(readers.probe(tmp_path / "in" / name)[0])


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", "a.png"), ("a.tif", "a.tif"), ("a.bmp", "a.png")]
)
def test_flat_images_keep_their_kind(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "in").mkdir()
    pixels = (np.random.default_rng(0).random((9, 12)) > 0.5).astype(np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "in" / name)
    predict(write_model(tmp_path / "m.safetensors", ndim=2), tmp_path / "in", tmp_path / "out")
    assert np.array_equal(np.asarray(Picture.open(tmp_path / "out" / expected)), pixels * 200)


def test_stack_of_slices_gives_a_folder_of_slices(tmp_path: Path) -> None:
    folder = tmp_path / "kaggle_3m" / "TCGA_CS_1234_19990101"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    slices = [(rng.random((8, 10, 3)) > 0.5).astype(np.uint8) for _ in range(11)]
    for k, pixels in enumerate(slices, start=1):
        Picture.fromarray(pixels).save(folder / f"{folder.name}_{k}.tif")
        mask = np.zeros((8, 10), np.uint8)
        Picture.fromarray(mask).save(folder / f"{folder.name}_{k}_mask.tif")
    channels = tuple(f"image.{i}" for i in range(3))
    model = write_model(tmp_path / "m.safetensors", 2, channels, slice_axis=2)
    index = predict(model, tmp_path / "kaggle_3m", tmp_path / "out")
    (case,) = index["cases"]
    assert len(case["files"]["labels"]) == 11
    for k, pixels in enumerate(slices, start=1):
        path = tmp_path / "out" / case["id"] / f"{folder.name}_{k}.png"
        assert np.array_equal(np.asarray(Picture.open(path)), pixels[..., 0] * 200)
    assert "volume_ml" not in case["facts"]


def test_probabilities_are_written_on_request(tmp_path: Path, model: Path) -> None:
    array = blobs((9, 8, 7))
    write_nifti(tmp_path / "in" / "a.nii.gz", array, np.diag([-1.0, 1, 1, 1]))
    index = predict(model, tmp_path / "in", tmp_path / "out", probabilities=True)
    file = nib.load(tmp_path / "out" / index["cases"][0]["files"]["probabilities"])
    found = np.asarray(file.dataobj)
    assert found.shape == (9, 8, 7, 2)
    assert np.allclose(found[..., 1], 1 / (1 + np.exp(-20 * (array - 0.5))), atol=1e-3)
    assert np.allclose(file.affine, np.diag([-1.0, 1, 1, 1]))


def test_dicom_series_gives_nifti_on_its_grid(tmp_path: Path, real_data: Any) -> None:
    root = real_data("dicom-brain-mr")
    series = sorted({p.parent for p in root.rglob("*.dcm")})
    if not series:
        pytest.skip("no .dcm files in dicom-brain-mr")
    model = write_model(tmp_path / "m.safetensors", crop=False)
    index = predict(model, series[0], tmp_path / "out", force=True)
    for case in index["cases"]:
        (name,) = case["files"]["labels"]
        assert name.endswith(".nii.gz")
    if len(index["cases"]) == 1:
        scan = readers.read(series[0])
        mask = readers.read_label(tmp_path / "out" / name)
        assert mask.grid.difference_mm(scan.grid) <= 1e-3
        assert np.array_equal(mask.array[0] > 0, scan.array[0] > 0.5)


# --- many cases -----------------------------------------------------------------------------------


def test_index_lists_everything(tmp_path: Path, model: Path, scans: Path) -> None:
    before = prints(scans)
    index = predict(model, scans, tmp_path / "out", mirror=True, device="cpu")
    assert index == json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert index["finished"]
    assert [case["id"] for case in index["cases"]] == ["case0", "case1", "case2"]
    assert index["model"]["hash"] == model_file.load(model).hash
    assert Schema.from_dict(index["schema"]) == SCHEMA
    for case in index["cases"]:
        assert case["error"] is None
        assert (tmp_path / "out" / case["files"]["labels"][0]).is_file()
        assert set(case["facts"]["seconds"]) == {"read", "prepare", "network", "home", "write"}
        assert case["facts"]["mirrored"]
    assert prints(scans) == before
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_only_some_cases(tmp_path: Path, model: Path, scans: Path) -> None:
    index = predict(model, scans, tmp_path / "out", only=["case2", "case0"])
    assert [case["id"] for case in index["cases"]] == ["case2", "case0"]
    with pytest.raises(InputError, match="case9"):
        predict(model, scans, tmp_path / "other", only=["case9"])
    assert not (tmp_path / "other").exists()


def test_two_runs_write_the_same_masks(tmp_path: Path, model: Path, scans: Path) -> None:
    predict(model, scans, tmp_path / "a")
    predict(model, scans, tmp_path / "b")
    one, two = prints(tmp_path / "a"), prints(tmp_path / "b")
    del one["predictions.json"], two["predictions.json"]
    assert one == two


def test_one_bad_case_of_three_leaves_two_finished(
    tmp_path: Path, model: Path, scans: Path
) -> None:
    bad = scans / "case1.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-40])
    said: list[str] = []
    with pytest.raises(PartialError) as caught:
        predict(model, scans, tmp_path / "out", say=said.append)
    assert caught.value.exit_code == 3
    index = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [case["error"] is None for case in index["cases"]] == [True, False, True]
    assert index["cases"][1]["error"]["where"].endswith("case1.nii.gz")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "case0.nii.gz", "case2.nii.gz", "predictions.json",
    ]  # fmt: skip
    assert sum("case1" in line for line in said) == 1
    assert len(said) == 3
    assert caught.value.message.startswith("1 of 3 cases failed (nifti")


def test_a_fault_that_nobody_foresaw_is_that_case_s_alone(
    tmp_path: Path, model: Path, scans: Path, monkeypatch: Any
) -> None:
    forward = Threshold.forward

    def fail(self: Threshold, x: Tensor) -> Tensor:
        if float(x.flatten()[0]) == blobs((9, 8, 7), 1).flat[0]:
            raise ZeroDivisionError("of all things")
        return forward(self, x)

    monkeypatch.setattr(Threshold, "forward", fail)
    said: list[str] = []
    with pytest.raises(PartialError) as caught:
        predict(model, scans, tmp_path / "out", say=said.append)
    assert caught.value.exit_code == 3
    index = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert index["finished"]
    assert [bool(case["files"]) for case in index["cases"]] == [True, False, True]
    assert index["cases"][1]["error"]["code"] == "unexpected"
    assert "ZeroDivisionError: of all things" in index["cases"][1]["error"]["message"]
    log = (tmp_path / "out" / "failures.log").read_text()
    assert "case1" in log
    assert "in fail" in log  # the traceback
    monkeypatch.setattr(Threshold, "forward", forward)
    predict(model, scans, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "failures.log").exists()


def test_a_run_in_which_every_case_failed_is_not_called_partial(
    tmp_path: Path, model: Path, scans: Path
) -> None:
    for path in scans.iterdir():
        path.write_bytes(b"")
    said: list[str] = []
    with pytest.raises(DelineateError, match="none of 3 cases could be outlined") as caught:
        predict(model, scans, tmp_path / "out", say=said.append)
    assert caught.value.exit_code == 1
    assert len(said) == 3


def test_one_line_a_case_and_one_at_the_end(
    tmp_path: Path, model: Path, scans: Path, capsys: Any
) -> None:
    words = ["predict", str(model), str(scans), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    found = capsys.readouterr()
    assert found.out == ""
    lines = found.err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("case0: case0.nii.gz, bright 0.")
    assert lines[3].startswith("3 of 3 cases outlined")
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cases"]) == 3


def test_a_lone_failure_is_told_once(tmp_path: Path, model: Path, capsys: Any) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", np.full((6, 6, 6), np.nan, np.float32))
    assert main(["predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("NaN") == 1


def test_lone_bad_case_gives_its_own_error(tmp_path: Path, model: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", np.full((6, 6, 6), np.nan, np.float32))
    with pytest.raises(InputError) as caught:
        predict(model, tmp_path / "in" / "a.nii.gz", tmp_path / "out")
    assert caught.value.exit_code == 1
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"][0]["error"]


def test_failed_case_does_not_keep_an_older_mask(tmp_path: Path, model: Path, scans: Path) -> None:
    predict(model, scans, tmp_path / "out")
    (scans / "case2.nii.gz").write_bytes(b"")
    with pytest.raises(PartialError):
        predict(model, scans, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "case2.nii.gz").exists()


class Bars:
    """Counts what a bar is told."""

    def __init__(self) -> None:
        self.total: float | None = None
        self.steps: list[float] = []

    @contextmanager
    def task(self, total: float | None, description: str) -> Iterator[Bars]:
        self.total = total
        yield self

    def track(self, iterable: Any, description: str, total: float | None = None) -> Any:
        yield from iterable

    def advance(self, n: float = 1, **live: float) -> None:
        self.steps.append(n)


def test_the_bar_moves_within_a_case_and_ends_full(
    tmp_path: Path, model: Path, scans: Path
) -> None:
    (scans / "case0.nii.gz").write_bytes(b"bad")
    bars = Bars()
    with pytest.raises(PartialError):
        predict(model, scans, tmp_path / "out", progress=bars)
    assert bars.total == 3
    assert sum(bars.steps) == pytest.approx(3)
    assert min(bars.steps) > 0


# --- faults of the output -------------------------------------------------------------------------


def test_inputs_are_never_overwritten(tmp_path: Path, model: Path, scans: Path) -> None:
    before = prints(scans)
    link = tmp_path / "link"
    link.symlink_to(scans, target_is_directory=True)
    for out in (scans, scans / "." / "..", link, scans / ".." / "scans"):
        if out.resolve() != scans.resolve():
            continue
        for overwrite in (False, True):
            with pytest.raises(OutputError) as caught:
                predict(model, scans, out, overwrite=overwrite)
            assert caught.value.code == "output-is-input"
    with pytest.raises(OutputError):
        predict(model, scans / "case0.nii.gz", scans)
    assert prints(scans) == before


def test_links_in_the_output_are_replaced_not_followed(
    tmp_path: Path, model: Path, scans: Path
) -> None:
    (tmp_path / "out").mkdir()
    secret = tmp_path / "precious"
    secret.write_text("keep")
    (tmp_path / "out" / "case0.nii.gz").symlink_to(secret)
    with pytest.raises(OutputError):
        predict(model, scans, tmp_path / "out")
    predict(model, scans, tmp_path / "out", overwrite=True)
    assert secret.read_text() == "keep"
    assert not (tmp_path / "out" / "case0.nii.gz").is_symlink()


def test_older_predictions_need_a_word(tmp_path: Path, model: Path, scans: Path) -> None:
    predict(model, scans, tmp_path / "out")
    before = prints(tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        predict(model, scans, tmp_path / "out")
    assert caught.value.code == "output-exists"
    assert prints(tmp_path / "out") == before
    predict(model, scans, tmp_path / "out", overwrite=True)


def test_second_run_in_one_folder_exits_4(tmp_path: Path, model: Path, scans: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with folder_lock(out), pytest.raises(LockedError) as caught:
        predict(model, scans, out)
    assert caught.value.exit_code == 4
    predict(model, scans, out)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_that_is_a_file_is_refused_before_any_work(
    tmp_path: Path, model: Path, scans: Path, monkeypatch: Any, place: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(readers, "read", lambda source: pytest.fail("work began"))
    with pytest.raises(OutputError):
        predict(model, scans, tmp_path / place)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a read-only /proc")
def test_read_only_output_is_refused_before_any_work(model: Path, scans: Path) -> None:
    with pytest.raises(OutputError):
        predict(model, scans, Path("/proc/self/delineate"))


def test_full_disk_stops_the_run_clean(
    tmp_path: Path, model: Path, scans: Path, monkeypatch: Any
) -> None:
    write = readers.write

    def full(path: Path, image: Image) -> None:
        if path.name.startswith("case1"):
            raise OutputError("no space left", where=path, code="disk-full")
        write(path, image)

    monkeypatch.setattr(readers, "write", full)
    with pytest.raises(OutputError) as caught:
        predict(model, scans, tmp_path / "out")
    assert caught.value.code == "disk-full"
    index = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert not index["finished"]
    assert [case["id"] for case in index["cases"]] == ["case0"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "case0.nii.gz", "predictions.json",
    ]  # fmt: skip


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path, model: Path, scans: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        dead = child.pid
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".tmp-{_HOST}-{dead}-00000000.json").write_bytes(b"half")
    (tmp_path / "out" / ".delineate.lock").touch()
    (tmp_path / "out" / ".delineate.holder").write_text(json.dumps({"pid": dead}))
    predict(model, scans, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob(".*")] == []


# --- faults of the model --------------------------------------------------------------------------


def test_damaged_model_makes_no_output_folder(tmp_path: Path, model: Path, scans: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        predict(model, scans, tmp_path / "out")
    assert caught.value.code == "model-file-tampered"
    for length in (0, 4, 100, len(data) - 1):
        model.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            predict(model, scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ein Fall mit Lücken", "症例 一", "حالة", "a'b\"c;d&e$f", "x" * 200, "naïve.v2"]
)
def test_names_of_all_kinds_arrive(tmp_path: Path, model: Path, name: str) -> None:
    write_nifti(tmp_path / "in" / f"{name}.nii.gz", blobs((6, 6, 6)))
    index = predict(model, tmp_path / "in", tmp_path / "out")
    (case,) = index["cases"]
    (file,) = case["files"]["labels"]
    assert (tmp_path / "out" / file).is_file()
    if not set(name) & set("\"'x"):
        assert file == f"{name}.nii.gz"


def test_file_names_are_safe_unlike_and_within_255_bytes() -> None:
    odd = [
        "../../evil",
        "/etc/passwd",
        "a:b",
        "a/b",
        "a\\b",
        "..",
        "",
        " ",
        "a\nb",
        "x\x00",
        "\udcff",
    ]
    odd += ["字" * 200, "字" * 199 + "x", "a" * 300, "a" * 301, ".hidden", "dot."]
    names = [file_name(text) for text in odd]
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in ("", ".", "..")
        assert not set(name) & set('/\\:\0\n<>"|?*')
        assert name[0] != "."
        assert len(f"{name}_probabilities.nii.gz".encode()) <= 255
    assert file_name("Fall 7 (links), 症例") == "Fall 7 (links), 症例"


def test_ids_that_differ_in_case_alone_get_unlike_files(tmp_path: Path, model: Path) -> None:
    write_nifti(tmp_path / "in" / "a.nii.gz", blobs((6, 6, 6)))
    write_nifti(tmp_path / "in" / "A.nii.gz", blobs((6, 6, 6), 1))
    if len(list((tmp_path / "in").iterdir())) < 2:
        pytest.skip("this file system does not tell a from A")
    index = predict(model, tmp_path / "in", tmp_path / "out")
    files = [case["files"]["labels"][0].casefold() for case in index["cases"]]
    assert len(set(files)) == 2


@pytest.mark.parametrize("names", [("a", "a_probabilities"), ("A_probabilities", "a")])
def test_a_scan_called_like_the_map_of_another_gets_a_file_of_its_own(
    tmp_path: Path, model: Path, names: tuple[str, str]
) -> None:
    for number, name in enumerate(names):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", blobs((6, 6, 6), number))
    index = predict(model, tmp_path / "in", tmp_path / "out", probabilities=True)
    found = [case["files"] for case in index["cases"]]
    files = {file for one in found for file in (*one["labels"], one["probabilities"])}
    assert len(files) == len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


# --- the real network on real scans ---------------------------------------------------------------


def test_real_network_on_real_scans(tmp_path: Path, real_data: Any) -> None:
    root = real_data("msd-task04-hippocampus")
    schema = Schema(labels=(Label("anterior", 1), Label("posterior", 2)))
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=3, width=4, levels=3), 1, 3)
    preparation = Preparation(channels=(Channel("mr", "MR", "zscore"),), ndim=3)
    document = {
        "network": {"name": "unet", "config": {"ndim": 3, "width": 4, "levels": 3}},
        "channels": ["mr"],
        "schema": schema.to_dict(),
        "preparation": preparation.to_dict(),
        "input": {"patch": [32, 32, 32], "mirror_axes": [0]},
        "postprocess": {"keep_largest": ["anterior"]},
    }
    model_file.save(tmp_path / "m.safetensors", network.state_dict(), document)
    scan = sorted(p for p in (root / "imagesTr").glob("*.nii.gz") if p.name[0] != ".")[0]
    index = predict(tmp_path / "m.safetensors", scan, tmp_path / "out", mirror=True)
    mask = nib.load(tmp_path / "out" / scan.name)
    assert mask.shape == nib.load(scan).shape
    assert np.abs(mask.affine - nib.load(scan).affine).max() < 1e-3
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
    assert os.fspath(scan.name).startswith(index["cases"][0]["id"])


def test_a_model_that_has_hardly_trained_is_called_so(tmp_path: Path, scans: Path) -> None:
    sentence = "This model has hardly trained: 3 steps, where 900 are usual."
    model = write_model(tmp_path / "m.safetensors")
    document = {k: v for k, v in model_file.load(model).document.items() if k != "sha256"}
    card = {**document["card"], "training": sentence}
    model_file.save(model, Threshold().state_dict(), {**document, "card": card})
    said: list[str] = []
    predict(model, scans, tmp_path / "out", say=said.append)
    assert said[0] == sentence


# --- several models -------------------------------------------------------------------------------


def test_several_models_predict_as_one_and_each_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thresholds of 0.2 and 0.6: what both together call bright is what lies above 0.4."""
    files = []
    for name, level in (("low", 0.2), ("high", 0.6)):
        file = model_file.load(model)
        files.append(tmp_path / f"{name}.safetensors")
        model_file.save(files[-1], {"level": np.float32(level)}, file.document)
    write_nifti(tmp_path / "scans" / "one.nii.gz", blobs((8, 7, 9)))
    out = tmp_path / "out"
    words = ["predict", *map(str, files), str(tmp_path / "scans"), "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    mask = nib.load(out / "one.nii.gz").get_fdata()
    assert np.array_equal(mask == 200, blobs((8, 7, 9)) > 0.4)
    index = json.loads((out / "predictions.json").read_text())
    assert [one["file"] for one in index["model"]["members"]] == [
        "low.safetensors",
        "high.safetensors",
    ]
    hashes = [one["hash"] for one in index["model"]["members"]]
    assert hashes == [model_file.load(file).hash for file in files]
    assert index["model"]["hash"] not in hashes
    other = write_model(tmp_path / "other.safetensors", channels=("flair",))
    assert main(["predict", str(files[0]), str(other), str(tmp_path / "scans")]) == 1
    assert "channels image in low.safetensors, but flair in other" in capsys.readouterr().err


def test_what_a_target_does_not_say_of_a_case_is_filled_in(
    tmp_path: Path, model: Path, scans: Path, monkeypatch: Any
) -> None:
    predicted = OutlineAnswers.predict

    def tersely(*arguments: Any) -> Prediction:
        whole = predicted(*arguments)
        facts = {k: v for k, v in whole.facts.items() if k not in ("seconds", "warnings")}
        return replace(whole, facts=facts)

    monkeypatch.setattr(OutlineAnswers, "predict", tersely)
    predict(model, scans, out=tmp_path / "masks")
    for case in json.loads((tmp_path / "masks" / "predictions.json").read_text())["cases"]:
        assert case["facts"]["warnings"] == []
        assert list(case["facts"]["seconds"]) == ["read", "predict", "write"]
