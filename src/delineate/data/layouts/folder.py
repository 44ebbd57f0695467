"""Images with label files, named alike but for a word such as mask, seg, label, gt or manual.

    images/a.png  masks/a.png              sibling folders, also below train/ val/ test/
    images/a.png  labels/a_mask.png        both may say it: img/img01, label/label01
    x/a.png       x/a_mask.png             beside each other, in the root or in subfolders
    volume-0.nii  segmentation-0.nii       the word may come first (LiTS, CT-ORG)
    x/image.nii   x/mask.nii               one pair a folder (KiTS: imaging, segmentation)
    x/PET_image.nii  x/PET_mask.nii        several pairs a folder: the name tells the channel
    x/t1.nii  x/flair.nii  x/mask.nii      one label file for several channels
    benign/a.png  benign/a_mask.png        folders without a number, of several images: classes

Any other subfolder is a subject. Several masks of an image (``_mask``, ``_mask_1``) are united.
Where label files are of several observers (``_1stHO``, ``_2ndHO``; ``_manual1``; ``_rater1``) or
kinds, one is taken for all images, and the others are in ``meta``: ``other_labels``.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from itertools import takewhile
from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.data.layouts import _names, _observers, _pairing
from delineate.data.layouts._listing import (
    FOLDER_SUBJECT,
    OWN_SUBJECT,
    Listing,
    files,
    modality,
    modality_of_file,
    relative,
    schema_from_files,
)
from delineate.data.layouts._pairing import Scan

#: The opening may say whose label files to take.
OBSERVERS = True
#: Folders without a number are classes up to here, and subjects beyond.
MOST_CLASSES = 10
_SIDE = {"left", "right", "l", "r", "od", "os"}
_GRADE = re.compile(
    r"(?:class|grade|stage|type|category|score|level|bi-?rads|isup|kl)[\W_]*\d+$", re.I
)
_SITE = re.compile(r"(?:site|center|centre|hospital|clinic)(?:[\W_\d].*|[A-Z])?", re.I)


def recognise(root: Path) -> bool:
    """Whether there is a folder of label files, or half the images or label files are paired."""
    if not root.is_dir():
        return False
    images, labels = _pairing.sort(root, files(root))
    if not images or not labels:
        return False
    scans, left_over = _pairing.pair(images, labels)
    labelled = sum(bool(scan.labels) for scan in scans)
    mostly_labelled = labelled > 0 and (
        2 * labelled >= len(scans) or 2 * len(left_over) <= len(labels)
    )
    return mostly_labelled or any(label.place.role == "label" for label in labels)


def fits(root: Path) -> bool:
    """Whether there are images: enough where the layout is asked for by name."""
    return root.is_dir() and bool(files(root))


def cases(root: Path, observer: str | None = None) -> Listing:
    """Pairs of images and label files; whatever finds no partner is noted.

    Args:
        root: The folder.
        observer: Of several label files of an image, the one with this in its name.

    Raises:
        LayoutError: No image has a label file.
        ConfigError: No label file is of that observer.
    """
    images, labels = _pairing.sort(root, files(root))
    scans, left_over = _pairing.pair(images, labels)
    unpaired = _pairing.unpaired_entries(root, left_over, "no image")
    series = [s for s in scans if not s.labels and s.first.name.words[-1:] in (("4d",), ("cine",))]
    unpaired += [f"{relative(root, s.first.path)} (left out: over time)" for s in series]
    scans = [scan for scan in scans if scan not in series]
    choice = _observers.choose(scans, observer)
    if not any(choice.labels):
        examples = [relative(root, scan.first.path) for scan in scans]
        raise LayoutError(
            f"expected label files that are named like their images, got none among {len(scans)} "
            f"images: {'; '.join([*examples[:3], *unpaired[:3]])}",
            where=root,
            fix="give masks the names of their images, or write a table with the columns "
            "image and label",
            code="no-pairs",
        )
    unpaired += _pairing.unpaired_entries(root, choice.doubles, "another mask of the same image")
    unpaired += [
        f"{relative(root, scan.first.path)} (no label)"
        for scan, chosen in zip(scans, choice.labels, strict=True)
        if not chosen
    ]
    listed, notes = _cases(root, scans, choice)
    schema, values = schema_from_files([case.label for case in listed if case.label])
    classes = tuple(sorted({case.class_name for case in listed if case.class_name}))
    firsts = {channel: source for case in listed for channel, source in case.images.items()}
    if len({tuple(case.images) for case in listed}) > 1:
        notes.append(f"cases have different channels: {', '.join(sorted(firsts))}")
    return Listing(
        cases=tuple(listed),
        schema=dataclasses.replace(schema, classes=classes),
        modalities={
            c: modality_of_file(firsts[c]) if c == "image" else modality(c) for c in firsts
        },
        notes=(*notes, *values, *choice.notes),
        unpaired=tuple(unpaired),
    )


def _cases(
    root: Path, scans: list[Scan], choice: _observers.Choice
) -> tuple[list[Case], list[str]]:
    """Cases, and notes on whose they are."""
    subjects, classes, notes = _subjects_and_classes(scans)
    bases = [_pairing.base(scan) for scan in scans]
    repeated = Counter(bases)
    listed = []
    for name, base, scan, chosen, others in zip(
        _pairing.case_ids(root, scans), bases, scans, choice.labels, choice.others, strict=True
    ):
        folders = scan.first.place.own
        # A name that comes back from folder to folder is what was scanned, not who.
        again = folders in subjects and repeated[base] > 1 and _is_channel(base)
        texts = {tag: relative(root, file.path) for tag, file in others.items()}
        listed.append(
            Case(
                id=name,
                subject=subjects.get(folders, name),
                images={
                    word or (base.lower() if again else "image"): file.path
                    for word, file in scan.images.items()
                },
                label=_observers.source(chosen),
                class_name=classes.get(folders),
                site=next(filter(_is_site, folders), None),
                split=scan.first.place.split,
                meta={"other_labels": texts} if texts else {},
            )
        )
    return listed, notes


def _is_channel(base: str) -> bool:
    return modality(base) != "unknown" or not re.search(r"\d", base)


_Folders = tuple[str, ...]


def _subjects_and_classes(
    scans: list[Scan],
) -> tuple[dict[_Folders, str], dict[_Folders, str], list[str]]:
    """Folders -> subject and folders -> class, as far as they tell one, and notes on that."""
    count = Counter(scan.first.place.own for scan in scans)
    groups = {folders for folders in count if folders and _is_group(folders[-1])}
    # A folder a scan, or hardly more, is a subject.
    if sum(count[folders] for folders in groups) < 2 * len(groups):
        groups = {folders for folders in groups if _is_site(folders[-1])}
    shared = len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*count, strict=False))))
    classes = {}
    for folders in count:
        parts = folders if folders in groups else folders[:-1]
        if class_parts := [p for p in parts[shared:] if _is_group(p) and not _is_site(p)]:
            classes[folders] = "/".join(class_parts)
    names = sorted(set(classes.values()))
    if len(names) > MOST_CLASSES:
        groups = {folders for folders in groups if _is_site(folders[-1])}
    if not 1 < len(names) <= MOST_CLASSES:
        classes = {}
    subjects = {
        folders: "/".join(folders) for folders in count if folders and folders not in groups
    }
    notes = [OWN_SUBJECT] * (len(subjects) < len(count))
    notes += [FOLDER_SUBJECT] * bool(subjects)
    if classes:
        either = "|".join(re.escape(name).replace("/", "_") for name in names)
        pattern = f"'(?:^|_)({either})_'"
        other = "" if subjects else f"; if these are people, give --subject-pattern {pattern}"
        notes.append(f"classes are named after their folders: {', '.join(names)}{other}")
    return subjects, classes, notes


def _is_group(folder: str) -> bool:
    """Whether a folder may be that of a class or site: people are numbered."""
    if _SIDE & set(_names.split_words(folder)):
        return False
    return not re.search(r"\d", folder) or bool(_GRADE.match(folder)) or _is_site(folder)


def _is_site(folder: str) -> bool:
    return _SITE.fullmatch(folder) is not None
