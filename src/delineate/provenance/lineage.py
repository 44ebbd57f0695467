"""Where a model's weights come from: what was taken, which files, whose scans taught it before.

All of it goes into ``run.json`` and in brief into the model file, so that licences and leaks can be
followed from one file to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from delineate.core.case import Case, Source
from delineate.data.site_key import SiteKey

if TYPE_CHECKING:  # both bring torch along, which `evaluate` has no need of
    from delineate.networks._transfer import Transfer, Weights

#: A list longer than this stays in ``run.json``; the model file has its length.
_MOST_LISTED = 12


#: Parts of a model's data on which its figures flatter it.
TRAINED_ON = ("train", "validation", "unlabelled", "earlier")
#: Stands for the part where that cannot be told.
UNTOLD = "untold"

Parts = Mapping[str, Mapping[str, set[str]]]


@dataclass(frozen=True)
class Marks:
    """Marks by which subjects can be known again, by who has the key, though not named.

    Args:
        key: Which key made them, see ``SiteKey.id``.
        parts: Part of the split -> subject -> marks.
        unsalted: The same without a key, as earlier versions wrote them; only held against what
            these wrote, never written.
    """

    key: str
    parts: Parts
    unsalted: Parts


def marks(parts: Mapping[str, Iterable[Case]], key: SiteKey) -> Marks:
    """Marks of the subjects of each part: of name and file sizes.

    A file's size keeps apart subjects that are called alike in different cohorts.
    """
    texts = {name: _texts(cases) for name, cases in parts.items()}

    def made(mark: Callable[[str], str]) -> Parts:
        return {
            name: {subject: set(map(mark, sources)) for subject, sources in subjects.items()}
            for name, subjects in texts.items()
        }

    return Marks(key.id, made(key.mark), made(_unsalted))


def _texts(cases: Iterable[Case]) -> dict[str, set[str]]:
    texts_of_subject: dict[str, set[str]] = {}
    for case in cases:
        for source in case.images.values():
            texts_of_subject.setdefault(case.subject, set()).add(f"{case.subject}|{_size(source)}")
    return texts_of_subject


def _unsalted(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _size(source: Source) -> int:
    if isinstance(source, tuple):
        return sum(map(_size, source))
    if source.is_dir():
        return sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    return source.stat().st_size


def _provenance(weights: Weights | None) -> Mapping[str, Any]:
    provenance: Mapping[str, Any] = ((weights.document if weights else None) or {}).get(
        "provenance", {}
    )
    return provenance


def _known(provenance: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Marks of a model that this key made, by part; those of its ancestors are ``earlier``."""
    if provenance.get("subject_key") == key:
        return dict(provenance.get("subjects", {}))
    elsewhere = provenance.get("subjects_elsewhere", {}).get(key, ())
    return {"earlier": elsewhere} if elsewhere else {}


def leaks(weights: Weights, new: Marks) -> list[str]:
    """Subjects that the old model and the new one use in ways that spoil a figure, in words.

    It also says where that cannot be told.

    Args:
        weights: Whose model file may know its subjects.
        new: Of the new split.
    """
    provenance = _provenance(weights)
    if not isinstance(provenance.get("subjects"), Mapping):
        return []
    key = provenance.get("subject_key")
    notes, parts, old = [], new.parts, _known(provenance, new.key)
    if key is None:
        parts, old = new.unsalted, provenance["subjects"]
        notes.append(
            f"{weights.path.name} marks its subjects without a key, as earlier versions did: who "
            "has the file can try names on it; patients of DICOM files cannot be compared"
        )
    elif key != new.key:
        notes.append(
            f"which subjects trained {weights.path.name} cannot be compared: they are marked with "
            f"the key {key} of a site, not with {new.key}; if you have that key, give it by "
            "--site-key"
        )

    def shared(new_parts: Iterable[str], old_parts: Iterable[str]) -> int:
        known = {mark for part in old_parts for mark in old.get(part, ())}
        return sum(bool(m & known) for part in new_parts for m in parts.get(part, {}).values())

    if count := shared(("test",), TRAINED_ON):
        notes.append(
            f"{count} of the held-out subjects trained the old model: the figures flatter the new"
        )
    if count := shared(("train", "validation", "unlabelled"), ("test",)):
        notes.append(
            f"{count} of the training subjects tested the old model: "
            "its figures cannot be held against the new one's"
        )
    return notes


