"""``predictions.json`` and ``classes.csv``: what is kept of a batch of predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import delineate
from delineate.core import run
from delineate.core.atomic import atomic_write_text
from delineate.core.tables import table
from delineate.data.cohort import Cohort
from delineate.data.outputs import INDEX

if TYPE_CHECKING:
    from delineate.inference.ensemble import AnySession

#: Where a model names classes: one row a case.
CLASSES = "classes.csv"
#: Structures whose size stands in the line of a case.
_SIZES = 3


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
        "classes": session.members[0].document.get("classes"),
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
            "file": one.name,
            "hash": one.hash,
            "network": one.document["network"]["name"],
            "card": one.document["card"],
            "unlearnt": list(one.document.get("unlearnt", ())),
        }
        for one in session.members
    ]
    if len(members) == 1:
        return members[0]
    first, *others = (one["unlearnt"] for one in members)
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


def line(record: Mapping[str, Any]) -> str:
    """A finished case in one line: its file or class, and the sizes of some structures."""
    facts = record["facts"]
    took = f"{sum(facts['seconds'].values()):.1f} s"
    if "classes" in record:
        name = max(record["classes"], key=lambda one: float(record["classes"][one]))
        return f"{record['id']}: {name} ({record['classes'][name]:.3f}), {took}"
    sizes = facts.get("volume_ml") or facts["voxels"]
    unit = "ml" if "volume_ml" in facts else "voxels"
    shown = [f"{name} {size:.4g} {unit}" for name, size in list(sizes.items())[:_SIZES]]
    more = [f"{len(sizes) - _SIZES} more"] if len(sizes) > _SIZES else []
    files = record["files"]["labels"]
    file = files[0] if len(files) == 1 else f"{Path(files[0]).parent.as_posix()}/"
    return f"{record['id']}: {', '.join([file, *shown, *more, took])}"


def class_table(cases: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """One row a case: its class, the probability of every class, the slice that counted most."""
    rows = [
        {
            "case": case["id"],
            "subject": case["subject"],
            "class": max(classes, key=lambda name: case["classes"][name]),
            **{f"p_{name}": float(case["classes"][name]) for name in classes},
            **_most_attended(case["facts"].get("attention", [])),
        }
        for case in cases
        if "classes" in case
    ]
    columns = ["case", "subject", "class", *(f"p_{name}" for name in classes)]
    extra = ["slice", "attention"] if any("attention" in row for row in rows) else []
    return table([*columns, *extra], rows)


def _most_attended(attention: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not attention:
        return {}
    most = max(attention, key=lambda one: one["weight"])
    return {"slice": most["slice"], "attention": most["weight"]}
