"""From what was asked to a trained model and its figures: checks, audit, record, and the job."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate import targets
from delineate.core import catalog, run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import ConfigError
from delineate.core.lock import folder_lock
from delineate.core.progress import Progress
from delineate.data import colour, excluded
from delineate.data.cohort import Cohort
from delineate.data.content import REMEMBERED, Hashes
from delineate.data.outputs import refuse_inside, say_notes
from delineate.engine.allowance import Clock
from delineate.findings import files
from delineate.findings.audit import passed, run_audit, without_copies
from delineate.inference.runtimes.torch import choose_device
from delineate.networks._transfer import Weights
from delineate.reports import audit as audit_page
from delineate.settings import RunConfig
from delineate.training import initial_weights, preflight, resolving, run_record
from delineate.training.job import Invocation, Job


def train(
    options: Mapping[str, Any],
    config: Path | None,
    invocation: Invocation,
    *,
    out: Path,
    cache: Path | None,
    audit: bool,
    finish: bool,
) -> dict[str, Any]:
    """Check what was asked, look for faults in the data, and do the run.

    Args:
        options: Settings that were given by hand; None: not given.
        config: A YAML file with others.
        invocation: How the run was called, and who waits for it.
        out: The run folder.
        cache: Folder of prepared cases; None: in the run folder.
        audit: Look for faults in the data first, of which blocking ones stop the run.
        finish: End a run that was stopped with the model that it has, instead of going on.

    Returns:
        The content of ``run.json``, with the scores of the held-out subjects as ``scores``.

    Raises:
        DelineateError: See ``delineate.train``.
    """
    say, progress = invocation.say, invocation.progress
    opened = open_run(options, config, invocation, out, audit)
    chosen, cohort, start = opened.chosen, opened.cohort, opened.weights
    invocation = dataclasses.replace(invocation, opening=chosen.opening)
    writable_folder(out)
    cache = Path(cache) if cache else out / "cache"
    with folder_lock(out):
        tried = preflight.require(
            chosen, cohort, start, out, cache,
            clock=Clock(chosen.seconds, invocation.started),
            audit=audit, say=say, progress=progress,
        )  # fmt: skip
        record = run_record.begin(out, chosen, cohort, hashes(opened, cache, progress), finish)
        record |= tried
        with run_record.ending(out, record):
            job = Job(chosen, cohort, out, record, invocation, start)
            job.cohort = audited(cohort, out, audit, chosen.drop_duplicates, invocation)
            return job.run(cache, finish)


@dataclasses.dataclass(frozen=True)
class Opened:
    """What was asked of a run, complete and checked against its data.

    Args:
        chosen: Settings.
        cohort: All cases.
        weights: To start from.
    """

    chosen: RunConfig
    cohort: Cohort
    weights: Weights | None


def open_run(
    options: Mapping[str, Any],
    config: Path | None,
    invocation: Invocation,
    out: Path,
    audit: bool,
) -> Opened:
    """Read settings and data, and refuse what does not go together; nothing is written.

    Args:
        options: Settings that were given by hand; None: not given.
        config: A YAML file with others.
        invocation: How the run was called, and who waits for it.
        out: Folder of the results.
        audit: Whether the data are going to be audited.

    Raises:
        DelineateError: See ``delineate.train``.
    """
    say = invocation.say
    chosen, document = resolving.read(config, options, invocation.opening, say)
    for line in (*catalog.shadowed("networks"), *catalog.shadowed("methods")):
        say(line)
    choose_device(chosen.device)  # a device that is not here is told before any work
    start, place = initial_weights.start(chosen), resolving.Place(document)
    known = start.document if start else None
    resolving.check(chosen, place, known)
    if chosen.drop_duplicates and not audit:
        raise ConfigError(
            "expected an audit, which is what finds duplicates, got --no-audit",
            where="--drop-duplicates",
            fix="leave out one of the two",
        )
    cohort = colour.harmonise(chosen.opening.cohort(invocation.source, say, out))
    say_notes(cohort.notes, say)
    chosen = resolving.complete(chosen, cohort)
    resolving.check(chosen, place, known)  # now that the target is known
    targets.of(chosen).usable(cohort)
    chosen = initial_weights.derive(chosen, start)
    refuse_inside(out, cohort.root)
    return Opened(chosen, cohort, start)


def hashes(opened: Opened, cache: Path, progress: Progress) -> dict[str, str]:
    """Of what a run depends on but its settings, by what it is.

    Args:
        opened: What was asked.
        cache: Folder where the hashes of files are remembered.
        progress: Shows how far the reading is.
    """
    digests = {"cohort": opened.cohort.hash(Hashes(cache / REMEMBERED), progress)}
    digests |= {"weights": opened.weights.sha256} if opened.weights else {}
    own = resolving.own(opened.chosen)
    return digests | ({"own": run.sha256(json.dumps(own))} if own else {})


def audited(
    cohort: Cohort, out: Path, audit: bool, drop_duplicates: bool, invocation: Invocation
) -> Cohort:
    """Look for faults once a run; blocking ones stop it. What is left out is written down."""
    before = len(cohort)
    if audit:
        result = passed(out, drop_duplicates=drop_duplicates) or run_audit(
            cohort, out, write_page=audit_page.write, drop_duplicates=drop_duplicates,
            say=invocation.say, progress=invocation.progress,
        )  # fmt: skip
        cohort = without_copies(cohort, result)
    elif suspected := files.siblings(cohort):
        invocation.say(f"{suspected.message}\n  -> {suspected.fix}")
    if cohort.excluded:
        atomic_write_text(out / "excluded.txt", excluded.text(cohort.excluded))
        if not audit:  # an audit names them
            invocation.say(f"left out: {len(cohort.excluded)} cases, see {out / 'excluded.txt'}")
    if len(cohort) < before:
        run.write_json(out / "cohort.json", cohort.to_dict())
    return cohort
