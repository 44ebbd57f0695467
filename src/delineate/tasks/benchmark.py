"""Compare networks and methods fairly: same subjects, same compute, several seeds, intervals."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.core import config, run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import OutputError
from delineate.core.lock import folder_lock
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data.cohort import Cohort
from delineate.tasks import _runs, _suite
from delineate.tasks._outputs import refuse_inside
from delineate.tasks._settings import RunConfig
from delineate.tasks._suite import Arm, Suite

#: What the same suite, data and options would do again; anything else is another benchmark.
_PLAN = "benchmark.json"


def benchmark(
    suite: str,
    *,
    data: Path | None = None,
    out: Path = Path("benchmark"),
    budget: str | None = None,
    quick: bool = False,
    gmac: float | None = None,
    networks: tuple[str, ...] = (),
    runs: int | None = None,
    jobs: int | None = None,
    width: int | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    device: str = "auto",
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Run a benchmark: every arm in one loop, at equal compute, on subjects it has never seen.

    Every run draws its own weights and holds out another part of the subjects, so that each subject
    is judged once by every arm. The command says how long it will take before it starts; stopped,
    it goes on when it is given again.

    Args:
        suite: Name of a suite (s1), or a YAML file.
        data: Folder of labelled scans; by default a synthetic cohort is made.
        out: Folder for everything.
        budget: Wall-clock time of everything; by default the suite's.
        quick: Take the suite's short budget.
        gmac: Billion multiplications each run may spend, instead of a budget: machines with other
            speeds then do the same work.
        networks: Take these instead of the suite's, as NETWORK or NETWORK+METHOD.
        runs: Seeds, which are also the parts of the cross-validation.
        jobs: Runs at the same time; by default 2 on a CPU of several cores, else 1.
        width: Channels at full resolution, of every network that can be scaled.
        layout: Layout of ``data``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        device: auto, cpu, cuda, cuda:1 or mps.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        Where the report lies, and the mean of the first metric of every arm.

    Raises:
        ConfigError: An unknown suite, network or setting, or too small a budget.
        OutputError: The folder holds another benchmark.
    """
    begun = time.monotonic()
    chosen = _suite.load(suite)
    chosen = chosen.of_networks(networks) if networks else chosen
    chosen = dataclasses.replace(chosen, runs=runs) if runs else chosen
    chosen.check()
    seconds = config.parse_duration(budget or (chosen.quick_budget if quick else chosen.budget))
    out = Path(out)
    how = {"layout": layout, "subject_pattern": subject_pattern}
    source = Path(data) if data else _phantom(out, say, progress)
    cohort = Cohort.open(source, **how).labelled()
    refuse_inside(out, cohort.root)
    writable_folder(out)
    with folder_lock(out):
        plan = _plan(
            chosen, cohort, out, seconds, gmac, jobs, {"width": width, "device": device}, begun,
            say, progress,
        )  # fmt: skip
        entries, todo = _schedule(plan, chosen)
        words = {}
        for one in todo:
            path = out / "settings" / f"{one.name}.yaml"
            writable_folder(path.parent)
            atomic_write_text(path, config.dump(_settings(chosen, entries[one.arm], plan, one)))
            words[one.name] = _words(source, how, out, one.name, path)
        failed = _runs.race(todo, words, out / "runs", plan["jobs"], progress)
        result = _result(suite, chosen, plan, entries, todo, failed, out, cohort, begun)
        return _publish(result, out, say)


def _phantom(out: Path, say: Say, progress: Progress) -> Path:
    """A synthetic cohort, made once."""
    from delineate.tasks.phantom import phantom

    folder = out / "phantom"
    if not folder.exists():
        say("no data given: making a synthetic cohort")
        phantom(folder, 24, 4.0, 0, missing=0.0, say=say, progress=progress)
    return folder


# --- the plan -------------------------------------------------------------------------------------


