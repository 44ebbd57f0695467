"""From rows of cases to figures: per structure, over structures, per subject, and in a sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Distances: undefined where a mask is empty. ``NAME_penalised`` sets in the image's diagonal.
DISTANCES = ("hd95_mm", "hd_mm", "assd_mm")
#: Metrics of a row, in the order in which they are written.
METRICS = (
    "dice", "iou", "precision", "recall", "specificity", "accuracy", "accuracy_background",
    *DISTANCES, "nsd", "nsd_voxels", *(f"{name}_penalised" for name in DISTANCES),
    "volume_ml_truth", "volume_ml_prediction", "volume_ml_difference",
)  # fmt: skip
#: Metrics that are averaged over the headline's structures.
HEADLINE = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "hd95_mm_penalised", "assd_mm_penalised")
RULES = {
    "ignored": "voxels that the reference does not annotate are taken out of both masks",
    "both empty": "Dice, IoU, precision, recall and NSD are 1, penalised distances 0 mm",
    "one empty": "Dice, IoU, precision, recall and NSD are 0, penalised distances are the image's "
    "diagonal",
    "distances": "over the cases in which truth and prediction both have the structure; between "
    "the centres of surface voxels (those that one step of erosion removes), in mm, through the "
    "affine; an axis of length 1 is left out",
    "hd95_mm": "the larger of the two directed 95th percentiles over surface voxels",
    "assd_mm": "mean over the surface voxels of both",
    "nsd": "share of both surfaces' area within the tolerance (surfels of marching cubes, as in "
    "DeepMind's surface-distance)",
    "nsd_voxels": "share of both surfaces' voxels within the tolerance",
    "interval": "percentile bootstrap over subjects; cases of one subject are averaged first",
}

Row = Mapping[str, Any]


def statistics(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Summary of every structure, and means over the headline's: regions, or else labels."""
    from delineate.metrics.case import STATES
    from delineate.metrics.statistics import by_subject, summarise

    def describe(values: Sequence[float], subjects: Sequence[str]) -> dict[str, Any]:
        return summarise(values, subjects, seed=seed, resamples=resamples)

    regions: dict[str, Any] = {}
    for name in dict.fromkeys(row["region"] for row in rows):
        region_rows = [row for row in rows if row["region"] == name]
        subjects = [row["subject"] for row in region_rows]
        present = [row for row in region_rows if row["state"] in ("ok", "missed")]
        empty = [float(row["state"] in ("both empty", "false alarm")) for row in region_rows]
        regions[name] = {
            "kind": region_rows[0]["kind"],
            "cases": len(region_rows),
            "cases_with_it": len(present),
            "states": _census(region_rows, STATES),
            **{m: describe([row[m] for row in region_rows], subjects) for m in METRICS},
            "dice_where_present": describe(
                [row["dice"] for row in present], [row["subject"] for row in present]
            ),
            "all_background": {
                "dice": float(by_subject(empty, subjects)[1].mean()),
                "accuracy": float(
                    by_subject([r["accuracy_background"] for r in region_rows], subjects)[1].mean()
                ),
            },
        }
    kinds = {entry["kind"] for entry in regions.values()}
    headline = "region" if "region" in kinds else "label"
    top = [row for row in rows if row["kind"] == headline]
    by_case: dict[str, list[Row]] = {}
    for row in top:
        by_case.setdefault(row["case"], []).append(row)
    subjects = [cells[0]["subject"] for cells in by_case.values()]
    means = {
        f"mean_{m}": describe(
            [_mean([c[m] for c in cells]) for cells in by_case.values()], subjects
        )
        for m in HEADLINE
    }
    names = [name for name, entry in regions.items() if entry["kind"] == headline]
    return {"structures": names, "states": _census(top, STATES), **means, "regions": regions}


def by_subjects(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of ``subjects.csv``: every structure of every subject, its cases averaged."""
    from delineate.metrics.statistics import by_subject

    averaged = []
    for name in dict.fromkeys(row["region"] for row in rows):
        region_rows = [row for row in rows if row["region"] == name]
        subjects = [row["subject"] for row in region_rows]
        counts = Counter(subjects)
        means = {
            m: dict(zip(*by_subject([r[m] for r in region_rows], subjects), strict=True))
            for m in METRICS
        }
        averaged += [
            {"subject": s, "region": name, "kind": region_rows[0]["kind"], "cases": counts[s]}
            | {m: means[m].get(s, math.nan) for m in METRICS}
            for s in sorted(counts)
        ]
    return averaged


def headline(summary: Mapping[str, Any]) -> str:
    """The figures of a summary in one line."""
    dice, hd95, states = summary["mean_dice"], summary["mean_hd95_mm"], summary["states"]
    words = [f"mean Dice {dice['mean']:.3f}"]
    if dice["ci_low"] is not None:
        words[0] += f" (95 % CI {dice['ci_low']:.3f} to {dice['ci_high']:.3f})"
    if hd95["median"] is not None:
        words.append(f"median HD95 {hd95['median']:.1f} mm where both have the structure")
    present, absent = states["ok"] + states["missed"], states["both empty"] + states["false alarm"]
    if present:
        words.append(f"missed {states['missed']} of {present}")
    if absent:
        words.append(f"false alarm in {states['false alarm']} of {absent}")
    counts = (
        f"{n} {noun}{'s' * (n != 1)}"
        for n, noun in ((summary["n_subjects"], "subject"), (summary["n_cases"], "case"))
    )
    return f"{', '.join(words)}; {', '.join(counts)}"


def lines(summary: Mapping[str, Any]) -> list[str]:
    """A line a structure, none where there is one alone: the headline is its line."""
    regions = summary["regions"]
    if len(regions) < 2:
        return []
    width = max(map(len, regions))
    return [f"  {name:<{width}}  " + ", ".join(_figures(entry)) for name, entry in regions.items()]


def _figures(entry: Mapping[str, Any]) -> list[str]:
    states, present, hd95 = entry["states"], entry["cases_with_it"], entry["hd95_mm"]["median"]
    elsewhere = entry["cases"] - present
    words = [f"mean Dice {entry['dice']['mean']:.3f}", f"in {present} of {entry['cases']} cases"]
    if hd95 is not None:
        words.append(f"median HD95 {hd95:.1f} mm")
    if states["missed"]:
        words.append(f"missed {states['missed']} of {present}")
    if states["false alarm"]:
        words.append(f"false alarm in {states['false alarm']} of {elsewhere}")
    return words


def _census(rows: Sequence[Row], states: Sequence[str]) -> dict[str, int]:
    counts = Counter(row["state"] for row in rows)
    return {state: counts[state] for state in states}


def _mean(values: Sequence[float]) -> float:
    """Mean of what is defined, NaN where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
