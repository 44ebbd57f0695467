"""From maps on a prepared grid to maps on the grid of the file, some rows at a time.

Maps are interpolated, never labels. Every voxel is computed by one arithmetic
(``resample.undo_rows``) from the prepared rows that it needs, so the result does not depend, to the
last bit, on how many rows come at once, and memory need not hold a map of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import GeometryError
from delineate.core.image import Grid
from delineate.preprocess import crop, geometry, orient, resample

#: Voxels of the original grid that are worked on at once; never less than one row.
VOXELS = 1 << 18


@dataclass(frozen=True)
class Rows:
    """Some rows of the original image, complete in every map.

    Args:
        channel: ``(name, k)`` -> channel k of a map there; computed when it is asked for, which
            has to be before the next rows come.
        of: An array ``(K, *S)`` of the original grid -> the view of it that these rows are.
    """

    channel: Callable[[str, int], NDArray[Any]]
    of: Callable[[NDArray[Any]], NDArray[Any]]


class Inverse:
    """Brings maps onto the grid that an image was read with.

    Where the image was cropped there is nothing to bring: no rows cover it.

    Args:
        history: Of the prepared image.
        shape: ``S'`` of the prepared image.
        original: Grid of the image before it was prepared.
        axis: Axis of ``S'`` along which rows come, in order.

    Raises:
        GeometryError: The history does not lead back to ``original``.
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, Any]],
        shape: Sequence[int],
        original: Grid,
        axis: int = 0,
    ) -> None:
        geometry.check_shape(tuple(shape), history, original)
        steps = [step for step in history if step["step"] in geometry.GEOMETRY]
        self._step = steps.pop() if steps and steps[-1]["step"] == "resample" else None
        if any(step["step"] == "resample" for step in steps):
            raise GeometryError("expected resampling as the last step", code="history-grid")
        self._steps = steps
        self._voxels = _replayed(np.broadcast_to(False, (1, *original.shape)), steps).size
        self._axis, self._first, self._done = axis, 0, 0
        self._held: dict[str, NDArray[Any]] = {}
        self._low, self._high = self._sources(shape[axis])

    def add(self, maps: Mapping[str, NDArray[Any]]) -> Iterator[Rows]:
        """The next finished rows, ``(K, rows, *rest)`` by name; ``rest`` are the other axes."""
        blocks = {name: np.moveaxis(block, 1, self._axis + 1) for name, block in maps.items()}
        if self._held:
            blocks = {
                name: np.concatenate([self._held[name], block], axis=self._axis + 1)
                for name, block in blocks.items()
            }
        end = self._first + next(iter(blocks.values())).shape[self._axis + 1]
        stop = int(np.searchsorted(self._high, end))
        size = max(1, VOXELS * len(self._low) // self._voxels)
        for start in range(self._done, stop, size):
            yield self._finished(blocks, slice(start, min(start + size, stop)))
        self._done = stop
        still = min(int(self._low[stop]), end) if stop < len(self._low) else end
        remaining = self._rows(slice(still - self._first, None))
        self._held = {name: block[remaining].copy() for name, block in blocks.items()}
        self._first = still

    def _finished(self, blocks: Mapping[str, NDArray[Any]], rows: slice) -> Rows:
        """Some rows of the original (oriented and cropped) grid."""
        target_rows = self._rows(rows)
        return Rows(
            lambda name, number: self._home(blocks[name][number], rows),
            lambda array: _replayed(array, self._steps)[target_rows],
        )

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
    """Memory that labels coming home, and what becomes of them, will need.

    Args:
        original: ``S`` of the file.
        outputs: Channels of the probabilities.
        keep: Probabilities are kept, and rounded for writing.
    """
    voxels = int(np.prod(original))
    at_once = min(voxels, max(VOXELS, voxels // min(original)))
    # Three float32 a voxel: while rows come home, of those at once; then, to clean labels, of all.
    peak = max(voxels + 12 * at_once, 12 * voxels)
    return peak + (8 * outputs * voxels if keep else 0)


def _replayed(array: NDArray[Any], steps: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
    """A view of ``(C, *S)``, turned and cut as the image was."""
    for step in steps:
        array = (orient if step["step"] == "orient" else crop).replay(array, step)
    return array
