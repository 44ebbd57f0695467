"""Which of several label files of an image is used: one observer's, or one kind, for all images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from delineate.core.case import Masks, Source
from delineate.core.errors import ConfigError
from delineate.data.layouts import _names
from delineate.data.layouts._listing import natural
from delineate.data.layouts._pairing import File, Scan


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
    count = Counter(tag for labels_of_scan in kinds for tag in labels_of_scan)
    if observer is not None:
        tags = [match_tag(observer, labels_of_scan) for labels_of_scan in kinds]
        if not any(tags):
            raise unknown(observer, count)
    else:
        order = sorted(count, key=lambda tag: (rank(tag), -count[tag], natural(tag)))
        tags = [
            next((tag for tag in order if tag in labels_of_scan), "") for labels_of_scan in kinds
        ]
    labels = [
        _parts(labels_of_scan.get(tag, [])) for labels_of_scan, tag in zip(kinds, tags, strict=True)
    ]
    used = Counter(tag for tag in tags if tag)
    others = [
        {name: files[0] for name, files in labels_of_scan.items() if name != tag}
        for labels_of_scan, tag in zip(kinds, tags, strict=True)
    ]
    doubles = [
        file
        for labels_of_scan, tag, chosen in zip(kinds, tags, labels, strict=True)
        for file in labels_of_scan.get(tag, [])
        if file not in chosen
    ]
    return Choice(labels, others, doubles, _notes(used, others, labels, observer))


def unknown(observer: str, tags: Iterable[str]) -> ConfigError:
    """What to raise where no label file is of the observer asked for."""
    return ConfigError(
        f"expected an observer among those of the label files, got {observer!r}",
        fix=f"label files are of: {', '.join(sorted(tags, key=natural)) or 'one observer'}",
        code="observer-unknown",
    )


def _notes(
    used: Counter[str],
    others: list[dict[str, File]],
    labels: list[list[File]],
    observer: str | None,
) -> list[str]:
    notes = []
    rivals = sorted({tag for other in others for tag in other}, key=natural)
    if rivals or observer is not None:
        tags_used = " and ".join(f"{tag} ({n} images)" for tag, n in sorted(used.items()))
        hint = f"; --observer takes one of: {', '.join(rivals)}" if rivals else ""
        notes.append(
            f"images have label files of several observers or kinds; used: {tags_used}{hint}"
        )
    if several := sum(len(other) > 1 for other in labels):
        notes.append(f"{several} images have several masks each: what any of them marks is marked")
    return notes


def _kinds(scan: Scan) -> dict[str, list[File]]:
    """Tag -> the label files of one scan that bear it."""
    kinds: dict[str, list[File]] = {}
    for label in sorted(scan.labels, key=lambda file: natural(file.path.as_posix())):
        kinds.setdefault("_".join(label.tag), []).append(label)
    return kinds


def _parts(files: list[File]) -> list[File]:
    """Label files that differ by their number; of those that do not, the first."""
    numbers: dict[str, File] = {}
    for file in files:
        numbers.setdefault(file.name.number, file)
    return list(numbers.values())


def rank(tag: str) -> int:
    """The less, the rather are label files of this tag taken."""
    words = tag.split("_")
    last = 100 if "brain" in words else 99  # a brain's outline is rarely what is asked for
    return next((n for n, word in enumerate(_names.PREFERRED) if word in words), last)


def match_tag(observer: str, kinds: Collection[str]) -> str:
    """The tag that an observer's name means, or nothing."""
    name = "".join(_names.split_words(observer))
    matches = [tag for tag in kinds if name == tag.replace("_", "")]
    matches = matches or [tag for tag in kinds if name in tag.replace("_", "")]
    if len(matches) > 1:
        raise ConfigError(
            f"expected an observer of one label file an image, got {observer!r}: "
            f"{', '.join(matches)}",
            fix="say more of the name",
            code="observer-ambiguous",
        )
    return matches[0] if matches else ""


def source(labels: list[File]) -> Source | None:
    """The label files of a scan as a case holds them."""
    if len(labels) > 1:
        return Masks(file.path for file in labels)
    return labels[0].path if labels else None
