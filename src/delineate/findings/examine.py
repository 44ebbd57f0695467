"""The audit: what is wrong with a cohort before anyone trains on it.

Every file is read once and to its end, since headers alone prove nothing. Damaged files, grids
that disagree, labels with undeclared values, copies that cross a declared split and much else
become findings, each *blocking*, a *warning* or a *note*, with its places and the next move.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core import threads
from delineate.core.progress import QUIET, Progress
from delineate.data import capacity
from delineate.data.cohort import Cohort
from delineate.findings._case import Record, examine_case, orientation, spacing
from delineate.findings._finding import Finding, count
from delineate.findings.files import faults, pairing, subjects
from delineate.findings.images import geometry, intensities
from delineate.findings.labels import labels
from delineate.findings.names import names
from delineate.findings.overlooked import overlooked
from delineate.findings.twins import duplicates, surplus

#: Name of the list that leaves out the cases of blocking findings, beside the page.
EXCLUDE = "exclude.txt"
SEVERITIES = ("blocking", "warning", "note")
#: Each looks at one matter; they are given the cohort and what was kept of every case.
RULES: tuple[Callable[[Cohort, Sequence[Record]], list[Finding]], ...] = (
    faults, pairing, subjects, duplicates, geometry, labels, names, overlooked, intensities,
)  # fmt: skip
#: Times that a case is held while it is looked at: image, bytes read, turned copy, finite voxels.
_COPIES = 4
#: More shapes than this are summed up by axis.
_MOST_SHAPES = 14


def examine(
    cohort: Cohort,
    *,
    drop_duplicates: bool = False,
    workers: int | None = None,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Read every file of a cohort and tell what is wrong with it.

    Args:
        cohort: The cohort; nothing is written into it.
        drop_duplicates: Leave out all copies of an image but one, before anything is judged.
        workers: Threads; by default as many as processors and memory allow, at most 8.
        progress: Told of every case.

    Returns:
        Plain data for JSON: ``root``, ``layout``, ``cases``, ``subjects``, ``seconds``, ``facts``
        (what there is) and ``findings``, the gravest first, each with ``code``, ``severity``,
        ``message``, ``places`` (how many), ``where`` (the first of them) and ``fix``;
        ``excluded``, cases that were left out, and ``exclude``, with those without which the
        blocking findings that have such cases are settled (id -> why).
    """
    started = time.monotonic()
    records = _examine_cases(cohort, workers or capacity.threads(cohort, _COPIES), progress)
    if drop_duplicates and (copies := surplus(records)):
        cohort = cohort.without(copies)
        records = [record for record in records if record.case.id not in copies]
    findings = [_with_way_out(finding) for rule in RULES for finding in rule(cohort, records)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    blocking = [finding for finding in findings if finding.severity == "blocking"]
    exclude = {name: finding.code for finding in reversed(blocking) for name in finding.cases}
    return {
        "format": "delineate-audit",
        "root": cohort.root.as_posix(),
        "layout": cohort.layout,
        "cases": len(cohort),
        "subjects": len({case.subject for case in cohort.cases}),
        "seconds": round(time.monotonic() - started, 2),
        "facts": facts(cohort, records),
        "findings": [finding.to_dict() for finding in findings],
        "drop_duplicates": drop_duplicates,
        "excluded": dict(cohort.excluded),
        "exclude": {**cohort.excluded, **exclude} if exclude else {},
    }


def _with_way_out(finding: Finding) -> Finding:
    """A blocking finding that also says how to leave its cases out."""
    if finding.severity != "blocking" or not finding.cases:
        return finding
    out = f"leave {count(len(finding.cases), 'case')} out: --exclude {EXCLUDE}"
    return replace(finding, fix=f"{finding.fix}; or {out}" if finding.fix else out)


def _examine_cases(cohort: Cohort, workers: int, progress: Progress) -> list[Record]:
    with threads.pool(workers) as pool:
        records = pool.map(
            lambda case: examine_case(case, cohort.root, cohort.schema, cohort.modalities),
            cohort.cases,
        )
        return list(progress.track(records, "audit", len(cohort)))


def facts(cohort: Cohort, records: Sequence[Record]) -> dict[str, Any]:
    """What there is: counts, voxel sizes, orientations, intensities and label volumes."""
    grids = [grid for record in records if (grid := record.grid) is not None]
    shapes = _census(" × ".join(map(str, grid.shape)) for grid in grids)
    per_subject = Counter(case.subject for case in cohort.cases)
    values: dict[str, Any] = {
        "labelled_cases": sum(case.label is not None for case in cohort.cases),
        "files_read_to_the_end": sum(len(record.grids) for record in records)
        + sum(record.label is not None for record in records),
        "cases_per_subject": _range(per_subject.values()),
        "dimensions": sorted({grid.ndim for grid in grids}),
        "voxel_size": "known" if any(g.spacing_known for g in grids) else "not told by the files",
        "remarks": list(cohort.notes),
        "left_out_on_request": [f"{k}: {v}" if v else k for k, v in cohort.excluded.items()],
        "shapes": shapes if len(shapes) <= _MOST_SHAPES else {},
        "size_voxels": _size_rows([g.shape for g in grids]) if len(shapes) > _MOST_SHAPES else [],
        "orientations": _census(
            orientation(grid) if grid.oriented else "not told" for grid in grids
        ),
        "parts": _census(case.split for case in cohort.cases),
        "classes": _census(case.class_name for case in cohort.cases),
        "sites": _census(case.site for case in cohort.cases),
        "spacing_mm": _spacing_rows([spacing(grid) for grid in grids if grid.spacing_known]),
        "intensities": _intensity_rows(cohort, records),
        "labels": _label_rows(cohort, records),
    }
    return {name: value for name, value in values.items() if value not in ([], {})}


def _census(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(value for value in values if value is not None).most_common())


def _range(values: Iterable[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return str(low) if low == high else f"{low} to {high}"


def _size_rows(shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
    rows = []
    for ndim in sorted({len(shape) for shape in shapes}):
        table = np.array([shape for shape in shapes if len(shape) == ndim])
        rows += [{"axis": f"{i + 1} of {ndim}", **_spread(table[:, i])} for i in range(ndim)]
    return rows


def _spacing_rows(sizes: Sequence[tuple[float, ...]]) -> list[dict[str, Any]]:
    rows = []
    for ndim in sorted({len(size) for size in sizes}):
        table = np.array([size for size in sizes if len(size) == ndim])
        axes = ("right", "anterior", "superior") if ndim == 3 else ("rows", "columns")
        rows += [
            {"axis": axis, **_spread(table[:, i])} for i, axis in enumerate(axes)
        ]  # fmt: skip
    return rows


def _intensity_rows(cohort: Cohort, records: Sequence[Record]) -> list[dict[str, Any]]:
    """By channel: how the cases' smallest, largest and 99.5th-percentile values are spread."""
    planes: dict[str, list[Any]] = {}
    for record in records:
        for plane in record.planes:
            if math.isfinite(plane.low + plane.high):
                planes.setdefault(plane.name, []).append(plane)
    return [
        {
            "channel": name,
            "modality": cohort.modality(name, planes_of_channel[0].channel),
            "images": len(planes_of_channel),
            "lowest": _short(min(p.low for p in planes_of_channel)),
            "highest": _short(max(p.high for p in planes_of_channel)),
            **{f"p99_5_{k}": v for k, v in _spread([p.level for p in planes_of_channel]).items()},
        }
        for name, planes_of_channel in planes.items()
    ]


def _label_rows(cohort: Cohort, records: Sequence[Record]) -> list[dict[str, Any]]:
    """By label: in how many cases it is, and how large (ml, or voxels where no size is known)."""
    label_maps = [r.label for r in records if r.label is not None]
    grids = [label.grid for label in label_maps]
    known = bool(label_maps) and all(grid.spacing_known and grid.ndim == 3 for grid in grids)
    rows = []
    for entry in cohort.schema.labels if label_maps else ():
        present = [label for label in label_maps if label.voxels.get(entry.value)]
        sizes = [
            label.voxels[entry.value] * (label.grid.voxel_ml if known else 1) for label in present
        ]
        total = sum(sum(label.voxels.values()) for label in label_maps)
        share = sum(label.voxels[entry.value] for label in present) / max(total, 1)
        unit = "ml" if known else "voxels"
        rows.append(
            {
                "label": entry.name,
                "value": entry.value,
                "cases": len(present),
                "share_of_voxels": _short(share),
                **{f"{unit}_{k}": v for k, v in _spread(sizes).items()},
            }
        )
    return rows


def _spread(values: Sequence[float] | NDArray[Any]) -> dict[str, float | None]:
    if not len(values):
        return {"min": None, "median": None, "max": None}
    ends = (min(values), float(np.median(values)), max(values))
    return dict(zip(("min", "median", "max"), map(_short, ends), strict=True))


def _short(value: float) -> float:
    """Four significant digits: enough to judge by, and to read."""
    return float(f"{value:.4g}")
