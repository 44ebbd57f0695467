"""A batch of scans through a model: what it says of each, and the index of what was done."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.core import case_failures
from delineate.core.atomic import remove_stale, writable_folder
from delineate.core.case_failures import Failures
from delineate.core.errors import DelineateError, OutputError, PartialError
from delineate.core.lock import folder_lock
from delineate.core.progress import QUIET, Bar, Progress, Say, silent
from delineate.core.stopping import Enough
from delineate.data import colour
from delineate.data.channels import read_channels
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX, CaseOutputs, refuse_existing, refuse_inputs
from delineate.data.site_key import SiteKey, existing
from delineate.inference.ensemble import AnySession, open_models
from delineate.inference.options import Options
from delineate.predicting import predictions_json
from delineate.provenance import known_scans, lineage
from delineate.targets import Answers

#: The index is written again after this long, so that a crash loses little of it.
_INDEX_SECONDS = 5.0


def predict_batch(
    models: Sequence[Path],
    scans: Path,
    out: Path,
    opening: Opening,
    options: Options,
    *,
    only: Sequence[str] | None = None,
    enough: Enough = lambda share: False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Put every scan of a data set to a model; see ``delineate.predict``.

    Args:
        models: Model files; the mean of several predicts.
        scans: Data set.
        out: Folder for what comes out.
        opening: How the data set is opened.
        options: How its scans are predicted.
        only: Ids of the cases; None: all.
        enough: Asked before each case, and within it.
        say: Told what a person should know.
        progress: Shows how far it is.

    Returns:
        The content of ``predictions.json``.

    Raises:
        PartialError: Some of several scans failed; the others are finished.
        DelineateError: Whatever stops it before it starts, or that every scan failed.
    """
    cohort = opening.cohort(scans, say, out)
    chosen = cohort.subset(only) if only else cohort
    session = open_models(models, options.device, options.runtime, options.maps)
    chosen = colour.as_trained(chosen, [c.modality for c in session.preparation.channels])
    answers = targets.stored(session.members[0].document).answers
    answers.require(session, options)
    jobs = answers.outputs(chosen.cases, out, options)
    refuse_inputs(cohort, out, jobs)
    writable_folder(out)
    with folder_lock(out):
        refuse_existing(out, jobs, options.overwrite)
        for note in _notes(session, answers):
            say(note)
        remove_stale(out)
        settings = {
            "mirror": options.mirror, **answers.settings(session, options),
            "memory": options.memory, "device": session.device,
            "geometry": opening.geometry, "force": options.force, "maps": list(options.maps),
            **({"changed": list(options.changed)} if options.changed else {}),
        }  # fmt: skip
        index = predictions_json.start(session, cohort, settings, only)
        index |= answers.about(session)
        key = existing(cohort.root, opening.site_key, away_from=out)
        faults = _run(jobs, session, answers, out, index, options, key, enough, say, progress)
    _end(faults, index["cases"], out, say, answers.done)
    return index


def _notes(session: AnySession, answers: Answers) -> list[str]:
    """What should be known of the models: hardly trained, or unlike each other."""
    several = len(session.members) > 1
    notes = [
        f"{member.name}: {trained}" if several else str(trained)
        for member in session.members
        if (trained := member.document.get("card", {}).get("training"))
    ]
    return [*notes, *answers.notes(session)]


