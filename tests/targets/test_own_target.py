"""A target of one's own: a file outside the package, tried out, trained, predicted and scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from delineate.conformance import targets as checks
from delineate.conformance._rules import Check, Subject, run
from delineate.core import catalog
from delineate.tasks.check import check
from delineate.tasks.predict import predict
from delineate.tasks.train import train

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "any_structure.py"


@pytest.mark.parametrize(
    ("old", "new", "rule", "got"),
    [
        ("usable=labelled", "usable=lambda c: type(labelled(c))(c)", checks.sorts_the_cases,
         "a case of which nothing but an image is known is labelled"),
        ("sample=spread", "sample=lambda c, n: []", checks.sorts_the_cases, "it takes"),
        ("return CLASSES", "return (*CLASSES, 'other')", checks.feed_is_a_function_of_the_step,
         "pictures of every class"),
        ("pictures=_pictures", "pictures=lambda *given: []", checks.validates_and_selects,
         "nothing is told of validation cases"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told(old: str, new: str, rule: Check, got: str, tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "broken.py"
    file.write_text(text.replace(old, new), encoding="utf-8")
    name = catalog.named(str(file))
    subject = Subject(catalog.load("targets", name), name, "2D", 2)
    (verdict,) = run([rule], [subject])
    assert got in str(verdict.fault)


@pytest.mark.slow
def test_the_example_passes() -> None:
    found = check(EXAMPLE)
    assert found["room"] == "targets"
    assert all(row["kept"] == "yes" for row in found["rules"])


@pytest.mark.slow
def test_it_is_trained_and_predicted_as_any_other(tmp_path: Path) -> None:
    data = Path(checks.folder("2D").name)
    out = tmp_path / "run"
    record = train(
        data, steps=4, target=str(EXAMPLE), holdout=0.3, out=out, audit=False, device="cpu"
    )
    assert record["scores"]["classes"] == ["without", "with"]
    index = predict(
        [out / "model.safetensors"], data, tmp_path / "answers", part=(EXAMPLE,), device="cpu",
        only=[f"s{number}" for number in range(1, 10)],  # s0 lacks a sequence
    )  # fmt: skip
    assert index["target"]["name"] == "any_structure"
    assert len((tmp_path / "answers" / "classes.csv").read_text().splitlines()) == 10
