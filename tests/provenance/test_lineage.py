"""Whose scans taught a model: known again by who has the key, and by nobody else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delineate.core.case import Case
from delineate.data.site_key import SiteKey
from delineate.networks._transfer import Weights
from delineate.provenance import lineage


def cases(folder: Path, names: str, size: int = 9) -> list[Case]:
    """A case of each subject, whose one file has so many bytes."""
    made = []
    for name in names:
        path = folder / f"{name}-{size}.nii"
        path.write_bytes(bytes(size))
        made.append(Case(f"{name}-scan", name, {"flair": path}))
    return made


def parent_of(marked: Mapping[str, Any] | None) -> Weights:
    document = None if marked is None else {"provenance": dict(marked)}
    return Weights(Path("old.safetensors"), "delineate", "0" * 64, {}, document)


KEY, OTHER = (SiteKey(Path("key"), bytes([n]) * 32) for n in (1, 2))


def test_subjects_of_the_old_model_are_known_again(tmp_path: Path) -> None:
    def marks(size: int = 9, **parts: str) -> lineage.Marks:
        return lineage.marks({k: cases(tmp_path, v, size) for k, v in parts.items()}, KEY)

    first = marks(train="abc", validation="d", test="efg")
    kept = lineage.subjects(None, first)
    assert "a" not in kept["subjects"]["train"], "no name is given away"
    parent = parent_of(kept)
    told = lineage.leaks(parent, marks(train="xef", test="abdz"))
    assert [text.split()[0] for text in told] == ["3", "2"]
    assert "flatter" in told[0]
    # called alike, but of another cohort: files of another size
    assert not lineage.leaks(parent, marks(8, train="ef", test="abd"))
    assert not lineage.leaks(parent_of(None), marks(test="abd"))
    # who taught by images alone is known again too
    given = marks(train="a", unlabelled="b", test="c")
    kept = lineage.subjects(None, given)
    parts = {c.subject: lineage.part({"provenance": kept}, c, KEY) for c in cases(tmp_path, "abc")}
    assert parts == {"a": "train", "b": "unlabelled", "c": "test"}
    assert "1 of the held-out" in lineage.leaks(parent_of(kept), marks(train="x", test="by"))[0]
    assert (
        "1 of the training" in lineage.leaks(parent_of(kept), marks(train="x", unlabelled="c"))[0]
    )
    # what grandparents learnt from is not forgotten
    child = lineage.subjects(parent, marks(train="x", test="z"))
    grand = parent_of(child)
    assert lineage.leaks(grand, marks(test="ad"))[0].startswith("2 of the held-out")
    parts = {
        case.subject: lineage.part({"provenance": child}, case, KEY)
        for case in cases(tmp_path, "adexzq")
    }
    assert parts == {
        "a": "earlier", "d": "earlier", "e": None, "x": "train", "z": "test", "q": None
    }  # fmt: skip


def test_marks_of_another_key_cannot_be_compared_and_are_passed_on(tmp_path: Path) -> None:
    ours = {"train": cases(tmp_path, "ab"), "test": cases(tmp_path, "c")}
    old = lineage.subjects(None, lineage.marks(ours, KEY))
    elsewhere = lineage.marks({"train": cases(tmp_path, "x"), "test": cases(tmp_path, "a")}, OTHER)
    (told,) = lineage.leaks(parent_of(old), elsewhere)
    assert "cannot be compared" in told
    assert "--site-key" in told
    assert lineage.part({"provenance": old}, ours["train"][0], OTHER) == "untold"
    assert lineage.part({"provenance": old}, ours["train"][0], None) == "untold"
    # The site with the first key knows its subjects again in the child of the second.
    child = lineage.subjects(parent_of(old), elsewhere)
    assert set(child["subjects_elsewhere"]) == {KEY.id}
    seen = [lineage.part({"provenance": child}, case, KEY) for case in cases(tmp_path, "ay")]
    assert seen == ["earlier", "untold"], "y may be among the subjects of the second"
    told_again = lineage.leaks(parent_of(child), lineage.marks({"test": ours["train"]}, KEY))
    assert any(text.startswith("2 of the held-out") for text in told_again)


def test_nobody_without_the_key_can_tell_who_trained_a_model(tmp_path: Path) -> None:
    (patient,) = cases(tmp_path, "7")
    guesses = {
        digest(b"7|9").hexdigest()[:n]
        for n in (12, 16) for digest in (hashlib.sha256, hashlib.sha1, hashlib.blake2b)
    }  # fmt: skip
    kept = lineage.subjects(None, lineage.marks({"train": [patient]}, KEY))
    assert not guesses & set(kept["subjects"]["train"])
    assert KEY.secret.hex() not in str(kept)
    assert KEY.secret.hex() not in repr(KEY)


def test_models_of_earlier_versions_are_read_with_a_warning_and_still_compared(
    tmp_path: Path,
) -> None:
    old = {"subjects": {"train": [hashlib.sha256(b"a|9").hexdigest()[:12]], "test": []}}
    new = lineage.marks({"test": cases(tmp_path, "a")}, KEY)
    told = lineage.leaks(parent_of(old), new)
    assert "without a key" in told[0]
    assert told[1].startswith("1 of the held-out")
    seen = [lineage.part({"provenance": old}, case, KEY) for case in cases(tmp_path, "ab")]
    assert seen == ["train", None]
    child = lineage.subjects(parent_of(old), new)
    assert old["subjects"]["train"][0] not in str(child), "what anyone can undo is not passed on"


def test_who_taught_one_of_several_models_taught_them_all(tmp_path: Path) -> None:
    parts = ({"train": "ab", "test": "cd"}, {"train": "c", "validation": "d", "test": "ab"})
    documents = [
        {"provenance": lineage.subjects(None, lineage.marks(
            {name: cases(tmp_path, who) for name, who in part.items()}, KEY))}
        for part in parts
    ]  # fmt: skip
    found = {
        case.subject: lineage.part_of_any(documents, case, KEY) for case in cases(tmp_path, "abcdx")
    }
    assert found == {"a": "train", "b": "train", "c": "train", "d": "validation", "x": None}
    (one,) = cases(tmp_path, "x")
    elsewhere = {"provenance": lineage.subjects(None, lineage.marks({"train": [one]}, OTHER))}
    assert lineage.part_of_any([*documents, elsewhere], one, KEY) == "untold"
