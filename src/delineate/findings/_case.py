"""One case of an audit: every file read to its end, and the few facts that are kept of it.

What is kept is small (some 10 kB a channel), so that thousands of cases can be compared at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from delineate.core.case import Case, Source
from delineate.core.errors import DelineateError
from delineate.core.image import TOLERANCE_MM, Grid, Image
from delineate.core.schema import IGNORED, Schema
from delineate.data import readers

#: Percentiles are taken of about this many voxels, evenly spread.
SAMPLE = 100_000
#: A label map holds this many values at most, an image more.
FEW_VALUES = 12
#: Side of the thumbnail that two images are compared by: of flat images, of volumes.
SIDE = {2: 64, 3: 24}
# nibabel says nothing of the types of these.
_axes_of: Any = orientations.io_orientation
_turn: Any = orientations.apply_orientation
#: Modalities whose three channels would be three scans, and not the colours of one picture.
_SCANS = ("MR", "CT", "PET")


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file or case.

    Args:
        code: Stable code; that of the reader's error where it cannot be read.
        where: File relative to the root, or case id.
        detail: What was expected and came.
        fix: The next move; empty where the code has one of its own.
    """

    code: str
    where: str
    detail: str
    fix: str = ""


@dataclass(frozen=True, eq=False)
class Plane:
    """One channel of a case.

    Args:
        name: Channel, ``channel.i`` or, where the layout names it, the component of a source.
        channel: Channel of the cohort that it belongs to.
        low, high: Smallest and largest value; NaN where a voxel is not finite.
        level: 99.5th percentile of the magnitude of voxels other than 0.
        digest: Hash of the voxels in RAS+ order, whatever the file format.
        thumbnail: Small float16 copy, None where constant or not finite.
        few_values: It holds some few whole numbers, 0 the smallest, as label maps do.
    """

    name: str
    channel: str
    low: float
    high: float
    level: float
    digest: bytes
    thumbnail: NDArray[np.float16] | None
    few_values: bool = False


@dataclass(frozen=True, eq=False)
class LabelFacts:
    """What a label map holds.

    Args:
        grid: Its grid.
        voxels: Count by value of the schema, 0 too; ignored voxels are not among them.
        digest: Hash of it in RAS+ order.
        ignored: Voxels that nobody has annotated.
        names: Structures that the file names; None where it names none.
        notes: What was decided on reading it.
        colours: Value -> colour, of a picture with a palette.
    """

    grid: Grid
    voxels: Mapping[int, int]
    digest: bytes
    ignored: int = 0
    names: frozenset[str] | None = None
    notes: tuple[str, ...] = ()
    colours: Mapping[int, str] = field(default_factory=dict)

    @property
    def foreground(self) -> int:
        """Voxels other than 0."""
        return sum(n for value, n in self.voxels.items() if value)


@dataclass(frozen=True, eq=False)
class Record:
    """What is kept of a case; ``grids`` and ``counts`` (of channels) are by image source.

    ``notes`` tell what was decided on reading its images.
    """

    case: Case
    grids: Mapping[str, Grid]
    counts: Mapping[str, int]
    planes: tuple[Plane, ...]
    label: LabelFacts | None
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid | None:
        """Grid of the first image that could be read."""
        return next(iter(self.grids.values()), None)


def examine_case(case: Case, root: Path, schema: Schema, modalities: Mapping[str, str]) -> Record:
    """Read all files of a case. Whatever is wrong with them becomes a fault, never an exception."""
    faults: list[Fault] = []
    grids: dict[str, Grid] = {}
    counts: dict[str, int] = {}
    planes: list[Plane] = []
    notes: list[str] = []
    for channel, source in case.images.items():
        where = place(source, root)
        try:
            image = readers.read(source, case.reading)
        except Exception as error:
            faults.append(_unreadable(error, where, root))
            continue
        grids[channel], counts[channel] = image.grid, image.channels
        notes += image.meta.get("notes", ())
        faults += _channel_grid(grids, channel, where)
        not_finite = image.array.size - int(np.isfinite(image.array).sum())
        if not_finite:
            detail = f"{not_finite:,} of {image.array.size:,} voxels"
            faults.append(Fault("voxels-not-finite", where, detail))
        planes += _planes(image, channel, case, modalities.get(channel, "unknown"))
    whole = len(grids) == len(case.images)
    if whole and planes and all(plane.low == plane.high for plane in planes):
        value = f"every voxel is {planes[0].low:g}"
        faults.append(Fault("image-constant", place(next(iter(case.images.values())), root), value))
    label = None
    if case.label is not None:
        label, label_faults = _label(
            case, case.label, next(iter(grids.values()), None), root, schema
        )
        faults += label_faults
    return Record(case, grids, counts, tuple(planes), label, tuple(faults), tuple(notes))


