"""Everything about a phantom subject that is drawn as a number: person, tumour, scan.

Drawing is apart from use: the records below go into ``phantom.json`` and replay the subject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from delineate.phantoms._field import Stream, stream

Contrast = Literal["physics", "random", "mixed"]
MODALITIES = ("t1", "t1gd", "t2", "flair")
#: Steps of the additive recurrence that spreads site, grade and sex evenly over any cohort size
#: (powers of the root of x^4 = x + 1).
_EVEN_STEPS = tuple(1.2207440846057596**-k for k in (1, 2, 3))


@dataclass(frozen=True)
class Site:
    """How one hospital scans, and whom it sees. Times in ms, thickness in mm."""

    name: str
    weight: float
    high_grade: float
    axes: str
    t1: tuple[float, float]
    t2: tuple[float, float]
    flair: tuple[float, float, float]
    gain: float
    bias: float
    noise: tuple[float, float]
    thickness: tuple[float, float, float, float]
    plane: str
    motion: float
    kept: float


#: Unequal grade mix on purpose: site and grade are confounded, as in pooled cohorts.
SITES = (
    Site("site-1", 0.26, 0.90, "LPS", (550, 10), (4500, 95), (9000, 2450, 120),
         400, 0.12, (0.02, 0.04), (1, 1, 3, 3), "axial", 0.06, 0.95),
    Site("site-2", 0.22, 0.75, "RAS", (600, 12), (4000, 90), (9000, 2480, 115),
         900, 0.18, (0.02, 0.05), (1, 1, 2, 2), "axial", 0.10, 0.90),
    Site("site-3", 0.18, 0.60, "LAS", (500, 9), (5000, 100), (8500, 2395, 125),
         250, 0.08, (0.03, 0.05), (2, 1, 4, 4), "axial", 0.10, 0.90),
    Site("site-4", 0.14, 0.50, "PSR", (650, 14), (4500, 105), (10000, 2545, 130),
         650, 0.22, (0.03, 0.06), (1, 1, 1, 2), "sagittal", 0.12, 0.85),
    Site("site-5", 0.12, 0.30, "RPS", (520, 11), (3800, 85), (8000, 2335, 110),
         1300, 0.15, (0.02, 0.05), (5, 3, 5, 5), "axial", 0.14, 0.85),
    Site("site-6", 0.08, 0.60, "LIP", (700, 16), (5500, 110), (9500, 2495, 140),
         150, 0.30, (0.05, 0.07), (6, 4, 6, 4), "coronal", 0.20, 0.80),
)  # fmt: skip
HELD_OUT_SITE = "site-6"
_PLANE_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Person:
    """One head: what two scans of the same subject share."""

    sex: str
    age: int
    scale: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    shear: float
    warp_mm: float
    ventricle_mm: float
    atrophy: float
    hyperintensity: float


@dataclass(frozen=True)
class Tumour:
    """One glioma. ``infiltration_mm`` is sqrt(D / rho) in white matter."""

    grade: str
    core_ml: float
    infiltration_mm: float
    rim_mm: float
    mass_effect: float
    foci: int
    cavity: bool
    gd_mmol: tuple[float, float]


@dataclass(frozen=True)
class Series:
    """How one sequence of one scan was taken. ``tr``, ``te``, ``ti`` in ms, ``ti`` 0 if none."""

    modality: str
    tr: float
    te: float
    ti: float
    gain: float
    bias: float
    bias_node_mm: float
    noise: float
    thickness_mm: float
    axis: int
    shift_mm: tuple[float, float, float]
    kept: float
    motion: bool
    missing: bool


@dataclass(frozen=True)
class Scan:
    """One visit to a scanner."""

    site: str
    scanner: str
    axes: str
    dose: float
    contrast: str
    pad: tuple[int, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Plan:
    """One folder of the phantom: who is scanned, with which tumour (None: control), and how."""

    id: str
    index: int
    source: int
    person: Person
    tumour: Tumour | None
    scan: Scan

    @property
    def subject(self) -> str:
        """Name of the person: the folder of the first scan."""
        return folder_name(self.source)

    @property
    def twin_of(self) -> str | None:
        """The earlier folder that shows the same person, or None."""
        return self.subject if self.source != self.index else None


@dataclass(frozen=True)
class Recipe:
    """What a cohort is made of; two recipes that differ make two phantoms.

    Raises nothing itself: ``phantoms.generate`` checks the values.
    """

    spacing_mm: float = 2.0
    seed: int = 0
    contrast: Contrast = "physics"
    controls: float = 0.10
    twins: float = 0.15
    missing: float = 0.0
    anatomy: str = "icbm152"
    layout: str = "bids"


def folder_name(index: int) -> str:
    """``sub-001`` for index 0."""
    return f"sub-{index + 1:03d}"


def plan(recipe: Recipe, index: int) -> Plan:
    """Draw subject ``index`` (from 0); it does not depend on how many others there are."""
    source = _source(recipe, index)
    contrast = _contrast(recipe, source)
    grade = _grade(recipe, source)
    return Plan(
        id=folder_name(index),
        index=index,
        source=source,
        person=_person(recipe.seed, source, wide=contrast == "random"),
        tumour=None if grade == "control" else _tumour(recipe.seed, source, grade),
        scan=_scan(recipe, index, contrast),
    )


def _takes(index: int, fraction: float, offset: float) -> bool:
    """Exact quotas, not draws, so that small cohorts hold controls and twins too."""
    return math.floor((index + 1) * fraction + offset) > math.floor(index * fraction + offset)


def _is_twin(recipe: Recipe, index: int) -> bool:
    return index > 0 and _takes(index, recipe.twins, 0.0)


def _is_control(recipe: Recipe, index: int) -> bool:
    return not _is_twin(recipe, index) and _takes(index, recipe.controls, 0.5)


def _source(recipe: Recipe, index: int) -> int:
    """The index of the person: an earlier patient where ``index`` is a second scan."""
    free: list[int] = []
    for i in range(index + 1):
        source = i
        if free and _is_twin(recipe, i):
            rng = stream(recipe.seed, Stream.COHORT, i + 1)
            source = free.pop(int(rng.integers(len(free))))
        elif not _is_control(recipe, i):
            free.append(i)
    return source


def _even(seed: int, index: int, which: int) -> float:
    start = stream(seed, Stream.COHORT).random(3)[which]
    return float((start + (index + 1) * _EVEN_STEPS[which]) % 1.0)


def _site(seed: int, index: int) -> Site:
    edges = np.cumsum([site.weight for site in SITES])
    place = int(np.searchsorted(edges / edges[-1], _even(seed, index, 0), side="right"))
    return SITES[min(place, len(SITES) - 1)]


def _grade(recipe: Recipe, source: int) -> str:
    if _is_control(recipe, source):
        return "control"
    high = _even(recipe.seed, source, 1) < _site(recipe.seed, source).high_grade
    return "HGG" if high else "LGG"


def _contrast(recipe: Recipe, source: int) -> str:
    if recipe.contrast != "mixed":
        return recipe.contrast
    return "random" if source % 2 else "physics"


def _three(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (round(float(v), 4) for v in values)
    return a, b, c


def _person(seed: int, source: int, wide: bool) -> Person:
    """Head size, pose and age; ``wide`` is the range of contrast-randomised subjects."""
    rng = stream(seed, Stream.PERSON, source)
    sex = "F" if _even(seed, source, 2) < 0.45 else "M"
    age = int(rng.integers(20, 81))
    spread, turn = (0.20, 15.0) if wide else (0.08, 8.0)
    scale = 1 + rng.uniform(-spread, spread) + rng.uniform(-0.02, 0.02, 3)
    years = (age - 20) / 60
    return Person(
        sex=sex,
        age=age,
        scale=_three(np.clip(scale, 1 - spread, 1 + spread) * (0.97 if sex == "F" else 1.0)),
        rotation_deg=_three(rng.uniform(-turn, turn, 3)),
        shear=round(float(rng.uniform(-0.012, 0.012)), 4) if wide else 0.0,
        warp_mm=round(float(rng.uniform(2.4, 3.6)), 3),
        ventricle_mm=round(float(1.5 * years + rng.normal(0, 0.3)), 3),
        atrophy=round(0.003 * (age - 20), 4),
        hyperintensity=round(float(np.clip(years + rng.normal(0, 0.25), 0, 1.2)), 3),
    )


def _tumour(seed: int, source: int, grade: str) -> Tumour:
    rng = stream(seed, Stream.TUMOUR, source)
    median = 28.0 if grade == "HGG" else 22.0
    low = float(rng.uniform(0.12, 0.20))
    return Tumour(
        grade=grade,
        core_ml=round(float(np.clip(median * np.exp(0.45 * rng.normal()), 8, 75)), 2),
        infiltration_mm=round(float(rng.uniform(4.0, 6.0)), 3),
        rim_mm=round(float(rng.uniform(2.5, 6.0)), 3),
        mass_effect=round(float(rng.uniform(0.10, 0.30)), 3),
        foci=int(rng.integers(2, 4)) if rng.random() < 0.25 else 1,
        cavity=bool(rng.random() < 0.05),
        gd_mmol=(round(low, 3), round(float(rng.uniform(low + 0.12, 0.45)), 3)),
    )


def _scan(recipe: Recipe, index: int, contrast: str) -> Scan:
    site = _site(recipe.seed, index)
    rng = stream(recipe.seed, Stream.SCAN, index)
    missing = rng.random() < recipe.missing
    absent = MODALITIES[int(rng.integers(4))] if missing else None
    return Scan(
        site=site.name,
        scanner=f"{site.name}-{'ab'[int(rng.random() < 0.4)]}",
        axes=site.axes,
        dose=round(float(rng.uniform(0.85, 1.15)), 3),
        contrast=contrast,
        pad=tuple(int(n) for n in rng.integers(2, 7, 6)),
        series=tuple(_series(rng, site, m, contrast, m == absent) for m in MODALITIES),
    )


def _series(
    rng: np.random.Generator, site: Site, modality: str, contrast: str, missing: bool
) -> Series:
    times = {"t2": site.t2, "flair": site.flair}.get(modality, site.t1)
    tr, te = times[0], times[-1]
    ti = times[1] if modality == "flair" else 0.0
    place = MODALITIES.index(modality)
    thickness = site.thickness[place]
    axis = _PLANE_AXIS[site.plane]
    bias, node = site.bias * float(rng.uniform(0.6, 1.4)), float(rng.uniform(60, 110))
    if contrast == "random":
        bias, node = float(rng.uniform(0.0, 0.7)), 45.0
        thickness = float(rng.uniform(1, 8)) if rng.random() < 0.5 else 1.0
        axis = int(rng.integers(3))
    return Series(
        modality=modality,
        tr=round(tr * float(rng.uniform(0.97, 1.03)), 1),
        te=round(te * float(rng.uniform(0.96, 1.04)), 2),
        ti=round(ti * float(rng.uniform(0.996, 1.004)), 1),
        gain=round(site.gain * float(rng.uniform(0.8, 1.25)), 2),
        bias=round(min(bias, 0.7), 4),
        bias_node_mm=round(node, 1),
        noise=round(float(rng.uniform(*site.noise)), 4),
        thickness_mm=round(thickness, 2),
        axis=axis,
        shift_mm=_three(rng.uniform(-0.5, 0.5, 3) / math.sqrt(3)),
        kept=round(float(np.clip(site.kept + rng.uniform(-0.05, 0.05), 0.7, 1.0)), 3),
        motion=bool(rng.random() < site.motion),
        missing=missing,
    )
