"""Growth of a glioma by reaction and diffusion, and the labels read from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from delineate.phantoms._anatomy import Anatomy
from delineate.phantoms._draw import Tumour
from delineate.phantoms._field import Field, noise

Box = tuple[slice, slice, slice]

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4
CORE_ABOVE = 0.6
OEDEMA_ABOVE = {"HGG": 0.2, "LGG": 0.35}
#: Finest cells of the growth; the front is 4 to 6 mm wide, so finer ones buy nothing.
_GROWTH_MM = 2.0
_GREY_TO_WHITE = 0.1
#: Smooth fields over the whole head, so that they do not depend on the box: lobes modulate the
#: diffusion and vigour the proliferation; texture and patches make the core uneven.
_NODES_MM = {"lobes": 14.0, "vigour": 18.0, "texture": 10.0, "patches": 12.0}
_EDGE_BELOW = 0.02
_MAX_STEPS = 4000
_ISLAND_ML = 0.15


@dataclass(frozen=True)
class Growth:
    """A tumour in its box of the working grid.

    ``labels`` holds the BraTS values {0, 1, 2, 4}; ``parts`` the fraction of each tumour tissue
    per voxel, blurred as partial volume blurs it; ``gd`` the contrast agent in enhancing tissue,
    mmol/l.
    """

    box: Box
    labels: NDArray[np.uint8]
    parts: dict[str, Field]
    gd: Field


def grow(anatomy: Anatomy, tumour: Tumour, rng: np.random.Generator) -> Growth:
    """Grow the tumour to its target volume and read labels and tissue fractions from it."""
    fields = {
        name: noise(rng, anatomy.shape, anatomy.spacing_mm, node_mm)
        for name, node_mm in _NODES_MM.items()
    }
    foci = _foci(anatomy, tumour, rng)
    room_mm = 1.5 * _radius_mm(tumour) + 4.5 * tumour.infiltration_mm
    while True:
        box = _box(anatomy, foci, room_mm)
        density = _density(anatomy, tumour, box, foci, fields)
        if not _reaches_the_edge(density, box, anatomy.shape):
            break
        room_mm *= 1.4  # ends at the latest with the whole head
    return _read(anatomy, tumour, box, density, {n: f[box] for n, f in fields.items()})


def _radius_mm(tumour: Tumour) -> float:
    return float((tumour.core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3))


def _foci(
    anatomy: Anatomy, tumour: Tumour, rng: np.random.Generator
) -> list[tuple[NDArray[np.float64], float]]:
    """Where the tumour begins, in voxels of the head, and how dense it is there at first."""
    if anatomy.seed is None:
        raise ValueError("a tumour needs an anatomy that was built with one")
    radius = _radius_mm(tumour)
    white = np.argwhere(anatomy.wm > 0.9)
    seed_distance = np.linalg.norm(white - anatomy.seed, axis=1) * anatomy.spacing_mm
    candidates = white[(seed_distance > 0.8 * radius) & (seed_distance < 1.8 * radius)]
    foci = [(anatomy.seed, 0.9)]
    for _ in range(tumour.foci - 1 if len(candidates) else 0):
        place = candidates[rng.integers(len(candidates))].astype(np.float64)
        foci.append((place, float(rng.uniform(0.2, 0.5))))
    return foci


def _box(anatomy: Anatomy, foci: list[tuple[NDArray[np.float64], float]], room_mm: float) -> Box:
    places = [place for place, _ in foci]
    room = room_mm / anatomy.spacing_mm
    low = np.maximum(np.min(places, axis=0) - room, 0).astype(int)
    high = np.minimum(np.max(places, axis=0) + room + 1, anatomy.shape).astype(int)
    a, b, c = (slice(int(p), int(q)) for p, q in zip(low, high, strict=True))
    return a, b, c


def _reaches_the_edge(density: Field, box: Box, shape: tuple[int, ...]) -> bool:
    """Whether the box, where it is smaller than the head, cut the tumour's growth."""
    return any(
        not outermost and float(density.take(end, axis=axis).max()) > _EDGE_BELOW
        for axis, side in enumerate(box)
        for end, outermost in ((0, side.start == 0), (-1, side.stop == shape[axis]))
    )


def _density(
    anatomy: Anatomy,
    tumour: Tumour,
    box: Box,
    foci: list[tuple[NDArray[np.float64], float]],
    fields: dict[str, Field],
) -> Field:
    """Cell density in the box at the working spacing; the growth may run on coarser cells."""
    wm, gm = anatomy.wm[box], anatomy.gm[box]
    block = max(1, round(_GROWTH_MM / anatomy.spacing_mm))
    cell = anatomy.spacing_mm * block
    lobes = np.exp(0.5 * np.clip(fields["lobes"][box], -2, 2))
    spread = (wm + _GREY_TO_WHITE * gm) * lobes * tumour.infiltration_mm**2
    spread = _coarse(np.asarray(spread, np.float32), block)
    rate = _coarse(np.exp(0.6 * np.clip(fields["vigour"][box], -2, 1.5)), block)
    index = np.indices(spread.shape, dtype=np.float32)
    start = np.zeros(spread.shape, np.float32)
    origin = [side.start for side in box]
    for place, peak in foci:
        at = ((place - origin + 0.5) / block - 0.5).astype(np.float32).reshape(3, 1, 1, 1)
        squared_distance = np.square((index - at) * np.float32(cell)).sum(0)
        start = np.maximum(start, np.float32(peak) * np.exp(-squared_distance / (2 * 5.0**2)))
    density = _react_and_diffuse(start, spread, rate, cell, tumour.core_ml)
    if block == 1:
        return density
    fine = ndimage.zoom(density, block, order=1, mode="nearest", grid_mode=True, output=np.float32)
    return np.asarray(fine[tuple(slice(n) for n in wm.shape)], np.float32)


