"""The plan of a benchmark: equal terms, what each run may spend, and the runs themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.comparing.run_processes import Run
from delineate.comparing.splits_as_tables import LEAKY, Condition
from delineate.comparing.suites import Arm, Suite, slug
from delineate.core import config, run
from delineate.core.errors import OutputError
from delineate.core.progress import Progress, Say
from delineate.core.threads import cores
from delineate.data.cohort import Cohort
from delineate.data.content import REMEMBERED, Hashes
from delineate.data.opening import Opening
from delineate.engine.allowance import VALIDATIONS
from delineate.engine.budget import ENOUGH_STEPS
from delineate.settings import RunConfig
from delineate.training import resolving

#: What the same suite, data and options would do again; anything else is another benchmark.
_PLAN = "benchmark.json"
#: Tables of the conditions, by name of the condition and number of the run; none where runs hold
#: out folds of the data.
Tables = Mapping[tuple[str, int], Path]


def is_begun(out: Path) -> bool:
    """Whether a benchmark was begun in a folder."""
    return (out / _PLAN).exists()


def make(
    suite: Suite,
    cohort: Cohort,
    out: Path,
    seconds: float,
    gmac: float | None,
    jobs: int | None,
    machine: Mapping[str, Any],
    tables: Tables,
    target: str | None,
    started: float,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """What is to be done, written down before it is begun, so that it can be taken up again."""
    from delineate.comparing import compute
    from delineate.inference.runtimes.torch import choose_device
    from delineate.training import devices

    content = cohort.hash(Hashes(out / "cache" / REMEMBERED))
    asked = {
        "suite": config.to_dict(suite), "cohort": content, "gmac": gmac, **machine,
        "seconds": None if gmac else seconds,
    }  # fmt: skip
    own_parts = [
        part for a in suite.arms for part in resolving.own(_run_config(suite, a, {"steps": 1}))
    ]
    asked |= {"own": own_parts} if own_parts else {}
    asked = json.loads(json.dumps(asked))
    earlier: dict[str, Any] | None = run.read_json(out / _PLAN)
    if earlier is not None:
        if _without_budgets(earlier["asked"]) != _without_budgets(asked):
            raise OutputError(
                "expected the suite, data, options and own parts of the benchmark in this folder, "
                "got others",
                where=out / _PLAN,
                fix="give the same command to go on, or choose another --out",
                code="benchmark-differs",
            )
        say("going on with the benchmark in this folder")
        return {**earlier, "jobs": jobs or earlier["jobs"]}
    n_cores = cores()
    device = choose_device(machine["device"])
    precision = devices.precision("auto", device)  # measured once, for all runs
    cpu = device.type == "cpu"
    jobs = jobs or (2 if cpu and n_cores > 1 else 1)
    threads = max(1, n_cores // jobs) if cpu else None

    def first(arm: Arm) -> RunConfig:
        derived = {"steps": 1, "threads": threads, **machine}
        derived |= _part(suite, suite.conditions[0], 0, target)
        return _run_config(suite, arm, derived, precision)

    entries, failures = compute.measure(
        suite, cohort, first, out / "measuring", out / "cache", say, progress
    )
    shutil.rmtree(out / "measuring")
    if jobs > 1:
        entries = [
            dataclasses.replace(e, seconds_step=e.seconds_step * compute.CROWDED) for e in entries
        ]
    counts = {e.arm: len(_cells(suite, e.arm, tables)) for e in entries}
    validates = any(first(arm).validation != 0 for arm in suite.arms)
    costs = compute.Costs.of(
        entries, counts, jobs, time.monotonic() - started, VALIDATIONS if validates else 0.0
    )
    budget = costs.affordable(seconds) if gmac is None else gmac
    entries = compute.share_out(entries, budget, costs)
    plan: dict[str, Any] = {
        "asked": asked,
        "jobs": jobs,
        "threads": threads,
        "precision": precision,
        "gmac": budget,
        "entries": [dataclasses.asdict(entry) for entry in entries],
        "failures": failures,
        "machine": run.machine(),
        "versions": run.versions(),
        "started": run.now(),
        "seconds": 0.0,
    }
    plan = json.loads(json.dumps(plan))
    run.write_json(out / _PLAN, plan)
    for entry in entries:
        say(
            f"{entry.arm}: {entry.parameters:,} parameters, {entry.gmac:.2f} GMAC a patch, "
            f"{entry.steps} steps of {entry.seconds_step:.2f} s"
        )
    expected = costs.seconds(budget)
    clock = time.strftime("%H:%M", time.localtime(time.time() + expected))
    say(
        f"{costs.runs} runs of {budget:,.0f} GMAC each, {jobs} at a time: about "
        f"{expected / 60:.0f} minutes, until about {clock}"
    )
    if few := [entry.arm for entry in entries if entry.steps < ENOUGH_STEPS]:
        say(
            f"{', '.join(few)}: undertrained, with fewer than {ENOUGH_STEPS} steps; all have as "
            f"many with {costs.options(compute.needed(entries, ENOUGH_STEPS))}"
        )
    return plan


def _without_budgets(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that the suite offers: the one that was taken stands beside it."""
    offered = {"budget", "quick_budget"}
    return {**asked, "suite": {k: v for k, v in asked["suite"].items() if k not in offered}}


