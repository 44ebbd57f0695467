"""Which layout a folder has."""

from __future__ import annotations

import os
from pathlib import Path

from delineate.core import catalog
from delineate.core.errors import LayoutError

#: Layouts from the most to the least specific; the first that recognises a folder lists it.
ORDER = (
    "phantom",
    "nnunet",
    "msd",
    "lgg",
    "brats",
    "bids",
    "table",
    "folder",
    "classes",
    "dicom",
    "scans",
)


def recognise(root: Path, strays: list[str]) -> str:
    """Name of the first layout that recognises a folder or file.

    Args:
        root: Folder or file.
        strays: Links below it that are not followed; told if nothing is recognised.

    Raises:
        LayoutError: None does; it lists what was looked for and what is there.
    """
    if root.is_dir() and not any(root.iterdir()):
        raise LayoutError(
            "expected scans, got an empty folder", where=root, fix="check the path", code="empty"
        )
    for name in ORDER:
        if catalog.load("data.layouts", name).recognise(root):
            return name
    if root.suffix == ".npz" or (root.is_dir() and any(root.glob("*.npz"))):
        fix = "write the arrays of the .npz as images, in one folder a class or listed in a table"
    else:
        fix = (
            "bring it into one of these layouts, or write a table with the columns image and label"
        )
    if strays:
        fix = f"{FOLLOW}; here: {'; '.join(strays[:3])}"
    layouts = "\n".join(f"     {name}: {headline(name)}" for name in ORDER)
    raise LayoutError(
        f"no layout fits; got {glimpse(root)}. Looked for:\n{layouts}",
        where=root,
        fix=fix,
        code="layout-unknown",
    )


def headline(name: str) -> str:
    """What a layout looks like, in a line."""
    document = catalog.load("data.layouts", name).__doc__ or ""
    return document.partition("\n")[0].replace("``", "")


def glimpse(root: Path) -> str:
    """A few names of what a folder holds."""
    if root.is_file():
        return f"the file {root.name}"
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if p.name[0] != ".")
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


#: The way out for who keeps scans elsewhere and links to them.
FOLLOW = (
    "links that leave the folder, and links to folders, are not followed: copy what they lead to "
    "(cp -rL FOLDER COPY), or name the files in a table with the columns image and label"
)


def links(root: Path) -> list[str]:
    """Links below a root that no layout follows, each with the reason."""
    entries = []
    for folder, below, names in os.walk(root):
        for path in (Path(folder, name) for name in (*below, *names)):
            if not path.is_symlink():
                continue
            if not path.exists():
                reason = "to nothing"
            elif not path.resolve().is_relative_to(root):
                reason = "that leaves the folder"
            elif path.is_dir():
                reason = "to a folder"
            else:
                continue
            entries.append(f"{path.relative_to(root).as_posix()} (link {reason})")
    return sorted(entries)
