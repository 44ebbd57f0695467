"""A benchmark from what was asked to its report: plan, runs side by side, tables."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.comparing import (
    label_draws,
    learning_curves,
    planning,
    run_processes,
    splits_as_tables,
    suites,
    tables,
)
from delineate.comparing.suites import Suite
from delineate.core import config, run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import ConfigError
from delineate.core.lock import folder_lock
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.quantities import parse_duration
from delineate.data import colour, structures
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import OWN_SUBJECT
from delineate.data.opening import Opening
from delineate.data.outputs import refuse_inside
from delineate.data.site_key import find
from delineate.engine.budget import ENOUGH_STEPS
from delineate.reports import benchmark as report
from delineate.settings import RunConfig
from delineate.targets import Judged
from delineate.training import splitting

#: Makes a synthetic cohort, see ``delineate.phantom``.
Phantom = Callable[..., Path]


@dataclass(frozen=True)
class Request:
    """What a benchmark was asked for; see ``delineate.benchmark``."""

    suite: str
    data: Path | None
    out: Path
    opening: Opening
    budget: str | None
    quick: bool
    gmac: float | None
    target: str | None
    networks: tuple[str, ...]
    runs: int | None
    jobs: int | None
    width: int | None
    device: str
    labelled: tuple[str, ...] = ()


def run_benchmark(
    request: Request, phantom: Phantom, say: Say = silent, progress: Progress = QUIET
) -> dict[str, Any]:
    """Run a benchmark, or go on with one.

    Args:
        request: What was asked for.
        phantom: Makes a synthetic cohort where no data are given.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        Where the report lies, and the mean of the first metric of every arm.

    Raises:
        ConfigError: An unknown suite, network or setting, or too small a budget.
        OutputError: The folder holds another benchmark.
    """
    started = time.monotonic()
    chosen, out = _chosen(request), request.out
    seconds = parse_duration(
        request.budget or (chosen.quick_budget if request.quick else chosen.budget)
    )
    source = request.data or _phantom(out, chosen, phantom, say, progress)
    whole = colour.harmonise(request.opening.cohort(source, say, out))
    refuse_inside(out, whole.root)
    key = find(  # one for all runs, not beside their tables
        whole.root, request.opening.site_key, away_from=out
    )
    if key.remark:
        say(key.remark)
    opening = dataclasses.replace(request.opening, class_column=None, site_key=key.file)
    writable_folder(out)
    with folder_lock(out):
        judged = targets.make(chosen.target).comparison.judged(whole, chosen.level)
        cohort, known, as_target = judged.cohort, list(judged.notes), judged.as_target
        paths: planning.Tables = {}
        learned = cohort
        if chosen.draws:
            as_target = chosen.target
            paths = _draws(chosen, whole, request, out, progress)
            learned = Cohort.open(next(iter(paths.values())))
        elif as_target is not None:
            chosen, paths, known = _tables(
                chosen, judged, out / "tables", planning.is_begun(out), say
            )
            learned = cohort = Cohort.open(next(iter(paths.values())))
        elif _any_uses_unlabelled(chosen):
            learned = whole  # runs are given the data as they lie there, and use what they can
        machine = {"width": request.width, "device": request.device}
        plan = planning.make(
            chosen,
            learned,
            out,
            seconds,
            request.gmac,
            request.jobs,
            machine,
            paths,
            as_target,
            started,
            say,
            progress,
        )
        entries, planned_runs = planning.schedule(plan, chosen, paths)
        commands = {}
        for planned in planned_runs:
            path = out / "settings" / f"{planned.name}.yaml"
            writable_folder(path.parent)
            settings = planning.settings(chosen, entries[planned.arm], plan, planned, as_target)
            atomic_write_text(path, config.dump(settings))
            commands[planned.name] = planning.command_of(source, opening, out, planned, path)

        def publish(failed: Mapping[str, str], *notes: str) -> dict[str, Any]:
            result = _result(
                request.suite, chosen, plan, entries, planned_runs, failed, out, source, cohort,
                started,
            )  # fmt: skip
            result["notes"] = [*notes, *known, *result["notes"]]
            return _publish(result, out, say)

        try:
            failed = run_processes.race(
                planned_runs, commands, out / "runs", plan["jobs"], progress
            )
        except KeyboardInterrupt:
            folders = [out / "runs" / planned.name for planned in planned_runs]
            if ended := sum(map(run_processes.finished, folders)):
                say(f"a report of {ended} of {len(folders)} runs: {out / 'report.html'}")
                publish(
                    {},
                    f"stopped after {ended} of {len(folders)} runs: the same command goes on, and "
                    "figures will change",
                )
            raise
        return publish(failed)


def _chosen(request: Request) -> Suite:
    """The suite, with what was asked for instead of its own.

    Raises:
        ConfigError: They do not go together.
    """
    suite, target = suites.load(request.suite), request.target
    if target and targets.make(target).trains != targets.make(suite.target).trains:
        raise ConfigError(
            f"expected a target that the arms of a suite of {suite.target} can have, got {target}"
        )
    suite = dataclasses.replace(suite, target=target) if target else suite
    if request.labelled:
        if not suite.draws:
            raise ConfigError(
                "expected no numbers of labelled subjects where all are labelled, got some",
                where="--labelled",
                fix="leave it out, or take the suite few-labels",
            )
        chosen_conditions, _ = label_draws.conditions(request.labelled)
        suite = dataclasses.replace(suite, conditions=chosen_conditions)
    asked = targets.asked_by(request.opening)
    for name, words in asked.items():
        if suite.target not in asked:
            raise ConfigError(
                f"expected no {words} where {suite.target} is learned, got one",
                fix=f"add --target {name}, or take another suite",
            )
    suite = suite.of_networks(request.networks) if request.networks else suite
    suite = suite if request.quick else suite.whole()
    suite = dataclasses.replace(suite, runs=request.runs) if request.runs else suite
    suite.check()
    if request.gmac is not None and not 0 < request.gmac < math.inf:
        raise ConfigError(
            f"expected a number of GMAC above 0, got {request.gmac}",
            where="--gmac",
            fix="leave it out to follow --budget",
        )
    if request.jobs is not None and request.jobs < 1:
        raise ConfigError(f"expected one run at a time or more, got {request.jobs}", where="--jobs")
    return suite


def _any_uses_unlabelled(suite: Suite) -> bool:
    return any(splitting.uses_unlabelled(RunConfig(method=arm.method)) for arm in suite.arms)


def _tables(
    suite: Suite, judged: Judged, folder: Path, resumed: bool, say: Say
) -> tuple[Suite, planning.Tables, list[str]]:
    """The suite with the conditions that the data allow, a table for each run, and what to know."""
    flat = judged.cohort
    conditions, left_out = splits_as_tables.fitting(flat, suite.conditions, suite.runs)
    known = [*judged.notes, *left_out, *(note for note in flat.notes if note == OWN_SUBJECT)]
    for note in known:
        say(note)
    if not conditions:
        raise ConfigError("expected a condition that these data allow, got none: " + known[-1])
    paths = splits_as_tables.write(flat, conditions, suite.runs, folder, resumed)
    return dataclasses.replace(suite, conditions=conditions), paths, known


def _draws(
    suite: Suite, cohort: Cohort, request: Request, out: Path, progress: Progress
) -> planning.Tables:
    """A table for each draw of the subjects that keep their labels."""
    path = label_draws.conditions(request.labelled)[1] if request.labelled else None
    shows = structures.by_case(cohort, out / "cache", progress)
    return label_draws.write(
        cohort, suite.conditions, suite.runs, out / "tables", shows, path, planning.is_begun(out)
    )


def _phantom(out: Path, suite: Suite, phantom: Phantom, say: Say, progress: Progress) -> Path:
    """A synthetic cohort, made once."""
    say("no data given: a synthetic cohort")
    phantom_options = targets.make(suite.target).comparison.phantom
    return phantom(  # goes on where an interrupted one stopped
        out / "phantom", 24, 4.0, 0, missing=0.0, say=say, progress=progress, **phantom_options
    )


# --- the result -----------------------------------------------------------------------------------


def _result(
    name: str,
    suite: Suite,
    plan: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    planned_runs: Sequence[run_processes.Run],
    failed: Mapping[str, str],
    out: Path,
    source: Path,
    cohort: Cohort,
    started: float,
) -> dict[str, Any]:
    """Everything that the report shows, as plain data."""
    comparison = targets.make(suite.target).comparison
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {arm: [] for arm in entries}
    for planned in planned_runs:
        folder = out / "runs" / planned.name
        if planned.name in failed or not run_processes.finished(folder):
            continue
        record = run.read_json(folder / "run.json") or {}
        seconds[planned.arm].append(record.get("seconds_training", math.nan))
        several = suite.draws and len(suite.conditions) > 1
        scored = folder / "validation" / "cases.csv"
        rows += tables.rows(scored, planned, comparison, suite.metrics, several)
        if planned.condition in ("", suite.conditions[0].name):
            curves += learning_curves.points(
                folder / "log.jsonl", planned, entries[planned.arm]["gmac_step"]
            )
    arms = [
        {**entry, **learning_curves.verdict((p for p in curves if p["arm"] == arm), entry["steps"]),
         "gmac_total": entry["steps"] * entry["gmac_step"], "seconds": seconds[arm],
         "rate": entry["batch"] / entry["seconds_step"],
         "undertrained": entry["steps"] < ENOUGH_STEPS, "note": _remark(entry, plan["gmac"])}
        for arm, entry in entries.items()
    ]  # fmt: skip
    failures = [*plan["failures"]]
    failures += [{"arm": r.arm, "run": r.number, "reason": failed[r.name]} for r in planned_runs
                 if r.name in failed]  # fmt: skip

    def terms(key: str) -> str:
        values = [e[key] for e in entries.values()]
        texts = [
            "x".join(map(str, value)) if isinstance(value, list) else str(value) for value in values
        ]
        return ", ".join(dict.fromkeys(texts))

    return {
        "suite": name,
        "title": suite.title,
        "question": suite.question,
        "data": f"{source.name}: {len(cohort.cases)} {comparison.noun}, "
        f"{len({case.subject for case in cohort.cases})} subjects",
        "settings": {
            "GMAC a run": plan["gmac"],
            "runs (seed and held-out part)": suite.runs,
            **{key: terms(key) for key in ("patch", "batch", "width")},
            "at a time": plan["jobs"],
            "threads each": plan["threads"],
            "precision": plan.get("precision"),
            "machine": plan["machine"],
            "versions": plan["versions"],
            "started": plan["started"],
        },
        "seconds": planning.spent(out, time.monotonic() - started),
        "arms": arms,
        "rows": [{k: v for k, v in row.items() if k[0] != "_"} for row in rows],
        "summary": comparison.summary(rows, suite.metrics),
        "contrasts": tables.contrasts(rows, suite, comparison),
        "curves": curves,
        "criterion": learning_curves.CRITERION,
        "printed": tables.printed(suite),
        "failures": failures,
        "notes": comparison.notes(rows, suite.terms),
    }


def _remark(entry: Mapping[str, Any], gmac: float) -> str | None:
    """What keeps an arm from being judged like the others, if anything."""
    steps, remarks = entry["steps"], []
    if steps < ENOUGH_STEPS:
        remarks.append(f"undertrained, with {steps} of {ENOUGH_STEPS} steps")
    if (steps + 1) * entry["gmac_step"] < gmac:
        remarks.append(
            f"so cheap that it spent {steps * entry['gmac_step']:,.3g} of {gmac:,.4g} GMAC in as "
            "many steps as an arm may take"
        )
    return "; ".join(remarks) or None


def _publish(result: dict[str, Any], out: Path, say: Say) -> dict[str, Any]:
    """Write the report; what the command gives back."""
    run.write_json(out / "result.json", result)
    page = report.write(result, out)
    for failure in result["failures"]:
        say(f"{failure['arm']}: {failure['reason']}")
    if rising := [str(arm["arm"]) for arm in result["arms"] if arm["converged"] is False]:
        say(
            f"{', '.join(rising)}: still gaining when the compute was spent; more --gmac, with "
            "another --out, tells what they reach"
        )
    first = result["summary"][0]["metric"] if result["summary"] else None
    summary: dict[str, Any] = {"report": page}
    for entry in result["summary"]:
        if entry["mean"] is None:
            continue
        if entry["metric"] == first and entry["region"] in ("mean", result["summary"][0]["region"]):
            summary[f"{first} {entry['region']}: {entry['arm']}"] = (
                f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
                if entry["low"] is not None else f"{entry['mean']:.3f}"
            )  # fmt: skip
    return summary
