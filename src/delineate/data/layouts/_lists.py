"""Parts of a split that lists beside the data declare: ``train.txt``, ``val.txt``, ``test.txt``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.data.layouts._listing import SPLITS, relative, stem

KINDS = (".txt", ".list", ".lst")
#: Kinds of file that may declare parts too, but are not read as lists.
OTHERS = (".csv", ".tsv", ".json", ".xlsx")


def declared(root: Path, cases: Sequence[Case]) -> tuple[tuple[Case, ...], list[str]]:
    """Cases with the part that a list names them in, and notes; a layout's own parts come first.

    A list names cases by their ids or image files, one a line, with or without suffix and folder.

    Raises:
        LayoutError: A case is in two lists, or a name is of several cases.
    """
    lists = {path: SPLITS[path.stem.lower()] for path in _lists(root)}
    if not lists:
        return tuple(cases), []
    parts: dict[str, Path] = {}
    notes = []
    bearers: dict[str, set[str]] = {}
    for case in cases:
        for name in _names(root, case):
            bearers.setdefault(name, set()).add(case.id)
    free = {case.id for case in cases if case.split is None}  # the others' folders tell their part
    known = {n: min(ids & free or ids) for n, ids in bearers.items() if len(ids & free) < 2}
    known |= {case.id: case.id for case in cases}
    for path in lists:
        listed = _read(path)
        if shared := [name for name in listed if name in bearers and name not in known]:
            raise LayoutError(
                f"expected names of one case each, got {shared[0]!r}, which "
                f"{len(bearers[shared[0]])} cases bear",
                where=path,
                fix="write the folder too, or the case id: "
                + ", ".join(sorted(bearers[shared[0]])[:3]),
                code="list-ambiguous",
            )
        case_ids = [known[name] for name in listed if name in known]
        for name in case_ids:
            if parts.setdefault(name, path) != path:
                raise LayoutError(
                    f"expected every case in one list, got {name!r} in {parts[name].name} too",
                    where=path,
                    fix="take it out of one of them",
                    code="list-twice",
                )
        if case_ids:
            notes.append(f"{path.name} declares {len(case_ids)} cases for {lists[path]}")
        if len(case_ids) < len(listed):
            notes.append(
                f"{path.name}: {len(listed) - len(case_ids)} of {len(listed)} names are no case"
            )
    return tuple(
        dataclasses.replace(case, split=case.split or lists[parts[case.id]])
        if case.id in parts
        else case
        for case in cases
    ), notes


def _lists(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in KINDS and path.stem.lower() in SPLITS and path.is_file()
    )


def not_read(root: Path) -> list[str]:
    """Notes on files that are named as lists are, and not read as such."""
    names = [p.name for p in root.iterdir() if _declares(p)] if root.is_dir() else []
    return [
        f"{name} declares no parts here: a list is a .txt of names, one a line, a table has a "
        "column image"
        for name in sorted(names)
    ]


def _declares(path: Path) -> bool:
    """Whether a table or JSON file is named as a list of a part, or as folds of nnU-Net."""
    kind, name = path.suffix.lower(), path.stem.lower()
    return (kind in OTHERS and name in SPLITS) or path.name == "splits_final.json"


def _read(path: Path) -> list[str]:
    """Names in a list; the first of several in a line."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    first = (re.split(r"[,;\t]", line.strip())[0].strip() for line in lines)
    return list(dict.fromkeys(_plain(name) for name in first if name))


def _plain(name: str) -> str:
    path = Path(name.replace("\\", "/"))
    return relative(Path(), path.with_name(stem(path))) if path.name else name


def _names(root: Path, case: Case) -> list[str]:
    files = [source for source in case.images.values() if isinstance(source, Path)]
    paths = [_plain(relative(root, path)) for path in files]
    return [case.id, *paths, *(stem(path) for path in files)]
