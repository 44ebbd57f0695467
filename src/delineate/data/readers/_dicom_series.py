"""DICOM frames -> series: which frames make one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.errors import ReadError
from delineate.core.image import FloatArray
from delineate.data.readers._dicom_frames import VOLUME_KEYS, Frame, frames_of, open_header

#: Slices nearer than this lie at the same place, mm.
SAME_PLACE_MM = 1e-2
#: Frames of one volume have directions that agree to this (cosine).
_COSINE_TOLERANCE = 1e-3
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
    for path in _files(source):
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
    found = []
    for frames in groups.values():
        ways = _by_orientation(frames)
        for number, same_way in enumerate(ways, 1):
            part = f"orientation {number} of {len(ways)}" if len(ways) > 1 else ""
            found += _volumes(same_way, part)
    return found


def normal_of(frames: Sequence[Frame]) -> FloatArray:
    """Unit vector of the slice normal, LPS; the frames must be ``placed``."""
    along_row, along_column = np.asarray(frames[0].orientation)
    normal = np.cross(along_row, along_column)
    return np.asarray(normal / np.linalg.norm(normal))


def placed(frames: Sequence[Frame]) -> bool:
    """True if every frame says where it lies."""
    return all(f.position is not None and f.orientation is not None for f in frames)


def _files(source: Path | tuple[Path, ...]) -> list[Path]:
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


def _volumes(frames: list[Frame], part: str) -> list[Series]:
    """Series of frames of one orientation, apart where several lie at one place."""
    first = frames[0]
    whole = Series(first.text("SeriesInstanceUID"), first.text("Modality"), tuple(frames), part)
    if len(frames) == 1 or not placed(frames):
        return [whole]
    kept, notes = _without_copies(frames)
    normal = normal_of(frames)
    kept.sort(key=lambda frame: float(np.asarray(frame.position) @ normal))
    whole = replace(whole, frames=tuple(kept), notes=notes)
    if not _crowded(kept):
        return [whole]
    for names in (*((name,) for name in VOLUME_KEYS), VOLUME_KEYS):
        values = [tuple(frame.keys.get(name, "") for name in names) for frame in kept]
        split: dict[tuple[str, ...], list[Frame]] = {}
        for value, frame in zip(values, kept, strict=True):
            split.setdefault(value, []).append(frame)
        even = len({len(group) for group in split.values()}) == 1
        if len(split) > 1 and even and not any(map(_crowded, split.values())):
            return [
                replace(
                    whole,
                    frames=tuple(group),
                    part=" ".join(filter(None, (part, *_told_apart(names, value, values)))),
                )
                for value, group in split.items()
            ]
    return [whole]  # refused when it is read


def _told_apart(
    names: tuple[str, ...], value: tuple[str, ...], values: list[tuple[str, ...]]
) -> list[str]:
    """Names and values of those keys that differ between volumes."""
    varies = [len({other[i] for other in values}) > 1 for i in range(len(names))]
    return [f"{n} {v}" for n, v, apart in zip(names, value, varies, strict=True) if apart]


def _crowded(frames: list[Frame]) -> bool:
    """True if two neighbours of a sorted list lie at one place."""
    along = np.array([np.asarray(frame.position) for frame in frames]) @ normal_of(frames)
    return bool((np.diff(along) < SAME_PLACE_MM).any())


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
