"""An audit of a cohort: examined, written as files, said in lines; what blocks is raised."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from delineate.core import run
from delineate.core.atomic import atomic_write_text, writable_folder
from delineate.core.errors import AuditError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data import excluded
from delineate.data.cohort import Cohort
from delineate.findings.examine import EXCLUDE, examine

#: Findings of one severity that the terminal is told of; the page has all.
_MOST_SAID = 12
#: (file, result) -> the page.
WritePage = Callable[[Path, Mapping[str, Any]], Path]


def run_audit(
    cohort: Cohort,
    out: Path,
    *,
    write_page: WritePage,
    drop_duplicates: bool = False,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Examine a cohort, write ``audit.json`` and the page, and say what came out.

    Args:
        cohort: Open already.
        out: Folder for these files.
        write_page: Writes ``audit.html``.
        drop_duplicates: Leave out copies of images.
        say: Told the warnings.
        progress: Shows how far it is.

    Returns:
        The content of ``audit.json``.

    Raises:
        AuditError: Blocking findings; the files are written all the same.
        OutputError: ``out`` cannot be written.
    """
    result = _examine(cohort, out, drop_duplicates, write_page, say, progress)
    say_findings(result, "warning", say)
    if _of(result, "blocking"):
        _raise_blocking(result, cohort, out)
    return result


def passed(out: Path, *, drop_duplicates: bool = False) -> dict[str, Any] | None:
    """The result of an audit that found nothing blocking, if ``out`` holds one with this choice."""
    result = run.read_json(out / "audit.json")
    if result is None or "findings" not in result or _of(result, "blocking"):
        return None
    return result if bool(result.get("drop_duplicates")) == drop_duplicates else None


def without_copies(cohort: Cohort, result: Mapping[str, Any]) -> Cohort:
    """The cohort without the copies that an audit dropped."""
    dropped = {k: v for k, v in result["excluded"].items() if k not in cohort.excluded}
    return cohort.without(dropped) if dropped else cohort


def _examine(
    cohort: Cohort,
    out: Path,
    drop_duplicates: bool,
    write_page: WritePage,
    say: Say,
    progress: Progress,
) -> dict[str, Any]:
    """Examine, write the files and say in a line what came out."""
    out = writable_folder(out)
    result = examine(cohort, drop_duplicates=drop_duplicates, progress=progress)
    # Escaped, because names of files need not be text.
    atomic_write_text(out / "audit.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_page(out / "audit.html", result)
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


def _named(cases: Mapping[str, str]) -> str:
    examples = [
        f"{name} ({reason})" if reason else name for name, reason in list(cases.items())[:8]
    ]
    more = f" and {len(cases) - 8} more" if len(cases) > 8 else ""
    return f"{len(cases)} cases: {', '.join(examples)}{more}"


def _of(result: Mapping[str, Any], severity: str) -> list[dict[str, Any]]:
    return [finding for finding in result["findings"] if finding["severity"] == severity]


def summary(result: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What the command gives back; see ``audit``."""
    columns = ("severity", "code", "places", "message", "fix")
    return {
        "cases": result["cases"],
        "subjects": result["subjects"],
        **{name: len(_of(result, name)) for name in ("blocking", "warning", "note")},
        "page": str(out / "audit.html"),
        "findings": [{key: finding[key] for key in columns} for finding in result["findings"]],
    }


def say_findings(result: Mapping[str, Any], kind: str, say: Say) -> None:
    """Say the findings of a severity, or the first of many."""
    findings = _of(result, kind)
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
    fix = finding["fix"].replace(f"--exclude {EXCLUDE}", f"--exclude {out / EXCLUDE}")
    return f"\n    -> {fix}" if fix else ""