def subjects(weights: Weights | None, new: Marks) -> dict[str, Any]:
    """What a model file keeps: marks of each part, and of all that its ancestors learnt from.

    Marks of other keys are passed on, for who has these. Those without a key are not.
    """
    marks_of_part = {name: sorted(set().union(*part.values())) for name, part in new.parts.items()}
    provenance = _provenance(weights)
    known = _known(provenance, new.key)
    if earlier := {mark for name in TRAINED_ON for mark in known.get(name, ())}:
        marks_of_part["earlier"] = sorted(earlier)
    elsewhere = {k: list(v) for k, v in provenance.get("subjects_elsewhere", {}).items()}
    elsewhere.pop(new.key, None)
    key = provenance.get("subject_key")
    if key is not None and key != new.key:
        old = provenance.get("subjects", {})
        trained_on = {mark for name in TRAINED_ON for mark in old.get(name, ())}
        elsewhere[key] = sorted(trained_on.union(elsewhere.get(key, ())))
    return {
        "subject_key": new.key,
        "subjects": marks_of_part,
        **({"subjects_elsewhere": elsewhere} if elsewhere else {}),
    }


def part(document: Mapping[str, Any], case: Case, key: SiteKey | None) -> str | None:
    """Part of the model's own data that a case's subject belongs to, as far as its file can tell.

    Args:
        document: Of the model file.
        case: A scan.
        key: Of the site that it belongs to, if it has one.

    Returns:
        ``train``, ``validation``, ``unlabelled`` (taught it by images alone), ``earlier`` (taught a
        model whose weights this one took), ``test``, None, or ``UNTOLD`` where the model's subjects
        are marked with another key.
    """
    provenance = document.get("provenance", {})
    if not isinstance(provenance.get("subjects"), Mapping):
        return None
    mark: Callable[[str], str] = _unsalted
    old, otherwise = provenance["subjects"], None
    if "subject_key" in provenance:
        if key is None:
            return UNTOLD
        mark, old = key.mark, _known(provenance, key.id)
        otherwise = None if provenance["subject_key"] == key.id else UNTOLD
    own = {mark(text) for texts in _texts([case]).values() for text in texts}
    return next((name for name in (*TRAINED_ON, "test") if own & set(old.get(name, ()))), otherwise)


def part_of_any(
    documents: Sequence[Mapping[str, Any]], case: Case, key: SiteKey | None
) -> str | None:
    """As :func:`part`, for models that predict together: who taught one of them taught them all."""
    parts = [part(document, case, key) for document in documents]
    return next((name for name in (*TRAINED_ON, UNTOLD, "test") if name in parts), None)


def record(
    weights: Weights,
    transfer: Transfer,
    frozen: Mapping[str, int],
    new: Marks,
) -> dict[str, Any]:
    """What ``run.json`` keeps: where the weights come from, and what became of every tensor.

    Args:
        weights: As read.
        transfer: What was taken.
        frozen: Numbers that do not learn, by what was asked for.
        new: Of the split.
    """
    provenance = _provenance(weights)
    hash_ = weights.document["sha256"]["document"] if weights.document else None
    notes = leaks(weights, new)
    lost = [n for n in transfer.fresh if any(f"{n}.".startswith(f"{part}.") for part in frozen)]
    if lost:
        notes.append(f"{len(lost)} frozen tensors were not in the file and keep random values")
    before = provenance.get("transfer", {}).get("lineage", [])
    return {
        "file": weights.path.name,
        "format": weights.format,
        "sha256": weights.sha256,
        "model": hash_,
        "lineage": [hash_ or weights.sha256, *before],
        "peeled": list(weights.peeled),
        "renamed": transfer.renamed,
        "loaded": list(transfer.loaded),
        "resized": dict(transfer.resized),
        "left_out": dict(transfer.left_out),
        "fresh": list(transfer.fresh),
        "frozen": dict(frozen),
        "notes": notes,
    }


def brief(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record for the model file: long lists give way to their lengths."""
    short = {
        name: len(record[name])
        if name == "loaded" or len(record[name]) > _MOST_LISTED
        else record[name]
        for name in ("loaded", "resized", "left_out", "fresh")
    }
    return {**record, **short}


def sentence(record: Mapping[str, Any]) -> str:
    """A record in one line."""
    count = len(record["loaded"]) + len(record["resized"])
    taken = f"{count} of {count + len(record['left_out'])} tensors of {record['file']} taken"
    parts = [
        f"{len(record['resized'])} of them resized" if record["resized"] else "",
        f"{len(record['fresh'])} of the network's own fresh" if record["fresh"] else "",
        *(f"{name} frozen ({count:,} parameters)" for name, count in record["frozen"].items()),
    ]
    return ", ".join([taken, *filter(None, parts)])
