"""What fails in one case of many: that case's own failure, and the others go on."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.atomic import atomic_write_text
from delineate.core.errors import DelineateError, ResourceError

#: Tracebacks of what was not foreseen, beside the results.
LOG = "failures.log"


class Failures:
    """Failures of the cases of one batch.

    Args:
        out: Folder of the results; a log of an older batch there is removed.
    """

    def __init__(self, out: Path) -> None:
        self._log, self._text = out / LOG, ""
        self._log.unlink(missing_ok=True)

    def of(self, error: Exception, case: str) -> DelineateError:
        """What a case failed by, in words; the traceback of what was not foreseen is kept.

        Raises:
            OutputError: The log cannot be written.
        """
        if isinstance(error, DelineateError):
            return error
        if isinstance(error, MemoryError):
            return ResourceError(
                "memory ran out", where=case, fix="use a machine with more memory", code="memory"
            )
        trace = "".join(traceback.format_exception(error))
        self._text += f"{run.now()} {case}\n{trace}\n"
        atomic_write_text(self._log, self._text)
        failure = unforeseen(error, case, f"report it with {self._log}")
        failure.__cause__ = error
        return failure


def unforeseen(
    error: Exception, case: str, report: str = "run again with --debug and report what it prints"
) -> DelineateError:
    """A fault that is no one's but the program's, with the name of the case."""
    return DelineateError(
        f"{type(error).__name__}: {error}",
        where=case,
        fix=f"this is a fault in Delineate: {report}",
        code="unexpected",
    )


def record(error: DelineateError) -> dict[str, Any]:
    """An error as a result file lists it."""
    return {
        "code": error.code, "message": error.message, "where": error.where, "fix": error.fix
    }  # fmt: skip


def line(case: str, error: DelineateError) -> str:
    """An error of a case in one line."""
    where = "" if error.where in (None, case) else f"{error.where}: "
    fix = f" -> {error.fix}" if error.fix else ""
    return f"{case}: failed [{error.code}] {where}{error.message}{fix}"
