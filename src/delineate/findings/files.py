"""What an audit says of files, their partners and the people they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from delineate.core.case import Case
from delineate.data.cohort import Cohort
from delineate.data.layouts._listing import FOLDER_SUBJECT, OWN_SUBJECT
from delineate.data.layouts._recognise import FOLLOW
from delineate.data.siblings import suspect
from delineate.findings._case import Fault, Record
from delineate.findings._finding import Finding, count, trained_on

#: Files of one error that get a finding each; further ones share one.
MOST_EACH = 25
#: How the DICOM layout begins to say that an object is no image: reports, plans, segmentations.
_NO_IMAGE = "left out: expected an image or a volume"
#: How layouts say that a case is whole but for its label.
_NO_LABEL = "no label"
_LABEL_THEM = (
    "add labels; or learn from such cases too, by a method that can, such as --method mean_teacher"
)
#: Largest class over smallest.
IMBALANCE = 10.0

_GRID_FIX = "export the label on the image's grid; nothing is resampled silently"
_CHANNEL_FIX = "register and resample the scans of a subject to one grid first"
#: Faults that are told for all cases at once: what is wrong, and the next move (the reader's own
#: where it is empty).
_MEANING = {
    "nifti-forms": ("the header contradicts itself", ""),
    "nifti-no-affine": ("the header does not say how the voxels lie", ""),
    "label-shape": ("the label has another shape than its image", _GRID_FIX),
    "label-affine": ("the label lies elsewhere than its image", _GRID_FIX),
    "label-unknown": (
        "the label holds values that are not declared",
        "declare the labels in the data set's own file, correct the label files, or, where nobody "
        "has annotated such voxels, give their value as --ignore-label",
    ),
    "channel-shape": ("the channels of a case differ in shape", _CHANNEL_FIX),
    "channel-affine": ("the channels of a case lie apart", _CHANNEL_FIX),
    "label-names": (
        "the label does not name its structures as other files do",
        "name the segments of every file alike, and every segment",
    ),
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
    used = trained_on(cohort)
    faults_by_code: dict[tuple[str, str], list[Fault]] = {}
    owners: dict[tuple[str, str], list[str]] = {}
    for record in records:
        severity = "blocking" if not used or record.case.id in used else "warning"
        for fault in record.faults:
            faults_by_code.setdefault((fault.code, severity), []).append(fault)
            owners.setdefault((fault.code, severity), []).append(record.case.id)
    findings = []
    for (code, severity), group in faults_by_code.items():
        cases = owners[code, severity]
        if code in _MEANING:
            meaning, fix = _MEANING[code]
            examples = "; ".join(f"{f.where}: {f.detail}" for f in group[:3])
            more = f"; and {len(group) - 3} more" if len(group) > 3 else ""
            message = f"{count(len(group), 'file')}: {meaning} ({examples}{more})"
            places = tuple(fault.where for fault in group)
            next_move = fix or group[0].fix
            findings.append(Finding(code, severity, message, places, next_move, tuple(cases)))
            continue
        for fault, case in zip(group[:MOST_EACH], cases, strict=False):
            message = f"{fault.where}: {fault.detail}"
            findings.append(Finding(code, severity, message, (fault.where,), fault.fix, (case,)))
        if further := group[MOST_EACH:]:
            message = f"{count(len(further), 'more file')} with the same error: {further[0].detail}"
            places = tuple(fault.where for fault in further)
            more_cases = tuple(cases[MOST_EACH:])
            findings.append(Finding(code, severity, message, places, further[0].fix, more_cases))
    return findings


def pairing(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Files without a partner, by the reason that the layout gives in brackets."""
    reasons: dict[str, list[str]] = {}
    for entry in cohort.unpaired:
        path, reason = _reason(entry)
        reasons.setdefault(reason, []).append(path)
    findings = []
    for reason, paths in reasons.items():
        entries = count(len(paths), "file or entry", "files or entries")
        message = f"{entries} not used: {reason}"
        if reason.startswith(_NO_IMAGE):
            findings.append(Finding("not-an-image", "note", message, tuple(paths)))
        elif reason == _NO_LABEL:
            message = f"{entries} that only some methods learn from: {reason}"
            findings.append(Finding("unpaired", "warning", message, tuple(paths), _LABEL_THEM))
        else:
            linked = reason.startswith("link ")
            fix = FOLLOW if linked else "add what is missing, or take them out"
            findings.append(Finding("unpaired", "warning", message, tuple(paths), fix))
    if not trained_on(cohort):
        message = "no case has a label: nothing here can be trained on"
        findings.append(Finding("no-labels", "note", message))
    return findings


