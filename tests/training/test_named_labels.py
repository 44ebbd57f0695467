"""Structures by name on both sides of a comparison, and from training to scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from delineate.core.errors import ConfigError, DelineateError
from delineate.data.opening import Opening
from delineate.tasks.evaluate import evaluate
from delineate.tasks.train import train
from delineate.training.preparing import plan_preparation, prepare_cohort

SHAPE = (8, 12, 10)  # K, J, I


def blocks(front: int, back: int) -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[2:5, 2:5, 2:5] = front
    found[2:7, 6:11, 5:9] = back
    return found


def write(
    path: Path,
    array: np.ndarray,
    names: Sequence[str] = (),
    origin: Sequence[float] = (5.0, 6.0, 7.0),
) -> Path:
    """A volume at a place, whose values 1, 2 ... have these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    out = sitk.GetImageFromArray(array)
    out.SetOrigin(origin)
    for n, name in enumerate(names):
        out.SetMetaData(f"Segment{n}_Name", name)
        out.SetMetaData(f"Segment{n}_LabelValue", str(n + 1))
        out.SetMetaData(f"Segment{n}_Layer", "0")
    sitk.WriteImage(out, str(path), True)
    return path


def test_the_order_of_drawing_does_not_change_a_score(tmp_path: Path) -> None:
    write(tmp_path / "pred/a.seg.nrrd", blocks(2, 1), ("back", "front"))
    write(tmp_path / "ref/a.seg.nrrd", blocks(1, 2), ("front", "back"))
    summary = evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")
    assert sorted(summary["structures"]) == ["back", "front"]
    assert summary["mean_dice"]["mean"] == 1


def test_a_prediction_without_names_is_not_compared_with_names(tmp_path: Path) -> None:
    write(tmp_path / "pred/a.nrrd", blocks(2, 1))
    write(tmp_path / "ref/a.seg.nrrd", blocks(1, 2), ("front", "back"))
    with pytest.raises(DelineateError, match=r"pred.a\.nrrd.*without names"):
        evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")


def test_named_predictions_are_scored_against_what_a_table_of_values_declares(
    tmp_path: Path,
) -> None:
    """Names on one side, numbers called "label 1" on the other: nothing says which is which."""
    write(tmp_path / "pred/a.seg.nrrd", blocks(1, 2), ("front", "back"))
    write(tmp_path / "ref/a.nrrd", blocks(1, 2))
    with pytest.raises(DelineateError, match="'front'"):
        evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")


def test_one_structure_on_both_sides_needs_no_name(tmp_path: Path) -> None:
    write(tmp_path / "pred/a.seg.nrrd", blocks(1, 0), ("lesion",))
    write(tmp_path / "ref/a.nrrd", blocks(255, 0))
    for one, other in (("pred", "ref"), ("ref", "pred")):
        summary = evaluate(tmp_path / one, tmp_path / other, tmp_path / f"scores-{one}")
        assert summary["mean_dice"]["mean"] == 1


def test_a_cropped_segmentation_is_scored_on_the_whole_grid(tmp_path: Path) -> None:
    write(tmp_path / "ref/a.seg.nrrd", blocks(1, 2), ("front", "back"))
    part = blocks(2, 1)[1:8, 1:12, 2:9]
    write(tmp_path / "pred/a.seg.nrrd", part, ("back", "front"), origin=(7.0, 7.0, 8.0))
    summary = evaluate(tmp_path / "pred", tmp_path / "ref", tmp_path / "scores")
    assert summary["mean_dice"]["mean"] == 1


def test_prepared_cases_hold_the_same_structures_whatever_their_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i, order in enumerate([("front", "back"), ("back", "front")]):
        picture = rng.normal(100, 5, SHAPE) + blocks(60, 120)
        write(tmp_path / f"data/images/c{i}.nrrd", picture.astype(np.float32))
        values = {name: n for n, name in enumerate(order, 1)}
        label = blocks(values["front"], values["back"])
        write(tmp_path / f"data/labels/c{i}.seg.nrrd", label, order)
    cohort = Opening().cohort(tmp_path / "data")
    preparation = plan_preparation(cohort)
    cases = prepare_cohort(cohort, preparation, tmp_path / "cache")
    front = [label.name for label in cohort.schema.labels].index("front") + 1
    for case in cases:
        assert case.meta["voxels"] == {"front": 27, "back": 100}
        assert int((case.label == front).sum()) == 27


def test_a_budget_is_held_against_cases_whose_labels_have_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        write(tmp_path / f"data/images/c{i}.nrrd", rng.normal(100, 5, SHAPE).astype(np.float32))
        write(tmp_path / f"data/labels/c{i}.seg.nrrd", blocks(1, 2), ("front", "back"))
    said: list[str] = []
    with pytest.raises(ConfigError, match="for this cohort on this machine"):
        train(tmp_path / "data", budget="1s", out=tmp_path / "run", audit=False, say=said.append)
    assert not any("not measured" in line for line in said)
