"""Compare networks and methods fairly: same subjects, same compute, several seeds, intervals."""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from delineate.comparing import planning, run_processes, splits_as_tables, suites
from delineate.comparing.suites import Suite
from delineate.core import config, run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Geometry
from delineate.core.errors import ConfigError
from delineate.core.lock import folder_lock
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.quantities import parse_duration
from delineate.data import colour
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import OWN_SUBJECT
from delineate.data.opening import Opening
from delineate.data.outputs import refuse_inside
from delineate.data.site_key import find


def benchmark(
    suite: str,
    *,
    data: Path | None = None,
    out: Path = Path("benchmark"),
    budget: str | None = None,
    quick: bool = False,
    gmac: float | None = None,
    target: Literal["class", "presence"] | None = None,
    class_column: str | None = None,
    networks: tuple[str, ...] = (),
    runs: int | None = None,
    jobs: int | None = None,
    width: int | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
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
        quick: Take the suite's short budget and, of classifiers, show the conditions after the
            first with the arms that the suite names for it; else every arm goes through all.
        gmac: Billion multiplications each run may spend, instead of a budget: machines with other
            speeds then do the same work.
        target: What classifiers learn, instead of the suite's: the class of a case, or whether a
            slice shows anything outlined.
        class_column: The class is this column of the data's table (histological_type …).
        networks: Take these instead of the suite's, as NETWORK or NETWORK+METHOD.
        runs: Seeds, which are also the parts of the cross-validation.
        jobs: Runs at the same time; by default 2 on a CPU of several cores, else 1.
        width: Channels at full resolution, of every network that can be scaled.
        layout: Layout of ``data``; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
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
    chosen = suites.load(suite)
    if target and chosen.target == "outline":
        raise ConfigError(f"expected no target for a suite of outlines, got {target}")
    chosen = dataclasses.replace(chosen, target=target) if target else chosen
    if class_column and chosen.target != "class":
        raise ConfigError(
            f"expected no class column where {chosen.target} is learned, got {class_column!r}",
            fix="add --target class, or take the suite s0-s2-subjects",
        )
    chosen = chosen.of_networks(networks) if networks else chosen
    chosen = chosen if quick else chosen.whole()
    chosen = dataclasses.replace(chosen, runs=runs) if runs else chosen
    chosen.check()
    if jobs is not None and jobs < 1:
        raise ConfigError(f"expected one run at a time or more, got {jobs}", where="--jobs")
    seconds = parse_duration(budget or (chosen.quick_budget if quick else chosen.budget))
    out = Path(out)
    how = Opening(
        layout, subject_pattern, geometry=geometry, exclude=exclude, observer=observer,
        site_key=site_key, ignore_label=ignore_label,
    )  # fmt: skip
    source = Path(data) if data else _phantom(out, chosen, say, progress)
    opened = dataclasses.replace(how, class_column=class_column).cohort(source, say, out)
    cohort = colour.harmonise(opened)
    refuse_inside(out, cohort.root)
    key = find(cohort.root, site_key, away_from=out)  # one for all runs, not beside their tables
    if key.remark:
        say(key.remark)
    how = dataclasses.replace(how, site_key=key.file)
    writable_folder(out)
    with folder_lock(out):
        tables: planning.Tables = {}
        known: list[str] = []
        if chosen.target == "outline":
            cohort = cohort.labelled()
        else:
            chosen, tables, known = _tables(
                chosen, cohort, out / "tables", planning.begun(out), say
            )
            cohort = Cohort.open(next(iter(tables.values())))
        machine = {"width": width, "device": device}
        plan = planning.make(
            chosen, cohort, out, seconds, gmac, jobs, machine, tables, begun, say, progress
        )
        entries, todo = planning.schedule(plan, chosen, tables)
        words = {}
        for one in todo:
            path = out / "settings" / f"{one.name}.yaml"
            writable_folder(path.parent)
            settings = planning.settings(chosen, entries[one.arm], plan, one)
            atomic_write_text(path, config.dump(settings))
            words[one.name] = planning.words(source, how, out, one, path)
        failed = run_processes.race(todo, words, out / "runs", plan["jobs"], progress)
        result = _result(suite, chosen, plan, entries, todo, failed, out, source, cohort, begun)
        result["notes"] = [*known, *result["notes"]]
        return _publish(result, out, say)


def _tables(
    suite: Suite, cohort: Cohort, folder: Path, begun: bool, say: Say
) -> tuple[Suite, planning.Tables, list[str]]:
    """The suite with the conditions that the data allow, a table for each run, and what to know."""
    flat, known = splits_as_tables.pictures(cohort, suite.target, suite.level)
    conditions, left_out = splits_as_tables.fitting(flat, suite.conditions, suite.runs)
    known += left_out + [note for note in cohort.notes if note == OWN_SUBJECT]
    for note in known:
        say(note)
    if not conditions:
        raise ConfigError("expected a condition that these data allow, got none: " + known[-1])
    tables = splits_as_tables.write(flat, conditions, suite.runs, folder, begun)
    return dataclasses.replace(suite, conditions=conditions), tables, known


def _phantom(out: Path, suite: Suite, say: Say, progress: Progress) -> Path:
    """A synthetic cohort, made once: volumes, or slices for classifiers."""
    from delineate.tasks.phantom import phantom

    say("no data given: a synthetic cohort")
    layout: Literal["bids", "kaggle"] = "bids" if suite.target == "outline" else "kaggle"
    # slices do not tell that two patients are one person: with twins every split would leak
    twins = 0.15 if layout == "bids" else 0.0
    return phantom(  # goes on where an interrupted one stopped
        out / "phantom", 24, 4.0, 0, twins=twins, missing=0.0, layout=layout, say=say,
        progress=progress,
    )  # fmt: skip


# --- the result -----------------------------------------------------------------------------------


def _result(
    name: str,
    suite: Suite,
    plan: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    todo: Sequence[run_processes.Run],
    failed: Mapping[str, str],
    out: Path,
    source: Path,
    cohort: Cohort,
    begun: float,
) -> dict[str, Any]:
    """Everything that the report shows, as plain data."""
    from delineate.comparing import tables_classes, tables_outline

    kind = tables_outline if suite.target == "outline" else tables_classes
    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {arm: [] for arm in entries}
    for one in todo:
        folder = out / "runs" / one.name
        if one.name in failed or not run_processes.finished(folder):
            continue
        record = run.read_json(folder / "run.json") or {}
        seconds[one.arm].append(record.get("seconds_training", math.nan))
        with (folder / "validation" / "cases.csv").open(newline="", encoding="utf-8") as file:
            rows += kind.rows(csv.DictReader(file), one, suite.metrics)
    arms = [
        {**entry, "gmac_total": entry["steps"] * entry["gmac_step"], "seconds": seconds[arm],
         "rate": entry["batch"] / entry["seconds_step"], "note": None}
        for arm, entry in entries.items()
    ]  # fmt: skip
    failures = [*plan["failures"]]
    failures += [{"arm": r.arm, "run": r.number, "reason": failed[r.name]} for r in todo
                 if r.name in failed]  # fmt: skip

    def terms(key: str) -> str:
        told = [e[key] for e in entries.values()]
        shown = ["x".join(map(str, one)) if isinstance(one, list) else str(one) for one in told]
        return ", ".join(dict.fromkeys(shown))

    return {
        "suite": name,
        "title": suite.title,
        "question": suite.question,
        "data": f"{source.name}: {len(cohort.cases)} "
        f"{'labelled cases' if suite.target == 'outline' else 'pictures'}, "
        f"{len({case.subject for case in cohort.cases})} subjects",
        "settings": {
            "GMAC a run": plan["gmac"],
            "runs (seed and held-out part)": suite.runs,
            **{key: terms(key) for key in ("patch", "batch", "width")},
            "at a time": plan["jobs"],
            "threads each": plan["threads"],
            "machine": plan["machine"],
            "versions": plan["versions"],
            "started": plan["started"],
        },
        "seconds": planning.spent(out, time.monotonic() - begun),
        "arms": arms,
        "rows": [{k: v for k, v in row.items() if k[0] != "_"} for row in rows],
        "summary": kind.summary(rows, suite.metrics),
        "contrasts": kind.contrasts(rows, suite),
        "printed": tables_outline.printed(suite),
        "failures": failures,
        "notes": kind.notes(suite, rows),
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
        if entry["mean"] is None:
            continue
        if entry["metric"] == first and entry["region"] in ("mean", result["summary"][0]["region"]):
            told[f"{first} {entry['region']}: {entry['arm']}"] = (
                f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"
                if entry["low"] is not None else f"{entry['mean']:.3f}"
            )  # fmt: skip
    return told
