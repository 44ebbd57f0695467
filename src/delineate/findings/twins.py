"""Which cases show the same image: to the voxel, or as near as a copy that was saved again.

Near copies are looked for by the correlation of thumbnails, first coarse and then fine, so that
noise, lossy compression, another intensity scale or another matrix size do not hide them, nor for
flat images that they were mirrored. Crops and copies turned by other angles are not found. Unlike
scans are far from the limits: in seven public cohorts and the phantom no two people's images
reached 0.985 on the fine grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from delineate.data.cohort import Cohort
from delineate.findings._case import Plane, Record
from delineate.findings._finding import Finding, count

#: Least correlation of the coarse thumbnails (16 x 16, 8 x 8 x 8), and then of the fine ones.
COARSE, FINE = 0.995, 0.998
#: Two channels of one case are one scan from here on; repeated scans stay below.
SAME_SCAN = 0.99999
_COARSE_SIDE = {2: 16, 3: 8}
#: Axes to turn round before comparing: mirrored copies of flat images are common, those of
#: volumes are not.
_MIRRORS: dict[int, tuple[tuple[int, ...], ...]] = {2: ((), (1,), (2,), (1, 2)), 3: ((),)}
_BLOCK = 1024
#: Which part keeps the copy.
_PARTS = {"train": 0, "validation": 1, "test": 2}
#: Indices ``(n, 2)``.
_Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Cases that show the same image.

    Args:
        members: Indices into the records, ascending.
        exact: To the voxel; else as a near copy.
        correlation: The lowest that joined two of them.
    """

    members: tuple[int, ...]
    exact: bool
    correlation: float = 1.0


