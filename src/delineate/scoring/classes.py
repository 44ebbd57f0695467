"""Predicted classes beside the true ones: what ``evaluate`` scores where a model names classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import case_failures
from delineate.core.case import Case
from delineate.core.errors import InputError, LayoutError, PartialError
from delineate.core.progress import Say
from delineate.core.schema import Schema
from delineate.data import readers
from delineate.data.cohort import Cohort
from delineate.data.content import Hashes
from delineate.data.labels import presence, read_indices
from delineate.data.layouts._listing import load_json
from delineate.data.outputs import INDEX
from delineate.provenance import known_scans
from delineate.provenance.lineage import TAUGHT
from delineate.scoring import class_figures

Row = dict[str, Any]


def named(predictions: Path) -> dict[str, Any] | None:
    """The index of a folder of predicted classes, None for anything else."""
    document = load_json(predictions / INDEX) if predictions.is_dir() else None
    return document if document and document.get("classes") else None


def evaluate_classes(
    index: Mapping[str, Any],
    labels: Path,
    cohort: Cohort,
    out: Path,
    *,
    seed: int,
    resamples: int,
    say: Say,
) -> dict[str, Any]:
    """Score the classes of ``predictions.json`` against those of a data set.

    Args:
        index: Content of ``predictions.json``.
        labels: Where the data set lies.
        cohort: The data set, with classes with label maps where the presence of a structure in a
            slice was predicted.
        out: Folder for the results.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.
        say: Told one line at the end.

    Returns:
        The content of ``summary.json``.

    Raises:
        LayoutError: No case of the predictions has a class in the data set.
        InputError: No case could be scored.
        PartialError: Some cases could not be scored; the results of the others are written.
    """
    cases = {case.id: case for case in cohort.cases}
    classes = list(index["classes"]["names"])
    rows: list[Row] = []
    failures: list[dict[str, str | None]] = []
    unknown: list[str] = []
    unforeseen, hashes = case_failures.Failures(out), Hashes()
    for record in index["cases"]:
        case = cases.get(record["id"])
        try:
            if record.get("error") is None:
                if case:
                    known_scans.require_same(case, record, index.get("channels") or (), hashes)
                target = index["classes"]["target"]
                found = _rows(case, record, target, classes, cohort.schema) if case else []
                rows += found
                unknown += [record["id"]] * (not found)
        except Exception as error:
            fault = case_failures.record(unforeseen.of(error, record["id"]))
            failures.append({"case": record["id"], **fault})
    if not rows and failures:
        raise InputError(
            f"none of {len(index['cases'])} cases could be scored; the first: "
            f"{failures[0]['case']}: {failures[0]['message']}",
            where=labels,
            fix=failures[0]["fix"],
            code="all-failed",
        )
    if not rows:
        raise LayoutError(
            f"expected the classes of {len(index['cases'])} predicted cases in the data set, "
            "got none",
            where=labels,
            fix="give the data set that the predictions were made from, with its classes",
            code="classes-unknown",
        )
    if unknown:
        shown = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        say(f"not scored, for want of a true class: {len(unknown)} cases ({shown})")
    summary = class_figures.score(rows, classes, seed=seed, resamples=resamples)
    scored = {row["case"] for row in rows}
    parts = {one["id"]: one.get("part") for one in index["cases"] if one["id"] in scored}
    seen_in_training = known_scans.seen_in_training(parts)
    summary |= {
        "model": index.get("model"),
        "labels": str(labels),
        "failures": failures,
        "taught": [name for name, part in parts.items() if part in TAUGHT],
        "notes": [*seen_in_training, *summary["notes"]],
    }
    class_figures.write(
        out, summary, rows, lambda row: _picture(cases[row["case"]], row.get("slice"))
    )
    for line in (_headline(summary), *seen_in_training, f"scores: {out / 'report.html'}"):
        say(line)
    if failures:
        raise PartialError(
            f"{len(failures)} of {len(index['cases'])} cases could not be scored: "
            f"{failures[0]['case']}: {failures[0]['message']}",
            where=out,
            fix="the others were scored; mend these and run again",
        )
    return summary


def _rows(
    case: Case, record: Mapping[str, Any], target: str, classes: Sequence[str], schema: Schema
) -> list[Row]:
    """What is scored of one case: its slices, or itself."""
    head = {"case": case.id, "subject": case.subject}
    slices = record["facts"].get("slices", [])
    if target == "presence":
        if case.label is None:
            return []
        grid = readers.probe(next(iter(case.images.values())), case.reading)[0]
        mask = read_indices(case, schema, grid).array[0]
        if slices and slices[0]["slice"] is None:
            truths = [presence(mask)]
        else:
            moved = np.moveaxis(mask, record["facts"]["slice_axis"], 0)
            truths = [presence(moved[one["slice"]]) for one in slices]
        return [
            {**head, **one, "truth": classes[truth]}
            for one, truth in zip(slices, truths, strict=True)
            if truth is not None
        ]
    if case.class_name not in classes:
        return []
    if not slices or slices[0]["slice"] is None:
        return [
            {**head, "slice": None, "truth": case.class_name, "probabilities": record["classes"]}
        ]
    return [{**head, **one, "truth": case.class_name} for one in slices]


def _picture(case: Case, place: int | None) -> NDArray[Any] | None:
    """The image of a case, or a slice of it, laid out for the reader."""
    source = next(iter(case.images.values()))
    image = readers.read(source, case.reading).array
    if image.ndim == 4:
        image = image[..., image.shape[-1] // 2 if place is None else place]
    flat = image.mean(axis=0) if image.shape[0] > 1 else image[0]
    return np.asarray(flat)


def _headline(summary: Mapping[str, Any]) -> str:
    figures = summary["figures"]
    accuracy, area = figures["balanced_accuracy"], figures["roc_auc"]
    return (
        f"balanced accuracy {_told(accuracy)}, ROC-AUC {_told(area)}; "
        f"{summary['n_subjects']} subjects, {figures['n_samples']} {summary['unit']}s"
    )


def _told(figure: Mapping[str, Any]) -> str:
    if figure.get("value") is None:
        return "not defined"
    low, high = figure.get("ci_low"), figure.get("ci_high")
    interval = "" if low is None else f" (95 % CI {low:.3f} to {high:.3f})"
    return f"{figure['value']:.3f}{interval}"