def _reason(entry: str) -> tuple[str, str]:
    """``"path (why (really))"`` -> path and reason."""
    depth = 0
    for place in range(len(entry) - 1, -1, -1) if entry.endswith(")") else ():
        depth += {")": 1, "(": -1}.get(entry[place], 0)
        if depth == 0:
            return entry[:place].rstrip(), entry[place + 1 : -1]
    return entry, "no partner"


def subjects(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Subjects that are in two declared parts, or not told at all; classes out of balance."""
    findings = []
    parts: dict[str, Counter[str]] = {}
    for case in cohort.cases:
        if case.split:
            parts.setdefault(case.subject, Counter())[case.split] += 1
    parted = {
        subject: parts_of_subject
        for subject, parts_of_subject in parts.items()
        if len(parts_of_subject) > 1
    }
    if parted:
        commonest_part = {
            subject: parts_of_subject.most_common(1)[0][0]
            for subject, parts_of_subject in parted.items()
        }
        surplus = (
            c.id for c in cohort.cases
            if c.subject in parted and c.split and c.split != commonest_part[c.subject]
        )  # fmt: skip
        findings.append(
            Finding(
                "subject-in-two-parts", "blocking",
                f"{count(len(parted), 'subject')} in more than one part of the declared split: the "
                "model would be judged by people it knows",
                tuple(sorted(parted)), "move all cases of a subject to one part", tuple(surplus),
            )
        )  # fmt: skip
    suspected = siblings(cohort)
    if suspected is None and OWN_SUBJECT in cohort.notes and len(cohort) > 1:
        findings.append(
            Finding(
                "subjects-unknown", "note",
                OWN_SUBJECT + "; if one person has several, splits would leak",
                (), "name subjects with --subject-pattern or in a table with the columns image "
                "and subject",
            )
        )  # fmt: skip
    findings += [suspected] if suspected else []
    classes = Counter(case.class_name for case in cohort.cases if case.class_name)
    if len(classes) > 1 and max(classes.values()) > IMBALANCE * min(classes.values()):
        rare = min(classes, key=classes.__getitem__)
        findings.append(
            Finding(
                "class-imbalance", "note",
                f"{rare!r} has {count(classes[rare], 'case')} of {classes.total()}",
            )
        )  # fmt: skip
    return findings + _missing_classes(cohort.cases)


def siblings(cohort: Cohort) -> Finding | None:
    """Subjects that look like one person by their names, where the layout only guesses subjects."""
    if not {OWN_SUBJECT, FOLDER_SUBJECT} & set(cohort.notes):
        return None
    classes = {case.class_name for case in cohort.cases if case.class_name}
    suspicion = suspect({case.id: case.subject for case in cohort.cases}, classes)
    if suspicion is None:
        return None
    used = trained_on(cohort)
    members: dict[str, list[Case]] = {}
    for case in cohort.cases:
        members.setdefault(case.subject, []).append(case)
    severity = "note"
    for group in suspicion.groups:
        cases = [c for subject in group for c in members[subject] if c.id in used]
        if len({c.subject for c in cases}) > 1:
            declared = {c.split for c in cases}
            separable = None in declared or len(declared) > 1
            severity = "blocking" if separable or severity == "blocking" else "warning"
    suspected = sum(map(len, suspicion.groups))
    first = " and ".join(suspicion.groups[0])
    message = (
        f"{suspected} of {count(len(members), 'subject')} look like {len(suspicion.groups)}: "
        f"their names ({first}) differ in {suspicion.differ} alone; if they are, a split would "
        "part one person"
    )
    joined = f"--subject-pattern '{suspicion.pattern}'" if suspicion.pattern else (
        "a table with the columns image, label and subject"
    )  # fmt: skip
    fix = f"the same person: {joined}; different people: --subject-pattern '(.+)'"
    places = tuple(" + ".join(group) for group in suspicion.groups)
    return Finding("subjects-suspected", severity, message, places, fix)


def _missing_classes(cases: Sequence[Case]) -> list[Finding]:
    classes_of_part: dict[str, set[str]] = {}
    for case in cases:
        if case.split and case.class_name:
            classes_of_part.setdefault(case.split, set()).add(case.class_name)
    all_classes = set().union(*classes_of_part.values()) if classes_of_part else set()
    missing = [
        f"{part}: {name}" for part, names in classes_of_part.items() for name in all_classes - names
    ]
    if not missing:
        return []
    message = f"a part of the declared split lacks a class ({'; '.join(sorted(missing)[:4])})"
    return [Finding("class-missing", "warning", message, (), "draw the split anew")]
