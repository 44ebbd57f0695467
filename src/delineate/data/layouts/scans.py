"""Any image files without labels, for prediction: one case a file (or the one file given)."""

from __future__ import annotations

from pathlib import Path

from delineate.core.case import Case
from delineate.core.schema import Schema
from delineate.data.layouts import _pairing
from delineate.data.layouts._listing import (
    OWN_SUBJECT,
    Listing,
    files,
    ids,
    is_dicom,
    modality_of_file,
    relative,
    stem,
    suffix,
)


def recognise(root: Path) -> bool:
    """Whether there is an image at all."""
    return bool(suffix(root)) if root.is_file() else bool(_scans(root)[0])


def cases(root: Path) -> Listing:
    """One case a file, without labels; files named like label maps are left out and noted."""
    scans, labels = ([root], []) if root.is_file() else _scans(root)
    base = root.parent if root.is_file() else root
    names = ids(base, [path.with_name(stem(path)) for path in scans])
    dicom = sum(map(is_dicom, files(root, images=False))) if root.is_dir() else 0
    kinds = sorted({modality_of_file(path) for path in scans})
    return Listing(
        cases=tuple(
            Case(id=name, subject=name, images={"image": path})
            for name, path in zip(names, scans, strict=True)
        ),
        schema=Schema(),
        modalities={"image": kinds[0] if len(kinds) == 1 else "unknown"},
        notes=(
            "scans without labels",
            OWN_SUBJECT,
            *(
                [f"{dicom} DICOM files are not listed: the layout dicom lists them instead"]
                * bool(dicom)
            ),
            *([f"different modalities: {', '.join(kinds)}"] * (len(kinds) > 1)),
        ),
        unpaired=tuple(f"{relative(base, path)} (a label without an image)" for path in labels),
    )


def _scans(root: Path) -> tuple[list[Path], list[Path]]:
    """Images, and files that are named like label maps."""
    scans, labels = _pairing.sort(root, files(root))
    return [scan.path for scan in scans], [label.path for label in labels]
