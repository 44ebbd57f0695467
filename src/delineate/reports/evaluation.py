"""The page of an evaluation: figures with intervals, box plots, outlines and every case."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.core.atomic import atomic_write_bytes, atomic_write_text, writable_folder
from delineate.metrics.statistics import summarise
from delineate.reports import page
from delineate.reports._run_folder import Results, RunFolder
from delineate.reports.figures import Picture, boxplots
from delineate.reports.overlays import overlay
from delineate.reports.page import (
    Column,
    Section,
    as_list,
    as_number,
    block,
    duration,
    join,
    number,
    percent,
    plural,
)

Row = Mapping[str, Any]

_CASE_COLUMNS = (
    Column("case", "Case"),
    Column("subject", "Subject"),
    Column("region", "Region"),
    Column("dice", "Dice", 3, "Overlap: 0 none, 1 perfect", bar=True),
    Column("state", "State"),
    Column("nsd", "NSD", 3, "Share of the surface within the tolerance (surface Dice)"),
    Column("hd95_mm", "HD95 mm", 2, "95th percentile of the distances between the surfaces"),
    Column("assd_mm", "ASSD mm", 2, "Mean distance between the surfaces"),
    Column("recall", "Recall", 3, "Share of the truth that was found"),
    Column("precision", "Precision", 3, "Share of the prediction that is true"),
    Column("iou", "IoU", 3, "Intersection over union"),
    Column("specificity", "Specificity", 4, "Share of the background left alone"),
    Column("accuracy", "Accuracy", 4, "Share of all voxels that are right"),
    Column("accuracy_background", "Marking nothing", 4, "Accuracy of an empty mask"),
    Column("volume_ml_truth", "Truth ml", 2),
    Column("volume_ml_prediction", "Predicted ml", 2),
)
_REGION_COLUMNS = (
    Column("region", "Region"),
    Column("subjects", "Subjects", 0),
    Column("with_it", "Cases with it", help="Cases in which the truth has the structure, of all"),
    Column("dice", "Mean Dice", 3, bar=True),
    Column("interval", "95\N{NO-BREAK SPACE}% interval"),
    Column("median", "Median Dice", 3),
    Column("where_present", "Mean Dice, with it", 3, "Over the cases that have the structure"),
    Column("missed", "Missed", help="Of the cases that have the structure: nothing was found"),
    Column("false_alarm", "False alarms", help="Of the cases without it: some was found"),
    Column("nsd", "Mean NSD", 3),
    Column("hd95_mm", "Median HD95 mm", 2, "Over the subjects in whom both have the structure"),
    Column("hd95_n", "of subjects", 0, "In whom truth and prediction both have the structure"),
    Column("penalised", "HD95 mm, penalised", 2, "Mean, the image's diagonal where one misses"),
    Column("accuracy", "Accuracy %", 2, factor=100),
    Column("accuracy_background", "Marking nothing %", 2, "Accuracy of an empty mask", factor=100),
)
#: Distances are told over cases in which both have the structure; the penalised ones over all.
_DISTANCES = ("hd95_mm", "hd_mm", "assd_mm")


def write(
    path: Path,
    summary: Mapping[str, Any] | None,
    rows: Sequence[Row],
    overlays: Sequence[Mapping[str, Any]] = (),
    *,
    title: str = "Evaluation",
) -> Path:
    """Write the page of an evaluation.

    Args:
        path: The HTML file.
        summary: Region -> metric -> figures, as ``evaluate`` writes it; what it lacks is worked
            out from the rows.
        rows: One dictionary a case and region, with the columns of ``cases.csv``.
        overlays: Arguments of :func:`delineate.reports.overlays.overlay`: dictionaries with
            ``title``, ``image`` (or None), ``truth``, ``prediction`` and, where known, ``grid``,
            ``spacing_mm``, ``schema``.
        title: Heading of the page.

    The pictures are kept beside the page as well, in ``overlays/``: PNG files and a list of them
    with their titles, from which other pages (the training report) can show them again.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    pictures = [overlay(**arguments) for arguments in overlays]
    if pictures:
        _keep(path.parent / "overlays", pictures)
    head = headline(summary, rows)
    html = page.render(
        title,
        sections(summary, rows, pictures),
        kind="evaluation",
        verdict=" ".join(verdict(head)) or "There are no scored cases to report.",
        lead=tiles(head),
    )
    return page.write(path, html)


