"""Which target a run, a model or predictions have, and which cases it can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delineate import targets
from delineate.core.case import Case
from delineate.core.errors import ConfigError, InputError
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.settings import RunConfig

SCAN = {"image": Path("a.nii.gz")}


def cohort(labelled: int, unlabelled: int, classes: tuple[str, ...] = ()) -> Cohort:
    cases = [Case(f"l{i}", f"l{i}", SCAN, label=Path("l.nii.gz")) for i in range(labelled)]
    cases += [Case(f"u{i}", f"u{i}", SCAN) for i in range(unlabelled)]
    return Cohort(Path("/data"), "table", tuple(cases), Schema((Label("x", 1),), classes=classes))


def test_outlines_are_taken_where_there_are_label_maps_and_classes_where_there_are_none() -> None:
    assert targets.choose(RunConfig(), cohort(2, 1, ("a", "b"))) == "outline"
    assert targets.choose(RunConfig(), cohort(0, 3, ("a", "b"))) == "class"
    assert targets.choose(RunConfig(), cohort(0, 3)) == "outline"  # which says what is missing
    assert targets.choose(RunConfig(target="presence"), cohort(0, 3)) == "presence"
    column = RunConfig(opening=Opening(class_column="grade"))
    assert targets.choose(column, cohort(3, 0)) == "class"


def test_a_target_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="expected one of the targets, got 'outlines'") as caught:
        targets.make("outlines")
    assert "outline" in str(caught.value.fix)


def test_who_is_left_out_is_told_and_why() -> None:
    found = targets.make("outline").usable(cohort(3, 10))
    assert [case.id for case in found.labelled.cases] == ["l0", "l1", "l2"]
    (sentence,) = found.sentences()
    assert sentence == (
        "10 of 13 cases left out for want of a label map: u0, u1, u2, u3, u4, u5, u6, u7 …"
    )
    assert found.sentences(unlabelled_too=False) == []  # a method learns from them


@pytest.mark.parametrize(
    ("index", "name"),
    [
        ({"target": {"name": "presence", "config": {}}}, "presence"),
        ({"classes": {"names": ["a", "b"], "target": "class"}}, "class"),
        ({"classes": None}, "outline"),
    ],
)
def test_predictions_say_their_target_as_older_ones_did(
    index: dict[str, object], name: str, tmp_path: Path
) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(index))
    found, wanted = targets.of_predictions(tmp_path), targets.make(name)
    assert (found.format, getattr(found, "question", None)) == (
        wanted.format, getattr(wanted, "question", None)
    )  # fmt: skip


def test_predictions_of_other_tools_are_outlines(tmp_path: Path) -> None:
    assert targets.of_predictions(tmp_path).kind == "segmenter"
    assert targets.of_predictions(tmp_path / "mask.nii.gz").format == "delineate-evaluation"


def test_the_figures_by_which_runs_are_told_come_from_the_summary() -> None:
    dice = {"mean": 0.8, "ci_low": 0.7, "ci_high": 0.9}
    summary = {
        "format": "delineate-evaluation",
        "mean_dice": {**dice, "mean": 0.85},
        "regions": {"a": {"dice": dice}, "b": {"dice": {**dice, "mean": 0.9}}},
    }
    told = targets.of_summary(summary).headline(summary)
    assert {name: figure.value for name, figure in told.items()} == {
        "mean Dice": 0.85, "Dice a": 0.8, "Dice b": 0.9
    }  # fmt: skip
    figures = {"balanced_accuracy": {"value": 0.6}, "roc_auc": {"value": None}}
    summary = {"format": "delineate-classification", "figures": figures}
    told = targets.of_summary(summary).headline(summary)
    assert told["balanced accuracy"].value == 0.6
    assert told["ROC-AUC"].value is None


def test_scores_of_no_target_here_are_not_shown_as_something_else() -> None:
    with pytest.raises(InputError, match="got 'count-of-lesions'"):
        targets.of_summary({"format": "count-of-lesions"})
    assert targets.of_summary({}).kind == "segmenter"  # a run without scores
