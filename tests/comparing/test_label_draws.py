"""Benchmarks of few labels: who keeps labels, who judges, and what a difference is worth."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from delineate import targets
from delineate.comparing import label_draws, suites, tables
from delineate.comparing.label_draws import conditions
from delineate.comparing.run_processes import Run
from delineate.comparing.splits_as_tables import Condition
from delineate.core.errors import ConfigError, InputError, OutputError
from delineate.data import structures
from delineate.data.cohort import Cohort
from delineate.settings import RunConfig
from delineate.tasks.benchmark import benchmark
from delineate.training import splitting


def scans(root: Path, subjects: int = 12, bare: int = 2, cysts: tuple[int, ...] = ()) -> Path:
    """Cubes in noise, two scans a subject; the last ``bare`` subjects have no labels."""
    rng, rows = np.random.default_rng(0), ["image,label,subject"]
    root.mkdir()
    for n in range(subjects):
        for scan in "ab":
            label = np.zeros((8, 8, 8), np.uint8)
            label[2:6, 2:6, 2:6] = 1
            if n in cysts:
                label[3:5, 3:5, 3:5] = 2
            image = (40 * label + rng.normal(size=label.shape)).astype(np.float32)
            for kind, array in (("image", image), ("label", label)):
                nib.save(nib.Nifti1Image(array, np.eye(4)), root / f"{kind}{n}{scan}.nii")
            named = f"label{n}{scan}.nii" if n < subjects - bare else ""
            rows.append(f"image{n}{scan}.nii,{named},p{n}")
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    return root / "cases.csv"


def drawn(data: Path, folder: Path, *counts: int, **more: Any) -> dict[Any, list[dict[str, str]]]:
    cohort = Cohort.open(data)
    wanted = conditions([str(count) for count in counts])[0]
    found = label_draws.write(
        cohort, wanted, 5, folder, structures.by_case(cohort), **more
    )  # fmt: skip
    return {key: list(csv.DictReader(path.read_text().splitlines())) for key, path in found.items()}


def subjects(rows: list[dict[str, str]], part: str, labelled: bool) -> set[str]:
    return {r["subject"] for r in rows if r["split"] == part and bool(r["label"]) == labelled}


def test_a_draw_leaves_labels_to_a_few_and_the_same_others_judge_all_draws(tmp_path: Path) -> None:
    found = drawn(scans(tmp_path / "data"), tmp_path / "tables", 1, 4)
    assert set(found) == {(f"{k} labelled", n) for k in (1, 4) for n in range(5)}
    judges = {frozenset(subjects(rows, "test", True)) for rows in found.values()}
    assert len(judges) == 1
    (judging,) = judges
    assert len(judging) == 3
    for (name, _), rows in found.items():
        labelled = subjects(rows, "train", True)
        assert len(labelled) == int(name[0])
        assert not subjects(rows, "test", False)
        others = {f"p{n}" for n in range(12)} - judging - labelled
        assert subjects(rows, "train", False) == others
        assert {"p10", "p11"} <= others
    fours = {frozenset(subjects(found["4 labelled", n], "train", True)) for n in range(5)}
    assert len(fours) > 1


def test_arms_of_a_draw_train_on_its_labels_and_those_that_can_on_the_other_scans(
    tmp_path: Path,
) -> None:
    from delineate.core.progress import QUIET, silent
    from delineate.training.resolving import complete

    drawn(scans(tmp_path / "data"), tmp_path / "tables", 3)
    cohort, parts = Cohort.open(tmp_path / "tables" / "labels-0-0.csv"), {}
    for method in ("supervised", "mean_teacher"):
        out = tmp_path / method
        out.mkdir()
        chosen = complete(RunConfig(target="outline", method=method, validation=0.0), cohort)
        split = splitting.take(chosen, cohort, out, {"hashes": {}}, out / "cache", silent, QUIET)
        parts[method] = {name: len(ids) for name, ids in split.parts.items()}
    assert parts["supervised"] == {"train": 6, "test": 6}
    assert parts["mean_teacher"] == {"train": 6, "test": 6, "unlabelled": 12}


def test_every_draw_shows_every_structure_or_says_that_it_cannot(tmp_path: Path) -> None:
    data = scans(tmp_path / "data", cysts=(0, 1, 2, 3))
    for rows in drawn(data, tmp_path / "tables", 1).values():
        assert subjects(rows, "train", True) <= {"p0", "p1", "p2", "p3"}
    with pytest.raises(InputError, match="more than 10 subjects to train on"):
        drawn(data, tmp_path / "more", 10)


def test_a_list_of_the_literature_is_one_draw_for_all_runs(tmp_path: Path) -> None:
    data = scans(tmp_path / "data", bare=0)
    lines = data.read_text().splitlines()
    kept = [lines[0]]
    for line in lines[1:]:
        image, label, subject = line.split(",")
        if int(subject[1:]) < 9:
            kept.append(f"{image},{label if subject in ('p2', 'p5') else ''},{subject}")
    few = data.parent / "labelled-2.csv"
    few.write_text("\n".join(kept))
    wanted, path = conditions([str(few)])
    assert [condition.name for condition in wanted] == ["labelled-2"]
    cohort = Cohort.open(data)
    found = label_draws.write(cohort, wanted, 2, tmp_path / "tables", {}, path)
    for table in found.values():
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert subjects(rows, "train", True) == {"p2", "p5"}
        assert subjects(rows, "test", True) == {"p9", "p10", "p11"}
        assert len(subjects(rows, "train", False)) == 7
    few.write_text("image,label,subject\nimage1a.nii,label1a.nii,stranger\n")
    with pytest.raises(InputError, match="stranger"):
        label_draws.listed(cohort, few)
    with pytest.raises(InputError, match="to judge; got 12, 0 and 0"):
        label_draws.listed(cohort, data)


def test_what_runs_learned_from_is_not_drawn_anew(tmp_path: Path) -> None:
    data = scans(tmp_path / "data")
    before = drawn(data, tmp_path / "tables", 2)
    assert drawn(data, tmp_path / "tables", 2, resumed=True) == before
    with pytest.raises(OutputError, match="got others"):
        drawn(data, tmp_path / "tables", 3, resumed=True)


def test_the_control_and_every_method_that_uses_scans_without_labels_compete() -> None:
    suite = suites.load("few-labels")
    assert suite.draws
    assert suite.reference == "supervised"
    assert suite.runs == 5
    methods = {arm.method for arm in suite.arms}
    uses = {name for name in methods if splitting.uses_unlabelled(RunConfig(method=name))}
    assert methods - uses == {"supervised"}
    assert len({(arm.network, *arm.settings) for arm in suite.arms}) == 1


def row(arm: str, draw: int, subject: int, dice: float) -> dict[str, Any]:
    return {
        "arm": arm, "run": draw, "seed": draw, "case": f"c{subject}", "subject": f"p{subject}",
        "region": "organ", "dice": dice, "hd95_mm": 1.0, "nsd": None,
    }  # fmt: skip


def test_a_difference_is_resampled_over_draws_and_subjects_and_corrected() -> None:
    suite = suites.load("few-labels").of_networks(("unet", "unet+mean_teacher", "unet+bcp"))
    comparison = targets.make("outline").comparison
    rng, rows = np.random.default_rng(0), []
    luck = (0.3, -0.3, 0.25, -0.25, 0.02)  # one method depends on who is labelled
    for draw in range(5):
        for subject in range(10):
            noise = 0.01 * rng.normal(size=3)
            rows += [
                row("supervised", draw, subject, 0.5 + noise[0]),
                row("mean teacher", draw, subject, 0.6 + noise[1]),
                row("BCP", draw, subject, 0.5 + luck[draw] + noise[2]),
            ]
    found = tables.contrasts(rows, suite, comparison)
    by_arm = {entry["a"]: entry for entry in found if entry["metric"] == "dice"}
    sure, chance = by_arm["mean teacher"], by_arm["BCP"]
    assert sure["difference"] == pytest.approx(0.1, abs=0.01)
    assert sure["low"] > 0.08
    assert sure["p_holm"] == pytest.approx(2 * sure["p"])
    assert sure["p_holm"] < 0.01
    assert chance["low"] < -0.1 < 0.1 < chance["high"]
    assert chance["p_holm"] > 0.5
    short = [r for r in rows if not (r["arm"] == "BCP" and r["run"] == 4)]
    assert len(tables.contrasts(short, suite, comparison)) == len(found)
    notes = " ".join(comparison.notes(rows, suite.terms))
    assert "5 draws (or seeds" in notes
    assert "Wilcoxon" not in notes


def test_numbers_of_labelled_subjects_are_told_apart_in_tables(tmp_path: Path) -> None:
    head = "case,subject,kind,region,state,dice\n"
    (tmp_path / "cases.csv").write_text(head + "c,p,label,organ,both,0.5\n")
    comparison = targets.make("outline").comparison
    for several, region in ((True, "2 labelled: organ"), (False, "organ")):
        (one,) = tables.rows(
            tmp_path / "cases.csv", Run("r", "a", 0, 1.0, 1, "2 labelled"), comparison, ("dice",),
            several,
        )  # fmt: skip
        assert one["region"] == region


@pytest.mark.parametrize("words", [["0"], ["2", "2"], ["some"], ["2", "list.csv"]])
def test_what_is_no_number_and_no_list_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="numbers of labelled subjects"):
        conditions(words)


def test_few_labels_are_for_suites_of_outlines_alone(tmp_path: Path) -> None:
    suite = suites.load("few-labels")
    mixed = (Condition("by subject"), Condition("4 labelled", "labels"))
    with pytest.raises(ConfigError, match="few labels alone"):
        dataclasses.replace(suite, conditions=mixed)
    with pytest.raises(ConfigError, match="where all are labelled"):
        benchmark("s1", data=tmp_path, out=tmp_path / "out", labelled=("2",))


@pytest.mark.slow
def test_a_benchmark_of_few_labels_from_end_to_end_and_again(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "data": scans(tmp_path / "data"), "out": tmp_path / "out", "runs": 2, "width": 4,
        "networks": ("unet", "unet+mean_teacher"), "labelled": ("2",), "gmac": 0.12,
        "device": "cpu",
    }  # fmt: skip
    told = benchmark("few-labels", **given)
    page = Path(told["report"]).read_text("utf-8")
    assert "mean teacher" in page
    assert "2 draws (or seeds" in page
    with (tmp_path / "out" / "contrasts.csv").open() as file:
        found = [line for line in csv.DictReader(file) if line["metric"] == "dice"]
    assert [line["region"] for line in found] == ["foreground"]
    assert {(line["a"], line["b"], line["n"]) for line in found} == {
        ("mean teacher", "supervised", "3")
    }
    before = (tmp_path / "out" / "summary.csv").read_text()
    assert benchmark("few-labels", **given) == told
    assert (tmp_path / "out" / "summary.csv").read_text() == before
