"""Brain tumour challenges (BraTS 2012-2024): a folder a subject with t1, t1ce, t2, flair and seg.

    SUBJECT/SUBJECT_{t1,t1ce,t2,flair,seg}.nii.gz              2017-2021; t1gd, t1c also
    SUBJECT/SUBJECT-{t1n,t1c,t2w,t2f,seg}.nii.gz               since 2023
    SUBJECT/VSD.Brain.XX.O.MR_{T1,T1c,T2,Flair}.N/*.mha, SUBJECT/VSD*.OT.N/*.mha    2013-2015
    HGG/SUBJECT/...  LGG/SUBJECT/...                           the grade is the class

Label values, decided from the label files: 1 necrosis, 2 oedema, 4 enhancing (2017-2020); 1, 2 and
3 enhancing (since 2021); 1, 2, 3 non-enhancing, 4 enhancing (2012-2015); and 1, 2, 3 enhancing, 4
resection cavity (post-treatment, 2024; told by its file names).
A subject that lacks a channel which most others have is left out and noted.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

from delineate.core.case import Case
from delineate.core.schema import Label, Schema, brats_schema
from delineate.data.layouts._listing import (
    SPLITS,
    Listing,
    files,
    folders,
    ids,
    label_values,
    load_table,
    number,
    relative,
    stem,
    words,
)
from delineate.data.layouts._names import mentions_label

_WORDS = {
    "t1": ("t1", "t1n"),
    "t1gd": ("t1ce", "t1gd", "t1c"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
    "seg": ("seg", "ot", "otmulticlass", "truth"),
}
_CHANNEL = {word: channel for channel, spellings in _WORDS.items() for word in spellings}
_MODERN = {"t1n", "t2w", "t2f"}
_GRADES = {"hgg": "HGG", "lgg": "LGG", "hg": "HGG", "lg": "LGG"}
# Number of the visit at the end of a name; what remains is the subject.
_SUBJECT = re.compile(
    r"(BraTS-[A-Z]+-\d+)-\d+|(brats_(?:tcia|2013)_pat\d+)_\d+|(Brats1\d_.+)_\d+", re.I
)
_SITE = re.compile(r"Brats1[789]_(CBICA|TCIA\d*|TMC|UAB|2013|WashU)_|brats_(tcia|2013)_", re.I)
_Scans = dict[str, list[Path]]


def recognise(root: Path) -> bool:
    """Whether most subject folders hold two channels or more, each once."""
    if not root.is_dir():
        return False
    groups = _groups(root)
    if not any("seg" in group for group in groups.values()) and _otherwise(root):
        return False
    good = [g for g in groups.values() if len(g.keys() - {"seg"}) > 1 and _once(g)]
    return bool(good) and 2 * len(good) > len(groups)


def cases(root: Path) -> Listing:
    """One case a subject folder, with the channels that most subjects have."""
    groups = _groups(root)
    counts = Counter(channel for group in groups.values() for channel in group)
    channels = [c for c in _WORDS if c != "seg" and 2 * counts[c] > len(groups)]
    listed: list[Case] = []
    unpaired: list[str] = []
    names = [folder.name for folder in groups]
    names = names if len(set(names)) == len(names) else ids(root, list(groups))
    for name, (folder, group) in zip(names, groups.items(), strict=True):
        missing = [c for c in channels if c not in group]
        if missing or not _once(group):
            reason = f"no {', '.join(missing)}" if missing else "a channel comes twice"
            unpaired.append(f"{relative(root, folder)} (left out: {reason})")
            continue
        if "seg" not in group and counts["seg"]:
            unpaired.append(f"{relative(root, folder)} (no label)")
        parts = [part.lower() for part in Path(relative(root, folder)).parts[:-1]]
        subject, site = _SUBJECT.fullmatch(folder.name), _SITE.match(folder.name)
        listed.append(
            Case(
                id=name,
                subject=next(filter(None, subject.groups())) if subject else folder.name,
                images={channel: group[channel][0] for channel in channels},
                label=group["seg"][0] if "seg" in group else None,
                class_name=next((_GRADES[p] for p in parts if p in _GRADES), None),
                site=next(filter(None, site.groups())) if site else None,
                split=next((SPLITS[p] for p in parts if p in SPLITS), None),
                meta={"folder": folder.name},
            )
        )
    listed = _joined(root, listed)
    schema, notes = _schema(listed)
    classes = tuple(sorted({case.class_name for case in listed if case.class_name}))
    return Listing(
        cases=tuple(listed),
        schema=dataclasses.replace(schema, classes=classes),
        modalities=dict.fromkeys(channels, "MR"),
        notes=(
            *notes,
            *([f"{len(unpaired)} subjects are incomplete, see unpaired"] * bool(unpaired)),
        ),
        unpaired=tuple(unpaired),
    )


def _groups(root: Path) -> dict[Path, _Scans]:
    """Subject folder -> channel -> files."""
    groups: dict[Path, _Scans] = {}
    for path in files(root):
        folder = path.parent.parent if path.parent.name.startswith("VSD.") else path.parent
        if folder == root:
            continue
        # The subject's own name may hold such a word; only what follows it counts.
        suffix_text = stem(path).removeprefix(folder.name)
        channels = {_CHANNEL[word] for word in words(suffix_text) if word in _CHANNEL}
        channel = "seg" if "seg" in channels else next(iter(channels), None)
        if channel:
            groups.setdefault(folder, {}).setdefault(channel, []).append(path)
    return groups


def _otherwise(root: Path) -> bool:
    """Whether there are label files that are not named as BraTS names its own."""
    return any(mentions_label(stem(path)) for path in files(root))


def _once(group: _Scans) -> bool:
    return all(len(paths) == 1 for paths in group.values())


def _schema(listed: list[Case]) -> tuple[Schema, list[str]]:
    """Schema that the values in the label files and the spelling of the file names tell."""
    labels = [case.label for case in listed if case.label is not None]
    names = [stem(s) for c in listed for s in c.images.values() if isinstance(s, Path)]
    modern = any(_MODERN & set(words(name)) for name in names)
    values, notes = label_values(labels) if labels else (set(), [])
    if {3, 4} <= values and not modern:
        base = brats_schema()
        whole = ("necrosis", "oedema", "non-enhancing", "enhancing")
        schema = Schema(
            labels=(*base.labels[:2], Label("non-enhancing", 3), base.labels[2]),
            regions={"WT": whole, "TC": ("necrosis", *whole[2:]), "ET": ("enhancing",)},
        )
        notes.append("labels of 2012-2015: 3 is non-enhancing tumour")
    elif 4 in values and modern:
        base = brats_schema(3)
        schema = Schema(
            labels=(*base.labels, Label("resection cavity", 4)),
            regions={**base.regions, "RC": ("resection cavity",)},
        )
        notes.append("labels of 2024: 4 is the resection cavity")
    else:
        value = 3 if 3 in values or (modern and 4 not in values) else 4
        schema = brats_schema(value)
        if labels and value not in values:
            notes.append(f"no label file shows enhancing tumour: its value is taken to be {value}")
    return schema, notes


def _joined(root: Path, listed: list[Case]) -> list[Case]:
    """Grade, age and survival from ``name_mapping*.csv`` and ``survival*.csv`` where there."""
    facts: dict[str, dict[str, str]] = {}
    places = [root, *folders(root)]
    names = {str(case.meta["folder"]) for case in listed}
    for place in places:
        for path in sorted((*place.glob("name_mapping*.csv"), *place.glob("survival*.csv"))):
            for row in load_table(path):
                for name in names & set(row.values()):
                    facts.setdefault(name, {}).update({k: v for k, v in row.items() if v})
    joined = []
    for case in listed:
        row = facts.get(str(case.meta["folder"]), {})
        joined.append(
            dataclasses.replace(
                case,
                class_name=case.class_name or row.get("Grade"),
                age=number(row.get("Age", "")),
                meta={**case.meta, **row},
            )
        )
    return joined
