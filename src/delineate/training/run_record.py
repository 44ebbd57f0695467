"""The record of a run: begun, taken up again, and true whatever ends the run.

``status`` in ``run.json`` is ``running`` while a process works (or was killed), ``interrupted``
where somebody stopped it, ``failed`` where an error did, and ``finished``. Whatever is not finished
goes on when the same command is given again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delineate.core import catalog, run
from delineate.core import config as settings
from delineate.core.atomic import atomic_write_text
from delineate.core.errors import ConfigError, DelineateError, OutputError
from delineate.data.cohort import Cohort
from delineate.settings import RunConfig

#: What a run goes on with only if it is the same as before.
_HASHED = {
    "config": "settings",
    "cohort": "images, labels or case names",
    "weights": "weights to start from",
    "own": "code of parts of your own",
}


def begin(
    out: Path, chosen: RunConfig, cohort: Cohort, hashes: Mapping[str, str], finish: bool = False
) -> dict[str, Any]:
    """Start the record of a run, or take up one that did not come to its end.

    Args:
        out: The run folder.
        chosen: As asked.
        cohort: To learn from.
        hashes: Of what the run depends on but its settings.
        finish: There must be something to end.

    Raises:
        OutputError: The folder is that of a finished run, of one with other settings or data, or
            of one without its record.
        ConfigError: Nothing to end.
    """
    text = settings.dump(chosen)
    old = run.read_json(out / "run.json")
    hashes = {"config": run.sha256(text), **hashes}
    started = (out / "checkpoints").exists() or (out / "model.safetensors").exists()
    _refuse_unknown_or_finished(out, old, started)
    if old is not None:
        before = old.get("hashes", {})
        other = [_HASHED[name] for name in hashes if before.get(name) != hashes[name]]
        if other and started:
            raise OutputError(
                "expected the settings and data of the run that was cut off here, got other "
                + " and other ".join(other),
                where=out,
                fix="give the same command to go on, or choose another --out",
                code="run-differs",
            )
        if not other and (started or not finish):
            record = {**old, "status": "running"}
            record.pop("failure", None)
            run.write_json(out / "run.json", record)
            return record
        # Refused before its first step, and now given with other settings or data: begin anew.
        for name in ("split.json", "audit.json"):
            (out / name).unlink(missing_ok=True)
    if finish:
        raise nothing_to_finish(out)
    record = {
        "name": out.resolve().name,
        "status": "running",
        "started": run.now(),
        "seed": chosen.seed,
        "method": catalog.title(chosen.method),
        "network": catalog.title(chosen.network),
        "budget_seconds": chosen.seconds,
        "versions": run.versions(),
        "machine": run.machine(),
        "hashes": hashes,
    }
    atomic_write_text(out / "asked.yaml", text)
    (out / "config.yaml").unlink(missing_ok=True)  # of a run that was refused
    run.write_json(out / "cohort.json", cohort.to_dict())
    run.write_json(out / "run.json", record)
    return record


def _refuse_unknown_or_finished(out: Path, old: Mapping[str, Any] | None, started: bool) -> None:
    if old is None and started:  # nobody can tell what these weights have seen
        raise OutputError(
            "expected a new folder, or that of a run with its record, got a model or checkpoints "
            "without a run.json that can be read",
            where=out,
            fix="choose another --out, or delete the folder",
            code="run-unknown",
        )
    if old is not None and old.get("status") == "finished":
        raise OutputError(
            "expected a new folder, got that of a run which finished",
            where=out,
            fix="choose another --out, or delete the folder",
            code="run-finished",
        )


@contextmanager
def ending(out: Path, record: dict[str, Any]) -> Iterator[None]:
    """Write into ``run.json`` what ended a run before its end: a person, or an error."""
    try:
        yield
    except BaseException as error:
        note(record, error)
        with contextlib.suppress(DelineateError):  # the disk may be full: the first error counts
            run.write_json(out / "run.json", record)
        raise


def note(record: dict[str, Any], error: BaseException) -> None:
    """What a run ended by, as its state."""
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    record["status"] = "interrupted" if stopped else "failed"
    if not stopped:
        words = error.message if isinstance(error, DelineateError) else str(error)
        record["failure"] = f"{type(error).__name__}: {words}".splitlines()[0]


def spent(record: Mapping[str, Any]) -> float:
    """Seconds up to the end of training at least, and to the last end that the run came to.

    Args:
        record: Of a run that has trained.
    """
    trained = record["seconds_before_training"] + record["seconds_training"]
    return float(max(trained, record.get("seconds", 0.0)))


def nothing_to_finish(out: Path) -> ConfigError:
    """There is no model yet that a run could end with."""
    return ConfigError(
        "expected a run that was stopped here after its first steps, got none",
        where=out,
        fix="leave out --finish, or give the folder of that run as --out",
        code="nothing-to-finish",
    )
