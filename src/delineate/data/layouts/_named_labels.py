"""The schema of label files that name their structures themselves (DICOM SEG, ``.seg.nrrd``).

Values follow the order of drawing and differ from file to file, so structures are found by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from delineate.core.case import Source
from delineate.core.errors import DelineateError
from delineate.core.schema import IGNORE, Label, Schema

#: Suffixes of files that may name structures; DICOM files may have none.
_SUFFIXES = (".nrrd", ".nhdr", ".dcm", ".dicom", ".ima", "")
_MOST_LISTED = 5


def named_schema(labels: Sequence[Source]) -> tuple[Schema, tuple[str, ...]] | None:
    """Schema of the names in label files, and notes; None where no file names anything.

    Values are those of the files where all agree, else structures are numbered in the order of
    their names.
    """
    from delineate.data.layouts._listing import lateral, version

    names_by_file: list[Mapping[int, str]] = []
    unnamed_files: list[str] = []
    for source in labels:
        path = source[0] if isinstance(source, tuple) else source
        try:
            names_here = _names(source, version(source)) if _may_name(path) else None
        except (DelineateError, OSError):
            continue  # reading it will say what is wrong
        if names_here is None:
            unnamed_files.append(path.name)
        else:
            names_by_file.append(names_here)
    if not names_by_file:
        return None
    values: dict[str, set[int]] = {}
    for names in names_by_file:
        for value, name in names.items():
            values.setdefault(name, set()).add(value)
    order = sorted(name for name in values if name != IGNORE)
    agreed = all(len(names_here) == 1 for names_here in values.values())
    number = {name: min(names_here) for name, names_here in values.items()}
    if not agreed or len(set(number.values())) < len(number):
        number = {name: i for i, name in enumerate([*order, *({IGNORE} & values.keys())], start=1)}
        agreed = False
    schema = Schema(
        labels=tuple(Label(name, number[name]) for name in sorted(order, key=number.__getitem__)),
        lateral=lateral(order),
        ignore=number.get(IGNORE),
        named=True,
    )
    return schema, tuple(_notes(names_by_file, unnamed_files, order, agreed))


def _may_name(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in _SUFFIXES


@lru_cache(maxsize=8192, typed=True)  # a tuple is not what Masks of the same files are
def _names(source: Source, version: object) -> Mapping[int, str] | None:
    """Names in a label file; one command opens the same cohort several times."""
    from delineate.data.readers import label_names

    return label_names(source)


def _notes(
    names_by_file: Sequence[Mapping[int, str]],
    unnamed_files: Sequence[str],
    names: Sequence[str],
    agreed: bool,
) -> list[str]:
    notes = [f"structures are named by the label files: {', '.join(names)}"]
    if not agreed:
        notes.append("their values differ from file to file: they are found by name")
    count = Counter(name for names_here in names_by_file for name in set(names_here.values()))
    if rare := [f"{name!r} ({count[name]})" for name in names if count[name] < len(names_by_file)]:
        notes.append(f"not in each of {len(names_by_file)} label files: {', '.join(rare)}")
    if unnamed_files:
        listed = ", ".join(unnamed_files[:_MOST_LISTED]) + (
            " …" if len(unnamed_files) > _MOST_LISTED else ""
        )
        notes.append(f"{len(unnamed_files)} label files do not name their structures: {listed}")
    return notes
