"""Gaussian filtering of scattered points, ``(N, d)`` and ``(N, L) -> (N, L)``, in time linear in N.

The permutohedral lattice (Adams, Baek & Davis 2010, doi:10.1111/j.1467-8659.2009.01645.x): space
is cut into simplices of ``d + 1`` corners. Values are spread over the corners of the simplex that a
point lies in, blurred from corner to corner along the ``d + 1`` directions of the lattice, and read
back with the same weights. Only corners that a point touches exist.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from delineate.core.errors import ResourceError

#: Points embedded at once: bounds what the embedding needs beside its result.
_CHUNK = 1 << 18
#: Points spread or read at once.
_ROWS = 1 << 20


class Lattice:
    """The lattice about some points, ready to filter any values that stand at them.

    Args:
        points: ``(N, d)`` float32, in standard deviations of the Gaussian.
        columns: ``L`` of the values that will be filtered; only ``most`` depends on it.
        most: Bytes that the corners may take; how many there are depends on the points.

    Raises:
        ResourceError: The points lie so far apart that corners cannot be numbered, or that there
            are too many of them.
    """

    def __init__(self, points: Tensor, columns: int = 1, most_bytes: float = math.inf) -> None:
        count, d = points.shape
        self.corners = torch.empty((d + 1, count), dtype=torch.int32, device=points.device)
        self.weights = torch.empty((d + 1, count), dtype=torch.float32, device=points.device)
        embed = _embedding(d).to(points)
        parts = torch.split(points, _CHUNK)
        # Corners lie within d + 1 of their points, and blurring looks d + 1 further.
        ends = [torch.aminmax(part @ embed, dim=0) for part in parts]
        low = torch.stack([e.min for e in ends]).amin(0)[:d].floor().long() - 2 * (d + 1)
        high = torch.stack([e.max for e in ends]).amax(0)[:d].ceil().long() + 2 * (d + 1)
        spans = (high - low + 1).tolist()
        if math.prod(spans) >= 2**62:
            raise ResourceError(
                f"expected points that spread less, got {d} features over {spans} lattice steps",
                fix="use wider kernels or fewer channels",
                code="lattice",
            )
        strides = [math.prod(spans[i + 1 :]) for i in range(d)]
        stride = torch.tensor(strides, device=points.device)
        keys_of_part, local = [], 0
        for part in parts:
            columns_of_part = slice(local, local := local + len(part))
            keys, weights = _simplices(part @ embed, low, stride)
            unique, place = torch.unique(keys, return_inverse=True)
            self.corners[:, columns_of_part], self.weights[:, columns_of_part] = (
                place.int(),
                weights,
            )
            keys_of_part.append(unique)
            _check(24 * sum(map(len, keys_of_part)), most_bytes)  # they will be sorted together
        keys = torch.unique(torch.cat(keys_of_part)) if len(keys_of_part) > 1 else keys_of_part[0]
        for unique, corners in zip(
            keys_of_part, torch.split(self.corners, _CHUNK, dim=1), strict=True
        ):
            renumber = torch.searchsorted(keys, unique).int()
            corners.copy_(renumber[corners])
        self.size = len(keys)
        _check(self.size * (8 * (d + 1) + 32 + 12 * columns), most_bytes)
        self._steps = _neighbours(keys, strides)
        norm = self._filter(torch.ones((count, 1), device=points.device))
        self._root = norm.add_(1e-20).rsqrt_()

    def __call__(self, values: Tensor) -> Tensor:
        """Filter ``(N, L)`` with the Gaussian ``D^-1/2 K D^-1/2``, where ``D`` is the sum of K.

        A point counts itself. Normalised this way the kernel is symmetric and its greatest
        eigenvalue is one, and its factor does not matter.
        """
        return self._filter(values * self._root).mul_(self._root)

    def _filter(self, values: Tensor) -> Tensor:
        table = values.new_zeros((self.size + 1, values.shape[1]))  # the last row stays zero
        pieces = zip(
            *(torch.split(t, _ROWS, dim=1) for t in (self.corners, self.weights)), strict=True
        )
        for part, (corners, weights) in zip(torch.split(values, _ROWS), pieces, strict=True):
            for corner, weight in zip(corners, weights, strict=True):
                # Indices of 64 bits take a path that is ten times faster.
                table.index_add_(0, corner.long(), part * weight[:, None])
        for before, after in self._steps:
            beside = table.index_select(0, before).add_(table.index_select(0, after))
            table[:-1] += beside.mul_(0.5)
        result = torch.empty_like(values)
        pieces = zip(
            *(torch.split(t, _ROWS, dim=1) for t in (self.corners, self.weights)), strict=True
        )
        for part, (corners, weights) in zip(torch.split(result, _ROWS), pieces, strict=True):
            part.zero_()
            for corner, weight in zip(corners, weights, strict=True):
                part.addcmul_(table.index_select(0, corner), weight[:, None])
        return result


def _check(needed: int, most_bytes: float) -> None:
    if needed > most_bytes:
        raise ResourceError(
            f"expected the lattice to fit into {most_bytes / 2**30:.3g} GiB, but it takes "
            f"{needed / 2**30:.3g} GiB: hardly two voxels are alike",
            fix="use wider kernels or fewer channels, or allow more memory",
            code="lattice",
        )


def _embedding(d: int) -> Tensor:
    """``(d, d + 1)``: onto the plane of zero sum, so scaled that blurring has unit variance."""
    rows = torch.zeros((d, d + 1), dtype=torch.float64)
    for i in range(1, d + 1):
        rows[i - 1, :i] = 1
        rows[i - 1, i] = -i
        rows[i - 1] /= math.sqrt(i * (i + 1))
    return rows * (d + 1) * math.sqrt(2 / 3)


def _simplices(points: Tensor, low: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
    """Corners of the simplex about each point, and the point's barycentric weights.

    Args:
        points: ``(n, d + 1)`` of zero sum.
        low: ``(d,)`` least coordinate of a corner.
        stride: ``(d,)`` by which coordinates are packed into one number.

    Returns:
        ``(d + 1, n)`` packed corners and weights.
    """
    size = points.shape[1]
    base = torch.round(points / size).mul_(size)
    excess = torch.round(base.sum(1) / size).int()
    rank = _ranks(points - base) + excess[:, None]
    wrap = (rank < 0).int() - (rank >= size).int()  # back onto the plane: the worst rounded move
    base += wrap * size
    rank = (rank + wrap * size).long()
    rest = (points - base) / size
    ordered = torch.empty_like(rest).scatter_(1, rank, rest)  # descending
    weights = torch.empty_like(rest)
    weights[:, 1:] = (ordered[:, :-1] - ordered[:, 1:]).flip(1)
    weights[:, 0] = 1 + ordered[:, -1] - ordered[:, 0]
    origin = ((base[:, :-1].long() - low) * stride).sum(1)
    keys = torch.empty((size, len(points)), dtype=torch.int64, device=points.device)
    for k in range(size):
        offset = torch.where(rank[:, :-1] < size - k, k, k - size)
        keys[k] = origin + (offset * stride).sum(1)
    return keys, weights.T


def _ranks(values: Tensor) -> Tensor:
    """Place of each entry among its row in descending order, ties by position."""
    rank = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
    for i in range(values.shape[1]):
        for j in range(i + 1, values.shape[1]):
            later = (values[:, i] < values[:, j]).int()
            rank[:, i] += later
            rank[:, j] += 1 - later
    return rank


def _neighbours(keys: Tensor, strides: list[int]) -> list[tuple[Tensor, Tensor]]:
    """For each of the ``d + 1`` directions, the corners before and after each; M where none is.

    Args:
        keys: ``(M,)`` packed corners, ascending.
        strides: As they were packed.
    """
    size = len(strides) + 1
    neighbours = []
    for along in range(size):
        step = sum(strides) - (size * strides[along] if along < size - 1 else 0)
        sides = []
        for sign in (-1, 1):
            neighbour_keys = keys + sign * step
            place = torch.searchsorted(keys, neighbour_keys).clamp_(max=len(keys) - 1)
            missing = keys[place] != neighbour_keys
            sides.append(place.masked_fill_(missing, len(keys)).int())
        neighbours.append((sides[0], sides[1]))
    return neighbours
