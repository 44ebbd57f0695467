"""Write the page of a run folder, or of a cross-validation."""

from __future__ import annotations

import os
from pathlib import Path

from delineate.core import catalog
from delineate.core.errors import InputError


def report(run: str | os.PathLike[str], *, part: tuple[Path, ...] = ()) -> Path:
    """Write ``report.html`` into a run folder, from what the run left there.

    Args:
        run: The run folder, or that of a cross-validation.
        part: Python file of the run's target, where it is your own.

    Returns:
        The page: one file that opens without a network.

    Raises:
        InputError: The folder is missing or is not a run folder.
        OutputError: The page cannot be written.
    """
    from delineate import targets
    from delineate.reports import crossvalidation, training

    for file in part:
        catalog.offer(file)
    folder = Path(run)
    if crossvalidation.is_one(folder):
        return crossvalidation.write(folder / "report.html", folder, targets.results)
    marks = ("run.json", "config.yaml", "log.jsonl")
    if not any((folder / name).is_file() for name in marks):
        raise InputError(
            f"expected a run folder with {', '.join(marks[:-1])} or {marks[-1]}, "
            + ("got a folder without them" if folder.is_dir() else "got no such folder"),
            where=folder,
            fix="give the folder that training wrote, the one that holds run.json",
            code="not-a-run",
        )
    return training.write(folder / "report.html", folder, targets.results)
