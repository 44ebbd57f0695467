"""Charts that set arms beside each other: bars with intervals, Pareto front, forest, pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from delineate.reports.figures import INK, LINE, SERIES, WIDTH, Picture
from delineate.reports.figures import as_picture as _picture
from delineate.reports.figures import chart_style as _style
from delineate.reports.figures import short as _short
from delineate.reports.page import number

_BLUE, _RED, _GREY = SERIES[0], SERIES[1], SERIES[6]
_LABEL_POINTS = 9.0
_FOREST_ROWS = 30


@dataclass(frozen=True)
class Estimate:
    """One number with its interval, drawn as a bar or as a mark of a forest plot.

    Args:
        name: What it is of.
        value: The number.
        low: Lower end of its interval, None where there is none.
        high: Upper end.
        apart: Drawn in grey (a baseline), or hollow (no evidence) in a forest.
        words: Written at the end of its row; the number itself if empty.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    apart: bool = False
    words: str = ""


def interval_bars(
    bars: Sequence[Estimate], title: str, digits: int = 3, *, caption: str = ""
) -> Picture:
    """Horizontal bars with whiskers for the intervals; bars set apart are grey.

    Args:
        bars: In the order drawn, from the top.
        title: Title of the chart.
        digits: Decimals of the numbers.
        caption: Shown below.
    """
    with _style():
        figure = Figure(figsize=(WIDTH, 0.35 + 0.34 * max(1, len(bars))), layout="constrained")
        axes = figure.add_subplot()
        ends = [max(b.value, b.value if b.high is None else b.high, 0.0) for b in bars]
        reach = max([*ends, 0.0]) or 1.0
        for place, bar in enumerate(bars):
            colour = _GREY if bar.apart else _BLUE
            axes.barh(place, bar.value, color=colour, height=0.62, alpha=0.75)
            _whisker(axes, bar, place, cap=0.14)
            text = bar.words or number(bar.value, digits)
            axes.text(ends[place] + 0.02 * reach, place, text, va="center", fontsize=10)
        axes.set_yticks(range(len(bars)), [_short(b.name) for b in bars])
        axes.set_ylim(len(bars) - 0.45, -0.55)
        axes.set_xlim(min([*(b.low or 0.0 for b in bars), 0.0]) * 1.1, 1.2 * reach)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return _picture(figure, title, f"Bar chart. {_in_words(bars, digits)}.", caption)


def pareto(
    points: Mapping[str, tuple[float, float]],
    title: str,
    across: str,
    up: str,
    *,
    higher_is_better: bool = True,
) -> Picture:
    """Quality against cost on a logarithmic axis, with the arms that no other one beats joined.

    Args:
        points: Arm -> (cost above zero, quality).
        title: Title of the chart.
        across: Name of the cost.
        up: Name of the quality.
        higher_is_better: Whether more quality is better.
    """
    best = front(points, higher_is_better=higher_is_better)
    with _style():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        steps = np.array([points[name] for name in best])
        axes.step(steps[:, 0], steps[:, 1], where="post", color=_RED, linewidth=1.3, alpha=0.8)
        for name, (cost, quality) in points.items():
            colour, above = (_RED, 4) if name in best else (_BLUE, 3)
            axes.plot(cost, quality, "o", color=colour, markersize=6.5, markeredgewidth=0,
                      zorder=above)  # fmt: skip
        costs = [cost for cost, _ in points.values()]
        room = max((max(costs) / min(costs)) ** 0.16, 1.25)
        axes.set_xlim(min(costs) / room, max(costs) * room)
        axes.margins(y=0.2)
        if max(costs) / min(costs) < 30:  # too few powers of ten to read a place from
            axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"{across} (logarithmic)")
        axes.set_ylabel(_short(up, 40))
        _label_points(figure, axes, points, steps)
        words = "; ".join(f"{n}: {x:.3g} {across}, {up} {y:.3f}" for n, (x, y) in points.items())
        text = f"Scatter plot. {words}. Not beaten at their cost: {', '.join(best)}."
        caption = "Red: no arm is both cheaper and better."
        return _picture(figure, title, text, caption)


