"""The page of predicted images: figures with intervals beside a baseline's, and pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from delineate.core.atomic import atomic_write_bytes, atomic_write_text, writable_folder
from delineate.core.image import Grid
from delineate.reports import page
from delineate.reports._run_folder import Results, RunFolder
from delineate.reports.evaluation import time_tile
from delineate.reports.figures import Picture
from delineate.reports.overlays import PANEL, cut_slice, data_uri, resize, tile
from delineate.reports.page import (
    Column,
    Section,
    as_dict,
    as_list,
    as_number,
    block,
    join,
    number,
    plural,
)

Row = Mapping[str, Any]
Array = NDArray[Any]

#: Colours of what is predicted too dark and too bright, as in ``core.schema.COLOURS``.
_DARK, _BRIGHT = (0, 114, 178), (213, 94, 0)
#: Share of the data range at which a difference has its full colour.
_FULL = 0.25
_ROWS = (("", "Prediction"), ("baseline_", "Best mix of the inputs"), ("written_", "As written"))
_COLUMNS = (
    Column("what", "Image"),
    Column("psnr_db", "PSNR dB", 2, "Range of the true scan against the mean squared error"),
    Column("psnr_interval", "95\N{NO-BREAK SPACE}% interval"),
    Column("ssim", "SSIM", 3, "Structural similarity: 1 perfect"),
    Column("ssim_interval", "95\N{NO-BREAK SPACE}% interval"),
    Column("mae", "MAE", 4, "Mean absolute error, in the units of the true scan"),
    Column("rmse", "RMSE", 4, "Root of the mean squared error, in the units of the true scan"),
)
_CASES = (
    Column("case", "Case"),
    Column("subject", "Subject"),
    Column("psnr_db", "PSNR dB", 2),
    Column("baseline_psnr_db", "of the mix", 2, "The best mix of the inputs"),
    Column("ssim", "SSIM", 3, bar=True),
    Column("baseline_ssim", "of the mix", 3, "The best mix of the inputs"),
    Column("mae", "MAE", 4),
    Column("written_psnr_db", "PSNR dB, as written", 2),
    Column("range", "Data range", 4, "Largest less smallest value of the true scan"),
)


def write(
    path: Path, summary: Mapping[str, Any], rows: Sequence[Row],
    examples: Sequence[Mapping[str, Any]] = (), *, title: str = "Predicted images",
) -> Path:  # fmt: skip
    """Write the page of predicted images, and its pictures beside it in ``overlays/``.

    Args:
        path: The HTML file.
        summary: ``image``, ``inputs``, ``figures``, ``gain_db``, ``notes``, ``rules``, ``settings``
            and ``versions``, as scoring writes them.
        rows: One dictionary a case.
        examples: Arguments of :func:`comparison`.
        title: Heading of the page.

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    pictures = [comparison(**arguments) for arguments in examples]
    folder = writable_folder(path.parent / "overlays")
    listed = []
    for place, picture in enumerate(pictures, 1):
        content = base64.b64decode(picture.src.partition(",")[2])
        atomic_write_bytes(folder / f"{place}.png", content)
        words = {k: getattr(picture, k) for k in ("title", "alt", "legend", "caption")}
        listed.append({"file": f"{place}.png", **words})
    atomic_write_text(folder / "overlays.json", json.dumps(listed, indent=1) + "\n")
    html = page.render(
        title, sections(summary, rows, pictures), kind="evaluation",
        verdict=" ".join(verdict(summary)), lead=tiles(summary),
    )  # fmt: skip
    return page.write(path, html)


def verdict(summary: Mapping[str, Any], noun: str = "subject") -> list[str]:
    """The headline in plain sentences; ``noun`` says what the subjects are to the model."""
    psnr, ssim = _figure(summary, "psnr_db"), _figure(summary, "ssim")
    if as_number(psnr.get("mean")) is None:
        return ["There are no scored images to report."]
    count = int(as_number(summary.get("n_subjects")) or 0)
    channel = as_dict(summary.get("image")).get("channel", "image")
    words = f"On {plural(count, noun)} the predicted {channel} has a PSNR of "
    words += f"{number(psnr['mean'], 2)} dB"
    if interval := _interval(psnr, 2):
        words += f" (95\N{NO-BREAK SPACE}% interval {interval})"
    gain = as_dict(summary.get("gain_db"))
    beaten = (as_number(gain.get("ci_low")) or 0) > 0
    sentences = [
        f"{words} and an SSIM of {number(ssim.get('mean'))}.",
        f"The best mix of its inputs, fitted to the true scan itself, has "
        f"{number(_figure(summary, 'baseline_psnr_db').get('mean'), 2)} dB and "
        f"{number(_figure(summary, 'baseline_ssim').get('mean'))}: "
        + (
            "the model tells more than any such mix."
            if beaten
            else "that the model tells more than such a mix is not shown."
        ),
    ]
    if failed := len(as_list(summary.get("failures"))):
        sentences.append(f"{plural(failed, 'case')} could not be scored.")
    if count < 10:
        sentences.append("So few subjects allow no firm conclusion.")
    return sentences


def tiles(
    summary: Mapping[str, Any], *more: tuple[str, str, str], scored_on: str = "Scored on"
) -> Markup:
    """The headline as tiles, with room for more of them; ``scored_on`` heads the subjects."""
    psnr, ssim = _figure(summary, "psnr_db"), _figure(summary, "ssim")
    mix = _figure(summary, "baseline_psnr_db")
    items = [
        ("PSNR", f"{number(psnr.get('mean'), 2)} dB", _interval(psnr, 2)),
        ("SSIM", number(ssim.get("mean")), _interval(ssim, 3)),
        ("Best mix of the inputs", f"{number(mix.get('mean'), 2)} dB", _interval(mix, 2)),
        (
            scored_on,
            number(summary.get("n_subjects"), 0),
            f"subjects, {plural(as_number(summary.get('n_cases')) or 0, 'case')}",
        ),
    ]
    return block("tiles", [*items, *more])


