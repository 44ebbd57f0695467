"""What targets share whose models see patches: their sizes, slices and windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from delineate.data.cache import PreparedCase
from delineate.engine.budget import Candidate
from delineate.inference.sliding_window import OVERLAP, window_starts
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets import _sizes


def neighbours(chosen: RunConfig, preparation: Preparation) -> int:
    """Slices to each side that join as channels: one where flat networks see volumes."""
    if preparation.ndim != 2 or preparation.slice_axis is None:
        return 0
    usual = 0 if preparation.single_slices else 1
    return usual if chosen.neighbours is None else chosen.neighbours


def spacing_mm(preparation: Preparation) -> tuple[float, ...]:
    """Of the axes that a network sees; 1 where it differs from case to case."""
    planned = enumerate(preparation.spacing_mm or ())
    return tuple(mm or 1.0 for a, mm in planned if a != preparation.slice_axis)


def shape(preparation: Preparation, cases: Sequence[PreparedCase]) -> tuple[int, ...]:
    """Median shape of what a network sees of a case."""
    return _sizes.median_shape([case.shape[1:] for case in cases], preparation)


def candidates(
    chosen: RunConfig, preparation: Preparation, cases: Sequence[PreparedCase]
) -> list[Candidate]:
    """What is worth measuring, from modest to ambitious."""
    return _sizes.candidates(
        shape(preparation, cases), preparation.ndim,
        width=chosen.width, patch=chosen.patch, batch=chosen.batch,
        spacing_mm=spacing_mm(preparation),
    )  # fmt: skip


def smaller(
    first: Candidate, chosen: RunConfig, preparation: Preparation, cases: Sequence[PreparedCase]
) -> list[Candidate]:
    """What to take where hardly a step of the first candidate fits."""
    return _sizes.smaller(
        first, shape(preparation, cases), preparation.ndim,
        patch=chosen.patch, batch=chosen.batch, spacing_mm=spacing_mm(preparation),
    )  # fmt: skip


def windows(case: PreparedCase, patch: Sequence[int], axis: int | None) -> int:
    """Windows that a case is taken apart into; ``axis``: along which it is cut in slices."""
    sides = list(case.shape[1:])
    count = 1 if axis is None else sides.pop(axis)
    for n, size in zip(sides, patch, strict=True):
        count *= len(window_starts(n, size, OVERLAP))
    return count


class _DescribedFeed(Protocol):
    """A feed, as far as a model file describes it."""

    @property
    def patch(self) -> tuple[int, ...]: ...

    @property
    def mirror_axes(self) -> tuple[int, ...]: ...


def input_document(
    channels: Sequence[str], feed: _DescribedFeed, slice_axis: int | None, neighbours: int = 0
) -> dict[str, Any]:
    """``input`` of a model file: what its network is shown; see ``core.model_file``.

    Args:
        channels: Names, of one slice each.
        feed: As training had it.
        slice_axis: Along which a flat network takes slices of a volume.
        neighbours: Slices to each side that join as channels.
    """
    return {
        "channels": list(channels),
        "patch": list(feed.patch),
        "slice_axis": slice_axis,
        "neighbours": neighbours,
        "mirror_axes": list(feed.mirror_axes),
    }