def front(points: Mapping[str, tuple[float, float]], *, higher_is_better: bool = True) -> list[str]:
    """Arms that no other arm equals or beats in both cost and quality, the cheapest first."""
    sign = 1 if higher_is_better else -1
    dominant: list[str] = []
    reached = -np.inf
    for name in sorted(points, key=lambda n: (points[n][0], -sign * points[n][1])):
        if sign * points[name][1] > reached:
            dominant.append(name)
            reached = sign * points[name][1]
    return dominant


def forest(rows: Sequence[Estimate], title: str, across: str, *, caption: str = "") -> Picture:
    """Differences with their intervals about a line at zero.

    Args:
        rows: From the top; those ``apart`` are drawn hollow. At most 30 are drawn.
        title: Title of the chart.
        across: What the axis shows.
        caption: Shown below.
    """
    rows_shown = rows[:_FOREST_ROWS]
    if len(rows_shown) < len(rows):
        title += f" (first {len(rows_shown)} of {len(rows)})"
    with _style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.52 * len(rows_shown)), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=False)
        for place, row in enumerate(rows_shown):
            axes.vlines(0, place - 0.16, place + 0.16, color=INK, linewidth=0.9)
            _whisker(axes, row, place, colour=_GREY if row.apart else _BLUE, width=2.0)
            face = "none" if row.apart else _BLUE
            edge = INK if row.apart else _BLUE
            axes.plot(row.value, place, "s", markersize=7, color=face, markeredgecolor=edge)
            head = f"{_short(row.name, 54)}  {row.words}".rstrip()
            axes.annotate(
                head, (0, place), (0, 11), xycoords=("axes fraction", "data"),
                textcoords="offset points", fontsize=_LABEL_POINTS, va="center",
            )  # fmt: skip
        axes.set_ylim(len(rows_shown) - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low)))
        axes.set_xlabel(_short(across, 60))
        return _picture(
            figure, title, f"Forest plot. {_in_words(rows_shown, 3, with_words=True)}.", caption
        )


def pairs(
    first: Mapping[str, float], second: Mapping[str, float], names: tuple[str, str], title: str,
    up: str, *, higher_is_better: bool = True,
) -> Picture | None:  # fmt: skip
    """One line a subject from its value under one arm to its value under the other.

    Args:
        first: Subject -> value under the first arm.
        second: The same under the second; subjects in only one are left out.
        names: Names of the two arms.
        title: Title of the chart.
        up: What the axis shows.
        higher_is_better: Whether a rise is a gain.

    Returns:
        The picture; None where no subject is in both.
    """
    paired = [(first[s], second[s]) for s in first if s in second]
    if not paired:
        return None
    counts = [sum(a > b for a, b in paired), sum(a < b for a, b in paired)]
    ahead = counts if higher_is_better else counts[::-1]
    with _style():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for a, b in paired:
            gain = (a > b) == higher_is_better
            colour = _GREY if a == b else _BLUE if gain else _RED
            axes.plot((0, 1), (a, b), "-o", color=colour, alpha=0.7, linewidth=1.1, markersize=4,
                      markeredgewidth=0)  # fmt: skip
        for place, values in enumerate(zip(*paired, strict=True)):
            axes.hlines(float(np.mean(values)), place - 0.09, place + 0.09, color=INK, linewidth=3)
        axes.set_xticks((0, 1), [_short(n) for n in names])
        axes.set_xlim(-0.35, 1.35)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(_short(up, 40))
        ties = len(paired) - sum(ahead)
        equal = f", equal in {ties}" if ties else ""
        caption = (
            f"One line a subject. {names[0]} ahead in {ahead[0]} (blue), {names[1]} in {ahead[1]} "
            f"(red){equal}; black: means."
        )
        means = [float(np.mean(values)) for values in zip(*paired, strict=True)]
        alt = (
            f"Paired lines of {len(paired)} subjects, {up}: mean {means[0]:.3f} and {means[1]:.3f}."
        )
        return _picture(figure, title, f"{alt} {caption}", caption)


