"""Splits: subjects never part, whatever is drawn; the referee is scikit-learn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from delineate.core.case import Case
from delineate.core.errors import AuditError, InputError
from delineate.core.schema import Schema
from delineate.data import splits
from delineate.data.cohort import Cohort
from delineate.data.splits import Split


def make(count: int, seed: int = 0, most: int = 4, classes: int = 3, sites: int = 2) -> Cohort:
    """``count`` subjects of 1 to ``most`` cases, with classes and sites drawn unevenly."""
    rng = np.random.default_rng(seed)
    cases = []
    for n in range(count):
        class_name = f"c{int(rng.integers(classes) * rng.integers(2))}"
        site = f"s{rng.integers(sites)}"
        for visit in range(int(rng.integers(1, most + 1))):
            name = f"p{n:03d}_{visit}"
            cases.append(
                Case(name, f"p{n:03d}", {"t1": Path(f"{name}.nii")}, None, class_name, site)
            )
    return Cohort(Path("/data"), "folder", tuple(cases), Schema())


def subjects(cohort: Cohort, ids: tuple[str, ...]) -> set[str]:
    return {case.subject for case in cohort.subset(ids)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_holdout_keeps_subjects_whole_and_meets_the_fraction(seed: int, fraction: float) -> None:
    cohort = make(60, seed)
    split = splits.holdout(cohort, fraction, seed)
    splits.check(cohort, split)
    assert not subjects(cohort, split["train"]) & subjects(cohort, split["test"])
    assert set(split["train"]) | set(split["test"]) == {case.id for case in cohort}
    # No further from the fraction than one subject (of 4 cases at most).
    assert abs(len(split["test"]) - fraction * len(cohort)) <= 4


def test_equal_subjects_of_one_kind_are_dealt_to_the_nearest_whole_number() -> None:
    cohort = make(10, most=1, classes=1, sites=1)
    assert [len(f["validation"]) for f in splits.k_fold(cohort, 4, 0)] == [3, 3, 2, 2]
    assert len(splits.holdout(cohort, 0.2, 0)["test"]) == 2


def test_no_part_stays_empty() -> None:
    cohort = make(3, most=1)
    assert len(splits.holdout(cohort, 0.01, 0)["test"]) == 1
    assert len(splits.holdout(cohort, 0.99, 0)["train"]) == 1
    assert all(f["validation"] for f in splits.k_fold(cohort, 3, 0))


@pytest.mark.parametrize("seed", range(4))
def test_k_fold_has_what_group_k_fold_has(seed: int) -> None:
    """Every case is judged once, groups stay whole, folds are as even as scikit-learn's."""
    from sklearn.model_selection import GroupKFold

    cohort = make(50, seed, classes=1, sites=1)
    folds = splits.k_fold(cohort, 5, seed)
    judged = Counter(name for fold in folds for name in fold["validation"])
    assert judged == Counter(case.id for case in cohort)
    for fold in folds:
        splits.check(cohort, fold)
    groups = [case.subject for case in cohort]
    referee = [len(test) for _, test in GroupKFold(5).split(groups, groups=groups)]
    sizes = [len(fold["validation"]) for fold in folds]
    assert max(sizes) - min(sizes) <= max(1, max(referee) - min(referee))


def test_classes_are_spread_as_well_as_stratified_group_k_fold_does() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    def spread(parts: list[list[str]]) -> float:
        share = np.array(
            [[part.count(k) / len(part) for k in ("c0", "c1", "c2")] for part in parts]
        )
        return float(share.std(axis=0).mean())

    ours, theirs = [], []
    for seed in range(10):
        cohort = make(80, seed)
        class_name = {case.id: str(case.class_name) for case in cohort}
        folds = splits.k_fold(cohort, 5, seed)
        ours.append(spread([[class_name[name] for name in fold["validation"]] for fold in folds]))
        labels = np.array(list(class_name.values()))
        groups = [case.subject for case in cohort]
        referee = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        parts = [labels[test].tolist() for _, test in referee.split(labels, labels, groups)]
        theirs.append(spread(parts))
    assert np.mean(ours) < 1.25 * np.mean(theirs) + 0.01


def test_a_rare_class_reaches_every_fold() -> None:
    cases = [
        Case(f"p{n}", f"p{n}", {"t1": Path(f"{n}.nii")}, class_name="rare" if n < 5 else "common")
        for n in range(50)
    ]
    cohort = Cohort(Path("/data"), "folder", tuple(cases), Schema())
    for seed in range(5):
        for fold in splits.k_fold(cohort, 5, seed):
            assert sum(c.class_name == "rare" for c in cohort.subset(fold["validation"])) == 1


