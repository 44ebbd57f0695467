"""Charts as inline SVG. Overlays of outlines on slices are in ``overlays``.

Charts are drawn with Matplotlib's object interface. Ink and grid become CSS colours, so that a
chart follows the reader's light or dark scheme, and words stay words: they can be read aloud,
searched and copied.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from delineate.core.schema import COLOURS
from delineate.reports.page import as_number, clean, number

#: Colours by their place in the palette: blue, vermilion, green, orange, pink, sky, grey.
SERIES = tuple(COLOURS[i] for i in (4, 5, 2, 0, 6, 1, 7))
INK, LINE = "#0a0b0c", "#1a1b1c"  # stand-ins, replaced by CSS colours in the SVG
_BLUE = COLOURS[4].lower()  # too dark for a dark page, which has its own
WIDTH, _HEIGHT = 4.7, 2.9  # inches; small, so that words stay readable on a phone
_POINTS = 320
_BOXES = 24
_ADVERSARIAL = ("d_", "critic", "grad_ratio", "adv", "real", "fake", "gan")
_STYLE: dict[str, Any] = {
    "font.size": 10.5,
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Picture:
    """A picture for a page: either ``svg``, or ``src`` (a data URI) with its size in pixels.

    Args:
        title: Shown above.
        alt: What the picture shows, in words.
        legend: ``(name, colour, "fill" or "line")`` for each mark, shown as text below.
        caption: Shown below.
    """

    title: str
    alt: str
    svg: Markup | None = None
    src: str = ""
    width: int = 0
    height: int = 0
    legend: tuple[tuple[str, str, str], ...] = ()
    caption: str = ""


def curves(log: Sequence[Mapping[str, Any]]) -> tuple[list[Picture], list[Picture], list[Picture]]:
    """Training curves from the lines of ``log.jsonl``.

    Args:
        log: Dictionaries with ``step`` and any scalars; ``val_dice`` on some lines.

    Returns:
        Three lists: loss, validation Dice and learning rate; the quantities of an adversarial
        method (empty where there are none); every other scalar.
    """
    series = _series(log)
    first: list[Picture] = []
    if "loss" in series:
        first.append(_line_chart("Loss", {"loss": series.pop("loss")}, smooth=True))
    validation = {k: series.pop(k) for k in list(series) if k.startswith(("val_dice", "val/dice"))}
    if validation:
        first.append(_line_chart("Validation Dice", validation, unit_range=True, markers=True))
    if "lr" in series:
        first.append(_line_chart("Learning rate", {"lr": series.pop("lr")}))
    adversarial: list[Picture] = []
    scored = {"d_real": "of truth (d_real)", "d_fake": "of prediction (d_fake)"}
    critic = {words: series.pop(key) for key, words in scored.items() if key in series}
    if critic:
        adversarial.append(_line_chart("Critic's score", critic, smooth=True))
    if "d_accuracy" in series:
        accuracy = {"d_accuracy": series.pop("d_accuracy")}
        title = "Critic's accuracy (0.5 is chance)"
        adversarial.append(_line_chart(title, accuracy, smooth=True, unit_range=True, mark=0.5))
    for key in [k for k in series if k.startswith(_ADVERSARIAL)]:
        title = "Adversarial to supervised gradient" if key == "grad_ratio" else key
        adversarial.append(_line_chart(title, {key: series.pop(key)}, smooth=True))
    others = [_line_chart(key, {key: series[key]}, smooth=True) for key in series]
    return first, adversarial, others


def boxplots(
    rows: Sequence[Mapping[str, Any]],
    metric: str = "dice",
    *,
    title: str = "Dice by region",
    unit_range: bool = True,
) -> Picture | None:
    """Box plots with every case as a dot, one box a region; None where there is nothing to draw.

    Args:
        rows: Dictionaries with ``region`` and ``metric``.
        metric: Key of the number drawn.
        title: Title of the chart.
        unit_range: Draw the axis from 0 to 1.
    """
    groups: dict[str, list[float]] = {}
    places = {name: i for i, name in enumerate(dict.fromkeys(str(r.get("region")) for r in rows))}
    for row in rows:
        value = as_number(row.get(metric))
        if value is not None:
            groups.setdefault(str(row.get("region", "all")), []).append(value)
    if not groups:
        return None
    names = sorted(groups, key=lambda name: places.get(name, 0))
    if len(names) > _BOXES:
        names = sorted(names, key=lambda n: float(np.median(groups[n])), reverse=not unit_range)
        title, names = f"{title} (the {_BOXES} worst of {len(names)})", names[:_BOXES]
    with chart_style():
        figure = Figure(figsize=(WIDTH, 0.95 + 0.52 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(names):
            colour = SERIES[places.get(name, 0) % len(SERIES)]  # the same in every chart
            _box(axes, place, np.array(groups[name]), colour)
        marks = [
            f"{short(n)} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{len(groups[n])})" for n in names
        ]
        axes.set_yticks(range(len(names)), marks)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        if unit_range:
            axes.set_xlim(-0.02, 1.02)
        words = "; ".join(
            f"{n}: median {np.median(v):.3g}, range {min(v):.3g} to {max(v):.3g}, {len(v)} cases"
            for n, v in ((name, groups[name]) for name in names)
        )
        return as_picture(figure, title, f"Box plots. {words}.")


def bars(values: Mapping[str, float], title: str, unit: str = "", digits: int = 0) -> Picture:
    """Horizontal bars with their numbers.

    Args:
        values: Name -> number, drawn in this order.
        title: Title of the chart.
        unit: Shown after each number.
        digits: Decimals of the numbers.
    """
    with chart_style():
        figure = Figure(figsize=(WIDTH, 0.35 + 0.34 * max(1, len(values))), layout="constrained")
        axes = figure.add_subplot()
        heights = [as_number(v) or 0.0 for v in values.values()]
        bar_artists = axes.barh(range(len(values)), heights, color=SERIES[0], height=0.62)
        words = [f"{number(v, digits)}{unit}" for v in values.values()]
        axes.bar_label(bar_artists, labels=words, padding=4)
        axes.set_yticks(range(len(values)), [short(n) for n in values])
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(min(0.0, *heights, 0.0) * 1.2, (max([*heights, 0.0]) or 1.0) * 1.22)
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        alt = ", ".join(f"{n} {w}" for n, w in zip(values, words, strict=True))
        return as_picture(figure, title, f"Bar chart. {alt}.")


Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def _series(log: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Key -> steps and finite values, for every scalar that is logged."""
    points_by_key: dict[str, list[tuple[float, float]]] = {}
    for place, line in enumerate(log):
        step = as_number(line.get("step"))
        for key, value in line.items():
            scalar = as_number(value) if key not in ("step", "steps", "seconds") else None
            if scalar is not None and not isinstance(value, str):
                points_by_key.setdefault(str(key), []).append(
                    (place if step is None else step, scalar)
                )
    arrays = {key: np.array(sorted(points)).T for key, points in points_by_key.items()}
    return {key: (a[0], a[1]) for key, a in arrays.items()}


