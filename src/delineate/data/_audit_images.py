"""What an audit says of images: grids that do not fit together, values in another unit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import numpy as np

from delineate.data._audit_case import Record, orientation, spacing
from delineate.data._audit_finding import Finding, count
from delineate.data._audit_twins import copied_channels
from delineate.data.cohort import Cohort

#: A voxel size this many times larger or smaller than the cohort's median stands out.
SPACING_FACTOR = 3.0
#: Longest edge of what was imaged: outside these, lengths are in metres or micrometres.
EXTENT_MM = (1.0, 3000.0)
#: Intensities stand out if both this far from the median and this many robust deviations.
LEVEL_FACTOR, LEVEL_DEVIATIONS = 20.0, 6.0
#: Where more than this share of the cases stands out, the cohort is varied and has no outliers.
OUTLIER_SHARE = 0.25


def geometry(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Channels, dimensions, voxel sizes and orientations that do not fit together."""
    findings = []
    whole = [r for r in records if r.grids and len(r.grids) == len(r.case.images)]
    shapes = Counter(tuple(r.counts.items()) for r in whole)
    if len(shapes) > 1:
        common, n = shapes.most_common(1)[0]
        odd = [r.case.id for r in whole if tuple(r.counts.items()) != common]
        findings.append(
            Finding(
                "channels-differ", "blocking",
                f"{count(len(odd), 'case')} with other channels than {_channels(common)}, which "
                f"{count(n, 'case')} have",
                tuple(odd), "leave such cases out, or choose the channels that all cases have",
            )
        )  # fmt: skip
    seen = [(r, grid) for r in records if (grid := r.grid) is not None]
    flat = [r.case.id for r, grid in seen if grid.ndim == 2]
    if 0 < len(flat) < len(seen):
        findings.append(
            Finding(
                "dimensions-differ", "blocking",
                f"{count(len(flat), 'flat image')} among {count(len(seen) - len(flat), 'volume')}",
                tuple(flat), "give each kind a cohort of its own",
            )
        )  # fmt: skip
    codes = Counter(orientation(grid) for _, grid in seen if grid.oriented)
    loose = [r.case.id for r, grid in seen if not grid.oriented]
    if codes and loose:
        findings.append(
            Finding(
                "orientation-unknown", "warning",
                f"{count(len(loose), 'image')} do not say how they lie in the body, the others do: "
                "no image would be brought to a common orientation",
                tuple(loose), "export them in a format that keeps it, such as NIfTI",
            )
        )  # fmt: skip
    elif len(codes) > 1:
        census = ", ".join(f"{n} {code}" for code, n in codes.most_common())
        findings.append(
            Finding(
                "orientations-mixed", "note",
                f"axes point different ways ({census}); all are brought to RAS+ before training",
            )
        )  # fmt: skip
    return findings + _spacings(records)


def _spacings(records: Sequence[Record]) -> list[Finding]:
    findings = []
    known = {r.case.id: g for r in records if (g := r.grid) is not None and g.spacing_known}
    silent = [r.case.id for r in records if r.grid is not None and not r.grid.spacing_known]
    if known and silent:
        findings.append(
            Finding(
                "spacing-unknown", "warning",
                f"{count(len(silent), 'image')} give no voxel size, the others do; theirs would be "
                "taken to be 1 mm",
                tuple(silent), "export them in a format that keeps it, such as NIfTI",
            )
        )  # fmt: skip
    extent = {
        name: max(n * mm for n, mm in zip(g.shape, g.spacing_mm, strict=True))
        for name, g in known.items()
    }
    strange = [n for n, mm in extent.items() if not EXTENT_MM[0] <= mm <= EXTENT_MM[1]]
    if strange:
        findings.append(
            Finding(
                "spacing-implausible", "warning",
                f"{count(len(strange), 'image')} cannot be this large: {strange[0]} is "
                f"{extent[strange[0]]:g} mm long; are lengths in metres or micrometres?",
                tuple(strange), "correct the voxel size in the files",
            )
        )  # fmt: skip
    for ndim in (2, 3):
        sizes = {n: spacing(g) for n, g in known.items() if g.ndim == ndim and n not in strange}
        if len(sizes) < 3:
            continue
        middle = np.median(list(sizes.values()), axis=0)
        off = [
            name for name, size in sizes.items()
            if np.abs(np.log(np.array(size) / middle)).max() > math.log(SPACING_FACTOR)
        ]  # fmt: skip
        few = len(off) <= OUTLIER_SHARE * len(sizes)
        if off:
            shown = "; ".join(f"{name}: {_mm(sizes[name])}" for name in off[:3])
            findings.append(
                Finding(
                    "spacing-outlier" if few else "spacing-varies", "warning" if few else "note",
                    f"{count(len(off), 'image')} with voxels {SPACING_FACTOR:g} times larger or "
                    f"smaller than the median of {_mm(middle)} ({shown})",
                    tuple(off), "check that these voxel sizes are right" if few else "",
                )
            )  # fmt: skip
    return findings


