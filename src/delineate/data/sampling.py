"""Which patch a step sees: pure in (seed, step), so a run can be replayed from any step.

A third of the patches is centred on a labelled structure, every structure of a case as likely as
the others, as in nnU-Net; the rest falls anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Prepared(Protocol):
    """What sampling needs of a prepared case."""

    @property
    def image(self) -> NDArray[np.float32]:
        """``(C, *S)``."""

    @property
    def label(self) -> NDArray[np.uint8] | None:
        """``(*S)`` label indices."""

    @property
    def samples(self) -> Mapping[int, NDArray[Any]]:
        """Label index -> voxels of that label, ``(n, nd)``."""


@dataclass(frozen=True)
class Region:
    """What to read: size along each axis, and how a 2D network slices a volume.

    Args:
        size: ``(nd,)`` voxels of the network's dimensions.
        slice_axis: Array axis that 2D networks step along, None where there is none.
        neighbours: Slices to each side that join as channels.
    """

    size: tuple[int, ...]
    slice_axis: int | None = None
    neighbours: int = 0


@dataclass(frozen=True)
class Draw:
    """One patch to read: which case, and the voxel at its centre."""

    case: int
    centre: tuple[int, ...]


def draw(
    cases: Sequence[Prepared],
    batch: int,
    seed: int,
    step: int,
    *,
    foreground: float = 1 / 3,
    rank: int = 0,
) -> list[Draw]:
    """Choose the patches of one step.

    Args:
        cases: Prepared cases with labels.
        batch: Number of patches.
        seed: Of the run.
        step: Counted from 0; cases are shuffled once an epoch and none is left out.
        foreground: Share of patches centred on a structure (at least one where there are two).
        rank: Of this process among several.
    """
    rng = np.random.default_rng((seed, step, rank, 0xD5A))
    forced = round(batch * foreground) if batch > 1 else int(rng.random() < foreground)
    found = []
    for i in range(batch):
        place = (step * batch + i) + rank * 7919
        epoch, offset = divmod(place, len(cases))
        order = np.random.default_rng((seed, epoch, 0xE90)).permutation(len(cases))
        index = int(order[offset])
        found.append(Draw(index, _centre(cases[index], rng, structure=i >= batch - forced)))
    return found


def _centre(case: Prepared, rng: np.random.Generator, structure: bool) -> tuple[int, ...]:
    """A random voxel of the case; of a structure if asked for and there is one."""
    present = sorted(key for key, voxels in case.samples.items() if len(voxels))
    if structure and present:
        voxels = case.samples[present[int(rng.integers(len(present)))]]
        return tuple(int(v) for v in voxels[int(rng.integers(len(voxels)))])
    return tuple(int(rng.integers(n)) for n in case.image.shape[1:])


def read(
    case: Prepared, centre: Sequence[int], region: Region
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read a region around a voxel; where it leaves the case there is 0 and background.

    Along an axis where the case is smaller than the region, the case stays centred; where it is
    larger, the region stays inside.

    Returns:
        ``(C', *size)`` and ``(*size)``; ``C' = C (2 neighbours + 1)`` for 2D networks on volumes.
    """
    image, label = case.image, case.label
    if region.slice_axis is not None and image.ndim == 4:
        axis = region.slice_axis
        image, label, centre = _slice(image, label, list(centre), axis, region.neighbours)
    shape = image.shape[1:]
    source, target = [], []
    for n, size, c in zip(shape, region.size, centre, strict=True):
        start = (n - size) // 2 if n <= size else min(max(c - size // 2, 0), n - size)
        low, high = max(start, 0), min(start + size, n)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    patch = np.zeros((image.shape[0], *region.size), np.float32)
    patch[(slice(None), *target)] = image[(slice(None), *source)]
    mask = np.zeros(region.size, np.uint8)
    if label is not None:
        mask[tuple(target)] = label[tuple(source)]
    return patch, mask


def _slice(
    image: NDArray[np.float32],
    label: NDArray[np.uint8] | None,
    centre: list[int],
    axis: int,
    neighbours: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, list[int]]:
    """One slice with its neighbours as channels; the edge slice repeats."""
    last = image.shape[axis + 1] - 1
    at = centre.pop(axis)
    wanted = [min(max(at + o, 0), last) for o in range(-neighbours, neighbours + 1)]
    flat = np.concatenate([image.take(k, axis + 1) for k in wanted])
    return flat, None if label is None else label.take(at, axis), centre
