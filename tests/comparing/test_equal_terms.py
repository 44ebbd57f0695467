"""What a benchmark decides before its first run, and what it tells of those that have ended."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from delineate.comparing import run_processes
from delineate.comparing.run_processes import Run
from delineate.core.errors import ConfigError, ResourceError
from delineate.core.run import read_json, write_json
from delineate.phantoms.generate import generate
from delineate.tasks.benchmark import benchmark
from delineate.training import devices
from delineate.training.trial import Bench

SUITE = """\
title: Small
question: Does it?
metrics: [dice]
arms:
  - {name: teacher, network: unet, method: mean_teacher}
  - {name: plain, network: unet}
runs: 2
width: {3: 4}
patch_voxels: {3: 512}
"""
#: Of whom nobody has drawn anything.
WITHOUT = "sub-004"


class StartedError(Exception):
    """Runs would begin."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "scans"
    generate(folder, 4, 6.0, seed=3, anatomy="ellipsoid", controls=0.0, twins=0.0, missing=0.0)
    (folder / WITHOUT / "seg.nii.gz").unlink()
    return folder


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Seconds a step, by method, that measuring finds one after the other; no run begins.

    Less than 0: there is no memory for it.
    """

    def found(bench: Bench, *_: Any, **__: Any) -> float:
        assert bool(bench.unlabelled) == (bench.chosen.method == "mean_teacher")
        seconds = listed[bench.chosen.method].pop(0)
        if seconds < 0:
            raise ResourceError("no memory")
        return seconds

    def begun(*_: Any, **__: Any) -> None:
        raise StartedError

    listed = {"mean_teacher": [0.2] * 3, "supervised": [0.1] * 3}
    gmac = {"mean_teacher": 2.0, "supervised": 1.0}
    monkeypatch.setattr(Bench, "measure", found)
    monkeypatch.setattr(Bench, "count", lambda bench, *_: gmac[bench.chosen.method])
    monkeypatch.setattr(run_processes, "race", begun)
    return listed


def plan(scans: Path, out: Path, said: list[str], **options: Any) -> dict[str, Any]:
    suite = scans.parent / "suite.yaml"
    suite.write_text(SUITE)
    with pytest.raises(StartedError):
        benchmark(str(suite), data=scans, out=out, say=said.append, jobs=1, **options)
    made: dict[str, Any] = read_json(out / "benchmark.json")
    return made


def steps(made: dict[str, Any]) -> dict[str, int]:
    return {entry["arm"]: entry["steps"] for entry in made["entries"]}


def test_steps_follow_from_gmac_however_slow_the_machine_is_at_the_moment(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]]
) -> None:
    said: list[str] = []
    quiet = plan(scans, tmp_path / "quiet", said, gmac=30.0)
    speeds |= {"mean_teacher": [9.0] * 3, "supervised": [7.0] * 3}
    busy = plan(scans, tmp_path / "busy", said, gmac=30.0)
    assert steps(quiet) == steps(busy) == {"teacher": 15, "plain": 30}
    assert any(
        line.startswith("teacher, plain: undertrained, with fewer than 900") for line in said
    )


def test_one_busy_moment_does_not_decide(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]]
) -> None:
    speeds |= {"mean_teacher": [0.2, 9.0, 0.2], "supervised": [0.1, 0.1, 9.0]}
    made = plan(scans, tmp_path / "out", [], budget="30m")
    assert [entry["seconds_step"] for entry in made["entries"]] == [0.2, 0.1]
    assert steps(made)["teacher"] > 100


def test_a_budget_too_small_for_all_is_refused_before_any_run_and_what_it_names_is_enough(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]]
) -> None:
    with pytest.raises(ConfigError, match="10 steps of every arm") as caught:
        plan(scans, tmp_path / "out", [], budget="81s")
    assert not (tmp_path / "out" / "benchmark.json").exists()
    assert caught.value.code == "budget-too-small"
    budget = re.findall(r"--budget (\S+) or --gmac", str(caught.value.fix))[0]
    speeds |= {"mean_teacher": [0.21] * 3, "supervised": [0.11] * 3}
    made = plan(scans, tmp_path / "out", [], budget=budget)
    assert list(steps(made)) == ["teacher", "plain"]


def test_all_runs_compute_in_the_precision_that_was_measured_once(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = ["32-true", *["bf16-mixed"] * 20]
    monkeypatch.setattr(
        devices, "precision", lambda asked, _: measured.pop(0) if asked == "auto" else asked
    )
    plan(scans, tmp_path, [], gmac=30.0)
    settings = [path.read_text() for path in (tmp_path / "settings").iterdir()]
    assert len(settings) == 4
    assert all("precision: 32-true" in text for text in settings)


@pytest.mark.parametrize("gmac", [math.nan, math.inf, 0.0, -5.0])
def test_gmac_that_is_no_number_of_multiplications_is_refused_before_anything_is_written(
    scans: Path, tmp_path: Path, gmac: float
) -> None:
    with pytest.raises(ConfigError, match=f"GMAC above 0, got {gmac}"):
        benchmark("s1", data=scans, out=tmp_path / "out", gmac=gmac)
    assert not (tmp_path / "out").exists()


def test_an_arm_without_memory_is_listed_with_its_reason(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]]
) -> None:
    speeds["mean_teacher"] = [0.2, -1.0]
    said: list[str] = []
    made = plan(scans, tmp_path / "out", said, gmac=30.0)
    assert list(steps(made)) == ["plain"]
    assert made["failures"] == [{"arm": "teacher", "run": None, "reason": "no memory"}]
    assert "teacher cannot take part: no memory" in said


def test_a_folder_begun_earlier_goes_on_as_planned_and_measures_nothing(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]]
) -> None:
    made = plan(scans, tmp_path / "out", [], gmac=30.0)
    assert speeds == {"mean_teacher": [], "supervised": []}
    said: list[str] = []
    made["asked"]["suite"]["quick_budget"] = "1m"  # as an earlier version offered
    write_json(tmp_path / "out" / "benchmark.json", made)
    assert plan(scans, tmp_path / "out", said, gmac=30.0) == made
    assert "going on with the benchmark in this folder" in said


def test_stopped_between_its_runs_it_leaves_a_report_of_those_that_have_ended(
    scans: Path, tmp_path: Path, speeds: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(planned_runs: list[Run], commands: Any, folder: Path, *_: Any) -> None:
        for planned in planned_runs[:2]:  # the first seed of both arms
            scores = folder / planned.name / "validation"
            scores.mkdir(parents=True)
            write_json(scores.parent / "run.json", {"status": "finished", "seconds_training": 9.0})
            look = {"step": 5, "steps": planned.steps, "val_dice": 0.4}
            (scores.parent / "log.jsonl").write_text(json.dumps(look))
            (scores / "cases.csv").write_text(
                "case,subject,kind,region,state,dice\nsub-001,sub-001,region,WT,ok,0.5\n"
            )
        raise KeyboardInterrupt

    monkeypatch.setattr(run_processes, "race", stopped)
    suite, said = scans.parent / "suite.yaml", list[str]()
    suite.write_text(SUITE)
    with pytest.raises(KeyboardInterrupt):
        benchmark(str(suite), data=scans, out=tmp_path, gmac=30.0, jobs=1, say=said.append)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "stopped after 2 of 4 runs: the same command goes on" in page
    assert f"a report of 2 of 4 runs: {tmp_path / 'report.html'}" in said
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "arm,run,step,share,gmac,metric,value",
        "teacher,0,5,0.3333333,10,dice,0.4",
        "plain,0,5,0.1666667,5,dice,0.4",
    ]
