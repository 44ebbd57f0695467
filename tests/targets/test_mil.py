"""A case's class from all of its slices at once: planned, fed, learned, and said which decided."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from delineate.core import catalog, model_file
from delineate.core.image import Grid, Image
from delineate.data.readers import write
from delineate.phantoms.generate import generate
from delineate.settings import RunConfig
from delineate.targets import _sizes
from delineate.targets._class_feed import ClassFeed
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict
from delineate.tasks.train import train

SLICES = 10
#: The file runs from top to bottom, and its slices lie along its first axis.
DOWNWARDS = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, SLICES - 1], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Volumes of noise, some with a square in one slice; and which slice of the file that is.

    As CT, for scans that are scaled one by one would show in every slice that there is a square.
    """
    folder = tmp_path_factory.mktemp("planted") / "data"
    rng = np.random.default_rng(0)
    rows, places = ["id,image_ct,class"], {}
    (folder / "images").mkdir(parents=True)
    for n in range(40):
        name = f"{'ill' if n % 2 else 'well'}{n:02d}"
        array = rng.normal(100, 20, (SLICES, 12, 12)).astype(np.float32)
        if n % 2:
            places[name] = int(rng.integers(SLICES))
            array[places[name], 3:9, 3:9] += 80
        write(
            folder / "images" / f"{name}.nii.gz", Image(array[None], Grid(array.shape, DOWNWARDS))
        )
        rows.append(f"{name},images/{name}.nii.gz,{name[:-2]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder / "cases.csv", places


def test_the_slice_that_decided_is_named_as_the_file_counts_it(
    planted: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    data, places = planted
    config = tmp_path / "small.yaml"
    config.write_text(
        "width: 8\nbatch: 16\nvalidation: 0.0\naugment: false\n"
        "network_settings: {depth: 2, hidden: 32, dropout: 0.0}\n"
        "method_settings: {learning_rate: 0.005}\n"
    )
    run = tmp_path / "run"
    summary = train(
        data, network="mil", steps=60, config=config, out=run, audit=False, device="cpu"
    )
    assert summary["scores"]["unit"] == "case"
    document = model_file.load(run / "model.safetensors").document
    assert document["network"]["config"]["ndim"] == 3
    assert document["network"]["config"]["axis"] == 2  # of the array as the network sees it
    assert document["input"]["patch"] == [12, 12, SLICES]
    assert document["input"]["slice_axis"] is None
    answers = tmp_path / "answers"
    index = predict(run / "model.safetensors", data, answers, device="cpu")
    with (answers / "classes.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    right = sum(row["class"] == name[:-2] for name, row in rows.items())
    found = sum(int(rows[name]["slice"]) == place for name, place in places.items())
    assert right >= 36
    assert found >= 18, "of 20 planted"
    for case in index["cases"]:
        told = case["facts"]["attention"]
        assert case["facts"]["slice_axis"] == 0
        assert [one["slice"] for one in told] == list(range(SLICES))
        assert sum(one["weight"] for one in told) == pytest.approx(1)
        most = max(told, key=lambda one: one["weight"])
        assert float(rows[case["id"]]["attention"]) == pytest.approx(most["weight"])
    scores = evaluate(answers, data, tmp_path / "scores")
    assert scores["figures"]["n_samples"] == 40
    assert scores["figures"]["accuracy"]["value"] == pytest.approx(right / 40)


def test_stacks_of_slices_need_no_more_than_the_name(tmp_path: Path) -> None:
    data = generate(
        tmp_path / "data", 8, 6.0, seed=1, anatomy="ellipsoid", controls=0.0, twins=0.0,
        layout="kaggle",
    )  # fmt: skip
    config = tmp_path / "small.yaml"
    config.write_text("width: 4\nbatch: 2\nnetwork_settings: {depth: 2, pool: gru}\n")
    run = tmp_path / "run"
    train(data, target="class", network="mil", steps=2, config=config, out=run, audit=False)
    document = model_file.load(run / "model.safetensors").document
    assert document["network"]["config"]["axis"] == 2
    assert len(document["input"]["patch"]) == 3
    assert document["input"]["mirror_axes"] == [1]
    index = json.loads((run / "validation" / "predictions" / "predictions.json").read_text())
    assert index["finished"]
    assert "attention" not in index["cases"][0]["facts"]
    head = (run / "validation" / "predictions" / "classes.csv").read_text().splitlines()[0]
    assert head.split(",")[:3] == ["case", "subject", "class"]
    assert "attention" not in head, "a GRU does not say which slice counted"


# --- the plan and the feed ------------------------------------------------------------------------


def test_a_bag_is_planned_as_its_slices_are() -> None:
    flat = _sizes.candidates((240, 200), 2, whole=True)
    options = _sizes.candidates((240, 200, 155), 3, whole=True, bag=2)
    assert {c.patch[:2] for c in options} <= {c.patch for c in flat}
    assert {c.patch[2] for c in options} == {32}
    assert options[0].width < options[-1].width
    assert options[0].patch < options[-1].patch
    few = _sizes.candidates((9, 240, 200), 3, whole=True, bag=0)
    assert {c.patch[0] for c in few} == {9}
    fixed = _sizes.candidates((9, 240, 200), 3, patch=(8, 64, 64), batch=1, whole=True, bag=0)
    assert {(c.patch, c.batch) for c in fixed} == {((8, 64, 64), 1)}


class Case:
    """A prepared case without files: every slice along ``axis`` has its own grey value."""

    def __init__(self, axis: int, spacing: tuple[float, ...]) -> None:
        shape = [12, 12, 12]
        levels = np.arange(1.0, 13.0, dtype=np.float32)
        self.image = np.broadcast_to(
            np.expand_dims(levels, [a for a in range(3) if a != axis]), shape
        )[None]
        self.label, self.class_name, self.shape = None, "a", (1, *shape)
        self.grid, self.subject, self.meta = Grid(tuple(shape), np.diag([*spacing, 1.0])), "s", {}


PICTURES = catalog.load("targets", "class")._pictures


def fed(across: int | None, axis: int = 2, spacing: tuple[float, ...] = (1, 1, 1)) -> torch.Tensor:
    chosen = RunConfig(steps=1, rotation_degrees=40.0, scale=(1.0, 1.0), balance="none")
    feed = ClassFeed(
        [Case(axis, spacing)], chosen, PICTURES, ("a",), None, (12, 12, 12), 8, (), across,  # type: ignore[list-item]
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    image = torch.stack([feed._read(sample) for sample in feed.samples * 8])
    from delineate.augment import spatial

    moved = feed._matrices(spatial.Config(40.0, (1.0, 1.0), 1.0, 0.0), 8, generator)
    return spatial.apply(moved, image, torch.zeros(8, 12, 12, 12), (12, 12, 12))[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_augmentation_leaves_slices_apart(axis: int) -> None:
    """Turned within its plane, a slice keeps its grey value where it is still in the picture."""
    found = fed(axis, axis).movedim(axis + 2, 1)
    inside = found[:, :, :, 4:8, 4:8]
    levels = torch.arange(1.0, 13.0).view(1, 12, 1, 1, 1)
    assert torch.allclose(inside, levels.expand_as(inside), atol=1e-4)
    assert (found == 0).any(), "and turned it was"


def test_volumes_seen_whole_are_turned_in_millimetres() -> None:
    """About every axis; where slices lie far apart, few are crossed by the same angle."""

    def crossed(spacing: tuple[float, ...]) -> float:
        found = fed(None, 2, spacing)[:, 0, 4:8, 4:8, 5:7]
        return float((found - found.mean((1, 2), keepdim=True)).abs().mean())

    assert crossed((1, 1, 1)) > 0.3
    assert crossed((1, 1, 5)) < 0.5 * crossed((1, 1, 1))
