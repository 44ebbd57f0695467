"""Try out a network, loss, method or target of your own by every rule of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate.core import catalog
from delineate.core.errors import ConformanceError
from delineate.core.progress import QUIET, Progress, Say, silent

#: Broken rules that the closing line names.
_NAMED = 3


def check(
    file: Path,
    *,
    room: str | None = None,
    part: tuple[Path, ...] = (),
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Try out a network, loss, method or target of your own, and say which rules it breaks.

    The file is run, built small, and trained for a few steps on made-up images; the members of the
    package pass the same checks in its tests. Exit code 2 if a rule is broken.

    Args:
        file: A Python file that you trust.
        room: What it is to be: networks, losses, methods or targets; by default what it looks like.
        part: Further files that it needs: of the method of a target, of the target of a method.
        say: Told each rule that is broken.
        progress: Shows how far it is.

    Returns:
        ``file``, ``room`` and ``rules``, a row each.

    Raises:
        ConformanceError: A rule is broken.
        ConfigError: The file cannot be run, or is of no room that can be told.
    """
    from delineate.conformance import _trial

    for needed in part:
        catalog.offer(needed)
    trial = _trial.examine(file, room, progress)
    rows = trial.table()
    if trial.broken:
        broken = [
            " ".join(filter(None, (row["rule"].rstrip("."), row["in"] and f"({row['in']})")))
            + f": {row['got']}"
            for row in rows
            if row["kept"] == "no"
        ]
        for line in broken:
            say(f"broken: {line}")
        more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ConformanceError(
            f"expected all rules of {trial.room} to be kept, got {len(broken)} broken: "
            + "; ".join(broken[:_NAMED])
            + more,
            where=file,
            fix=f"mend the file; the top of delineate.{trial.room} says what one must have",
        )
    kept_rules = [{"rule": row["rule"], "kept": row["kept"], "in": row["in"]} for row in rows]
    return {"file": str(file), "room": trial.room, "rules": kept_rules}
