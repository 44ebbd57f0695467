"""Which label file belongs to which image, by their names.

An image and its label file have the same name, but for the words that say image and label, in the
file's name or a folder's. Rules are tried from the strictest to the loosest, and a rule pairs only
what it tells without doubt; whatever is left is told to be without partner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from delineate.data.layouts import _names
from delineate.data.layouts._listing import RASTER, ids, relative, stem, suffix
from delineate.data.layouts._names import Name, Place, Words


@dataclass(frozen=True)
class File:
    """A file, and what its name and folders say."""

    path: Path
    place: Place
    name: Name

    @property
    def tag(self) -> Words:
        """The words that tell a label file from others of the same image."""
        return (*self.place.tag, *self.name.tag)


@dataclass
class Scan:
    """One image, or the channels of one scan, and its label files."""

    images: dict[str, File]
    labels: list[File] = field(default_factory=list)

    @property
    def first(self) -> File:
        return next(iter(self.images.values()))


def sort(root: Path, paths: Iterable[Path]) -> tuple[list[File], list[File]]:
    """Images and label files."""
    paths = list(paths)
    places = [_names.of_folders(path.relative_to(root).parts[:-1]) for path in paths]
    files = list(map(_read, paths, places))
    if all(label for _, label in files):  # a folder's word for label is about something else
        files = [
            _read(p, replace(at, role="", tag=())) for p, at in zip(paths, places, strict=True)
        ]
    labels = [file for file, label in files if label]
    bases = {(file.place.keys, file.name.base) for file in labels}
    # What bears the name of another label file's image is that image: roi_01 beside roi_01_mask.
    images = [
        replace(file, name=_names.of_image(stem(file.path)))
        for file, label in files
        if not label or (file.place.role != "label" and (file.place.keys, file.name.words) in bases)
    ]
    known = {file.path for file in images}
    return images, [file for file in labels if file.path not in known]


def image(path: Path) -> File:
    """A file of which only the name counts."""
    return File(path, Place(), _names.of_image(stem(path)))


def _read(path: Path, place: Place) -> tuple[File, bool]:
    """A file, and whether it is a label file."""
    text = stem(path)
    label = _names.of_label(text)
    if place.role == "image" and label and label.words[: len(label.tag)] == label.tag:
        label = None  # images/roi_12 is an image
    if label is None and place.role == "label":
        words = _names.split_words(text)
        own_words = tuple(word for word in words if word not in place.rest)
        label = Name(words, _names.without_image(own_words or words))
    if label is None and place.role != "image" and _names.mentions_label(text):
        label = Name(_names.split_words(text), ("?",), ("?",))  # of no image that can be told
    return File(path, place, label or _names.of_image(text)), label is not None


_IMAGE = re.compile(r"(?:^|[\s_\-.])(?:image|img|imaging|scan|volume|vol)$", re.I)
#: What of a file's folders must agree, from the strictest rule to the loosest.
_PLACES: tuple[Callable[[Place], object], ...] = (
    lambda place: (place.split, place.keys, place.rest),
    lambda place: (place.split, place.keys),
    lambda place: place.keys,
)


def pair(images: list[File], labels: list[File]) -> tuple[list[Scan], list[File]]:
    """Scans with their label files, and the label files that no rule gives an image."""
    scans = [Scan({"": image}) for image in images]
    unpaired = labels
    for place in _PLACES:
        unpaired = _by_name(scans, unpaired, place)
    unpaired = _across(scans, unpaired)
    for place in _PLACES:
        unpaired = _numbered(scans, unpaired, place)
    for place in _PLACES:
        scans, unpaired = _channels(scans, unpaired, place)
    scans, unpaired = _only_of_folder(scans, unpaired)
    unpaired = _instances(scans, unpaired)
    kinds = {frozenset(scan.images) for scan in scans if len(scan.images) > 1}
    return join(scans, kinds), unpaired


def _by_name(scans: list[Scan], labels: list[File], place: Callable[[Place], object]) -> list[File]:
    """Pair what bears one name in one place; the label files left over."""
    index: dict[tuple[object, Words], list[Scan]] = {}
    for scan in scans:
        for words in {scan.first.name.words, scan.first.name.base}:
            index.setdefault((place(scan.first.place), words), []).append(scan)

    def only(label: File, words: Words) -> Scan | None:
        candidates = index.get((place(label.place), words), [])
        exact = [scan for scan in candidates if scan.first.name.words == words]
        candidates = exact if len(exact) == 1 else candidates
        return candidates[0] if len(candidates) == 1 else None

    unpaired: list[File] = []
    # a_1_mask says more clearly that it belongs to a_1 than a_mask_1 does.
    for label in sorted(labels, key=lambda file: file.name.number != ""):
        matches = [only(label, words) for words in _spellings(label)]
        numbered = only(label, (*label.name.base, label.name.number)) if label.name.number else None
        if numbered and all(other.name.number for other in numbered.labels):
            matches = [numbered]
        match = next(filter(None, matches), None)
        (unpaired if match is None else match.labels).append(label)
    return unpaired


def _spellings(label: File) -> Iterator[Words]:
    """Names that its image may have."""
    if label.place.role == "label":
        yield label.name.words
    yield label.name.base
    yield _names.without_image(label.name.base)


def _across(scans: list[Scan], labels: list[File]) -> list[File]:
    """Pair names that come once, where no folder of one contradicts the other's."""
    names = Counter(scan.first.name.base for scan in scans)
    free = {s.first.name.base: s for s in scans if names[s.first.name.base] == 1 and not s.labels}
    count = Counter(_whole(label) for label in labels)
    unpaired = []
    for label in labels:
        words = _whole(label)
        scan = free.get(words) if words and count[words] == 1 else None
        if scan and not (scan.first.place.own and label.place.own):
            scan.labels.append(label)
        else:
            unpaired.append(label)
    return unpaired


