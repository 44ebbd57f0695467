"""What a classifier cannot learn from: told in words and by an exit code, or left out aloud."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from delineate.cli.main import main
from delineate.core.image import Grid, Image
from delineate.data.readers import write

FLAT = Grid((16, 16), np.diag([-1.0, -1.0, 1.0, 1.0]), oriented=False, spacing_known=False)
SOLID = Grid((16, 16, 5), np.eye(4))
CLASSES = ("dark", "bright")
SETTINGS = "width: 4\nbatch: 4\nvalidation: 0.0\nnetwork_settings: {depth: 2}\n"

Row = dict[str, str]
Say = Callable[..., tuple[int, str]]


def cohort(folder: Path, subjects: int = 6, grid: Grid = SOLID, channels: int = 1) -> list[Row]:
    """Images of two classes, and the rows of their table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for name in CLASSES:
        for n in range(subjects):
            row = {"id": f"{name}{n}", "class": name, "subject": f"{name}{n}"}
            for c in range(channels):
                row[f"image_c{c}"] = f"{name}{n}_{c}.{'nii.gz' if grid.ndim == 3 else 'png'}"
                write(folder / row[f"image_c{c}"], noise(grid, rng, name == "bright"))
            rows.append(row)
    return rows


def noise(grid: Grid, rng: np.random.Generator, bright: bool) -> Image:
    array = rng.normal(100, 10, grid.shape)
    array[4:12, 4:12] += 100 if bright else -50
    return Image(np.clip(array, 0, 255).astype(np.uint8)[None], grid)


def table(folder: Path, rows: list[Row]) -> Path:
    with (folder / "cases.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cases.csv"


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """The command, as a user types it: exit code and all that it says."""
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS)

    def run(data: Path, *words: str, settings: str = "") -> tuple[int, str]:
        config.write_text(SETTINGS + settings if "network_settings" not in settings else settings)
        code = main([
            "train", str(data), "--target", "class", "--steps", "1", "--config", str(config),
            "--out", str(tmp_path / "run"), "--device", "cpu", *words,
        ])  # fmt: skip
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        assert "bug in Delineate" not in told.err
        assert code == 0 or told.err.strip()
        return code, told.out + told.err

    return run


