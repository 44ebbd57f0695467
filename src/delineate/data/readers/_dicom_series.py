"""DICOM frames -> series: which frames make one volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.errors import ReadError
from delineate.data.readers._dicom_frames import Frame, frames_of, open_header
from delineate.data.readers._dicom_phases import (
    crowded,
    interleaved,
    normal_of,
    part,
    placed,
    step_mm,
)

#: Frames of one volume have directions that agree to this (cosine).
_COSINE_TOLERANCE = 1e-3
#: A pseudonymiser that draws these anew for every file takes a volume to pieces ...
_DRAWN_KEYS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
#: ... which still agree in these.
_LEFT_KEYS = ("Modality", "SeriesNumber", "SeriesDescription", "PixelSpacing", "SliceThickness")
#: Fewer slices than this are not joined: two always lie evenly.
_FEWEST = 3
#: Frames that differ in one of these never make one volume.
_GROUP_KEYS = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPClassUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)


@dataclass(frozen=True)
class Series:
    """Frames that belong together: one volume, or one picture.

    Args:
        uid: SeriesInstanceUID.
        modality: DICOM code, such as ``"MR"``.
        frames: Frames; those of a volume sorted along the slice normal.
        part: What tells it from other volumes of the same series, such as ``"EchoTime 30"``.
        notes: What was set aside, such as a second copy of a slice.
    """

    uid: str
    modality: str
    frames: tuple[Frame, ...]
    part: str = ""
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files in the order of the frames."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def patient(self) -> str:
        """PatientID, or the name where there is none; for comparison, never for messages."""
        return self.frames[0].text("PatientID") or self.frames[0].text("PatientName")

    def __str__(self) -> str:
        kind = f"{self.modality} {self.uid}, {len(self.frames)} frame(s)"
        return f"{kind}, {self.part}" if self.part else kind


def find_series(source: Path | tuple[Path, ...]) -> list[Series]:
    """Every series of images below a folder, in one file or in a list of files.

    Frames are grouped by patient, study, series, kind of object, size and orientation; where
    several lie at one place, by echo, diffusion weight, time and the like.

    Raises:
        ReadError: A file that claims to be DICOM is damaged, or a file of the list is not DICOM.
    """
    groups: dict[Any, list[Frame]] = {}
    for path in files_of(source):
        header = open_header(path)
        if header is None and not (isinstance(source, Path) and source.is_dir()):
            raise ReadError(
                "expected DICOM, but the preamble 'DICM' is missing",
                where=path,
                fix="take the file out of the list",
                code="dicom-preamble",
            )
        for frame in frames_of(path, header) if header is not None else []:
            groups.setdefault(tuple(map(frame.text, _GROUP_KEYS)), []).append(frame)
    groups, joined = _join_lone(groups)
    found = []
    for frames in groups.values():
        ways = _by_orientation(frames)
        for number, same_way in enumerate(ways, 1):
            way = f"orientation {number} of {len(ways)}" if len(ways) > 1 else ""
            found += _volumes(same_way, way)
    return [*found, *joined]


def _join_lone(
    groups: dict[Any, list[Frame]],
) -> tuple[dict[Any, list[Frame]], list[Series]]:
    """Volumes of lone slices that differ in drawn UIDs alone and lie evenly side by side.

    Returns:
        The groups that are left, and the volumes.
    """
    sets: dict[Any, dict[Any, Frame]] = {}
    for key, frames in groups.items():
        first = frames[0]
        if len(frames) == 1 and first.count == 1 and placed(frames) and not first.colour:
            same = (name for name in _GROUP_KEYS if name not in _DRAWN_KEYS)
            alike = tuple(map(first.text, (*same, *_LEFT_KEYS)))
            sets.setdefault((first.path.parent, alike), {})[key] = first
    joined: list[Series] = []
    taken: set[Any] = set()
    for lone in sets.values():
        for same_way in _by_orientation(list(lone.values())):
            volumes = _volumes(same_way, "")
            if not all(_one_run(volume.frames) for volume in volumes):
                continue
            drawn = [n for n in _DRAWN_KEYS if len({f.text(n) for f in same_way}) > 1]
            note = (
                f"{len(same_way)} files, each with a {' and a '.join(drawn)} of its own, are "
                "taken as one series: they lie evenly side by side (careless pseudonymisation?)"
            )
            joined += [replace(volume, notes=(*volume.notes, note)) for volume in volumes]
            paths = {frame.path for frame in same_way}
            taken |= {key for key, frame in lone.items() if frame.path in paths}
    return {key: frames for key, frames in groups.items() if key not in taken}, joined


def _one_run(frames: tuple[Frame, ...]) -> bool:
    """Whether lone slices can be one volume: evenly spaced, and numbered apart if at all."""
    numbers = [frame.text("InstanceNumber") for frame in frames]
    apart = not any(numbers) or len(set(numbers)) == len(numbers)
    return len(frames) >= _FEWEST and apart and step_mm(frames) is not None


def files_of(source: Path | tuple[Path, ...]) -> list[Path]:
    """Files of a source: itself, those of a list, or what a folder holds at any depth."""
    if isinstance(source, tuple):
        return list(source)
    if not source.is_dir():
        return [source]
    return sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )


def _by_orientation(frames: list[Frame]) -> list[list[Frame]]:
    groups: list[list[Frame]] = []
    for frame in frames:
        group = next((g for g in groups if _same_way(g[0], frame)), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return groups


def _same_way(one: Frame, other: Frame) -> bool:
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return bool(np.abs(one.orientation - other.orientation).max() <= _COSINE_TOLERANCE)


def _volumes(frames: list[Frame], way: str) -> list[Series]:
    """Series of frames of one orientation, apart where several lie at one place."""
    first = frames[0]
    whole = Series(first.text("SeriesInstanceUID"), first.text("Modality"), tuple(frames), way)
    if len(frames) == 1 or not placed(frames):
        return [whole]
    kept, notes = _without_copies(frames)
    normal = normal_of(frames)
    kept.sort(key=lambda frame: float(np.asarray(frame.position) @ normal))
    whole = replace(whole, frames=tuple(kept), notes=notes)
    parts = part(kept) if crowded(kept) else interleaved(kept)
    if parts is None:  # a volume, or a contradiction that is refused when it is read
        return [whole]
    return [
        replace(whole, frames=tuple(group), part=" ".join(filter(None, (way, name))))
        for name, group in parts
    ]


def _without_copies(frames: list[Frame]) -> tuple[list[Frame], tuple[str, ...]]:
    """Frames without second copies of a file, byte for byte, and a note of each copy."""
    by_place: dict[tuple[Any, ...], list[Path]] = {}
    copies: dict[Path, str] = {}
    for frame in frames:
        if frame.index:
            continue
        place = (frame.count, *np.round(np.asarray(frame.position), 3).tolist())
        twins = by_place.setdefault(place, [])
        same = [twin for twin in twins if twin.read_bytes() == frame.path.read_bytes()]
        if same:
            copies[frame.path] = f"{frame.path.name} is a copy of {same[0].name}, left out"
        else:
            twins.append(frame.path)
    return [frame for frame in frames if frame.path not in copies], tuple(copies.values())
