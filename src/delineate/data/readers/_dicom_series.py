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
    groups, joined = _join_single_slices(groups)
    volumes = []
    for frames in groups.values():
        orientations = _by_orientation(frames)
        for number, same_way in enumerate(orientations, 1):
            orientation = (
                f"orientation {number} of {len(orientations)}" if len(orientations) > 1 else ""
            )
            volumes += _volumes(same_way, orientation)
    return [*volumes, *joined]


def _join_single_slices(
    groups: dict[Any, list[Frame]],
) -> tuple[dict[Any, list[Frame]], list[Series]]:
    """Volumes of single slices that differ in drawn UIDs alone and lie evenly side by side.

    Returns:
        The groups that are left, and the volumes.
    """
    sets: dict[Any, dict[Any, Frame]] = {}
    for key, frames in groups.items():
        first = frames[0]
        if len(frames) == 1 and first.count == 1 and placed(frames) and not first.colour:
            shared_keys = (name for name in _GROUP_KEYS if name not in _DRAWN_KEYS)
            shared_values = tuple(map(first.text, (*shared_keys, *_LEFT_KEYS)))
            sets.setdefault((first.path.parent, shared_values), {})[key] = first
    joined: list[Series] = []
    joined_keys: set[Any] = set()
    for slices in sets.values():
        for same_way in _by_orientation(list(slices.values())):
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
            joined_keys |= {key for key, frame in slices.items() if frame.path in paths}
    return {key: frames for key, frames in groups.items() if key not in joined_keys}, joined


def _one_run(frames: tuple[Frame, ...]) -> bool:
    """Whether single slices can be one volume: evenly spaced, and numbered apart if at all."""
    numbers = [frame.text("InstanceNumber") for frame in frames]
    consecutive = not any(numbers) or len(set(numbers)) == len(numbers)
    return len(frames) >= _FEWEST and consecutive and step_mm(frames) is not None


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
        group = next((g for g in groups if _same_orientation(g[0], frame)), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    return groups


def _same_orientation(first: Frame, second: Frame) -> bool:
    if first.orientation is None or second.orientation is None:
        return first.orientation is second.orientation
    return bool(np.abs(first.orientation - second.orientation).max() <= _COSINE_TOLERANCE)


def _volumes(frames: list[Frame], orientation: str) -> list[Series]:
    """Series of frames of one orientation, apart where several lie at one place."""
    first = frames[0]
    whole = Series(
        first.text("SeriesInstanceUID"), first.text("Modality"), tuple(frames), orientation
    )
    if len(frames) == 1 or not placed(frames):
        return [whole]
    unique, notes = _without_copies(frames)
    normal = normal_of(frames)
    unique.sort(key=lambda frame: float(np.asarray(frame.position) @ normal))
    whole = replace(whole, frames=tuple(unique), notes=notes)
    parts = part(unique) if crowded(unique) else interleaved(unique)
    if parts is None:  # a volume, or a contradiction that is refused when it is read
        return [whole]
    return [
        replace(whole, frames=tuple(group), part=" ".join(filter(None, (orientation, name))))
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
