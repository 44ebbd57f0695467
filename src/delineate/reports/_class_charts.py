"""Charts of a classifier: confusion, ROC and precision–recall, reliability, risk–coverage."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image as Raster

from delineate.core.errors import GeometryError
from delineate.reports.figures import INK, SERIES, WIDTH, Picture, as_picture, chart_style, short
from delineate.reports.page import as_list, as_number, number

_BLUE, _RED = SERIES[0], SERIES[1]
_LINES = len(SERIES)
_MOST_CLASSES = 12
_THUMBNAIL = 260
#: Class, points, figures of the class.
_Curve = tuple[str, Sequence[Sequence[float]], Mapping[str, Any]]
_DASHES = (0, (4, 3))


def confusion(
    counts: Sequence[Sequence[int]], classes: Sequence[str], title: str = "Answers by truth"
) -> Picture | None:
    """Counts and row shares; blue where right, red where wrong. None beyond 12 classes.

    Args:
        counts: ``[truth][answer]``.
        classes: Names in index order.
        title: Title of the chart.
    """
    table = np.asarray(counts, dtype=np.float64)
    size = len(classes)
    if size > _MOST_CLASSES or table.shape != (size, size):
        return None
    with np.errstate(invalid="ignore"):
        shares = table / table.sum(axis=1, keepdims=True)
    cell = max(0.42, min(0.95, 3.4 / size))
    with chart_style():
        figure = Figure(figsize=(WIDTH, 1.1 + cell * size), layout="constrained")
        axes = figure.add_subplot()
        for t, a in np.ndindex(size, size):
            share = float(np.nan_to_num(shares[t, a]))
            colour = _BLUE if t == a else _RED
            axes.add_patch(
                Rectangle((a - 0.48, t - 0.47), 0.96, 0.94, facecolor=colour, linewidth=0,
                          alpha=0.06 + 0.6 * share)
            )  # fmt: skip
            large, weight = size <= 6, "bold" if t == a else "normal"
            axes.text(a, t - 0.12 * large, f"{table[t, a]:.0f}", ha="center", va="center",
                      fontsize=12 if large else 8.5, fontweight=weight)  # fmt: skip
            if large and table[t].sum():
                axes.text(a, t + 0.2, f"{100 * share:.1f} %", ha="center", va="center",
                          fontsize=9.5)  # fmt: skip
        names = [short(name, 40 // size + 4 if size > 2 else 22) for name in classes]
        rotated = max(map(len, names)) > 30 // size
        axes.set_xticks(range(size), names, rotation=30 if rotated else 0,
                        ha="right" if rotated else "center", rotation_mode="anchor")  # fmt: skip
        axes.set_yticks(range(size), names)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")
        counts_in_words = "; ".join(
            f"truth {classes[t]}: "
            + ", ".join(f"{table[t, a]:.0f} answered {classes[a]}" for a in range(size))
            for t in range(size)
        )
        caption = "Shares are of each row, the samples of one true class." if size <= 6 else ""
        return as_picture(figure, title, f"Confusion matrix. {counts_in_words}.", caption)


def roc(figures: Mapping[str, Any]) -> Picture | None:
    """ROC curves with their areas; a dot is the answer by the largest probability."""
    curves = _chosen(figures, "roc")
    if not curves:
        return None
    with chart_style():
        figure, axes = _square()
        axes.plot((0, 1), (0, 1), color=INK, linewidth=0.9, linestyle=_DASHES)
        for place, (_, points, row) in enumerate(curves):
            x, y = np.array(points).T
            axes.plot(x, y, color=SERIES[place])
            recall, specificity = (_value(row, key) for key in ("recall", "specificity"))
            if recall is not None and specificity is not None:
                axes.plot(1 - specificity, recall, "o", color=SERIES[place], markersize=7)
        axes.set_xlabel("1 \N{MINUS SIGN} specificity")
        axes.set_ylabel("sensitivity")
        caption = "Dashed: chance. Dot: where the largest probability is the answer."
        return _with_legend(figure, "ROC", curves, "roc_auc", "area", caption)


def precision_recall(figures: Mapping[str, Any]) -> Picture | None:
    """Precision–recall curves with average precision; dashed is the share of the class."""
    curves = _chosen(figures, "precision_recall")
    if not curves:
        return None
    with chart_style():
        figure, axes = _square()
        for place, (_, points, row) in enumerate(curves):
            x, y = np.array(points).T
            axes.step(np.append(0, x), np.append(y[:1], y), color=SERIES[place])
            share = row.get("n", 0) / max(1, figures.get("n_samples") or 1)
            if len(curves) == 1:
                axes.axhline(share, color=INK, linewidth=0.9, linestyle=_DASHES)
        axes.set_xlabel("recall (sensitivity)")
        axes.set_ylabel("precision")
        caption = "Dashed: chance, the share of the class." if len(curves) == 1 else ""
        return _with_legend(
            figure, "Precision and recall", curves, "average_precision", "average precision",
            caption,
        )  # fmt: skip


def reliability(figures: Mapping[str, Any]) -> Picture | None:
    """Accuracy against confidence with intervals, and below how many samples are so sure."""
    bins = [row for row in as_list(figures.get("reliability")) if isinstance(row, Mapping)]
    if not bins:
        return None
    with chart_style():
        figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, 1))
        top.plot((0, 1), (0, 1), color=INK, linewidth=0.9, linestyle=_DASHES)
        for row in bins:
            if (low := as_number(row.get("ci_low"))) is not None:
                top.vlines(row["confidence"], low, row["ci_high"], color=_BLUE, linewidth=1.6,
                           alpha=0.55)  # fmt: skip
        confidences = [row["confidence"] for row in bins]
        top.plot(confidences, [row["accuracy"] for row in bins], color=_BLUE, linewidth=1.1)
        largest = max(row["n"] for row in bins)
        sizes = [16 + 90 * row["n"] / largest for row in bins]
        top.scatter(confidences, [row["accuracy"] for row in bins], sizes, color=_BLUE)
        top.set_ylim(-0.02, 1.02)
        top.set_ylabel("accuracy")
        widths = [0.92 * (row["high"] - row["low"]) for row in bins]
        below.bar([(row["low"] + row["high"]) / 2 for row in bins], [row["n"] for row in bins],
                  width=widths, color=_BLUE, alpha=0.75)  # fmt: skip
        below.set_ylabel("samples")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        below.set_xlabel("confidence")
        low = min(row["low"] for row in bins)
        below.set_xlim(low - 0.02, 1.02)
        bins_in_words = "; ".join(
            f"confidence {row['confidence']:.2f}: accuracy {row['accuracy']:.2f} of {row['n']}"
            for row in bins
        )
        caption = "On the dashed line confidence is what it says; below it, answers are too sure."
        return as_picture(figure, "Reliability", f"Reliability diagram. {bins_in_words}.", caption)


def risk_coverage(figures: Mapping[str, Any]) -> Picture | None:
    """Share of wrong answers where only the surest are given."""
    points = as_list(_mapping(figures, "curves").get("risk_coverage"))
    if not points:
        return None
    x, y = 100 * np.array(points, dtype=np.float64).T
    with chart_style():
        figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(x, y, color=_BLUE)
        axes.axhline(y[-1], color=INK, linewidth=0.9, linestyle=_DASHES)
        axes.set_xlim(0, 101)
        axes.set_ylim(0, max(1.15 * float(y.max()), 1))
        axes.set_xlabel("answers given, the surest first (%)")
        axes.set_ylabel("of these wrong (%)")
        half = int(np.argmin(np.abs(x - 50)))
        text = (
            f"Risk–coverage curve. All answers: {y[-1]:.1f} % wrong; the surest half: "
            f"{y[half]:.1f} %."
        )
        caption = "Dashed: all answers. A useful confidence falls well below it to the left."
        return as_picture(figure, "Errors among the surest", text, caption)


def thumbnail(image: NDArray[Any], title: str, caption: str) -> Picture:
    """An image as it is laid out, its grey values between the 1st and 99.5th percentile.

    Args:
        image: ``(I, J)`` or ``(C, I, J)``, rows downwards; three channels of bytes are shown in
            colour, otherwise the first channel is.
        title: Shown above.
        caption: Shown below.

    Raises:
        GeometryError: It is not a flat image.
    """
    array = np.asarray(image)
    colour = array.ndim == 3 and array.shape[0] == 3 and array.dtype == np.uint8
    flat = np.moveaxis(array, 0, -1) if colour else array[0] if array.ndim == 3 else array
    if flat.ndim != (3 if colour else 2) or not flat.size:
        raise GeometryError(f"expected a picture (I, J) or (C, I, J), got {array.shape}")
    if not colour:
        values = np.nan_to_num(flat.astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = np.percentile(values, [1, 99.5])
        flat = np.rint(255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(
            np.uint8
        )
    raster = Raster.fromarray(np.ascontiguousarray(flat))
    scale = _THUMBNAIL / max(raster.size)
    size = (max(1, round(raster.width * scale)), max(1, round(raster.height * scale)))
    stream = io.BytesIO()
    raster.resize(size, Raster.Resampling.BICUBIC).save(stream, format="PNG")
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(title=title, alt=f"{title}. {caption}", src=source, width=size[0],
                   height=size[1], caption=caption)  # fmt: skip


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return figure, axes


def _chosen(figures: Mapping[str, Any], kind: str) -> list[_Curve]:
    """Curves with the figures of their class; of many classes those ranked worst."""
    curves = _mapping(_mapping(figures, "curves"), kind)
    rows = {str(row.get("class")): row for row in as_list(figures.get("per_class"))}
    class_curves = [(name, points, rows.get(name, {})) for name, points in curves.items() if points]
    if len(class_curves) > _LINES:
        class_curves.sort(key=lambda curve: _value(curve[2], "roc_auc") or 0.0)
    return class_curves[:_LINES]


def _with_legend(
    figure: Figure, title: str, curves: Sequence[_Curve], key: str, words: str, caption: str
) -> Picture:
    """Names and figures of the curves stand below the chart, as text."""
    lines = [f"{name}: {words} {_interval(row.get(key))}" for name, _, row in curves]
    picture = as_picture(figure, title, f"{title}. {'; '.join(lines)}.", caption)
    legend = tuple((line, SERIES[place], "line") for place, line in enumerate(lines))
    return dataclasses.replace(picture, legend=legend)


def _interval(figure: Any) -> str:
    estimate = figure if isinstance(figure, Mapping) else {}
    words = number(estimate.get("value"))
    if as_number(estimate.get("ci_low")) is None:
        return words
    return f"{words} ({number(estimate['ci_low'])} to {number(estimate['ci_high'])})"


def _value(row: Mapping[str, Any], key: str) -> float | None:
    return as_number(_mapping(row, key).get("value"))


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}