def parts(tmp_path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((tmp_path / "run" / "split.json").read_text())["parts"]
    return found


def nothing_learned(tmp_path: Path) -> bool:
    return not (tmp_path / "run" / "model.safetensors").exists()


# --- classes --------------------------------------------------------------------------------------


def test_no_class_at_all(tmp_path: Path, train: Say) -> None:
    rows = cohort(tmp_path / "data", 2)
    code, told = train(table(tmp_path / "data", [{**row, "class": ""} for row in rows]))
    assert code == 1
    assert "[classes-too-few]" in told
    assert "expected at least two classes, got none" in told


def test_one_class(tmp_path: Path, train: Say) -> None:
    rows = [row for row in cohort(tmp_path / "data", 3) if row["class"] == "dark"]
    code, told = train(table(tmp_path / "data", rows))
    assert code == 1
    assert "expected at least two classes, got dark (3)" in told
    assert "->" in told, "the next move"
    assert nothing_learned(tmp_path)


def test_a_class_with_one_subject_however_many_its_scans(tmp_path: Path, train: Say) -> None:
    rows = cohort(tmp_path / "data", 3)
    for row in rows:
        if row["class"] == "bright":
            row["subject"] = "alone"
    code, told = train(table(tmp_path / "data", rows))
    assert code == 1
    assert "[class-lonely]" in told
    assert "got bright (1), dark (3)" in told
    assert "leave the cases of bright out" in told


def test_a_class_that_is_only_in_the_declared_test_part(tmp_path: Path, train: Say) -> None:
    rows = cohort(tmp_path / "data", 3)
    for row in rows:
        row["split"] = "test" if row["class"] == "bright" else "train"
    code, told = train(table(tmp_path / "data", rows))
    assert code == 1
    assert "[class-unlearnt]" in told
    assert "got none of bright" in told


def test_subjects_without_a_class_are_left_out_aloud(tmp_path: Path, train: Say) -> None:
    """The rule: who has no class neither teaches nor judges, and is named."""
    rows = cohort(tmp_path / "data")
    rows[0]["class"] = rows[8]["class"] = ""
    code, told = train(table(tmp_path / "data", rows), "--network", "cnn")
    assert code == 0
    assert "2 of 12 cases left out for want of a class: dark0, bright2" in told
    used = [name for part in parts(tmp_path).values() for name in part]
    assert sorted(used) == sorted(r["id"] for r in rows if r["class"])


# --- images ---------------------------------------------------------------------------------------


def flatten(folder: Path, row: Row) -> None:
    row["image_c0"] = f"{row['id']}.png"
    write(folder / row["image_c0"], noise(FLAT, np.random.default_rng(1), False))


@pytest.mark.parametrize("split", ["train", "test"])
def test_flat_images_among_volumes(tmp_path: Path, train: Say, split: str) -> None:
    rows = cohort(tmp_path / "data")
    flatten(tmp_path / "data", rows[2])
    for n, row in enumerate(rows):
        row["split"] = split if n == 2 else ("test" if n % 3 == 0 else "train")
    data = table(tmp_path / "data", rows)
    code, told = train(data)
    assert code == 2, "the audit sees it first"
    assert "dimensions-differ" in told
    code, told = train(data, "--no-audit")
    assert code == 1, "and without it, it is told before anything is learned"
    assert "[cohort-mixed]" in told
    assert "1 flat among 12 (dark2)" in told
    assert nothing_learned(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_subject_without_one_of_the_modalities(tmp_path: Path, train: Say, split: str) -> None:
    rows = cohort(tmp_path / "data", channels=2)
    for n, row in enumerate(rows):
        row["split"] = split if n == 0 else ("test" if n % 3 == 1 else "train")
    del rows[0]["image_c1"]
    data = table(tmp_path / "data", rows)
    code, told = train(data)
    assert code == 2
    assert "channels-differ" in told
    code, told = train(data, "--no-audit")
    assert code == 1
    assert (
        "[channels-differ] dark0: expected the channels c0, c1 as most cases have, got c0" in told
    )
    assert nothing_learned(tmp_path)


def test_a_missing_modality_at_prediction(
    tmp_path: Path, train: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cohort(tmp_path / "data", channels=2)
    code, _ = train(table(tmp_path / "data", rows), "--network", "mil", "--no-audit")
    assert code == 0
    model, out = str(tmp_path / "run" / "model.safetensors"), tmp_path / "answers"
    del rows[3]["image_c1"]
    data = table(tmp_path / "data", rows)
    assert main(["predict", model, str(data), "--out", str(out)]) == 3
    told = capsys.readouterr()
    assert "expected the channels c0, c1, got c0" in told.out + told.err
    assert "Traceback" not in told.err
    with (out / "classes.csv").open(newline="") as file:
        answered = [row["case"] for row in csv.DictReader(file)]
    assert sorted(answered) == sorted(r["id"] for r in rows if r["id"] != "dark3")
    assert (
        main(["predict", model, str(data), "--out", str(tmp_path / "one"), "--only", "dark3"]) == 1
    )
    told = capsys.readouterr()
    assert "[channels] dark3" in told.err
    assert "with c1" in told.err


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "settings"), [("mil", ""), ("cnn", "network_settings: {ndim: 3}")]
)
def test_a_network_for_volumes_and_flat_images(
    tmp_path: Path, train: Say, network: str, settings: str
) -> None:
    rows = cohort(tmp_path / "data", grid=FLAT)
    data = table(tmp_path / "data", rows)
    code, told = train(data, "--network", network, "--no-audit", settings=settings)
    assert code == 1
    assert "[network-3d] network: expected volumes or stacks of slices" in told
    assert f"{network!r}, got flat images" in told
    assert "for instance cnn" in told


def test_a_network_for_volumes_is_not_asked_about_single_slices(tmp_path: Path, train: Say) -> None:
    """The rule: presence is a question about each slice; who sees all at once does not answer."""
    rows = cohort(tmp_path / "data")
    for n, row in enumerate(rows):
        mask = np.zeros((1, 16, 16, 5), np.uint8)
        mask[:, 4:8, 4:8, n % 5] = 1
        row["label"] = f"{row['id']}_mask.nii.gz"
        write(tmp_path / "data" / row["label"], Image(mask, SOLID))
    data = table(tmp_path / "data", rows)
    code, told = train(data, "--network", "mil", "--target", "presence", "--no-audit")
    assert code == 1
    assert "[network-3d]" in told
    assert "presence of a structure in each slice" in told


def test_flat_images_and_a_model_of_volumes(
    tmp_path: Path, train: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = cohort(tmp_path / "data")
    assert train(table(tmp_path / "data", rows), "--network", "mil", "--no-audit")[0] == 0
    flat = table(tmp_path / "flat", cohort(tmp_path / "flat", 1, FLAT))
    model = str(tmp_path / "run" / "model.safetensors")
    assert main(["predict", model, str(flat), "--out", str(tmp_path / "answers")]) == 1
    told = capsys.readouterr()
    assert "expected an image of 3 dimensions, got shape (16, 16)" in told.out + told.err


def test_a_patch_of_other_dimensions(tmp_path: Path, train: Say) -> None:
    data = table(tmp_path / "data", cohort(tmp_path / "data"))
    code, told = train(data, "--network", "mil", "--no-audit", settings="patch: [12, 12]\n")
    assert code == 1
    assert "[patch] patch: expected a patch of 3 sizes, got (12, 12)" in told