def regions(summary: Mapping[str, Any] | None, rows: Sequence[Row]) -> list[str]:
    """Names of the structures that make the headline: declared regions, or else all labels."""
    structures = (summary or {}).get("structures")
    if isinstance(structures, list):
        return [str(name) for name in structures]
    declared = [str(r.get("region")) for r in rows if r.get("kind") == "region"]
    return list(dict.fromkeys(declared or [str(r.get("region")) for r in rows]))


def figures_of(
    summary: Mapping[str, Any] | None, rows: Sequence[Row], region: str, metric: str
) -> dict[str, Any]:
    """``mean``, ``ci_low``, ``ci_high``, ``median``, ``n_subjects`` … of a metric in a region.

    Taken from the summary where it has them, so that no two pages disagree; else from the rows.
    """
    figures: Any = (summary or {}).get("regions", summary or {})
    for key in (region, metric):
        figures = figures.get(key) if isinstance(figures, Mapping) else None
    if isinstance(figures, Mapping) and as_number(figures.get("mean")) is not None:
        return dict(figures)
    return _summarise([r for r in rows if r.get("region") == region], metric)


def headline(summary: Mapping[str, Any] | None, rows: Sequence[Row]) -> dict[str, Any]:
    """The few numbers that stand on top: mean Dice over regions within subjects, and accuracy."""
    names = regions(summary, rows)
    headline_rows = [r for r in rows if r.get("region") in names]
    head: dict[str, Any] = {"regions": names}
    for metric in ("dice", "hd95_mm", "hd95_mm_penalised", "accuracy", "accuracy_background"):
        summarised = (summary or {}).get(f"mean_{metric}")
        worked_out = _summarise(headline_rows, metric)
        head[metric] = (
            {**worked_out, **summarised} if isinstance(summarised, Mapping) else worked_out
        )
    head["cases"] = len({r.get("case") for r in rows})
    head["unscored"] = len(as_list((summary or {}).get("failures")))
    head["without_prediction"] = int(as_number((summary or {}).get("n_missing")) or 0)
    head["states"] = Counter(str(r.get("state")) for r in headline_rows)
    return head


def verdict(head: Mapping[str, Any], noun: str = "subject") -> list[str]:
    """The headline in plain sentences; ``noun`` says what the subjects are to the model."""
    dice = head["dice"]
    if as_number(dice.get("mean")) is None:
        return []
    names = head["regions"]
    over = f" over {', '.join(names)}" if 1 < len(names) <= 4 else ""
    count = int(dice["n_subjects"])
    words = f"On {plural(count, noun)} the mean Dice{over} is {number(dice['mean'])}"
    if interval := _interval(dice):
        words += f" (95\N{NO-BREAK SPACE}% interval {interval})"
    sentences = [f"{words}."]
    accuracy, background_accuracy = (
        head[k].get("mean") for k in ("accuracy", "accuracy_background")
    )
    if as_number(accuracy) is not None and as_number(background_accuracy) is not None:
        sentences.append(
            f"Voxel accuracy is {percent(accuracy)}; marking nothing at all would already score "
            f"{percent(background_accuracy)}, so accuracy alone says little."
        )
    states = head["states"]
    if states["missed"] or states["false alarm"]:
        penalised = head["hd95_mm_penalised"].get("mean")
        end = (
            f" Counted with the image's diagonal, the mean HD95 is {number(penalised, 1)} mm."
            if as_number(penalised) is not None
            else ""
        )
        sentences.append(f"Structures: {_failed(states)}.{end}")
    if states["both empty"]:
        counted = plural(states["both empty"], "structure")
        sentences.append(f"{counted} absent from truth and prediction counted as a Dice of 1.")
    if head["without_prediction"]:
        counted = plural(head["without_prediction"], "case")
        sentences.append(f"{counted} had no prediction and counted as empty.")
    if head["unscored"]:
        sentences.append(f"{plural(head['unscored'], 'case')} could not be scored.")
    if count < 10:
        sentences.append("So few subjects allow no firm conclusion.")
    return sentences


