"""A finding of an audit, and the few words that all findings share.

Severities, as a careful user would set them: *blocking* where training would fail or give a false
result, *warning* where somebody should look first, *note* where it is good to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from delineate.data.cohort import Cohort

#: Most places that a finding lists; the others are counted.
MOST_PLACES = 1000


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        code: Stable code.
        severity: ``"blocking"``, ``"warning"`` or ``"note"``.
        message: What was found, with numbers.
        where: Case ids, files relative to the root, or groups of case ids.
        fix: The next move.
        cases: Case ids; without these the finding would be settled too.
    """

    code: str
    severity: str
    message: str
    where: tuple[str, ...] = ()
    fix: str = ""
    cases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``places`` is how many there are, ``where`` the first of them."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "places": len(self.where),
            "where": list(self.where[:MOST_PLACES]),
            "fix": self.fix,
        }


def count(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def trained_on(cohort: Cohort) -> frozenset[str]:
    """Ids of the cases that training would use: those with a label map or a class."""
    return frozenset(c.id for c in cohort.cases if c.label is not None or c.class_name is not None)
