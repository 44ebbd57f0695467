"""What is told of a prediction beside its labels."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.errors import InputError, ResourceError
from delineate.core.image import Grid
from delineate.core.schema import Schema
from delineate.preprocess import orient

#: Spacing may leave the range seen in training by this share before it is flagged.
SPACING_MARGIN = 0.1


def spacing_warnings(grid: Grid, provenance: Mapping[str, Any]) -> list[str]:
    """Compare with ``provenance.training_range.spacing_mm``, ``{"min": [...], "max": [...]}``.

    Both hold one number an axis, in RAS+ order.
    """
    trained_on = (provenance.get("training_range") or {}).get("spacing_mm")
    if not trained_on or not grid.spacing_known or len(trained_on["min"]) != grid.ndim:
        return []
    spacing = orient.ras_grid(grid).spacing_mm
    outside = [
        not low / (1 + SPACING_MARGIN) <= mm <= high * (1 + SPACING_MARGIN)
        for mm, low, high in zip(spacing, trained_on["min"], trained_on["max"], strict=True)
    ]
    if not any(outside):
        return []
    ranges = (
        f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        for low, high in zip(trained_on["min"], trained_on["max"], strict=True)
    )
    return [
        f"voxels of {' × '.join(f'{mm:.3g}' for mm in spacing)} mm, "
        f"where the model was trained on {' × '.join(ranges)} mm"
    ]


def check_slices(grid: Grid, axis: int | None, oriented: bool) -> None:
    """Refuse a volume that the model's slices would cut into lines.

    Args:
        grid: Of the image as read.
        axis: Along which the model cuts volumes into slices, None where it does not.
        oriented: The model turns images to right, anterior, superior first.

    Raises:
        InputError: An axis within the slices has length 1.
    """
    if axis is None or grid.ndim != 3:
        return
    shape = (orient.ras_grid(grid) if oriented else grid).shape
    if shape[axis] == 1 or min(shape) > 1:
        return
    cut = (
        ("sagittal", "coronal", "axial")
        if oriented and grid.oriented
        else ("first", "second", "third")
    )
    raise InputError(
        f"expected {cut[axis]} slices, which the model was trained on, got a single "
        f"{cut[shape.index(1)]} slice of shape {grid.shape}",
        fix="use a model that was trained on such slices",
        code="slice-axis",
    )


def sizes(indices: NDArray[np.uint8], grid: Grid, schema: Schema) -> dict[str, Any]:
    """Voxels of each label, and millilitres where the file gives the size of a voxel."""
    counts = np.bincount(indices.ravel(), minlength=schema.num_outputs)[1:]
    names = [label.name for label in schema.labels]
    facts: dict[str, Any] = {"voxels": dict(zip(names, counts.tolist(), strict=True))}
    if grid.ndim == 3 and grid.spacing_known:
        facts["volume_ml"] = {
            n: float(c) * grid.voxel_ml for n, c in zip(names, counts, strict=True)
        }
    return facts


def too_little_memory(need: int, allowed: int, without: Sequence[str] = ()) -> ResourceError:
    """An image that needs more memory than is allowed.

    Args:
        need: Bytes.
        allowed: Bytes.
        without: What it could do without.
    """
    remedies = ["allow it with --memory " + _size(need), *(f"do without {x}" for x in without)]
    return ResourceError(
        f"expected this image to need at most {_size(allowed)} of memory, it needs {_size(need)}",
        fix=", or ".join(remedies),
        code="memory",
    )


def _size(count: int) -> str:
    """Bytes as ``--memory`` takes them, rounded up."""
    power = max(k for k in range(5) if k == 0 or count >= 1024**k)
    return f"{math.ceil(10 * count / 1024**power) / 10:g}{' KMGT'[power].strip()}"


def peak_memory(device_bytes: int) -> dict[str, float]:
    """Largest memory of the process so far, and of a device that has its own."""
    facts = {}
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        facts["peak_memory_mb"] = round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
    if device_bytes:
        facts["peak_device_mb"] = round(device_bytes / 2**20, 1)
    return facts
