"""What a row of ``table.py`` is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

Run = Callable[[], Any]
Array = NDArray[Any]


@dataclass(frozen=True)
class Setup:
    """What every row is told.

    Args:
        tiny: Toy sizes.
        threads: For peers that must be told when they are prepared.
        folder: For files.
    """

    tiny: bool
    threads: int
    folder: Path


@dataclass(frozen=True)
class Peer:
    """Another way to do a row.

    Args:
        name: Shown in the table.
        prepare: Imports what it needs and gives what is timed.
        difference: Of our result and the peer's; None where there is nothing to compare.
        allowed: Largest difference that counts as agreement.
        unit: What the difference is of, or why there is none.
        scale: Its time is multiplied by this: the peer does another amount of like work.
    """

    name: str
    prepare: Callable[[], Run]
    difference: Callable[[Any, Any], float] | None
    allowed: float
    unit: str
    scale: float = 1.0

    def compared(self, ours: Any, theirs: Any) -> str:
        """Whether the results agree, in words."""
        if self.difference is None:
            return self.unit
        gap = self.difference(ours, theirs)
        verdict = "agree" if gap <= self.allowed else "DIFFER"
        return f"{verdict}: {self.unit} {gap:.2g} apart, {self.allowed:g} allowed"


@dataclass(frozen=True)
class Row:
    """One thing to do.

    Args:
        what: The work and its settings, the same for all.
        ours: Does it once.
        peers: Do it too.
        gflop: What it costs, where that is counted.
    """

    what: str
    ours: Run
    peers: Sequence[Peer] = field(default_factory=list)
    gflop: float | None = None


@contextlib.contextmanager
def set_threads(threads: int) -> Iterator[None]:
    """As many threads for every library in this process."""
    import cv2
    import SimpleITK
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads(), cv2.getNumThreads()
    itk: Any = SimpleITK.ProcessObject
    before_itk = itk.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    itk.SetGlobalDefaultNumberOfThreads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
        itk.SetGlobalDefaultNumberOfThreads(before_itk)


def largest(a: Array, b: Array) -> float:
    """Largest absolute difference of two arrays of numbers."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


def head(shape: tuple[int, ...], channels: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three smooth tissues in an ellipsoid, with noise and a faint field; 0 around it."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    mask = np.asarray(sum(x**2 for x in axes) < 0.75)
    bumps = ndimage.gaussian_filter(generator.standard_normal(shape, np.float32), 4)
    truth = np.digitize(bumps / bumps.std(), (-0.5, 0.5))
    means = np.array([[100, 180, 260], [260, 100, 180], [180, 260, 100], [90, 200, 220]])
    field = np.exp(0.2 * axes[0]).astype(np.float32)
    values = np.zeros((channels, *shape), np.float32)
    for channel in range(channels):
        noise = generator.normal(0, 15, shape).astype(np.float32)
        tissue = means[channel].astype(np.float32)[truth] * field
        values[channel] = np.where(mask, tissue + noise, 0).clip(0)
    return values, mask
