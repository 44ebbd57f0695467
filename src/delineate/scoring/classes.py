"""Predicted classes beside the true ones: what ``evaluate`` scores where a model names classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import case_failures
from delineate.core.atomic import writable_folder
from delineate.core.case import Case
from delineate.core.errors import InputError, LayoutError, PartialError
from delineate.core.progress import Say
from delineate.core.schema import Schema
from delineate.data import readers
from delineate.data.content import Hashes
from delineate.data.layouts._listing import load_json
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.provenance import known_scans
from delineate.provenance.lineage import TRAINED_ON
from delineate.scoring import class_figures
from delineate.scoring.options import Options, require_apart

Row = dict[str, Any]


#: From a case, what ``predictions.json`` says of it, the names of classes and the schema, to what
#: is scored of it: its slices, or itself; nothing where the truth is not known.
RowsOfCase = Callable[[Case, Mapping[str, Any], Sequence[str], Schema], list[Row]]


def score_classes(
    predictions: Path,
    labels: Path,
    out: Path,
    opening: Opening,
    options: Options,
    rows_of: RowsOfCase,
    say: Say,
) -> dict[str, Any]:
    """Score the classes of ``predictions.json`` against those of a data set.

    Args:
        predictions: Folder with ``predictions.json``.
        labels: Where the data set lies.
        out: Folder for the results.
        opening: How the data set is opened.
        options: How they are scored.
        rows_of: Gives what is scored of a case.
        say: Told one line at the end.

    Returns:
        The content of ``summary.json``.

    Raises:
        LayoutError: No case of the predictions has a class in the data set.
        InputError: No case could be scored.
        PartialError: Some cases could not be scored; the results of the others are written.
    """
    require_apart(predictions, labels, out)
    options.require_usual("predicted classes")
    index = load_json(predictions / INDEX) or {}
    writable_folder(out)
    cohort = opening.cohort(labels, say)
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
                case_rows = rows_of(case, record, classes, cohort.schema) if case else []
                rows += case_rows
                unknown += [record["id"]] * (not case_rows)
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
        examples = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        say(f"not scored, for want of a true class: {len(unknown)} cases ({examples})")
    summary = class_figures.score(rows, classes, seed=options.seed, resamples=options.resamples)
    scored = {row["case"] for row in rows}
    parts = {entry["id"]: entry.get("part") for entry in index["cases"] if entry["id"] in scored}
    seen_in_training = known_scans.seen_in_training(parts)
    summary |= {
        "model": index.get("model"),
        "labels": str(labels),
        "failures": failures,
        "taught": [name for name, part in parts.items() if part in TRAINED_ON],
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
        f"balanced accuracy {_figure_in_words(accuracy)}, ROC-AUC {_figure_in_words(area)}; "
        f"{summary['n_subjects']} subjects, {figures['n_samples']} {summary['unit']}s"
    )


def _figure_in_words(figure: Mapping[str, Any]) -> str:
    if figure.get("value") is None:
        return "not defined"
    low, high = figure.get("ci_low"), figure.get("ci_high")
    interval = "" if low is None else f" (95 % CI {low:.3f} to {high:.3f})"
    return f"{figure['value']:.3f}{interval}"
