"""Lists of cases that are left out: one id a line, and why after ``#``."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path

from delineate.core.errors import ConfigError


def read(path: Path, ids: Collection[str]) -> dict[str, str]:
    """Case id -> why it is left out, as a list says.

    Args:
        path: The list. Empty lines and lines that begin with ``#`` say nothing.
        ids: Of all cases.

    Raises:
        ConfigError: No such list, or an id that no case has.
    """
    try:
        text = unicodedata.normalize("NFC", path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a list of case ids, got: {getattr(error, 'strerror', None) or error}",
            where=path,
            fix="write one case id a line, in UTF-8; `delineate audit` writes such a list",
            code="exclude-list",
        ) from error
    reasons: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line in ids:  # an id may itself hold a #
            reasons[line] = ""
        elif line and not line.startswith("#"):
            name, _, reason = line.partition(" #")
            name = name.strip()
            if name not in ids:
                matches = difflib.get_close_matches(name, ids, n=1)
                hint = f"did you mean {matches[0]!r}? Else " if matches else ""
                raise ConfigError(
                    f"line {number}: expected the id of a case, got {name!r}",
                    where=path,
                    fix=f"{hint}take the line out if the case is gone",
                    code="exclude-unknown",
                )
            reasons[name] = reason.strip()
    return reasons


def text(excluded: Mapping[str, str]) -> str:
    """The list as ``read`` takes it."""
    lines = (
        f"{name}  # {' '.join(reason.split())}" if reason else name
        for name, reason in excluded.items()
    )
    return "\n".join(["# cases to leave out: one id a line, and why", *lines]) + "\n"
