"""Frames at one place -> volumes: by echo, diffusion weight, phase, time and the like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from delineate.core.image import FloatArray
from delineate.data.readers._dicom_frames import TIME_KEYS, VOLUME_KEYS, Frame

#: Slices nearer than this lie at the same place, mm.
SAME_PLACE_MM = 1e-2
#: Slices are evenly spaced if no gap is off the usual one by more than this share.
_EVEN = 0.05
#: A phase has at least so many slices, and this share of those of the longest.
_FEWEST, _LEAST = 3, 0.25

Groups = dict[tuple[str, ...], list[Frame]]


def normal_of(frames: Sequence[Frame]) -> FloatArray:
    """Unit vector of the slice normal, LPS; the frames must be ``placed``."""
    along_row, along_column = np.asarray(frames[0].orientation)
    normal = np.cross(along_row, along_column)
    return np.asarray(normal / np.linalg.norm(normal))


def placed(frames: Sequence[Frame]) -> bool:
    """True if every frame says where it lies."""
    return all(f.position is not None and f.orientation is not None for f in frames)


def gaps(frames: Sequence[Frame]) -> FloatArray:
    """Distances along the normal between neighbours of a sorted list, mm."""
    along = np.array([np.asarray(frame.position) for frame in frames]) @ normal_of(frames)
    return np.asarray(np.diff(along))


def crowded(frames: Sequence[Frame]) -> bool:
    """True if two neighbours of a sorted list lie at one place."""
    return bool((gaps(frames) < SAME_PLACE_MM).any())


def step_mm(frames: Sequence[Frame]) -> float | None:
    """Distance of evenly spaced slices, None where they are not, or where there is one alone."""
    distances = gaps(frames)
    if (
        not distances.size
        or distances.min() < SAME_PLACE_MM
        or np.ptp(distances) > _EVEN * distances.min()
    ):
        return None
    return float(distances.mean())


def part(frames: list[Frame]) -> list[tuple[str, list[Frame]]] | None:
    """Volumes of a sorted, crowded list, each with what tells it apart; None if nothing does.

    A second version of a single slice is no volume: it stays a contradiction.
    """
    # A key alone, then the likeliest together; volumes of one size before those of several.
    names: list[tuple[str, ...]] = [(name,) for name in VOLUME_KEYS]
    names += [VOLUME_KEYS[:n] for n in range(2, len(VOLUME_KEYS) + 1)]
    split = [(keys, _split(frames, keys)) for keys in names]
    for fits in (_alike, _unlike):
        for keys, groups in split:
            if len(groups) > 1 and not any(map(crowded, groups.values())) and fits(groups):
                return [(_differing(keys, value, groups), groups[value]) for value in groups]
    return _in_turn(frames)


def interleaved(frames: list[Frame]) -> list[tuple[str, list[Frame]]] | None:
    """Volumes of a sorted list that lies on no grid because phases lie a little beside each other.

    Each must be whole in itself and all must cover the same region: two stations with a gap
    between them are one volume that lacks slices.
    """
    along = np.array([_along(frame) for frame in frames])
    step = (along[-1] - along[0]) / (len(frames) - 1)
    if np.abs(along - along[0] - step * np.arange(len(frames))).max() <= _EVEN * step:
        return None
    for name in VOLUME_KEYS:
        groups = _split(frames, (name,))
        if len(groups) > 1 and _unlike(groups):
            ends = [(_along(group[0]), _along(group[-1])) for group in groups.values()]
            shared = min(end for _, end in ends) - max(start for start, _ in ends)
            if shared > 0.5 * max(end - start for start, end in ends):
                return [(_differing((name,), value, groups), groups[value]) for value in groups]
    return None


def _split(frames: list[Frame], names: tuple[str, ...]) -> Groups:
    groups: Groups = {}
    for frame in frames:
        groups.setdefault(tuple(frame.keys.get(name, "") for name in names), []).append(frame)
    return groups


def _alike(groups: Groups) -> bool:
    """Volumes of one size. Of single frames only if they all lie at one place."""
    sizes = {len(group) for group in groups.values()}
    firsts = sorted((group[0] for group in groups.values()), key=_along)
    return len(sizes) == 1 and (sizes != {1} or bool((gaps(firsts) < SAME_PLACE_MM).all()))


def _unlike(groups: Groups) -> bool:
    """Volumes of several sizes, each whole in itself and all with the same distance of slices.

    A few slices that were made again do not count as a volume.
    """
    sizes = [len(group) for group in groups.values()]
    if min(sizes) < max(_FEWEST, _LEAST * max(sizes)):
        return False
    steps = [step_mm(group) for group in groups.values()]
    known = [step for step in steps if step is not None]
    return len(known) == len(steps) and max(known) <= (1 + _EVEN) * min(known)


def _along(frame: Frame) -> float:
    return float(np.asarray(frame.position) @ normal_of([frame]))


def _differing(names: tuple[str, ...], value: tuple[str, ...], groups: Groups) -> str:
    """Names and values of those keys that differ between volumes."""
    varies = [len({other[i] for other in groups}) > 1 for i in range(len(names))]
    return " ".join(
        f"{n} {v or 'absent'}"
        for n, v, differs in zip(names, value, varies, strict=True)
        if differs
    )


def _in_turn(frames: list[Frame]) -> list[tuple[str, list[Frame]]] | None:
    """Volumes by the order of time at every place, where each slice has a time of its own."""
    place = np.concatenate([[0], np.cumsum(gaps(frames) >= SAME_PLACE_MM)]).tolist()
    counts = set(Counter(place).values())
    if len(counts) > 1 or place[-1] == 0:  # a slice too many or too few somewhere
        return None
    rounds = counts.pop()
    for name in TIME_KEYS:
        times = [_number(frame.keys.get(name)) for frame in frames]
        known = [(at, time) for at, time in zip(place, times, strict=True) if time is not None]
        if len(set(known)) < len(frames):
            continue
        order = sorted(range(len(frames)), key=lambda i: known[i])
        return [
            (f"{name} {n + 1} of {rounds}", [frames[i] for i in order[n::rounds]])
            for n in range(rounds)
        ]
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
