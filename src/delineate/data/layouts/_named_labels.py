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
_SHOWN = 5


def named_schema(labels: Sequence[Source]) -> tuple[Schema, tuple[str, ...]] | None:
    """Schema of the names in label files, and notes; None where no file names anything.

    Values are those of the files where all agree, else structures are numbered in the order of
    their names.
    """
    from delineate.data.layouts._listing import lateral, version

    named: list[Mapping[int, str]] = []
    nameless: list[str] = []
    for source in labels:
        path = source[0] if isinstance(source, tuple) else source
        try:
            found = _names(source, version(source)) if _may_name(path) else None
        except (DelineateError, OSError):
            continue  # reading it will say what is wrong
        if found is None:
            nameless.append(path.name)
        else:
            named.append(found)
    if not named:
        return None
    values: dict[str, set[int]] = {}
    for names in named:
        for value, name in names.items():
            values.setdefault(name, set()).add(value)
    order = sorted(name for name in values if name != IGNORE)
    agreed = all(len(found) == 1 for found in values.values())
    number = {name: min(found) for name, found in values.items()}
    if not agreed or len(set(number.values())) < len(number):
        number = {name: i for i, name in enumerate([*order, *({IGNORE} & values.keys())], start=1)}
        agreed = False
    schema = Schema(
        labels=tuple(Label(name, number[name]) for name in sorted(order, key=number.__getitem__)),
        lateral=lateral(order),
        ignore=number.get(IGNORE),
        named=True,
    )
    return schema, tuple(_notes(named, nameless, order, agreed))


def _may_name(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in _SUFFIXES


@lru_cache(maxsize=8192, typed=True)  # a tuple is not what Masks of the same files are
def _names(source: Source, version: object) -> Mapping[int, str] | None:
    """Names in a label file; one command opens the same cohort several times."""
    from delineate.data.readers import label_names

    return label_names(source)


def _notes(
    named: Sequence[Mapping[int, str]], nameless: Sequence[str], names: Sequence[str], agreed: bool
) -> list[str]:
    notes = [f"structures are named by the label files: {', '.join(names)}"]
    if not agreed:
        notes.append("their values differ from file to file: they are found by name")
    count = Counter(name for found in named for name in set(found.values()))
    if rare := [f"{name!r} ({count[name]})" for name in names if count[name] < len(named)]:
        notes.append(f"not in each of {len(named)} label files: {', '.join(rare)}")
    if nameless:
        shown = ", ".join(nameless[:_SHOWN]) + (" …" if len(nameless) > _SHOWN else "")
        notes.append(f"{len(nameless)} label files do not name their structures: {shown}")
    return notes