def place(source: Source, root: Path) -> str:
    """A source as text: relative to the root; a stack is named after its folder."""
    path = source if isinstance(source, Path) else source[0].parent if source else root
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _unreadable(error: Exception, where: str, root: Path) -> Fault:
    if not isinstance(error, DelineateError):
        detail = str(error) or type(error).__name__
        if not isinstance(error, OSError | MemoryError):  # nobody foresaw it
            detail = f"{type(error).__name__}: {error}"
        return Fault("unreadable", where, detail, "check that the file can be read here")
    exact = place(Path(error.where), root) if error.where else where
    return Fault(error.code, exact, error.message, error.fix or "fetch the file again")


def _channel_grid(grids: Mapping[str, Grid], channel: str, where: str) -> list[Fault]:
    first, grid = next(iter(grids)), grids[channel]
    difference = _grid_difference(grids[first], grid)
    if not difference:
        return []
    code = "channel-shape" if grids[first].shape != grid.shape else "channel-affine"
    return [Fault(code, where, f"{channel} against {first}: {difference}")]


def _grid_difference(image: Grid, other: Grid) -> str:
    """How two grids differ, empty where they do not."""
    if image.same_as(other):
        return ""
    off = image.difference_mm(other)
    if math.isinf(off):
        return f"expected the shape {_times(image.shape)}, got {_times(other.shape)}"
    return f"up to {off:.3g} mm away"


def _label(
    case: Case, source: Source, image: Grid | None, root: Path, schema: Schema
) -> tuple[LabelFacts | None, list[Fault]]:
    where = place(source, root)
    try:
        label = readers.read_label(source, case.reading, image)
    except Exception as error:
        return None, [_unreadable(error, where, root)]
    faults = []
    if image is not None and (difference := _grid_difference(image, label.grid)):
        same_shape = image.shape == label.grid.shape
        if label.meta.get("partial"):
            same_shape, difference = True, "its voxels do not lie on those of the image"
        faults.append(Fault("label-affine" if same_shape else "label-shape", where, difference))
    notes = tuple(label.meta.get("notes", ()))
    if image is not None and TOLERANCE_MM < image.difference_mm(label.grid) < math.inf:
        notes += ("off its image by what rounding of the header explains",) * (not faults)
    names = label.meta.get("names")
    voxels = _count(label.array)
    if unknown_values := schema.unknown(voxels, names):
        named = names is not None or schema.named
        faults.append(
            Fault("label-names" if named else "label-unknown", where, f"got {unknown_values}")
        )
    array = label.array[0].astype(np.int64 if label.array.dtype.itemsize > 4 else np.int32)
    if names is not None:  # values mean something in this file only
        array, voxels = _by_schema(array, voxels, schema, names)
    ignored = 0 if schema.ignore is None else voxels.pop(schema.ignore, 0)
    facts = LabelFacts(
        label.grid,
        voxels,
        digest(_ras(array, label.grid)),
        ignored,
        None if names is None else frozenset(names.values()),
        notes,
        label.meta.get("colours", {}),
    )
    return facts, faults


def _by_schema(
    array: NDArray[Any], voxels: Mapping[int, int], schema: Schema, names: Mapping[int, str]
) -> tuple[NDArray[Any], dict[int, int]]:
    """A label map and its counts by the schema's values; those unknown to it are left out."""
    meaning = schema.meaning(names)
    values = schema.to_values(np.arange(IGNORED + 1))
    by_schema = np.zeros_like(array)
    counts: dict[int, int] = {}
    for value, count in voxels.items():
        schema_value = int(values[meaning.get(value, 0)])
        counts[schema_value] = counts.get(schema_value, 0) + count
        if schema_value:
            by_schema[array == value] = schema_value
    return by_schema, counts


