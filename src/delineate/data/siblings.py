"""Names that look like scans of one person: two eyes, two visits, a letter or a number more.

A name is suspected for what it shares with others: ``01L`` and ``01R``, ``p3_pre`` and ``p3_post``,
``12a`` and ``12b``, ``p01_1`` and ``p01_2``. Running numbers (``case_1``, ``case_2``) are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_SEP = r"[_\-. ]"
_SIDES = {
    **dict.fromkeys(("l", "left", "lt", "os"), "left"),
    **dict.fromkeys(("r", "right", "rt", "od"), "right"),
}
_SIDE = "left|right|od|os|lt|rt|l|r"
_VISIT = (
    r"(?:timepoint|time|visit|session|ses|scan|exam|study|year|month|week|day|frame|slice|view|"
    r"baseline|followup|follow-up|repeat|rescan|retest|mr|tp|fu|bl|t|v|m|y|w|d)-?\d+"
    r"|(?:19|20)\d\d-?[01]\d-?[0-3]\d"
)
_WHEN = (
    "pre|post|before|after|baseline|followup|follow-up|bl|fu|test|retest|scan|rescan|"
    "ed|es|ap|pa|lat|lateral|cc|mlo|insp|exp"
)
_WHERE, _VISITS = "left and right", "the visit, view or time"
#: What may follow the name of a person, and what is said of it; two may have something behind them.
#: Numbers come last: they may count.
_KINDS = (
    (_WHERE, rf"(?:{_SEP}|(?<=\d))(?:{_SIDE})", ""),
    (_VISITS, rf"{_SEP}(?:{_VISIT}|{_WHEN})", ""),
    (_WHERE, rf"{_SEP}(?:{_SIDE})", rf"{_SEP}.+"),
    (_VISITS, rf"{_SEP}{_VISIT}", rf"{_SEP}.+"),
    ("a last letter", rf"(?<=\d){_SEP}?[a-z]", ""),
    ("a last number", rf"(?:{_SEP}\d{{1,3}}|{_SEP}?\(\d{{1,3}}\))", ""),
)
#: Words whose number tells a place or a group, not a person.
_PLACE = re.compile(
    r"(?:site|cent(?:er|re)|hospital|scanner|batch|group|class|grade|stage|fold|set|part|train|"
    r"test|val)[_\-. ]?\d+$",
    re.I,
)
#: The number of a person by its word, or else the whole name.
_NUMBERED = (
    r"^((?:.*?(?<![A-Za-z])(?:[Pp]erson|[Pp]atient|[Ss]ubject|[Pp]articipant|[Vv]olunteer)"
    r"[_\-. ]?\d+)(?=\D)|.+)"
)
#: One person seldom has more scans than this that are told apart by a number or letter alone.
_MOST = 6


@dataclass(frozen=True)
class Suspicion:
    """Subjects that look like one.

    Args:
        groups: Names of the subjects that look like one person, for each such person.
        differ: In what the names of a group differ.
        pattern: A subject pattern that joins just these; None where none can be told.
    """

    groups: tuple[tuple[str, ...], ...]
    differ: str
    pattern: str | None


def suspect(subjects: Mapping[str, str], classes: Iterable[str] = ()) -> Suspicion | None:
    """What speaks for several subjects being one person, if anything does.

    Args:
        subjects: Case id -> subject, as its layout gives it.
        classes: Classes that names may begin with, as ``benign_1`` and ``benign (2)`` do: what
            only follows a class counts its pictures.
    """
    group = "|".join(map(re.escape, sorted(classes)))
    counts = re.compile(rf"\D*(?:{group})" if group else r"(?!)", re.I)
    stems = {name: name for name in subjects.values()}
    differ: list[str] = []
    endings: list[str] = []
    for _ in range(3):  # 01_pre_L has two endings, and perhaps a third
        ending_found = _ending(sorted(set(stems.values())), counts)
        if ending_found is None:
            break
        kind, ending, shorter = ending_found
        differ.append(kind)
        endings.append(ending)
        stems = {name: shorter.get(stem, stem) for name, stem in stems.items()}
    pattern = "^(.+?)" + "".join(f"(?:{ending})?" for ending in reversed(endings)) + "$"
    candidates = [pattern, *(f"^(.+?)(?:(?:{ending}).*)?$" for ending in endings[:1])]
    if not endings:
        front = _front(sorted(set(stems.values())))
        if front is None:
            return _numbered(subjects)
        tokens, stems = front
        differ, candidates = [_WHERE], [f"^(?:{_joined(tokens)})?(.+)$"]
    groups = _grouped(stems)
    fitting_patterns = (
        p for p in candidates if _fits(p, {c: stems[s] for c, s in subjects.items()})
    )
    return Suspicion(groups, " and ".join(differ), next(fitting_patterns, None))


def _ending(
    names: Sequence[str], counts: re.Pattern[str]
) -> tuple[str, str, dict[str, str]] | None:
    """The first kind of ending that parts names which are else the same.

    Returns:
        What it is, a regular expression of it, and the rest of every name that has it.
    """
    all_names = set(names)
    for kind, regex, behind in _KINDS:
        expression = re.compile(rf"^(.*?[^_\-. ])({regex}){behind}$", re.I)
        split = {name: (m[1], m[2]) for name in names if (m := expression.match(name))}
        groups: dict[str, dict[str, str]] = {}
        for name, (stem, token) in split.items():
            groups.setdefault(stem, {})[name] = token
        groups_of_a_person = {
            stem: group
            for stem, group in groups.items()
            if not counts.fullmatch(stem)
            and _one_person(kind, stem, list(group.values()), all_names)
            and (not behind or (re.search(r"\d", stem) and len(group) <= 2 * _MOST))
        }
        if not groups_of_a_person or not _not_counted(kind, groups_of_a_person, len(names)):
            continue
        tokens = {token for group in groups_of_a_person.values() for token in group.values()}
        # The only eye or visit of a person has the same ending.
        shorter = {name: stem for name, (stem, token) in split.items() if token in tokens}
        return kind, f"(?:{_joined(tokens)}).*" if behind else _joined(tokens), shorter
    return None


def _one_person(kind: str, stem: str, tokens: Sequence[str], names: set[str]) -> bool:
    """Whether names that differ in these endings alone may be of one person."""
    endings = sorted(re.sub(rf"^{_SEP}|[()]", "", token).lower() for token in tokens)
    if kind == _WHERE:
        return len({_SIDES[word] for word in endings}) == 2 and not _PLACE.search(stem)
    several_endings = len(set(endings)) + (stem in names) > 1
    if kind == "a last letter":
        run = [chr(ord("a") + n + (stem in names)) for n in range(len(endings))]
        return (
            several_endings
            and len(endings) < _MOST
            and endings in (run, [chr(ord(c) - 1) for c in run])
        )
    if kind == "a last number":
        numbers = sorted(int(word) for word in endings)
        first = numbers[0] <= 1 + (stem in names)
        steady = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        return (
            several_endings
            and first
            and steady
            and len(endings) <= _MOST
            and not _PLACE.search(stem)
        )
    return several_endings and not _PLACE.search(stem)


def _not_counted(kind: str, groups: Mapping[str, Mapping[str, str]], names: int) -> bool:
    """Whether the names before the endings tell people apart: else cases were merely counted."""
    numbered = sum(bool(re.search(r"\d", stem)) for stem in groups)
    counted = any(re.search(r"\d", token) for g in groups.values() for token in g.values())
    if not counted:
        return numbered > 0 or len(groups) > 1
    if kind == "a last number" and sum(map(len, groups.values())) < names / 2:
        return False
    fewest_groups = 2 if kind == _VISITS else 3
    return len(groups) > 1 and (numbered == len(groups) or len(groups) >= fewest_groups)


def _front(names: Sequence[str]) -> tuple[set[str], dict[str, str]] | None:
    """Names that begin with a side and are else the same."""
    expression = re.compile(rf"^((?:{_SIDE}){_SEP})(.+)$", re.I)
    split = {name: (m[2], m[1]) for name in names if (m := expression.match(name))}
    sides: dict[str, set[str]] = {}
    for stem, token in split.values():
        sides.setdefault(stem, set()).add(_SIDES[token[:-1].lower()])
    paired_stems = {stem for stem, sides_of_stem in sides.items() if len(sides_of_stem) == 2}
    if not paired_stems:
        return None
    stems = {name: split[name][0] if name in split and split[name][0] in paired_stems else name
             for name in names}  # fmt: skip
    return {token for stem, token in split.values() if stem in paired_stems}, stems


def _numbered(subjects: Mapping[str, str]) -> Suspicion | None:
    """Names that number a person, and then something else: ``person3_bacteria_11``."""
    stems = {}
    for name in subjects.values():
        match = re.search(_NUMBERED, name)
        stems[name] = match[1] if match else name
    groups = _grouped(stems)
    if not groups:
        return None
    fits = _fits(_NUMBERED, {case: stems[subject] for case, subject in subjects.items()})
    return Suspicion(groups, "what follows the number of a person", _NUMBERED if fits else None)


def _grouped(stems: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for name, stem in stems.items():
        groups.setdefault(stem, []).append(name)
    return tuple(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _joined(tokens: Iterable[str]) -> str:
    r"""A regular expression of endings, numbers being any number: ``_t0``, ``_t1`` -> ``_t\d+``."""
    escaped = {re.sub(r"([.()\\])", r"\\\1", token) for token in tokens}
    general = {re.sub(r"\d+", lambda _: r"\d+", token) for token in escaped}
    return "|".join(sorted(general, key=lambda text: (-len(text), text)))


def _fits(pattern: str, subject_of_case: Mapping[str, str]) -> bool:
    """Whether a pattern parts case ids just as they should be."""
    groups: dict[str, set[str]] = {}
    for case, stem in subject_of_case.items():
        match = re.search(pattern, case)
        if match is None or not match[1]:
            return False
        groups.setdefault(match[1], set()).add(stem)
    return len(groups) == len(set(subject_of_case.values())) and all(
        len(g) == 1 for g in groups.values()
    )
