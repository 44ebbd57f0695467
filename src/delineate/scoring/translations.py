"""Predicted images beside the true ones: PSNR, SSIM and MAE, and what a mere mix would score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import case_failures, run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Case
from delineate.core.errors import GeometryError, InputError, LayoutError, PartialError
from delineate.core.image import Grid
from delineate.core.progress import Progress, Say
from delineate.core.tables import document, plain, table
from delineate.data import readers
from delineate.data.channels import holds, read_channels
from delineate.data.content import Hashes
from delineate.data.layouts._listing import load_json
from delineate.data.opening import Opening
from delineate.data.outputs import INDEX
from delineate.metrics.image_quality import best_mix, score_image
from delineate.metrics.statistics import LEVEL, by_subject, compare_paired, summarise
from delineate.preprocess import crop, normalise
from delineate.provenance import known_scans
from delineate.provenance.lineage import TRAINED_ON
from delineate.scoring.examples import chosen
from delineate.scoring.options import Options, require_apart

Row = dict[str, Any]

#: What is told of an image, and what each is of.
FIGURES = ("psnr_db", "ssim", "mae", "rmse")
#: Columns of a row: the prediction, the mix of inputs, and the prediction before it was matched.
METRICS = (
    *FIGURES, *(f"baseline_{name}" for name in FIGURES), *(f"written_{name}" for name in FIGURES),
)  # fmt: skip
RULES = {
    "where": "over the voxels of the true scan that are not its background (above a tenth of its "
    "range, where air has noise)",
    "data range": "of PSNR and SSIM: largest less smallest value of the true scan",
    "ssim": "Wang et al. 2004: Gaussian window of 1.5 voxels, 11 voxels wide along each axis, "
    "K1 = 0.01, K2 = 0.03; the mean of its map, for which nothing is wrong beyond these voxels",
    "mae, rmse": "in the units of the true scan",
    "interval": "percentile bootstrap over subjects; cases of one subject are averaged first",
    "baseline": "the weighted sum of the case's own inputs, and a constant, that is nearest to the "
    "true scan: it has seen what no model sees, and is hard to beat",
}
#: Where values have no unit.
MATCHED = (
    "the scans have no unit, so that nothing tells the gain of the true one: the prediction is "
    "brought to it by the straight line that fits best; figures of what was written are beside"
)


def score_images(
    predictions: Path,
    labels: Path,
    out: Path,
    opening: Opening,
    options: Options,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """Score predicted images against the scans of a data set.

    Args:
        predictions: Folder with ``predictions.json``.
        labels: Where the data set lies.
        out: Folder for the results.
        opening: How the data set is opened.
        options: How they are scored.
        say: Told the figures.
        progress: Shows how far the work is.

    Returns:
        The content of ``summary.json``.

    Raises:
        LayoutError: No predicted case has the sequence in the data set.
        InputError: No case could be scored.
        PartialError: Some cases could not be scored; the results of the others are written.
    """
    require_apart(predictions, labels, out)
    options.require_usual("predicted images")
    index = load_json(predictions / INDEX) or {}
    writable_folder(out)
    scale, cases = index["image"], {case.id: case for case in opening.cohort(labels, say).cases}
    rows: list[Row] = []
    failures: list[dict[str, str | None]] = []
    unknown: list[str] = []
    unforeseen, hashes = case_failures.Failures(out), Hashes()
    records = [record for record in index["cases"] if record.get("error") is None]
    for record in progress.track(records, "scoring", len(records)):
        case = cases.get(record["id"])
        if case is None or not holds(case, scale["channel"]):
            unknown.append(record["id"])
            continue
        try:
            known_scans.require_same(case, record, index["channels"], hashes)
            rows.append(_row(case, record, predictions, index))
        except Exception as error:
            fault = case_failures.record(unforeseen.of(error, case.id))
            failures.append({"case": case.id, **fault})
    _require_some(rows, failures, len(records), scale["channel"], labels)
    if unknown:
        examples = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        say(f"not scored, for want of a true {scale['channel']}: {len(unknown)} cases ({examples})")
    parts = {record_["id"]: record_.get("part") for record_ in records}
    parts = {row["case"]: parts[row["case"]] for row in rows}
    seen_in_training = known_scans.seen_in_training(parts)
    summary = plain(
        {
            "format": "delineate-translation",
            "predictions": str(predictions),
            "labels": str(labels),
            "model": index.get("model"),
            "image": scale,
            "inputs": list(index["channels"]),
            "settings": {
                "seed": options.seed,
                "resamples": options.resamples,
                "level": LEVEL,
            },
            "rules": {**RULES, **({"matched": MATCHED} if scale["units"] == "typical" else {})},
            "versions": run.versions(),
            "failures": failures,
            "taught": [name for name, part in parts.items() if part in TRAINED_ON],
            "notes": seen_in_training,
            **_statistics(rows, options.seed, options.resamples),
        }
    )
    _write(out, summary, rows, predictions, index, cases)
    for line in (*headlines(summary), *seen_in_training, f"scores: {out / 'report.html'}"):
        say(line)
    if failures:
        raise PartialError(
            f"{len(failures)} of {len(records)} cases could not be scored: "
            f"{failures[0]['case']}: {failures[0]['message']}",
            where=out,
            fix="the others were scored; mend these and run again",
        )
    return dict(summary)


def headlines(summary: Mapping[str, Any]) -> list[str]:
    """The figures in two lines: the prediction's and the baseline's."""

    def line(prefix: str) -> str:
        psnr, similar = (summary["figures"][prefix + name] for name in ("psnr_db", "ssim"))
        words = f"PSNR {_number(psnr['mean'], 2)} dB"
        if psnr["ci_low"] is not None:
            words += f" (95 % CI {psnr['ci_low']:.2f} to {psnr['ci_high']:.2f})"
        words += f", SSIM {_number(similar['mean'], 3)}"
        if similar["ci_low"] is not None:
            words += f" (95 % CI {similar['ci_low']:.3f} to {similar['ci_high']:.3f})"
        return f"{words}, MAE {_number(summary['figures'][prefix + 'mae']['mean'], 4)}"

    counts = f"{summary['n_subjects']} subjects, {summary['n_cases']} cases"
    gain = summary["gain_db"]
    best = f"{line('baseline_')}; better than it in {gain['wins']} of {gain['n_subjects']} subjects"
    return [f"{line('')}; {counts}", f"  the best mix of the inputs: {best}"]


def _number(value: float | None, digits: int) -> str:
    return "not defined" if value is None else f"{value:.{digits}f}"


def _row(case: Case, record: Mapping[str, Any], predictions: Path, index: Mapping[str, Any]) -> Row:
    """What is scored of one case."""
    truth, prediction, _ = load(case, record, predictions, index)
    inside = body(truth)
    span = float(truth.max()) - float(truth.min())
    scaled = matched(prediction, truth, inside, index)
    inputs = read_channels(case, index["channels"]).array
    figures = {
        "": score_image(scaled, truth, span, inside),
        "baseline_": score_image(best_mix(inputs, truth, inside), truth, span, inside),
        "written_": score_image(prediction, truth, span, inside),
    }
    head = {"case": case.id, "subject": case.subject, "voxels": int(inside.sum()), "range": span}
    return head | {f"{k}{name}": v for k, scores in figures.items() for name, v in scores.items()}


def load(
    case: Case, record: Mapping[str, Any], predictions: Path, index: Mapping[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32], Grid]:
    """The true and the predicted image of a case, ``(*S)``, and their grid.

    Raises:
        InputError: A true scan of one value, or with voxels that are no numbers.
        GeometryError: The two lie on different grids.
        ReadError: A damaged file.
    """
    name = index["image"]["channel"]
    true = read_channels(case, [name])
    values = true.array[0]
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        raise InputError(
            f"expected a true {name} of finite numbers that differ, got others",
            where=case.id,
            fix="check that the file is what its name says",
            code="target-values",
        )
    source = predictions / record["files"]["image"]
    predicted = readers.read(source)
    if not predicted.grid.same_as(true.grid):
        raise GeometryError(
            f"expected the grid of the true {name}, {true.grid.shape}, got {predicted.grid.shape}",
            where=source,
            fix="give the data set that was predicted; nothing is resampled here",
            code="grid-mismatch",
        )
    return values, predicted.array[0], true.grid


def body(truth: NDArray[Any]) -> NDArray[np.bool_]:
    """The voxels ``(*S)`` that count."""
    return normalise.tissue(truth, crop.background(truth), whole=False)


def matched(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    inside: NDArray[np.bool_],
    index: Mapping[str, Any],
) -> NDArray[Any]:
    """The prediction as it is scored: on the truth's own scale, where there is no unit."""
    if index["image"]["units"] != "typical":
        return prediction
    return best_mix(prediction[None], truth, inside)


