from __future__ import annotations

import contextlib
import csv
import io
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from delineate import targets
from delineate.comparing import run_processes, suites, tables
from delineate.comparing.benchmark import _remark
from delineate.comparing.compute import Costs, Entry, share_out
from delineate.comparing.run_processes import Run
from delineate.comparing.suites import Arm, Contrast, Suite
from delineate.core.errors import ConfigError, OutputError
from delineate.core.progress import QUIET
from delineate.core.quantities import parse_duration
from delineate.targets._outline_comparison import ALL_BACKGROUND


def small(**changes: object) -> Suite:
    arms = (Arm("A", "unet"), Arm("B", "unet", "adversarial"))
    given = {"title": "t", "question": "q", "arms": arms, "metrics": ("dice", "accuracy")}
    return Suite(**{**given, **changes})


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_names_only_what_there_is(name):
    suite = suites.load(name)
    suite.check()
    assert suite.runs >= 3


def test_a_misspelt_suite_network_or_arm_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="s1"):
        suites.load("s11")
    with pytest.raises(ConfigError, match="unet"):
        small(arms=(Arm("A", "unett"),)).check()
    with pytest.raises(ConfigError, match="expected an arm, got 'C'"):
        small(contrasts=(Contrast("x", "A", "C"),))


def test_what_would_be_overruled_or_fail_after_hours_is_refused_at_once():
    for settings in ({"width": 32}, {"patch": (64, 64)}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            small(arms=(Arm("A", "unet", settings=settings), Arm("B", "unet"))).check()
    with pytest.raises(ConfigError, match="hd95"):
        small(metrics=("dice", "hd95")).check()
    with pytest.raises(ConfigError, match="folders"):  # one would take the other's runs for its own
        small(arms=(Arm("U-Net", "unet"), Arm("U Net", "segnet")))
    with pytest.raises(ConfigError, match="names of networks"):
        small().of_networks(("",))


def test_networks_replace_the_arms_and_keep_the_contrasts_that_are_left():
    suite = suites.load("s1")
    chosen = suite.of_networks(("unet,segnet", "unet+adversarial"))
    assert [arm.name for arm in chosen.arms] == ["U-Net", "SegNet", "adversarial"]
    assert chosen.reference == "U-Net"
    assert len(chosen.contrasts) == 1
    chosen = suite.of_networks(("fcn", "unet+literal"))
    assert chosen.reference == "FCN-8s"
    assert chosen.contrasts == ()


def entries_of(**gmac_step: float) -> list[Entry]:
    return [Entry(n, n, "supervised", 8, (8, 8), 2, 1, 1.0, c, 1.0, 0.1)
            for n, c in gmac_step.items()]  # fmt: skip


def costs_of(entries: list[Entry], jobs: int = 2, spent: float = 100.0) -> Costs:
    return Costs.of(entries, {entry.arm: 3 for entry in entries}, jobs, spent)


def test_equal_compute_gives_the_cheaper_network_more_steps_on_a_busy_machine_too():
    entries = entries_of(a=2.0, b=4.0)
    busy = [replace(entry, seconds_step=50.0) for entry in entries]
    for measured in (entries, busy):
        shared = share_out(measured, 100.0, costs_of(measured))
        assert [e.steps for e in shared] == [50, 25]


def test_a_budget_too_small_for_one_arm_is_refused_for_all_with_the_least_that_would_do():
    entries = entries_of(a=2.0, b=43.1)
    costs = costs_of(entries)
    with pytest.raises(
        ConfigError, match=r"10 steps of every arm \(431 GMAC a run, for b\)"
    ) as caught:
        share_out(entries, 430.0, costs)
    assert caught.value.code == "budget-too-small"
    assert caught.value.fix is not None
    budget, gmac = re.findall(r"--budget (\S+) or --gmac (\S+),", caught.value.fix)[0]
    for enough in (float(gmac), costs.affordable(parse_duration(budget))):
        assert [e.arm for e in share_out(entries, enough, costs)] == ["a", "b"]
    less = parse_duration(budget) / 1.3
    assert costs.affordable(less) < 431  # not far more than the least


def test_what_is_affordable_takes_the_time_that_there_is():
    costs = costs_of(entries_of(a=2.0, b=4.0), jobs=1, spent=30.0)
    assert costs.runs == 6
    assert 30 + costs.seconds(costs.affordable(1000.0)) == pytest.approx(1000)


def test_looks_at_validation_subjects_are_paid_for_out_of_the_time_that_there_is():
    entries = entries_of(a=2.0, b=4.0)
    without, with_looks = (Costs.of(entries, {"a": 3, "b": 3}, 2, 0.0, share) for share in (0, 0.1))
    assert with_looks.affordable(1000) == pytest.approx(without.affordable(1000) / 1.1)


def test_an_arm_that_hardly_computes_takes_four_times_the_median_steps_at_most():
    entries = entries_of(a=2.0, b=4.0, tiny=0.001)
    assert [e.steps for e in share_out(entries, 100.0, costs_of(entries))] == [50, 25, 200]


@pytest.mark.parametrize(
    ("steps", "gmac_step", "words"),
    [
        (899, 1.112, "undertrained, with 899 of 900 steps"),
        (4000, 0.01, "so cheap that it spent 40 of 1,000 GMAC in as many steps as an arm may take"),
        (1000, 1.0, None),
    ],
)
def test_an_arm_that_cannot_be_judged_like_the_others_is_called_so(steps, gmac_step, words):
    assert _remark({"steps": steps, "gmac_step": gmac_step}, 1000.0) == words


def line(case: str, region: str, state: str, dice: float, kind: str = "region") -> dict[str, str]:
    return {"case": case, "subject": case[:2], "region": region, "kind": kind, "state": state,
            "dice": str(dice), "accuracy": "0.99", "accuracy_background": "0.97"}  # fmt: skip


def table(shift: float = 0.0) -> list[dict[str, str]]:
    found = []
    for i in range(6):
        found += [
            line(f"s{i}x", "WT", "ok", 0.5 + 0.05 * i + shift),
            line(f"s{i}x", "ET", "both empty" if i == 0 else "ok", 1.0 if i == 0 else 0.4),
            line(f"s{i}x", "oedema", "ok", 0.1, kind="label"),
        ]
    return found


COMPARISON = targets.make("outline").comparison


def rows_of(lines: list[dict[str, str]], one: Run, metrics: tuple[str, ...]) -> list[dict]:
    """As from the run's ``cases.csv``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.csv"
        path.write_text(text.getvalue())
        return tables.rows(path, one, COMPARISON, metrics)


def test_a_finished_run_becomes_rows_of_regions_and_their_mean():
    found = rows_of(table(), Run("a-0", "A", 0, 1.0, 10), ("dice", "accuracy"))
    assert {row["region"] for row in found} == {"WT", "ET", "mean"}
    first = {row["region"]: row["dice"] for row in found if row["case"] == "s0x"}
    assert first == {"WT": 0.5, "ET": 1.0, "mean": 0.75}


def test_what_nothing_scores_needs_no_training():
    found = rows_of(table(), Run("a-0", "A", 0, 1.0, 10), ("dice", "accuracy"))
    entries = COMPARISON.summary(found, ("dice", "accuracy"))
    told = {(e["region"], e["metric"]): e["mean"] for e in entries if e["arm"] == ALL_BACKGROUND}
    assert told["WT", "dice"] == 0.0
    assert told["ET", "dice"] == pytest.approx(1 / 6)  # right where there is nothing
    assert told["WT", "accuracy"] == pytest.approx(0.97)


def test_an_arm_that_lost_a_run_is_told_and_does_not_thin_out_the_baseline():
    found = rows_of(table()[:9], Run("a-0", "A", 0, 1.0, 10), ("dice",))
    found += rows_of(table(), Run("b-0", "B", 0, 1.0, 10), ("dice",))
    entries = COMPARISON.summary(found, ("dice",))
    told = {e["arm"]: e["n"] for e in entries if e["region"] == "WT"}
    assert told == {"A": 3, "B": 6, ALL_BACKGROUND: 6}
    assert "A 3" in COMPARISON.notes(found, small().terms)[0]


def test_a_planned_contrast_is_paired_and_corrected():
    metrics = ("dice", "accuracy")
    found = rows_of(table(0.1), Run("a-0", "A", 0, 1.0, 10), metrics)
    found += rows_of(table(), Run("b-0", "B", 0, 1.0, 10), metrics)
    entries = tables.contrasts(found, small(contrasts=(Contrast("on-off", "A", "B"),)), COMPARISON)
    on = {(e["region"], e["metric"]): e for e in entries}
    assert on["WT", "dice"]["difference"] == pytest.approx(0.1)
    assert on["WT", "dice"]["low"] == pytest.approx(0.1)  # the same in every subject
    assert on["WT", "dice"]["n"] == 6
    assert on["WT", "dice"]["p"] == pytest.approx(2 / 2**6)
    assert on["WT", "dice"]["p_holm"] > on["WT", "dice"]["p"]
    assert on["ET", "dice"]["p"] == 1.0


def test_a_planned_contrast_is_not_punished_for_what_is_looked_at_beside_it():
    metrics = ("dice",)
    found = []
    for arm, shift in (("A", 0.1), ("B", 0.0), ("C", 0.02)):
        found += rows_of(table(shift), Run(arm, arm, 0, 1.0, 10), ("dice", "accuracy"))
    arms = (Arm("A", "unet"), Arm("B", "unet"), Arm("C", "segnet"))
    given = {"arms": arms, "metrics": metrics, "contrasts": (Contrast("on-off", "A", "B"),)}
    alone = tables.contrasts(found, small(**given), COMPARISON)
    beside = tables.contrasts(found, small(**given, reference="B"), COMPARISON)
    mine = [e for e in beside if e["name"] == "on-off"]
    assert [e["p_holm"] for e in mine] == [e["p_holm"] for e in alone]
    assert len(beside) > len(alone)


def test_the_printed_tables_are_checked():
    told = tables.printed(suites.load("s1"))
    claims = [f["claim"] for f in told["findings"]]
    assert "FCN: Dice 0.4119" in claims
    assert sum("pixel accuracy" in claim for claim in claims) == 6


# --- the processes --------------------------------------------------------------------------------


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path):
    runs = [Run("one", "A", 0, 1.0, 1), Run("two", "B", 0, 1.0, 1)]
    words = {"one": ["--version"], "two": ["train", str(tmp_path / "nowhere")]}
    failed = run_processes.race(runs, words, tmp_path / "runs", 2, QUIET)
    assert list(failed) == ["two"]
    assert "nowhere" in failed["two"]
    assert "delineate" in (tmp_path / "runs" / "one.log").read_text()


def test_a_run_that_is_killed_is_told_as_killed(tmp_path: Path):
    log = tmp_path / "one.log"
    log.write_text("plan: unet\n")
    assert "signal 9" in run_processes._last_words(log, -9)


def test_finished_runs_are_not_done_again(tmp_path: Path):
    folder = tmp_path / "one"
    (folder / "validation").mkdir(parents=True)
    (folder / "validation" / "cases.csv").write_text("case\n")
    (folder / "run.json").write_text('{"status": "finished"}')
    assert run_processes.race([Run("one", "A", 0, 1.0, 1)], {}, tmp_path, 1, QUIET) == {}


#: A benchmark whose runs are shells that note their process and become a child that only waits:
#: every third one ends soon, so that there is always another to be started.
BENCHMARK = """
import pathlib, signal, sys
# whoever started the tests may have them ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from delineate.core import processes
from delineate.core.progress import QUIET
from delineate.comparing import run_processes
processes.sys.executable, run_processes._POLL_SECONDS = sys.argv[2], 0.01
runs = [run_processes.Run(str(n), "A", n, 1.0, 1) for n in range(300)]
print("ready", flush=True)
words = {one.name: [one.name] for one in runs}
run_processes.race(runs, words, pathlib.Path(sys.argv[1]), 3, QUIET)
"""
CHILD = """
import sys, time
from delineate.core.processes import end_with_parent
end_with_parent()
time.sleep(0.01 if int(sys.argv[1]) % 3 == 0 else 60)
"""


def _started(folder: Path, number: int) -> subprocess.Popen[bytes]:
    """A benchmark of its own folder; its children write their ids into ``pids``."""
    place = folder / str(number)
    (place / "pids").mkdir(parents=True)
    (place / "child.py").write_text(CHILD)
    shell = place / "python"
    shell.write_text(
        f'#!/bin/sh\necho > "{place}/pids/$$"\nexec "{sys.executable}" "{place}/child.py" "$3"\n'
    )
    shell.chmod(0o755)
    words = [sys.executable, "-c", BENCHMARK, str(place / "runs"), str(shell)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _alive(folder: Path) -> list[int]:
    found = []
    for path in folder.glob("*/pids/*"):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(int(path.name)).status() != psutil.STATUS_ZOMBIE:
                found.append(int(path.name))
    return found


def _all_dead(folder: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := _alive(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return not left


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_stopping_a_benchmark_stops_its_runs(tmp_path: Path, number: str):
    """The children are in sessions of their own; none may go on alone."""
    with _started(tmp_path, 0) as parent:
        until = time.monotonic() + 30
        while len(_alive(tmp_path)) < 3:
            assert time.monotonic() < until
            time.sleep(0.02)
        parent.send_signal(signal.Signals[number])
    assert _all_dead(tmp_path, 20)


@pytest.mark.slow
def test_no_moment_is_left_at_which_a_run_outlives_its_benchmark(tmp_path: Path):
    moments = random.Random(0)
    for batch in range(20):
        parents = [_started(tmp_path, 10 * batch + n) for n in range(10)]
        for parent in parents:
            assert parent.stdout is not None
            parent.stdout.readline()
        for parent in parents:
            time.sleep(moments.uniform(0, 0.08))
            name = moments.choice(["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
            parent.send_signal(signal.Signals[name])
        for parent in parents:
            with parent:
                assert parent.wait(60) != 0
        time.sleep(0.5)  # for one that was just being born
        assert _all_dead(tmp_path, 30)
    assert len(list(tmp_path.glob("*/pids/*"))) > 200


# --- from end to end ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_benchmark_from_end_to_end_and_again(tmp_path: Path):
    from delineate.tasks.benchmark import benchmark
    from delineate.tasks.phantom import phantom

    data = phantom(tmp_path / "data", 6, 6.0, 0, missing=0.0)
    given = {"data": data, "out": tmp_path / "out", "networks": ("unet", "segnet"), "runs": 2,
             "width": 4}  # fmt: skip
    told = benchmark("s1", gmac=60.0, **given)
    page = Path(told["report"]).read_text()
    assert "U-Net" in page
    assert "all background" in page
    with (tmp_path / "out" / "curves.csv").open() as file:
        assert {line["arm"] for line in csv.DictReader(file)} == {"U-Net", "SegNet"}
    before = (tmp_path / "out" / "summary.csv").read_text()
    again = benchmark("s1", gmac=60.0, **given)
    assert (tmp_path / "out" / "summary.csv").read_text() == before
    assert again == told
    with pytest.raises(OutputError, match="benchmark"):
        benchmark("s1", gmac=61.0, **given)
