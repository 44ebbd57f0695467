"""Look for what is wrong with a data set before anyone trains on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.case import Geometry
from delineate.core.errors import AuditError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data import colour
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.data.outputs import refuse_inside, say_notes

#: Findings of one severity that the terminal is told of; the page has all.
_MOST_SAID = 12
#: Findings are said as they are found: the terminal need not show them again.
SAID = True


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
    how = Opening(
        layout, subject_pattern, geometry=geometry, exclude=exclude, observer=observer,
        site_key=site_key, ignore_label=ignore_label,
    )  # fmt: skip
    cohort = colour.harmonise(how.cohort(data, say))
    name = Path(data).resolve().name.split(".")[0] or "data"
    out = Path(out) if out is not None else Path(f"audit-{name}")
    refuse_inside(out, cohort.root)
    say_notes(cohort.notes, say)
    result = _examine(cohort, out, drop_duplicates, say, progress)
    _say_findings(_of(result, "warning"), "warning", say)
    if _of(result, "blocking"):
        _raise_blocking(result, cohort, out)
    _say_findings(_of(result, "note"), "note", say)
    return _summary(result, out)


def audit_cohort(
    cohort: Cohort,
    out: Path,
    *,
    drop_duplicates: bool = False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> Cohort:
    """Audit a cohort that is open already; warnings are said. See ``audit``.

    Returns:
        The cohort without the copies that were dropped.

    Raises:
        AuditError: Blocking findings; the files are written all the same.
        OutputError: ``out`` cannot be written.
    """
    result = _examine(cohort, out, drop_duplicates, say, progress)
    _say_findings(_of(result, "warning"), "warning", say)
    if _of(result, "blocking"):
        _raise_blocking(result, cohort, out)
    return _without(cohort, result)


def passed(cohort: Cohort, out: Path, *, drop_duplicates: bool = False) -> Cohort | None:
    """The cohort as an audit of it that found nothing blocking left it, if ``out`` holds one."""
    result = run.read_json(out / "audit.json")
    if result is None or "findings" not in result or _of(result, "blocking"):
        return None
    same = bool(result.get("drop_duplicates")) == drop_duplicates
    return _without(cohort, result) if same else None


def _without(cohort: Cohort, result: Mapping[str, Any]) -> Cohort:
    dropped = {k: v for k, v in result["excluded"].items() if k not in cohort.excluded}
    return cohort.without(dropped) if dropped else cohort


def _examine(
    cohort: Cohort, out: Path, drop_duplicates: bool, say: Say, progress: Progress
) -> dict[str, Any]:
    """Examine, write the files and say in a line what came out."""
    from delineate.data import excluded
    from delineate.findings.examine import EXCLUDE, examine
    from delineate.reports import audit as page

    out = writable_folder(out)
    result = examine(cohort, drop_duplicates=drop_duplicates, progress=progress)
    # Escaped, because names of files need not be text.
    atomic_write_text(out / "audit.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    page.write(out / "audit.html", result)
    if result["exclude"]:
        atomic_write_text(out / EXCLUDE, excluded.text(result["exclude"]))
    else:
        (out / EXCLUDE).unlink(missing_ok=True)  # of an earlier audit
    say(
        f"audit of {cohort.root.name}: {_counted(result['cases'], 'case')} of "
        f"{_counted(result['subjects'], 'subject')} read in {result['seconds']:.1f} s; findings: "
        f"{len(_of(result, 'blocking'))} blocking, {len(_of(result, 'warning'))} to look at, "
        f"{len(_of(result, 'note'))} to know; see {out / 'audit.html'}"
    )
    if result["excluded"]:
        say(f"left out: {_named(result['excluded'])}")
    return result


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _named(excluded: Mapping[str, str]) -> str:
    shown = [f"{name} ({why})" if why else name for name, why in list(excluded.items())[:8]]
    more = f" and {len(excluded) - 8} more" if len(excluded) > 8 else ""
    return f"{len(excluded)} cases: {', '.join(shown)}{more}"


def _of(result: Mapping[str, Any], severity: str) -> list[dict[str, Any]]:
    return [finding for finding in result["findings"] if finding["severity"] == severity]


def _summary(result: Mapping[str, Any], out: Path) -> dict[str, Any]:
    kept = ("severity", "code", "places", "message", "fix")
    return {
        "cases": result["cases"],
        "subjects": result["subjects"],
        **{name: len(_of(result, name)) for name in ("blocking", "warning", "note")},
        "page": str(out / "audit.html"),
        "findings": [{key: finding[key] for key in kept} for finding in result["findings"]],
    }


def _say_findings(findings: Sequence[Mapping[str, Any]], kind: str, say: Say) -> None:
    for finding in findings[:_MOST_SAID]:
        say(f"  {kind}: {finding['message']} [{finding['code']}]")
        if finding["fix"]:
            say(f"    -> {finding['fix']}")
    if len(findings) > _MOST_SAID:
        say(f"  and {len(findings) - _MOST_SAID} more {kind}s")


def _raise_blocking(result: Mapping[str, Any], cohort: Cohort, out: Path) -> NoReturn:
    blocking = _of(result, "blocking")
    lines = [f"\n  [{f['code']}] {f['message']}{_way_out(f, out)}" for f in blocking[:_MOST_SAID]]
    if len(blocking) > _MOST_SAID:
        lines.append(f"\n  and {len(blocking) - _MOST_SAID} more")
    codes = {f["code"] for f in blocking}
    raise AuditError(
        f"{len(blocking)} blocking finding{'s' * (len(blocking) > 1)}:{''.join(lines)}",
        where=cohort.root,
        fix=f"settle these first; {out / 'audit.html'} lists every place",
        code=codes.pop() if len(codes) == 1 else None,
    )


def _way_out(finding: Mapping[str, Any], out: Path) -> str:
    """How to settle a finding, with the place of the list as it can be copied."""
    from delineate.findings.examine import EXCLUDE

    fix = finding["fix"].replace(f"--exclude {EXCLUDE}", f"--exclude {out / EXCLUDE}")
    return f"\n    -> {fix}" if fix else ""
