"""Classes from folder to report: whole images, volumes by slice, and what is in each slice."""

from __future__ import annotations

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from delineate.core import catalog, model_file
from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Grid, Image
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.readers import write
from delineate.phantoms.generate import generate
from delineate.settings import RunConfig
from delineate.targets._class_feed import ClassFeed
from delineate.tasks.benchmark import benchmark
from delineate.tasks.evaluate import evaluate
from delineate.tasks.predict import predict
from delineate.tasks.train import train
from delineate.training.resolving import complete

SMALL = "network: cnn\nwidth: 4\npatch: [24, 24]\nbatch: 8\nvalidation: 0.2\n"
FLAT = Grid((24, 24), np.diag([-1.0, -1.0, 1.0, 1.0]), oriented=False, spacing_known=False)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of a large disc or a small one, a folder each."""
    folder = tmp_path_factory.mktemp("discs") / "data"
    rng = np.random.default_rng(0)
    i, j = np.mgrid[:24, :24]
    for name, radius in (("large", 8), ("small", 3)):
        (folder / name).mkdir(parents=True)
        for n in range(20):
            y, x = rng.integers(8, 16, 2)
            shown = 60.0 + 120 * ((i - y) ** 2 + (j - x) ** 2 < radius**2)
            array = np.clip(shown + rng.normal(0, 8, shown.shape), 0, 255).astype(np.uint8)
            write(folder / name / f"{n:02d}.png", Image(array[None], FLAT))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, discs: Path, settings: Path) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(discs, steps=60, config=settings, out=out, audit=False)
    return out


def test_a_folder_of_classes_becomes_a_classifier_with_honest_figures(trained: Path):
    summary = json.loads((trained / "validation" / "summary.json").read_text())
    assert summary["classes"] == ["large", "small"]
    assert summary["figures"]["n_samples"] == 8
    assert summary["figures"]["accuracy"]["value"] > 0.8
    document = model_file.load(trained / "model.safetensors").document
    assert document["classes"]["names"] == ["large", "small"]
    assert document["classes"]["temperature"] > 0
    page = (trained / "report.html").read_text()
    assert "Balanced accuracy" in page
    assert "Mean Dice" not in page
    lines = [json.loads(x) for x in (trained / "log.jsonl").read_text().splitlines()]
    assert any("val_balanced_accuracy" in line for line in lines)


def known(root: Path) -> list[dict[str, str]]:
    """Every second image with its class, the others without."""
    cases = Cohort.open(root).cases
    return [
        {"id": c.id, "file": str(c.images["image"]), "class": str(c.class_name) if i % 2 else ""}
        for i, c in enumerate(cases)
    ]


def test_its_answers_are_a_table_and_are_scored_like_any_others(
    trained: Path, discs: Path, tmp_path: Path
):
    index = predict(trained / "model.safetensors", discs, tmp_path / "answers")
    with (tmp_path / "answers" / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert {row["class"] for row in rows} == {"large", "small"}
    for row, case in zip(rows, index["cases"], strict=True):
        assert float(row["p_large"]) + float(row["p_small"]) == pytest.approx(1, abs=1e-5)
        assert case["files"] == {}
    summary = evaluate(tmp_path / "answers", discs, tmp_path / "scores")
    right = sum(row["class"] == row["case"].split("_")[0].split("/")[0] for row in rows)
    assert summary["figures"]["accuracy"]["value"] == pytest.approx(right / 40)
    table = tmp_path / "some.csv"  # half of them without a class
    lines = [f"{c['file']},{c['id']},{c['class']}" for c in known(discs)]
    table.write_text("image,id,class\n" + "\n".join(lines) + "\n")
    said: list[str] = []
    summary = evaluate(tmp_path / "answers", table, tmp_path / "half", say=said.append)
    assert summary["figures"]["n_samples"] == 20
    assert any("want of a true class: 20 cases" in line for line in said)


def test_the_same_seed_gives_the_same_classifier(discs: Path, settings: Path, tmp_path: Path):
    found = []
    for name in ("one", "two"):
        train(discs, steps=3, config=settings, out=tmp_path / name, audit=False)
        found.append(model_file.load(tmp_path / name / "model.safetensors").tensors)
    for key, tensor in found[0].items():
        assert np.array_equal(tensor, found[1][key]), key


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slices") / "data"
    return generate(
        folder, 8, 6.0, seed=1, anatomy="ellipsoid", controls=0.0, twins=0.0, layout="kaggle"
    )


def test_presence_is_learned_and_scored_slice_by_slice(
    slices: Path, settings: Path, tmp_path: Path
):
    scores = train(
        slices, target="presence", steps=4, config=settings, out=tmp_path / "run", audit=False
    )["scores"]
    assert scores["unit"] == "slice"
    assert scores["classes"] == ["absent", "present"]
    with (tmp_path / "run" / "validation" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["truth"] for row in rows} == {"absent", "present"}
    assert len(rows) > len({row["case"] for row in rows})


def test_the_grade_of_a_case_is_learned_from_its_slices(
    slices: Path, settings: Path, tmp_path: Path
):
    scores = train(
        slices, target="class", steps=3, config=settings, out=tmp_path / "run", audit=False
    )["scores"]
    assert scores["unit"] == "case"
    assert "slice" in scores["levels"]


# --- what cannot be learned -----------------------------------------------------------------------


def copy(discs: Path, to: Path, counts: dict[str, int]) -> Path:
    for name, n in counts.items():
        (to / name).mkdir(parents=True)
        for path in sorted((discs / name).iterdir())[:n]:
            (to / name / path.name).write_bytes(path.read_bytes())
    return to


def test_one_class_is_refused(discs: Path, tmp_path: Path):
    copy(discs, tmp_path / "data", {"large": 4})
    (tmp_path / "data" / "data.csv").write_text(
        "id,image,class\n" + "\n".join(f"{n},large/{n:02d}.png,large" for n in range(4)) + "\n"
    )
    with pytest.raises(InputError, match="at least two classes") as caught:
        train(
            tmp_path / "data" / "data.csv",
            target="class",
            steps=2,
            out=tmp_path / "run",
            audit=False,
        )
    assert caught.value.code == "classes-too-few"


def test_a_class_of_one_subject_is_refused_by_name(discs: Path, tmp_path: Path):
    copy(discs, tmp_path / "data", {"large": 4, "small": 4})
    lines = [f"{c}{n},{c}/{n:02d}.png,{c},{c}{0 if c == 'small' else n}"
             for c in ("large", "small") for n in range(4)]  # fmt: skip
    (tmp_path / "data" / "data.csv").write_text(
        "id,image,class,subject\n" + "\n".join(lines) + "\n"
    )
    with pytest.raises(InputError, match=r"small \(1\)") as caught:
        train(
            tmp_path / "data" / "data.csv",
            target="class",
            steps=2,
            out=tmp_path / "run",
            audit=False,
        )
    assert caught.value.code == "class-lonely"
    assert "small" in str(caught.value)


def test_a_subject_without_a_class_is_left_out(discs: Path, settings: Path, tmp_path: Path):
    copy(discs, tmp_path / "data", {"large": 6, "small": 6})
    lines = [
        f"{c}{n},{c}/{n:02d}.png,{c if n else ''}" for c in ("large", "small") for n in range(6)
    ]
    (tmp_path / "data" / "data.csv").write_text("id,image,class\n" + "\n".join(lines) + "\n")
    run = tmp_path / "run"
    train(
        tmp_path / "data" / "data.csv",
        target="class",
        steps=2,
        config=settings,
        out=run,
        audit=False,
    )
    parts = json.loads((run / "split.json").read_text())["parts"]
    assert sum(map(len, parts.values())) == 10


def test_outlines_are_not_learned_with_a_classifier_nor_the_other_way(
    discs: Path, slices: Path, tmp_path: Path
):
    with pytest.raises(ConfigError, match="expected a classifier, got 'unet'"):
        train(discs, network="unet", steps=1, out=tmp_path / "a", audit=False)
    with pytest.raises(ConfigError, match="expected a segmenter, got 'cnn'"):
        train(slices, network="cnn", steps=1, out=tmp_path / "b", audit=False)
    with pytest.raises(ConfigError, match="trains a classifier, got 'supervised'"):
        train(discs, method="supervised", steps=1, out=tmp_path / "c", audit=False)


# --- the feed -------------------------------------------------------------------------------------


class Case:
    """A prepared case without files."""

    def __init__(self, class_name: str, level: float) -> None:
        self.image = np.full((1, 8, 8), level, np.float32)
        self.label, self.class_name, self.shape = None, class_name, (1, 8, 8)
        self.grid, self.subject = FLAT, class_name


PICTURES = catalog.load("targets", "class")._pictures


def feed(balance: str) -> ClassFeed:
    cases = [Case("rare", 1.0)] + [Case("common", 0.0)] * 9
    chosen = RunConfig(steps=1, balance=balance, augment=False)
    return ClassFeed(cases, chosen, PICTURES, ("common", "rare"), None, (8, 8), 8, ())  # type: ignore[arg-type]


def test_balance_by_sampling_shows_every_class_as_often():
    batch = feed("sampling")(0, 0, 1)
    assert batch.class_index is not None
    assert batch.class_index.float().mean() == 0.5
    assert torch.equal(batch.image.amax((1, 2, 3)), batch.class_index.float())
    assert batch.weight is None


def test_balance_by_weights_counts_every_class_as_much():
    one = feed("weights")
    weights, classes = [], []
    for step in range(200):
        batch = one(step, 0, 1)
        assert batch.class_index is not None
        assert batch.weight is not None
        weights.append(batch.weight)
        classes.append(batch.class_index)
    weight, class_index = torch.cat(weights), torch.cat(classes)
    assert class_index.float().mean() == pytest.approx(0.1, abs=0.03)
    assert weight[class_index == 1][0] / weight[class_index == 0][0] == pytest.approx(9)
    assert weight.mean() == pytest.approx(1, abs=0.15)


def test_a_feed_is_pure_in_its_step():
    one = feed("sampling")
    assert torch.equal(one(3, 0, 1).image, one(3, 0, 1).image)


def test_a_class_column_asks_for_classes_even_where_there_are_masks(slices: Path, tmp_path: Path):
    cohort = Cohort.open(slices)
    assert complete(RunConfig(), cohort).target == "outline"
    column = Opening(class_column="gender")
    assert complete(RunConfig(opening=column), cohort).target == "class"
    with pytest.raises(ConfigError, match="--target class beside a class column"):
        complete(RunConfig(target="presence", opening=column), cohort)
    with pytest.raises(ConfigError, match="no class column where presence is learned"):
        benchmark("s0-s2", data=slices, class_column="gender", out=tmp_path / "b")


def test_a_batch_of_pictures_depends_on_nothing_but_the_seed_and_the_step() -> None:
    """Neither on PyTorch's global generator, nor on the thread: batches are made ahead."""
    made = dataclasses.replace(feed("sampling"), chosen=RunConfig(steps=1, balance="sampling"))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    here = [made(step, 0, 1) for step in range(4)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with ThreadPoolExecutor(2) as threads:
        there = list(threads.map(made, range(4), [0] * 4, [1] * 4))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.class_index, other.class_index)
