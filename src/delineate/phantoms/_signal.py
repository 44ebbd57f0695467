"""From tissue fractions to what a scanner would show: MR equations and acquisition faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from delineate.phantoms._anatomy import Anatomy
from delineate.phantoms._draw import Person, Scan, Series
from delineate.phantoms._field import Field, noise
from delineate.phantoms._tumour import Growth

#: Relaxivities of a gadolinium chelate, 1 / (mmol/l s).
R1, R2 = 4.3, 5.0

#: Relaxation times in ms: one of a tissue, or one a voxel.
Times = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Tissue:
    """Proton density, relaxation times in ms (3 T) and contrast agent in mmol/l.

    ``spread`` is how far the constants differ between people; fluid must stay near its null.
    """

    pd: float
    t1: float
    t2: float
    gd: float
    spread: float = 0.03


TISSUES = {
    "wm": Tissue(0.70, 850, 75, 0.02),
    "gm": Tissue(0.82, 1350, 100, 0.03),
    "csf": Tissue(1.00, 4200, 1800, 0.0, 0.012),
    "oedema": Tissue(0.88, 1700, 215, 0.05),
    "enhancing": Tissue(0.86, 1400, 110, 0.0),
    "necrosis": Tissue(0.95, 2600, 300, 0.05),
    "solid": Tissue(0.87, 1600, 130, 0.03),
    "hyperintensity": Tissue(0.82, 1350, 165, 0.02),
    "vessel": Tissue(0.80, 1650, 35, 0.9),
    "dura": Tissue(0.75, 1300, 70, 0.5),
}


def spin_echo(pd: float, t1: Times, t2: Times, tr: float, te: float) -> Field:
    """S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return np.asarray(pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2), np.float32)


def flair(pd: float, t1: Times, t2: Times, tr: float, te: float, ti: float) -> Field:
    """S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    longitudinal = np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
    return np.asarray(pd * longitudinal * np.exp(-te / t2), np.float32)


def tissue_signal(tissue: Tissue, series: Series, gd: Field) -> Field:
    """Signal of a tissue that holds ``gd`` mmol/l; 1/T1' = 1/T1 + r1 C and so for T2."""
    t1 = 1 / (1 / tissue.t1 + R1 * gd / 1000)
    t2 = 1 / (1 / tissue.t2 + R2 * gd / 1000)
    if series.ti > 0:
        return flair(tissue.pd, t1, t2, series.tr, series.te, series.ti)
    return spin_echo(tissue.pd, t1, t2, series.tr, series.te)


@dataclass(frozen=True)
class Body:
    """A subject ready to be scanned: base tissues everywhere, tumour tissues in their box."""

    base: dict[str, Field]
    growth: Growth | None
    texture: Field
    tissues: dict[str, Tissue]
    mask: NDArray[np.bool_]
    spacing_mm: float


def body(anatomy: Anatomy, person: Person, growth: Growth | None, rng: np.random.Generator) -> Body:
    """Add what is no tumour but looks like one, and the person's own tissue constants."""
    shape, spacing = anatomy.shape, anatomy.spacing_mm
    vessel, dura = _vessels(anatomy, rng), _dura(anatomy, rng)
    scar = noise(rng, shape, spacing, 9.0) + 2.2 * np.exp(-np.maximum(anatomy.ventricle, 0) / 4)
    scar = np.clip(scar - (3.4 - 1.6 * person.hyperintensity), 0, 0.9) * anatomy.wm
    left = (1 - vessel) * (1 - dura)
    parts = {
        "wm": (anatomy.wm - scar) * left,
        "gm": anatomy.gm * left,
        "csf": anatomy.csf * left,
        "hyperintensity": scar * left,
        "vessel": vessel,
        "dura": dura * (1 - vessel),
    }
    base = {name: np.asarray(part, np.float32) for name, part in parts.items()}
    tissues = {}
    for name, tissue in TISSUES.items():
        pd, t1, t2 = 1 + np.clip(rng.normal(0, tissue.spread / 2, 3), -tissue.spread, tissue.spread)
        tissues[name] = Tissue(tissue.pd * pd, tissue.t1 * t1, tissue.t2 * t2, tissue.gd)
    texture = noise(rng, shape, spacing, 8.0)
    return Body(base, growth, texture, tissues, anatomy.mask, spacing)


