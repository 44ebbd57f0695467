"""Compare predictions with reference labels: numbers per case, per subject, and one page.

    OUT/cases.csv      one row for every case and structure
    OUT/subjects.csv   cases of one subject averaged
    OUT/summary.json   mean, median and 95 % interval over subjects, counts, settings, versions
    OUT/report.html    the same for people, with the worst, median and best case
    OUT/overlays/      the pictures of these cases

Nothing is resampled, relabelled or left out in silence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Geometry
from delineate.core.case_failures import Failures, record
from delineate.core.errors import ConfigError, InputError, PartialError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.schema import IGNORED, Schema
from delineate.core.tables import document, plain, table
from delineate.data.opening import Opening
from delineate.data.outputs import say_notes
from delineate.provenance import known_scans
from delineate.provenance.lineage import TAUGHT
from delineate.scoring.classes import evaluate_classes, named
from delineate.scoring.figures import METRICS, RULES, by_subjects, headline, lines, statistics
from delineate.scoring.pairs import Pairs, load, pair

#: The figures are said: the terminal need not show all of ``summary.json`` as well.
SAID = True
_TOLERANCE_MM = 1.0


def evaluate(
    predictions: Path,
    labels: Path,
    out: Path = Path("scores"),
    *,
    tolerance_mm: float = _TOLERANCE_MM,
    seed: int = 0,
    schema: Schema | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    class_column: str | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    missing_as_empty: bool = False,
    resamples: int = 5000,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Score predictions against reference labels.

    Where the predictions come with the ``predictions.json`` of ``delineate predict``, the cases
    named there are scored; otherwise every labelled case needs a prediction. Files are paired by
    case id, a last ``_mask``, ``_seg``, ``_label`` or ``_pred`` left aside. Predicted classes are
    scored against those of the data set.

    Args:
        predictions: Folder of label files, of ``delineate predict`` or of any other tool; or one
            file.
        labels: Data set, table of cases, plain folder of label files, or one file.
        out: Folder for the results.
        tolerance_mm: Tolerance of the surface Dice (NSD).
        seed: Seed of the bootstrap.
        schema: Meaning of the label values; by default the data set's, else the predictions'.
        layout: Layout of the data set, where it should not be recognised.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        class_column: The true class is this column of the data's table, not what the layout says.
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        missing_as_empty: Score a missing prediction as one that found nothing, instead of
            reporting it as an error.
        resamples: Number of bootstrap resamples.
        say: Told the figures, a line a structure.
        progress: Shows how far the work is.

    Returns:
        The content of ``summary.json``.

    Raises:
        ConfigError: A setting is out of range.
        LayoutError: Nothing can be paired, or a prediction is ambiguous.
        LabelError: The schemas of predictions and labels contradict each other.
        InputError: No case could be scored.
        PartialError: Some cases could not be scored; the results of the others are written.
    """
    from delineate.metrics.statistics import LEVEL

    predictions, labels, out = Path(predictions), Path(labels), Path(out)
    _check(predictions, labels, out, tolerance_mm, resamples)
    how = Opening(
        layout, subject_pattern, class_column, geometry, exclude, observer, site_key, ignore_label
    )
    index = named(predictions)
    if index is not None:
        _require_classes(tolerance_mm, schema, missing_as_empty)
        writable_folder(out)
        return evaluate_classes(
            index, labels, how.cohort(labels, say), out,
            seed=seed, resamples=resamples, say=say,
        )  # fmt: skip
    pairs = pair(predictions, labels, schema=schema, how=how)
    say_notes([note for note in pairs.notes if "--observer" in note], say)
    writable_folder(out)
    rows, failures, remarks = _score(pairs, out, tolerance_mm, missing_as_empty, progress)
    unlearnt = _unlearnt(pairs)
    rows = [row for row in rows if row["region"] not in unlearnt]
    if not rows:
        raise InputError(
            f"none of {len(pairs.cases)} cases could be scored; "
            + (_listed(failures) if failures else "; ".join(remarks)),
            where=predictions,
            fix=(failures and failures[0].get("fix")) or "mend the first one and run again",
            code="all-failed",
        )
    scored = dict.fromkeys(row["case"] for row in rows)
    seen_in_training = known_scans.seen_in_training(
        {name: pairs.parts.get(name) for name in scored}
    )
    settings = {
        "tolerance_mm": tolerance_mm,
        "seed": seed,
        "resamples": resamples,
        "level": LEVEL,
        "missing_as_empty": missing_as_empty,
        "geometry": geometry,
    }
    summary: dict[str, Any] = plain(
        {
            "format": "delineate-evaluation",
            "predictions": str(predictions),
            "labels": str(labels),
            "model": pairs.model,
            "schema": pairs.schema.to_dict(),
            "settings": settings,
            "rules": RULES,
            "versions": run.versions(),
            "n_cases": len({row["case"] for row in rows}),
            "n_subjects": len({row["subject"] for row in rows}),
            "n_missing": len({row["case"] for row in rows if row["missing"]}),
            "failures": failures,
            "taught": [name for name in scored if pairs.parts.get(name) in TAUGHT],
            "notes": [
                *seen_in_training,
                *_note_on_unlearnt(unlearnt),
                *_note_on_unseen(rows),
                *pairs.notes,
                *remarks,
            ],
            **statistics(rows, seed, resamples),
        }
    )
    _write(out, summary, rows, pairs)
    for line in (headline(summary), *lines(summary), *seen_in_training):
        say(line)
    say(f"scores: {out / 'report.html'}")
    if failures:
        raise PartialError(
            f"{len(failures)} of {len(pairs.cases)} cases could not be scored; {_listed(failures)}",
            where=out,
            fix="the others were scored; mend these and run again"
            + ("" if missing_as_empty else ", or count missing ones with --missing-as-empty"),
        )
    return summary


