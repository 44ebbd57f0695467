"""Which DICOM segmentation belongs to which series: the one that it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from delineate.core.case import Source
from delineate.core.errors import DelineateError
from delineate.data.layouts._listing import relative

if TYPE_CHECKING:
    from delineate.data.readers.dicom import Series


def is_segmentation(series: Series) -> bool:
    """Whether a series is of segmentations (SEG)."""
    from delineate.data.readers._dicom_frames import SEGMENTATION

    return series.frames[0].text("SOPClassUID") in SEGMENTATION


def pair(
    root: Path, segmentations: Sequence[Series], series: Sequence[Series]
) -> tuple[dict[int, Source], list[str]]:
    """Number of a series -> its segmentation, and segmentations without a series.

    A segmentation belongs to the series that it refers to; where it refers to none, to the only one
    of its frame of reference. Several of one series are one label if they name other structures.
    """
    owned: dict[int, list[Path]] = {}
    unpaired = []
    files = {path: segmentation for segmentation in segmentations for path in segmentation.files}
    for path, segmentation in files.items():
        owners = _owners(segmentation, series)
        if len(owners) == 1:
            owned.setdefault(owners[0], []).append(path)
        else:
            which = "a series that is not here" if not owners else f"one of {len(owners)} series"
            unpaired.append(f"{relative(root, path)} (a segmentation of {which})")
    segmentation_of: dict[int, Source] = {}
    for number, paths in owned.items():
        source: Source = tuple(sorted(paths)) if len(paths) > 1 else paths[0]
        if len(paths) > 1 and _ambiguous(source):
            unpaired += [
                f"{relative(root, path)} (one of {len(paths)} segmentations of the same structures "
                "in one series; name the one that counts in a table)"
                for path in paths
            ]
            continue
        segmentation_of[number] = source
    return segmentation_of, unpaired


def _owners(segmentation: Series, series: Sequence[Series]) -> list[int]:
    header = segmentation.frames[0].header
    series_uids = {
        str(r.get("SeriesInstanceUID")) for r in header.get("ReferencedSeriesSequence") or ()
    }
    if series_uids:
        owners = [n for n, other in enumerate(series) if other.uid in series_uids]
        if len(owners) < 2:
            return owners
        instance_uids = {
            str(instance.get("ReferencedSOPInstanceUID"))
            for reference in header.ReferencedSeriesSequence
            for instance in reference.get("ReferencedInstanceSequence") or ()
        }
        return [
            n for n in owners if instance_uids & {frame.uid for frame in series[n].frames}
        ] or owners
    frame_of_reference = segmentation.frames[0].text("FrameOfReferenceUID")
    return [
        n
        for n, other in enumerate(series)
        if frame_of_reference
        and other.frames[0].text("FrameOfReferenceUID") == frame_of_reference
        and other.patient == segmentation.patient
    ]


def _ambiguous(source: Source) -> bool:
    from delineate.data.readers import label_names

    try:
        return label_names(source) is None
    except DelineateError:
        return True
