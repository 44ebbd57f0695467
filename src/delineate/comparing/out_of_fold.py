"""Predictions of every fold merged into one folder, as if one honest model had made them.

Each case is there once, predicted by the model that has not seen its subject; ``evaluate`` scores
the folder like any other.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.atomic import atomic_path, writable_folder
from delineate.core.errors import InputError
from delineate.data.outputs import INDEX
from delineate.data.splits import Split
from delineate.predicting import predictions_json
from delineate.targets import of_summary, stored


@dataclass(frozen=True)
class Fold:
    """What a fold left behind.

    Args:
        number: From 0.
        folder: Of its run.
        split: Who trained it and whom it judges.
        failure: The last thing that it said, where it did not come to its end.
    """

    number: int
    folder: Path
    split: Split
    failure: str | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """Its model file."""
        return self.folder / "model.safetensors"

    @property
    def record(self) -> dict[str, Any]:
        """``run.json``."""
        return run.read_json(self.folder / "run.json") or {}

    @property
    def trained(self) -> bool:
        """Whether its training came to its end: such a model may judge."""
        return bool(self.record.get("trained", {}).get("complete")) and self.model.is_file()

    @property
    def predictions(self) -> Path:
        """Its predictions of the cases that it judges."""
        return self.folder / "validation" / "predictions"

    def index(self) -> dict[str, Any]:
        """``predictions.json``; empty where there is none, or the model may not judge."""
        return (run.read_json(self.predictions / INDEX) or {}) if self.trained else {}

    @property
    def unjudged(self) -> list[str]:
        """Ids of the cases that it was to judge and has not."""
        judged = {record["id"] for record in self.index().get("cases", ())}
        return [name for name in self.split["test"] if name not in judged]

    def summary(self) -> dict[str, Any]:
        """``summary.json`` of its own cases, empty where there is none."""
        path = self.folder / "validation" / "summary.json"
        return (run.read_json(path) or {}) if self.trained else {}


def merge(folds: Sequence[Fold], out: Path) -> dict[str, Any] | None:
    """Copy the predictions of all folds into one folder, with one index.

    Args:
        folds: All of them.
        out: Folder of the merged predictions.

    Returns:
        The content of its ``predictions.json``; None where no fold has predicted anything.

    Raises:
        InputError: A fold predicted a case that it was not to judge.
        OutputError: The folder cannot be written.
    """
    indices = {fold.number: index for fold in folds if (index := fold.index()).get("cases")}
    if not indices:
        return None
    writable_folder(out)
    taken: set[str] = set()
    cases = []
    for fold in folds:
        for record in indices.get(fold.number, {}).get("cases", ()):
            if record["id"] not in fold.split["test"]:
                raise InputError(
                    f"expected predictions of the cases that {fold.name} judges, "
                    f"got {record['id']}",
                    where=fold.predictions / INDEX,
                    code="fold-split",
                )
            files = {
                kind: copied(named, fold.predictions, out, taken, fold.name)
                for kind, named in record["files"].items()
            }
            cases.append({**record, "files": files, "fold": fold.number})
    cases.sort(key=lambda record: str(record["id"]))
    index = {
        **next(iter(indices.values())),
        "finished": True,
        "model": _model([indices[number]["model"] for number in indices], folds),
        "only": [record["id"] for record in cases],
        "cases": cases,
    }
    index.pop("left_out", None)
    answers = stored(index).answers
    index |= answers.merged(index)
    answers.finish(index, out)
    predictions_json.write(out, index)
    return index


def _model(models: Sequence[Mapping[str, Any]], folds: Sequence[Fold]) -> dict[str, Any]:
    """What the index says of the models; a structure that one of them never saw is not scored."""
    unlearnt = {name for model in models for name in model.get("unlearnt", ())}
    return {
        "network": models[0]["network"],
        "file": f"{len(models)} of {len(folds)} models, each case by the one that has not seen its "
        "subject",
        "hash": run.sha256(" ".join(str(model["hash"]) for model in models)),
        "folds": [model["hash"] for model in models],
        "unlearnt": sorted(unlearnt),
    }


def copied(named: Any, source: Path, out: Path, taken: set[str], aside: str) -> Any:
    """Copy the files that an entry of ``predictions.json`` names.

    Args:
        named: Names relative to ``source``: one, or a list.
        source: Folder of predictions.
        out: Folder that they are copied to.
        taken: Names there, in lower case; more are added.
        aside: Folder in ``out`` for a name that is taken: ids may differ in case alone.

    Returns:
        The names relative to ``out``.
    """
    if not isinstance(named, str):
        return [copied(name, source, out, taken, aside) for name in named]
    name = f"{aside}/{named}" if named.casefold() in taken else named
    taken.add(name.casefold())
    writable_folder((out / name).parent)
    with atomic_path(out / name) as temporary:
        shutil.copyfile(source / named, temporary)
    return name


# --- what is told of the folds --------------------------------------------------------------------


def describe(folds: Sequence[Fold]) -> dict[str, Any]:
    """What ``summary.json`` says of the folds, and how far apart they are.

    Returns:
        ``folds`` (a row each, with its ``figures``), ``spread`` (name of a figure -> ``min``,
        ``max``, ``sd`` of the folds' values, ``n``) and ``unjudged`` (ids of cases that no model
        judged).
    """
    rows = [_row(fold) for fold in folds]
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, figure in row["figures"].items():
            values.setdefault(name, []).append(figure["value"])
    spread = {
        name: {
            "min": min(numbers),
            "max": max(numbers),
            "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
            "n": len(numbers),
        }
        for name, numbers in values.items()
    }
    return {
        "folds": rows,
        "spread": spread,
        "unjudged": sorted(name for fold in folds for name in fold.unjudged),
    }


def _row(fold: Fold) -> dict[str, Any]:
    """What is told of a fold."""
    record, summary = fold.record, fold.summary()
    figures = of_summary(summary).headline(summary) if summary else {}
    plan = record.get("plan", {})
    done = [case for case in fold.index().get("cases", ()) if not case.get("error")]
    return {
        "fold": fold.number,
        "train": len(fold.split["train"]),
        "test": len(fold.split["test"]),
        "judged": len(done),
        "subjects": len({case["subject"] for case in done}),
        "steps": record.get("steps"),
        "seconds": record.get("seconds"),
        **{key: plan.get(key) for key in ("network", "width", "patch", "batch")},
        "trained": record.get("trained", {}).get("sentence"),
        "figures": {
            name: asdict(figure) for name, figure in figures.items() if figure.value is not None
        },
        "failure": fold.failure,
    }


def spread_line(folds: Mapping[str, Any]) -> str:
    """How far apart the folds are by their first figure, empty where that cannot be said."""
    name = next(iter(folds["spread"]), "")
    if not name or folds["spread"][name]["n"] < 2:
        return ""
    spread = folds["spread"][name]
    return (
        f"between {spread['n']} folds: {name} {spread['min']:.3f} to {spread['max']:.3f}, "
        f"SD {spread['sd']:.3f}"
    )


def line(fold: Fold, count: int) -> str:
    """What is said of a fold when it ends."""
    row = _row(fold)
    head = f"fold {fold.number} ({fold.number + 1} of {count})"
    if fold.failure is not None:
        return f"{head} failed: {fold.failure}"
    figures = [f"{name} {figure['value']:.3f}" for name, figure in row["figures"].items()]
    return f"{head}: {row['steps']:,} steps in {row['seconds']:.0f} s; " + ", ".join(
        [*figures[:3], f"{row['judged']} of {row['test']} cases judged"]
    )
