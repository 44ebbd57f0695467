"""BIDS with label files: ``sub-ID/[ses-ID/]anat/sub-ID_T1w.nii.gz``, masks there or derived.

    sub-01/anat/sub-01_T1w.nii.gz  sub-01/anat/sub-01_FLAIR.nii.gz         one case, two channels
    derivatives/NAME/sub-01/anat/sub-01_…_dseg.nii.gz                      or mask, seg, msk, roi
    participants.tsv                                                       sex, age, site, others

A case is a subject, or a session of one; its channels are the sequences that most cases have, of
the label file's space. Where a case has several label files (label-…, desc-…), one is taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from delineate.core.case import Case
from delineate.core.errors import LayoutError
from delineate.data.layouts import _names, _observers
from delineate.data.layouts._listing import (
    NOTHING,
    Listing,
    files,
    load_table,
    modality,
    number,
    relative,
    schema_from_files,
    stem,
)
from delineate.data.layouts._pairing import File, Scan

OBSERVERS = True
_LABELS = ("mask", "dseg", "seg", "msk", "roi")
#: Series over time, maps of the scanner and probabilities: no channels of a case.
_OTHERS = {"bold", "sbref", "epi", "magnitude1", "magnitude2", "phasediff", "fieldmap", "probseg"}
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9]+)")
_Key = tuple[str, str]


def recognise(root: Path) -> bool:
    """Whether there are a scan and a label file of one ``sub-``."""
    if not root.is_dir() or not any(root.glob("sub-*")):
        return False
    scans, labels = _sorted(root)
    return bool(scans.keys() & labels.keys())


def fits(root: Path) -> bool:
    """Whether there are scans at all: enough where the layout is asked for by name."""
    return root.is_dir() and bool(_sorted(root)[0])


def cases(root: Path, observer: str | None = None) -> Listing:
    """One case a subject or session; one that lacks a channel is left out and noted.

    Raises:
        LayoutError: No label file has a scan in its space.
        ConfigError: No label file is of that observer.
    """
    scans, labels = _sorted(root)
    groups = {key: _channels(files, labels.get(key, [])) for key, files in scans.items()}
    labelled = [key for key in groups if groups[key] and labels.get(key)]
    if labels and not labelled:
        raise LayoutError(
            "expected scans in the space of their label files, got none",
            where=root,
            fix="bring label files and scans into one space, or write a table",
            code="no-pairs",
        )
    used = labelled or list(groups)
    count = Counter(name for key in used for name in groups[key])
    channels = sorted(name for name, n in count.items() if 2 * n > len(used))
    unpaired = [
        f"{relative(root, file.path)} (no image)"
        for key, files in labels.items()
        for file in (files if key not in groups else ())
    ]
    whole = {}
    for key, group in groups.items():
        missing = [name for name in channels if name not in group]
        if missing:
            unpaired.append(f"{_id(key)} (left out: no {', '.join(missing)})")
        else:
            images = {name: group[name] for name in channels}
            whole[key] = Scan(images, list(labels.get(key, [])))
            unpaired += [] if whole[key].labels else [f"{_id(key)} (no label)"]
    choice = _observers.choose(list(whole.values()), observer)
    participants = _participants(root)
    listed = []
    for key, scan, chosen, others in zip(
        whole, whole.values(), choice.labels, choice.others, strict=True
    ):
        facts = dict(participants.get(f"sub-{key[0]}", {}))
        texts = {tag: relative(root, file.path) for tag, file in others.items()}
        listed.append(
            Case(
                id=_id(key),
                subject=f"sub-{key[0]}",
                images={name.lower(): file.path for name, file in scan.images.items()},
                label=_observers.source(chosen),
                site=facts.pop("site", None),
                sex=facts.pop("sex", None),
                age=number(facts.pop("age", "")),
                meta={**facts, **({"other_labels": texts} if texts else {})},
            )
        )
    schema, notes = schema_from_files([case.label for case in listed if case.label])
    return Listing(
        cases=tuple(listed),
        schema=schema,
        modalities={name.lower(): modality(name) for name in channels},
        notes=(*notes, *choice.notes),
        unpaired=tuple(unpaired),
    )


def _sorted(root: Path) -> tuple[dict[_Key, list[File]], dict[_Key, list[File]]]:
    """Scans and label files by subject and session."""
    scans: dict[_Key, list[File]] = {}
    labels: dict[_Key, list[File]] = {}
    for path in files(root):
        entities, suffix = _parse(path)
        if "sub" not in entities or suffix in _OTHERS:
            continue
        key = entities["sub"], entities.get("ses", "")
        above = path.relative_to(root).parts[:-1]
        if suffix in _LABELS:
            is_derivative = len(above) > 1 and above[0] == "derivatives" and above[1][:4] != "sub-"
            pipeline = above[1] if is_derivative else ""
            named = [pipeline, entities.get("label", ""), entities.get("desc", ""), suffix]
            words = tuple(word for name in named for word in _names.split_words(name))
            name = _names.Name(words, (), words)
            labels.setdefault(key, []).append(File(path, _names.Place("label"), name))
        elif "derivatives" not in above:
            words = _names.split_words(stem(path))
            file = File(path, _names.Place("image"), _names.Name(words, words))
            scans.setdefault(key, []).append(file)
    return scans, labels


def _parse(path: Path) -> tuple[dict[str, str], str]:
    """Entities (``sub-01`` …) and the suffix of a name."""
    parts = stem(path).split("_")
    pairs = [_ENTITY.fullmatch(part) for part in parts]
    return {m[1]: m[2] for m in pairs if m}, "" if pairs[-1] else parts[-1]


def _channels(scans: Iterable[File], labels: Iterable[File]) -> dict[str, File]:
    """Sequence -> scan, in the space of the label files; none that comes twice."""
    spaces = {_parse(file.path)[0].get("space") for file in labels}
    in_space = [f for f in scans if not spaces or _parse(f.path)[0].get("space") in spaces]
    named = [(_parse(file.path)[1], file) for file in in_space or scans]
    count = Counter(name for name, _ in named)
    return {name: file for name, file in named if name and count[name] == 1}


def _id(key: _Key) -> str:
    return f"sub-{key[0]}" + (f"_ses-{key[1]}" if key[1] else "")


def _participants(root: Path) -> dict[str, dict[str, str]]:
    """Participant -> what ``participants.tsv`` knows."""
    path = root / "participants.tsv"
    rows = load_table(path) if path.is_file() else []
    return {
        row.get("participant_id", ""): {
            k: v for k, v in row.items() if k != "participant_id" and v.lower() not in NOTHING
        }
        for row in rows
    }
