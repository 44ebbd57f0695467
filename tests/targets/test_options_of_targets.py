"""Options that mean nothing for a kind of model are refused, before any work."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.data.cohort import Cohort
from delineate.inference.options import Options
from delineate.settings import RunConfig
from delineate.targets._class_answers import ClassAnswers
from delineate.targets.image import ImageAnswers
from delineate.tasks.evaluate import evaluate
from delineate.training.resolving import complete

SCHEMA = Schema(labels=(Label("x", 1),), classes=("a", "b"))
#: Given, so that nobody need count the subjects of a cohort that has none.
SHARES = {"holdout": 0.2, "validation": 0.1}


@pytest.mark.parametrize("target", ["class", "presence"])
@pytest.mark.parametrize(
    "given", [{"crf": True}, {"neighbours": 1}, {"foreground": 0.5}, {"dimensions": 3}]
)
def test_a_classifier_is_given_no_settings_of_outlines(target: Any, given: dict[str, Any]) -> None:
    cohort = Cohort(Path("/data"), "table", (), SCHEMA)
    with pytest.raises(ConfigError, match=next(iter(given))) as caught:
        complete(RunConfig(target=target, **SHARES, **given), cohort)
    assert caught.value.code == "setting-target"
    assert complete(RunConfig(target="outline", **SHARES, **given), cohort).target == "outline"


def test_an_outliner_is_given_no_settings_of_classes() -> None:
    cohort = Cohort(Path("/data"), "table", (), SCHEMA)
    with pytest.raises(ConfigError, match="balance"):
        complete(RunConfig(target="outline", balance="weights", **SHARES), cohort)
    assert complete(RunConfig(target="class", balance="weights", **SHARES), cohort).balance


@pytest.mark.parametrize(
    "given", [{"tolerance_mm": 2.0}, {"missing_as_empty": True}, {"schema": SCHEMA}]
)
def test_predicted_classes_are_scored_without_options_of_outlines(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "data").mkdir()
    index = {"classes": {"names": ["a", "b"], "target": "class"}, "cases": []}
    (tmp_path / "answers" / "predictions.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="predicted classes") as caught:
        evaluate(tmp_path / "answers", tmp_path / "data", tmp_path / "out", **given)
    assert caught.value.code == "option-model"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answers", "classes"), [(ClassAnswers(max), ("a", "b")), (ImageAnswers(), ())]
)
def test_only_a_model_of_outlines_gives_maps_beside(answers: Any, classes: Any) -> None:
    session: Any = SimpleNamespace(classes=classes, members=())
    answers.require(session, Options())
    with pytest.raises(ConfigError, match="--maps") as caught:
        answers.require(session, Options(maps=("critic",)))
    assert caught.value.code == "option-model"
