"""Maps of an image of any size, by what computes those of one window: ``(C, *S) -> (K, *S)``.

Windows lie on a regular, evenly spread lattice. Where they overlap, every map is averaged with
Gaussian weights (sigma = patch / 8), which trust the middle of a window more than its rim (Isensee
et al. 2021, doi:10.1038/s41592-020-01008-z). A Gaussian on a lattice is a product of
one-dimensional factors, so each factor is divided by its own sum over the windows beforehand: the
weights are a partition of unity and nothing need be divided at the end. That is what makes it cheap
to finish and free the image row by row (``sweep``).

A flat network on a volume is the same walk with windows one slice thick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, GeometryError
from delineate.inference.runtimes import Infer, Maps

#: Least share of a window that the next one covers too.
OVERLAP = 0.5
#: Told (windows done, windows in all).
Tick = Callable[[int, int], None]
#: Windows of a forward pass hold at least so many voxels, where there are so many.
_BATCH_VOXELS = {"cpu": 2**18, "cuda": 2**21}

Array = NDArray[np.float32]


def windows_at_once(patch: Sequence[int], device: object) -> int:
    """Windows of a forward pass on a device (``cpu``, ``cuda:0``)."""
    voxels = _BATCH_VOXELS.get(str(device).split(":")[0], 2**18)
    return max(1, voxels // math.prod(patch))


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First indices of evenly spread windows that cover ``size`` with at least ``overlap``."""
    if size <= patch:
        return [0]
    step = max(1.0, patch * (1 - overlap))
    count = math.ceil((size - patch) / step) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def gaussian_weights(patch: int) -> NDArray[np.float64]:
    """``(patch,)`` Gaussian of sigma patch / 8, one at the middle, never zero."""
    x = np.arange(patch) - (patch - 1) / 2
    weights: NDArray[np.float64] = np.exp(-0.5 * (x / (patch / 8)) ** 2)
    return weights


def lattice_weights(size: int, patch: int, starts: Sequence[int]) -> list[Array]:
    """For each window its ``(patch,)`` weights; over all windows they sum to one at each index."""
    gauss = gaussian_weights(patch)
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += gauss
    return [(gauss / total[start : start + patch]).astype(np.float32) for start in starts]


