"""Histogram equalisation: of the whole image, by tiles, and by tiles with limited contrast.

Each rule is a pure function ``(values (*S), mask) -> grey levels (*S)``; ``equalise`` applies one
to each channel of an image. Background never counts: it would fill half of a histogram and push all
tissue into the bright end. What is outside the mask becomes 0.

Equalised images lose the scale that scans share, and noise in flat regions is amplified, so they
are meant as channels beside the original.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError
from delineate.core.image import Image
from delineate.preprocess import _levels
from delineate.preprocess._levels import Array, Mask

#: Tiles shorter than this are joined: their histograms would hold too little.
_LEAST_TILE = 8
#: Grey levels of an adaptive equalisation.
_GREYS = 256


def equalise(
    image: Image,
    rules: Sequence[tuple[str, Mapping[str, Any]]],
    masks: NDArray[np.bool_] | None = None,
) -> Image:
    """Apply one rule to each channel of ``(C, *S)``; the result holds grey levels as float32.

    Args:
        image: Any image.
        rules: ``(name of the rule, parameters)`` by channel, see ``MODALITIES``.
        masks: ``(C, *S)`` what is not background; everything by default.
    """
    array = np.empty(image.array.shape, np.float32)
    for i, (name, parameters) in enumerate(rules):
        array[i] = rule(name)(image.array[i], None if masks is None else masks[i], **parameters)
    done = [{"rule": name, **parameters} for name, parameters in rules]
    return image.with_step("equalise", array, channels=done, masked=masks is not None)


def histogram(
    values: Array, mask: Mask | None = None, *, levels: int = 256, stretch: bool = True
) -> Array:
    """Give every grey level about the same number of voxels.

    Two forms are in print, with ``cdf`` the count of voxels of at most a value, ``n`` of all::

        stretch        round((cdf(v) - cdf_min) / (n - cdf_min) * (levels - 1))
        not stretch    round(cdf(v) / n * (levels - 1))

    The first (equation 1 of DL-VAE-CNN, OpenCV) sends the darkest value to 0; the second (equations
    1 to 3 of DL-GAN-CNN, scikit-image) does not. Halves are rounded up, in whole numbers, so that
    the result is the same everywhere.

    Args:
        values: ``(*S)``. Integers that span less than 65,536 have a bin a value, whatever their
            bit depth; other numbers are first rounded to ``levels`` equal steps.
        mask: ``(*S)`` voxels that count; everything by default.
        levels: Grey levels of the result, up to 65,536.
        stretch: Send the darkest value to 0.

    Returns:
        ``(*S)`` uint8, or uint16 for more than 256 levels.

    Raises:
        ConfigError: Fewer than 2 or more than 65,536 levels.
    """
    if not 2 <= levels <= 65536:
        raise ConfigError(f"expected 2 to 65,536 grey levels, got {levels}")
    kind = np.uint8 if levels <= 256 else np.uint16
    if mask is not None and not mask.any():
        return np.zeros(values.shape, kind)
    index, bins = _index(values, mask, levels)
    cumulated = np.cumsum(_levels.count(index, bins, mask))
    first = int(cumulated[cumulated > 0][0]) if stretch else 0
    span = max(1, int(cumulated[-1]) - first)
    table = (2 * np.maximum(cumulated - first, 0) * (levels - 1) + span) // (2 * span)
    out = _look_up(table.astype(kind), index)
    return out if mask is None else out * mask


def _index(values: Array, mask: Mask | None, levels: int) -> tuple[Array, int]:
    """The bin of every voxel as uint8 or uint16, and the number of bins; anything outside."""
    if values.dtype == np.uint8:
        return values, 256
    low, high = _levels.span(values, mask)
    if np.issubdtype(values.dtype, np.integer) and high - low < 65536:
        # Unsigned numbers wrap, so the difference is right whatever the type was.
        return values.astype(np.uint16) - np.uint16(int(low) % 65536), int(high - low) + 1
    if levels <= 256:
        high = low + (high - low) * 255 / (levels - 1)
        return _levels.to_bytes(values, low, high), 256
    scale = (levels - 1) / (high - low) if high > low else 0.0
    steps = np.rint((np.asarray(values, np.float64) - low) * scale)
    return np.clip(steps, 0, levels - 1).astype(np.uint16), levels


def _look_up(table: Array, index: Array) -> Array:
    import cv2

    if index.dtype == np.uint8 and table.dtype == np.uint8:
        whole = np.zeros(256, np.uint8)
        whole[: table.size] = table[:256]
        mapped: Array = cv2.LUT(_levels.flat(index), whole).reshape(index.shape)
        return mapped
    return np.take(table, index, mode="clip")  # voxels outside the mask may lie beyond the table


def adaptive(
    values: Array, mask: Mask | None = None, *, tiles: int = 8, clip: float | None = 2.0
) -> NDArray[np.uint8]:
    """Equalise by the histogram of the surroundings, with limited contrast (CLAHE) or without.

    Zuiderveld 1994 (Graphics Gems IV), in two and in three dimensions: every tile has a table, and
    a voxel takes the linear mixture of the tables around it. Flat images without a mask go through
    OpenCV. With a mask a tile counts by the voxels that it holds, so that tiles at the rim, with
    few of them, do not make their own contrast.

    Args:
        values: ``(*S)``; anything but uint8 is first rounded to 256 equal steps.
        mask: ``(*S)`` voxels that count; everything by default.
        tiles: Along each axis; fewer where they would be shorter than 8 voxels.
        clip: Largest count of a bin, as a multiple of the mean count; None limits nothing (AHE).

    Returns:
        ``(*S)`` uint8.

    Raises:
        ConfigError: No tile, or a limit of 0.
    """
    import cv2

    if tiles < 1 or (clip is not None and not clip > 0):
        raise ConfigError(f"expected tiles and a clip above 0, got {tiles} and {clip}")
    if mask is not None and not mask.any():
        return np.zeros(values.shape, np.uint8)
    grey = values if values.dtype == np.uint8 else _levels.to_bytes(
        values, *_levels.span(values, mask)
    )  # fmt: skip
    counts = [max(1, min(tiles, n // _LEAST_TILE)) for n in values.shape]
    if mask is None and values.ndim == 2:
        tool = cv2.createCLAHE(clip or 0.0, (counts[1], counts[0]))  # 0: no limit
        equalised: Any = tool.apply(np.ascontiguousarray(grey))
        return np.asarray(equalised, np.uint8)
    inside = np.ones(values.shape, dtype=bool) if mask is None else mask
    return _mix(grey, inside, _tables(grey, inside, counts, clip))


def _tables(grey: Array, mask: Mask, counts: Sequence[int], clip: float | None) -> Array:
    """The cumulated and limited histogram of every tile, ``(*counts, 256)``, as counts.

    The image is filled up to whole tiles by reflection, as OpenCV does it.
    """
    sizes = [-(-n // c) for n, c in zip(grey.shape, counts, strict=True)]
    fill = [(0, s * c - n) for n, c, s in zip(grey.shape, counts, sizes, strict=True)]
    grey, mask = np.pad(grey, fill, mode="reflect"), np.pad(mask, fill, mode="reflect")
    tables = np.empty((*counts, _GREYS), np.float32)
    for tile in itertools.product(*map(range, counts)):
        box = tuple(slice(t * s, (t + 1) * s) for t, s in zip(tile, sizes, strict=True))
        histogram_of_tile = np.bincount(grey[box][mask[box]], minlength=_GREYS)
        tables[tile] = np.cumsum(
            histogram_of_tile if clip is None else _limited(histogram_of_tile, clip)
        )
    return tables


def _limited(histogram: NDArray[np.intp], clip: float) -> NDArray[np.intp]:
    """A histogram with no bin above the limit; what is cut off goes to all bins evenly."""
    limit = max(1, int(clip * int(histogram.sum()) / _GREYS))
    excess = int(np.maximum(histogram - limit, 0).sum())
    histogram = np.minimum(histogram, limit) + excess // _GREYS
    remainder = excess % _GREYS
    if remainder:
        step = _GREYS // remainder
        histogram[: remainder * step : step] += 1
    return histogram


def _mix(grey: Array, mask: Mask, tables: Array) -> NDArray[np.uint8]:
    """Look every voxel of ``(*S)`` up in the mixture of the tables around it."""
    out = np.zeros(grey.shape, np.uint8)
    ends = [_neighbours(n, c) for n, c in zip(grey.shape, tables.shape, strict=False)]
    plane = ends[-2:]
    corners = [
        (
            (rows[:, None] * tables.shape[-2] + columns) * _GREYS,
            (by_row[:, None] * by_column).astype(np.float32),
        )
        for (rows, by_row), (columns, by_column) in itertools.product(*plane)
    ]
    if grey.ndim == 2:
        out[...] = _mix_plane(grey, tables, corners)
    else:
        for i in np.flatnonzero(mask.any(axis=(1, 2))):
            table = sum(np.float32(share[i]) * tables[tile[i]] for tile, share in ends[0])
            out[i] = _mix_plane(grey[i], table, corners)
    return out * mask


def _neighbours(size: int, count: int) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Of every place along an axis, the tiles before and after it and their shares."""
    place = np.arange(size) / -(-size // count) - 0.5
    before = np.floor(place).astype(np.intp)
    share = place - before
    last = count - 1
    return [(np.clip(before, 0, last), 1 - share), (np.clip(before + 1, 0, last), share)]


def _mix_plane(grey: Array, table: Any, corners: Sequence[tuple[Array, Array]]) -> Array:
    """Grey levels of a plane, by the four tables around each pixel."""
    flat_table = np.ascontiguousarray(table).reshape(-1)
    above = np.zeros(grey.shape, np.float32)
    below = np.zeros(grey.shape, np.float32)
    for base, share in corners:
        above += flat_table[base + grey] * share
        below += flat_table[base + (_GREYS - 1)] * share
    return np.rint(above * (_GREYS - 1) / np.maximum(below, 1e-6))


_RULES: dict[str, Callable[..., Array]] = {"histogram": histogram, "adaptive": adaptive}

#: Modality -> rule and parameters. Where a few voxels span most of the range (PET) or the scale is
#: any (MR), the rank of a value says most; where contrast is low and local, tiles do.
MODALITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "MR": ("histogram", {}),
    "CT": ("adaptive", {"clip": 2.0}),
    "PET": ("histogram", {}),
    "XR": ("adaptive", {"clip": 2.0}),
    "US": ("adaptive", {"clip": 3.0}),
    "OCT": ("adaptive", {"clip": 3.0}),
    "RGB": ("adaptive", {"clip": 2.0}),
    "unknown": ("histogram", {}),
}


def rule(name: str) -> Callable[..., Array]:
    """A rule by name.

    Raises:
        ConfigError: No such rule.
    """
    if name not in _RULES:
        raise ConfigError(
            f"expected a rule of equalisation, got {name!r}",
            fix=f"choose one of: {', '.join(_RULES)}",
            code="unknown-name",
        )
    return _RULES[name]
