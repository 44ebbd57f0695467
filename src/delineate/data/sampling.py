"""Which patch a step sees: pure in (seed, step), so a run can be replayed from any step.

A third of the patches is centred on a labelled structure, every structure of a case as likely as
the others, as in nnU-Net; the rest falls anywhere, or, where part of a case is not annotated, on
any voxel that is. Where there is a second pool, of cases without labels, half of the patches comes
from there and falls anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import InputError
from delineate.core.schema import IGNORED


class Prepared(Protocol):
    """What sampling needs of a prepared case."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, *S)``, known without opening a file."""

    @property
    def image(self) -> NDArray[np.float32]:
        """``(C, *S)``."""

    @property
    def label(self) -> NDArray[np.uint8] | None:
        """``(*S)`` label indices."""

    @property
    def samples(self) -> Mapping[int, NDArray[Any]]:
        """Label index -> voxels of that label, ``(n, nd)``; 0: of all that is annotated."""


@dataclass(frozen=True)
class Region:
    """What to read: size along each axis, and how a 2D network slices a volume.

    Args:
        size: ``(nd,)`` voxels of the network's dimensions.
        slice_axis: Array axis that 2D networks step along, None where there is none.
        neighbours: Slices to each side that join as channels.
        patch: Middle of the region, which stays inside the case; what is around it need not.
            None: the whole region stays inside.
    """

    size: tuple[int, ...]
    slice_axis: int | None = None
    neighbours: int = 0
    patch: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Draw:
    """One patch to read: which case of which pool, and the voxel at its centre."""

    case: int
    centre: tuple[int, ...]
    labelled: bool = True


def draw(
    cases: Sequence[Prepared],
    batch: int,
    seed: int,
    step: int,
    *,
    foreground: float = 1 / 3,
    unlabelled: Sequence[Prepared] = (),
) -> list[Draw]:
    """Choose the patches of one step, those with labels first.

    Args:
        cases: Prepared cases with labels.
        batch: Number of patches.
        seed: Of the run.
        step: Counted from 0; cases are shuffled once an epoch and none is left out.
        foreground: Share of labelled patches centred on a structure, rounded; at least one where
            there are two or more.
        unlabelled: The second pool, if there is one.

    Raises:
        InputError: There is no case.
    """
    if not cases:
        raise InputError(
            "expected at least one prepared case to sample from, got none", code="no-cases"
        )
    batch, others, step = share(batch, step) if unlabelled else (batch, 0, step)
    rng = np.random.default_rng((seed, step, 0, 0xD5A))
    oversampled = max(1, round(batch * foreground)) if foreground > 0 else 0
    forced = oversampled if batch != 1 else int(rng.random() < foreground)
    draws = []
    for i, index in enumerate(_in_turn(len(cases), batch, seed, step)):
        draws.append(Draw(index, _centre(cases[index], rng, structure=i >= batch - forced)))
    rng = np.random.default_rng((seed, step, 1, 0xD5A))
    for index in _in_turn(len(unlabelled), others, seed, step, pool=1):
        draws.append(Draw(index, _centre(unlabelled[index], rng, structure=False), labelled=False))
    return draws


def share(batch: int, step: int) -> tuple[int, int, int]:
    """How many samples of a step come from each of two pools, and how often both gave before.

    Half of them are labelled, of an odd number one more; batches of one are so in turn.
    """
    if batch == 1:
        return 1 - step % 2, step % 2, step // 2
    return batch - batch // 2, batch // 2, step


def _in_turn(count: int, batch: int, seed: int, step: int, pool: int = 0) -> list[int]:
    """Cases of a pool that a step sees: each once an epoch, in an order of the epoch's own."""
    places = (divmod(i, count) for i in range(step * batch, (step + 1) * batch))
    return [int(_order(seed, epoch, count, pool)[offset]) for epoch, offset in places]


@lru_cache(maxsize=4)  # a hundred thousand slices take 4 ms to shuffle
def _order(seed: int, epoch: int, count: int, pool: int) -> NDArray[np.int64]:
    """Order of the cases of a pool in an epoch."""
    key = (seed, epoch, pool, 0xE90) if pool else (seed, epoch, 0xE90)
    return np.random.default_rng(key).permutation(count)


def _centre(case: Prepared, rng: np.random.Generator, structure: bool) -> tuple[int, ...]:
    """A random annotated voxel of the case; of a structure if asked for and there is one."""
    present = sorted(key for key, voxels in case.samples.items() if key and len(voxels))
    voxels = case.samples.get(0, ())
    if structure and present:
        voxels = case.samples[present[int(rng.integers(len(present)))]]
    if len(voxels):
        return tuple(int(v) for v in voxels[int(rng.integers(len(voxels)))])
    return tuple(int(rng.integers(n)) for n in case.shape[1:])


def read(
    case: Prepared, centre: Sequence[int], region: Region
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read a region around a voxel; where it leaves the case there is 0 and background.

    Where the case has no label map there is ``IGNORED`` throughout.

    Along an axis where the case is smaller than the patch, the case stays centred; where it is
    larger, the patch stays inside. The edge slice repeats where a neighbour is missing.

    Returns:
        ``(C', *size)`` and ``(*size)``; ``C' = C (2 neighbours + 1)`` for 2D networks on volumes.
    """
    channels = case.shape[0]
    places, target = _places(case.shape[1:], centre, region)
    image, label = case.image, case.label
    patch = np.zeros((channels * len(places), *region.size), np.float32)
    for i, place in enumerate(places):
        # basic indexing: only the pages of this part of the file are read
        patch[(slice(i * channels, (i + 1) * channels), *target)] = image[(slice(None), *place)]
    mask = np.full(region.size, 0 if label is not None else IGNORED, np.uint8)
    if label is not None:
        mask[target] = label[places[len(places) // 2]]
    return patch, mask


def read_like(array: NDArray[Any], centre: Sequence[int], region: Region) -> NDArray[np.float32]:
    """Read the same region of an array ``(K, *S)`` on the case's grid: ``(K, *size)``.

    Of several slices the middle one; NaN where the region leaves the case.
    """
    places, target = _places(array.shape[1:], centre, region)
    patch = np.full((len(array), *region.size), np.nan, np.float32)
    patch[(slice(None), *target)] = array[(slice(None), *places[len(places) // 2])]
    return patch


def _places(
    spatial: Sequence[int], centre: Sequence[int], region: Region
) -> tuple[list[tuple[slice | int, ...]], tuple[slice, ...]]:
    """Where each slice of the region lies in the case, and where that part lies in the region."""
    shape, position, axis = list(spatial), list(centre), region.slice_axis
    slices: list[int] = []
    if axis is not None and len(shape) == 3:
        last, centre_slice = shape.pop(axis) - 1, position.pop(axis)
        around = range(centre_slice - region.neighbours, centre_slice + region.neighbours + 1)
        slices = [min(max(k, 0), last) for k in around]
    source, target = _window(shape, position, region)
    places: list[tuple[slice | int, ...]] = [source]
    if slices:
        places = [(*source[:axis], k, *source[axis:]) for k in slices]
    return places, target


def _window(
    shape: Sequence[int], centre: Sequence[int], region: Region
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the region lies in the case, and where that part of the case lies in the region."""
    source, target = [], []
    for n, size, keep, c in zip(
        shape, region.size, region.patch or region.size, centre, strict=True
    ):
        start = (n - keep) // 2 if n <= keep else min(max(c - keep // 2, 0), n - keep)
        start -= (size - keep) // 2
        low, high = max(start, 0), min(start + size, n)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    return tuple(source), tuple(target)
