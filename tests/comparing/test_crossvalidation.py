"""Cross-validation: every subject judged once by a model that has not seen it, whatever happens."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from delineate.cli.main import main
from delineate.comparing import crossvalidation, folds, run_processes
from delineate.core import model_file, processes
from delineate.core.errors import (
    AuditError,
    ConfigError,
    DelineateError,
    InputError,
    OutputError,
    PartialError,
)
from delineate.engine.allowance import grace
from delineate.settings import RunConfig
from delineate.tasks.crossvalidate import crossvalidate
from delineate.tasks.evaluate import evaluate
from delineate.tasks.report import report

#: The only figure of a fold where one thing is outlined.
STRUCTURE = "Dice foreground"
TINY = "width: 4\npatch: [16, 16]\nbatch: 2\nvalidation: 0.0\naugment: false\n"


def pictures(folder: Path, subjects: int, part: str = "") -> Path:
    """Flat images with a bright square each; every other subject has two."""
    draw = np.random.default_rng(0)
    for n in range(subjects):
        for scan in range(1 + n % 2):
            mask = np.zeros((24, 24), np.uint8)
            mask[4 + n : 12 + n, 5 + scan : 15] = 255
            image = (draw.integers(0, 60, mask.shape) + mask // 2).astype(np.uint8)
            for kind, array in (("images", image), ("masks", mask)):
                place = folder / part / kind
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(place / f"p{n}_{scan}.png")
    return folder


class Ended:
    """A process that has come to its end."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def terminate(self) -> None:
        pass

    def wait(self, seconds: float = 0.0) -> int:
        return self.code


Start = Callable[[Sequence[str], Path], Ended]


def here(words: Sequence[str], log: Path) -> Ended:
    """What ``processes.start`` does, in this process, and without the page of the fold."""
    with (
        log.open("w") as file,
        contextlib.redirect_stderr(file),
        contextlib.redirect_stdout(file),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("delineate.reports.training.write", lambda path, *given: path)
        return Ended(main(list(words)))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Start], None]:
    """Folds run in this process, which spares them the start of Python and torch."""
    monkeypatch.setattr(run_processes, "_POLL_SECONDS", 0.0)

    def run_by(start: Start) -> None:
        monkeypatch.setattr(processes, "start", start)

    run_by(here)
    return run_by


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "scans", 5)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, scans: Path) -> dict[str, Any]:
    config = tmp_path_factory.mktemp("config") / "tiny.yaml"
    config.write_text(TINY + "precision: 32-true\n")  # processes of their own would measure it
    return {"data": scans, "config": config, "subject_pattern": r"(p\d)", "folds": 2, "steps": 2,
            "audit": False}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, command: dict[str, Any]) -> Path:
    out = tmp_path_factory.mktemp("whole") / "cv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_processes, "_POLL_SECONDS", 0.0)
        patch.setattr(processes, "start", here)
        crossvalidate(**command, out=out)
    return out


def splits(out: Path) -> list[dict[str, list[str]]]:
    return [json.loads(f.read_text())["parts"] for f in sorted(out.glob("fold-*/split.json"))]


def index_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "predictions/predictions.json").read_text())
    return found


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def weights(folder: Path) -> dict[str, Any]:
    return model_file.load(folder / "model.safetensors").tensors


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


# --- what comes out -------------------------------------------------------------------------------


def test_every_case_is_judged_once_by_a_model_that_has_not_seen_its_subject(whole: Path) -> None:
    found = splits(whole)
    judged = [name for parts in found for name in parts["test"]]
    assert sorted(judged) == sorted(set(judged))
    assert len(judged) == 7
    for parts in found:
        who = {part: {name[:2] for name in ids} for part, ids in parts.items()}
        assert not who["train"] & who["test"]
    index = index_of(whole)
    assert {case["id"]: case["fold"] for case in index["cases"]} == {
        name: number for number, parts in enumerate(found) for name in parts["test"]
    }
    assert {case["part"] for case in index["cases"]} == {"test"}


def test_evaluate_gives_the_same_figures_to_the_last_digit(
    whole: Path, scans: Path, tmp_path: Path
) -> None:
    alone = evaluate(whole / "predictions", scans, tmp_path, subject_pattern=r"(p\d)")
    merged = summary(whole)
    assert {key: merged[key] for key in alone} == json.loads(json.dumps(alone))
    for name in ("cases.csv", "subjects.csv"):
        assert (whole / name).read_text() == (tmp_path / name).read_text()
    assert merged["taught"] == []


