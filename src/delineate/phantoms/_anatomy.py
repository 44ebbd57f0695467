"""The head of a phantom subject: tissue fractions from a warped template.

The template is the ICBM 152 nonlinear symmetric 2009a atlas (Copyright (C) 1993-2009 Louis
Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University), read
from an installed nilearn; without nilearn an analytic head of ellipsoids takes its place.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from delineate.core.errors import MissingExtraError
from delineate.phantoms._draw import Person, Tumour
from delineate.phantoms._field import Field, Stream, noise, stream

NOTICE = (
    "Anatomy derived from the ICBM 152 nonlinear symmetric 2009a template, Copyright (C) 1993-2009 "
    "Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University."
)
_MARGIN_MM = 15.0
_ANALYTIC_SEED = 152


@dataclass(frozen=True)
class Template:
    """Fractions in one frame; ``origin_mm`` is the centre of voxel (0, 0, 0), RAS+ mm.

    ``ventricle`` is the signed distance to the ventricles' wall, mm, negative inside. ``sites``
    are the places ``(N, 3)`` in mm where a glioma may begin: deep supratentorial white matter.
    """

    gm: Field
    wm: Field
    mask: Field
    ventricle: Field
    spacing_mm: float
    origin_mm: NDArray[np.float64]
    sites: NDArray[np.float64]

    @functools.cached_property
    def box_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest corner of the brain, mm."""
        inside = np.argwhere(self.mask > 0.5) * self.spacing_mm
        return self.origin_mm + inside.min(0), self.origin_mm + inside.max(0)


@dataclass(frozen=True)
class Anatomy:
    """A subject's head on the working grid (RAS+, isotropic): fractions of tissue per voxel.

    ``place`` ``(3, *S)`` is the template position of each voxel, mm; ``seed`` the voxel where
    the tumour begins, None for controls.
    """

    gm: Field
    wm: Field
    csf: Field
    mask: NDArray[np.bool_]
    ventricle: Field
    place: Field
    spacing_mm: float
    seed: NDArray[np.float64] | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the working grid."""
        a, b, c = self.gm.shape
        return a, b, c


def template_folder() -> Path | None:
    """Folder of the atlas files in an installed nilearn (not imported), or None."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "datasets" / "data"
    return folder if _atlas_file(folder, "gm").is_file() else None


def _atlas_file(folder: Path, name: str) -> Path:
    return folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"


@functools.lru_cache(maxsize=2)
def load_template(anatomy: str, spacing_mm: float) -> Template:
    """The template at 1 mm for fine phantoms, at 2 mm otherwise.

    Args:
        anatomy: ``"icbm152"`` or ``"ellipsoid"``.
        spacing_mm: Voxel size of the phantom to come.

    Raises:
        MissingExtraError: The atlas was asked for and nilearn is not installed.
    """
    block = 1 if spacing_mm < 1.75 else 2
    if anatomy == "ellipsoid":
        gm, wm, mask, origin = _analytic_head(float(block))
    else:
        gm, wm, mask, origin = _atlas_head(block)
    soft = 0.4 * np.sqrt(max(spacing_mm**2 - block**2, 0.0)) / block
    ventricle, sites = _landmarks(gm, wm, mask, float(block), origin)
    if soft > 0.1:
        gm, wm, mask = (ndimage.gaussian_filter(f, soft) for f in (gm, wm, mask))
    return Template(gm, wm, mask, ventricle, float(block), origin, sites)