def sections(
    summary: Mapping[str, Any], rows: Sequence[Row], pictures: Sequence[Picture]
) -> list[Section]:
    """Results, pictures, every case, and how it was scored."""
    images = block("pictures", pictures, False) if pictures else block("missing", "Pictures")
    worst_first = sorted(rows, key=lambda row: as_number(row.get("psnr_db")) or 0.0)
    return [
        ("Results", _results(summary)),
        ("Images", images),
        ("Every case", page.table("Every case", _CASES, worst_first)),
        ("Scoring", _method(summary)),
    ]


def results(folder: RunFolder) -> Results:
    """What the report of a run shows of the images of held-out cases."""
    listed = sections(folder.summary, folder.cases, folder.pictures)
    sentences = verdict(folder.summary, "held-out subject")
    return listed, sentences, tiles(folder.summary, time_tile(folder), scored_on="Held out")


def comparison(
    truth: Array, prediction: Array, inside: Array, grid: Grid, *, title: str, sequence: str
) -> Picture:
    """Panels of one slice: true, predicted on the same grey scale, and the difference in colour.

    Args:
        truth: ``(*S)``.
        prediction: ``(*S)``.
        inside: ``(*S)`` bool, the voxels that count; a volume is shown on the slice with most.
        grid: Where the voxels lie.
        title: Heading of the picture.
        sequence: What is shown.
    """
    span = float(truth.max()) - float(truth.min())
    low, high = (float(v) for v in np.percentile(truth[inside], (0.5, 99.5)))
    spacing, where, letters = grid.spacing_mm, "", ""
    stack = [inside, truth, prediction]
    if truth.ndim == 3:
        stack, spacing, where, letters = cut_slice(stack, tuple(spacing), 1, grid)
    inside, truth, prediction = stack
    tall, wide = truth.shape[0] * spacing[0], truth.shape[1] * spacing[1]
    size = (
        max(90, round(tall * PANEL / max(tall, wide))),
        max(90, round(wide * PANEL / max(tall, wide))),
    )
    error = np.where(inside, np.clip((prediction - truth) / (_FULL * span), -1, 1), 0)
    panels = [
        (f"True {sequence}", _grey(truth, low, high)),
        ("Predicted", _grey(prediction, low, high)),
        ("Difference", _diverging(error)),
    ]
    large = [(name, resize(part, size, smooth=True)) for name, part in panels]
    canvas = tile(large, size, letters, most=3)
    caption = f"{where[:1].upper()}{where[1:]}; full colour at {_FULL * span:.4g}".removeprefix(
        "; "
    )
    return Picture(
        title=title,
        alt=f"{title}: true {sequence}, the predicted one and their difference",
        src=data_uri(canvas),
        width=canvas.width,
        height=canvas.height,
        legend=(
            ("too dark", "#{:02x}{:02x}{:02x}".format(*_DARK), "fill"),
            ("too bright", "#{:02x}{:02x}{:02x}".format(*_BRIGHT), "fill"),
        ),
        caption=caption,
    )


def _grey(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    grey = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _diverging(error: Array) -> NDArray[np.uint8]:
    """White where nothing is wrong."""
    colour = np.where((error < 0)[..., None], _DARK, _BRIGHT)
    mixed = 255 + np.abs(error)[..., None] * (colour - 255.0)
    return np.rint(mixed).astype(np.uint8)


def _results(summary: Mapping[str, Any]) -> Markup:
    rows = _ROWS if as_dict(summary.get("image")).get("units") == "typical" else _ROWS[:2]
    lines = []
    for prefix, name in rows:
        figures = {k: _figure(summary, prefix + k) for k in ("psnr_db", "ssim", "mae", "rmse")}
        lines.append(
            {
                "what": name,
                **{k: figure.get("mean") for k, figure in figures.items()},
                "psnr_interval": _interval(figures["psnr_db"], 2),
                "ssim_interval": _interval(figures["ssim"], 3),
            }
        )
    words = [str(as_dict(summary.get("rules")).get(k, "")) for k in ("baseline", "matched")]
    texts = [block("text", f"{word[:1].upper()}{word[1:]}.") for word in words if word]
    return join(page.table("Results", _COLUMNS, lines, sortable=False), *texts)


def _method(summary: Mapping[str, Any]) -> Markup:
    parts = [block("note", str(words), "warning") for words in as_list(summary.get("notes"))]
    failures = [f for f in as_list(summary.get("failures")) if isinstance(f, Mapping)]
    if failures:
        columns = (Column("case", "Case"), Column("code", "Code"), Column("message", "Why"))
        parts.append(page.table("Cases that could not be scored", columns, failures))
    for key in ("rules", "settings", "versions"):
        parts.append(block("subheading", key.capitalize()))
        entries = as_dict(summary.get(key))
        parts.append(page.facts({page.label(k): page.plain(v) for k, v in entries.items()}))
    return join(*parts)


def _figure(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    return as_dict(as_dict(summary.get("figures")).get(name))


def _interval(figure: Mapping[str, Any], digits: int) -> str:
    low, high = figure.get("ci_low"), figure.get("ci_high")
    if as_number(low) is None or as_number(high) is None:
        return ""
    return f"{number(low, digits)} to {number(high, digits)}"
