"""Which label file belongs to which image, by their names.

An image and its label file have the same name, but for the words that say image and label, in the
file's name or a folder's. Rules are tried from the strictest to the loosest, and a rule pairs only
what it tells without doubt; whatever is left is told to be without partner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from delineate.core.case import Masks, Source
from delineate.core.errors import ConfigError
from delineate.data.layouts import _names
from delineate.data.layouts._listing import RASTER, natural, relative, stem, suffix
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
    found = list(map(_read, paths, places))
    if all(label for _, label in found):  # a folder's word for label is about something else
        found = [
            _read(p, replace(at, role="", tag=())) for p, at in zip(paths, places, strict=True)
        ]
    labels = [file for file, label in found if label]
    bases = {(file.place.keys, file.name.base) for file in labels}
    # What bears the name of another label file's image is that image: roi_01 beside roi_01_mask.
    images = [
        replace(file, name=_names.of_image(stem(file.path)))
        for file, label in found
        if not label or (file.place.role != "label" and (file.place.keys, file.name.words) in bases)
    ]
    known = {file.path for file in images}
    return images, [file for file in labels if file.path not in known]


def _read(path: Path, place: Place) -> tuple[File, bool]:
    """A file, and whether it is a label file."""
    text = stem(path)
    label = _names.of_label(text)
    if place.role == "image" and label and label.words[: len(label.tag)] == label.tag:
        label = None  # images/roi_12 is an image
    if label is None and place.role == "label":
        words = _names.split_words(text)
        rest = tuple(word for word in words if word not in place.rest)
        label = Name(words, _names.without_image(rest or words))
    if label is None and place.role != "image" and _names.mentions_label(text):
        label = Name(_names.split_words(text), ("?",), ("?",))  # of no image that can be told
    return File(path, place, label or _names.of_image(text)), label is not None


#: What of a file's folders must agree, from the strictest rule to the loosest.
_PLACES: tuple[Callable[[Place], object], ...] = (
    lambda place: (place.split, place.keys, place.rest),
    lambda place: (place.split, place.keys),
    lambda place: place.keys,
)


def pair(images: list[File], labels: list[File]) -> tuple[list[Scan], list[File]]:
    """Scans with their label files, and the label files that no rule gives an image."""
    scans = [Scan({"": image}) for image in images]
    rest = labels
    for place in _PLACES:
        rest = _by_name(scans, rest, place)
    rest = _across(scans, rest)
    for place in _PLACES:
        rest = _numbered(scans, rest, place)
    for place in _PLACES:
        scans, rest = _channels(scans, rest, place)
    scans, rest = _alone(scans, rest)
    return scans, _instances(scans, rest)


def _by_name(scans: list[Scan], labels: list[File], place: Callable[[Place], object]) -> list[File]:
    """Pair what bears one name in one place; the label files left over."""
    index: dict[tuple[object, Words], list[Scan]] = {}
    for scan in scans:
        for words in {scan.first.name.words, scan.first.name.base}:
            index.setdefault((place(scan.first.place), words), []).append(scan)

    def only(label: File, words: Words) -> Scan | None:
        hits = index.get((place(label.place), words), [])
        exact = [scan for scan in hits if scan.first.name.words == words]
        hits = exact if len(exact) == 1 else hits
        return hits[0] if len(hits) == 1 else None

    rest: list[File] = []
    # a_1_mask says more clearly that it belongs to a_1 than a_mask_1 does.
    for label in sorted(labels, key=lambda one: one.name.number != ""):
        found = [only(label, words) for words in _spellings(label)]
        own = only(label, (*label.name.base, label.name.number)) if label.name.number else None
        if own and all(other.name.number for other in own.labels):
            found = [own]
        hit = next(filter(None, found), None)
        (rest if hit is None else hit.labels).append(label)
    return rest


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
    rest = []
    for label in labels:
        words = _whole(label)
        scan = free.get(words) if words and count[words] == 1 else None
        if scan and not (scan.first.place.own and label.place.own):
            scan.labels.append(label)
        else:
            rest.append(label)
    return rest


def _numbered(
    scans: list[Scan], labels: list[File], place: Callable[[Place], object]
) -> list[File]:
    """Pair masks/a_1, masks/a_2 … with the image a, where none is called a_1."""
    known = {(place(scan.first.place), scan.first.name.words): scan for scan in scans}
    rest = []
    for label in labels:
        *base, last = label.name.words
        scan = known.get((place(label.place), tuple(base)))
        if label.place.role == "label" and not label.name.tag and last.isdecimal() and scan:
            name = replace(label.name, base=tuple(base), number=last)
            scan.labels.append(replace(label, name=name))
        else:
            rest.append(label)
    return rest


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
    rest = []
    made: dict[tuple[object, Words], Scan] = {}
    for label in labels:
        for words in (label.name.base, _names.without_image(label.name.base)):
            key = (place(label.place), words)
            group = dict(groups.get(key, []))
            if group and len(group) == len(groups[key]):
                scan = made.setdefault(key, Scan({w: s.first for w, s in group.items()}))
                joined |= {id(one): scan for one in group.values()}
                scan.labels.append(label)
                break
        else:
            rest.append(label)
    return _replaced(scans, joined), rest


def _replaced(scans: list[Scan], joined: dict[int, Scan]) -> list[Scan]:
    found = {id(s): s for s in (joined.get(id(scan), scan) for scan in scans)}
    return list(found.values())


def _alone(scans: list[Scan], labels: list[File]) -> tuple[list[Scan], list[File]]:
    """Pair the one label file of a folder with the one image there, or with its channels."""
    near: dict[tuple[Words, ...], list[Scan]] = {}
    for scan in scans:
        near.setdefault(scan.first.place.keys, []).append(scan)
    count = Counter(label.place.keys for label in labels)
    joined: dict[int, Scan] = {}
    rest = []
    for label in labels:
        group = near.get(label.place.keys, []) if label.place.own else []
        words = [_names.channel_of(scan.first.name.base)[1] for scan in group]
        whole = len(group) == 1 or ("" not in words and len(set(words)) == len(words))
        if not group or count[label.place.keys] > 1 or not whole or any(s.labels for s in group):
            rest.append(label)
            continue
        channels = zip(words if len(group) > 1 else [""], group, strict=True)
        scan = Scan({word: one.first for word, one in channels}, [label])
        joined |= {id(one): scan for one in group}
    return _replaced(scans, joined), rest


def _instances(scans: list[Scan], labels: list[File]) -> list[File]:
    """Pair all masks in a folder for masks with the one image that it is for: x/masks/*.png.

    Not masks whose names come back from image to image: they mark different structures.
    """
    count = Counter(scan.first.place.keys for scan in scans)
    lone = {s.first.place.keys: s for s in scans if count[s.first.place.keys] == 1 and not s.labels}
    names = Counter(label.name.words for label in labels)
    rest = []
    for n, label in enumerate(labels):
        scan = lone.get(label.place.keys) if label.place.own else None
        single = label.place.role == "label" and names[label.name.words] == 1
        if scan and single and suffix(label.path) in RASTER:
            scan.labels.append(replace(label, name=replace(label.name, tag=(), number=str(n))))
        else:
            rest.append(label)
    return rest


# ------------------------------------------------------------------------------- several labels


@dataclass(frozen=True)
class Choice:
    """What label files are used, where images have several.

    Args:
        labels: For each scan its label files: none, one, or the masks that are united.
        others: For each scan the label files of other observers or kinds, by tag.
        doubles: Label files that say nothing that another does not.
        notes: What was chosen, and by what option others are.
    """

    labels: list[list[File]]
    others: list[dict[str, File]]
    doubles: list[File]
    notes: list[str]


def choose(scans: list[Scan], observer: str | None) -> Choice:
    """Take one kind of label file for every scan.

    Raises:
        ConfigError: No label file is of that observer, or several of one image are.
    """
    kinds = [_kinds(scan) for scan in scans]
    every = Counter(tag for one in kinds for tag in one)
    if observer is not None:
        taken = [_asked(observer, one) for one in kinds]
        if not any(taken):
            raise ConfigError(
                f"expected an observer among those of the label files, got {observer!r}",
                fix=f"label files are of: {', '.join(sorted(every, key=natural))}",
                code="observer-unknown",
            )
    else:
        order = sorted(every, key=lambda tag: (_rank(tag), -every[tag], natural(tag)))
        taken = [next((tag for tag in order if tag in one), "") for one in kinds]
    labels = [_parts(one.get(tag, [])) for one, tag in zip(kinds, taken, strict=True)]
    used = Counter(tag for tag in taken if tag)
    others = [
        {name: files[0] for name, files in one.items() if name != tag}
        for one, tag in zip(kinds, taken, strict=True)
    ]
    doubles = [
        file
        for one, tag, chosen in zip(kinds, taken, labels, strict=True)
        for file in one.get(tag, [])
        if file not in chosen
    ]
    return Choice(labels, others, doubles, _notes(used, others, labels, observer))


def _notes(
    used: Counter[str],
    others: list[dict[str, File]],
    labels: list[list[File]],
    observer: str | None,
) -> list[str]:
    notes = []
    rivals = sorted({tag for one in others for tag in one}, key=natural)
    if rivals or observer is not None:
        told = " and ".join(f"{tag} ({n} images)" for tag, n in sorted(used.items()))
        way = f"; --observer takes one of: {', '.join(rivals)}" if rivals else ""
        notes.append(f"images have label files of several observers or kinds; used: {told}{way}")
    if many := sum(len(one) > 1 for one in labels):
        notes.append(f"{many} images have several masks each: what any of them marks is marked")
    return notes


def _kinds(scan: Scan) -> dict[str, list[File]]:
    """Tag -> the label files of one scan that bear it."""
    kinds: dict[str, list[File]] = {}
    for label in sorted(scan.labels, key=lambda one: natural(one.path.as_posix())):
        kinds.setdefault("_".join(label.tag), []).append(label)
    return kinds


def _parts(files: list[File]) -> list[File]:
    """Label files that differ by their number; of those that do not, the first."""
    numbers: dict[str, File] = {}
    for file in files:
        numbers.setdefault(file.name.number, file)
    return list(numbers.values())


def _rank(tag: str) -> int:
    words = tag.split("_")
    last = 100 if "brain" in words else 99  # a brain's outline is rarely what is asked for
    return next((n for n, word in enumerate(_names.PREFERRED) if word in words), last)


def _asked(observer: str, kinds: dict[str, list[File]]) -> str:
    """The tag that an observer's name means, or nothing."""
    wanted = "".join(_names.split_words(observer))
    hits = [tag for tag in kinds if wanted == tag.replace("_", "")]
    hits = hits or [tag for tag in kinds if wanted in tag.replace("_", "")]
    if len(hits) > 1:
        raise ConfigError(
            f"expected an observer of one label file an image, got {observer!r}: {', '.join(hits)}",
            fix="say more of the name",
            code="observer-ambiguous",
        )
    return hits[0] if hits else ""


def source(labels: list[File]) -> Source | None:
    """The label files of a scan as a case holds them."""
    if len(labels) > 1:
        return Masks(file.path for file in labels)
    return labels[0].path if labels else None


def lonely(root: Path, files: Iterable[File], why: str) -> list[str]:
    """Entries of ``unpaired``."""
    return [f"{relative(root, file.path)} ({why})" for file in files]
