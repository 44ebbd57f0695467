"""A file of anybody's, tried by the checks of its room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from delineate.conformance._rules import Subject, Verdict, run
from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.core.progress import QUIET, Progress

#: Codes of errors about what a file lacks, which are verdicts here.
_LACKING = ("part-incomplete", "part-room")


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Args:
        room: That the file is written for.
        verdicts: In the order of the checks.
    """

    room: str
    verdicts: tuple[Verdict, ...]

    @property
    def broken(self) -> list[Verdict]:
        """The rules that are not kept."""
        return [verdict for verdict in self.verdicts if verdict.fault is not None]

    def table(self) -> list[dict[str, str]]:
        """A row a rule: whether it is kept, in which forms, and what came instead."""
        rows = []
        for rule in dict.fromkeys(verdict.rule for verdict in self.verdicts):
            of_rule = [verdict for verdict in self.verdicts if verdict.rule == rule]
            faults = {v.form: v.fault for v in of_rule if v.fault is not None}
            forms = ", ".join(filter(None, (v.form for v in of_rule)))
            rows += [{"rule": rule, "kept": "no", "in": form, "got": str(fault)}
                     for form, fault in faults.items()] or [
                     {"rule": rule, "kept": "yes", "in": forms, "got": ""}]  # fmt: skip
        return rows


def examine(path: Path, room: str | None = None, progress: Progress = QUIET) -> Trial:
    """Try a file by every check of its room.

    Where its file breaks a rule, what is made from it is not tried any more.

    Args:
        path: A Python file; it is run.
        room: ``"networks"``, ``"losses"`` or ``"methods"``; by default the one that it looks like.
        progress: Shows how far it is.

    Raises:
        ConfigError: No such file, one that cannot be run, or of no room that can be told.
    """
    name = catalog.offer(path)
    room = room or catalog.recognise(name)
    try:
        module = catalog.load(room, name)
    except ConfigError as error:
        if error.code not in _LACKING:
            raise
        rule = f"It is a file of {room}."
        return Trial(room, (Verdict(rule, "", f"{error.message}: {error.fix}"),))
    checks = catalog.load("conformance", room)
    of_file = tuple(run(checks.FILE_CHECKS, [Subject(module, name, "")]))
    if any(verdict.fault for verdict in of_file):
        return Trial(room, of_file)
    subjects, verdicts = checks.subjects(module, name), list(of_file)
    selected = (*checks.CHECKS, *getattr(checks, "SLOW_CHECKS", ()))
    for check in progress.track(selected, "checks", len(selected)):
        verdicts += run([check], subjects)
    return Trial(room, tuple(verdicts))