def _plan(
    suite: Suite,
    cohort: Cohort,
    out: Path,
    seconds: float,
    gmac: float | None,
    jobs: int | None,
    machine: Mapping[str, Any],
    begun: float,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """What is to be done, written down before it is begun, so that it can be taken up again."""
    from delineate.inference.predictor import choose_device
    from delineate.tasks import _entries

    asked = {
        "suite": config.to_dict(suite), "cohort": cohort.hash(), "gmac": gmac, **machine,
        "seconds": None if gmac else seconds,
    }  # fmt: skip
    asked = json.loads(json.dumps(asked))
    kept: dict[str, Any] | None = run.read_json(out / _PLAN)
    if kept is not None:
        if kept["asked"] != asked:
            raise OutputError(
                "expected the suite, data and options of the benchmark in this folder, got others",
                where=out / _PLAN,
                fix="give the same command to go on, or choose another --out",
                code="benchmark-differs",
            )
        say("going on with the benchmark in this folder")
        return kept
    cores = os.cpu_count() or 1
    cpu = choose_device(machine["device"]).type == "cpu"
    jobs = jobs or (2 if cpu and cores > 1 else 1)
    threads = max(1, cores // jobs) if cpu else None

    def first(arm: Arm) -> RunConfig:
        made = {"steps": 1, "folds": suite.runs, "threads": threads, **machine}
        return _run_config(suite, arm, made)

    terms, entries, failures = _entries.measure(
        suite, cohort, first, out / "measuring", out / "cache", say, progress
    )
    shutil.rmtree(out / "measuring")
    if gmac is None:
        left = (seconds - (time.monotonic() - begun)) * jobs
        left -= suite.runs * len(entries) * _entries.OVERHEAD
        gmac = left / suite.runs / sum(e.seconds_step / e.gmac_step for e in entries)
    entries = _entries.share_out(entries, gmac)
    plan: dict[str, Any] = {
        "asked": asked,
        "jobs": jobs,
        "threads": threads,
        "gmac": gmac,
        "terms": dataclasses.asdict(terms),
        "entries": [dataclasses.asdict(entry) for entry in entries],
        "failures": failures,
        "machine": run.machine(),
        "versions": run.versions(),
        "started": run.now(),
    }
    plan = json.loads(json.dumps(plan))
    run.write_json(out / _PLAN, plan)
    for entry in entries:
        say(
            f"{entry.arm}: {entry.parameters:,} parameters, {entry.gmac:.2f} GMAC a patch, "
            f"{entry.steps} steps of {entry.seconds_step:.2f} s"
        )
    expected = sum(e.steps * e.seconds_step + _entries.OVERHEAD for e in entries) * suite.runs
    clock = time.strftime("%H:%M", time.localtime(time.time() + expected / jobs))
    say(
        f"{suite.runs * len(entries)} runs of {gmac:,.0f} GMAC each, {jobs} at a time: about "
        f"{expected / jobs / 60:.0f} minutes, until about {clock}"
    )
    return plan


def _run_config(suite: Suite, arm: Arm, made: Mapping[str, Any]) -> RunConfig:
    """Settings of a run: the suite's, the arm's, and what the plan says."""
    given = {"validation": 0.0, **suite.settings, **arm.settings}
    given |= {"network": arm.network, "method": arm.method, **made}
    return config.from_dict(given, RunConfig, arm.name)


def _settings(
    suite: Suite, entry: Mapping[str, Any], plan: Mapping[str, Any], one: _runs.Run
) -> RunConfig:
    arm = next(arm for arm in suite.arms if arm.name == entry["arm"])
    terms = plan["terms"]
    made = {key: terms[key] for key in ("width", "patch", "batch")}
    made |= {"steps": entry["steps"], "seed": one.number, "folds": suite.runs, "fold": one.number}
    made |= {"threads": plan["threads"], "device": plan["asked"]["device"]}
    return _run_config(suite, arm, made)


def _schedule(
    plan: Mapping[str, Any], suite: Suite
) -> tuple[dict[str, dict[str, Any]], list[_runs.Run]]:
    """Entries by arm, and all runs; each seed goes through all arms before the next begins."""
    entries = {entry["arm"]: entry for entry in plan["entries"]}
    todo = []
    for number in range(suite.runs):
        for arm, entry in entries.items():
            name = f"{re.sub(r'[^a-z0-9]+', '-', arm.lower()).strip('-')}-{number}"
            seconds = entry["steps"] * entry["seconds_step"]
            todo.append(_runs.Run(name, arm, number, seconds, entry["steps"]))
    return entries, todo


def _words(
    source: Path, how: Mapping[str, str | None], out: Path, name: str, settings: Path
) -> list[str]:
    """The command of one run; anybody can give it by hand."""
    words = ["train", str(source), "--config", str(settings), "--out", str(out / "runs" / name)]
    words += ["--cache", str(out / "cache"), "--no-audit"]
    for option, value in how.items():
        words += [f"--{option.replace('_', '-')}", value] if value else []
    return words


# --- the result -----------------------------------------------------------------------------------


def _result(
    name: str,
    suite: Suite,
    plan: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    todo: Sequence[_runs.Run],
    failed: Mapping[str, str],
    out: Path,
    cohort: Cohort,
    begun: float,
) -> dict[str, Any]:
    """Everything that the report shows, as plain data."""
    from delineate.tasks import _standings

    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {arm: [] for arm in entries}
    for one in todo:
        folder = out / "runs" / one.name
        if one.name in failed or not _runs.finished(folder):
            continue
        record = run.read_json(folder / "run.json") or {}
        seconds[one.arm].append(record.get("seconds_training", math.nan))
        with (folder / "validation" / "cases.csv").open(newline="", encoding="utf-8") as file:
            rows += _standings.rows(csv.DictReader(file), one, suite.metrics)
    arms = [
        {**entry, "gmac_total": entry["steps"] * entry["gmac_step"], "seconds": seconds[arm],
         "note": None}
        for arm, entry in entries.items()
    ]  # fmt: skip
    failures = [*plan["failures"]]
    failures += [{"arm": r.arm, "run": r.number, "reason": failed[r.name]} for r in todo
                 if r.name in failed]  # fmt: skip
    terms = plan["terms"]
    return {
        "suite": name,
        "title": suite.title,
        "question": suite.question,
        "data": f"{cohort.root.name}: {len(cohort.cases)} labelled cases, "
        f"{len({case.subject for case in cohort.cases})} subjects",
        "settings": {
            "GMAC a run": plan["gmac"],
            "runs (seed and held-out part)": suite.runs,
            "patch": "x".join(map(str, terms["patch"])),
            "batch": terms["batch"],
            "width": terms["width"],
            "at a time": plan["jobs"],
            "threads each": plan["threads"],
            "machine": plan["machine"],
            "versions": plan["versions"],
            "started": plan["started"],
        },
        "seconds": time.monotonic() - begun,
        "arms": arms,
        "rows": [{k: v for k, v in row.items() if k != "_nothing"} for row in rows],
        "summary": _standings.summary(rows, suite.metrics),
        "contrasts": _standings.contrasts(rows, suite),
        "printed": _standings.printed(suite),
        "failures": failures,
        "notes": _standings.notes(suite, rows),
    }


def _publish(result: dict[str, Any], out: Path, say: Say) -> dict[str, Any]:
    """Write the report; what the command gives back."""
    from delineate.reports import benchmark as report

    run.write_json(out / "result.json", result)
    page = report.write(result, out)
    for failure in result["failures"]:
        say(f"{failure['arm']}: {failure['reason']}")
    first = result["summary"][0]["metric"] if result["summary"] else None
    told: dict[str, Any] = {"report": page}
    for entry in result["summary"]:
        if entry["metric"] == first and entry["region"] in ("mean", result["summary"][0]["region"]):
            told[f"{first} {entry['region']}: {entry['arm']}"] = (
                f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
                if entry["low"] is not None else f"{entry['mean']:.3f}"
            )  # fmt: skip
    return told
