"""``predictions.json``: what is kept of a batch of predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import delineate
from delineate.core import model_output, run
from delineate.core.atomic import atomic_write_text
from delineate.data.cohort import Cohort
from delineate.data.outputs import INDEX

if TYPE_CHECKING:
    from delineate.inference.ensemble import AnySession


def start(
    session: AnySession,
    cohort: Cohort,
    settings: Mapping[str, Any],
    only: Sequence[str] | None,
) -> dict[str, Any]:
    """The index before the first case.

    Args:
        session: Of one model or of several.
        cohort: Of the scans.
        settings: How the cases are predicted.
        only: Ids of the cases asked for; None: all.
    """
    return {
        "format": 1,
        "finished": False,
        "model": _model(session),
        "versions": {**run.versions(), "delineate": delineate.__version__},
        "settings": dict(settings),
        "schema": session.schema.to_dict(),
        "classes": None,
        "target": model_output.target(session.members[0].document),
        "channels": list(session.channels),
        "scans": str(cohort.root),
        "layout": cohort.layout,
        "only": None if only is None else list(only),
        "cases": [],
    }


def _model(session: AnySession) -> dict[str, Any]:
    """What the index says of a model; of several, also of each."""
    members = [
        {
            "file": member.name,
            "hash": member.hash,
            "network": member.document["network"]["name"],
            "card": member.document["card"],
            "unlearnt": list(member.document.get("unlearnt", ())),
        }
        for member in session.members
    ]
    if len(members) == 1:
        return members[0]
    first, *others = (member["unlearnt"] for member in members)
    return {
        "file": session.name,
        "hash": session.hash,
        "unlearnt": [label for label in first if all(label in other for other in others)],
        "keep_largest": list(session.keep_largest),
        "members": members,
    }


def write(out: Path, index: Mapping[str, Any]) -> None:
    """Write ``predictions.json``.

    Raises:
        OutputError: It cannot be written.
    """
    atomic_write_text(out / INDEX, json.dumps(index, indent=1) + "\n")
