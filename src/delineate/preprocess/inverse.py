"""From probabilities on a prepared grid to labels on the grid of the file, some rows at a time.

Probabilities are interpolated, never labels. Every voxel is computed by one arithmetic
(``resample.undo_rows``) from the prepared rows that it needs, so the result does not depend, to the
last bit, on how many rows come at once, and memory need not hold all probabilities of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.image import Grid
from delineate.preprocess import crop, geometry, orient, resample

#: Voxels of the original grid that are worked on at once; never less than one row.
_VOXELS = 1 << 18


class Inverse:
    """Labels, and probabilities if they are wanted, on the grid that an image was read with.

    Args:
        history: Of the prepared image.
        shape: ``S'`` of the prepared image.
        original: Grid of the image before it was prepared.
        outputs: Channels of the probabilities, background first.
        axis: Axis of ``S'`` along which rows come, in order.
        keep: Keep the probabilities too.

    Raises:
        GeometryError: The history does not lead back to ``original``.
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        shape: Sequence[int],
        original: Grid,
        outputs: int,
        axis: int = 0,
        *,
        keep: bool = False,
    ) -> None:
        geometry.check_shape(tuple(shape), history, original)
        steps = [step for step in history if step["step"] in geometry.GEOMETRY]
        self._step = steps.pop() if steps and steps[-1]["step"] == "resample" else None
        if any(step["step"] == "resample" for step in steps):
            raise GeometryError("expected resampling as the last step", code="history-grid")
        self.grid = original
        #: ``(*S)`` label indices; background where the image was cropped.
        self.labels = np.zeros(original.shape, dtype=np.uint8)
        #: ``(outputs, *S)``, or None.
        self.probabilities: NDArray[np.float32] | None = None
        self._into = _replayed(self.labels[None], steps)[0]
        self._probabilities_into: NDArray[Any] | None = None
        if keep:
            self.probabilities = np.zeros((outputs, *original.shape), dtype=np.float32)
            self.probabilities[0] = 1
            self._probabilities_into = _replayed(self.probabilities, steps)
        self._axis, self._first, self._done = axis, 0, 0
        self._held: NDArray[Any] | None = None
        self._low, self._high = self._sources(shape[axis])
        self._sum, self._count = 0.0, 0

    @property
    def confidence(self) -> float | None:
        """Mean probability of the label that won, over all voxels that have one."""
        return self._sum / self._count if self._count else None

    def add(self, block: NDArray[Any]) -> None:
        """The next finished rows, ``(outputs, rows, *rest)``; ``rest`` are the other axes."""
        block = np.moveaxis(block, 1, self._axis + 1)
        if self._held is not None:
            block = np.concatenate([self._held, block], axis=self._axis + 1)
        end = self._first + block.shape[self._axis + 1]
        stop = int(np.searchsorted(self._high, end))
        size = max(1, _VOXELS * len(self._low) // self._into.size)
        for start in range(self._done, stop, size):
            self._write(block, slice(start, min(start + size, stop)))
        self._done = stop
        still = min(int(self._low[stop]), end) if stop < len(self._low) else end
        self._held = block[self._rows(slice(still - self._first, None))].copy()
        self._first = still

    def _write(self, block: NDArray[Any], rows: slice) -> None:
        """Finish some rows of the original (oriented and cropped) grid."""
        there = self._rows(rows)
        best = self._home(block[0], rows)
        if self._probabilities_into is not None:
            self._probabilities_into[0][there[1:]] = best
        index = np.zeros(best.shape, dtype=np.uint8)
        for number in range(1, len(block)):
            channel = self._home(block[number], rows)
            if self._probabilities_into is not None:
                self._probabilities_into[number][there[1:]] = channel
            wins = channel > best
            index[wins] = number
            best = np.maximum(best, channel)
        self._into[there[1:]] = index
        inside = index > 0
        self._sum += float(best[inside].sum(dtype=np.float64))
        self._count += int(inside.sum())

    def _home(self, channel: NDArray[Any], rows: slice) -> NDArray[Any]:
        if self._step is not None:
            return resample.undo_rows(channel, self._step, self._axis, self._first, rows)
        return channel[self._rows(slice(rows.start - self._first, rows.stop - self._first))[1:]]

    def _rows(self, rows: slice) -> tuple[slice, ...]:
        """Index of ``(C, *S)`` that takes some rows of the axis."""
        return (slice(None),) * (self._axis + 1) + (rows,)

    def _sources(self, old: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First and last prepared row that each row needs."""
        new = self._step["from_shape"][self._axis] if self._step is not None else old
        low = np.floor(resample.positions(old, new)).astype(np.intp)
        return low, low if new == old else np.minimum(low + 1, old - 1)


def estimate_bytes(original: Sequence[int], outputs: int, keep: bool) -> int:
    """Memory that an :class:`Inverse` and what becomes of its labels will need.

    Args:
        original: ``S`` of the file.
        outputs: Channels of the probabilities.
        keep: Probabilities are kept, and rounded for writing.
    """
    voxels = int(np.prod(original))
    at_once = min(voxels, max(_VOXELS, voxels // min(original)))
    # Three float32 a voxel: while rows come home, of those at once; then, to clean labels, of all.
    most = max(voxels + 12 * at_once, 12 * voxels)
    return most + (8 * outputs * voxels if keep else 0)


def _replayed(array: NDArray[Any], steps: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """A view of ``(C, *S)``, turned and cut as the image was."""
    for step in steps:
        array = (orient if step["step"] == "orient" else crop).replay(array, step)
    return array