def test_same_seed_same_split_whatever_the_order_of_the_cases() -> None:
    cohort = make(30)
    backwards = cohort.with_cases(reversed(cohort.cases))
    first = splits.holdout(cohort, 0.3, 7)
    assert splits.holdout(backwards, 0.3, 7).hash() == first.hash()
    assert splits.holdout(cohort, 0.3, 8).hash() != first.hash()


def test_leave_one_site_out() -> None:
    cohort = make(20, sites=3)
    for split in splits.leave_one_site_out(cohort):
        site = split.name.removeprefix("site-")
        assert {case.site for case in cohort.subset(split["test"])} == {site}
        assert site not in {case.site for case in cohort.subset(split["train"])}
    with pytest.raises(InputError) as caught:
        splits.leave_one_site_out(make(5, sites=1))
    assert caught.value.code == "sites"


def test_a_subject_at_two_sites_cannot_be_left_out() -> None:
    cases = [Case(s + v, s, {"t1": Path("x")}, site=v) for s in "ab" for v in "XY"]
    cohort = Cohort(Path("/data"), "folder", tuple(cases), Schema())
    with pytest.raises(AuditError) as caught:
        splits.leave_one_site_out(cohort)
    assert caught.value.code == "subject-in-two-parts"


def test_the_leaky_split_leaks_and_says_so() -> None:
    cohort = make(20, most=8)
    ids = [case.id for case in cohort]
    split = Split("by-case", 0, {"train": tuple(ids[::2]), "test": tuple(ids[1::2])}, leaky=True)
    assert subjects(cohort, split["train"]) & subjects(cohort, split["test"])
    with pytest.raises(AuditError, match="allow the leak by name"):
        splits.check(cohort, split)
    splits.check(cohort, split, allow_leaky=True)


@pytest.mark.parametrize(
    ("parts", "error", "code"),
    [
        ({"train": ("p000_0",), "test": ("nobody",)}, InputError, "split-unknown-id"),
        ({"train": ("p000_0",), "test": ("p000_0",)}, InputError, "split-duplicate-id"),
        ({"train": ("p000_0", "p000_0"), "test": ("p001_0",)}, InputError, "split-duplicate-id"),
        ({"train": ("p000_0",), "test": ()}, InputError, "split-empty"),
        ({"train": ("p000_0",), "test": ("p000_1",)}, AuditError, "subject-in-two-parts"),
    ],
)
def test_check_is_a_hard_stop(
    parts: dict[str, tuple[str, ...]], error: type[Exception], code: str
) -> None:
    cases = [Case(f"p00{n}_{v}", f"p00{n}", {"t1": Path("x")}) for n in (0, 1) for v in (0, 1)]
    cohort = Cohort(Path("/data"), "folder", tuple(cases), Schema())
    # A split that does not call itself leaky is stopped even where leaks are allowed.
    with pytest.raises(error) as caught:
        splits.check(cohort, Split("mine", 0, parts), allow_leaky=True)
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_declared_split() -> None:
    cases = [
        Case(n, n, {"t1": Path("x")}, split=p)
        for n, p in zip("abc", ("train", "train", "test"), strict=True)
    ]
    cohort = Cohort(Path("/data"), "folder", tuple(cases), Schema())
    assert splits.declared(cohort).parts == {"train": ("a", "b"), "test": ("c",)}
    with pytest.raises(InputError) as caught:
        splits.declared(make(3))
    assert caught.value.code == "split-undeclared"


@pytest.mark.parametrize(
    "draw",
    [
        lambda c: splits.holdout(c, 0.0, 0),
        lambda c: splits.holdout(c, 1.0, 0),
        lambda c: splits.k_fold(c, 1, 0),
        lambda c: splits.k_fold(c, 99, 0),
    ],
)
def test_splits_that_cannot_be_drawn(draw: Callable[[Cohort], object]) -> None:
    with pytest.raises(InputError):
        draw(make(4))


def test_real_lgg_folds_spread_sites_and_grades(real_data: Callable[[str], Path]) -> None:
    cohort = Cohort.open(real_data("lgg-mri-segmentation"))
    for fold in splits.k_fold(cohort, 4, 0):
        part = cohort.subset(fold["validation"])
        assert len(part) == 6
        assert {case.site for case in part} == {"CS", "DU", "HT"}
        assert {case.class_name for case in part} == {"G2", "G3"}
    split = splits.holdout(cohort, 0.25, 0)
    assert Split.from_dict(json.loads(json.dumps(split.to_dict()))) == split


