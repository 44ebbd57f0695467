"""How thick slices are, measured by the labels drawn on them instead of read from the header.

Headers say how far slices lie apart, if that, but not how much of the anatomy changes between
them. A label that is moved by a slice and laid upon itself says so, on the same scale as one that
is moved by a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from delineate.core.schema import IGNORED


@dataclass(frozen=True)
class Thickness:
    """How much changes from voxel to voxel along each axis.

    Args:
        pixels: By axis, how many voxels of the other two change a label as much as one of this.
        cases: Over which these are the medians.
    """

    pixels: tuple[float, ...]
    cases: int = 1

    @property
    def axis(self) -> int:
        """The axis along which labels change most."""
        return int(np.argmax(self.pixels))

    @property
    def largest(self) -> float:
        """How many pixels a slice across that axis is worth."""
        return max(self.pixels)


def of_label(label: NDArray[np.uint8]) -> Thickness | None:
    """Of one case; None where nothing is drawn.

    Args:
        label: Indices ``(*S)``, 0 for the background.
    """
    label = np.where(label == IGNORED, 0, label)
    axes = range(label.ndim)
    drawn = [np.flatnonzero(label.any(axis=tuple(b for b in axes if b != a))) for a in axes]
    if not len(drawn[0]):
        return None
    label = label[tuple(slice(lines[0], lines[-1] + 1) for lines in drawn)]
    voxels = np.bincount(label.reshape(-1))[1:]

    @cache
    def overlap(axis: int, lag: int) -> float:
        """Dice of a structure with itself, moved so far; the mean of all."""
        planes = np.moveaxis(label, axis, 0)
        before, after = planes[: max(0, len(planes) - lag)], planes[lag:]
        same = before[(before == after) & (before > 0)]
        shared = np.bincount(same, minlength=len(voxels) + 1)[1:]
        return float(np.mean((shared / np.maximum(voxels, 1))[voxels > 0]))

    def pixels(axis: int) -> float:
        """The lag across, interpolated, at which the overlap is that of one voxel along it."""
        lag, last, mean = 0, 1.0, 1.0
        while mean > overlap(axis, 1):
            lag += 1
            last, mean = mean, float(np.mean([overlap(a, lag) for a in axes if a != axis]))
        return lag - 1 + (last - overlap(axis, 1)) / (last - mean)

    return Thickness(tuple(pixels(a) for a in axes))


def median(cases: Sequence[Thickness]) -> Thickness | None:
    """Of several cases, rounded so that two splits of a cohort hardly differ; None of none."""
    if not cases:
        return None
    pixels = np.median([case.pixels for case in cases], axis=0).round(1)
    return Thickness(tuple(pixels.tolist()), len(cases))
