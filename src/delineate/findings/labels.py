"""What an audit says of label maps: empty, inverted, copied, in two styles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from delineate.data.cohort import Cohort
from delineate.findings._case import LabelFacts, Record
from delineate.findings._finding import Finding, count


def labels(cohort: Cohort, records: Sequence[Record]) -> list[Finding]:
    """Empty, inverted and copied labels, and structures that never occur."""
    labelled = [(r, r.label) for r in records if r.label is not None]
    if not labelled:
        return []
    findings = []
    empty = [r.case.id for r, label in labelled if not label.foreground and label.voxels]
    if empty:
        all_empty = len(empty) == len(labelled)
        findings.append(
            Finding(
                "labels-all-empty" if all_empty else "label-empty",
                "blocking" if all_empty else "note",
                f"{len(empty)} of {count(len(labelled), 'label map')} hold background alone",
                tuple(empty),
                "export the labels again, then run `delineate audit` once more"
                if all_empty else "",
            )
        )  # fmt: skip
    findings += _ignored(cohort, labelled) + _unannotated(cohort, labelled) + _palettes(labelled)
    values = Counter(v for _, label in labelled for v in label.voxels)
    names = {entry.value: entry.name for entry in cohort.schema.labels}
    absent = [name for value, name in names.items() if not values[value]]
    if absent and len(empty) < len(labelled):
        findings.append(
            Finding(
                "label-absent", "warning",
                f"declared but in no label map: {', '.join(absent)}; it cannot be learnt",
                (), "take it out of the declaration, or add cases that show it",
            )
        )  # fmt: skip
    if {1, 255} <= names.keys() and not any(
        {1, 255} <= label.voxels.keys() for _, label in labelled
    ):
        rarer = min((1, 255), key=values.__getitem__)
        findings.append(
            Finding(
                "label-two-styles", "warning",
                "some masks hold 0 and 1, others 0 and 255, never both: one structure, two values?",
                tuple(r.case.id for r, label in labelled if rarer in label.voxels),
                "write all masks with the same value",
            )
        )  # fmt: skip
    foreground_share = {
        r.case.id: label.foreground / sum(label.voxels.values())
        for r, label in labelled if label.voxels
    }  # fmt: skip
    inverted = [name for name, part in foreground_share.items() if part > 0.5]
    if inverted and len(labelled) > 3 and median(foreground_share.values()) < 0.2:
        findings.append(
            Finding(
                "label-inverted", "warning",
                f"{count(len(inverted), 'label map')} with more foreground than background, while "
                f"the median is {median(foreground_share.values()):.1%}: inverted?",
                tuple(inverted), "look at them",
            )
        )  # fmt: skip
    return findings + _copied_labels(labelled)


def _ignored(cohort: Cohort, labelled: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """Voxels that nobody has annotated, and cases without any that somebody has."""
    partly_annotated = [(r.case.id, label) for r, label in labelled if label.ignored]
    if not partly_annotated:
        return []
    voxels = sum(label.ignored + sum(label.voxels.values()) for _, label in partly_annotated)
    ignored_share = sum(label.ignored for _, label in partly_annotated) / voxels
    findings = [
        Finding(
            "label-ignored", "note",
            f"{count(len(partly_annotated), 'label map')} with voxels that nobody has annotated "
            f"(value {cohort.schema.ignore}, {ignored_share:.1%} of theirs): left out of losses, "
            "samples and figures",
            tuple(name for name, _ in partly_annotated),
        )
    ]  # fmt: skip
    if blank := tuple(name for name, label in partly_annotated if not label.voxels):
        all_blank = len(blank) == len(labelled)
        findings.append(
            Finding(
                "label-all-ignored", "blocking" if all_blank else "warning",
                f"{count(len(blank), 'label map')} without one annotated voxel: nothing to learn "
                "from, nothing to score",
                blank, "annotate some of it and run `delineate audit` again, or leave the case "
                "out: --exclude FILE, one id a line",
            )
        )  # fmt: skip
    return findings


def _unannotated(cohort: Cohort, labelled: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """A value below 0, or 255 beside small ones, of which nobody has said what it means."""
    if any(label.name != f"label {label.value}" for label in cohort.schema.labels):
        return []  # declared
    cases_of_value: dict[int, list[str]] = {}
    for record, label in labelled:
        values = [value for value in label.voxels if value]
        others = [value for value in values if 0 < value < 128]
        for value in values:
            if others and (value < 0 or (value == 255 and len(values) == len(others) + 1)):
                cases_of_value.setdefault(value, []).append(record.case.id)
    return [
        Finding(
            "label-unannotated", "warning",
            f"{count(len(names), 'label map')} with the value {value} beside others: voxels that "
            "nobody has annotated? It is taken for a structure",
            tuple(names), f"if it is none: --ignore-label {value}",
        )
        for value, names in cases_of_value.items()
    ]  # fmt: skip


def _palettes(labelled: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """Pictures whose palettes number the same colours differently: an index is no label then."""
    index_of_colour = {}
    for record, label in labelled:
        indices_of = Counter(label.colours.values())  # a colour of two indices tells nothing
        if indices_of:
            index_of_colour[record.case.id] = {
                c: i for i, c in label.colours.items() if indices_of[c] == 1
            }
    index_of: dict[str, Counter[int]] = {}
    for colours in index_of_colour.values():
        for colour, index in colours.items():
            index_of.setdefault(colour, Counter())[index] += 1
    usual_index = {colour: indices.most_common(1)[0][0] for colour, indices in index_of.items()}
    deviating = [
        name for name, colours in index_of_colour.items()
        if any(index != usual_index[colour] for colour, index in colours.items())
    ]  # fmt: skip
    if not deviating:
        return []
    colour = next(c for c, indices in index_of.items() if len(indices) > 1)
    message = (
        f"the palettes of {count(len(index_of_colour), 'mask')} number colours differently "
        f"({colour} is {' or '.join(map(str, sorted(index_of[colour])))}), so that an index is "
        "no label"
    )
    fix = "store label values without a palette, or give all masks the same one"
    return [Finding("label-palettes", "blocking", message, tuple(deviating), fix, tuple(deviating))]


def _copied_labels(labelled: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """One label map on the images of several subjects."""
    owners: dict[bytes, list[Record]] = {}
    for record, label in labelled:
        if 0 < label.foreground < sum(label.voxels.values()):
            owners.setdefault(label.digest, []).append(record)
    copies = [
        " = ".join(r.case.id for r in group) for group in owners.values()
        if len({r.case.subject for r in group}) > 1
        and len({tuple(p.digest for p in r.planes) for r in group}) > 1
    ]  # fmt: skip
    if not copies:
        return []
    message = f"{count(len(copies), 'label map')} shared by different images of several subjects"
    return [
        Finding("label-duplicated", "warning", message, tuple(copies), "look at them: one is wrong")
    ]
