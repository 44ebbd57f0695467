"""What the targets that name classes share: a classifier, fed with pictures that have classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from delineate.core import catalog
from delineate.core.case import Case
from delineate.core.errors import ConfigError, InputError
from delineate.core.progress import Progress, Say
from delineate.core.schema import Schema
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.budget import Candidate
from delineate.inference import classes
from delineate.inference.classes import Pool
from delineate.inference.runtimes import LOGITS
from delineate.inference.runtimes.torch import classifier
from delineate.inference.sliding_window import Tick
from delineate.preprocess import views
from delineate.preprocess.presets import Preparation
from delineate.reports import classification
from delineate.reports._run_folder import Results, RunFolder
from delineate.scoring.classes import RowsOfCase, score_classes
from delineate.scoring.options import Options
from delineate.settings import RunConfig
from delineate.targets import Answers, Comparison, Contents, Figure, Usable, _patches, _sizes
from delineate.targets._class_answers import ClassAnswers
from delineate.targets._class_comparison import ClassComparison
from delineate.targets._class_feed import ClassFeed, Pictures

#: Validation subjects below which a temperature would be a guess.
_CALIBRATE = 8
#: Figures by which runs are told side by side.
_HEADLINE = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "roc_auc": "ROC-AUC",
}


@dataclass(frozen=True)
class Question:
    """Which classes are told apart, and which of them a picture has.

    Args:
        name: Of the target.
        classes: Their names in index order, from the schema of a cohort.
        usable: See ``Target.usable``.
        sample: See ``Target.sample``.
        contents: Case id -> its class, of usable cases, see ``Target.contents``; nothing where a
            case has several.
        pictures: Slices of a prepared case with the index of their class.
        pool: From the probabilities of slices to those of their case.
        rows: What is scored of a case.
        named: See ``ClassComparison``.
        each: See ``Contents``.
        of_slices: Whether only single slices have an answer.
        automatic: See ``Target.automatic``.
        asked_by: See ``Target.asked_by``.
    """

    name: str
    classes: Callable[[Schema], Sequence[str]]
    usable: Callable[[Cohort], Usable]
    sample: Callable[[Cohort, int], list[Case]]
    contents: Callable[[Cohort, Path, Progress], dict[str, frozenset[str]]]
    pictures: Pictures
    pool: Pool
    rows: RowsOfCase
    named: Callable[[Cohort], tuple[list[Case], list[str]]]
    each: str | None = None
    of_slices: bool = False
    automatic: int | None = None
    asked_by: Callable[[Opening], str] = lambda opening: ""


@dataclass(frozen=True)
class Classes:
    """A target that names classes; see ``delineate.targets.Target``."""

    question: Question
    kind = trains = "classifier"
    gives = None
    method = "classify"
    network = "cnn"
    settings = ("balance",)
    format = "delineate-classification"

    @property
    def automatic(self) -> int | None:
        """See ``Target.automatic``."""
        return self.question.automatic

    @property
    def answers(self) -> Answers:
        """See ``Target.answers``."""
        return ClassAnswers(self.question.pool)

    @property
    def comparison(self) -> Comparison:
        """See ``Target.comparison``."""
        return ClassComparison(self.question.named)

    def suits(self, cohort: Cohort) -> bool:
        """Whether the cohort has classes."""
        return bool(cohort.schema.classes)

    def asked_by(self, opening: Opening) -> str:
        """See ``Target.asked_by``."""
        return self.question.asked_by(opening)

    def usable(self, cohort: Cohort) -> Usable:
        """See ``Target.usable``."""
        return self.question.usable(cohort)

    def sample(self, cohort: Cohort, count: int) -> list[Case]:
        """See ``Target.sample``."""
        return self.question.sample(cohort, count)

    def contents(self, cohort: Cohort, folder: Path, progress: Progress) -> Contents:
        """The class of every case, where it has one."""
        return Contents(self.question.contents(cohort, folder, progress), each=self.question.each)

    def learning(
        self, chosen: RunConfig, cohort: Cohort, preparation: Preparation
    ) -> LearningClasses:
        """See ``Target.learning``."""
        return LearningClasses(self.question, chosen, cohort, preparation)

    def rehearse(self, case: Case, cohort: Cohort) -> None:
        """Nothing: to compare two classes takes no time."""

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
        return score_classes(predictions, labels, out, opening, options, self.question.rows, say)

    def headline(self, summary: Mapping[str, Any]) -> dict[str, Figure]:
        """See ``Target.headline``."""
        figures = summary.get("figures", {})
        return {
            words: Figure.of(figures[name], "value")
            for name, words in _HEADLINE.items()
            if name in figures
        }

    def results(self, folder: RunFolder) -> Results:
        """See ``Target.results``."""
        return classification.results(folder)


class LearningClasses:
    """A classifier as one run learns it; see ``delineate.targets.Learning``."""

    neighbours = 0
    #: Of pictures, which are resized each by its own factor: not known.
    spacing_mm: tuple[float, ...] = ()
    whole = True

    def __init__(
        self, question: Question, chosen: RunConfig, cohort: Cohort, preparation: Preparation
    ) -> None:
        self.question = question
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.channels = tuple(preparation.outputs)
        self.outputs = list(question.classes(cohort.schema))
        volumes = preparation.ndim == 3 or preparation.slice_axis is not None
        self.ndim = _dimensions(chosen, volumes, question.of_slices)
        slices = views.slice_axis((0,) * (3 if volumes else 2), 2, preparation.slice_axis)
        #: Along which the feed takes slices, each a picture; None where it shows all of the image.
        self.axis = slices if self.ndim == 2 else None
        #: Along which the network itself takes slices of the volume that it sees.
        bag = chosen.network_settings.get("axis", slices)
        self.bag = bag if self.ndim == 3 and _sees_slices(chosen.network) else None
        self.derived = {"axis": slices}

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        chosen = self.chosen
        return _sizes.candidates(
            self._shape(cases), self.ndim, width=chosen.width, patch=chosen.patch,
            batch=chosen.batch, whole=True, bag=self.bag,
        )  # fmt: skip

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        chosen = self.chosen
        return _sizes.smaller(
            first, self._shape(cases), self.ndim, patch=chosen.patch, batch=chosen.batch,
            bag=self.bag,
        )  # fmt: skip

    def patch(self, cases: Sequence[PreparedCase], voxels: Mapping[int, int]) -> tuple[int, ...]:
        """See ``Learning.patch``; of a bag of slices, ``voxels`` are those of one of them."""
        cap = voxels[self.ndim if self.bag is None else 2]
        return _sizes.view_size(self._shape(cases), cap, self.ndim, self.bag)

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Pictures that the class of a case takes."""
        return 1 if self.axis is None else case.shape[1 + self.axis]

    def _shape(self, cases: Sequence[PreparedCase]) -> list[int]:
        """Median shape of what is classified: of slices, where the feed takes slices."""
        shapes = [[n for a, n in enumerate(case.shape[1:]) if a != self.axis] for case in cases]
        return [sorted(column)[len(column) // 2] for column in zip(*shapes, strict=True)]

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> ClassFeed:
        """Whole pictures with their classes."""
        mirror = _sizes.mirror_axes(self.schema, self.preparation)
        stack = self.preparation.slice_axis
        if self.ndim == 3 and stack is not None:  # axes of a slice, as axes of the stack
            plane = [a for a in range(3) if a != stack]
            mirror = tuple(plane[a] for a in mirror)
        across = None if self.ndim == 2 else stack if self.bag is None else self.bag
        return ClassFeed(
            cases, self.chosen, self.question.pictures, tuple(self.outputs), self.axis,
            candidate.patch, candidate.batch, mirror, across, unlabelled,
        )  # fmt: skip

    def document(self, feed: ClassFeed) -> dict[str, Any]:
        """Shape of the network's input, as its predictions need it."""
        return {
            "input": _patches.input_document(self.channels, feed, self.axis),
            "output": {"map": LOGITS, "names": list(self.outputs)},
        }

    def validate(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, float]:
        """Cross-entropy and balanced accuracy of validation pictures; see ``Learning.validate``."""
        logits, truth, _ = self._judge(network, cases, feed, device, tick)
        if not len(truth):
            return {}
        shifted = logits - logits.max(1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        right = logits.argmax(1) == truth
        recalls = [right[truth == k].mean() for k in np.unique(truth)]
        return {
            "val_loss": float(-log_p[np.arange(len(truth)), truth].mean()),
            "val_balanced_accuracy": float(np.mean(recalls)),
        }

    def select(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, Any]:
        """The part of the model file that is chosen on validation cases: the temperature."""
        from delineate.metrics.calibration import fit_temperature

        logits, truth, subjects = self._judge(network, cases, feed, device, tick)
        try:
            if len(set(subjects)) < _CALIBRATE:  # slices of one subject are not independent
                raise InputError(f"expected {_CALIBRATE} subjects, got {len(set(subjects))}")
            temperature = fit_temperature(logits, truth)
            reason = f"fitted on {len(truth)} pictures of {len(set(subjects))} validation subjects"
        except InputError as error:
            temperature, reason = 1.0, f"left alone: {error.message}"
        return {
            "classes": {
                "names": self.outputs,
                "target": self.question.name,
                "temperature": temperature,
                "temperature_because": reason,
            },
            "postprocess": {},
        }

    def _judge(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None,
    ) -> tuple[Any, Any, list[str]]:
        """Logits ``(N, K)``, classes ``(N,)`` and subjects of all pictures of some cases."""
        logits, truth, subjects = [], [], []
        infer = classifier(network, device)
        for case in cases:
            if tick is not None:
                tick(1, 1)
            known = self.question.pictures(case, self.axis, self.outputs)
            if not known:
                continue
            places = [place for place, _ in known]
            outputs = classes.predict_slices(infer, case.image, self.axis, places, feed.patch)
            logits.append(outputs[LOGITS])
            truth += [class_index for _, class_index in known]
            subjects += [case.subject] * len(known)
        if not logits:
            return np.zeros((0, len(self.outputs))), np.zeros(0, int), []
        return np.concatenate(logits), np.array(truth), subjects


def _dimensions(chosen: RunConfig, volumes: bool, of_slices: bool) -> int:
    """How many dimensions a classifier is to see: 2, unless 3 are asked for or it knows no others.

    Raises:
        ConfigError: A network for volumes, but flat images, or a question about single slices.
    """
    module = catalog.load("networks", chosen.network)
    if module.KIND != "classifier":  # another error, told where the network is built
        return 2
    if chosen.network_settings.get("ndim") != 3 and catalog.supports_ndim(module, 2):
        return 2
    if not volumes:
        raise ConfigError(
            f"expected volumes or stacks of slices for the 3D network {chosen.network!r}, "
            "got flat images",
            where="network",
            fix="choose a network for flat images, for instance cnn; see `delineate networks`",
            code="network-3d",
        )
    if of_slices:
        raise ConfigError(
            "expected a 2D network where the presence of a structure in each slice is learned, "
            f"got {chosen.network!r}, which sees all slices at once",
            where="network",
            fix="choose a network for flat images, for instance cnn, or --target class",
            code="network-3d",
        )
    return 3


def _sees_slices(network: str) -> bool:
    """Whether a network takes a volume apart into slices, by having a setting for the axis."""
    fields = dataclasses.fields(catalog.load("networks", network).Config)
    return any(field.name == "axis" for field in fields)