def tiles(
    head: Mapping[str, Any], *more: tuple[str, str, str], scored_on: str = "Scored on"
) -> Markup:
    """The headline as tiles, with room for more of them; ``scored_on`` heads the subjects."""
    dice, distance = head["dice"], head["hd95_mm"]
    interval = _interval(dice)
    items = [
        ("Mean Dice", number(dice.get("mean")), interval and f"95\N{NO-BREAK SPACE}%: {interval}"),
        ("Median HD95", f"{number(distance.get('median'), 1)} mm", _over(distance, head["states"])),
        (
            scored_on,
            number(dice.get("n_subjects"), 0),
            f"subjects, {plural(head['cases'], 'case')}",
        ),
        (
            "Accuracy",
            percent(head["accuracy"].get("mean")),
            f"marking nothing: {percent(head['accuracy_background'].get('mean'))}",
        ),
    ]
    return block("tiles", [*items, *more])


def sections(
    summary: Mapping[str, Any] | None, rows: Sequence[Row], pictures: Sequence[Picture]
) -> list[Section]:
    """Results by region, outlines, every case, and how it was scored."""
    outlines = block("pictures", pictures, False) if pictures else block("missing", "Pictures")
    return [
        ("Results", _results(summary, rows)),
        ("Outlines", outlines),
        ("Every case", _cases(rows)),
        ("Scoring", _method(summary or {})),
    ]


def _keep(folder: Path, pictures: Sequence[Picture]) -> None:
    writable_folder(folder)
    listed = []
    for place, picture in enumerate(pictures, 1):
        name = f"{place}.png"
        atomic_write_bytes(folder / name, base64.b64decode(picture.src.partition(",")[2]))
        words = {k: getattr(picture, k) for k in ("title", "alt", "legend", "caption")}
        listed.append({"file": name, **words})
    atomic_write_text(folder / "overlays.json", json.dumps(listed, indent=1) + "\n")


def results(folder: RunFolder) -> Results:
    """What the report of a run shows of the outlines of held-out cases."""
    head = headline(folder.summary, folder.cases)
    sentences = verdict(head, "held-out subject")
    if as_number(head["dice"].get("mean")) is None:
        sentences.append("No held-out cases were scored, so nothing can be said of its quality.")
    results = sections(folder.summary, folder.cases, folder.pictures)
    return results, sentences, tiles(head, time_tile(folder), scored_on="Held out")


def time_tile(folder: RunFolder) -> tuple[str, str, str]:
    """How long a run took."""
    used, budget = duration(folder.run.get("seconds")), duration(folder.run.get("budget_seconds"))
    return "Time", used or page.DASH, f"of a budget of {budget}" if budget else ""


def _results(summary: Mapping[str, Any] | None, rows: Sequence[Row]) -> Markup:
    if not rows:
        return block("missing", "Scores of cases")
    lines = []
    for region in dict.fromkeys(str(r.get("region")) for r in rows):
        region_rows = [r for r in rows if r.get("region") == region]
        metrics = {
            m: figures_of(summary, rows, region, m)
            for m in ("dice", "nsd", "hd95_mm", "hd95_mm_penalised", "accuracy",
                      "accuracy_background")
        }  # fmt: skip
        dice, states = metrics["dice"], Counter(str(r.get("state")) for r in region_rows)
        present, absent = _n_present(states), _n_absent(states)
        lines.append(
            {
                "region": region,
                **{m: f.get("mean") for m, f in metrics.items()},
                "subjects": dice.get("n_subjects"),
                "with_it": f"{present} of {len(region_rows)}"
                if present + absent
                else len(region_rows),
                "hd95_mm": metrics["hd95_mm"].get("median"),
                "hd95_n": metrics["hd95_mm"].get("n_subjects"),
                "penalised": metrics["hd95_mm_penalised"].get("mean"),
                "where_present": figures_of(summary, region_rows, region, "dice_where_present").get(
                    "mean"
                ),
                "interval": _interval(dice, f" {page.DASH} "),
                "median": dice.get("median"),
                "missed": f"{states['missed']} of {present}" if present else None,
                "false_alarm": f"{states['false alarm']} of {absent}" if absent else None,
            }
        )
    columns = _used(_REGION_COLUMNS, lines)
    if all(r.get("case") == r.get("subject") for r in rows):
        columns = [c for c in columns if c.key != "subjects"]
    charts = [
        boxplots(rows),
        boxplots(
            [r if _counts(r, "hd95_mm") else {**r, "hd95_mm": None} for r in rows],
            "hd95_mm",
            title="HD95 by region, mm (less is better)",
            unit_range=False,
        ),
    ]
    return join(
        page.table("Results by region", columns, lines, sortable=len(lines) > 12),
        block(
            "text",
            "Means are taken within each subject first, so that a subject with many cases counts "
            "once; the interval is a bootstrap over subjects. Where truth and prediction are both "
            "empty, Dice is 1. Distances are told over the cases in which both have the "
            "structure; the penalised mean is over all cases, with the image's diagonal where one "
            "of the two is empty, and says little of outlines.",
        ),
        block("pictures", [c for c in charts if c], True),
    )


