"""What every layout gives back, and the few things that layouts share.

Files are looked for below the root only. Hidden files are ignored. Links to folders and links that
leave the root are not followed.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from delineate.core.case import VALUES, Case, Source
from delineate.core.errors import DelineateError, LabelError, LayoutError
from delineate.core.schema import Label, Schema
from delineate.data.content import source_files
from delineate.data.layouts._named_labels import named_schema

RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUME = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
DICOM = (".dcm", ".dicom", ".ima")
FOLDER_SUBJECT = "the files of one folder are taken as one subject"
OWN_SUBJECT = "every file is taken as its own subject: the layout names none"

#: What tables put where nothing is known, in small letters.
NOTHING = ("", "na", "n/a", "nan", "none", "unknown")

#: Names of folders and lists that declare a part of a split, in small letters.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development", "tuning"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}

#: Label values are read from files until this many voxels were seen (about 20 head MR volumes).
VOXEL_BUDGET = 200_000_000
MOST_LABELS = 255

_MODALITIES = {
    "MR": "mr mri t1 t1w t1n t1c t1ce t1gd t2 t2w t2f flair adc dwi pd swi bold asl",
    "CT": "ct cta cbct",
    "PET": "pet pt suv",
    "XR": "xr xray cxr cr dx mammography mg",
    "US": "us ultrasound",
    "OCT": "oct",
    "RGB": "rgb",
}
_MODALITY = {word: name for name, words in _MODALITIES.items() for word in words.split()}


@dataclass(frozen=True)
class Listing:
    """What a layout found in a folder.

    Args:
        cases: The cases, in natural order of their ids.
        schema: What can be outlined or named.
        modalities: Channel -> ``"MR"``, ``"CT"``, ``"PET"``, ``"XR"``, ``"US"``, ``"OCT"``,
            ``"RGB"`` or ``"unknown"``.
        notes: What a person should know about how the folder was read.
        unpaired: Files or entries that found no partner, relative to the root.
        patients: Case id -> what names the patient; a mark takes its place in the subject.
    """

    cases: tuple[Case, ...]
    schema: Schema
    modalities: Mapping[str, str]
    notes: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = field(default=())
    patients: Mapping[str, str] = field(default_factory=dict)


def suffix(path: Path) -> str:
    """Lower-case suffix of an image file, ``.nii.gz`` whole; empty for other files."""
    name = path.name.lower()
    return next((s for s in (*VOLUME, *RASTER) if name.endswith(s)), "")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, or claims it by its name."""
    if path.suffix.lower() in DICOM:
        return True
    try:
        with path.open("rb") as stream:
            return not suffix(path) and stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def stem(path: Path) -> str:
    """File name without its image suffix; Unicode composed, however the disk spells it."""
    name = path.name[: len(path.name) - len(suffix(path))] if suffix(path) else path.stem
    return unicodedata.normalize("NFC", name)


def words(text: str) -> list[str]:
    """Lower-case parts of a name between spaces, dots, dashes and underscores."""
    return [word for word in re.split(r"[\s._\-]+", text.lower()) if word]


