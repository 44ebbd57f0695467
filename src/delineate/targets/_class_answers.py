"""Predicted classes: one row a case in ``classes.csv``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delineate.core.atomic import atomic_write_text
from delineate.core.case import Case, Prediction
from delineate.core.image import Image
from delineate.core.tables import table
from delineate.data.outputs import CaseOutputs
from delineate.inference._requirements import require
from delineate.inference.classes import Pool, classify
from delineate.inference.ensemble import AnySession
from delineate.inference.options import Options
from delineate.inference.sliding_window import Tick

#: One row a case.
CLASSES = "classes.csv"


@dataclass(frozen=True)
class ClassAnswers:
    """See ``delineate.targets.Answers``.

    Args:
        pool: From the probabilities of slices to those of their case.
    """

    pool: Pool
    done = "classified"

    def require(self, session: AnySession, options: Options) -> None:
        """See ``Answers.require``."""
        lost = {
            "--probabilities: a class has one number, which is told in any case": (
                options.probabilities
            ),
            "--crf: it refines outlines, and this model names classes": options.crf,
            "--maps: they have a place, and this model names classes": options.maps,
        }
        require(session, options.mirror, [words for words, is_given in lost.items() if is_given])

    def about(self, session: AnySession) -> dict[str, Any]:
        """Names of the classes, and what a case or its slices were asked."""
        return {"classes": session.members[0].document["classes"]}

    def merged(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """The same without a temperature: each model has one of its own."""
        documented = index["classes"].items()
        return {"classes": {key: value for key, value in documented if "temperature" not in key}}

    def notes(self, session: AnySession) -> list[str]:
        """Nothing."""
        return []

    def settings(self, session: AnySession, options: Options) -> dict[str, Any]:
        """No CRF refines classes."""
        return {"crf": False}

    def outputs(self, cases: Sequence[Case], out: Path, options: Options) -> list[CaseOutputs]:
        """No files of its own for any case."""
        return [CaseOutputs(case, (), {}, False) for case in cases]

    def predict(
        self, session: AnySession, image: Image, options: Options, progress: Tick | None
    ) -> Prediction:
        """See ``Answers.predict``."""
        return classify(
            session, image, self.pool, mirror=options.mirror,
            memory_bytes=options.memory_bytes, force=options.force,
        )  # fmt: skip

    def write(self, outputs: CaseOutputs, prediction: Prediction, out: Path) -> dict[str, Any]:
        """Nothing; the probability of every class stands in ``predictions.json``."""
        return {"files": {}, "classes": dict(prediction.class_probabilities or {})}

    def line(self, record: Mapping[str, Any]) -> str:
        """The likeliest class and its probability."""
        name = max(record["classes"], key=lambda class_name: float(record["classes"][class_name]))
        return f"{name} ({record['classes'][name]:.3f})"

    def finish(self, index: Mapping[str, Any], out: Path) -> None:
        """One row a case: class, probability of every class, the slice that counted most."""
        classes = index["classes"]["names"]
        rows = [
            {
                "case": case["id"],
                "subject": case["subject"],
                "class": max(classes, key=lambda name: case["classes"][name]),
                **{f"p_{name}": float(case["classes"][name]) for name in classes},
                **_most_attended(case["facts"].get("attention", [])),
            }
            for case in index["cases"]
            if "classes" in case
        ]
        columns = ["case", "subject", "class", *(f"p_{name}" for name in classes)]
        extra = ["slice", "attention"] if any("attention" in row for row in rows) else []
        atomic_write_text(out / CLASSES, table([*columns, *extra], rows))


def _most_attended(attention: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not attention:
        return {}
    most = max(attention, key=lambda slice_: slice_["weight"])
    return {"slice": most["slice"], "attention": most["weight"]}