def _numbered(
    scans: list[Scan], labels: list[File], place: Callable[[Place], object]
) -> list[File]:
    """Pair masks/a_1, a_1_mask, mask_a_2 … with the image a, where none is called a_1."""
    known = {(place(scan.first.place), scan.first.name.words): scan for scan in scans}
    unpaired = []
    for label in labels:
        name = label.name
        words = name.base if name.tag else name.words
        scan = known.get((place(label.place), words[:-1])) if len(words) > 1 else None
        if scan and words[-1].isdecimal() and not name.number:
            name = replace(name, base=words[:-1], number=words[-1])
            scan.labels.append(replace(label, name=name))
        else:
            unpaired.append(label)
    return unpaired


def _whole(label: File) -> Words:
    number = (label.name.number,) if label.name.number else ()
    return (*_names.without_image(label.name.base), *number)


def _channels(
    scans: list[Scan], labels: list[File], place: Callable[[Place], object]
) -> tuple[list[Scan], list[File]]:
    """Pair label files with the images that differ from them by the name of a sequence alone."""
    groups: dict[tuple[object, Words], list[tuple[str, Scan]]] = {}
    for scan in scans:
        base, word = _names.channel_of(scan.first.name.base)
        if word and not scan.labels:
            groups.setdefault((place(scan.first.place), base), []).append((word, scan))
    joined: dict[int, Scan] = {}
    unpaired = []
    merged: dict[tuple[object, Words], Scan] = {}
    for label in labels:
        for words in (label.name.base, _names.without_image(label.name.base)):
            key = (place(label.place), words)
            group = dict(groups.get(key, []))
            if group and len(group) == len(groups[key]):
                scan = merged.setdefault(key, Scan({w: s.first for w, s in group.items()}))
                joined |= {id(channel): scan for channel in group.values()}
                scan.labels.append(label)
                break
        else:
            unpaired.append(label)
    return _replaced(scans, joined), unpaired


