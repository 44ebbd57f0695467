"""The K-means step of a run: the curve of the elbow, and a training slice beside its clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image as Raster

from delineate.reports import overlays
from delineate.reports._run_folder import UNREADABLE, RunFolder
from delineate.reports.figures import INK, SERIES, WIDTH, Picture, as_picture, chart_style
from delineate.reports.page import block, join

Array = NDArray[Any]
#: Where a run keeps what is shown here.
FILE = "preparation/clusters.npz"
_HEIGHT, _PANEL, _GAP = 2.9, 340, 4
#: Anything larger is no picture of a slice.
_LARGEST = 64 * 1024**2


def section(folder: RunFolder) -> Markup:
    """Both pictures; nothing where the run derived no clusters."""
    path = folder.path / FILE
    if not path.is_file():
        return Markup()
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST} bytes")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        pictures = [curve(arrays), panels(arrays)]
    except UNREADABLE as error:
        folder.problems.append(f"{FILE} cannot be shown: {error}")
        return block("missing", "Clusters")
    return join(block("subheading", "Clusters (K-means)"), block("pictures", pictures, False))


def curve(arrays: dict[str, Array]) -> Picture:
    """Inertia by number of clusters, with the number that was taken.

    Args:
        arrays: ``numbers`` and ``inertia`` ``(N,)``, ``chosen``, ``by_elbow``.
    """
    numbers, inertia = (np.asarray(arrays[name], np.float64) for name in ("numbers", "inertia"))
    chosen, by_elbow = int(arrays["chosen"]), bool(arrays["by_elbow"])
    choice = "chosen by the elbow of the training cases" if by_elbow else "as set"
    title = f"{chosen} clusters, {choice}"
    with chart_style():
        figure = Figure(figsize=(WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(numbers, inertia, "-o", color=SERIES[0], markersize=4)
        if numbers.size > 1:
            axes.plot(numbers[[0, -1]], inertia[[0, -1]], ":", color=INK, linewidth=0.9)
        axes.axvline(chosen, color=SERIES[1], linewidth=1.2, linestyle="--")
        axes.set_xlabel("number of clusters")
        axes.set_ylabel("inertia, share of one cluster's")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        points = ", ".join(f"{n:.0f}: {v:.3g}" for n, v in zip(numbers, inertia, strict=True))
        return as_picture(
            figure, title, f"Line chart. Inertia by number of clusters. {points}.",
            "The elbow is where the curve lies farthest below the dotted chord."
            + ("" if by_elbow else " The curve is that of the slice's case, and decided nothing."),
        )  # fmt: skip


def panels(arrays: dict[str, Array]) -> Picture:
    """A slice beside its clusters.

    Args:
        arrays: ``image`` ``(I, J)`` and ``colours`` ``(3, I, J)`` uint8, ``spacing_mm`` ``(2,)``,
            ``case``, ``channel``, ``chosen``.
    """
    image, colours = np.asarray(arrays["image"], np.uint8), np.asarray(arrays["colours"], np.uint8)
    if colours.shape != (3, *image.shape) or image.ndim != 2:
        raise ValueError(f"expected pictures of one shape, got {image.shape} and {colours.shape}")
    pair = [np.repeat(image[..., None], 3, axis=2), np.moveaxis(colours, 0, -1)]
    tall, wide = (n * float(mm) for n, mm in zip(image.shape, arrays["spacing_mm"], strict=True))
    scale = _PANEL / max(tall, wide)
    size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
    canvas = Raster.new("RGB", (2 * size[0] + _GAP, size[1]))
    for place, array in enumerate(pair):
        panel = Raster.fromarray(np.ascontiguousarray(array))
        canvas.paste(panel.resize(size, Raster.Resampling.NEAREST), (place * (size[0] + _GAP), 0))
    channel, case = str(arrays["channel"]), str(arrays["case"])
    return Picture(
        title=f"{case}: {channel} and its clusters",
        alt=f"A slice of the training case {case}, and the same slice in {int(arrays['chosen'])} "
        "colours, one for each cluster.",
        src=overlays.data_uri(canvas),
        width=canvas.width,
        height=canvas.height,
        caption="Clusters are numbered from dark to bright; black is background.",
    )