def _count(array: NDArray[Any]) -> dict[int, int]:
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high < 2**16:  # much faster than sorting
        counts = np.bincount(array.reshape(-1))
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(array, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _planes(image: Image, channel: str, case: Case, modality: str) -> list[Plane]:
    array, names = image.array, case.channel_names(channel, len(image.array))
    if len(array) == 3 and modality not in _SCANS:  # a colour picture is compared by its brightness
        name = f"{names[0]} to {names[-1]}, brightness"
        return [_plane(array.mean(axis=0), image.grid, name, channel)]
    return [
        _plane(part, image.grid, name, channel) for part, name in zip(array, names, strict=True)
    ]


def _plane(array: NDArray[np.float32], grid: Grid, name: str, channel: str) -> Plane:
    low, high = float(array.min()), float(array.max())
    in_ras = _ras(array, grid)
    if not (math.isfinite(low) and math.isfinite(high)) or low == high:
        level = abs(low) if low == high else math.nan
        return Plane(name, channel, low, high, level, digest(in_ras), None)
    flat = array.reshape(-1)
    stride = max(1, flat.size // SAMPLE)
    while math.gcd(stride, flat.size) > 1:  # else the sample could be a single column
        stride += 1
    sample = flat[::stride]
    bright = np.abs(sample[sample != 0])
    level = float(np.percentile(bright, 99.5)) if bright.size else max(abs(low), abs(high))
    floor, ceiling = np.percentile(sample, (0.5, 99.5))
    if floor == ceiling:
        floor, ceiling = low, high
    few_values = low == 0 and high == np.rint(high) and _few_whole(array)
    small = thumbnail(in_ras, floor, ceiling)
    return Plane(name, channel, low, high, level, digest(in_ras), small, few_values)


def _few_whole(array: NDArray[np.float32]) -> bool:
    part = np.unique(array.reshape(-1)[: 4 * FEW_VALUES])  # most images end here
    if len(part) > FEW_VALUES or (part != np.rint(part)).any():
        return False
    values = np.unique(array)
    return len(values) <= FEW_VALUES and bool((values == np.rint(values)).all())


def _ras(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Axes swapped and turned as near to RAS+ as can be without interpolation."""
    if not grid.oriented or grid.ndim != 3:
        return array
    in_ras: NDArray[Any] = _turn(array, _axes_of(grid.affine))
    return in_ras


def orientation(grid: Grid) -> str:
    """Which way the axes point, such as ``RAS``, to the nearest axis of the body."""
    axes = _axes_of(grid.affine)[: grid.ndim]
    return "".join(("LR", "PA", "IS")[int(axis)][int(sign > 0)] for axis, sign in axes)


def spacing(grid: Grid) -> tuple[float, ...]:
    """Voxel size in mm, in the order right, anterior, superior where that is known."""
    if not grid.oriented or grid.ndim != 3:
        return grid.spacing_mm
    order = [int(axis) for axis, _ in _axes_of(grid.affine)]
    return tuple(grid.spacing_mm[order.index(axis)] for axis in range(3))


def digest(array: NDArray[Any]) -> bytes:
    """Hash of shape and values."""
    content = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(array).data)
    return content.digest()


def thumbnail(
    array: NDArray[np.float32], floor: float = -np.inf, ceiling: float = np.inf
) -> NDArray[np.float16]:
    """Exact area averages on a grid of 64 x 64 or 24 x 24 x 24, whatever the size of the image.

    Values are cut off at ``floor`` and ``ceiling``, so that a few bright voxels do not make
    unlike images alike, and brought to 0 … 1, so that they fit float16.
    """
    reduced: NDArray[Any] = np.clip(array, floor, ceiling)
    for size in array.shape:
        reduced = np.tensordot(reduced, _area(size, SIDE[array.ndim]), axes=(0, 1))
    reduced -= reduced.min()
    scaled: NDArray[np.float16] = (reduced / max(float(reduced.max()), 1e-30)).astype(np.float16)
    return scaled


def _area(size: int, side: int) -> NDArray[np.float32]:
    """Weights ``(side, size)``: the share that each voxel has in each cell."""
    edges = np.linspace(0, size, side + 1)
    voxel = np.arange(size)
    overlap = np.minimum(edges[1:, None], voxel + 1) - np.maximum(edges[:-1, None], voxel)
    weights = np.clip(overlap, 0, None)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
