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
    found = [(r, r.label) for r in records if r.label is not None]
    if not found:
        return []
    findings = []
    empty = [r.case.id for r, label in found if not label.foreground and label.voxels]
    if empty:
        every = len(empty) == len(found)
        findings.append(
            Finding(
                "labels-all-empty" if every else "label-empty", "blocking" if every else "note",
                f"{len(empty)} of {count(len(found), 'label map')} hold background alone",
                tuple(empty),
                "export the labels again, then run `delineate audit` once more" if every else "",
            )
        )  # fmt: skip
    findings += _ignored(cohort, found) + _unannotated(cohort, found) + _palettes(found)
    values = Counter(v for _, label in found for v in label.voxels)
    names = {entry.value: entry.name for entry in cohort.schema.labels}
    absent = [name for value, name in names.items() if not values[value]]
    if absent and len(empty) < len(found):
        findings.append(
            Finding(
                "label-absent", "warning",
                f"declared but in no label map: {', '.join(absent)}; it cannot be learnt",
                (), "take it out of the declaration, or add cases that show it",
            )
        )  # fmt: skip
    if {1, 255} <= names.keys() and not any({1, 255} <= label.voxels.keys() for _, label in found):
        rarer = min((1, 255), key=values.__getitem__)
        findings.append(
            Finding(
                "label-two-styles", "warning",
                "some masks hold 0 and 1, others 0 and 255, never both: one structure, two values?",
                tuple(r.case.id for r, label in found if rarer in label.voxels),
                "write all masks with the same value",
            )
        )  # fmt: skip
    share = {
        r.case.id: label.foreground / sum(label.voxels.values())
        for r, label in found if label.voxels
    }  # fmt: skip
    inverted = [name for name, part in share.items() if part > 0.5]
    if inverted and len(found) > 3 and median(share.values()) < 0.2:
        findings.append(
            Finding(
                "label-inverted", "warning",
                f"{count(len(inverted), 'label map')} with more foreground than background, while "
                f"the median is {median(share.values()):.1%}: inverted?",
                tuple(inverted), "look at them",
            )
        )  # fmt: skip
    return findings + _copied_labels(found)


def _ignored(cohort: Cohort, found: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """Voxels that nobody has annotated, and cases without any that somebody has."""
    held = [(r.case.id, label) for r, label in found if label.ignored]
    if not held:
        return []
    every = sum(label.ignored + sum(label.voxels.values()) for _, label in held)
    share = sum(label.ignored for _, label in held) / every
    findings = [
        Finding(
            "label-ignored", "note",
            f"{count(len(held), 'label map')} with voxels that nobody has annotated (value "
            f"{cohort.schema.ignore}, {share:.1%} of theirs): left out of losses, samples and "
            "figures",
            tuple(name for name, _ in held),
        )
    ]  # fmt: skip
    if blank := tuple(name for name, label in held if not label.voxels):
        all_blank = len(blank) == len(found)
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


def _unannotated(cohort: Cohort, found: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """A value below 0, or 255 beside small ones, of which nobody has said what it means."""
    if any(label.name != f"label {label.value}" for label in cohort.schema.labels):
        return []  # declared
    odd: dict[int, list[str]] = {}
    for record, label in found:
        drawn = [value for value in label.voxels if value]
        others = [value for value in drawn if 0 < value < 128]
        for value in drawn:
            if others and (value < 0 or (value == 255 and len(drawn) == len(others) + 1)):
                odd.setdefault(value, []).append(record.case.id)
    return [
        Finding(
            "label-unannotated", "warning",
            f"{count(len(names), 'label map')} with the value {value} beside others: voxels that "
            "nobody has annotated? It is taken for a structure",
            tuple(names), f"if it is none: --ignore-label {value}",
        )
        for value, names in odd.items()
    ]  # fmt: skip


def _palettes(found: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """Pictures whose palettes number the same colours differently: an index is no label then."""
    every = {}
    for record, label in found:
        once = Counter(label.colours.values())  # a colour of two indices tells nothing
        if once:
            every[record.case.id] = {c: i for i, c in label.colours.items() if once[c] == 1}
    index_of: dict[str, Counter[int]] = {}
    for colours in every.values():
        for colour, index in colours.items():
            index_of.setdefault(colour, Counter())[index] += 1
    usual = {colour: seen.most_common(1)[0][0] for colour, seen in index_of.items()}
    others = [
        name for name, colours in every.items()
        if any(index != usual[colour] for colour, index in colours.items())
    ]  # fmt: skip
    if not others:
        return []
    colour = next(c for c, seen in index_of.items() if len(seen) > 1)
    message = (
        f"the palettes of {count(len(every), 'mask')} number colours differently ({colour} is "
        f"{' or '.join(map(str, sorted(index_of[colour])))}), so that an index is no label"
    )
    fix = "store label values without a palette, or give all masks the same one"
    return [Finding("label-palettes", "blocking", message, tuple(others), fix, tuple(others))]


def _copied_labels(found: Sequence[tuple[Record, LabelFacts]]) -> list[Finding]:
    """One label map on the images of several subjects."""
    owners: dict[bytes, list[Record]] = {}
    for record, label in found:
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
