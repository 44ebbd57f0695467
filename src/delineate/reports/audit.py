"""The page of an audit: what is wrong with a cohort before anyone trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delineate.reports import page
from delineate.reports.figures import Picture, bars
from delineate.reports.page import (
    Column,
    Section,
    as_list,
    as_number,
    block,
    facts,
    join,
    label,
    number,
    plain,
    plural,
)

SEVERITIES = ("blocking", "warning", "note")
_BARS = 14
_GROUPS = {
    "blocking": ("Blocking", "Training refuses to start until these are settled."),
    "warning": ("Warnings", "Training may start, but look at these first."),
    "note": ("Notes", "Good to know."),
}


def write(path: Path, result: Mapping[str, Any]) -> Path:
    """Write the page of an audit.

    Args:
        path: The HTML file.
        result: ``root``, ``layout``, ``cases``, ``subjects``, ``facts`` (name -> number, words,
            a mapping of numbers drawn as bars, or a list of rows shown as a table) and
            ``findings`` (each ``code``, ``severity``, ``message``, ``where``, ``fix``).

    Returns:
        ``path``.

    Raises:
        OutputError: The file cannot be written.
    """
    counts = count(result)
    items = [
        ("Cases", number(result.get("cases"), 0), str(result.get("layout") or "")),
        ("Subjects", number(result.get("subjects"), 0), ""),
        *((name.capitalize(), number(counts[name], 0), "findings") for name in SEVERITIES),
    ]
    name = Path(str(result.get("root") or "cohort")).name or "cohort"
    sections: list[Section] = [("Findings", findings(result)), *_facts(result.get("facts"))]
    html = page.render(
        name, sections, kind="audit", verdict=_verdict(result, counts), lead=block("tiles", items)
    )
    return page.write(path, html)


def count(result: Mapping[str, Any]) -> dict[str, int]:
    """Number of findings of each severity."""
    severities = [_finding(f)["severity"] for f in as_list(result.get("findings"))]
    return {name: severities.count(name) for name in SEVERITIES}


def findings(result: Mapping[str, Any], *, headings: bool = True) -> Markup:
    """Findings, the gravest first; in groups where ``headings`` are wanted."""
    all_findings = [_finding(f) for f in as_list(result.get("findings"))]
    if not all_findings:
        return block("text", "Nothing was found.")
    all_findings.sort(key=lambda f: SEVERITIES.index(f["severity"]))
    if not headings:
        return block("findings", all_findings)
    parts = []
    for severity, (heading, meaning) in _GROUPS.items():
        if group := [f for f in all_findings if f["severity"] == severity]:
            parts += [block("subheading", f"{heading} ({len(group)})"), block("text", meaning)]
            parts.append(block("findings", group))
    return join(*parts)


def _finding(entry: Any) -> dict[str, Any]:
    """A finding with every key; an unknown severity counts as a warning."""
    data = entry if isinstance(entry, Mapping) else {"message": str(entry)}
    where = data.get("where") or []
    severity = str(data.get("severity", "warning")).lower()
    return {
        "code": str(data.get("code") or "finding"),
        "severity": severity if severity in SEVERITIES else "warning",
        "message": str(data.get("message") or ""),
        "where": [str(w) for w in (where if isinstance(where, list | tuple) else [where])],
        "places": as_number(data.get("places")),
        "fix": str(data.get("fix") or ""),
    }


def _verdict(result: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    cases, subjects = (as_number(result.get(key)) or 0 for key in ("cases", "subjects"))
    start = f"{plural(cases, 'case')} of {plural(subjects, 'subject')} looked at."
    blocking, warnings = (
        plural(counts[k], n) for k, n in (("blocking", "finding"), ("warning",) * 2)
    )
    if counts["blocking"]:
        return f"{start} {blocking} must be settled before training; {warnings} more."
    if counts["warning"]:
        return f"{start} Nothing blocks training, but {warnings} should be read."
    return f"{start} Nothing was found that speaks against training on them."


def _facts(facts_of_cohort: Any) -> list[Section]:
    """Facts by their form: numbers and words, censuses as bars, rows as tables."""
    if not isinstance(facts_of_cohort, Mapping) or not facts_of_cohort:
        return [("The cohort", block("missing", "Facts"))]
    words: dict[str, Any] = {}
    charts: list[Picture] = []
    tables: list[Markup] = []
    for key, value in facts_of_cohort.items():
        name = label(key)
        inner = list(value.values()) if isinstance(value, Mapping) else value
        if not inner or not isinstance(inner, list | tuple):
            words[name] = plain(value)
        elif isinstance(value, Mapping) and all(as_number(v) is not None for v in inner):
            charts.append(_census(name, value))
        elif all(isinstance(v, Mapping) for v in inner):
            named = [{"name": k, **v} for k, v in value.items()] if value is not inner else inner
            tables.append(_table(name, named))
        else:
            words[name] = plain(value)
    parts = [facts(words)] if words else []
    parts += [block("pictures", charts, False)] if charts else []
    return [("The cohort", join(*parts, *tables))]


def _census(name: str, values: Mapping[str, Any]) -> Picture:
    counts = {str(k): float(v) for k, v in values.items()}
    digits = 0 if all(v.is_integer() for v in counts.values()) else 3
    if len(counts) > _BARS:
        counts = dict(sorted(counts.items(), key=lambda item: -item[1])[:_BARS])
        name += f" (largest {_BARS} of {len(values)})"
    return bars(counts, name, digits=digits)


def _table(name: str, rows: list[Mapping[str, Any]]) -> Markup:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = []
    for key in keys:
        values = [row[key] for row in rows if row.get(key) is not None]
        numbers = [n for v in values if (n := as_number(v)) is not None]
        digits = 0 if all(n.is_integer() for n in numbers) else 3
        numeric = bool(numbers) and len(numbers) == len(values)
        columns.append(Column(str(key), label(key), digits if numeric else None))
    cells = [
        {str(k): v if as_number(v) is not None else plain(v) for k, v in row.items()}
        for row in rows
    ]
    return join(block("subheading", name), page.table(name, columns, cells))
