"""What the name of a file or folder says: an image, a label file, whose, and of what.

A name is read as words: what lies between separators, in small letters, Unicode composed. Words of
the field alone have a meaning here (mask, seg, image, rater …); all others tell the cases apart.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

from delineate.data.layouts._listing import SPLITS, modality

Words = tuple[str, ...]

_LABEL = {
    *("mask", "masks", "msk", "seg", "segs", "segm", "dseg", "segmentation", "segmentations"),
    *("label", "labels", "labelmap", "gt", "truth", "groundtruth", "roi", "rois"),
    *("segmented", "anno", "annot", "annotation", "annotations", "contour", "contours"),
    *("delineation", "delineations"),
}
#: Who drew it, or how several drawings became one.
_OBSERVER = {
    *("rater", "raters", "observer", "reader", "annotator", "expert", "grader", "manual"),
    *("1st", "2nd", "3rd", "4th", "ho", "1stho", "2ndho", "3rdho"),
    *("consensus", "majority", "maj", "staple", "aggregated", "and", "or"),
}
_IMAGE = {
    *("image", "images", "img", "imgs", "imaging", "scan", "scans"),
    *("volume", "volumes", "vol", "vols", "picture", "pictures"),
}
#: These need a word for label beside them.
_WEAK = {"1st", "2nd", "3rd", "4th", "ho", "maj", "aggregated", "and", "or"}
#: Of several label files of an image, those of these words come first.
PREFERRED = ("consensus", "majority", "maj", "staple", "manual")

#: Short forms count behind ``images`` and ``labels`` alone.
_SHORT = {"tr": "train", "va": "validation", "ts": "test"}
#: Folders that hold a share of a data set, as it was packed.
_PACKING = {"batch", "set", "data", "dataset", "part", "pt", "raw", "averaged", "files"}
_SEPARATORS = re.compile(r"[\s._\-()\[\]{}+,;&~#]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_GLUED = re.compile(r"([^\W\d]+)(\d+)")


@dataclass(frozen=True)
class Name:
    """The words of a file's name.

    Args:
        words: All of them.
        base: Without those that say image or label: what an image and its label file share.
        tag: Those that say label, and whose; empty where the file is not one.
        number: What comes behind the word for label: which of several masks, or of which image.
    """

    words: Words
    base: Words
    tag: Words = ()
    number: str = ""


def split_words(text: str) -> Words:
    """Words of a name; ``img0001`` is two, because ``img`` has a meaning."""
    words: list[str] = []
    for word in _SEPARATORS.split(unicodedata.normalize("NFC", text).casefold()):
        glued = _GLUED.fullmatch(word)
        known = glued is not None and glued[1] in _LABEL | _OBSERVER | _IMAGE
        words += list(glued.groups()) if glued and known else [word]
    return tuple(word for word in words if word)


def of_label(stem: str) -> Name | None:
    """What a label file's name says, None where it is not that of one.

    The words for label stand at the end (``a_mask``, ``a_mask_1``, ``a_manual2``) or at the
    beginning (``segmentation-0``).
    """
    words = split_words(stem)
    start = len(words)
    while start and _labels(words, start - 1):
        start -= 1
    if start == 0 and words and words[-1] in _LABEL:  # roi_01_mask is the mask of roi_01
        start = max((n + 1 for n, word in enumerate(words) if word.isdecimal()), default=0)
    tail = words[start:]
    if tail and (_LABEL | _OBSERVER - _WEAK) & set(tail):
        number = ""
        if _numeral(tail[-1]) and tail[-2] in _LABEL:
            tail, number = tail[:-1], tail[-1]
        return Name(words, words[:start], tail, number)
    if words and words[0] in _LABEL:
        return Name(words, words[1:], words[:1])
    return None


def of_image(stem: str) -> Name:
    """What an image's name says."""
    words = split_words(stem)
    return Name(words, without_image(words))


def without_image(words: Words) -> Words:
    """Words less those for image at the end or at the beginning, and a part of a split behind."""
    if words and words[-1] in _IMAGE | SPLITS.keys():
        return words[:-1]
    return words[1:] if words and words[0] in _IMAGE else words


def mentions_label(stem: str) -> bool:
    """Whether a name speaks of a label anywhere: such a file is never taken for an image."""
    return bool(_LABEL & set(split_words(stem))) or of_label(stem) is not None


def _labels(words: Words, at: int) -> bool:
    """Whether a word says label or observer, or which of them."""
    if words[at] in _LABEL | _OBSERVER:
        return True
    return at > 0 and _numeral(words[at]) and words[at - 1] in _LABEL | _OBSERVER


def _numeral(word: str) -> bool:
    return word.isdecimal() or (len(word) == 1 and word.isascii())


@dataclass(frozen=True)
class Place:
    """What the folders above a file say.

    Args:
        role: ``"image"``, ``"label"`` or nothing.
        own: Folders that are named after a case, a subject or a class, as they are spelt.
        keys: The same for comparing.
        rest: Other words of the folder that tells the role.
        tag: Its words, where the role is a label's.
        split: The part that a folder declares.
    """

    role: str = ""
    own: tuple[str, ...] = ()
    keys: tuple[Words, ...] = ()
    rest: Words = ()
    tag: Words = ()
    split: str | None = None


def of_folders(parts: tuple[str, ...]) -> Place:
    """What folders say, from the root to the file."""
    role, own, further, tag = "", [], Words(), Words()
    split = None
    for part in parts:
        words = _folder_words(part)
        packed = bool(_PACKING & set(words))
        others = [w for w in words if not (w in _PACKING or (packed and w.isdecimal()))]
        kind = _role(words)
        table = SPLITS | _SHORT if kind else SPLITS
        declared = [table[w] for w in others if w in table]
        if kind:
            role, tag = kind, words if kind == "label" else ()
            known = _LABEL | _OBSERVER | _IMAGE | table.keys()
            further = tuple(w for w in others if w not in known)
        if declared and (kind or len(others) == len(declared)):
            split = split or declared[0]
        elif not kind:
            own.append(part)
    return Place(role, tuple(own), tuple(map(split_words, own)), further, tag, split)


def _folder_words(name: str) -> Words:
    """Words of a folder; ``imagesTr`` is two."""
    joined = re.fullmatch(r"(images|labels)(tr|ts|va|val)", name.casefold())
    return joined.groups() if joined else split_words(_CAMEL.sub(" ", name))


def _role(words: Words) -> str:
    """What files a folder holds. With a number it is named after one scan: scan1, roi_7."""
    if {"with", "and"} & set(words) or (_LABEL & set(words) and _IMAGE & set(words)):
        return ""  # "BUSI with GT" holds both
    numbered = any(
        word.isdecimal() and before not in _OBSERVER for before, word in pairwise(("", *words))
    )
    if numbered:
        return ""
    if (_LABEL | _OBSERVER - _WEAK) & set(words):
        return "label"
    return "image" if _IMAGE & set(words) else ""


def channel_of(words: Words) -> tuple[Words, str]:
    """Words less the one that names a sequence or modality, and that word (or nothing)."""
    for at in (len(words) - 1, 0):
        if words and modality(words[at]) != "unknown":
            return words[:at] + words[at + 1 :], words[at]
    return words, ""