def _thin(points: Points) -> Points:
    """At most ``_POINTS`` points: means of equal runs."""
    steps, values = points
    if len(steps) <= _POINTS:
        return points
    cuts = np.linspace(0, len(steps), _POINTS + 1).astype(int)[:-1]
    sizes = np.diff([*cuts, len(steps)])
    return np.add.reduceat(steps, cuts) / sizes, np.add.reduceat(values, cuts) / sizes


def _line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    smooth: bool = False,
    unit_range: bool = False,
    markers: bool = False,
    mark: float | None = None,
) -> Picture:
    with chart_style():
        figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, points) in enumerate(series.items()):
            colour = SERIES[place % len(SERIES)]
            steps, values = _thin(points)
            marker = "o" if len(values) == 1 or (markers and len(values) <= 40) else None
            if smooth and len(values) >= 20:
                axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.9)
                steps, values = steps, _running_mean(values, max(3, len(values) // 25))
            style = ("-", "--", ":", "-.")[place % 4]
            axes.plot(
                steps, values, style, color=colour, marker=marker, markersize=3, label=short(name)
            )
        if unit_range:
            axes.set_ylim(-0.02, 1.02)
        elif _spans_decades(series):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.tick_params(which="minor", length=0)
        if mark is not None:
            axes.axhline(mark, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlabel("step")
        axes.margins(x=0.02)
        if len(series) > 1:
            axes.legend(loc="best")
        return as_picture(
            figure, title, "Line chart. " + " ".join(_in_words(n, p) for n, p in series.items())
        )


def _in_words(name: str, points: Points) -> str:
    steps, values = points
    return (
        f"{name}: from {values[0]:.3g} at step {steps[0]:.0f} to {values[-1]:.3g} at step "
        f"{steps[-1]:.0f}, lowest {values.min():.3g}, highest {values.max():.3g}."
    )


def _spans_decades(series: Mapping[str, Points]) -> bool:
    values = np.concatenate([v for _, v in series.values()])
    return bool(values.min() > 0 and values.max() > 100 * values.min())


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Centred mean over ``width`` points; shorter windows at the ends."""
    kernel = np.ones(width)
    total = np.convolve(values, kernel, "same")
    return np.asarray(total / np.convolve(np.ones_like(values), kernel, "same"))


def _box(axes: Axes, place: int, values: NDArray[np.float64], colour: str) -> None:
    low, middle, high = np.percentile(values, [25, 50, 75])
    inside = values[(values >= low - 1.5 * (high - low)) & (values <= high + 1.5 * (high - low))]
    axes.hlines(place, inside.min(), inside.max(), color=INK, linewidth=1)
    axes.barh(place, high - low, left=low, height=0.46, color=colour, alpha=0.35, edgecolor=colour)
    axes.vlines(middle, place - 0.23, place + 0.23, color=INK, linewidth=2)
    spread = np.random.default_rng(0).uniform(-0.16, 0.16, len(values))
    axes.plot(
        values, place + spread, "o", color=colour, markersize=3, alpha=0.75, markeredgewidth=0
    )


def short(name: str, limit: int = 24) -> str:
    """A printable name of at most ``limit`` characters."""
    name = str(clean(str(name)))
    return name if len(name) <= limit else name[: limit - 1] + "…"


@contextlib.contextmanager
def chart_style() -> Iterator[None]:
    """Matplotlib's settings are global: hold them for one chart at a time."""
    with _LOCK, mpl.rc_context(cast(Any, _STYLE)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the missing glyph
        yield


def as_picture(figure: Figure, title: str, alt: str, caption: str = "") -> Picture:
    """Figure -> inline SVG without ids, fonts or outside names; equal input, equal text."""
    stream = io.StringIO()
    title, alt = str(clean(title)), str(clean(alt))
    with mpl.rc_context({"svg.hashsalt": title + alt}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg)
    svg = svg[svg.index(">") + 1 :]
    unique = f"{zlib.crc32((title + alt).encode()):08x}"
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>f{unique}", svg)
    for colour, role in ((INK, "currentColor"), (LINE, "var(--line)"), (_BLUE, "var(--blue)")):
        svg = svg.replace(colour, role)
    head = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(alt)}">'
    return Picture(title=title, alt=alt, svg=Markup(head + svg), caption=caption)
