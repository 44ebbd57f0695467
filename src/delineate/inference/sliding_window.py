"""Predict an image of any size with a network of one patch size: ``(C, *S) -> (outputs, *S)``.

Windows lie on a regular, evenly spread lattice. Where they overlap, the softmax outputs are
averaged with Gaussian weights (sigma = patch / 8), which trust the middle of a window more than
its rim (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). A Gaussian on a lattice is a product
of one-dimensional factors, so each factor is divided by its own sum over the windows beforehand:
the weights are a partition of unity and nothing need be divided at the end. That is what makes it
cheap to finish and free the image row by row (``sweep``).

A flat network on a volume is the same walk with windows one slice thick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError, GeometryError

#: Least share of a window that the next one covers too.
OVERLAP = 0.5
#: Told (windows done, windows in all).
Tick = Callable[[int, int], None]
#: Told (first row, finished probabilities ``(outputs, rows, *rest)`` on the CPU).
Consumer = Callable[[int, Tensor], None]


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First indices of evenly spread windows that cover ``size`` with at least ``overlap``."""
    if size <= patch:
        return [0]
    step = max(1.0, patch * (1 - overlap))
    count = math.ceil((size - patch) / step) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def gaussian_weights(patch: int) -> Tensor:
    """``(patch,)`` float64 Gaussian of sigma patch / 8, one at the middle, never zero."""
    x = torch.arange(patch, dtype=torch.float64) - (patch - 1) / 2
    return torch.exp(-0.5 * (x / (patch / 8)) ** 2)


def lattice_weights(size: int, patch: int, starts: Sequence[int]) -> list[Tensor]:
    """For each window its ``(patch,)`` weights; over all windows they sum to one at each index."""
    gauss = gaussian_weights(patch)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + patch] += gauss
    return [(gauss / total[start : start + patch]).float() for start in starts]


@dataclass(frozen=True)
class _Walk:
    """The lattice over one padded image, axis 0 being walked slowest."""

    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    weights: tuple[dict[int, Tensor], ...]

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

    def weight(self, start: tuple[int, ...]) -> Tensor:
        """``(*patch)`` weight of one window."""
        product = torch.ones(())
        for axis, index in enumerate(start):
            product = product.unsqueeze(-1) * self.weights[axis][index]
        return product

    def __len__(self) -> int:
        return math.prod(len(s) for s in self.starts)


def sliding_window(
    network: nn.Module,
    image: Tensor,
    patch: Sequence[int],
    *,
    outputs: int,
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    slice_axis: int | None = None,
    neighbours: int = 0,
    device: torch.device | str = "cpu",
    progress: Tick | None = None,
) -> Tensor:
    """Class probabilities of a whole image.

    Args:
        network: ``(B, C', *patch) -> logits (B, outputs, *patch)``; set to ``eval``.
        image: ``(C, *S)`` float32.
        patch: Window; an image that is smaller is padded with 0 (the mean of a z-scored image).
        outputs: Output channels, background included.
        overlap: Least share of a window that the next one covers too.
        batch: Windows a forward pass.
        mirror_axes: Axes of the patch; all combinations of mirrored passes are averaged.
        slice_axis: For a flat network on a volume: the axis of ``S`` that is cut in slices.
        neighbours: Adjacent slices on either side that are given as channels too, in the order
            of their position and the C channels of each together; the rim repeats the last slice.
        device: Where the network runs.
        progress: Called after each batch with windows done and windows in all.

    Returns:
        ``(outputs, *S)`` float32 on the CPU; sums to 1 over the outputs.

    Raises:
        ConfigError: Patch, overlap or axes do not fit the image.
        GeometryError: The network's output has another shape than promised.
    """
    _check(image, patch, overlap, mirror_axes, slice_axis)
    axis = slice_axis or 0
    shape = list(image.shape[1:])
    whole = torch.empty([outputs, shape[axis], *shape[:axis], *shape[axis + 1 :]])

    def keep(row: int, block: Tensor) -> None:
        whole[:, row : row + block.shape[1]] = block

    sweep(
        network,
        image,
        patch,
        keep,
        outputs=outputs,
        overlap=overlap,
        batch=batch,
        mirror_axes=mirror_axes,
        slice_axis=slice_axis,
        neighbours=neighbours,
        device=device,
        progress=progress,
    )
    return whole.movedim(1, axis + 1).contiguous()