def intensities(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Constant and copied channels, values in another unit, values of another modality."""
    findings = []
    flat = [
        f"{r.case.id} ({p.name})" for r in records
        if any(p.low < p.high for p in r.planes) for p in r.planes if p.low == p.high
    ]  # fmt: skip
    if flat:
        findings.append(
            Finding(
                "channel-constant", "warning",
                f"{count(len(flat), 'channel')} with one single value beside others with an image: a "
                "missing scan filled up",
                tuple(flat), "leave such cases or channels out",
            )
        )  # fmt: skip
    copies: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for pair in copied_channels(record):
            copies.setdefault(pair, []).append(record.case.id)
    findings += [
        Finding(
            "channel-duplicated", "warning",
            f"{a} and {b} are the same image in {count(len(ids), 'case')}: a missing scan filled "
            "up with another, so that a model would learn from what is not there",
            tuple(ids), "leave such cases out, or train on one of the two channels",
        )
        for (a, b), ids in copies.items()
    ]  # fmt: skip
    for name, group in _by_channel(records).items():
        modality = cohort.modalities.get(name[1], "unknown")
        findings += _levels(name[0], {i: level for i, _, level in group}, modality)
        findings += _units(name[0], {i: low for i, low, _ in group}, modality)
    return findings


def _by_channel(records: Iterable[Record]) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """(Plane, channel) -> (case, lowest value, level), constant and damaged ones left out."""
    found: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for record in records:
        for plane in record.planes:
            if plane.low < plane.high:
                row = (record.case.id, plane.low, plane.level)
                found.setdefault((plane.name, plane.channel), []).append(row)
    return found


def _levels(channel: str, levels: Mapping[str, float], modality: str) -> list[Finding]:
    if len(levels) < 4:
        return []
    logs = np.log10(np.maximum(list(levels.values()), 1e-30))
    away = np.abs(logs - np.median(logs))
    spread = max(1.4826 * float(np.median(away)), 0.01)
    far = (away > LEVEL_DEVIATIONS * spread) & (away > math.log10(LEVEL_FACTOR))
    odd = [name for name, is_far in zip(levels, far, strict=True) if is_far]
    middle = 10 ** float(np.median(logs))
    if 0 < len(odd) <= OUTLIER_SHARE * len(levels):
        shown = "; ".join(f"{name}: {levels[name]:.4g}" for name in odd[:3])
        return [
            Finding(
                "intensity-outlier", "warning",
                f"{channel}: {count(len(odd), 'image')} far brighter or darker than the others, "
                f"whose 99.5th percentile is about {middle:.4g} ({shown}); another unit or scale?",
                tuple(odd), "check how these were exported",
            )
        ]  # fmt: skip
    if np.ptp(logs) > 2:
        lowest, highest = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
        scaled = modality in ("MR", "unknown")
        return [
            Finding(
                "intensity-range", "note" if scaled else "warning",
                f"{channel}: 99.5th percentiles range from {levels[lowest]:.4g} ({lowest}) to "
                f"{levels[highest]:.4g} ({highest})"
                + ("; each image is scaled by itself" if scaled else ""),
                (lowest, highest),
                "" if scaled else f"{modality} has a unit: export all images in it",
            )
        ]  # fmt: skip
    return []


def _units(channel: str, lows: Mapping[str, float], modality: str) -> list[Finding]:
    """Air is -1000 HU in CT, and nothing is in other modalities as they are stored."""
    middle = median(lows.values())
    if modality == "CT":
        odd = [name for name, low in lows.items() if low >= -10]
        if odd and (middle < -500 or len(odd) == len(lows)):
            message = f"{channel}: {count(len(odd), 'image')} without a value below −10"
            fix = "export them in Hounsfield units"
            return [Finding("ct-not-hu", "warning", f"{message}: not in HU?", tuple(odd), fix)]
    elif middle <= -900 and modality in ("MR", "XR", "US", "unknown"):
        severity = "note" if modality == "unknown" else "warning"
        message = f"{channel} is taken to be {modality}, but its values look like CT in HU"
        fix = "name the channel ct, so that it is prepared as CT"
        return [Finding("modality-mismatch", severity, message, (), fix)]
    return []


def _channels(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts)


def _mm(size: Iterable[float]) -> str:
    return " × ".join(f"{mm:.3g}" for mm in size) + " mm"
