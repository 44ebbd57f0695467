"""Fully connected CRF: ``(L, *S)`` probabilities and a ``(C, *S)`` image -> ``(L, *S)``.

Every voxel is joined to every other. The energy has the network's ``-log p`` and, for each pair of
voxels with different labels, a penalty of two Gaussians: one of their distance (smoothness) and one
of distance and difference in intensity (appearance). Mean field inference with Potts compatibility
(Krähenbühl & Koltun 2011, arXiv:1210.5644, algorithm 1); DeepLab v1 and v2 end in it
(arXiv:1412.7062, section 4.1; arXiv:1606.00915, section 3.3). Kernels are normalised as
``D^-1/2 K D^-1/2`` and a voxel counts itself, as in the authors' program.

The smoothness kernel is a separable convolution; the appearance kernel is filtered on a
permutohedral lattice, whose cost grows linearly with the voxels and the channels.

What comes out is a marginal of the CRF, not a calibrated probability: it is surer than it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from delineate.core.errors import ConfigError, GeometryError
from delineate.inference._lattice import Lattice

#: A network that is wholly sure may still be outvoted.
_FLOOR = 1e-5
#: Share of voxels, at either end, that does not count for a channel's range.
_TAIL = 0.005
#: The smoothness kernel ends after so many standard deviations.
_REACH = 4.0
#: Exact filtering holds so many entries of the kernel at once.
_ENTRIES = 1 << 24
#: Voxels from which the range of a channel is read.
_SAMPLE = 1 << 20

Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    """Settings of the CRF.

    The defaults are gentle: outlines that are good already must stay so. DeepLab's are weights of
    3 to 10 and 3, 30 to 100 pixels with 3 to 10 grey levels of 255, 3 pixels, 10 iterations.
    """

    appearance_weight: float = field(
        default=2.0, metadata={"help": "weight of the kernel of position and intensity; 0: none"}
    )
    appearance_mm: float = field(
        default=5.0, metadata={"help": "its width in position, millimetres"}
    )
    intensity: float = field(
        default=0.05,
        metadata={"help": "its width in intensity, as a share of each channel's range"},
    )
    smoothness_weight: float = field(
        default=0.3, metadata={"help": "weight of the kernel of position alone; 0: none"}
    )
    smoothness_mm: float = field(default=1.5, metadata={"help": "its width, millimetres"})
    iterations: int = field(default=5, metadata={"help": "mean field iterations"})

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            free = name.endswith("weight")
            if not math.isfinite(value) or value < 0 or (value == 0 and not free):
                raise ConfigError(
                    f"{name}: expected a number {'of at least' if free else 'above'} 0, "
                    f"got {value}",
                    code="crf",
                )


@torch.no_grad()
def refine(
    probabilities: Tensor,
    image: Tensor,
    spacing_mm: Sequence[float],
    config: Config | None = None,
    *,
    exact: bool = False,
    memory_bytes: int | None = None,
) -> Tensor:
    """Draw a segmentation to the edges of its image.

    Args:
        probabilities: ``(L, *S)``, summing to one over L; flat or volumes.
        image: ``(C, *S)`` on the same grid and device, any number of channels.
        spacing_mm: Size of a voxel along each axis of ``S``.
        config: Weights and widths.
        exact: Sum over all pairs of voxels: time grows with their square, for a few thousand.
        memory_bytes: May be used beside the arguments; a noisy image under narrow kernels
            has many more corners than a smooth one.

    Returns:
        ``(L, *S)`` float32, summing to one over L.

    Raises:
        GeometryError: Shapes that do not belong together.
        ResourceError: The lattice of the appearance kernel would not fit (code ``lattice``).
    """
    shape = tuple(probabilities.shape[1:])
    if tuple(image.shape[1:]) != shape or len(spacing_mm) != len(shape) or not shape:
        raise GeometryError(
            f"expected an image (C, {', '.join(map(str, shape))}) and {len(shape)} spacings for "
            f"probabilities {tuple(probabilities.shape)}, got {tuple(image.shape)} and "
            f"{tuple(spacing_mm)}",
            code="crf-shape",
        )
    ready = prepare(
        image, spacing_mm, len(probabilities), config, exact=exact, memory_bytes=memory_bytes
    )
    return ready(probabilities)


@torch.no_grad()
def prepare(
    image: Tensor,
    spacing_mm: Sequence[float],
    outputs: int,
    config: Config | None = None,
    *,
    exact: bool = False,
    memory_bytes: int | None = None,
) -> Filter:
    """All of :func:`refine` that follows from the image alone.

    Done before there are probabilities, it shows early whether memory is enough.

    Args:
        image: ``(C, *S)``.
        spacing_mm: Size of a voxel along each axis of ``S``.
        outputs: ``L``.
        config: Weights and widths.
        exact: As for ``refine``.
        memory_bytes: As for ``refine``.

    Returns:
        From ``(L, *S)`` to ``(L, *S)``.

    Raises:
        ResourceError: The lattice of the appearance kernel would not fit (code ``lattice``).
    """
    config = config or Config()
    shape = tuple(image.shape[1:])
    kernels: list[tuple[float, Filter]] = []
    if config.smoothness_weight:
        widths = [config.smoothness_mm / mm for mm in spacing_mm]
        points = _positions(shape, widths, image.device) if exact else None
        smooth = _Separable(shape, widths, image.device) if points is None else _exact(points)
        kernels.append((config.smoothness_weight, smooth))
    if config.appearance_weight:
        widths = [config.appearance_mm / mm for mm in spacing_mm]
        position = _positions(shape, widths, image.device)
        points = torch.cat([position, _intensities(image) / config.intensity], dim=1)
        del position
        lattice_bytes = math.inf
        if memory_bytes is not None:
            lattice_bytes = memory_bytes - estimate_bytes(
                shape, channels=len(image), outputs=outputs
            )
        appear = _exact(points) if exact else _scattered(points, outputs, lattice_bytes)
        kernels.append((config.appearance_weight, appear))
        del points
    iterations = config.iterations

    @torch.no_grad()
    def infer(probabilities: Tensor) -> Tensor:
        unary = probabilities.float().clamp_min(_FLOOR).log_()
        refined = unary.softmax(0)
        for _ in range(iterations):
            energy = unary.clone()
            for weight, kernel in kernels:
                energy.add_(kernel(refined), alpha=weight)
            refined = torch.softmax(energy, 0)
        return refined

    return infer


def for_image(
    image: NDArray[Any],
    spacing_mm: Sequence[float],
    outputs: int,
    config: Config,
    memory_bytes: int,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """:func:`prepare` for who has arrays, as the rest of the room does."""
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    refine = prepare(tensor, spacing_mm, outputs, config, memory_bytes=memory_bytes)

    def infer(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = torch.from_numpy(probabilities).reshape(outputs, *tensor.shape[1:])
        refined: NDArray[np.float32] = refine(flat).numpy().reshape(probabilities.shape)
        return refined

    return infer


def estimate_bytes(shape: Sequence[int], *, channels: int, outputs: int) -> int:
    """Memory that :func:`refine` needs beside its arguments, less the corners of the lattice.

    Args:
        shape: ``S``.
        channels: Of the image.
        outputs: ``L``.
    """
    features = len(shape) + channels
    return 4 * math.prod(shape) * (3 * features + 6 * outputs + 10)


def _positions(shape: Sequence[int], widths: Sequence[float], device: torch.device) -> Tensor:
    """``(N, ndim)`` positions in standard deviations."""
    axes = [
        torch.arange(size, dtype=torch.float32, device=device) / width
        for size, width in zip(shape, widths, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _intensities(image: Tensor) -> Tensor:
    """``(N, C)`` with each channel's range (without its tails) scaled to one; flat ones to zero."""
    flat = image.flatten(1).float()
    sample = flat[:, :: max(1, flat.shape[1] // _SAMPLE)].sort(dim=1).values
    last = sample.shape[1] - 1
    low, high = sample[:, round(_TAIL * last)], sample[:, round((1 - _TAIL) * last)]
    span = torch.where(high > low, high - low, sample[:, -1] - sample[:, 0])[:, None]
    scaled = (flat - low[:, None]) / torch.where(span > 0, span, 1)
    return scaled.clamp_(-1, 2).T  # far outliers differ from all others as it is


class _Separable:
    """The normalised Gaussian of position as one convolution an axis, ``(L, *S) -> (L, *S)``."""

    def __init__(self, shape: Sequence[int], widths: Sequence[float], device: torch.device) -> None:
        self.taps = []
        for size, width in zip(shape, widths, strict=True):
            reach = min(math.ceil(_REACH * width), size - 1)
            x = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
            self.taps.append(torch.exp(-0.5 * (x / width) ** 2))
        # The sum of a product kernel over a box is a product of sums, one an axis.
        self.roots = []
        for axis, size in enumerate(shape):
            ones = torch.ones((1, 1, size), device=device)
            taps = self.taps[axis]
            total = F.conv1d(ones, taps[None, None], padding=len(taps) // 2)
            ends = [1] * (len(shape) + 1)
            ends[axis + 1] = size
            self.roots.append(total.rsqrt().reshape(ends))

    def __call__(self, values: Tensor) -> Tensor:
        for axis, (taps, root) in enumerate(zip(self.taps, self.roots, strict=True), start=1):
            values = _along(values * root, taps, axis) * root
        return values


def _along(values: Tensor, taps: Tensor, axis: int) -> Tensor:
    """Convolve along one axis, zeros outside: one shifted sum for each pair of taps."""
    size, middle = values.shape[axis], len(taps) // 2
    result = values * taps[middle]
    for step in range(1, middle + 1):
        weight = float(taps[middle + step])
        head, tail = slice(0, size - step), slice(step, size)
        before = (slice(None),) * axis
        result[(*before, tail)].add_(values[(*before, head)], alpha=weight)
        result[(*before, head)].add_(values[(*before, tail)], alpha=weight)
    return result


def _scattered(points: Tensor, labels: int, most_bytes: float) -> Filter:
    """The lattice's filter, for ``(L, *S)``; its corners take at most so many bytes."""
    lattice = Lattice(points, labels, most_bytes)

    def apply(values: Tensor) -> Tensor:
        return lattice(values.flatten(1).T.contiguous()).T.reshape(values.shape)

    return apply


def _exact(points: Tensor) -> Filter:
    """The normalised Gaussian over all pairs of ``(N, d)`` points, for ``(L, *S)``."""
    points = points.double()
    rows = max(1, _ENTRIES // len(points))

    def product(values: Tensor) -> Tensor:
        parts = [torch.cdist(part, points).square().mul_(-0.5).exp_() @ values
                 for part in torch.split(points, rows)]  # fmt: skip
        return torch.cat(parts)

    root = product(points.new_ones((len(points), 1))).rsqrt_()

    def apply(values: Tensor) -> Tensor:
        filtered = product(values.flatten(1).T.double() * root) * root
        return filtered.T.reshape(values.shape).to(values.dtype)

    return apply
