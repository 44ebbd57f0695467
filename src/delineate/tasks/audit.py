"""Look for what is wrong with a data set before anyone trains on it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import AuditError, OutputError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data.cohort import Cohort

#: Findings of one severity that the terminal is told of; the page has all.
_MOST_SAID = 12


def audit(
    data: Path,
    *,
    out: Path | None = None,
    layout: str | None = None,
    subject_pattern: str | None = None,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Look for faults in a data set: damaged files, grids that disagree, wrong labels, leaks.

    Every file is read to its end. ``audit.html`` shows what was found, ``audit.json`` says the
    same for programs. Exit code 2 if something must be settled before training.

    Args:
        data: Folder, table of cases (CSV, TSV) or scan. Nothing is written into it.
        out: Folder for the two files; by default ``audit-NAME`` in the current folder.
        layout: Name of the layout; recognised by default.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
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
    cohort = Cohort.open(Path(data), layout, subject_pattern)
    name = Path(data).resolve().name.split(".")[0] or "data"
    out = Path(out) if out is not None else Path(f"audit-{name}")
    _refuse_inside(out, cohort.root)
    return audit_cohort(cohort, out, say=say, progress=progress)


def audit_cohort(
    cohort: Cohort, out: Path, *, say: Say = silent, progress: Progress = QUIET
) -> dict[str, Any]:
    """Audit a cohort that is open already; see ``audit``.

    Raises:
        AuditError: Blocking findings; the files are written all the same.
        OutputError: ``out`` cannot be written.
    """
    from delineate.data.audit import SEVERITIES, examine
    from delineate.reports import audit as page

    out = writable_folder(out)
    result = examine(cohort, progress=progress)
    # Escaped, because names of files need not be text.
    atomic_write_text(out / "audit.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    page.write(out / "audit.html", result)
    findings = result["findings"]
    counts = Counter(finding["severity"] for finding in findings)
    say(
        f"audit of {cohort.root.name}: {result['cases']:,} cases of {result['subjects']:,} "
        f"subjects read in {result['seconds']:.1f} s: {counts['blocking']} blocking, "
        f"{counts['warning']} warnings, {counts['note']} notes; see {out / 'audit.html'}"
    )
    said = [f for f in findings if f["severity"] == "warning"]
    for finding in said[:_MOST_SAID]:
        say(f"  warning: {finding['message']} [{finding['code']}]")
    if len(said) > _MOST_SAID:
        say(f"  and {len(said) - _MOST_SAID} more warnings")
    if counts["blocking"]:
        _raise_blocking(cohort, out, [f for f in findings if f["severity"] == "blocking"])
    return {
        "cases": result["cases"],
        "subjects": result["subjects"],
        **{name: counts[name] for name in SEVERITIES},
        "page": str(out / "audit.html"),
        "findings": [
            {key: finding[key] for key in ("severity", "code", "places", "message", "fix")}
            for finding in findings
        ],
    }


def passed(out: Path) -> bool:
    """Whether ``out`` holds an audit that found nothing blocking."""
    result = run.read_json(out / "audit.json") or {"findings": [{"severity": "blocking"}]}
    return all(finding["severity"] != "blocking" for finding in result["findings"])


def _raise_blocking(cohort: Cohort, out: Path, blocking: list[dict[str, Any]]) -> None:
    lines = [f"\n  [{f['code']}] {f['message']}" for f in blocking[:_MOST_SAID]]
    if len(blocking) > _MOST_SAID:
        lines.append(f"\n  and {len(blocking) - _MOST_SAID} more")
    codes = {f["code"] for f in blocking}
    raise AuditError(
        f"{len(blocking)} blocking finding{'s' * (len(blocking) > 1)}:{''.join(lines)}",
        where=cohort.root,
        fix=f"settle these first; {out / 'audit.html'} lists every place",
        code=codes.pop() if len(codes) == 1 else None,
    )


def _refuse_inside(out: Path, root: Path) -> None:
    target = out.resolve()
    if target == root or root in target.parents:
        raise OutputError(
            "expected a folder outside the data",
            where=out,
            fix="choose another --out",
            code="output-in-input",
        )
