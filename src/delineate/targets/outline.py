"""Outlines: a label for every voxel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delineate.core.case import Case
from delineate.core.progress import Progress, Say
from delineate.data import labels, structures
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.preprocess.presets import Preparation
from delineate.scoring.options import Options
from delineate.scoring.outlines import score_outlines
from delineate.settings import RunConfig
from delineate.targets import Contents, Figure, NoSettings, Target, Usable
from delineate.targets._labelled import labelled, spread
from delineate.targets._outline_answers import OutlineAnswers
from delineate.targets._outline_comparison import OutlineComparison

if TYPE_CHECKING:
    from delineate.reports._run_folder import Results, RunFolder
    from delineate.targets._outline_learning import LearningOutlines

Config = NoSettings


def build(config: NoSettings) -> Target:
    """A target without settings of its own."""
    return Outlines()


class Outlines:
    """A segmenter; see ``delineate.targets.Target``."""

    kind = trains = "segmenter"
    gives = None
    method = "supervised"
    network = "unet"
    settings = ("crf", "dimensions", "neighbours", "foreground")
    automatic = 0
    answers = OutlineAnswers()
    format = "delineate-evaluation"
    comparison = OutlineComparison()

    def suits(self, cohort: Cohort) -> bool:
        """Whether there are label maps, or nothing else to learn."""
        return bool(cohort.labelled().cases) or not cohort.schema.classes

    def asked_by(self, opening: Opening) -> str:
        """Nothing asks for outlines."""
        return ""

    def usable(self, cohort: Cohort) -> Usable:
        """See ``Target.usable``."""
        return labelled(cohort)

    def sample(self, cohort: Cohort, count: int) -> list[Case]:
        """See ``Target.sample``."""
        return spread(cohort, count)

    def contents(self, cohort: Cohort, folder: Path, progress: Progress) -> Contents:
        """Structures of every label map."""
        declared = tuple(label.name for label in cohort.schema.labels)
        return Contents(structures.by_case(cohort, folder, progress), declared)

    def learning(
        self, chosen: RunConfig, cohort: Cohort, preparation: Preparation
    ) -> LearningOutlines:
        """See ``Target.learning``."""
        from delineate.targets._outline_learning import LearningOutlines

        return LearningOutlines(chosen, cohort, preparation)

    def rehearse(self, case: Case, cohort: Cohort) -> None:
        """Score a label map; the same a voxel aside stands for the prediction."""
        from delineate.metrics.case import score_case

        if case.label is None:
            return
        label_map = labels.read_indices(case, cohort.schema)
        truth = label_map.array[0]
        steps_mm = label_map.grid.affine[:3, : label_map.grid.ndim]
        predicted = np.roll(truth, 1, 0)
        predicted[predicted > len(cohort.schema.labels)] = (
            0  # what nobody annotated is never predicted
        )
        score_case(predicted, truth, cohort.schema, steps_mm)

    def score(
        self,
        predictions: Path,
        labels: Path,
        out: Path,
        opening: Opening,
        options: Options,
        say: Say,
        progress: Progress,
    ) -> dict[str, Any]:
        """See ``Target.score``."""
        return score_outlines(predictions, labels, out, opening, options, say, progress)

    def headline(self, summary: Mapping[str, Any]) -> dict[str, Figure]:
        """Dice of every structure, and their mean; see ``Target.headline``."""
        regions = summary.get("regions", {}).items()
        dices = {f"Dice {name}": region["dice"] for name, region in regions}
        if len(dices) > 1:
            dices = {"mean Dice": summary["mean_dice"], **dices}
        return {name: Figure.of(figure, "mean") for name, figure in dices.items()}

    def results(self, folder: RunFolder) -> Results:
        """See ``Target.results``."""
        from delineate.reports import evaluation

        return evaluation.results(folder)
