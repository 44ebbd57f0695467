"""The part of a benchmark's page that shows how every arm learned, and whether it still gained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from delineate.reports import page
from delineate.reports._benchmark_parts import Benchmark, metric
from delineate.reports.figures import SERIES, WIDTH, Picture, as_picture, chart_style, short
from delineate.reports.page import Column, as_list, as_number, block, join, number

#: GMAC spent and figure, at every look of a run.
Curve = NDArray[np.float64]


def learning_curves(benchmark: Benchmark) -> Markup:
    """Validation figures against compute, and which arms had converged; nothing without any."""
    curves = _by_metric(benchmark.curves)
    if not curves:
        return Markup()
    charts = [_chart(key, by_arm, benchmark.names) for key, by_arm in curves.items()]
    parts = [block("pictures", charts, True), _table(benchmark)]
    if criterion := benchmark.result.get("criterion"):
        parts.append(block("text", f"{criterion}."))
    return join(*parts)


def _by_metric(points: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Curve]]]:
    """Metric -> arm -> a curve ``(2, looks)`` of every run."""
    runs: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for point in points:
        spent, value = as_number(point.get("gmac")), as_number(point.get("value"))
        if spent is not None and value is not None:
            by_arm = runs.setdefault(str(point.get("metric")), {})
            by_run = by_arm.setdefault(str(point.get("arm")), {})
            by_run.setdefault(str(point.get("run")), []).append((spent, value))
    return {
        key: {arm: [np.array(curve).T for curve in by_run.values()] for arm, by_run in arms.items()}
        for key, arms in runs.items()
    }


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of the runs of an arm at each look that all of them had."""
    common = min(curve.shape[1] for curve in curves)
    return np.asarray(np.mean([curve[:, :common] for curve in curves], axis=0))


def _chart(key: str, by_arm: Mapping[str, Sequence[Curve]], names: Sequence[str]) -> Picture:
    """A line an arm, and a faint one for each of its runs."""
    name = metric(key).axis
    words, legend = [], []
    with chart_style():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for place, arm in enumerate(arm for arm in names if arm in by_arm):
            colour = SERIES[place % len(SERIES)]
            for curve in by_arm[arm]:
                axes.plot(*curve, color=colour, linewidth=0.8, alpha=0.3)
            spent, values = mean_curve(by_arm[arm])
            style = ("-", "--", ":")[place // len(SERIES) % 3]
            axes.plot(spent, values, style, color=colour, marker="o", markersize=2.5)
            legend.append((short(arm), colour, "line"))
            words.append(
                f"{arm}: {number(values[0], 3)} after {spent[0]:.3g} GMAC, {number(values[-1], 3)} "
                f"after {spent[-1]:.3g}"
            )
        axes.set_xlabel("GMAC of training")
        axes.set_ylabel(name)
        axes.margins(x=0.02)
        axes.locator_params(axis="x", nbins=6)
        picture = as_picture(
            figure,
            f"{name} of validation subjects, while learning",
            f"Line chart. {'; '.join(words)}.",
            "Bold: mean of the runs; faint: each of them.",
        )
    return dataclasses.replace(picture, legend=tuple(legend))


def _table(benchmark: Benchmark) -> Markup:
    """What every arm gained over the last fifth of its training."""
    rows = []
    for arm in benchmark.arms:
        rises = [r for r in map(as_number, as_list(arm.get("rises"))) if r is not None]
        if rises:
            rows.append({
                "arm": arm["arm"], "steps": arm.get("steps"), "gmac": arm.get("gmac_total"),
                "rise": math.fsum(rises) / len(rises),
                "runs": " to ".join(number(r, 3) for r in (min(rises), max(rises))),
                "converged": "yes" if arm.get("converged") else "no, still gaining",
            })  # fmt: skip
    if not rows:
        return block("text", "Too few steps, or looks, to tell who had converged.")
    columns = (
        Column("arm", "Arm"), Column("steps", "Steps", 0), Column("gmac", "GMAC in all", 0),
        Column("rise", "Gained in the last fifth", 3), Column("runs", "Its runs"),
        Column("converged", "Converged"),
    )  # fmt: skip
    return page.table("Who had converged", columns, rows, sortable=False)


def in_words(benchmark: Benchmark) -> str:
    """A sentence on who had converged; empty where that is not known of any arm."""
    known = [arm for arm in benchmark.arms if arm.get("converged") is not None]
    rising = [str(arm["arm"]) for arm in known if not arm["converged"]]
    if rising:
        return (
            f"Still gaining when the compute was spent: {', '.join(rising)}; more compute may "
            "change the order."
        )
    if known and len(known) == len(benchmark.arms):
        return f"By the end of training {'all' if len(known) > 1 else 'it'} had converged."
    return ""