def _method(summary: Mapping[str, Any]) -> Markup:
    """Rules, settings and versions, and what could not be scored."""
    parts = [block("note", str(words), "warning") for words in as_list(summary.get("notes"))]
    failures = [f for f in as_list(summary.get("failures")) if isinstance(f, Mapping)]
    if failures:
        columns = (
            Column("case", "Case"),
            Column("code", "Code"),
            Column("message", "Why not scored"),
        )
        parts.append(page.table("Cases that could not be scored", columns, failures))
    for key in ("rules", "settings", "versions"):
        entries = summary.get(key)
        if isinstance(entries, Mapping) and entries:
            parts.append(block("subheading", key.capitalize()))
            parts.append(page.facts({page.label(k): page.plain(v) for k, v in entries.items()}))
    return join(*parts) if parts else block("missing", "The rules of scoring")


def _cases(rows: Sequence[Row]) -> Markup:
    if not rows:
        return block("missing", "The table of cases")
    worst_first = sorted(
        rows,
        key=lambda r: (
            2.0 if (dice := as_number(r.get("dice"))) is None else dice,
            str(r.get("case")),
            str(r.get("region")),
        ),
    )
    columns = _used(_CASE_COLUMNS, rows)
    if all(r.get("case") == r.get("subject") for r in rows):
        columns = [c for c in columns if c.key != "subject"]
    return join(
        block("text", "Worst first. Press a heading to sort by it."),
        page.table("Every case", columns, worst_first),
    )


def _used(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Columns that hold something in at least one row."""
    return [
        c
        for c in columns
        if any(
            (as_number(r.get(c.key)) if c.numeric else r.get(c.key)) not in (None, "") for r in rows
        )
    ]


def _interval(dice: Mapping[str, Any], between: str = " to ") -> str:
    low, high = dice.get("ci_low"), dice.get("ci_high")
    return "" if as_number(low) is None else f"{number(low)}{between}{number(high)}"


def _summarise(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    chosen = [r for r in rows if _counts(r, metric)]
    key = "dice" if metric == "dice_where_present" else metric
    subjects = [str(r.get("subject") or r.get("case")) for r in chosen]
    return summarise([float(r[key]) for r in chosen], subjects)


def _counts(row: Row, metric: str) -> bool:
    """Whether a row has a say in a metric."""
    state = str(row.get("state") or "ok")
    if metric == "dice_where_present":
        return state in ("ok", "missed") and as_number(row.get("dice")) is not None
    return as_number(row.get(metric)) is not None and (metric not in _DISTANCES or state == "ok")


def _n_present(states: Mapping[str, int]) -> int:
    """Cases that have the structure."""
    return states["ok"] + states["missed"]


def _n_absent(states: Mapping[str, int]) -> int:
    """Cases that do not have it."""
    return states["both empty"] + states["false alarm"]


def _failed(states: Mapping[str, int]) -> str:
    """The structures that were missed, and those found where there are none, in words."""
    words = []
    if present := _n_present(states):
        words.append(f"missed {states['missed']} of {present}")
    if absent := _n_absent(states):
        words.append(f"false alarm in {states['false alarm']} of {absent}")
    return ", ".join(words)


def _over(distance: Mapping[str, Any], states: Mapping[str, int]) -> str:
    """What a distance is over, and what it leaves out."""
    several = plural(distance.get("n_subjects") or 0, "subject")
    return "; ".join(filter(None, (f"{several} where both have it", _failed(states))))