@torch.inference_mode()
def sweep(
    network: nn.Module,
    image: Tensor,
    patch: Sequence[int],
    consumer: Consumer,
    *,
    outputs: int,
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror_axes: Sequence[int] = (),
    slice_axis: int | None = None,
    neighbours: int = 0,
    device: torch.device | str = "cpu",
    progress: Tick | None = None,
) -> None:
    """As ``sliding_window``, but finished rows go to ``consumer`` and are then freed.

    Rows run along the first spatial axis, or along ``slice_axis`` where one is given. Only the
    rows that unfinished windows touch are held.
    """
    patch = _check(image, patch, overlap, mirror_axes, slice_axis)
    volume = image if slice_axis is None else image.movedim(slice_axis + 1, 1)
    shape = tuple(volume.shape[1:])
    volume = _pad(volume, patch)
    walk = _Walk.over(volume.shape[1:], patch, overlap)
    store = _Store(consumer, shape, outputs, tuple(volume.shape[2:]))
    network.eval()
    done = 0
    for starts in walk.batches(batch):
        windows = torch.stack(
            [_window(volume, s, patch, neighbours, slice_axis is not None) for s in starts]
        )
        found = _probabilities(network, windows.to(device), mirror_axes, outputs).cpu()
        if slice_axis is not None:
            found = found.unsqueeze(2)
        store.reach(starts[0][0], starts[-1][0] + patch[0])
        for start, window in zip(starts, found, strict=True):
            store.add(start, window * walk.weight(start))
        done += len(starts)
        if progress is not None:
            progress(done, len(walk))
    store.reach(volume.shape[1], volume.shape[1])


class _Store:
    """The rows that are not finished yet, ``(outputs, rows, *padded rest)``."""

    def __init__(
        self, consumer: Consumer, shape: tuple[int, ...], outputs: int, rest: tuple[int, ...]
    ) -> None:
        self.consumer, self.shape = consumer, shape
        self.first = 0
        self.rows = torch.zeros(outputs, 0, *rest)

    def reach(self, first: int, end: int) -> None:
        """Give rows before ``first`` away; have room up to ``end``."""
        ready = first - self.first
        last = self.first + self.rows.shape[1]
        if ready > 0:
            inside = min(first, self.shape[0]) - self.first
            crop = tuple(slice(0, n) for n in self.shape[1:])
            if inside > 0:
                self.consumer(self.first, self.rows[(slice(None), slice(0, inside), *crop)])
        if ready > 0 or end > last:
            room = self.rows.new_zeros(
                self.rows.shape[0], max(0, end - max(first, last)), *self.rows.shape[2:]
            )
            self.rows = torch.cat([self.rows[:, max(0, ready) :], room], 1)
            self.first = max(self.first, first)

    def add(self, start: tuple[int, ...], window: Tensor) -> None:
        """Add one weighted window ``(outputs, *patch)``."""
        corner = (start[0] - self.first, *start[1:])
        place = tuple(slice(c, c + n) for c, n in zip(corner, window.shape[1:], strict=True))
        self.rows[(slice(None), *place)] += window


def estimate_bytes(
    shape: Sequence[int], patch: Sequence[int], *, channels: int, outputs: int, whole: bool = True
) -> int:
    """Memory that the walk itself will need, float32; the network's activations come on top.

    Args:
        shape: ``S`` of the prepared image, walked along its first axis.
        patch: As given to ``sliding_window``; flat patches count as one slice thick.
        channels: Channels of the image.
        outputs: Output channels.
        whole: True for ``sliding_window``, False for ``sweep``.
    """
    patch = (1,) * (len(shape) - len(patch)) + tuple(patch)
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    image = 2 * channels * math.prod(padded)
    rows = 2 * outputs * min(2 * patch[0], padded[0]) * math.prod(padded[1:])
    windows = 3 * outputs * math.prod(patch)
    return 4 * (image + rows + windows + (2 * outputs * math.prod(shape) if whole else 0))


def _check(
    image: Tensor,
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


def _pad(volume: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Zeros at the end of every axis that is shorter than the patch."""
    missing = [max(0, p - n) for n, p in zip(volume.shape[1:], patch, strict=True)]
    if not any(missing):
        return volume
    return nn.functional.pad(volume, [x for n in reversed(missing) for x in (0, n)])


def _window(
    volume: Tensor, start: tuple[int, ...], patch: tuple[int, ...], neighbours: int, flat: bool
) -> Tensor:
    place = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
    if not flat:
        return volume[(slice(None), *place)]
    last = volume.shape[1] - 1
    rest = place[1:]
    slices = [min(max(start[0] + n, 0), last) for n in range(-neighbours, neighbours + 1)]
    return torch.cat([volume[:, k][(slice(None), *rest)] for k in slices])


def _probabilities(
    network: nn.Module, windows: Tensor, mirror_axes: Sequence[int], outputs: int
) -> Tensor:
    """Softmax, averaged over all combinations of mirrored axes, ``(B, outputs, *patch)``."""
    axes = [axis + 2 for axis in sorted(set(mirror_axes))]
    flips = [f for n in range(len(axes) + 1) for f in itertools.combinations(axes, n)]
    total: Tensor | None = None
    for flip in flips:
        logits = network(windows.flip(flip) if flip else windows)
        if tuple(logits.shape) != (windows.shape[0], outputs, *windows.shape[2:]):
            raise GeometryError(
                f"expected logits ({windows.shape[0]}, {outputs}, *{tuple(windows.shape[2:])}) "
                f"from the network, got {tuple(logits.shape)}",
                code="network-output",
            )
        found = torch.softmax(logits.float(), 1)
        found = found.flip(flip) if flip else found
        total = found if total is None else total + found
    if total is None:  # there is always the pass without a flip
        raise ConfigError("no pass to average", code="mirror")
    return total / len(flips)