def join(scans: list[Scan], kinds: set[frozenset[str]] | None = None) -> list[Scan]:
    """Join files without a label that differ by the name of a sequence alone, into one scan each.

    Args:
        scans: All scans.
        kinds: Sets of sequences that labelled scans have. None: join all files or none, and only
            if every scan comes to have the same sequences.
    """
    groups: dict[object, list[tuple[str, Scan]]] = {}
    for scan in scans:
        name, word = _names.channel_of(scan.first.name.base)
        groups.setdefault((_PLACES[0](scan.first.place), name, not word), []).append((word, scan))
    if kinds is None:
        kinds = {frozenset(word for word, _ in group) for group in groups.values()}
        if len(kinds) > 1 or any("" in kind for kind in kinds):
            return scans
    joined: dict[int, Scan] = {}
    for group in groups.values():
        images = {word: scan.first for word, scan in group}
        same_channels = frozenset(images) in kinds and 1 < len(images) == len(group)
        if same_channels and not any(scan.labels for _, scan in group):
            joined |= dict.fromkeys((id(scan) for _, scan in group), Scan(images))
    return _replaced(scans, joined)


def _replaced(scans: list[Scan], joined: dict[int, Scan]) -> list[Scan]:
    unique = {id(s): s for s in (joined.get(id(scan), scan) for scan in scans)}
    return list(unique.values())


def _only_of_folder(scans: list[Scan], labels: list[File]) -> tuple[list[Scan], list[File]]:
    """Pair the one label file of a folder with the one image there, or with its channels."""
    scans_in_folder: dict[tuple[Words, ...], list[Scan]] = {}
    for scan in scans:
        scans_in_folder.setdefault(scan.first.place.keys, []).append(scan)
    count = Counter(label.place.keys for label in labels)
    joined: dict[int, Scan] = {}
    unpaired = []
    for label in labels:
        group = scans_in_folder.get(label.place.keys, []) if label.place.own else []
        words = [_names.channel_of(scan.first.name.base)[1] for scan in group]
        whole = len(group) == 1 or ("" not in words and len(set(words)) == len(words))
        if not group or count[label.place.keys] > 1 or not whole or any(s.labels for s in group):
            unpaired.append(label)
            continue
        channels = zip(words if len(group) > 1 else [""], group, strict=True)
        scan = Scan({word: member.first for word, member in channels}, [label])
        joined |= {id(member): scan for member in group}
    return _replaced(scans, joined), unpaired


def _instances(scans: list[Scan], labels: list[File]) -> list[File]:
    """Pair all masks in a folder for masks with the one image that it is for: x/masks/*.png.

    Not masks whose names come back from image to image: they mark different structures.
    """
    count = Counter(scan.first.place.keys for scan in scans)
    single_scans = {
        s.first.place.keys: s for s in scans if count[s.first.place.keys] == 1 and not s.labels
    }
    names = Counter(label.name.words for label in labels)
    unpaired = []
    for n, label in enumerate(labels):
        scan = single_scans.get(label.place.keys) if label.place.own else None
        single = label.place.role == "label" and names[label.name.words] == 1
        if scan and single and suffix(label.path) in RASTER:
            scan.labels.append(replace(label, name=replace(label.name, tag=(), number=str(n))))
        else:
            unpaired.append(label)
    return unpaired


def unpaired_entries(root: Path, files: Iterable[File], reason: str) -> list[str]:
    """Entries of ``unpaired``."""
    return [f"{relative(root, file.path)} ({reason})" for file in files]


def base(scan: Scan) -> str:
    """File name without a last word for image, and without the channel's where it is known."""
    text = _IMAGE.sub("", stem(scan.first.path))
    for word in filter(None, scan.images):
        text = re.sub(rf"(^|[\s._\-]+){word}$|^{word}[\s._\-]+", "", text, count=1, flags=re.I)
        break
    return text or "image"


def case_ids(root: Path, scans: list[Scan]) -> list[str]:
    """Ids; ``images`` says nothing of a case: train/images/a is train_a, s1/image is s1.

    The channels of the root itself are called by its name.
    """
    short, long = [], []
    for scan in scans:
        name = base(scan)
        if name == "image" and len(scan.images) > 1 and scan.first.path.parent == root:
            name = root.name
        parts = scan.first.path.relative_to(root).parts[:-1]
        long.append(root.joinpath(*parts, name))
        folder_parts = [p for p in parts if _names.of_folders((p,)).role != "image"]
        short.append(
            root.joinpath(*folder_parts, *([name] * (name != "image" or not folder_parts)))
        )
    return ids(root, short if len(set(short)) == len(short) else long)
