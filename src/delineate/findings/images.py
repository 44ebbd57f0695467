"""What an audit says of images: grids that do not fit together, values in another unit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from statistics import median
from typing import Any

import numpy as np

from delineate.core.image import Grid
from delineate.data.cohort import Cohort
from delineate.findings._case import Plane, Record, orientation, spacing
from delineate.findings._finding import Finding, count, trained_on
from delineate.findings.twins import copied_channels

#: A voxel size this many times larger or smaller than the cohort's median stands out.
SPACING_FACTOR = 3.0
#: Longest edge of what was imaged: outside these, lengths are in metres or micrometres.
EXTENT_MM = (1.0, 3000.0)
#: Intensities stand out if both this far from the median and this many robust deviations.
LEVEL_FACTOR, LEVEL_DEVIATIONS = 20.0, 6.0
#: Where more cases than this share stand out, the cohort is varied and has no outliers.
OUTLIER_SHARE = 0.1
#: Modalities that are scaled image by image, so that no unit is needed.
_SCALED_ALONE = ("MR", "XR", "US", "OCT", "unknown")


def geometry(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Channels, dimensions, voxel sizes and orientations that do not fit together."""
    readable = [record for record in records if record.grid is not None]
    findings = (
        _kinds(cohort, readable)
        + _orientations(readable)
        + _implausible(readable)
        + _single_slices(readable)
    )
    findings += _decided(records)
    # The scans of one channel are compared with each other: PET is coarser than CT.
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in readable:
        if record.grid and record.grid.spacing_known and _extent(record.grid):
            groups.setdefault((next(iter(record.grids)), record.grid.ndim), []).append(record)
    for group in groups.values():
        findings += _spacings(group)
    return findings


def _kinds(cohort: Cohort, readable: Sequence[Record]) -> list[Finding]:
    """Cases that cannot be trained on together; without labels nobody wants to."""
    used = trained_on(cohort)
    severity = "blocking" if used else "warning"
    readable = [record for record in readable if not used or record.case.id in used]
    findings = []
    whole = [record for record in readable if len(record.grids) == len(record.case.images)]
    kinds = Counter(tuple(record.counts.items()) for record in whole)
    if len(kinds) > 1:
        common = kinds.most_common(1)[0][0]
        differing = [r.case.id for r in whole if tuple(r.counts.items()) != common]
        message = f"{len(differing)} of {count(len(whole), 'case')} with other channels than "
        fix = "add the channels that are missing"
        names = ", ".join(name if n == 1 else f"{name} ({n})" for name, n in common)
        ids = tuple(differing)
        findings.append(Finding("channels-differ", severity, message + names, ids, fix, ids))
    flat = [r.case.id for r in readable if r.grid and r.grid.ndim == 2]
    if 0 < len(flat) < len(readable):
        message = (
            f"{count(len(flat), 'flat image')} among {count(len(readable) - len(flat), 'volume')}"
        )
        fix = "give each kind a cohort of its own"
        fewer = flat if 2 * len(flat) <= len(readable) else [
            r.case.id for r in readable if r.grid and r.grid.ndim != 2
        ]  # fmt: skip
        ids = tuple(fewer)
        findings.append(Finding("dimensions-differ", severity, message, tuple(flat), fix, ids))
    thin = tuple(r.case.id for r in readable if r.grid and r.grid.ndim == 3 and 1 in r.grid.shape)
    if 0 < len(thin) < len(readable):
        treatment = "slice by slice" if 2 * len(thin) >= len(readable) else "as volumes"
        message = f"{count(len(thin), 'single slice')} among {len(readable) - len(thin)} volumes"
        message += f": all would be treated {treatment}"
        fix = "better give each kind a cohort of its own"
        findings.append(Finding("single-slices", "warning", message, thin, fix))
    return findings


def _orientations(readable: Sequence[Record]) -> list[Finding]:
    codes = Counter(orientation(r.grid) for r in readable if r.grid and r.grid.oriented)
    findings = []
    loose = [r.case.id for r in readable if r.grid and not r.grid.oriented]
    nominal = [r.case.id for r in readable if r.grid and not r.grid.spacing_known]
    fix = "export them in a format that keeps it, such as NIfTI"
    if codes and loose:
        message = (
            f"{count(len(loose), 'image')} of unknown orientation among others that tell theirs: "
            "none would be brought to a common one"
        )
        findings.append(Finding("orientation-unknown", "warning", message, tuple(loose), fix))
    elif len(codes) > 1:
        census = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        message = f"axes point different ways ({census}); all are brought to RAS+ before training"
        findings.append(Finding("orientations-mixed", "note", message))
    if 0 < len(nominal) < len(readable):
        message = (
            f"{count(len(nominal), 'image')} of unknown voxel size among others that tell theirs: "
            "it would be taken to be 1 mm"
        )
        findings.append(Finding("spacing-unknown", "warning", message, tuple(nominal), fix))
    return findings


