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
    every = Counter(tag for one in kinds for tag in one)
    if observer is not None:
        taken = [asked(observer, one) for one in kinds]
        if not any(taken):
            raise unknown(observer, every)
    else:
        order = sorted(every, key=lambda tag: (rank(tag), -every[tag], natural(tag)))
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


def rank(tag: str) -> int:
    """The less, the rather are label files of this tag taken."""
    words = tag.split("_")
    last = 100 if "brain" in words else 99  # a brain's outline is rarely what is asked for
    return next((n for n, word in enumerate(_names.PREFERRED) if word in words), last)


def asked(observer: str, kinds: Collection[str]) -> str:
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