def _run(
    jobs: list[CaseOutputs],
    session: AnySession,
    answers: Answers,
    out: Path,
    index: dict[str, Any],
    options: Options,
    key: SiteKey | None,
    enough: Enough,
    say: Say,
    progress: Progress,
) -> list[DelineateError]:
    """Work through the jobs; the index is kept up to date on the way."""
    faults: list[DelineateError] = []
    failures = Failures(out)
    written = time.monotonic()
    predictions_json.write(out, index)
    try:
        with progress.task(len(jobs), "predicting") as bar:
            for job in itertools.takewhile(lambda _: not enough(0.0), jobs):
                record: dict[str, Any] = {"id": job.case.id, "subject": job.case.subject}
                tick = _Ticker(bar, enough)
                try:
                    record |= _predict_one(job, session, answers, out, options, key, tick)
                    for warning in record["facts"]["warnings"]:
                        say(f"{job.case.id}: {warning}")
                    took = sum(record["facts"]["seconds"].values())
                    say(f"{job.case.id}: {answers.line(record)}, {took:.1f} s")
                except _EnoughError:
                    break
                except Exception as error:
                    for path in job.outputs:  # an older prediction must not pass for this one
                        path.unlink(missing_ok=True)
                    if isinstance(error, OutputError):
                        raise
                    fault = failures.of(error, job.case.id)
                    faults.append(fault)
                    record |= {"files": {}, "facts": {}, "error": case_failures.record(fault)}
                    if len(jobs) > 1:  # a lone one ends the command, which tells it
                        say(case_failures.line(job.case.id, fault))
                index["cases"].append(record)
                tick.finish()
                if time.monotonic() - written > _INDEX_SECONDS:
                    predictions_json.write(out, index)
                    written = time.monotonic()
    except BaseException:
        with contextlib.suppress(OutputError):
            predictions_json.write(out, index)
        raise
    if left := [job.case.id for job in jobs[len(index["cases"]) :]]:
        index |= {"only": [case["id"] for case in index["cases"]], "left_out": left}
    index["finished"] = True
    predictions_json.write(out, index)
    answers.finish(index, out)
    return faults


def _predict_one(
    job: CaseOutputs,
    session: AnySession,
    answers: Answers,
    out: Path,
    options: Options,
    key: SiteKey | None,
    tick: _Ticker,
) -> dict[str, Any]:
    """Read, predict and write one case; what the index says of it."""
    started = time.perf_counter()
    image = read_channels(job.case, session.channels)
    known = {
        "part": lineage.part_of_any([member.document for member in session.members], job.case, key),
        "images": known_scans.contents(job.case, session.channels, image),
    }
    read = time.perf_counter()
    prediction = answers.predict(session, image, options, tick)
    done = time.perf_counter()
    written = answers.write(job, prediction, out)
    facts = {"warnings": [], **prediction.facts, "notes": list(image.meta.get("notes", ()))}
    facts["seconds"] = {
        "read": round(read - started, 3),
        **facts.get("seconds", {"predict": round(done - read, 3)}),
        "write": round(time.perf_counter() - done, 3),
    }
    return {**known, **written, "facts": facts, "error": None}


def _end(
    faults: list[DelineateError], cases: list[dict[str, Any]], out: Path, say: Say, done: str
) -> None:
    """Say how it ended; raise if not all is well."""
    total = len(cases)
    if not faults:
        say(f"{total} of {total} cases {done}, see {out / INDEX}")
        return
    if total == 1:
        raise faults[0]
    codes = ", ".join(sorted({error.code for error in faults}))
    where, fix = out / INDEX, "mend these cases, then run again with --only and their names"
    if len(faults) == total:
        raise DelineateError(
            f"none of {total} cases could be {done}: {codes}", where=where,
            fix="the lines above say why, and so does `error` of each case in this file",
            code="all-failed",
        )  # fmt: skip
    raise PartialError(
        f"{len(faults)} of {total} cases failed ({codes}), {total - len(faults)} {done}",
        where=where,
        fix=fix,
    )


class _EnoughError(Exception):
    """The case at hand is to be left out."""


class _Ticker:
    """Turns windows done into parts of one case on the bar."""

    def __init__(self, bar: Bar, enough: Enough) -> None:
        self.bar, self.enough, self.advanced = bar, enough, 0.0

    def __call__(self, done: int, total: int) -> None:
        step = done / total - self.advanced
        self.advanced += step
        self.bar.advance(step)
        if done < total and self.enough(done / total):
            raise _EnoughError

    def finish(self) -> None:
        if self.advanced < 1:
            self.bar.advance(1 - self.advanced)