def _run_config(
    suite: Suite, arm: Arm, derived: Mapping[str, Any], precision: str = "auto"
) -> RunConfig:
    """Settings of a run: the suite's, the arm's, and what the plan says."""
    values: dict[str, Any] = {"validation": 0.0, "last_fit": 0.0, "precision": precision}
    values["weights"] = None  # arms start alike
    values |= {**suite.settings, **arm.settings}
    values |= {"network": arm.network, "method": arm.method, **derived}
    return config.from_dict(values, RunConfig, arm.name)


def _part(suite: Suite, condition: Condition, number: int, target: str | None) -> dict[str, Any]:
    """Settings that say which part is held out; tables say it themselves, for their ``target``."""
    if target is None:
        return {"folds": suite.runs, "fold": number}
    return {"target": target, "leaky": condition.split in LEAKY}


def settings(
    suite: Suite,
    entry: Mapping[str, Any],
    plan: Mapping[str, Any],
    planned: Run,
    target: str | None,
) -> RunConfig:
    """Everything that decides one run; ``target``: under which it learns a table, if it does."""
    arm = next(arm for arm in suite.arms if arm.name == entry["arm"])
    derived = {key: entry[key] for key in ("width", "patch", "batch")}
    derived |= {"steps": entry["steps"], "seed": planned.number, "threads": plan["threads"]}
    derived |= {"device": plan["asked"]["device"]}
    condition = next(
        (c for c in suite.conditions if c.name == planned.condition), suite.conditions[0]
    )
    derived |= _part(suite, condition, planned.number, target)
    return _run_config(suite, arm, derived, plan.get("precision", "auto"))


def _cells(suite: Suite, arm: str, tables: Tables) -> list[tuple[str, int]]:
    """Condition and number of every run of an arm."""
    if not tables:
        return [("", number) for number in range(suite.runs)]
    exhibit = next(candidate.exhibit for candidate in suite.arms if candidate.name == arm)
    first = suite.conditions[0].name
    return [(name, number) for name, number in tables if exhibit or name == first]


def schedule(
    plan: Mapping[str, Any], suite: Suite, tables: Tables
) -> tuple[dict[str, dict[str, Any]], list[Run]]:
    """Entries by arm, and all runs; each seed goes through all arms before the next begins."""
    entries = {entry["arm"]: entry for entry in plan["entries"]}
    planned_runs = []
    for arm, entry in entries.items():
        for condition, number in _cells(suite, arm, tables):
            name = "-".join(filter(None, (slug(arm), slug(condition), str(number))))
            seconds = entry["steps"] * entry["seconds_step"]
            table = tables.get((condition, number))
            planned_runs.append(Run(name, arm, number, seconds, entry["steps"], condition, table))
    order = [condition.name for condition in suite.conditions]
    planned_runs.sort(
        key=lambda planned: (
            order.index(planned.condition) if planned.condition else 0,
            planned.number,
        )
    )
    return entries, planned_runs


def command_of(
    source: Path, opening: Opening, out: Path, planned: Run, settings: Path
) -> list[str]:
    """The command of one run; anybody can give it by hand."""
    command = ["train", str(planned.table or source), "--config", str(settings)]
    command += [
        "--out",
        str(out / "runs" / planned.name),
        "--cache",
        str(out / "cache"),
        "--no-audit",
    ]
    for option, value in opening.non_default():
        # A table says all but how files are read and subjects are marked.
        if planned.table is None or option in ("geometry", "site_key"):
            command += [f"--{option.replace('_', '-')}", str(value)]
    return command


def spent(out: Path, seconds: float) -> float:
    """Add the seconds of this call to those of earlier ones; the sum."""
    plan = run.read_json(out / _PLAN) or {}
    plan["seconds"] = plan.get("seconds", 0.0) + seconds
    run.write_json(out / _PLAN, plan)
    return float(plan["seconds"])