def test_the_folds_are_told_beside_each_other(whole: Path) -> None:
    told = summary(whole)["crossvalidation"]
    means = [fold["figures"][STRUCTURE]["value"] for fold in told["folds"]]
    for number, mean in enumerate(means):
        own = json.loads((whole / f"fold-{number}/validation/summary.json").read_text())
        assert mean == own["mean_dice"]["mean"]
    assert told["spread"][STRUCTURE]["min"] == min(means)
    assert told["spread"][STRUCTURE]["max"] == max(means)
    assert told["unjudged"] == []
    page = (whole / "report.html").read_text()
    assert "Between 2 folds" in page
    assert "7 cases were judged once each" in page
    assert all(re.match("#|data:", at) for at in re.findall(r'(?:src|href)="(.*?)"', page))


def test_the_page_can_be_written_again(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / whole.name)
    (copy / "report.html").unlink()
    assert report(copy).read_text() == (whole / "report.html").read_text()


def test_one_cache_serves_all_folds(whole: Path) -> None:
    assert len(list((whole / "cache").glob("*/case.json"))) == 7
    assert not list(whole.glob("fold-*/cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_declared_test_part_is_in_no_fold_and_scored_by_the_models_together(
    command: dict[str, Any], tmp_path: Path
) -> None:
    data = pictures(tmp_path / "data", 3, "train")
    shutil.copytree(pictures(tmp_path / "more", 2), data / "test")
    for path in (data / "test").glob("*/*"):
        path.rename(path.with_name(path.name.replace("p", "q", 1)))
    given = {**command, "data": data, "subject_pattern": r"([pq]\d)", "steps": 1}
    said: list[str] = []
    crossvalidate(**given, out=tmp_path / "cv", say=said.append)
    tested = {"test_q0_0", "test_q1_0", "test_q1_1"}
    for parts in splits(tmp_path / "cv"):
        assert not tested & {name for ids in parts.values() for name in ids}
    assert not tested & {case["id"] for case in index_of(tmp_path / "cv")["cases"]}
    assert "test: 3 cases, as the data declare; they are left out of the 2 folds" in said
    index = index_of(tmp_path / "cv/test")
    assert {case["id"] for case in index["cases"]} == tested
    assert len(index["model"]["members"]) == 2
    apart = summary(tmp_path / "cv/test")
    assert apart["n_cases"] == 3
    assert summary(tmp_path / "cv")["n_cases"] == 4
    assert "declared test part" in (tmp_path / "cv/report.html").read_text()
    one = Image.open(data / "train/images/p0_0.png")
    one.save(data / "test/images/p0_1.png")
    shutil.copy(data / "train/masks/p0_0.png", data / "test/masks/p0_1.png")
    with pytest.raises(AuditError, match="p0"):
        crossvalidate(**given, out=tmp_path / "leaky")


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_copies_that_the_audit_drops_are_in_no_fold(
    command: dict[str, Any], tmp_path: Path
) -> None:
    data = pictures(tmp_path / "data", 4)
    for kind in ("images", "masks"):
        shutil.copy(data / kind / "p0_0.png", data / kind / "p9_0.png")
    given = {**command, "data": data, "steps": 1, "audit": True, "drop_duplicates": True}
    said: list[str] = []
    merged = crossvalidate(**given, out=tmp_path / "cv", say=said.append)
    assert "p9_0" in (tmp_path / "cv/excluded.txt").read_text()
    assert merged["n_cases"] == 6
    assert (
        "every fold: no case is set aside for validation: nothing is chosen on such cases" in said
    )
    assert sum(line.startswith("audit of data") for line in said) == 1
    assert not list((tmp_path / "cv").glob("fold-*/audit.json"))


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_classes_are_cross_validated_like_outlines(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for n in range(8):
        image = draw.integers(0, 60, (24, 24)).astype(np.uint8) + 120 * (n % 2)
        place = tmp_path / "data" / ("bright" if n % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(place / f"p{n}.png")
    config = tmp_path / "tiny.yaml"
    config.write_text("width: 4\nbatch: 2\nvalidation: 0.0\naugment: false\n")
    out = tmp_path / "cv"
    merged = crossvalidate(tmp_path / "data", folds=2, steps=2, config=config, out=out,
                           audit=False)  # fmt: skip
    assert merged["n_cases"] == 8
    for parts in splits(out):  # every class in every part
        assert {name.split("_")[0] for name in parts["test"]} == {"bright", "dark"}
    assert len((out / "predictions/classes.csv").read_text().splitlines()) == 9
    again = evaluate(out / "predictions", tmp_path / "data", tmp_path / "scores")
    assert again["figures"] == merged["figures"]
    assert "balanced accuracy" in merged["crossvalidation"]["spread"]
    assert "Balanced accuracy" in (out / "report.html").read_text()


# --- going on -------------------------------------------------------------------------------------


def test_finished_folds_are_not_done_again(
    whole: Path, command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    out = tmp_path / "cv"
    shutil.copytree(whole, out)

    def never(words: Sequence[str], log: Path) -> Ended:
        raise AssertionError(words)

    in_process(never)
    said: list[str] = []
    again = crossvalidate(**command, out=out, say=said.append)
    assert "going on with the cross-validation in this folder" in said
    assert again["mean_dice"] == summary(whole)["mean_dice"]
    with pytest.raises(OutputError, match=r"other settings \(steps\)"):
        crossvalidate(**{**command, "steps": 3}, out=out)


@pytest.mark.slow
def test_a_fold_that_fails_does_not_end_the_others_and_goes_on_afterwards(
    whole: Path, command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    def first_fails(words: Sequence[str], log: Path) -> Ended:
        if log.stem == "fold-0":
            log.write_text("[memory] there was no memory for it\n")
            return Ended(1)
        return here(words, log)

    in_process(first_fails)
    said: list[str] = []
    with pytest.raises(PartialError, match=r"fold-0: \[memory\] there was no memory for it"):
        crossvalidate(**command, out=tmp_path, say=said.append)
    assert any("fold 0 (1 of 2) failed: [memory]" in line for line in said)
    half = summary(tmp_path)
    assert half["n_cases"] == len(splits(whole)[1]["test"])
    assert half["crossvalidation"]["unjudged"] == splits(whole)[0]["test"]
    assert "fold 0" in (tmp_path / "report.html").read_text()
    in_process(here)
    assert crossvalidate(**command, out=tmp_path)["mean_dice"] == summary(whole)["mean_dice"]
    assert all(same(tmp_path / f"fold-{k}", whole / f"fold-{k}") for k in range(2))


@pytest.mark.parametrize("left", [1, 4])
def test_cases_that_a_fold_had_no_time_for_are_counted_and_judged_by_the_same_command(
    whole: Path,
    command: dict[str, Any],
    in_process: Callable[[Start], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    left: int,
) -> None:
    """Whether a fold judged some of its cases or none."""
    out = tmp_path / "cv"
    shutil.copytree(whole, out)
    parts = splits(whole)[0]["test"]
    lost = parts[-min(left, len(parts)) :]
    predictions = out / "fold-0/validation/predictions"
    index = json.loads((predictions / "predictions.json").read_text())
    index["cases"] = [case for case in index["cases"] if case["id"] not in lost]
    (predictions / "predictions.json").write_text(json.dumps(index))
    for name in lost:
        (predictions / f"{name}.png").unlink()
    monkeypatch.setattr(crossvalidation, "judge", lambda *given: None)  # no time is left
    said: list[str] = []
    poorer = crossvalidate(**command, out=out, say=said.append)
    assert poorer["crossvalidation"]["unjudged"] == sorted(lost)
    assert poorer["n_cases"] == 7 - len(lost)
    assert any(line.startswith(f"{len(lost)} cases are not judged yet") for line in said)
    monkeypatch.undo()
    richer = crossvalidate(**command, out=out)
    assert richer["crossvalidation"]["unjudged"] == []
    for key in ("mean_dice", "regions", "n_cases"):
        assert richer[key] == summary(whole)[key]
    figures = [[fold["figures"] for fold in one["crossvalidation"]["folds"]]
               for one in (richer, summary(whole))]  # fmt: skip
    assert figures[0] == figures[1]
    assert json.loads((out / "fold-0/run.json").read_text())["scored"]["cases"] == len(parts)


def test_where_all_folds_fail_nothing_is_said_of_figures(
    command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    def fails(words: Sequence[str], log: Path) -> Ended:
        log.write_text("no\n")
        return Ended(1)

    in_process(fails)
    with pytest.raises(DelineateError, match="none of 2 folds has figures") as caught:
        crossvalidate(**command, out=tmp_path)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "summary.json").exists()
    with pytest.raises(DelineateError, match="none of 3 folds"):  # nothing forbids another plan
        crossvalidate(**{**command, "folds": 3}, out=tmp_path)


# --- what is refused ------------------------------------------------------------------------------


def test_more_folds_than_subjects_are_refused_with_the_most_that_would_do(
    command: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="5 subjects for 6 folds") as caught:
        crossvalidate(**{**command, "folds": 6}, out=tmp_path)
    assert "--folds 5" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="at least 2 folds"):
        crossvalidate(**{**command, "folds": 1}, out=tmp_path)


def test_the_number_of_folds_may_stand_in_the_settings(
    command: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "many.yaml"
    config.write_text(f"{TINY}folds: 7\n")
    given = {**command, "config": config, "folds": None}
    with pytest.raises(InputError, match="5 subjects for 7 folds"):
        crossvalidate(**given, out=tmp_path / "cv")


def test_a_budget_too_small_for_all_folds_is_refused_before_work(
    command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    given = {**command, "steps": None, "budget": "20s"}
    with pytest.raises(ConfigError, match="for 2 folds of this cohort") as caught:
        crossvalidate(**given, out=tmp_path)
    assert caught.value.code == "budget-too-small"
    assert not (tmp_path / folds.PLAN).exists()
    assert not list(tmp_path.glob("fold-*"))


def test_folds_at_the_same_time_share_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = RunConfig(folds=5, device="cpu")
    for cores, jobs, wanted in ((2, None, (1, None)), (2, 2, (2, 1)), (8, 3, (3, 2)),
                                (16, None, (2, 8)), (64, 9, (5, 12))):  # fmt: skip
        monkeypatch.setattr(folds, "cores", lambda cores=cores: cores)
        assert folds.jobs_and_threads(chosen, jobs) == wanted
    with pytest.raises(ConfigError, match="one fold at a time or more"):
        folds.jobs_and_threads(chosen, 0)


def test_the_budget_is_shared_evenly_and_leaves_time_for_the_figures() -> None:
    needed = folds.Need(before=20.0, fold=30.0, better=90.0, rounds=3, merging=8.0, testing=2.0)
    assert needed.least == 120
    assert needed.share(220.0) == 70
    needed.require(120.0, 5)
    with pytest.raises(ConfigError, match="at least 120 s for 5 folds") as caught:
        needed.require(119.0, 5)
    assert "--budget 120s" in str(caught.value)


# --- processes ------------------------------------------------------------------------------------


def _started(command: dict[str, Any], out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "delineate", "crossvalidate", str(command["data"]), "--config",
             str(command["config"]), "--subject-pattern", command["subject_pattern"], "--folds",
             "2", "--steps", str(command["steps"]), "--no-audit", "--out", str(out)]  # fmt: skip
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _trains(folder: Path, running: subprocess.Popen[bytes]) -> None:
    """Wait until a fold has done some steps."""
    until = time.monotonic() + 120
    log = folder / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert time.monotonic() < until
        assert running.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_fold_that_is_killed_goes_on_to_the_same_weights(
    command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    given = {**command, "steps": 200}
    whole, out = tmp_path / "whole", tmp_path / "cv"
    with _started(given, out) as running:
        _trains(out / "fold-0", running)
        (child,) = psutil.Process(running.pid).children()
        child.kill()
        assert running.wait(300) == 3  # the other fold went on to its end
    assert json.loads((out / "fold-0/run.json").read_text())["status"] == "running"
    assert json.loads((out / "fold-1/run.json").read_text())["status"] == "finished"
    assert "killed by signal 9" in summary(out)["crossvalidation"]["folds"][0]["failure"]
    merged = crossvalidate(**given, out=out)
    assert merged["mean_dice"] == crossvalidate(**given, out=whole)["mean_dice"]
    assert all(same(out / f"fold-{k}", whole / f"fold-{k}") for k in range(2))


@pytest.mark.slow
def test_ctrl_c_ends_the_folds_in_good_order_and_the_command_goes_on(
    command: dict[str, Any], in_process: Callable[[Start], None], tmp_path: Path
) -> None:
    given = {**command, "steps": 2000}
    with _started(given, tmp_path) as running:
        _trains(tmp_path / "fold-0", running)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    stopped = json.loads((tmp_path / "fold-0/run.json").read_text())
    assert stopped["status"] == "interrupted"
    assert 0 < stopped["trained"]["steps"] < 2000
    assert not (tmp_path / "fold-1").exists()
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.slow
def test_the_least_budget_that_is_named_will_do(command: dict[str, Any], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "delineate", "crossvalidate", str(command["data"]), "--config",
             str(command["config"]), "--subject-pattern", command["subject_pattern"], "--folds",
             "2", "--no-audit", "--json", "--out", str(tmp_path), "--budget"]  # fmt: skip
    refused = subprocess.run([*words, "1s"], capture_output=True, text=True, check=False)
    (least,) = re.findall(r"at least (\d+) s", json.loads(refused.stdout)["error"]["message"])
    begun = time.monotonic()
    done = subprocess.run([*words, f"{least}s"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < int(least) + grace(int(least))
    merged = json.loads(done.stdout)
    assert merged["n_cases"] == 7
    assert all(fold["steps"] >= 10 for fold in merged["crossvalidation"]["folds"])
