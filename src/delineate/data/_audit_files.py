"""What an audit says of files, their partners and the people they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from delineate.core.case import Case
from delineate.data._audit_case import Fault, Record
from delineate.data._audit_finding import Finding, count
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import OWN_SUBJECT

#: Files of one error that get a finding each; further ones share one.
MOST_EACH = 25
#: Largest class over smallest.
IMBALANCE = 10.0

_GRID_FIX = "export the label on the image's grid; nothing is resampled silently"
_CHANNEL_FIX = "register and resample the scans of a subject to one grid first"
#: Faults that are told for all cases at once: what is wrong, and the next move.
_MEANING = {
    "label-shape": ("the label has another shape than its image", _GRID_FIX),
    "label-affine": ("the label lies elsewhere than its image", _GRID_FIX),
    "label-unknown": (
        "the label holds values that are not declared",
        "declare the labels in the data set's own file, or correct the label files",
    ),
    "channel-shape": ("the channels of a case differ in shape", _CHANNEL_FIX),
    "channel-affine": ("the channels of a case lie apart", _CHANNEL_FIX),
    "voxels-not-finite": (
        "voxels are NaN or infinite",
        "export the scan again, or set such voxels yourself",
    ),
    "image-constant": (
        "the image has one single value",
        "check that the file is what its name says",
    ),
}


def faults(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Faults of single files. Those of cases that training does not use do not block it."""
    labelled = any(case.label is not None for case in cohort.cases)
    found: dict[tuple[str, str], list[Fault]] = {}
    for record in records:
        case = record.case
        used = case.label is not None or case.klass is not None or not labelled
        for fault in record.faults:
            found.setdefault((fault.code, "blocking" if used else "warning"), []).append(fault)
    findings = []
    for (code, severity), group in found.items():
        if code in _MEANING:
            what, fix = _MEANING[code]
            shown = "; ".join(f"{f.where}: {f.detail}" for f in group[:3])
            more = f"; and {len(group) - 3} more" if len(group) > 3 else ""
            message = f"{count(len(group), 'case')}: {what} ({shown}{more})"
            findings.append(Finding(code, severity, message, tuple(f.where for f in group), fix))
            continue
        findings += [
            Finding(code, severity, f.detail, (f.where,), f.fix) for f in group[:MOST_EACH]
        ]
        if rest := group[MOST_EACH:]:
            message = f"{count(len(rest), 'more file')} with the same error: {rest[0].detail}"
            findings.append(
                Finding(code, severity, message, tuple(f.where for f in rest), rest[0].fix)
            )
    return findings


def pairing(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Files without a partner, by the reason that the layout gives in brackets."""
    reasons: dict[str, list[str]] = {}
    for entry in cohort.unpaired:
        path, _, reason = entry.rpartition(" (")
        reasons.setdefault(reason.rstrip(")") if path else "no partner", []).append(path or entry)
    found = [
        Finding(
            "unpaired",
            "warning",
            f"{count(len(paths), 'file or entry', 'files or entries')} not used: {reason}",
            tuple(paths),
            "add what is missing, or take them out",
        )
        for reason, paths in reasons.items()
    ]
    if not any(case.label is not None or case.klass is not None for case in cohort.cases):
        found.append(
            Finding("no-labels", "note", "no case has a label: nothing here can be trained on")
        )
    return found


def people(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Subjects that are in two declared parts, or not told at all; classes out of balance."""
    findings = []
    parts: dict[str, set[str]] = {}
    for case in cohort.cases:
        if case.split:
            parts.setdefault(case.subject, set()).add(case.split)
    parted = tuple(sorted(subject for subject, found in parts.items() if len(found) > 1))
    if parted:
        findings.append(
            Finding(
                "subject-in-two-parts", "blocking",
                f"{count(len(parted), 'subject')} in more than one part of the declared split: the "
                "model would be judged by people it knows",
                parted, "move all cases of a subject to one part",
            )
        )  # fmt: skip
    if OWN_SUBJECT in cohort.notes and len(cohort) > 1:
        findings.append(
            Finding(
                "subjects-unknown", "note",
                OWN_SUBJECT + "; if one person has several, splits would leak",
                (), "name subjects with a subject pattern or in a table",
            )
        )  # fmt: skip
    classes = Counter(case.klass for case in cohort.cases if case.klass)
    if len(classes) > 1 and max(classes.values()) > IMBALANCE * min(classes.values()):
        rare = min(classes, key=classes.__getitem__)
        findings.append(
            Finding(
                "class-imbalance", "note",
                f"{rare!r} has {count(classes[rare], 'case')} of {classes.total()}",
            )
        )  # fmt: skip
    return findings + _missing_classes(cohort.cases)


def _missing_classes(cases: Sequence[Case]) -> list[Finding]:
    held: dict[str, set[str]] = {}
    for case in cases:
        if case.split and case.klass:
            held.setdefault(case.split, set()).add(case.klass)
    every = set().union(*held.values()) if held else set()
    missing = [f"{part}: {name}" for part, names in held.items() for name in every - names]
    if not missing:
        return []
    message = f"a part of the declared split lacks a class ({'; '.join(sorted(missing)[:4])})"
    return [Finding("class-missing", "warning", message, (), "draw the split anew")]
