"""Benchmarks of classifiers: what each condition puts on which side, and what the table says."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delineate import targets
from delineate.comparing import splits_as_tables, suites
from delineate.comparing import tables as tables_of_runs
from delineate.comparing.run_processes import Run
from delineate.comparing.splits_as_tables import Condition
from delineate.core.errors import InputError, OutputError
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.phantoms.generate import generate
from delineate.targets._class_comparison import MAJORITY

CONDITIONS = (
    Condition("by subject"),
    Condition("by slice", "slice"),
    Condition("chance", "slice", "random"),
    Condition("by site", "site"),
)


def pictures(cohort: Cohort, target: str, level: str = "slice") -> tuple[Cohort, list[str]]:
    judged = targets.make(target).comparison.judged(cohort, level)
    assert judged.as_target == "class"
    return judged.cohort, list(judged.notes)


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("cohort") / "data"
    generate(folder, 6, 6.0, seed=1, anatomy="ellipsoid", controls=0.0, twins=0.0, layout="kaggle")
    return pictures(Cohort.open(folder), "presence")[0]


@pytest.fixture(scope="module")
def tables(flat: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("tables")
    found = splits_as_tables.write(flat, CONDITIONS, 3, folder)
    return {key: list(csv.DictReader(path.read_text().splitlines())) for key, path in found.items()}


def subjects(rows: list[dict[str, str]], part: str) -> set[str]:
    return {row["subject"] for row in rows if row["split"] == part}


def test_every_picture_is_held_out_once_a_condition(flat: Cohort, tables: dict):
    for condition in CONDITIONS:
        held = [r["id"] for (name, _), rows in tables.items() if name == condition.name
                for r in rows if r["split"] == "test"]  # fmt: skip
        assert sorted(held) == sorted(case.id for case in flat.cases)


def test_subjects_and_sites_stay_together_and_slices_do_not(tables: dict):
    for (name, _), rows in tables.items():
        shared = subjects(rows, "train") & subjects(rows, "test")
        assert bool(shared) == (name in ("by slice", "chance")), name
    for (name, _), rows in tables.items():
        if name == "by site":
            assert len({row["site"] for row in rows if row["split"] == "test"}) == 1


def test_random_labels_are_of_the_subject_and_true_ones_of_the_slice(tables: dict):
    random, true = defaultdict(set), defaultdict(set)
    for row in tables["chance", 0]:
        random[row["subject"]].add(row["class"])
    for row in tables["by slice", 0]:
        true[row["subject"]].add(row["class"])
    assert all(len(classes) == 1 for classes in random.values())
    assert {next(iter(classes)) for classes in random.values()} == {"absent", "present"}
    assert all(classes == {"absent", "present"} for classes in true.values())


def test_the_tables_are_cohorts(flat: Cohort, tmp_path: Path):
    path = next(iter(splits_as_tables.write(flat, CONDITIONS[:1], 2, tmp_path / "t").values()))
    cohort = Cohort.open(path)
    assert cohort.schema.classes == ("absent", "present")
    assert {case.split for case in cohort.cases} == {"train", "test"}
    assert set(cohort.modalities.values()) == set(flat.modalities.values()) == {"MR"}


def write_images(root: Path, copies: int) -> Path:
    """Flat images of two classes in declared parts; some of the test part are in training too."""
    generator = np.random.default_rng(0)
    for part, count in (("Training", 8), ("Testing", 4)):
        for class_name, low in (("bright", 150), ("dark", 0)):
            folder = root / part / class_name
            folder.mkdir(parents=True)
            for i in range(count):
                array = generator.integers(low, low + 100, (9, 9), np.uint8)
                if part == "Testing" and i < copies:
                    array = np.array(Image.open(root / "Training" / class_name / f"{i}.png"))
                Image.fromarray(array).save(folder / f"{i}.png")
    return root


def test_copies_count_as_one_subject_and_can_be_taken_out_of_the_test(tmp_path: Path):
    cohort = Cohort.open(write_images(tmp_path / "data", 3))
    flat, notes = pictures(cohort, "class")
    assert any(note.startswith("6 images are copies") for note in notes)
    assert len({case.subject for case in flat.cases}) == 24 - 6
    wanted = (Condition("declared", "declared"), Condition("distinct", "distinct"),
              Condition("by site", "site"))  # fmt: skip
    kept, left_out = splits_as_tables.fitting(flat, wanted, 2)
    assert [condition.name for condition in kept] == ["declared", "distinct"]
    assert left_out[0].startswith("left out, by site: expected two sites")
    found = splits_as_tables.write(flat, kept, 2, tmp_path / "tables")
    rows = {key: list(csv.DictReader(path.read_text().splitlines())) for key, path in found.items()}
    assert sum(row["split"] == "test" for row in rows["declared", 1]) == 8
    assert sum(row["split"] == "test" for row in rows["distinct", 1]) == 2
    assert not subjects(rows["distinct", 0], "test") & subjects(rows["distinct", 0], "train")


def test_conditions_that_say_nothing_new_are_left_out(tmp_path: Path):
    flat, notes = pictures(Cohort.open(write_images(tmp_path / "data", 0)), "class")
    assert notes == []
    kept, left_out = splits_as_tables.fitting(flat, (Condition("a"), Condition("b", "slice"),
                                                Condition("c", "distinct")), 2)  # fmt: skip
    assert [condition.name for condition in kept] == ["a"]
    assert len(left_out) == 2


def test_whole_stacks_are_cases_of_a_table(tmp_path: Path):
    folder = tmp_path / "data"
    generate(folder, 6, 6.0, seed=1, anatomy="ellipsoid", twins=0.0, layout="kaggle")
    cohort = Cohort.open(folder)
    whole, _ = pictures(cohort, "class", "case")
    assert len(whole) == sum(case.class_name is not None for case in cohort.cases) > 1
    path = splits_as_tables.write(whole, CONDITIONS[:1], 2, tmp_path / "t")["by subject", 0]
    again = Cohort.open(path)
    first, second = (next(iter(c.cases[0].images.values())) for c in (whole, again))
    assert isinstance(second, tuple)
    np.testing.assert_array_equal(readers.read(first).array, readers.read(second).array)
    assert again.cases[0].class_name == whole.cases[0].class_name


def test_other_classes_do_not_replace_what_runs_have_learned(flat: Cohort, tmp_path: Path):
    found = splits_as_tables.write(flat, CONDITIONS[:1], 2, tmp_path)
    before = {path: path.read_bytes() for path in found.values()}
    swapped = {"absent": "present", "present": "absent"}
    other = flat.with_cases(
        dataclasses.replace(c, class_name=swapped[str(c.class_name)]) for c in flat.cases
    )
    with pytest.raises(OutputError, match="got others"):
        splits_as_tables.write(other, CONDITIONS[:1], 2, tmp_path, resumed=True)
    assert before == {path: path.read_bytes() for path in found.values()}
    splits_as_tables.write(flat, CONDITIONS[:1], 2, tmp_path, resumed=True)
    splits_as_tables.write(other, CONDITIONS[:1], 2, tmp_path)  # nothing has learned from them yet
    assert all(path.read_bytes() != text for path, text in before.items())


def test_every_channel_of_a_kind_has_its_column(tmp_path: Path):
    folder = generate(tmp_path / "d", 6, 6.0, anatomy="ellipsoid", controls=0.0, twins=0.0)
    cohort = Cohort.open(folder)
    whole, _ = pictures(cohort, "class", "case")
    path = splits_as_tables.write(whole, CONDITIONS[:1], 2, tmp_path / "t")["by subject", 0]
    again = Cohort.open(path)
    assert again.channels == cohort.channels
    assert dict(again.modalities) == dict(cohort.modalities)


def test_volumes_in_one_file_are_refused_with_what_to_do(tmp_path: Path):
    folder = generate(tmp_path / "d", 2, 6.0, anatomy="ellipsoid", controls=0.0, twins=0.0)
    with pytest.raises(InputError, match="at least two classes"):
        pictures(Cohort.open(folder), "presence")


COMPARISON = targets.make("class").comparison


def rows(arm: str, right: list[int]) -> list[dict]:
    run = Run(arm, arm, 0, 1.0, 1, "by subject")
    lines = [
        {"case": f"c{i}", "subject": f"s{i % 4}", "truth": "present" if i % 2 else "absent",
         "right": "yes" if ok else "no", "p_absent": str(p), "p_present": str(1 - p)}
        for i, ok in enumerate(right)
        for p in [0.8 if bool(ok) == (i % 2 == 0) else 0.2]
    ]  # fmt: skip
    return [
        {"arm": run.arm, "region": run.condition, **row}
        for row in COMPARISON.rows(lines, ("accuracy",))
    ]


def test_figures_are_by_condition_beside_the_majority():
    found = rows("good", [1] * 7 + [0]) + rows("bad", [0] * 7 + [1])
    entries = COMPARISON.summary(found, ("balanced_accuracy", "accuracy"))
    told = {(e["arm"], e["metric"]): e["mean"] for e in entries}
    assert told["good", "accuracy"] == pytest.approx(7 / 8)
    assert told["bad", "accuracy"] == pytest.approx(1 / 8)
    assert told[MAJORITY, "balanced_accuracy"] == pytest.approx(0.5)
    suite = suites.load("s0-s2")
    arms = (suites.Arm("good", "cnn", "classify"), suites.Arm("bad", "cnn", "classify"))
    contrast = suites.Contrast("x", "good", "bad")
    suite = dataclasses.replace(suite, arms=arms, contrasts=(contrast,), reference=None)
    entry = tables_of_runs.contrasts(found, suite, COMPARISON)[0]
    assert entry["difference"] == pytest.approx(0.75)
    assert entry["n"] == 4
