"""Look for what is wrong with a data set before anyone trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delineate.core.case import Geometry
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data import colour
from delineate.data.opening import Opening
from delineate.data.outputs import refuse_inside, say_notes

#: Findings are reported as they are made: the terminal need not show them again.
SAYS_RESULT = True


def audit(
    data: Path,
    *,
    out: Path | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    observer: str | None = None,
    ignore_label: int | None = None,
    geometry: Geometry | None = None,
    exclude: Path | None = None,
    site_key: Path | None = None,
    drop_duplicates: bool = False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Look for faults in a data set: damaged files, grids that disagree, wrong labels, leaks.

    Every file is read to its end. ``audit.html`` shows what was found, ``audit.json`` says the
    same for programs, and ``exclude.txt`` is a list for ``--exclude`` of the cases without which
    nothing would block. Exit code 2 if something must be settled before training.

    Args:
        data: Folder, table of cases (CSV, TSV) or scan. Nothing is written into it.
        out: Folder for these files; by default ``audit-NAME`` in the current folder.
        layout: Name of the layout; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        observer: Of several label files of an image, the one with this in its name (2ndHO, rater1).
        ignore_label: Value in label files of voxels that nobody has annotated: they are out of
            losses, samples and figures. Known already where a data set declares "ignore".
        geometry: What places NIfTI files whose sform and qform contradict each other (sform or
            qform), or that have neither (pixdim: voxel size alone); by default they are refused.
        exclude: File with cases to leave out: one id a line, and why after #.
        site_key: File of the key that subjects are marked with, made there if it is not; by default
            the one that lies beside the data or above, or your own.
        drop_duplicates: Keep one copy of every image that is there twice or more, and leave out
            the others, as training does when it is told the same.
        say: Told the findings.
        progress: Shows how far it is.

    Returns:
        ``cases``, ``subjects``, the number of findings by severity, ``page``, and ``findings``
        without their places, which are in ``audit.json``.

    Raises:
        AuditError: Blocking findings; the files are written all the same.
        LayoutError: The folder has no layout that is known.
        OutputError: ``out`` cannot be written, or lies in the data.
    """
    from delineate.findings.audit import run_audit, say_findings, summary
    from delineate.reports import audit as page

    opening = Opening(
        layout, subject_pattern, geometry=geometry, exclude=exclude, observer=observer,
        site_key=site_key, ignore_label=ignore_label,
    )  # fmt: skip
    cohort = colour.harmonise(opening.cohort(data, say))
    name = Path(data).resolve().name.split(".")[0] or "data"
    out = Path(out) if out is not None else Path(f"audit-{name}")
    refuse_inside(out, cohort.root)
    say_notes(cohort.notes, say)
    result = run_audit(
        cohort, out, write_page=page.write, drop_duplicates=drop_duplicates, say=say,
        progress=progress,
    )  # fmt: skip
    say_findings(result, "note", say)
    return summary(result, out)
