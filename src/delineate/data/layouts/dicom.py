"""A tree of DICOM files: one case a series, with its segmentations; a Patient ID is a subject.

Cases are named after their folders. Subjects are called by a mark of the Patient ID, made with the
key of the site, so that no run folder, log or report carries it. DICOM SEG is the label of the
series that it refers to. Other objects that are not images (RTSTRUCT, scouts) are noted.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from delineate.core.case import Case
from delineate.core.errors import DelineateError, ReadError
from delineate.data.layouts import _dicom_labels
from delineate.data.layouts._listing import (
    Listing,
    files,
    ids,
    is_dicom,
    natural,
    relative,
    schema_from_files,
    suffix,
)

if TYPE_CHECKING:
    from delineate.data.readers.dicom import Series

_MODALITIES = {
    **dict.fromkeys(("CR", "DX", "MG", "RF", "XA", "RG"), "XR"),
    **dict.fromkeys(("XC", "ES", "OP", "GM"), "RGB"),
    **{"MR": "MR", "CT": "CT", "PT": "PET", "US": "US", "IVUS": "US", "OPT": "OCT"},
}
#: A series is many files: DICOM files must outnumber other image files by this factor.
SLICES = 5
MOST_DAMAGED = 20


def recognise(root: Path) -> bool:
    """Whether there are DICOM files, and many more than image files of other formats."""
    if root.is_file():
        return is_dicom(root)
    dicom_files, others = _dicom(root)
    return len(dicom_files) > SLICES * others


def fits(root: Path) -> bool:
    """Whether there is a DICOM file at all: enough where the layout is asked for by name."""
    return is_dicom(root) if root.is_file() else bool(_dicom(root)[0])


def cases(root: Path) -> Listing:
    """One case a series; series with a damaged file and objects that are no images are left out."""
    paths, others = _dicom(root)
    series, segmentations, unpaired = _series(root, paths)
    labels, unmatched = _dicom_labels.pair(root, segmentations, series)
    unpaired += unmatched
    base = root.parent if root.is_file() else root
    paths_to_name = _names(base, series)
    kinds = [_MODALITIES.get(scan.modality, "unknown") for scan in series]
    several = len(set(kinds)) > 1
    channels = [kind.lower() if several else "image" for kind in kinds]
    listed = []
    patients: dict[str, str] = {}
    for number, name in enumerate(ids(base, paths_to_name)):
        channel, scan = channels[number], series[number]
        if patient := scan.frames[0].text("PatientID"):
            patients[name] = patient
        listed.append(
            Case(
                id=name,
                subject=name,
                images={channel: scan.files if len(scan.files) > 1 else scan.files[0]},
                label=labels.get(number),
                meta={"part": scan.part} if scan.part else {},
            )
        )
    anonymous = len(listed) - len(patients)
    schema, remarks = schema_from_files(list(labels.values()))
    return Listing(
        cases=tuple(sorted(listed, key=lambda case: natural(case.id))),
        schema=schema,
        modalities=dict(zip(channels, kinds, strict=True)),
        notes=(
            *(remarks if labels else ["scans without labels"]),
            *(
                [f"{anonymous} series have no Patient ID: each is its own subject"]
                * bool(anonymous)
            ),
            *dict.fromkeys(
                note for scan in series for note in scan.notes if "taken as one" in note
            ),
            *([f"{others} image files of other formats are not listed"] * bool(others)),
            *([f"cases have different channels: {', '.join(sorted(set(channels)))}"] * several),
        ),
        unpaired=tuple(unpaired),
        patients=patients,
    )


def _names(base: Path, series: list[Series]) -> list[Path]:
    """A path a series, to be named after.

    A series alone in its folder has the folder's name; others have behind it what tells them
    apart, or a number.
    """
    places = [scan.files[0].parent for scan in series]
    parts: dict[Path, list[str]] = {}
    for place, scan in zip(places, series, strict=True):
        parts.setdefault(place, []).append(re.sub(r"[^\w.+]+", "-", scan.part).strip("-."))
    paths, count = [], Counter[Path]()
    for place in places:
        ends = parts[place]
        distinct = (
            len(set(ends)) == len(ends) and 0 < min(map(len, ends)) <= max(map(len, ends)) <= 40
        )
        count[place] += 1
        name = place.name
        if len(ends) > 1:
            name += f"_{ends[count[place] - 1]}" if distinct else f"_series{count[place]}"
        paths.append(place.parent / name if place != base else base / name)
    return paths


def _dicom(root: Path) -> tuple[list[Path], int]:
    """DICOM files, and how many image files of other formats there are."""
    if root.is_file():
        return [root], 0
    paths = files(root, images=False)
    return [path for path in paths if is_dicom(path)], sum(bool(suffix(p)) for p in paths)


def _series(root: Path, paths: list[Path]) -> tuple[list[Series], list[Series], list[str]]:
    """Series of images, those of segmentations, and what was left out."""
    from delineate.data.readers import dicom

    damaged: dict[Path, str] = {}
    while True:
        try:
            candidates = dicom.find_series(tuple(paths)) if paths else []
            break
        except ReadError as error:
            damaged_file = Path(error.where or root)
            if damaged_file not in paths or len(damaged) == MOST_DAMAGED:
                raise
            damaged[damaged_file] = error.message
            paths = [path for path in paths if path != damaged_file]
    unpaired = [f"{relative(root, path)} (left out: {reason})" for path, reason in damaged.items()]
    suspect = {path.parent for path in damaged}
    images = []
    segmentations = [series for series in candidates if _dicom_labels.is_segmentation(series)]
    for series in candidates:
        if _dicom_labels.is_segmentation(series):
            continue
        name = relative(root, series.files[0] if len(series.files) == 1 else series.files[0].parent)
        if len(series.files) > 1 and suspect & {path.parent for path in series.files}:
            # The damaged file may be a slice of this series, which would then look whole.
            unpaired.append(f"{name} (left out: a damaged file lies beside this series)")
            continue
        try:
            dicom.probe(series)
        except DelineateError as error:
            if error.code == "dicom-kind":
                unpaired.append(f"{name} (left out: {error.message})")
                continue
            # Whatever else is wrong belongs to the case, and is told when it is read.
        images.append(series)
    return images, segmentations, unpaired
