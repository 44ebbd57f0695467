"""A CSV or TSV table with a column ``image`` (or ``image_CHANNEL``), given itself or in the root.

    image or image_CHANNEL ...   file, relative to the table             needed
    label or mask                file of the label map; label_NAME ... those of several observers
    ignore_label                 value of voxels that nobody has annotated, alike in every row
    id subject site class sex age split                                  as far as known
    channels                     their names with ``;`` between them, where one file holds several
    anything else                kept with the case

A stack of slices is named by its files in order, with ``;`` between them; several masks of one
image, of which each marks another part, with ``|`` between them.

In a folder the table is ``cohort``, ``cases``, ``table`` or ``dataset`` (.csv, .tsv), or the only
table that has such a column, or one for each part of a split: ``train``, ``val`` and ``test``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

from delineate.core.case import Case, Masks, Source
from delineate.core.errors import InputError, LayoutError
from delineate.data.layouts import _observers
from delineate.data.layouts._listing import (
    NOTHING,
    OWN_SUBJECT,
    SPLITS,
    Listing,
    files,
    load_table,
    modality,
    modality_of_file,
    natural,
    number,
    relative,
    schema_from_files,
    spelt,
    stem,
    suffix,
)
from delineate.data.layouts._names import split_words

#: The opening may say whose label files to take.
OBSERVERS = True
KINDS = (".csv", ".tsv")
NAMES = ("cohort", "cases", "table", "dataset")
_KNOWN = {
    *("id", "subject", "label", "mask", "ignore_label", "channels"),
    *("site", "class", "sex", "age", "split"),
}


def recognise(root: Path) -> bool:
    """Whether the root is a table, or holds one that lists images."""
    return root.suffix.lower() in KINDS if root.is_file() else bool(_tables(root))


def cases(root: Path, observer: str | None = None) -> Listing:
    """One case a row.

    Args:
        root: The table, or a folder that holds it.
        observer: Of several columns of label files, the one with this in its name.

    Raises:
        ConfigError: No column of label files is of that observer.
        LayoutError: Rows that cannot be used; the first five are shown with their numbers.
    """
    paths = [root] if root.is_file() else _tables(root) or [root]
    columns: dict[str, str] = {}
    listed: list[Case] = []
    ignored: set[str] = set()
    known = True
    observer_notes: list[str] = []
    for path in paths:
        rows, observer_notes = _observed(load_table(path), observer)
        columns |= _image_columns(rows[0] if rows else {})
        listed += _rows(path, rows, SPLITS.get(path.stem.lower()) if len(paths) > 1 else None)
        ignored |= {text for row in rows if (text := row.get("ignore_label"))}
        known &= "subject" in rows[0]
    schema, notes = schema_from_files([case.label for case in listed if case.label])
    if ignored:
        schema = schema.ignoring(_ignored(root, ignored))
        notes = (*notes, f"voxels of value {schema.ignore} are not annotated")
    firsts = {
        channel: source for case in reversed(listed) for channel, source in case.images.items()
    }
    unlabelled = [f"{c.id} (no label)" for c in listed if c.label is None]
    return Listing(
        cases=tuple(listed),
        schema=dataclasses.replace(
            schema, classes=tuple(sorted({case.class_name for case in listed if case.class_name}))
        ),
        modalities={
            name: kind
            for case in listed
            for name in case.meta.get("channels", ())
            if (kind := modality(name)) != "unknown"  # else that of the file's column holds
        }
        | {
            channel: modality_of_file(firsts[channel])
            if modality(channel) == "unknown"
            else modality(channel)
            for channel in dict.fromkeys(columns.values())
            if channel in firsts
        },
        notes=(*notes, *observer_notes, *([OWN_SUBJECT] * (not known))),
        unpaired=tuple(unlabelled) if len(unlabelled) < len(listed) else (),
    )


def _observed(
    rows: list[dict[str, str]], observer: str | None
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows whose column ``label`` is that of one observer (``label_1st``, ``label_2nd`` …)."""
    header = list(rows[0]) if rows else []
    files = [c for c in header if c.startswith("label_") and _names_files(row[c] for row in rows)]
    columns = {"_".join(split_words(c.removeprefix("label_"))): c for c in files}
    if observer is None and (not columns or {"label", "mask"} & set(header)):
        return rows, []
    if observer is not None and not (tag := _observers.match_tag(observer, columns)):
        raise _observers.unknown(observer, columns)
    if observer is None:
        tag = min(columns, key=lambda name: (_observers.rank(name), natural(name)))
    others = [f"label_{name}" for name in columns if name != tag]
    note = f"labels are those of the column {columns[tag]}"
    if others:
        note += f"; --observer takes those of {', '.join(others)}"
    return [{**row, "label": row[columns[tag]], "mask": ""} for row in rows], [note]


