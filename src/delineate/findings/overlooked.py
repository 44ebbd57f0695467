"""What an audit says of files that may not have been taken for what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import files, relative
from delineate.findings._case import Record
from delineate.findings._finding import Finding, count

#: Suffixes of pictures and volumes that no reader here reads.
_NOT_READ = (
    ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".heic", ".svs", ".ndpi",
    ".czi", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".mgz", ".mgh", ".mnc", ".img", ".hdr",
    ".vtk", ".zst",
)  # fmt: skip


def overlooked(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Label files that were listed as images, and files of kinds that are not read."""
    return _label_like(records) + _not_read(cohort)


def _label_like(records: Sequence[Record]) -> list[Finding]:
    label_like = [
        record.case.id
        for record in records
        if record.case.label is None and record.planes and all(p.few_values for p in record.planes)
    ]
    if not label_like or len(label_like) == len(records):
        return []
    message = (
        f"{len(label_like)} of {count(len(records), 'image')} hold few whole numbers, as label "
        "files do: label files whose names do not say so?"
    )
    return [
        Finding(
            "label-as-image", "warning", message, tuple(label_like),
            "name them as their images with _mask or _seg behind, or write a table with the "
            "columns image and label",
        )
    ]  # fmt: skip


def _not_read(cohort: Cohort) -> list[Finding]:
    if cohort.layout == "table" or not cohort.root.is_dir():
        return []
    all_files = files(cohort.root, images=False)
    unread = [path for path in all_files if path.suffix.lower() in _NOT_READ]
    if not unread:
        return []
    kinds = Counter(path.suffix.lower() for path in unread)
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    message = f"{count(len(unread), 'file')} of a kind that is not read: {counts}"
    places = tuple(relative(cohort.root, path) for path in unread)
    fix = "if they belong to the data, store pictures as PNG or TIFF and volumes as .nii.gz"
    return [Finding("kind-not-read", "warning", message, places, fix)]
