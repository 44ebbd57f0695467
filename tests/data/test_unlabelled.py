"""Who may be learnt from without a label, and who not: a held-out subject never."""

from __future__ import annotations

from pathlib import Path

import pytest

from delineate.core.case import Case
from delineate.core.errors import AuditError
from delineate.core.schema import Label, Schema
from delineate.data import splits, unlabelled
from delineate.data.cohort import Cohort
from delineate.data.splits import Split

LABEL = Path("label.nii")


def case(name: str, subject: str, labelled: bool, part: str | None = None) -> Case:
    return Case(name, subject, {"t1": Path(f"{name}.nii")}, LABEL if labelled else None, split=part)


def cohort(*cases: Case) -> Cohort:
    return Cohort(Path("/data"), "folder", cases, Schema((Label("tumour", 1),)))


COHORT = cohort(
    case("a1", "a", True), case("a2", "a", False), case("b1", "b", True), case("b2", "b", False),
    case("c1", "c", True), case("c2", "c", False), case("d1", "d", False), case("d2", "d", False),
)  # fmt: skip
SPLIT = Split("holdout", 0, {"train": ("a1",), "validation": ("b1",), "test": ("c1",)})


def test_scans_of_subjects_that_are_held_out_are_not_learnt_from() -> None:
    split, refused = unlabelled.join(SPLIT, COHORT, ["a2", "b2", "c2", "d1", "d2"])
    assert split["unlabelled"] == ("a2", "d1", "d2")
    assert refused == ("b2", "c2")
    assert {part: split[part] for part in SPLIT.parts} == dict(SPLIT.parts)
    splits.check(COHORT, split)  # a subject may teach with a labelled scan and with others


def test_what_the_data_declare_for_a_test_is_not_learnt_from_labelled_or_not() -> None:
    given = cohort(
        case("a1", "a", True), case("b1", "b", True), case("e1", "e", False, "test"),
        case("e2", "e", False), case("f1", "f", False, "train"),
    )  # fmt: skip
    split, refused = unlabelled.join(
        Split("x", 0, {"train": ("a1",), "test": ("b1",)}), given, ["e1", "e2", "f1"]
    )
    assert split["unlabelled"] == ("f1",)
    assert refused == ("e1", "e2")


def test_where_nobody_is_left_there_is_no_such_part() -> None:
    given = cohort(case("a1", "a", True), case("b1", "b", True), case("b2", "b", False))
    split = Split("x", 0, {"train": ("a1",), "test": ("b1",)})
    assert unlabelled.join(split, given, ["b2"]) == (split, ("b2",))


def test_a_split_that_teaches_by_a_held_out_subject_is_stopped() -> None:
    leak = Split("x", 0, {**SPLIT.parts, "unlabelled": ("c2",)})
    with pytest.raises(AuditError, match="1 subjects of the split 'x' are in more than one part"):
        splits.check(COHORT, leak)
