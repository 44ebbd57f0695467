"""Regions of a map: what they look like, and a picture of them in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.schema import COLOURS

Array = NDArray[Any]


def describe(
    labels: NDArray[np.uint8],
    values: Array,
    spacing_mm: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """What a region looks like, of every region from 1 on.

    Args:
        labels: ``(*S)``, 0 outside.
        values: ``(C, *S)``.
        spacing_mm: Of the axes; ones by default.

    Returns:
        By region ``voxels``, ``size`` (mm² or mm³), ``mean`` by channel, ``ratio`` of it to the
        mean of all that has a label, by channel, ``centre_mm`` from the first voxel, and
        ``eccentricity``: of the ellipse (ellipsoid) of the same second moments, 0 for a ball, near
        1 for a line.
    """
    spacing = np.array(spacing_mm or (1.0,) * labels.ndim)
    where = np.flatnonzero(labels)
    names = labels.reshape(-1)[where]
    n_regions = int(labels.max())
    sizes = np.bincount(names, minlength=n_regions + 1)

    def means(values: Array) -> NDArray[np.float64]:
        """Mean of ``(N,)`` in every region."""
        return np.bincount(names, values, n_regions + 1) / np.maximum(sizes, 1)

    places = [axis * mm for axis, mm in zip(np.unravel_index(where, labels.shape), spacing,
                                            strict=True)]  # fmt: skip
    colours = np.stack([means(row.reshape(-1)[where]) for row in values])
    whole = colours @ sizes / max(1, where.size)
    middles = np.stack([means(axis) for axis in places])
    offset = [axis - middle[names] for axis, middle in zip(places, middles, strict=True)]
    moments = np.stack([np.stack([means(a * b) for a in offset]) for b in offset])
    rows = []
    for region in range(1, n_regions + 1):
        row: dict[str, Any] = {"region": region, "voxels": int(sizes[region])}
        if row["voxels"]:
            mean = colours[:, region]
            axes = np.linalg.eigvalsh(moments[:, :, region])
            longest = float(axes[-1])
            row |= {
                "size": float(row["voxels"] * spacing.prod()),
                "mean": mean.tolist(),
                "ratio": (mean / np.where(whole == 0, np.nan, whole)).tolist(),
                "centre_mm": middles[:, region].tolist(),
                "eccentricity": float(np.sqrt(max(0.0, 1 - axes[0] / longest)))
                if longest > 0
                else 0.0,
            }
        rows.append(row)
    return rows


def render(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Regions in colours that colour-blind readers tell apart, ``(3, *S)`` uint8; 0 is black."""
    palette = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]
    table = np.zeros((3, 256), np.uint8)
    table[:, 1:] = np.resize(np.array(palette, np.uint8), (255, 3)).T
    coloured: NDArray[np.uint8] = np.take(table, labels, axis=1)
    return coloured
