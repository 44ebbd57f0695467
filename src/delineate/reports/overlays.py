"""Outlines of truth and prediction on the slice that shows most of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Raster
from PIL import ImageDraw, ImageFont

from delineate.core.errors import GeometryError
from delineate.core.image import Grid
from delineate.core.schema import COLOURS, Schema
from delineate.reports.figures import Picture

Array = NDArray[Any]
PANEL = 340  # pixels along the longer side of a panel
_GAP = 4
_LEGEND = 12
#: Per plane normal to a RAS axis: its name and what lies left, right and on top of the picture.
_PLANES = (("sagittal", "APS"), ("coronal", "RLS"), ("axial", "RLA"))


def overlay(
    image: Array | None,
    truth: Array | None,
    prediction: Array | None,
    *,
    title: str = "",
    grid: Grid | None = None,
    spacing_mm: Sequence[float] | None = None,
    schema: Schema | None = None,
    letters: str = "",
    sequence: str = "",
) -> Picture:
    """Panels of one slice: image, both outlines, truth and prediction filled.

    A volume is shown on the slice with most foreground of both masks. With an oriented grid it is
    turned to RAS+ and shown as radiologists do, the patient's left on the right of the picture,
    with letters; the plane lies across the coarsest axis (axial if the voxels are near cubic).
    Without a grid the last axis is cut and rows and columns stay as they are stored. Where the
    outlines fill little of the slice, the last three panels enlarge the part framed in the first.

    Args:
        image: ``(*S)`` or ``(C, *S)``, or None. ``(3, I, J)`` of uint8 is shown in colour;
            otherwise the first channel is shown.
        truth: File values of the labels ``(*S)``, or None.
        prediction: Likewise; at least one of both is needed.
        title: Heading of the picture.
        grid: Where the voxels lie.
        spacing_mm: Voxel size where there is no grid.
        schema: Names the labels and gives their colours.
        letters: What lies left, right and on top, for slices already laid out for the reader.
        sequence: Which of several images or channels it is; stands on the image and below it.

    Raises:
        GeometryError: The shapes differ.
    """
    named_masks = (("Truth", truth), ("Prediction", prediction))
    masks = {name: np.asarray(mask) for name, mask in named_masks if mask is not None}
    arrays = [*masks.values()]
    if not masks or any(m.shape != arrays[0].shape for m in arrays):
        raise GeometryError(f"expected masks of one shape, got {[m.shape for m in arrays]}")
    shape = arrays[0].shape
    picture = None if image is None else _channel(np.asarray(image), shape)
    if spacing_mm is None:
        spacing_mm = grid.spacing_mm if grid else (1.0,) * len(shape)
    where = ""
    if len(shape) == 3:
        stack = [*arrays, *([picture] if picture is not None else [])]
        stack, spacing_mm, where, axis_letters = cut_slice(
            stack, tuple(spacing_mm), len(arrays), grid
        )
        masks = dict(zip(masks, stack, strict=False))
        picture = stack[-1] if picture is not None else None
        letters = letters or axis_letters
    names = _names(schema, masks)
    picture, masks = _trim(picture, masks)
    colours = {v: c for v, _, c in names}
    canvas = _draw(picture, masks, colours, tuple(spacing_mm), letters, sequence)
    where = ", ".join(filter(None, (sequence, where)))
    legend = [(name, colour, "fill") for _, name, colour in names[:_LEGEND]]
    if len(names) > _LEGEND:
        legend.append((f"{len(names) - _LEGEND} more", "transparent", "fill"))
    if len(masks) == 2:
        legend.append(("white outline: truth", "#ffffff", "line"))
    covers = "; ".join(
        f"{n.lower()} covers {int((m > 0).sum())} of {m.size} pixels" for n, m in masks.items()
    )
    title = title[:1].upper() + title[1:]
    return Picture(
        title=title,
        alt=f"{title or 'Slice'}{', ' + where if where else ''}: {covers}.",
        src=data_uri(canvas),
        width=canvas.width,
        height=canvas.height,
        legend=tuple(legend),
        caption=where if sequence else where[:1].upper() + where[1:],
    )


def _channel(image: Array, shape: tuple[int, ...]) -> Array:
    """One channel ``(*S)``, or ``(I, J, 3)`` for colour pictures."""
    if image.shape == shape:
        return image
    if image.ndim != len(shape) + 1 or image.shape[1:] != shape:
        raise GeometryError(f"expected an image of the masks' shape {shape}, got {image.shape}")
    if image.shape[0] == 3 and image.dtype == np.uint8 and len(shape) == 2:
        return np.moveaxis(image, 0, -1)
    return np.asarray(image[0])


def cut_slice(
    stack: list[Array], spacing: tuple[float, ...], n_masks: int, grid: Grid | None
) -> tuple[list[Array], tuple[float, ...], str, str]:
    """The fullest slice of each volume, its spacing, its name and its letters."""
    oriented = grid is not None and grid.oriented
    axis = 2
    if grid is not None and oriented:
        import nibabel as nib

        orientations: Any = nib.orientations  # untyped
        turns = orientations.io_orientation(grid.affine)
        stack = [orientations.apply_orientation(a, turns) for a in stack]
        spacing = tuple(spacing[int(i)] for i in np.argsort(turns[:, 0]))
        coarsest = int(np.argmax(spacing))
        axis = coarsest if spacing[coarsest] > 1.5 * sorted(spacing)[1] else 2
    counts = sum((m > 0).sum(axis=tuple(a for a in range(3) if a != axis)) for m in stack[:n_masks])
    full = np.flatnonzero(counts == np.max(counts))
    place = int(full[len(full) // 2])
    cut = [np.take(a, place, axis) for a in stack]
    in_plane = tuple(s for a, s in enumerate(spacing) if a != axis)
    where = f"slice {place + 1} of {stack[0].shape[axis]}"
    if not oriented:
        return cut, in_plane, where, ""
    name, letters = _PLANES[axis]
    return [a[::-1, ::-1].T for a in cut], in_plane[::-1], f"{name} {where}", letters


def _names(schema: Schema | None, masks: dict[str, Array]) -> list[tuple[int, str, str]]:
    """``(value, name, colour)`` of each foreground value present."""
    present = np.unique(np.concatenate([np.unique(m) for m in masks.values()]))
    labels = schema.labels if schema else ()
    known = {label.value: (i, label.name) for i, label in enumerate(labels)}
    entries = []
    for value in (int(v) for v in present if v > 0):
        index, name = known.get(value, (value - 1, f"label {value}"))
        entries.append((value, name, COLOURS[index % len(COLOURS)]))
    return entries


def _trim(image: Array | None, masks: dict[str, Array]) -> tuple[Array | None, dict[str, Array]]:
    """Cut off surroundings in which the image has one value, all but a narrow margin."""
    if image is None or image.ndim != 2:
        return image, masks
    content = np.any([image != image[0, 0], *(m > 0 for m in masks.values())], axis=0)
    cut = []
    for axis, size in enumerate(content.shape):
        hit = np.flatnonzero(content.any(axis=1 - axis))
        margin = 1 + size // 32
        low, high = (hit[0], hit[-1]) if hit.size else (0, size - 1)
        cut.append(slice(max(0, int(low) - margin), int(high) + 1 + margin))
    return image[tuple(cut)], {name: mask[tuple(cut)] for name, mask in masks.items()}


def _grey(image: Array | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """``(I, J)`` or ``(I, J, 3)`` -> ``(I, J, 3)`` bytes between the 1st and 99.5th percentile."""
    if image is None:
        return np.full((*shape, 3), 40, np.uint8)
    if image.ndim == 3:
        return np.asarray(image, np.uint8)
    values = np.nan_to_num(image.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    inside = values[values != values.flat[0]]  # leave the constant surroundings out
    low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0.0, 1.0)
    low = min(low, values.flat[0]) if values.flat[0] < low else low
    grey = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)


def _draw(
    image: Array | None,
    masks: dict[str, Array],
    colours: dict[int, str],
    spacing: tuple[float, ...],
    letters: str,
    sequence: str,
) -> Raster.Image:
    base = _grey(image, next(iter(masks.values())).shape)
    rows, columns = base.shape[:2]
    tall, wide = rows * spacing[0], columns * spacing[1]
    scale = PANEL / max(tall, wide)
    size = (max(90, round(tall * scale)), max(90, round(wide * scale)))
    window = _window(np.any([m > 0 for m in masks.values()], axis=0))
    zoomed = window != (0, rows, 0, columns)

    first = resize(base, size, smooth=image is not None)
    if zoomed:
        _frame(first, window, (rows, columns))
    name = ": ".join(filter(None, ("Whole slice" if zoomed else "Image", sequence)))
    panels = [(name, first)] if image is not None or zoomed else []
    r0, r1, c0, c1 = window
    part = resize(base[r0:r1, c0:c1], size, smooth=image is not None)
    big = {n: resize(m[r0:r1, c0:c1], size, smooth=False) for n, m in masks.items()}
    if len(big) == 2:
        both = part.copy()
        for value in colours:
            _outline(both, big["Truth"] == value, "#ffffff", halo=True)
        for value, colour in colours.items():
            _outline(both, big["Prediction"] == value, colour)
        panels.append(("Both outlines", both))
    for name, mask in big.items():
        filled = part.copy()
        for value, colour in colours.items():
            _fill(filled, mask == value, colour)
            _outline(filled, mask == value, colour)
        panels.append((name, filled))
    return tile(panels, size, letters)


def _window(foreground: Array) -> tuple[int, int, int, int]:
    """Rows and columns to enlarge: the foreground with room around it, if that is a small part.

    The window has the proportions of the slice, so that panels share one size.
    """
    rows, columns = foreground.shape
    if not foreground.any():
        return 0, rows, 0, columns
    spans = []
    for axis in (1, 0):
        hit = np.flatnonzero(foreground.any(axis=axis))
        spans.append((int(hit[0]), int(hit[-1]) + 1))
    share = max((high - low) / n for (low, high), n in zip(spans, (rows, columns), strict=True))
    share = max(1.7 * share, 24 / min(rows, columns))
    if share > 0.62:
        return 0, rows, 0, columns
    cut = []
    for (low, high), n in zip(spans, (rows, columns), strict=True):
        length = max(1, round(share * n))
        start = min(max(0, round((low + high - length) / 2)), n - length)
        cut += [start, start + length]
    return cut[0], cut[1], cut[2], cut[3]


def resize(array: Array, size: tuple[int, int], *, smooth: bool) -> Array:
    """Pixels by bicubic interpolation, label values by nearest neighbour."""
    if smooth:
        raster = Raster.fromarray(np.ascontiguousarray(array))
        return np.asarray(raster.resize((size[1], size[0]), Raster.Resampling.BICUBIC)).copy()
    index = [(np.arange(n) * array.shape[a] / n).astype(int) for a, n in enumerate(size)]
    return np.asarray(array[np.ix_(*index)]).copy()


def _rgb(colour: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)


def _fill(panel: Array, mask: Array, colour: str) -> None:
    panel[mask] = np.rint(0.6 * panel[mask] + 0.4 * _rgb(colour)).astype(np.uint8)


def _outline(panel: Array, mask: Array, colour: str, *, halo: bool = False) -> None:
    """Two pixels along the inner border of the mask, so that touching labels do not hide."""
    from scipy.ndimage import binary_dilation, binary_erosion

    if not mask.any():
        return
    edge = mask & ~binary_erosion(mask, iterations=2, border_value=1)
    if halo:
        panel[binary_dilation(edge) & ~edge] = 0
    panel[edge] = _rgb(colour)


def _frame(panel: Array, window: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    (tall, wide), (rows, columns) = panel.shape[:2], shape
    top, bottom = (round(w * (tall - 1) / rows) for w in window[:2])
    left, right = (round(w * (wide - 1) / columns) for w in window[2:])
    inside = np.zeros(panel.shape[:2], bool)
    inside[top : bottom + 1, left : right + 1] = True
    _outline(panel, inside, "#ffffff", halo=True)


def tile(
    panels: list[tuple[str, Array]], size: tuple[int, int], letters: str, most: int = 2
) -> Raster.Image:
    """Some panels a row, each with its name and the letters of its sides."""
    tall, wide = size
    across = min(most, len(panels))
    down = -(-len(panels) // across)
    whole = (across * (wide + _GAP) - _GAP, down * (tall + _GAP) - _GAP)
    canvas = Raster.new("RGB", whole)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(17)
    for place, (name, panel) in enumerate(panels):
        x, y = place % across * (wide + _GAP), place // across * (tall + _GAP)
        canvas.paste(Raster.fromarray(panel), (x, y))
        marks = [((x + 7, y + 5), "la", name)]
        if letters:
            marks.append(((x + 6, y + tall // 2), "lm", letters[0]))
            marks.append(((x + wide - 6, y + tall // 2), "rm", letters[1]))
        for spot, anchor, words in marks:
            pen.text(spot, words, "#ffffff", font, anchor, stroke_width=2, stroke_fill="#000000")
    return canvas


def data_uri(canvas: Raster.Image) -> str:
    """A picture as text that stands in the page itself."""
    stream = io.BytesIO()
    canvas.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