def _decided(records: Sequence[Record]) -> list[Finding]:
    """What readers decided, once for all images of which they say the same but for the numbers."""
    by_wording: dict[str, dict[str, str]] = {}
    for record in records:
        for note in record.notes:
            key = re.sub(r"\d+(\.\d+)?", "", note)
            by_wording.setdefault(key, {}).setdefault(record.case.id, note)
    return [
        Finding(
            "image-read", "note",
            f"{count(len(note_of_case), 'case')}: "
            f"{next(iter(note_of_case.values()))}", tuple(note_of_case),
        )
        for note_of_case in by_wording.values()
    ]  # fmt: skip


def _single_slices(readable: Sequence[Record]) -> list[Finding]:
    """Volumes of one slice that lie side by side, as the slices of one scan do."""
    stacks: dict[Any, list[tuple[float, str]]] = {}
    for record in readable:
        grid = record.grid
        if grid is None or not grid.oriented or grid.ndim != 3 or grid.shape.count(1) != 1:
            continue
        thin = grid.shape.index(1)
        normal = np.cross(*np.delete(grid.affine[:3, :3], thin, axis=1).T)
        normal /= np.linalg.norm(normal)
        along = float(normal @ grid.affine[:3, 3])
        # the first voxel, moved to where the normal begins: alike in slices of one scan
        sideways = grid.affine[:3, 3] - along * normal
        in_plane = np.delete(grid.affine[:3, :3], thin, axis=1)
        key = (grid.shape, *np.round([*in_plane.ravel(), *sideways], 1).tolist())
        stacks.setdefault(key, []).append((along, record.case.id))
    sliced: list[str] = []
    for stack in stacks.values():
        gaps = np.diff([along for along, _ in sorted(stack)])
        if len(gaps) >= 2 and gaps.min() > 1e-2 and np.ptp(gaps) <= 0.05 * gaps.min():
            sliced += [name for _, name in sorted(stack)]
    if not sliced:
        return []
    message = (
        f"{len(sliced)} volumes of one slice lie evenly side by side: slices of one scan, taken "
        "apart (in DICOM, by a SeriesInstanceUID or the like of its own in every file)?"
    )
    fix = "join them to volumes, or name what they share as their subject (--subject-pattern)"
    return [Finding("slices-apart", "warning", message, tuple(sliced), fix)]