def _statistics(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    subjects = [row["subject"] for row in rows]
    values = {name: [row[name] for row in rows] for name in METRICS}
    return {
        "n_cases": len(rows),
        "n_subjects": len(set(subjects)),
        "figures": {
            name: summarise(column, subjects, seed=seed, resamples=resamples)
            for name, column in values.items()
        },
        "gain_db": compare_paired(
            values["psnr_db"], values["baseline_psnr_db"], subjects, seed=seed, resamples=resamples
        ),
    }


def _write(
    out: Path,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    predictions: Path,
    index: Mapping[str, Any],
    cases: Mapping[str, Case],
) -> None:
    from delineate.reports import translation

    writable_folder(out)
    atomic_write_text(
        out / "cases.csv", table(["case", "subject", "voxels", "range", *METRICS], rows)
    )
    subjects = [row["subject"] for row in rows]
    means = {
        name: dict(zip(*by_subject([row[name] for row in rows], subjects), strict=True))
        for name in METRICS
    }
    lines = [
        {"subject": subject, "cases": subjects.count(subject)}
        | {
            name: mean_of_subject.get(subject, float("nan"))
            for name, mean_of_subject in means.items()
        }
        for subject in sorted(set(subjects))
    ]
    atomic_write_text(out / "subjects.csv", table(["subject", "cases", *METRICS], lines))
    atomic_write_text(out / "summary.json", document(summary))
    records = {record["id"]: record for record in index["cases"]}
    examples = []
    for place, name in chosen({row["case"]: row["psnr_db"] for row in rows}, cases):
        truth, prediction, grid = load(cases[name], records[name], predictions, index)
        inside = body(truth)
        scaled = matched(prediction, truth, inside, index)
        psnr = next(row["psnr_db"] for row in rows if row["case"] == name)
        examples.append(
            {
                "title": f"{place}: {name}, PSNR {psnr:.2f} dB", "truth": truth,
                "prediction": scaled, "inside": inside, "grid": grid,
                "sequence": index["image"]["channel"],
            }
        )  # fmt: skip
    translation.write(out / "report.html", summary, rows, examples)


def _require_some(
    rows: Sequence[Row], failures: Sequence[Mapping[str, Any]], of: int, channel: str, data: Path
) -> None:
    if rows:
        return
    if failures:
        raise InputError(
            f"none of {of} cases could be scored; the first: {failures[0]['case']}: "
            f"{failures[0]['message']}",
            where=data,
            fix=failures[0]["fix"],
            code="all-failed",
        )
    raise LayoutError(
        f"expected {channel} of {of} predicted cases in the data set, got none",
        where=data,
        fix="give the data set that the predictions were made from, with that sequence",
        code="target-unknown",
    )