@dataclass(frozen=True)
class _Walk:
    """The lattice over one padded image, axis 0 being walked slowest."""

    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weights: tuple[dict[int, Array], ...]

    @staticmethod
    def over(shape: Sequence[int], patch: Sequence[int], overlap: float) -> _Walk:
        starts = tuple(
            tuple(window_starts(n, p, overlap)) for n, p in zip(shape, patch, strict=True)
        )
        weights = tuple(
            dict(zip(s, lattice_weights(n, p, s), strict=True))
            for n, p, s in zip(shape, patch, starts, strict=True)
        )
        return _Walk(tuple(patch), starts, weights)

    def batches(self, size: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        positions = itertools.product(*self.starts)
        while batch := tuple(itertools.islice(positions, size)):
            yield batch

    def weight(self, start: tuple[int, ...]) -> Array:
        """``(*patch)`` weight of one window."""
        product = np.ones((), np.float32)
        for axis, index in enumerate(start):
            product = product[..., None] * self.weights[axis][index]
        return product

    def __len__(self) -> int:
        return math.prod(len(s) for s in self.starts)


def sliding_window(
    infer: Infer,
    image: Array,
    patch: Sequence[int],
    *,
    maps: Mapping[str, int],
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    slice_axis: int | None = None,
    neighbours: int = 0,
    progress: Tick | None = None,
) -> dict[str, Array]:
    """Maps of a whole image.

    Args:
        infer: ``(B, C', *patch) -> maps (B, K, *patch)``.
        image: ``(C, *S)`` float32.
        patch: Window; an image that is smaller is padded with 0 (the mean of a z-scored image).
        maps: Name -> K of those that are wanted.
        overlap: Least share of a window that the next one covers too.
        batch: Windows a forward pass.
        mirror_axes: Axes of the patch; all combinations of mirrored passes are averaged.
        slice_axis: For a network that is flat where the image is not: axis of ``S`` along which it
            is cut into slices.
        neighbours: For flat networks, slices on either side that are given as channels too, in the
            order of their position and the C channels of each together; the rim repeats the last
            slice.
        progress: Called after each batch with windows done and windows in all.

    Returns:
        ``(K, *S)`` float32 by name; probabilities sum to 1 over K.

    Raises:
        ConfigError: Patch, overlap or axes do not fit the image.
        GeometryError: A map has another shape than promised.
    """
    _check(image, patch, overlap, mirror_axes, slice_axis)
    axis = slice_axis or 0
    shape = list(image.shape[1:])
    whole = {
        name: np.empty((channels, shape[axis], *shape[:axis], *shape[axis + 1 :]), np.float32)
        for name, channels in maps.items()
    }
    for row, block in sweep(
        infer, image, patch, maps=maps, overlap=overlap, batch=batch, mirror_axes=mirror_axes,
        slice_axis=slice_axis, neighbours=neighbours, progress=progress,
    ):  # fmt: skip
        for name, rows in block.items():
            whole[name][:, row : row + rows.shape[1]] = rows
    return {
        name: np.ascontiguousarray(np.moveaxis(array, 1, axis + 1)) for name, array in whole.items()
    }


def sweep(
    infer: Infer,
    image: Array,
    patch: Sequence[int],
    *,
    maps: Mapping[str, int],
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    slice_axis: int | None = None,
    neighbours: int = 0,
    progress: Tick | None = None,
) -> Iterator[tuple[int, Maps]]:
    """As ``sliding_window``, but finished rows are given away in order, and then freed.

    Rows run along the first spatial axis, or along ``slice_axis`` where one is given. Only the
    rows that unfinished windows touch are held.

    Yields:
        The first row, and ``(K, rows, *rest)`` by name, good until the next are asked for.
    """
    patch = _check(image, patch, overlap, mirror_axes, slice_axis)
    volume = image if slice_axis is None else np.moveaxis(image, slice_axis + 1, 1)
    shape = tuple(volume.shape[1:])
    volume = _pad(volume, patch)
    walk = _Walk.over(volume.shape[1:], patch, overlap)
    store = _Store(maps, shape, tuple(volume.shape[2:]))
    done = 0
    for starts in walk.batches(batch):
        windows = np.stack(
            [_window(volume, s, patch, neighbours, slice_axis is not None) for s in starts]
        )
        outputs = _averaged(infer, windows, mirror_axes, maps)
        yield from store.reach(starts[0][0], starts[-1][0] + patch[0])
        for number, start in enumerate(starts):
            weight = walk.weight(start)
            for name, values in outputs.items():
                window = values[number] if slice_axis is None else values[number][:, None]
                store.add(name, start, window * weight)
        done += len(starts)
        if progress is not None:
            progress(done, len(walk))
    yield from store.reach(volume.shape[1], volume.shape[1])


class _Store:
    """The rows that are not finished yet, ``(K, rows, *padded rest)`` by name."""

    def __init__(
        self, maps: Mapping[str, int], shape: tuple[int, ...], rest: tuple[int, ...]
    ) -> None:
        self.shape = shape
        self.first, self.last = 0, 0
        self.rows = {
            name: np.zeros((channels, 0, *rest), np.float32) for name, channels in maps.items()
        }

    def reach(self, first: int, end: int) -> Iterator[tuple[int, Maps]]:
        """Give rows before ``first`` away; have room up to ``end``."""
        ready = first - self.first
        if ready > 0:
            inside = min(first, self.shape[0]) - self.first
            crop = (slice(None), slice(0, inside), *(slice(0, n) for n in self.shape[1:]))
            if inside > 0:
                yield self.first, {name: rows[crop] for name, rows in self.rows.items()}
        if ready > 0 or end > self.last:
            more = max(0, end - self.last)
            for name, rows in self.rows.items():
                room = np.zeros((rows.shape[0], more, *rows.shape[2:]), np.float32)
                self.rows[name] = np.concatenate([rows[:, max(0, ready) :], room], 1)
            self.first = max(self.first, first)
            self.last += more

    def add(self, name: str, start: tuple[int, ...], window: Array) -> None:
        """Add one weighted window ``(K, *patch)``."""
        corner = (start[0] - self.first, *start[1:])
        place = tuple(slice(c, c + n) for c, n in zip(corner, window.shape[1:], strict=True))
        self.rows[name][(slice(None), *place)] += window


def estimate_bytes(
    shape: Sequence[int], patch: Sequence[int], *, channels: int, outputs: int, whole: bool = True
) -> int:
    """Memory that the walk itself will need, float32; the network's activations come on top.

    Args:
        shape: ``S`` of the prepared image, walked along its first axis.
        patch: As given to ``sliding_window``; flat patches count as one slice thick.
        channels: Channels of the image.
        outputs: Channels of all maps together.
        whole: True for ``sliding_window``, False for ``sweep``.
    """
    patch = (1,) * (len(shape) - len(patch)) + tuple(patch)
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    image = 2 * channels * math.prod(padded)
    rows = 2 * outputs * min(2 * patch[0], padded[0]) * math.prod(padded[1:])
    windows = 3 * outputs * math.prod(patch)
    return 4 * (image + rows + windows + (2 * outputs * math.prod(shape) if whole else 0))


def _check(
    image: Array,
    patch: Sequence[int],
    overlap: float,
    mirror_axes: Sequence[int],
    slice_axis: int | None,
) -> tuple[int, ...]:
    """The patch with one entry an axis of the image."""
    ndim = image.ndim - 1
    flat = slice_axis is not None
    if len(patch) != ndim - flat or min(patch) < 1:
        raise ConfigError(
            f"expected a patch of {ndim - flat} positive sizes for an image {tuple(image.shape)}"
            f"{f' cut along axis {slice_axis}' if flat else ''}, got {tuple(patch)}",
            code="patch",
        )
    if flat and not 0 <= (slice_axis or 0) < ndim:
        raise ConfigError(f"expected a slice axis below {ndim}, got {slice_axis}", code="patch")
    if not 0 <= overlap < 1:
        raise ConfigError(f"expected an overlap of 0 to below 1, got {overlap}", code="overlap")
    if any(not 0 <= axis < len(patch) for axis in mirror_axes):
        raise ConfigError(
            f"expected mirror axes below {len(patch)}, got {tuple(mirror_axes)}", code="mirror"
        )
    return ((1,) if flat else ()) + tuple(int(p) for p in patch)


def _pad(volume: Array, patch: tuple[int, ...]) -> Array:
    """Zeros at the end of every axis that is shorter than the patch."""
    missing = [max(0, p - n) for n, p in zip(volume.shape[1:], patch, strict=True)]
    return np.pad(volume, [(0, 0), *((0, n) for n in missing)]) if any(missing) else volume


def _window(
    volume: Array, start: tuple[int, ...], patch: tuple[int, ...], neighbours: int, flat: bool
) -> Array:
    place = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    if not flat:
        return volume[(slice(None), *place)]
    last = volume.shape[1] - 1
    rest = place[1:]
    slices = [min(max(start[0] + n, 0), last) for n in range(-neighbours, neighbours + 1)]
    return np.concatenate([volume[:, k][(slice(None), *rest)] for k in slices])


def _averaged(
    infer: Infer, windows: Array, mirror_axes: Sequence[int], maps: Mapping[str, int]
) -> dict[str, Array]:
    """Maps ``(B, K, *patch)``, averaged over all combinations of mirrored axes."""
    flips = mirrorings(mirror_axes)
    total: dict[str, Array] = {}
    for flip in flips:
        axes = tuple(axis + 2 for axis in flip)
        outputs = infer(np.ascontiguousarray(np.flip(windows, axes)) if axes else windows)
        for name, channels in maps.items():
            expected_shape = (windows.shape[0], channels, *windows.shape[2:])
            if outputs[name].shape != expected_shape:
                raise GeometryError(
                    f"expected {name} {expected_shape} from the network, got {outputs[name].shape}",
                    code="network-output",
                )
            back = np.flip(outputs[name], axes) if axes else outputs[name]
            total[name] = total[name] + back if name in total else back
    return {name: summed / np.float32(len(flips)) for name, summed in total.items()}


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of axes, the empty one first."""
    ordered = sorted(set(axes))
    return [
        combination
        for n in range(len(ordered) + 1)
        for combination in itertools.combinations(ordered, n)
    ]