def _vessels(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Curves of about 1.2 mm radius: where two smooth fields are both zero."""
    shape, spacing = anatomy.shape, anatomy.spacing_mm
    first, second = (noise(rng, shape, spacing, 20.0) for _ in range(2))
    width = 0.09 * max(1.0, spacing / 2)
    tube = np.exp(-(np.square(first) + np.square(second)) / (2 * width**2))
    tube *= (1 - 0.8 * anatomy.wm) * min(1.0, (2 / spacing) ** 2)
    return np.asarray(tube * anatomy.mask, np.float32)


def _dura(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Patches of the brain's surface, and the falx between the hemispheres."""
    spacing = anatomy.spacing_mm
    core = ndimage.binary_erosion(anatomy.mask, iterations=max(1, round(2 / spacing)))
    patches = np.clip(0.8 * noise(rng, anatomy.shape, spacing, 24.0) - 0.5, 0, 0.7)
    shell = (anatomy.mask & ~core) * patches
    falx = np.exp(-np.square(anatomy.place[0] / max(1.0, spacing / 2))) * 0.6 * anatomy.csf
    above = (anatomy.place[2] > 20) & (anatomy.ventricle > 8)
    return np.asarray(np.clip(shell + falx * above, 0, 0.8), np.float32)


def render(subject: Body, scan: Scan, series: Series, rng: np.random.Generator) -> Field:
    """One sequence of one scan on the working grid, arbitrary units, 0 outside the brain.

    Args:
        subject: What is scanned.
        scan: The visit.
        series: The sequence.
        rng: Stream of this series alone.
    """
    if scan.contrast == "random":
        image = _random_contrast(subject, rng)
    else:
        image = _contrast(subject, scan, series)
    reference = float(image[subject.base["wm"] > 0.8].mean())
    image = _k_space(image, series, subject.spacing_mm, rng)
    image = _slices(image, series, subject.spacing_mm)
    coil = noise(rng, image.shape, subject.spacing_mm, series.bias_node_mm)
    image *= np.exp(np.float32(series.bias) * np.clip(coil, -2.5, 2.5))
    level = np.float32(series.noise * reference)
    image += level * rng.standard_normal(image.shape, dtype=np.float32)
    ghost = level * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.sqrt(np.square(image) + np.square(ghost))
    return np.asarray(image * (series.gain / reference) * subject.mask, np.float32)


def _contrast(subject: Body, scan: Scan, series: Series) -> Field:
    dose = scan.dose if series.modality == "t1gd" else 0.0

    def signal(name: str, gd: Field | None = None) -> Field:
        tissue = subject.tissues[name]
        amount = np.float32(tissue.gd) if gd is None else gd
        return tissue_signal(tissue, series, np.asarray(dose * amount, np.float32))

    image = _mix(subject.base, {name: signal(name) for name in subject.base})
    growth = subject.growth
    if growth is not None:
        inner = {n: signal(n, growth.gd if n == "enhancing" else None) for n in growth.parts}
        _paint(image, growth, inner)
    image *= 1 + np.float32(0.03) * subject.texture
    return image


def _random_contrast(subject: Body, rng: np.random.Generator) -> Field:
    """A random mean and spread per tissue instead of physics.

    Source: Billot et al. 2023, SynthSeg, Medical Image Analysis 86:102789.
    """
    names = list(TISSUES)
    means = dict(zip(names, rng.uniform(25, 225, len(names)).astype(np.float32), strict=True))
    spreads = dict(zip(names, rng.uniform(5, 25, len(names)).astype(np.float32), strict=True))
    grain = rng.standard_normal(subject.texture.shape, dtype=np.float32)
    image = _mix(subject.base, means) + grain * _mix(subject.base, spreads)
    growth = subject.growth
    if growth is not None:
        local = grain[growth.box]
        _paint(image, growth, {n: means[n] + spreads[n] * local for n in growth.parts})
    return np.maximum(image, 0)


def _mix(parts: dict[str, Field], signals: dict[str, Field]) -> Field:
    image = np.zeros(parts["wm"].shape, np.float32)
    for name, part in parts.items():
        image += part * signals[name]
    return image


def _paint(image: Field, growth: Growth, signals: dict[str, Field]) -> None:
    """Replace the base by the tumour's tissues, in place."""
    covered = np.clip(sum(growth.parts.values()), 0, 1)
    local = image[growth.box] * (1 - covered)
    for name, part in growth.parts.items():
        local += part * signals[name]
    image[growth.box] = local


def _k_space(image: Field, series: Series, spacing_mm: float, rng: np.random.Generator) -> Field:
    """Shift between sequences, truncation (Gibbs ringing) and motion, all where they happen."""
    shape = image.shape
    if series.motion:
        moved = _moved(image, spacing_mm, rng)
    lines = fft.rfftn(image)
    if series.motion:
        order = np.abs(np.fft.fftfreq(shape[1]))
        start = float(rng.uniform(0.05, 0.15))
        band = (order > start) & (order < start + float(rng.uniform(0.1, 0.25)))
        lines[:, band] = fft.rfftn(moved)[:, band]
    frequencies = (np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2]))
    for axis, frequency in enumerate(frequencies):
        turn = np.exp(-2j * np.pi * frequency * series.shift_mm[axis] / spacing_mm)
        turn[np.abs(frequency) > 0.5 * series.kept] = 0
        lines *= turn.astype(np.complex64).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(fft.irfftn(lines, s=shape), np.float32)


def _moved(image: Field, spacing_mm: float, rng: np.random.Generator) -> Field:
    """The head after a nod: turned by up to 3 degrees and shifted by up to 2 mm."""
    turn = Rotation.from_euler("xyz", rng.uniform(-3, 3, 3), degrees=True).as_matrix()
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - turn @ centre + rng.uniform(-2, 2, 3) / spacing_mm
    return np.asarray(ndimage.affine_transform(image, turn, offset, order=1), np.float32)


def _slices(image: Field, series: Series, spacing_mm: float) -> Field:
    """Thick slices: averaged over their thickness, then interpolated back to the grid."""
    if series.thickness_mm <= spacing_mm * 1.05:
        return image
    thick = series.thickness_mm / spacing_mm
    stack = np.moveaxis(image, series.axis, 0)
    summed = np.cumsum(np.concatenate([np.zeros_like(stack[:1]), stack]), axis=0, dtype=np.float64)
    count = int(np.ceil(len(stack) / thick))
    edges = np.clip(np.arange(count + 1) * thick, 0, len(stack))
    slabs = np.diff(_between(summed, edges), axis=0) / np.diff(edges).reshape(-1, 1, 1)
    centres = (edges[:-1] + edges[1:]) / 2 - 0.5
    where = np.interp(np.arange(len(stack)), centres, np.arange(count))
    return np.asarray(np.moveaxis(_between(slabs, where), 0, series.axis), np.float32).copy()


def _between(values: NDArray[np.float64], where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation along the first axis at fractional indices."""
    low = np.minimum(where.astype(np.intp), len(values) - 2)
    share = (where - low).reshape(-1, 1, 1)
    return np.asarray(values[low] * (1 - share) + values[low + 1] * share)
