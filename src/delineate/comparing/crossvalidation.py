"""A cross-validation from what was asked to its report: folds as processes, one honest table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.comparing import folds, out_of_fold, outcome, run_processes
from delineate.comparing.folds import PLAN
from delineate.comparing.out_of_fold import Fold
from delineate.comparing.run_processes import Run
from delineate.comparing.unjudged import judge
from delineate.core import config as settings
from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.lock import folder_lock
from delineate.core.progress import silent
from delineate.core.stopping import Stop
from delineate.data import site_key
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.splits import Split
from delineate.engine.allowance import Clock
from delineate.settings import RunConfig
from delineate.training import preflight
from delineate.training.job import Invocation
from delineate.training.run import Opened, audited, hashes, open_run

#: Where nobody says how many.
FOLDS = 5


def crossvalidate(
    options: Mapping[str, Any],
    config: Path | None,
    invocation: Invocation,
    *,
    out: Path,
    jobs: int | None,
    audit: bool,
) -> dict[str, Any]:
    """Train and judge every fold, or go on where it stood; see ``delineate.crossvalidate``.

    Args:
        options: Settings that were given by hand; None: not given.
        config: A YAML file with others.
        invocation: How the command was called, and who waits for it.
        out: Folder for everything.
        jobs: Folds at the same time; None: as the machine allows.
        audit: Look for faults in the data first, of which blocking ones stop it.

    Returns:
        The content of ``summary.json``.

    Raises:
        PartialError: A fold failed, or cases could not be judged; all else is written.
        DelineateError: See ``delineate.crossvalidate``.
    """
    opened = open_run(options, config, invocation, out, audit)
    chosen = dataclasses.replace(opened.chosen, folds=opened.chosen.folds or FOLDS, fold=0)
    opened = dataclasses.replace(opened, chosen=chosen)
    folds.require_subjects(opened.chosen, opened.cohort)
    writable_folder(out)
    with folder_lock(out):
        plan, cohort, opening = _planned(opened, invocation, out, jobs, audit)
        first = plan["seconds"] == 0.0
        try:
            failed = _race(plan, dataclasses.replace(chosen, opening=opening), out, invocation)
            _judge_the_rest(plan, chosen, failed, out, invocation, limited=first)
            done = [_fold(plan, k, out, failed.get(f"fold-{k}")) for k in range(plan["folds"])]
            return outcome.publish(done, plan, opened.chosen, cohort, out, invocation)
        except KeyboardInterrupt:
            over = sum(_over(out / f"fold-{k}") for k in range(plan["folds"]))
            invocation.say(
                f"stopped: {over} of {plan['folds']} folds have come to their end; the same "
                "command goes on"
            )
            raise
        finally:
            plan["seconds"] += time.monotonic() - invocation.started
            run.write_json(out / PLAN, plan)


# --- before the folds -----------------------------------------------------------------------------


def _planned(
    opened: Opened, invocation: Invocation, out: Path, jobs: int | None, audit: bool
) -> tuple[dict[str, Any], Cohort, Opening]:
    """The plan, made once, the cases that take part, and how folds open them."""
    chosen, cache, say = opened.chosen, out / "cache", invocation.say
    at_a_time, threads = folds.jobs_and_threads(chosen, jobs)
    needed = None
    folds.forget_unbegun(out)
    if run.read_json(out / PLAN) is None:
        chosen = dataclasses.replace(chosen, threads=threads)
        needed = _require_budget(opened, chosen, at_a_time, out, invocation, audit)
    request = folds.asked(opened.chosen, hashes(opened, cache, invocation.progress))
    plan = folds.resume(out, request)
    cohort = audited(opened.cohort, out, audit, chosen.drop_duplicates, invocation)
    opening = _opening_of_folds(chosen.opening, cohort, out, invocation)
    if plan is not None:
        say("going on with the cross-validation in this folder")
        return {**plan, "jobs": at_a_time if jobs else plan["jobs"]}, cohort, opening
    quiet = dataclasses.replace(invocation, opening=opening, say=silent, stop=Stop())
    chosen = dataclasses.replace(chosen, opening=opening)
    splits = folds.prepare(chosen, cohort, out, quiet, say, invocation.progress)
    clock, seconds = Clock(chosen.seconds, invocation.started), None
    if needed is not None and clock.budget is not None:
        dataclasses.replace(needed, before=clock.spent).require(clock.budget, len(splits))
        seconds = needed.share(clock.left)
    run.write_json(out / "cohort.json", cohort.to_dict())
    plan = {
        "asked": request,
        "folds": len(splits),
        "jobs": at_a_time,
        "threads": threads,
        "fold_seconds": seconds,
        "merging_seconds": needed.merging if needed else None,
        "testing_seconds": needed.testing if needed else None,
        "splits": [split.to_dict() for split in splits],
        "started": run.now(),
        "seconds": 0.0,
    }
    run.write_json(out / PLAN, plan)
    each = f"{chosen.steps} steps each" if seconds is None else f"{_duration(seconds)} each"
    say(f"{len(splits)} folds, {_at_a_time(at_a_time, threads)}: {each}" + _until(clock))
    return plan, cohort, opening


def _require_budget(
    opened: Opened,
    chosen: RunConfig,
    jobs: int,
    out: Path,
    invocation: Invocation,
    audit: bool,
) -> folds.Need | None:
    """Refuse a budget that is too small for all folds, and say what each will get.

    Raises:
        ConfigError: It is too small.
    """
    clock = Clock(chosen.seconds, invocation.started)
    if clock.budget is None:
        return None
    cached = sum(1 for _ in (out / "cache").glob("*/case.json"))
    preflight.remove_trials(out)
    with invocation.progress.task(None, "trying some cases"):
        estimate = preflight.estimate(
            chosen, opened.cohort, opened.weights, out, clock, audit=audit, cached=cached,
            say=invocation.say,
        )  # fmt: skip
    needed = folds.need(estimate, opened.cohort, chosen, jobs)
    needed.require(clock.budget, chosen.folds or 1)
    share = needed.share(clock.budget - needed.before)
    invocation.say(
        f"{chosen.folds} folds, {_at_a_time(jobs, chosen.threads)}: about {_duration(share)} "
        f"each, after about {_duration(needed.before)} for audit and preparation; figures of all "
        f"cases in about {_duration(needed.after)}"
    )
    return needed


def _opening_of_folds(
    opening: Opening, cohort: Cohort, out: Path, invocation: Invocation
) -> Opening:
    """How every fold opens the data: with one key, and without what the audit left out."""
    key = site_key.find(cohort.root, opening.site_key, away_from=out)
    if key.remark:
        invocation.say(key.remark)
    exclude = out / "excluded.txt" if cohort.excluded else opening.exclude
    return dataclasses.replace(opening, site_key=key.file, exclude=exclude)


# --- the folds ------------------------------------------------------------------------------------


def _race(
    plan: Mapping[str, Any], chosen: RunConfig, out: Path, invocation: Invocation
) -> dict[str, str]:
    """Train every fold that has not come to its end; those that failed, with their last words."""
    words, todo = {}, []
    writable_folder(out / "settings")
    for number in range(plan["folds"]):
        name = f"fold-{number}"
        path = out / "settings" / f"{name}.yaml"
        fold = folds.settings(chosen, number, plan["fold_seconds"], plan["threads"])
        atomic_write_text(path, settings.dump(fold))
        words[name] = [
            "train", str(invocation.source), "--config", str(path), "--out", str(out / name),
            "--cache", str(out / "cache"), "--no-audit",
        ]  # fmt: skip
        seconds = plan["fold_seconds"]
        todo.append(Run(name, "", number, seconds or 1.0, 0 if seconds else chosen.steps or 0))

    def ended(trained: Run, failure: str | None) -> None:
        fold = _fold(plan, trained.number, out, failure)
        invocation.say(out_of_fold.line(fold, plan["folds"]))

    return run_processes.race(
        todo, words, out, plan["jobs"], invocation.progress,
        description=f"training {plan['folds']} folds", finished=_over, ended=ended,
    )  # fmt: skip


def _over(folder: Path) -> bool:
    """Whether a fold came to its end; whether it had time for its figures is another matter."""
    return (run.read_json(folder / "run.json") or {}).get("status") == "finished"


def _fold(plan: Mapping[str, Any], number: int, out: Path, failure: str | None) -> Fold:
    folder = out / f"fold-{number}"
    if failure is None and not _over(folder):
        failure = "it was stopped before its end"
    return Fold(number, folder, Split.from_dict(plan["splits"][number]), failure)


def _judge_the_rest(
    plan: Mapping[str, Any],
    chosen: RunConfig,
    failed: Mapping[str, str],
    out: Path,
    invocation: Invocation,
    limited: bool,
) -> None:
    """Judge the cases that folds had no time for: in the time that is left, or given again in any.

    Args:
        plan: Of the cross-validation.
        chosen: Settings of any fold.
        failed: Folds, with their last words.
        out: Folder of everything.
        invocation: How the command was called.
        limited: To the budget.
    """
    left = Clock(chosen.seconds if limited else None, invocation.started - plan["seconds"]).left
    after = plan["merging_seconds"] + plan["testing_seconds"] if chosen.seconds else 0.0
    clock = Clock(left - after, time.monotonic())
    for number in range(plan["folds"]):
        fold = _fold(plan, number, out, failed.get(f"fold-{number}"))
        if fold.trained and fold.unjudged and clock.left > 0:
            invocation.say(f"{fold.name}: {len(fold.unjudged)} cases that it had no time for")
            judge(
                fold, invocation.source, chosen.opening, chosen.device, lambda _: clock.left <= 0,
                invocation.progress,
            )  # fmt: skip


# --- words ----------------------------------------------------------------------------------------


def _at_a_time(jobs: int, threads: int | None) -> str:
    if jobs == 1:
        return "one after another"
    each = f" with {threads} thread{'s' * (threads != 1)} each" if threads else ""
    return f"{jobs} at a time{each}"


def _until(clock: Clock) -> str:
    if clock.budget is None:
        return ""
    end = time.strftime("%H:%M:%S", time.localtime(time.time() + clock.left))
    return f"; all ends by {end}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