def _whisker(
    axes: Axes, row: Estimate, place: int, *, colour: str = INK, width: float = 1.3,
    cap: float = 0.0,
) -> None:  # fmt: skip
    if row.low is None or row.high is None:
        return
    axes.hlines(place, row.low, row.high, color=colour, linewidth=width)
    if cap:
        axes.vlines((row.low, row.high), place - cap, place + cap, color=colour, linewidth=width)


def _in_words(rows: Sequence[Estimate], digits: int, *, with_words: bool = False) -> str:
    parts = []
    for row in rows:
        text = f"{row.name} {number(row.value, digits)}"
        if row.low is not None and row.high is not None:
            text += f" ({number(row.low, digits)} to {number(row.high, digits)})"
        parts.append(f"{text} {row.words}".rstrip() if with_words else text)
    return "; ".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, about evenly spread on a logarithmic axis."""
    positions = np.geomspace(low, high, 6)[:-1] * (high / low) ** 0.1
    steps = 10.0 ** np.floor(np.log10(positions))
    rounded = np.round(positions / steps, 0 if high / low > 3 else 1) * steps
    return sorted({float(f"{value:g}") for value in rounded if low <= value <= high})


# --- labels that keep out of each other's way -----------------------------------------------------


def _label_points(
    figure: Figure,
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    steps: NDArray[np.float64],
) -> None:
    """Write each name by its point: the nearest place that covers nothing, with a line if far.

    Args:
        figure: Of ``axes``.
        axes: Where the points are drawn.
        points: Name -> (cost, quality).
        steps: ``(n, 2)`` corners of the front, which labels keep off as well.
    """
    figure.draw_without_rendering()  # the layout is settled, so places are in pixels
    scale = figure.dpi / 72
    occupied = []
    for cost, quality in points.values():
        x, y = axes.transData.transform((cost, quality))
        occupied.append(Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale))
    corners = axes.transData.transform(steps)
    for (x0, y0), (x1, y1) in pairwise(corners):
        occupied += [Bbox([[x0, y0 - 1], [x1, y0 + 1]]), Bbox([[x1 - 1, y0], [x1 + 1, y1]])]
    inside = axes.get_window_extent()
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        note = axes.annotate(
            _short(name), point, (0, 0), textcoords="offset points", fontsize=_LABEL_POINTS,
            va="center", ha="center",
        )  # fmt: skip
        note.set_in_layout(False)
        size = note.get_window_extent()
        half = size.width / 2 / scale, size.height / 2 / scale
        fewest: tuple[int, float, float, Bbox] | None = None
        for dx, dy in _places(*half):
            box = size.translated(dx * scale, dy * scale)
            overlaps = sum(bool(box.overlaps(other)) for other in occupied)
            overlaps += 3 * (not (inside.x0 <= box.x0 and box.x1 <= inside.x1))
            overlaps += 3 * (not (inside.y0 <= box.y0 and box.y1 <= inside.y1))
            if fewest is None or overlaps < fewest[0]:
                fewest = overlaps, dx, dy, box
            if overlaps == 0:
                break
        if fewest is not None:
            _place_label(axes, note, point, fewest[1], fewest[2], half)
            occupied.append(fewest[3])


def _places(half_width: float, half_height: float) -> Iterator[tuple[float, float]]:
    """Offsets of a label's centre from its point, in points, from near to far."""
    for gap in (6.0, 13.0, 22.0, 33.0, 46.0, 60.0):
        for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            yield across * (half_width + gap), up * (half_height + gap - 2)


def _place_label(
    axes: Axes, note: Annotation, point: tuple[float, float], dx: float, dy: float,
    half: tuple[float, float],
) -> None:  # fmt: skip
    """Move a label to its place; join it to its point where it stands off."""
    note.set_position((dx, dy))
    distance = max(abs(dx) - half[0], abs(dy) - half[1])
    if distance > 10:
        foot = (dx - np.sign(dx) * half[0], dy - np.sign(dy) * half[1])
        line = axes.annotate(
            "", point, foot, textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.8, "shrinkB": 3},
        )  # fmt: skip
        line.set_in_layout(False)