def natural(text: str) -> tuple[Any, ...]:
    """Sort key that puts ``a2`` before ``a10``."""
    return tuple(int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", text))


def inside(root: Path, path: Path) -> bool:
    """Whether a path, links followed, lies below the root."""
    return path.resolve().is_relative_to(root.resolve())


def files(root: Path, images: bool = True) -> list[Path]:
    """Files below a root in natural order: not hidden, no link that leaves the root.

    Args:
        root: Folder.
        images: Keep files of image formats only.
    """
    paths = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or (images and not suffix(path)):
                continue
            if path.is_file() and (not path.is_symlink() or inside(root, path)):
                paths.append(path)
    return sorted(paths, key=lambda path: natural(path.relative_to(root).as_posix()))


def folders(root: Path) -> list[Path]:
    """Folders directly below a root, in natural order; hidden ones and links are left out."""
    if not root.is_dir():
        return []
    below = [p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != "."]
    return sorted(below, key=lambda path: natural(path.name))


def relative(root: Path, path: Path) -> str:
    """Path as text, relative to the root where it lies below it."""
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def spelt(path: Path) -> Path:
    """The file that a path means, where the disk spells it in another Unicode form.

    Its suffix may be in capitals too; a file that is not there, or could be two, stays as it is.
    """
    if path.exists() or path.parent == path:
        return path
    parent = spelt(path.parent)
    if not parent.is_dir():
        return path
    spellings = _spellings(parent, parent.stat().st_mtime_ns).get(_spelling(path.name), ())
    return parent / spellings[0] if len(spellings) == 1 else path


def _spelling(name: str) -> str:
    end = len(suffix(Path(name)))
    name = unicodedata.normalize("NFC", name)
    return name[: len(name) - end] + name[len(name) - end :].lower()


@lru_cache(maxsize=256)
def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """Names of a folder by what they have in common with other spellings of them."""
    names_of_spelling: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names_of_spelling.setdefault(_spelling(path.name), []).append(path.name)
    return names_of_spelling


def entry(root: Path, text: object) -> Path | None:
    """File named by a table or JSON file, or None where it is absent or leaves the root."""
    if not isinstance(text, str) or not text:
        return None
    path = root / text.replace("\\", "/")
    path = spelt(Path(os.path.normpath(path)))
    return path if path.is_file() and inside(root, path) else None


def ids(root: Path, paths: Sequence[Path]) -> list[str]:
    """Ids for paths without suffix: parts joined with ``_``, or ``__`` where that is ambiguous."""
    parts = [Path(unicodedata.normalize("NFC", relative(root, path))).parts for path in paths]
    short = ["_".join(p) for p in parts]
    return short if len(set(short)) == len(short) else ["__".join(p) for p in parts]


def modality(name: str) -> str:
    """Modality that a channel or file name tells, or ``"unknown"``."""
    return next((_MODALITY[word] for word in words(name) if word in _MODALITY), "unknown")


def modality_of_file(path: Source) -> str:
    """Modality that a file's name tells; ``"RGB"`` for flat colour images."""
    from delineate.data.readers import probe

    first = path[0] if isinstance(path, tuple) else path
    named = modality(stem(first))
    # A damaged file is for the audit to report: it does not keep the folder from being listed.
    with contextlib.suppress(DelineateError):
        if named == "unknown" and suffix(first) in RASTER and probe(first, VALUES)[1] == 3:
            return "RGB"
    return named


def lateral(names: Iterable[str]) -> bool:
    """Whether left and right are different labels."""
    sides = {side for name in names for side in ("left", "right") if side in words(name)}
    return len(sides) == 2


def load_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file.

    Raises:
        LayoutError: The file is not JSON or not an object.
    """
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise LayoutError(
            f"expected a JSON file, got: {error}", where=path, fix="mend it", code="json-broken"
        ) from None
    if not isinstance(data, dict):
        raise LayoutError(
            f"expected a JSON object, got a {type(data).__name__}",
            where=path,
            fix="write {...} at the top",
            code="json-broken",
        )
    return data


def load_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV or TSV file with a header; row ``n`` of the file is ``rows[n - 2]``.

    Raises:
        LayoutError: No header, a repeated column, a row that is longer than the header, not UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            head = stream.readline()
            stream.seek(0)
            separator = max("\t;,", key=head.count)
            lines = list(csv.reader(stream, delimiter=separator))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise LayoutError(
            f"expected a CSV or TSV table in UTF-8, got: {error}",
            where=path,
            fix="save it as UTF-8 (in Excel: CSV UTF-8)",
            code="table-broken",
        ) from None
    header = [name.strip() for name in lines[0]] if lines else []
    if not header or len(set(header)) != len(header):
        raise LayoutError(
            f"expected a header of unlike columns, got {header}", where=path, code="table-header"
        )
    for number, line in enumerate(lines[1:], start=2):
        if len(line) > len(header):
            raise LayoutError(
                f"row {number}: expected {len(header)} cells, got {len(line)}",
                where=path,
                fix='put text that holds the separator in "quotes"',
                code="table-row",
            )
    padded = (line + [""] * (len(header) - len(line)) for line in lines[1:])
    return [dict(zip(header, (c.strip() for c in line), strict=True)) for line in padded]


def number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def label_values(labels: Sequence[Source]) -> tuple[set[int], list[str]]:
    """Values in label files, and notes on files that were not or could not be read.

    Files are taken from all over the list until the voxel budget is spent.

    Raises:
        LabelError: There are more values than labels can be.
        DelineateError: No label file can be read.
    """
    from delineate.data.readers import probe

    values: set[int] = set()
    failed: list[DelineateError] = []
    voxels = done = 0
    # Multiples of the golden ratio visit the list evenly, the same way each time.
    for index in sorted(range(len(labels)), key=lambda i: (i * 0.6180339887498949) % 1.0):
        source = labels[index]
        try:
            with contextlib.suppress(DelineateError):  # no image, or one that reading tells of
                voxels += int(np.prod(probe(source, VALUES)[0].shape))
            if done and voxels > VOXEL_BUDGET:
                break
            values |= _values(source, version(source))
        except DelineateError as error:
            failed.append(error)
            continue
        done += 1
        if len(values) > MOST_LABELS + 1:
            raise LabelError(
                f"expected at most {MOST_LABELS} labels, got {len(values)} values",
                where=source[0] if isinstance(source, tuple) else source,
                fix="give a label map: an integer for every structure",
                code="label-values",
            )
    if failed and not done:
        raise failed[0]
    partly = f"label values were read from {done} of {len(labels)} label files"
    return values, [partly] * (done < len(labels)) + [
        f"a label file cannot be read: {Path(e.where or '').name}: {e.message}" for e in failed
    ]


def version(source: Source) -> tuple[tuple[int, int], ...]:
    """What changes when a file of a source does."""
    stamps = []
    for path in source_files(source):
        with contextlib.suppress(OSError):  # reading it will say what is wrong
            facts = path.stat()
            stamps.append((facts.st_mtime_ns, facts.st_size))
    return tuple(stamps)


@lru_cache(maxsize=8192, typed=True)
def _values(source: Source, version: object) -> frozenset[int]:
    """Values of a label file; one command opens the same cohort several times."""
    from delineate.data.readers import read_label

    return frozenset(int(v) for v in np.unique(read_label(source, VALUES).array))


def schema_from_files(labels: Sequence[Source]) -> tuple[Schema, tuple[str, ...]]:
    """Schema of label files that no document explains, with notes on how it came about."""
    if not labels:
        return Schema(), ()
    if (schema_and_notes := named_schema(labels)) is not None:
        return schema_and_notes
    present, notes = label_values(labels)
    values = sorted(present - {0})
    if len(values) == 1:
        if values == [255]:
            notes.append("masks hold 0 and 255: 255 is the foreground")
        return Schema(labels=(Label("foreground", values[0]),)), tuple(notes)
    if values:
        notes.append(f"labels are named after their values: {', '.join(map(str, values))}")
    else:
        notes.append("the label files hold background alone")
    return Schema(labels=tuple(Label(f"label {v}", v) for v in values)), tuple(notes)
