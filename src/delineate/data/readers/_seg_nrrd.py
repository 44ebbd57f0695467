"""Named segments of 3D Slicer's ``.seg.nrrd``: which value, in which layer, is which structure.

``Segment0_Name:=liver``, ``Segment0_LabelValue:=1``, ``Segment0_Layer:=0``. Values are given in the
order of drawing, so that they mean something in their own file only. Segments that overlap lie in
layers of their own, each with values of its own; before Slicer 4.11 every segment had a layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import LabelError
from delineate.data.readers._common import structure_name

_FIELD = re.compile(r"^Segment(\d+)_(Name|LabelValue|Layer):=(.*)$", re.M)
#: What Slicer and others call a segment that nobody has named.
_UNNAMED = re.compile(r"Segment[ _]?\d+", re.I)
#: A text header longer than this is not a header.
_MAX_HEADER = 2**20


@dataclass(frozen=True)
class Segment:
    """One segment: its name, and where its voxels are."""

    name: str
    value: int
    layer: int


def segments(path: Path) -> tuple[tuple[Segment, ...], int]:
    """Segments that the header of a NRRD file lists, and its number of layers.

    Raises:
        LabelError: Two segments of one layer share a value, or a value is not a number.
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        start = stream.read(_MAX_HEADER)
    if not start.startswith(b"NRRD"):
        return (), 1
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    text = header.decode("utf-8", "replace").replace("\r", "")
    fields: dict[int, dict[str, str]] = {}
    for number, field, value in _FIELD.findall(text):
        fields.setdefault(int(number), {})[field] = value.strip()
    layered = re.search(r"^dimension:\s*4\s*$", text, re.M) is not None
    sizes = re.search(r"^sizes:\s*(\d+)", text, re.M)
    layers = int(sizes[1]) if layered and sizes else 1
    listed = []
    for number, field_values in sorted(fields.items()):
        try:
            layer = int(field_values.get("Layer", number if layered else 0))
            name = structure_name(field_values.get("Name", ""))
            listed.append(Segment(name, int(field_values.get("LabelValue", 1)), layer))
        except ValueError:
            raise LabelError(
                f"expected whole numbers as value and layer of segment {number}, got "
                f"{field_values}",
                where=path,
                fix="save the segmentation again",
                code="label-segments",
            ) from None
    places = [(segment.layer, segment.value) for segment in listed]
    if len(set(places)) < len(places) or any(not 0 <= layer < layers for layer, _ in places):
        raise LabelError(
            f"expected segments of different values in {layers} layer(s), got "
            + ", ".join(f"{s.name!r}: value {s.value} in layer {s.layer}" for s in listed[:6]),
            where=path,
            fix="save the segmentation again",
            code="label-segments",
        )
    return tuple(listed), layers


def names(listed: Sequence[Segment], layers: int) -> dict[int, str] | None:
    """Value of the label map -> name, None where nobody has named a segment."""
    if all(not s.name or _UNNAMED.fullmatch(s.name) for s in listed):
        return None
    return {s.value if layers == 1 else n: s.name for n, s in enumerate(listed, start=1)}


def notes(listed: Sequence[Segment]) -> tuple[str, ...]:
    """What a person should know of the segments."""
    labels = [segment.name for segment in listed if segment.name]
    duplicates = sorted({name for name in labels if labels.count(name) > 1})
    return tuple(
        [f"segments of one name are taken as one structure: {', '.join(duplicates)}"]
        * bool(duplicates)
    )


def merge(array: NDArray[Any], listed: Sequence[Segment], path: Path) -> NDArray[Any]:
    """Layers ``(L, *S)`` as one label map ``(1, *S)`` of segment numbers from 1.

    Raises:
        LabelError: Segments of different names overlap, or a voxel belongs to none.
    """
    merged = np.zeros(array.shape[1:], np.min_scalar_type(len(listed)))
    for number, segment in enumerate(listed, start=1):
        mask = array[segment.layer] == segment.value
        for other in np.unique(merged[mask]).tolist():
            if other and listed[other - 1].name != segment.name:
                shared = int((mask & (merged == other)).sum())
                raise LabelError(
                    f"segments overlap: {listed[other - 1].name!r} and {segment.name!r} share "
                    f"{shared:,} voxels",
                    where=path,
                    fix="a voxel has one label here: cut one segment out of the other and save "
                    "again",
                    code="label-overlap",
                )
        merged[mask] = number
    for layer, values in enumerate(array):
        known = [0, *(s.value for s in listed if s.layer == layer)]
        if unknown_values := sorted(set(np.unique(values).tolist()) - set(known)):
            raise LabelError(
                f"layer {layer} holds values of no segment: "
                f"{', '.join(map(str, unknown_values[:6]))}",
                where=path,
                fix="save the segmentation again",
                code="label-segments",
            )
    return merged[None]