def _atlas_head(block: int) -> tuple[Field, Field, Field, NDArray[np.float64]]:
    folder = template_folder()
    if folder is None:
        raise MissingExtraError(
            "expected the ICBM 152 atlas that comes with nilearn, which is not installed",
            fix="pip install \"delineate[atlas]\", or choose anatomy='ellipsoid'",
        )
    volumes = {}
    for name in ("t1", "gm", "wm"):
        volume = np.asanyarray(nib.load(_atlas_file(folder, name)).dataobj)  # type: ignore[attr-defined]
        trimmed = volume[tuple(slice(n - n % block) for n in volume.shape)]
        cells = trimmed.reshape([k for n in trimmed.shape for k in (n // block, block)])
        volumes[name] = (cells.mean(axis=(1, 3, 5)) / 255).astype(np.float32)
    affine = nib.load(_atlas_file(folder, "t1")).affine  # type: ignore[attr-defined]
    head = volumes["gm"] + volumes["wm"] > 0.1
    radius = max(1, 4 // block)
    padded = np.pad(head | (volumes["t1"] > 0.02), radius)
    closed = ndimage.binary_closing(padded, iterations=radius)[(slice(radius, -radius),) * 3]
    filled = np.stack([ndimage.binary_fill_holes(s) for s in np.moveaxis(closed, 2, 0)], axis=2)
    mask = ndimage.gaussian_filter(filled.astype(np.float32), 0.5)
    origin = affine[:3, 3] + (block - 1) / 2
    return volumes["gm"], volumes["wm"], mask, origin


def _analytic_head(spacing_mm: float) -> tuple[Field, Field, Field, NDArray[np.float64]]:
    """Ellipsoids for head, ventricles and deep nuclei; folds are the zero sets of a noise."""
    low, high = np.array([-80.0, -118.0, -80.0]), np.array([80.0, 86.0, 92.0])
    a, b, c = (int(n) for n in np.ceil((high - low) / spacing_mm))
    x, y, z = np.meshgrid(
        *(low[k] + spacing_mm * np.arange(n) for k, n in enumerate((a, b, c))),
        indexing="ij",
        sparse=True,
    )

    def ball(cx: float, cy: float, cz: float, rx: float, ry: float, rz: float) -> Field:
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
        depth = (1 - radius) * min(rx, ry, rz)  # about mm, positive inside
        return np.asarray(depth, np.float32)

    folds = noise(stream(_ANALYTIC_SEED, Stream.TEMPLATE), (a, b, c), spacing_mm, 11.0)
    depth = ball(0, -16, 6, 70, 88, 68)
    cleft = (np.abs(x) < 1.5) & (z > 12)
    sulci = ((np.abs(folds) < 0.16) & (depth < 22)) | (cleft & (depth < 30))
    cavities = np.maximum.reduce(
        [ball(s * 12, -8 + y0, 12 + z0, 6, r, 6) for s in (-1, 1) for y0, z0, r in
         ((8, 4, 26), (-22, 0, 16))]
    )  # fmt: skip
    fluid = sulci | (depth < 1.5) | (cavities > 0)
    nuclei = np.maximum.reduce([ball(s * 24, -4, 2, 10, 18, 11) for s in (-1, 1)])
    inside = depth > 0
    sulcus_distance = ndimage.distance_transform_edt(~(sulci | (depth < 1.5)), sampling=spacing_mm)
    grey = inside & ~fluid & ((sulcus_distance < 4.5) | (nuclei > 0))
    white = inside & ~fluid & ~grey
    gm, wm, mask = (
        ndimage.gaussian_filter(m.astype(np.float32), 0.6) for m in (grey, white, inside)
    )
    return gm, wm, mask, low


def _landmarks(
    gm: Field, wm: Field, mask: Field, spacing_mm: float, origin: NDArray[np.float64]
) -> tuple[Field, NDArray[np.float64]]:
    """Signed distance to the ventricles, and the places where a glioma may begin."""
    x, y, z = (
        (origin[k] + spacing_mm * np.arange(n)).reshape([-1 if a == k else 1 for a in range(3)])
        for k, n in enumerate(mask.shape)
    )
    inside = mask > 0.5
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    central = (np.abs(x) < 32) & (y > -60) & (y < 40) & (z > -12) & (z < 34)
    cavity = central & (depth > 26) & (mask - gm - wm > 0.5)
    parts, count = ndimage.label(cavity)
    sizes = ndimage.sum_labels(cavity, parts, np.arange(1, count + 1)) * spacing_mm**3
    cavity = np.isin(parts, 1 + np.flatnonzero(sizes > 500))
    cavity_distance = ndimage.distance_transform_edt(~cavity, sampling=spacing_mm)
    signed = cavity_distance - ndimage.distance_transform_edt(cavity, sampling=spacing_mm)
    deep = ndimage.gaussian_filter(wm, 2.0 / spacing_mm) > 0.75
    above = (z > -22) & ((y > -45) | (z > 0)) & (np.abs(x) > 14)
    voxels = np.argwhere(deep & above & (depth > 16) & (cavity_distance > 8))
    return np.clip(signed, -20, 40).astype(np.float32), origin + spacing_mm * voxels


def build(
    template: Template,
    person: Person,
    tumour: Tumour | None,
    spacing_mm: float,
    rng: np.random.Generator,
) -> Anatomy:
    """Warp the template into one person's head, displaced by the tumour's mass.

    Args:
        template: Where the tissue comes from.
        person: What was drawn of the head.
        tumour: What was drawn of the tumour; None for a control.
        spacing_mm: Voxel size of the working grid.
        rng: Stream of the warp and of the tumour's place.
    """
    low, high = template.box_mm
    pose = Rotation.from_euler("xyz", person.rotation_deg, degrees=True).as_matrix()
    pose[0, 1] += person.shear
    inverse = np.linalg.inv(pose @ np.diag(person.scale)).astype(np.float32)
    extent = (high - low) * np.array(person.scale) + 2 * _MARGIN_MM
    a, b, c = (fft.next_fast_len(int(np.ceil(n / spacing_mm)), real=True) for n in extent)
    world = _world((a, b, c), spacing_mm)
    place = np.einsum("ab,b...->a...", inverse, world)
    for axis in range(3):
        place[axis] += (low + high)[axis] / 2
        place[axis] += person.warp_mm * noise(rng, (a, b, c), spacing_mm, 34.0)
        place[axis] += 1.0 * noise(rng, (a, b, c), spacing_mm, 14.0)
    mask = _sample(template, template.mask, place)
    seed = None
    if tumour is not None:
        seed = _seed(template, place, rng)
        push = _mass_effect(world, seed, spacing_mm, tumour)
        place -= np.einsum("ab,b...->a...", inverse, push)
    gm, wm = (_sample(template, f, place) for f in (template.gm, template.wm))
    ventricle = _sample(template, template.ventricle, place, outside=40.0)
    return _age(gm, wm, mask, ventricle, place, person, spacing_mm, seed)


def _world(shape: tuple[int, int, int], spacing_mm: float) -> Field:
    """Millimetres from the centre of the grid, ``(3, *shape)``."""
    index = np.indices(shape, dtype=np.float32)
    centre = (np.array(shape, dtype=np.float32) - 1) / 2
    return np.asarray((index - centre.reshape(3, 1, 1, 1)) * spacing_mm, np.float32)


def _sample(template: Template, field: Field, place: Field, outside: float = 0.0) -> Field:
    origin = template.origin_mm.astype(np.float32).reshape(3, 1, 1, 1)
    voxel = (place - origin) / np.float32(template.spacing_mm)
    return np.asarray(
        ndimage.map_coordinates(field, voxel, order=1, mode="constant", cval=outside), np.float32
    )


def _seed(template: Template, place: Field, rng: np.random.Generator) -> NDArray[np.float64]:
    """The voxel of the working grid that shows a template place drawn for the tumour."""
    target = template.sites[rng.integers(len(template.sites))].astype(np.float32)
    squared_distance = np.square(place[:, ::2, ::2, ::2] - target.reshape(3, 1, 1, 1)).sum(0)
    nearest = np.unravel_index(int(squared_distance.argmin()), squared_distance.shape)
    return np.array([2.0 * float(n) for n in nearest])


def _mass_effect(
    world: Field, seed: NDArray[np.float64], spacing_mm: float, tumour: Tumour
) -> Field:
    """Radial push away from the seed, largest at the core's surface, fading over 30 mm."""
    shape = world.shape[1:]
    centre = ((seed - (np.array(shape) - 1) / 2) * spacing_mm).astype(np.float32)
    offset = world - centre.reshape(3, 1, 1, 1)
    distance = np.sqrt(np.square(offset).sum(0))
    radius = (tumour.core_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    size = tumour.mass_effect * radius * np.exp(-np.maximum(distance - radius, 0) / 30)
    return np.asarray(offset * (size / np.maximum(distance, radius)), np.float32)


def _age(
    gm: Field, wm: Field, mask: Field, ventricle: Field, place: Field,
    person: Person, spacing_mm: float, seed: NDArray[np.float64] | None,
) -> Anatomy:  # fmt: skip
    """Wider ventricles and a thinner cortex; what is neither grey nor white is fluid."""
    steep = np.float32(0.45 * max(spacing_mm, 1.0))
    opened = 1 / (1 + np.exp(np.clip((ventricle - person.ventricle_mm) / steep, -30, 30)))
    keep = mask * (1 - opened)
    gm = gm * keep * np.float32(1 - person.atrophy)
    wm = wm * keep
    csf = np.maximum(mask - gm - wm, 0)
    total = np.maximum(gm + wm + csf, 1e-6)
    return Anatomy(
        gm=np.asarray(gm / total, np.float32),
        wm=np.asarray(wm / total, np.float32),
        csf=np.asarray(csf / total, np.float32),
        mask=mask > 0.5,
        ventricle=ventricle,
        place=place,
        spacing_mm=spacing_mm,
        seed=seed,
    )
