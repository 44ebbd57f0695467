"""Outlines against reference labels: rows a case, figures over subjects, one page."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case_failures import Failures, record
from delineate.core.errors import InputError, PartialError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.core.schema import IGNORED
from delineate.core.tables import document, plain, table
from delineate.data.opening import Opening
from delineate.data.outputs import say_notes
from delineate.provenance import known_scans
from delineate.provenance.lineage import TRAINED_ON
from delineate.scoring.figures import METRICS, RULES, by_subjects, headline, lines, statistics
from delineate.scoring.options import Options, require_apart
from delineate.scoring.pairs import Pairs, load, pair


def score_outlines(
    predictions: Path,
    labels: Path,
    out: Path,
    opening: Opening,
    options: Options,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Pair, score and report outlines; see ``delineate.evaluate``.

    Args:
        predictions: Folder of label files, or one file.
        labels: Data set, table of cases, folder of label files, or one file.
        out: Folder for the results.
        opening: How the data set is opened.
        options: How they are scored.
        say: Told the figures, a line a structure.
        progress: Shows how far the work is.

    Returns:
        The content of ``summary.json``.

    Raises:
        DelineateError: See ``delineate.evaluate``.
    """
    from delineate.metrics.statistics import LEVEL

    require_apart(predictions, labels, out)
    pairs = pair(predictions, labels, schema=options.schema, opening=opening)
    say_notes([note for note in pairs.notes if "--observer" in note], say)
    writable_folder(out)
    rows, failures, remarks = _score(pairs, out, options, progress)
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
        "tolerance_mm": options.tolerance_mm,
        "seed": options.seed,
        "resamples": options.resamples,
        "level": LEVEL,
        "missing_as_empty": options.missing_as_empty,
        "geometry": opening.geometry,
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
            "taught": [name for name in scored if pairs.parts.get(name) in TRAINED_ON],
            "notes": [
                *seen_in_training,
                *_note_on_untrained(unlearnt),
                *_note_on_absent(rows),
                *pairs.notes,
                *remarks,
            ],
            **statistics(rows, options.seed, options.resamples),
        }
    )
    _write(out, summary, rows, pairs)
    for line in (headline(summary), *lines(summary), *seen_in_training):
        say(line)
    say(f"scores: {out / 'report.html'}")
    if failures:
        empty = (
            "" if options.missing_as_empty else ", or count missing ones with --missing-as-empty"
        )
        raise PartialError(
            f"{len(failures)} of {len(pairs.cases)} cases could not be scored; {_listed(failures)}",
            where=out,
            fix=f"the others were scored; mend these and run again{empty}",
        )
    return summary


def _score(
    pairs: Pairs, out: Path, options: Options, progress: Progress
) -> tuple[list[dict[str, Any]], list[dict[str, str | None]], list[str]]:
    """Rows of all cases, failures by case, and what a person should know of the others."""
    from delineate.metrics.case import score_case

    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str | None]] = []
    nominal = 0
    unforeseen = Failures(out)
    unannotated: list[str] = []
    for case in progress.track(pairs.cases, "scoring", len(pairs.cases)):
        try:
            prediction, truth, grid = load(pairs, case, options.missing_as_empty)
            if (truth == IGNORED).all():
                unannotated.append(case.id)
                continue
            steps_mm = grid.affine[:3, : grid.ndim]
            scores = score_case(prediction, truth, pairs.schema, steps_mm, options.tolerance_mm)
        except Exception as error:
            failures.append({"case": case.id, **record(unforeseen.of(error, case.id))})
            continue
        nominal += not grid.spacing_known
        missing = case.id not in pairs.predicted
        facts = {"case": case.id, "subject": case.subject, "missing": missing}
        rows += [{**facts, **score} for score in scores]
    notes = _note_on_spacing(nominal)
    if unannotated:
        examples = ", ".join(unannotated[:5]) + (" …" if len(unannotated) > 5 else "")
        notes.append(f"{len(unannotated)} cases have no annotated voxel: not scored ({examples})")
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


def _note_on_untrained(names: Collection[str]) -> list[str]:
    if not names:
        return []
    names_in_words = ", ".join(sorted(names))
    return [
        f"not scored: {names_in_words}: no case that trained the model showed it, so it was not "
        "learnt"
    ]


def _note_on_absent(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    present = {row["region"] for row in rows if row["state"] in ("ok", "missed")}
    absent = [name for name in dict.fromkeys(row["region"] for row in rows) if name not in present]
    if not absent:
        return []
    return [f"no scored case shows {', '.join(absent)}: figures of it tell false alarms alone"]


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