def duplicates(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Copies on both sides of a declared split, under several subjects, with unlike labels."""
    sorted_groups: dict[tuple[str, bool], list[Group]] = {}
    differing: dict[str, list[Group]] = {"class": [], "label": []}
    for group in groups(records):
        members = [records[i] for i in group.members]
        parts = {r.case.split for r in members} - {None}
        several_subjects = len({r.case.subject for r in members}) > 1
        kind = "splits" if len(parts) > 1 else "subjects" if several_subjects else ""
        sorted_groups.setdefault((kind, group.exact), []).append(group)
        if group.exact:
            if len({r.case.class_name for r in members} - {None}) > 1:
                differing["class"].append(group)
            if len({r.label.digest for r in members if r.label}) > 1:
                differing["label"].append(group)
    findings = [
        _copies(cohort, records, kind, exact, copies)
        for (kind, exact), copies in sorted_groups.items()
    ]
    findings += [
        Finding(
            f"duplicate-{attribute}-differs", "warning",
            f"{count(len(copies), 'image')} with several copies, and a different {attribute} for "
            "each",
            _names(records, copies),
            f"leave those of the wrong {attribute} out with --exclude FILE",
        )
        for attribute, copies in differing.items() if copies
    ]  # fmt: skip
    return findings


def _copies(
    cohort: Cohort, records: Sequence[Record], kind: str, exact: bool, copy_groups: Sequence[Group]
) -> Finding:
    kind_of_copy = "duplicate" if exact else "near-duplicate"
    copies = f"exact copies of {count(len(copy_groups), 'image')}"
    if not exact:
        lowest = min(group.correlation for group in copy_groups)
        copies = (
            f"near copies of {count(len(copy_groups), 'image')} (correlation from {lowest:.3f})"
        )
    places = _names(records, copy_groups)
    if kind == "splits":
        return Finding(
            f"{kind_of_copy}-across-splits", "blocking",
            f"{copies} are in different parts of the declared split: "
            + _shares_copied(cohort, records, copy_groups),
            places, "--drop-duplicates keeps one copy of each",
            tuple(surplus(records, copy_groups)),
        )  # fmt: skip
    if kind == "subjects":
        return Finding(
            f"{kind_of_copy}-across-subjects", "warning",
            f"{copies} are listed under different subjects: a split by subject would not keep them "
            "together",
            places, "--drop-duplicates keeps one copy of each; or give them one subject, with "
            "--subject-pattern or in a table",
        )  # fmt: skip
    message = f"{copies} are listed more than once for the same subject"
    return Finding(f"{kind_of_copy}-within-subject", "note", message, places)


def surplus(
    records: Sequence[Record], copy_groups: Iterable[Group] | None = None
) -> dict[str, str]:
    """Cases without which every image is there once, and why each: id -> words.

    Of the copies of an image, one in the training part is kept, and one with a label, where there
    is one. Where exact copies have different classes nobody knows the right one: all go.

    Args:
        records: Of all cases.
        copy_groups: ``groups``, or some of them; by default all.
    """
    reasons: dict[str, str] = {}
    for group in groups(records) if copy_groups is None else copy_groups:
        cases = [records[i].case for i in group.members if records[i].case.id not in reasons]
        if len(cases) < 2:
            continue
        classes = sorted({case.class_name for case in cases if case.class_name is not None})
        if group.exact and len(classes) > 1:
            reasons |= {case.id: f"copies with the classes {', '.join(classes)}" for case in cases}
            continue
        best = min(cases, key=lambda case: (_PARTS.get(case.split or "", 0), case.label is None))
        word = "copy" if group.exact else "near copy"
        reasons |= {case.id: f"{word} of {best.id}" for case in cases if case is not best}
    return reasons


def _shares_copied(cohort: Cohort, records: Sequence[Record], copy_groups: Sequence[Group]) -> str:
    """How many cases of each part but the largest have a copy in another."""
    sizes = Counter(case.split for case in cohort.cases if case.split)
    copies_in_part = Counter(records[i].case.split for group in copy_groups for i in group.members)
    smaller_parts = [part for part, _ in sizes.most_common()[1:] if copies_in_part[part]]
    return "; ".join(
        f"{copies_in_part[p]} of {count(sizes[p], 'case')} in {p!r} "
        f"({copies_in_part[p] / sizes[p]:.0%}) are copies of cases elsewhere"
        for p in smaller_parts
    )


def _names(records: Sequence[Record], copy_groups: Iterable[Group]) -> tuple[str, ...]:
    return tuple(
        (" = " if group.exact else " ≈ ").join(records[i].case.id for i in group.members)
        for group in copy_groups
    )


def groups(records: Sequence[Record]) -> list[Group]:
    """Groups of exact copies, and groups of near copies among different subjects."""
    owners: dict[bytes, list[int]] = {}
    for index, record in enumerate(records):
        for plane in record.planes:
            if plane.low < plane.high:
                owners.setdefault(plane.digest, []).append(index)
    ends = [(members[0], other) for members in owners.values() for other in members[1:]]
    exact = _join(len(records), ends)
    copy_groups = [Group(tuple(members), True) for members in exact]
    exact_group = np.arange(len(records))
    for members in exact:
        exact_group[members] = members[0]
    subjects = np.unique([record.case.subject for record in records], return_inverse=True)[1]
    pairs, correlations = _near_pairs(records)
    a, b = pairs.T
    chosen = (exact_group[a] != exact_group[b]) & (subjects[a] != subjects[b])
    pairs, correlations = pairs[chosen], correlations[chosen]
    for members in _join(len(records), pairs):
        lowest = correlations[np.isin(pairs[:, 0], members)].min()
        copy_groups.append(Group(tuple(members), False, float(lowest)))
    return copy_groups


def copied_channels(record: Record) -> list[tuple[str, ...]]:
    """Groups of channels of one case that are one and the same scan."""
    planes = [plane for plane in record.planes if plane.thumbnail is not None]
    copies = [
        (i, j) for i, a in enumerate(planes) for j, b in enumerate(planes[:i]) if _same_image(a, b)
    ]
    return [tuple(planes[i].name for i in group) for group in _join(len(planes), copies)]


def _same_image(a: Plane, b: Plane) -> bool:
    if a.thumbnail is None or b.thumbnail is None or a.thumbnail.shape != b.thumbnail.shape:
        return False
    first, second = _unit(np.stack([a.thumbnail, b.thumbnail]))
    return a.digest == b.digest or float(first @ second) > SAME_SCAN


def _near_pairs(records: Sequence[Record]) -> tuple[_Pairs, NDArray[np.float32]]:
    """Pairs of records, one channel of which is nearly the same, and how near."""
    channels: dict[tuple[str, int], list[tuple[int, NDArray[np.float16]]]] = {}
    for index, record in enumerate(records):
        for plane in record.planes:
            if plane.thumbnail is not None:
                key = (plane.name, plane.thumbnail.ndim)
                channels.setdefault(key, []).append((index, plane.thumbnail))
    pairs = [np.empty((0, 2), np.int64)]
    correlations = [np.empty(0, np.float32)]
    for (_, ndim), thumbnails in channels.items():
        owner = np.array([index for index, _ in thumbnails])
        stacked = np.stack([thumbnail for _, thumbnail in thumbnails])
        for axes in _MIRRORS[ndim]:
            for ends, r in _compare(stacked, np.flip(stacked, axes)):
                pairs.append(owner[ends])
                correlations.append(r)
    return np.concatenate(pairs), np.concatenate(correlations)


def _compare(
    fine: NDArray[np.float16], other: NDArray[np.float16]
) -> Iterator[tuple[_Pairs, NDArray[np.float32]]]:
    """Rows ``a < b`` of two tables of thumbnails ``(n, *S)`` that are nearly the same."""
    left, right = _coarse(fine), _coarse(other)
    for top in range(0, len(fine), _BLOCK):
        for start in range(top, len(fine), _BLOCK):
            a, b = np.nonzero(left[top : top + _BLOCK] @ right[start : start + _BLOCK].T > COARSE)
            a, b = a + top, b + start
            ends = np.stack([a, b], axis=1)[a < b]
            if len(ends):
                r = _correlations(fine, other, ends)
                yield ends[r > FINE], r[r > FINE]


def _coarse(fine: NDArray[np.float16]) -> NDArray[np.float32]:
    ndim = fine.ndim - 1
    side = _COARSE_SIDE[ndim]
    blocks = (side, fine.shape[1] // side) * ndim
    return _unit(fine.reshape(-1, *blocks).mean(tuple(range(2, 2 * ndim + 1, 2)), np.float32))


def _correlations(
    fine: NDArray[np.float16], other: NDArray[np.float16], ends: _Pairs
) -> NDArray[np.float32]:
    """Correlation of each pair, by one product of all images that are in any of them."""
    rows, i = np.unique(ends[:, 0], return_inverse=True)
    columns, j = np.unique(ends[:, 1], return_inverse=True)
    product: NDArray[np.float32] = _unit(fine[rows]) @ _unit(other[columns]).T
    return product[i, j]


def _unit(images: NDArray[np.float16 | np.float32]) -> NDArray[np.float32]:
    """Images ``(n, *S)`` as rows of mean 0 and length 1: their products are correlations."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return flat


def _join(count: int, pairs: _Pairs | Sequence[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of two members or more, each ascending."""
    ends = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    joined: dict[int, list[int]] = {}
    for node, name in enumerate(connected_components(graph, directed=False)[1].tolist()):
        joined.setdefault(name, []).append(node)
    return [members for members in joined.values() if len(members) > 1]