def _names_files(cells: Iterable[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(suffix(Path(re.split("[;|]", cell)[0])) for cell in filled)


def _rows(path: Path, rows: list[dict[str, str]], part: str | None) -> list[Case]:
    """Cases of one table, of a part of a split where its name declares one."""
    columns = _image_columns(rows[0] if rows else {})
    if not columns:
        raise LayoutError(
            "expected rows and a column image or image_CHANNEL, got "
            + (f"the columns {list(rows[0])}" if rows else "no rows"),
            where=path,
            fix="name the column of the image files image",
            code="table-columns",
        )
    listed: list[Case] = []
    wrong: list[str] = []
    for line, row in enumerate(rows, start=2):
        if not any(row.values()):
            continue
        try:
            listed.append(_case(path.parent, {"split": part or "", **row}, columns))
        except InputError as error:
            wrong.append(f"row {line}: {error.message}")
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise LayoutError(
            "rows that cannot be used:\n  " + "\n  ".join(wrong[:5]) + more,
            where=path,
            fix="files are looked for relative to the table",
            code="table-row",
        )
    return listed


def _ignored(root: Path, values: set[str]) -> int:
    """What the column ``ignore_label`` says."""
    if len(values) > 1 or not next(iter(values)).isdecimal():
        raise LayoutError(
            f"expected one whole number in the column ignore_label, got {sorted(values)}",
            where=root,
            fix="give the value that voxels without annotation have in every label file",
            code="table-row",
        )
    return int(next(iter(values)))


def _tables(root: Path) -> list[Path]:
    """The one table of a folder that lists images, or one for each part of a split."""
    tables = [
        p for p in files(root, images=False) if p.parent == root and p.suffix.lower() in KINDS
    ]
    named = [p for p in tables if p.stem.lower() in NAMES]
    fit = [p for p in (named or tables) if _image_columns(dict.fromkeys(_header(p), ""))]
    return fit if len(fit) == 1 or all(p.stem.lower() in SPLITS for p in fit) else []


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        head = stream.readline().strip()
    return [cell.strip().strip('"') for cell in head.split(max("\t;,", key=head.count))]


def _image_columns(row: dict[str, str]) -> dict[str, str]:
    """Column -> channel."""
    return {
        name: name.removeprefix("image_")
        for name in row
        if name == "image" or (name.startswith("image_") and name != "image_")
    }


def _case(folder: Path, row: dict[str, str], columns: dict[str, str]) -> Case:
    images = {c: _file(folder, row[name], name) for name, c in columns.items() if row[name]}
    if not images:
        raise InputError(f"expected a file in {' or '.join(columns)}, got nothing")
    if row.get("label") and row.get("mask"):
        raise InputError("expected label or mask, got both")
    label = row.get("label") or row.get("mask")
    age = number(row["age"]) if row.get("age") else None
    if row.get("age") and (age is None or age < 0):
        raise InputError(f"expected an age in years, got {row['age']!r}")
    first = next(iter(images.values()))
    first = first[0] if isinstance(first, tuple) else first
    name = row.get("id") or (
        stem(first) if "image" in images else row.get("subject") or stem(first)
    )
    split = row.get("split", "").lower()
    if split not in NOTHING and split not in SPLITS:
        raise InputError(
            f"split: expected train, validation or test, got {row['split']!r}; a column of other "
            "parts needs another name, such as fold"
        )
    others = row.keys() - _KNOWN - columns.keys()
    return Case(
        id=name,
        subject=row.get("subject") or name,
        images=images,
        label=_label(folder, label) if label else None,
        class_name=row.get("class") or None,
        site=row.get("site") or None,
        sex=row.get("sex") or None,
        age=age,
        split=SPLITS.get(split),
        meta={**_channels(row), **{k: row[k] for k in sorted(others) if row[k]}},
    )


def _channels(row: dict[str, str]) -> dict[str, list[str]]:
    names = [name.strip() for name in row.get("channels", "").split(";") if name.strip()]
    return {"channels": names} if names else {}


def _label(folder: Path, text: str) -> Source:
    parts = [part.strip() for part in text.split("|") if part.strip()]
    if len(parts) > 1:
        return Masks(_existing_file(folder, part, "label") for part in parts)
    return _file(folder, text, "label")


def _file(folder: Path, text: str, column: str) -> Source:
    if ";" in text and not os.path.exists(folder / text):  # noqa: PTH110 - Path raises on long names
        parts = [part.strip() for part in text.split(";") if part.strip()]
        return tuple(_existing_file(folder, part, column) for part in parts)
    return _existing_file(folder, text, column)


def _existing_file(folder: Path, text: str, column: str) -> Path:
    path = spelt(Path(os.path.normpath(folder / text)))
    if not path.exists() and "\\" in text:  # as Windows writes paths
        path = spelt(Path(os.path.normpath(folder / text.replace("\\", "/"))))
    if not path.exists():
        raise InputError(f"{column}: no such file: {relative(folder, path)}")
    return path
