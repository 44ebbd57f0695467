"""What an audit says of label files that name their structures: names that some files lack."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from delineate.core.schema import IGNORE
from delineate.data.cohort import Cohort
from delineate.findings._case import Record
from delineate.findings._finding import Finding, count


def names(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Structures of almost one name, structures that few files name, and what readers decided."""
    owners: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    naming_files = 0
    for record in records:
        if record.label is None:
            continue
        for note in record.label.notes:
            notes.setdefault(note, []).append(record.case.id)
        if record.label.names is not None:
            naming_files += 1
            for name in sorted(record.label.names):
                owners.setdefault(name, []).append(record.case.id)
    findings = _similar_names(owners) + _overruled(cohort, owners)
    rare = {name: cases for name, cases in owners.items() if len(cases) < naming_files}
    if rare and cohort.schema.named:
        counts = ", ".join(f"{name!r} in {len(cases)}" for name, cases in rare.items())
        message = (
            f"not every one of {count(naming_files, 'label file')} names every structure: {counts}"
        )
        lacking = tuple(
            record.case.id
            for record in records
            if record.label is not None
            and record.label.names is not None
            and not rare.keys() <= record.label.names
        )
        fix = "right if the structure is not there in these cases; else name it as the others do"
        findings.append(Finding("label-names-differ", "warning", message, lacking, fix))
    findings += [
        Finding("label-read", "note", f"{count(len(cases), 'label file')}: {note}", tuple(cases))
        for note, cases in notes.items()
    ]
    return findings


def _overruled(cohort: Cohort, owners: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Names that the data set's own declaration does not know: its values count, if all are."""
    schema = cohort.schema
    declared = {IGNORE, *(unicodedata.normalize("NFC", label.name) for label in schema.labels)}
    other = {name: cases for name, cases in owners.items() if name not in declared}
    if not other or schema.named or schema.nameless:
        return []
    places = tuple(dict.fromkeys(name for cases in other.values() for name in cases))
    return [
        Finding(
            "label-names-overruled", "warning",
            f"{count(len(places), 'label file')} with names that the data set does not declare "
            f"({', '.join(map(repr, other))}): where a file shares none with it, values are taken "
            "as declared",
            places, "look whether values mean the same in each of them, or name segments alike",
        )
    ]  # fmt: skip


def _similar_names(owners: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Names that differ in case, spaces and dashes alone: one structure, in all likelihood."""
    groups: dict[str, list[str]] = {}
    for name in owners:
        groups.setdefault(re.sub(r"[\W_]+", "", name).casefold(), []).append(name)
    findings = []
    for spellings in groups.values():
        if len(spellings) > 1:
            common = max(spellings, key=lambda name: len(owners[name]))
            others = dict.fromkeys(c for name in spellings if name != common for c in owners[name])
            message = (
                f"names that are almost the same are taken for different structures: {spellings}"
            )
            fix = "give the structure one name in every file"
            cases = tuple(others)
            findings.append(
                Finding("label-names-alike", "blocking", message, cases, fix, cases)
            )  # fmt: skip
    return findings