def _check(predictions: Path, labels: Path, out: Path, tolerance_mm: float, resamples: int) -> None:
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"expected a tolerance in mm of 0 or more, got {tolerance_mm}")
    if resamples < 100:
        raise ConfigError(f"expected 100 or more bootstrap resamples, got {resamples}")
    place = out.resolve()
    inputs = {predictions.resolve(), labels.resolve()}
    if place in inputs or labels.resolve() in place.parents:
        raise ConfigError(
            "expected an output folder apart from predictions and labels",
            where=out,
            fix="name another folder",
            code="output-is-input",
        )


def _require_classes(tolerance_mm: float, schema: Schema | None, missing_as_empty: bool) -> None:
    """Refuse options that mean something for outlines alone.

    Raises:
        ConfigError: Some are given.
    """
    given = {
        "--tolerance-mm": tolerance_mm != _TOLERANCE_MM,
        "--missing-as-empty": missing_as_empty,
        "schema": schema is not None,
    }
    if lost := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(
            f"expected options that mean something for predicted classes, got {', '.join(lost)}",
            fix=f"leave out {' and '.join(lost)}",
            code="option-model",
        )


def _score(
    pairs: Pairs, out: Path, tolerance_mm: float, missing_as_empty: bool, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, str | None]], list[str]]:
    """Rows of all cases, failures by case, and what a person should know of the others."""
    from delineate.metrics.case import score_case

    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str | None]] = []
    nominal = 0
    unforeseen = Failures(out)
    unseen: list[str] = []
    for case in progress.track(pairs.cases, "scoring", len(pairs.cases)):
        try:
            prediction, truth, grid = load(pairs, case, missing_as_empty)
            if (truth == IGNORED).all():
                unseen.append(case.id)
                continue
            steps_mm = grid.affine[:3, : grid.ndim]
            scores = score_case(prediction, truth, pairs.schema, steps_mm, tolerance_mm)
        except Exception as error:
            failures.append({"case": case.id, **record(unforeseen.of(error, case.id))})
            continue
        nominal += not grid.spacing_known
        missing = case.id not in pairs.predicted
        facts = {"case": case.id, "subject": case.subject, "missing": missing}
        rows += [{**facts, **score} for score in scores]
    notes = _note_on_spacing(nominal)
    if unseen:
        shown = ", ".join(unseen[:5]) + (" …" if len(unseen) > 5 else "")
        notes.append(f"{len(unseen)} cases have no annotated voxel: not scored ({shown})")
    return rows, failures, notes


def _write(out: Path, summary: dict[str, Any], rows: list[dict[str, Any]], pairs: Pairs) -> None:
    from delineate.reports import evaluation
    from delineate.scoring.examples import examples

    head = ["case", "subject", "region", "kind", "state", "missing"]
    atomic_write_text(out / "cases.csv", table([*head, *METRICS], rows))
    columns = ["subject", "region", "kind", "cases", *METRICS]
    atomic_write_text(out / "subjects.csv", table(columns, by_subjects(rows)))
    atomic_write_text(out / "summary.json", document(summary))
    evaluation.write(out / "report.html", summary, rows, examples(summary, rows, pairs))


def _unlearnt(pairs: Pairs) -> set[str]:
    """Structures that no case of the model's training showed, and regions of nothing else."""
    labels = set(map(str, pairs.model.get("unlearnt") or ()))
    regions = (name for name, parts in pairs.schema.regions.items() if set(parts) <= labels)
    return labels.union(regions) if labels else labels


def _note_on_unlearnt(names: Collection[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(sorted(names))
    return [f"not scored: {shown}: no case that trained the model showed it, so it was not learnt"]


def _note_on_unseen(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    seen = {row["region"] for row in rows if row["state"] in ("ok", "missed")}
    unseen = [name for name in dict.fromkeys(row["region"] for row in rows) if name not in seen]
    if not unseen:
        return []
    return [f"no scored case shows {', '.join(unseen)}: figures of it tell false alarms alone"]


def _note_on_spacing(nominal: int) -> list[str]:
    if not nominal:
        return []
    return [
        f"{nominal} label files give no voxel size: their distances are in voxels and their "
        "volumes in thousands of voxels"
    ]


def _listed(failures: Sequence[Mapping[str, str | None]]) -> str:
    names = ", ".join(str(failure["case"]) for failure in failures[:5])
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    first = failures[0]
    return f"{names}{more}. The first: [{first['code']}] {first['where']}: {first['message']}"
