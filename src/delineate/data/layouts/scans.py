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
from delineate.data.layouts._pairing import Scan


def recognise(root: Path) -> bool:
    """Whether there is an image at all."""
    return bool(suffix(root)) if root.is_file() else bool(_scans(root)[0])


def cases(root: Path) -> Listing:
    """One case a file, without labels; files named like label maps are left out and noted.

    Where all files differ by the names of the same sequences (p1_t1, p1_flair, p2_t1, p2_flair),
    these are the channels of a case.
    """
    scans, labels = _scans(root)
    base = root.parent if root.is_file() else root
    dicom = sum(map(is_dicom, files(root, images=False))) if root.is_dir() else 0
    firsts = {word or "image": file.path for scan in scans for word, file in scan.images.items()}
    kinds = sorted({modality_of_file(scan.first.path) for scan in scans})
    several = len(firsts) == 1 and len(kinds) > 1
    return Listing(
        cases=tuple(
            Case(id=n, subject=n, images={w or "image": f.path for w, f in scan.images.items()})
            for n, scan in zip(_ids(base, scans), scans, strict=True)
        ),
        schema=Schema(),
        modalities={
            name: "unknown" if several else modality_of_file(path) for name, path in firsts.items()
        },
        notes=(
            "scans without labels",
            OWN_SUBJECT,
            *(
                [f"{dicom} DICOM files are not listed: the layout dicom lists them instead"]
                * bool(dicom)
            ),
            *([f"different modalities: {', '.join(kinds)}"] * several),
        ),
        unpaired=tuple(f"{relative(base, path)} (a label without an image)" for path in labels),
    )


def _ids(base: Path, scans: list[Scan]) -> list[str]:
    if all(len(scan.images) > 1 for scan in scans):
        return _pairing.case_ids(base, scans)
    paths = [scan.first.path for scan in scans]
    return ids(base, [path.with_name(stem(path)) for path in paths])


def _scans(root: Path) -> tuple[list[Scan], list[Path]]:
    """Images, and files that are named like label maps."""
    if root.is_file():
        return [Scan({"": _pairing.image(root)})], []
    images, labels = _pairing.sort(root, files(root))
    scans = _pairing.join([Scan({"": image}) for image in images])
    return scans, [label.path for label in labels]