def with_parts(**parts: int) -> Cohort:
    cases = [
        Case(f"{part}{n}", f"{part}{n}", {"t1": Path("x")}, split=None if part == "none" else part)
        for part, count in parts.items()
        for n in range(count)
    ]
    return Cohort(Path("/data"), "folder", tuple(cases), Schema())


@pytest.mark.parametrize("folds", [None, 3])
def test_declared_parts_are_used_as_what_they_are_called(folds: int | None) -> None:
    cohort = with_parts(train=7, none=2, validation=3, test=4)
    split = splits.planned(
        cohort, 0, test_share=0.3, validation_share=0.3, folds=folds, fold=1, leaky=False
    )
    assert set(split["validation"]) == {f"validation{n}" for n in range(3)}
    kept = {name for name in split["train"] if name.startswith(("train", "none"))}
    assert kept == set(split["train"])
    if folds is None:
        assert set(split["test"]) == {f"test{n}" for n in range(4)}
        assert len(kept) == 9
    else:
        assert len(split["test"]) == 3
        assert not any(name.startswith(("test", "validation")) for name in split["test"])


def test_a_declared_validation_part_leaves_the_test_part_to_be_drawn_from_training() -> None:
    split = splits.planned(
        with_parts(none=8, validation=2), 0, test_share=0.25, validation_share=0.1
    )
    assert set(split["validation"]) == {"validation0", "validation1"}
    assert len(split["test"]) == 2
    assert all(name.startswith("none") for name in (*split["test"], *split["train"]))
    whole = splits.planned(with_parts(none=8, validation=2), 0, test_share=0, validation_share=0)
    assert set(whole.parts) == {"train", "validation"}
    assert len(whole["train"]) == 8


def test_a_declared_part_without_labels_is_replaced_and_said() -> None:
    every, usable = with_parts(train=6, validation=3), with_parts(train=6)
    split = splits.planned(usable, 0, test_share=0.2, validation_share=0.2)
    assert all(name.startswith("train") for name in split["validation"])
    whole = with_parts(train=6, test=2)
    assert splits.describe_declared(whole, whole) == [
        "test: 2 cases, as the data declare; they are scored"
    ]
    assert "left out of the 3 folds" in splits.describe_declared(whole, whole, 3)[0]
    (line,) = splits.describe_declared(every, usable)
    assert line == "the data declare 3 cases for validation, none of which can be judged"


def showing(**subjects: str) -> tuple[Cohort, dict[str, set[str]]]:
    """One case a subject, and what it shows, a letter each."""
    cases = [Case(name, name, {"t1": Path("x")}, Path("y")) for name in subjects]
    shown = {name: set(letters) for name, letters in subjects.items()}
    return Cohort(Path("/data"), "folder", tuple(cases), Schema()), shown


@pytest.mark.parametrize("seed", range(8))
def test_what_one_subject_shows_is_trained_on_whatever_the_seed(seed: int) -> None:
    cohort, shown = showing(**{f"c{n}": "ox" if n == 3 else "oy" if n in (5, 6) else "o"
                               for n in range(8)})  # fmt: skip
    split = splits.holdout(cohort, 0.4, seed, structures=shown)
    splits.check(cohort, split)
    assert "c3" in split["train"]
    assert {"c5", "c6"} & set(split["train"])
    assert not splits.absent_from_training(split, shown)
    assert "x" in splits.absent_from_test(split, shown)
    # Of the two that show y, one judges: rare things are spread too.
    assert {"c5", "c6"} & set(split["test"])
    inner = splits.holdout(cohort.subset(split["train"]), 0.3, seed, structures=shown)
    assert not splits.absent_from_training(inner, shown)


def test_where_every_subject_shows_something_of_its_own_what_is_lost_is_told() -> None:
    cohort, shown = showing(a="p", b="q", c="r")
    split = splits.holdout(cohort, 0.3, 0, structures=shown)
    assert len(split["test"]) == 1
    (lost,) = splits.absent_from_training(split, shown)
    assert splits.absent_from_training(split, shown)[lost] == ["test"]
    assert shown[split["test"][0]] == {lost}


def test_a_rare_structure_follows_its_subject_whole() -> None:
    cases = [Case(f"{s}{v}", s, {"t1": Path("x")}, Path("y")) for s in "abcdef" for v in (1, 2)]
    cohort = Cohort(Path("/data"), "folder", tuple(cases), Schema())
    for seed in range(5):
        split = splits.holdout(cohort, 0.3, seed, structures={"d2": {"cyst"}})
        assert {"d1", "d2"} <= set(split["train"])