def _coarse(field: Field, block: int) -> Field:
    if block == 1:
        return field
    padded = np.pad(field, [(0, -n % block) for n in field.shape], mode="edge")
    cells = padded.reshape([k for n in padded.shape for k in (n // block, block)])
    return np.asarray(cells.mean(axis=(1, 3, 5)), np.float32)


def _react_and_diffuse(
    density: Field, spread: Field, rate: Field, cell_mm: float, core_ml: float
) -> Field:
    """Fisher-Kolmogorov growth, dc/dt = div(D grad c) + r c (1 - c), in units of 1 / mean rho.

    Explicit steps; the flux through a face uses the harmonic mean of D, hence none into fluid or
    out of the brain. Stops when the core reaches ``core_ml``.

    Source: Swanson, Alvord and Murray 2000, Cell Proliferation 33:317.
    """
    step = min(0.1, 0.9 * cell_mm**2 / (6 * float(spread.max(initial=1.0))))
    target = core_ml * 1000 / cell_mm**3
    faces = []
    for axis in range(3):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        p, q = spread[low], spread[high]
        flow = np.float32(step / cell_mm**2) * 2 * p * q / np.maximum(p + q, 1e-6)
        faces.append((low, high, flow, np.empty_like(flow)))
    tissue = spread > 0.02 * float(spread.max(initial=1.0))
    density = density * tissue
    change = np.empty_like(density)
    gain = np.float32(step) * rate
    for _ in range(_MAX_STEPS):
        if np.count_nonzero(density > CORE_ABOVE) >= target:
            break
        np.subtract(1, density, out=change)
        change *= density
        change *= gain
        for low, high, flow, flux in faces:
            np.subtract(density[high], density[low], out=flux)
            flux *= flow
            change[low] += flux
            change[high] -= flux
        density += change
    return density


def _read(
    anatomy: Anatomy,
    tumour: Tumour,
    box: Box,
    density: Field,
    fields: dict[str, Field],
) -> Growth:
    spacing = anatomy.spacing_mm
    inside = anatomy.mask[box]
    wm = ndimage.gaussian_filter(anatomy.wm[box], 0.8 * 2 / max(spacing, 2.0))
    gm = ndimage.gaussian_filter(anatomy.gm[box], 0.8 * 2 / max(spacing, 2.0))
    texture, patches = fields["texture"], fields["patches"]
    core = (density > CORE_ABOVE) & inside
    outer = OEDEMA_ABOVE[tumour.grade]
    white = wm > np.maximum(gm, 0.4)
    labels = np.zeros(density.shape, np.uint8)
    labels[(density > outer) & white & inside] = OEDEMA
    labels[core] = NECROSIS
    necrosis = np.zeros_like(core)
    if tumour.grade == "HGG":
        depth = ndimage.distance_transform_edt(np.pad(core, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        depth -= spacing / 2  # from the surface, not from the next voxel's centre
        necrosis = core & (depth > np.maximum(tumour.rim_mm + 1.0 * texture, 1.5))
        labels[core & ~necrosis & (patches < 1.1)] = ENHANCING
    hollow = np.zeros_like(core)
    if tumour.cavity:
        hollow = _cavity(core, texture)
        labels[hollow] = 0
    labels = _without_islands(labels, spacing)
    solid = (labels == NECROSIS) & ~necrosis
    return Growth(
        box=box,
        labels=labels,
        parts=_parts(labels, necrosis & (labels > 0), solid, hollow, density, wm, texture, outer),
        gd=_uptake(tumour, texture, patches),
    )


def _cavity(core: NDArray[np.bool_], texture: Field) -> NDArray[np.bool_]:
    """The part of the core that a resection took: fluid, and no longer labelled."""
    depth = ndimage.distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1, 1:-1]
    half = np.quantile(depth[core], 0.45) if core.any() else 0.0
    return np.asarray(core & (depth > half + 0.6 * texture))


def _without_islands(labels: NDArray[np.uint8], spacing_mm: float) -> NDArray[np.uint8]:
    """Drop specks of the whole tumour that nobody would outline."""
    parts, count = ndimage.label(labels > 0)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * spacing_mm**3 / 1000
    return np.where(sizes[parts] < _ISLAND_ML, 0, labels).astype(np.uint8)


def _parts(
    labels: NDArray[np.uint8],
    necrosis: NDArray[np.bool_],
    solid: NDArray[np.bool_],
    hollow: NDArray[np.bool_],
    density: Field,
    wm: Field,
    texture: Field,
    outer: float,
) -> dict[str, Field]:
    """Tissue fractions: sharp labels blurred, and oedema that fades beyond its outline."""

    def soft(mask: NDArray[np.bool_]) -> Field:
        return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), 0.6), np.float32)

    parts = {
        "enhancing": soft(labels == ENHANCING),
        "necrosis": soft(necrosis),
        "solid": soft(solid),
        "csf": soft(hollow),
    }
    remainder = np.clip(1 - sum(parts.values()), 0, 1)
    rise = np.clip((density - 0.35 * outer) / (0.9 * outer), 0, 1)
    water = rise * rise * (3 - 2 * rise) * np.clip(0.66 + 0.25 * texture, 0.25, 1.0)
    parts["oedema"] = np.asarray(remainder * water * np.clip(1.25 * wm - 0.1, 0, 1), np.float32)
    return parts


def _uptake(tumour: Tumour, texture: Field, patches: Field) -> Field:
    low, high = tumour.gd_mmol
    share = np.clip(0.5 + 0.3 * (texture + patches), 0, 1)
    return np.asarray(low + (high - low) * share, np.float32)