def _extent(grid: Grid) -> bool:
    """Whether something of this size can have been imaged."""
    longest = max(n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    return EXTENT_MM[0] <= longest <= EXTENT_MM[1]


def _implausible(readable: Sequence[Record]) -> list[Finding]:
    implausible = {
        r.case.id: r.grid.spacing_mm
        for r in readable
        if r.grid and r.grid.spacing_known and not _extent(r.grid)
    }
    if not implausible:
        return []
    first = next(iter(implausible))
    message = (
        f"{count(len(implausible), 'image')} of a size that cannot be ({first}: voxels of "
        f"{_mm(implausible[first])}): lengths in metres or micrometres?"
    )
    fix = "correct the voxel size in the files"
    return [Finding("spacing-implausible", "warning", message, tuple(implausible), fix)]


def _spacings(group: Sequence[Record]) -> list[Finding]:
    """Scans of one channel with much larger or smaller voxels than most."""
    sizes = {r.case.id: spacing(r.grid) for r in group if r.grid}
    middle = np.median(list(sizes.values()), axis=0)
    outliers = [
        name
        for name, size in sizes.items()
        if np.abs(np.log(np.array(size) / middle)).max() > math.log(SPACING_FACTOR)
    ]
    if len(sizes) < 3 or not outliers:
        return []
    examples = "; ".join(f"{name}: {_mm(sizes[name])}" for name in outliers[:3])
    message = (
        f"{count(len(outliers), 'image')} with voxels over {SPACING_FACTOR:g} times larger or "
        f"smaller than the median of {_mm(middle)} ({examples})"
    )
    if not _are_outliers(outliers, sizes):
        return [Finding("spacing-varies", "note", message, tuple(outliers))]
    fix = "check that these voxel sizes are right"
    return [Finding("spacing-outlier", "warning", message, tuple(outliers), fix)]


def _are_outliers(names: Sequence[str], population: Sized) -> bool:
    return len(names) <= max(1, OUTLIER_SHARE * len(population))


def intensities(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Constant and copied channels, values in another unit, values of another modality."""
    findings = _fillings(records)
    channels: dict[tuple[str, str], list[tuple[str, Plane]]] = {}
    for record in records:
        for plane in record.planes:
            if plane.low < plane.high:
                key = (plane.name, plane.channel)
                channels.setdefault(key, []).append((record.case.id, plane))
    for (name, channel), group in channels.items():
        modality = cohort.modality(name, channel)
        findings += _levels(name, {i: plane.level for i, plane in group}, modality)
        findings += _units(name, {i: plane.low for i, plane in group}, modality)
    return findings


def _fillings(records: Sequence[Record]) -> list[Finding]:
    """Channels that stand in for a scan that was not made."""
    findings = []
    flat = [
        f"{r.case.id} ({p.name})"
        for r in records
        if any(p.low < p.high for p in r.planes)
        for p in r.planes
        if p.low == p.high
    ]
    if flat:
        message = (
            f"{count(len(flat), 'channel')} with one single value beside others with an image: a "
            "missing scan filled up"
        )
        fix = "leave such cases or channels out"
        findings.append(Finding("channel-constant", "warning", message, tuple(flat), fix))
    copies: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        for names in copied_channels(record):
            copies.setdefault(names, []).append(record.case.id)
    for names, ids in copies.items():
        message = (
            f"{', '.join(names[:-1])} and {names[-1]} are the same image in "
            f"{count(len(ids), 'case')}: a missing scan filled up with another, so that a model "
            "would learn from what is not there"
        )
        fix = "leave such cases out with --exclude FILE, one id a line"
        findings.append(Finding("channel-duplicated", "warning", message, tuple(ids), fix))
    return findings


def _levels(channel: str, levels: Mapping[str, float], modality: str) -> list[Finding]:
    """Images in another unit or scale; where many are, only that they are."""
    if len(levels) < 4:
        return []
    logs = np.log10(np.maximum(list(levels.values()), 1e-30))
    deviations = np.abs(logs - np.median(logs))
    spread = max(1.4826 * float(np.median(deviations)), 0.01)
    outlying = (deviations > LEVEL_DEVIATIONS * spread) & (deviations > math.log10(LEVEL_FACTOR))
    outliers = [name for name, is_outlying in zip(levels, outlying, strict=True) if is_outlying]
    scaled_alone = modality in _SCALED_ALONE
    if outliers and _are_outliers(outliers, levels):
        examples = "; ".join(f"{name}: {levels[name]:.4g}" for name in outliers[:3])
        message = (
            f"{channel}: {count(len(outliers), 'image')} far brighter or darker than the others, "
            f"whose 99.5th percentile is about {10 ** float(np.median(logs)):.4g} ({examples}): "
            "another unit or scale?"
        )
        fix = "check how these were exported"
        return [Finding("intensity-outlier", "warning", message, tuple(outliers), fix)]
    if not outliers and np.ptp(logs) <= 2:
        return []
    lowest, highest = (pick(levels, key=levels.__getitem__) for pick in (min, max))
    message = (
        f"{channel}: 99.5th percentiles range from {levels[lowest]:.4g} ({lowest}) to "
        f"{levels[highest]:.4g} ({highest})"
    )
    if scaled_alone:
        message += "; each image is scaled by itself before training"
        return [Finding("intensity-range", "note", message, (lowest, highest))]
    fix = f"{modality} has a unit: export all images in it"
    return [Finding("intensity-range", "warning", message, (lowest, highest), fix)]


def _units(channel: str, lows: Mapping[str, float], modality: str) -> list[Finding]:
    """Air is -1000 HU in CT, and nothing is in other modalities as they are stored."""
    middle = median(lows.values())
    if modality == "CT":
        implausible = [name for name, low in lows.items() if low >= -10]
        if implausible and (middle < -500 or len(implausible) == len(lows)):
            message = f"{channel}: {count(len(implausible), 'image')} without a value below −10"
            fix = "export them in Hounsfield units"
            return [
                Finding("ct-not-hu", "warning", f"{message}: not in HU?", tuple(implausible), fix)
            ]
    elif -3100 <= middle <= -900 and modality in ("MR", "XR", "US", "unknown"):
        severity = "note" if modality == "unknown" else "warning"
        message = f"{channel} is taken to be {modality}, but its values look like CT in HU"
        fix = "name the channel ct, so that it is prepared as CT"
        return [Finding("modality-mismatch", severity, message, (), fix)]
    return []


def _mm(size: Iterable[float]) -> str:
    return " × ".join(f"{mm:.3g}" for mm in size) + " mm"
