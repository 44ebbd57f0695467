"""What a model is to give: outlines, or classes. Everything that differs between the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import nn

from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.errors import ConfigError, InputError
from delineate.core.progress import Say, silent
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate
from delineate.inference import classes
from delineate.inference.sliding_window import OVERLAP, Tick, window_starts
from delineate.preprocess import views
from delineate.preprocess.presets import Preparation
from delineate.tasks import _class_feed, _planning
from delineate.tasks._class_feed import ClassFeed
from delineate.tasks._cleanup import choose_rules
from delineate.tasks._feed import Feed, mean_dice, outline
from delineate.tasks._settings import RunConfig

#: Validation subjects below which a temperature would be a guess.
_CALIBRATE = 8
#: Cases left out that are told by name.
_NAMED = 8


class AnyFeed(Protocol):
    """A source of batches that also knows the shape of what it gives."""

    @property
    def patch(self) -> tuple[int, ...]:
        """Spatial size."""

    @property
    def cases(self) -> Sequence[PreparedCase]:
        """What it draws from."""

    def __call__(self, step: int, micro: int, split: int) -> Batch:
        """See ``delineate.engine.loop.Batches``."""


class Outlines:
    """A segmenter: a label for every voxel."""

    kind = "segmenter"
    #: Settings of a network that follow from the data.
    derived: Mapping[str, Any] = {}

    def __init__(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> None:
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.outputs = ["background", *(label.name for label in cohort.schema.labels)]
        self.ndim = preparation.ndim
        self.neighbours = 0
        if self.ndim == 2 and preparation.slice_axis is not None:
            usual = 0 if preparation.single_slices else 1
            self.neighbours = usual if chosen.neighbours is None else chosen.neighbours

    @staticmethod
    def usable(cohort: Cohort) -> Cohort:
        """The cases that can be learned from and judged.

        Raises:
            InputError: There is none.
        """
        found = cohort.labelled()
        if not found.cases:
            raise InputError(
                "expected label maps beside the scans, got none",
                where=cohort.root,
                fix="add label maps, or name them in a table with the columns image and label",
                code="no-labels",
            )
        return found

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        shape = _planning.median_shape([case.shape[1:] for case in cases], self.preparation)
        chosen = self.chosen
        return _planning.candidates(
            shape, self.ndim, width=chosen.width, patch=chosen.patch, batch=chosen.batch
        )

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        shape = _planning.median_shape([case.shape[1:] for case in cases], self.preparation)
        chosen = self.chosen
        return _planning.smaller(first, shape, self.ndim, patch=chosen.patch, batch=chosen.batch)

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Patches that an outline of a case takes."""
        axis, shape = self.preparation.slice_axis, list(case.shape[1:])
        many = 1 if axis is None else shape.pop(axis)
        for n, size in zip(shape, patch, strict=True):
            many *= len(window_starts(n, size, OVERLAP))
        return many

    def feed(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> Feed:
        """Patches with their labels."""
        mirror = _planning.mirror_axes(self.schema, self.preparation)
        return Feed(
            cases, self.chosen, self.preparation, candidate.patch, candidate.batch, mirror,
            self.neighbours,
        )  # fmt: skip

    def look(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, float]:
        """Mean Dice of validation cases; ``tick`` is called after each window, and may raise."""
        dices = [
            mean_dice(
                outline(network, case, feed, len(self.outputs), device, tick),
                np.asarray(case.label),
                self.schema,
            )
            for case in cases
        ]
        seen = [dice for dice in dices if not np.isnan(dice)]  # else nobody drew or guessed any
        return {"val_dice": float(np.mean(seen))} if seen else {}

    def settle(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, Any]:
        """The part of the model file that is chosen on validation cases: the clean-up."""
        guesses = [outline(network, case, feed, len(self.outputs), device, tick) for case in cases]
        truths = [np.asarray(case.label) for case in cases]
        return {
            "input": {
                "channels": list(self.preparation.outputs),
                "patch": list(feed.patch),
                "slice_axis": self.preparation.slice_axis,
                "neighbours": feed.neighbours,
                "mirror_axes": list(feed.mirror_axes),
            },
            "postprocess": {
                **choose_rules(guesses, truths, self.schema),
                **({"crf": {}} if self.chosen.crf else {}),
            },
        }


class Classes:
    """A classifier: a class for every image, case or slice."""

    kind = "classifier"
    neighbours = 0

    def __init__(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> None:
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.target = "presence" if chosen.target == "presence" else "class"
        self.outputs = list(_class_feed.class_names(self.target, cohort.schema.classes))
        volumes = preparation.ndim == 3 or preparation.slice_axis is not None
        self.ndim = _dimensions(chosen, volumes)
        slices = views.slice_axis((0,) * (3 if volumes else 2), 2, preparation.slice_axis)
        #: Along which the feed takes slices, each a picture; None where it shows all of the image.
        self.axis = slices if self.ndim == 2 else None
        #: Along which the network itself takes slices of the volume that it sees.
        bag = chosen.network_settings.get("axis", slices)
        self.bag = bag if self.ndim == 3 and _sees_slices(chosen.network) else None
        self.derived = {"axis": slices}

    @staticmethod
    def usable(cohort: Cohort, target: str) -> Cohort:
        """The cases that can be learned from and judged.

        Raises:
            InputError: No case has a class, or all have the same one, or one has a single subject.
        """
        if target == "presence":
            return Outlines.usable(cohort)
        subjects: dict[str, set[str]] = {}
        for case in cohort.cases:
            if case.klass is not None:
                subjects.setdefault(case.klass, set()).add(case.subject)
        shown = ", ".join(f"{name} ({len(who)})" for name, who in sorted(subjects.items()))
        if len(subjects) < 2:
            raise InputError(
                f"expected at least two classes, got {shown or 'none'}",
                where=cohort.root,
                fix="put images of each class into a folder of its own, "
                "or name classes in a table with the columns image and class",
                code="classes-too-few",
            )
        lonely = [name for name, who in sorted(subjects.items()) if len(who) < 2]
        if lonely:
            raise InputError(
                f"expected at least two subjects of every class, one to learn from and one to "
                f"judge, got {shown}",
                where=cohort.root,
                fix=f"add subjects, or leave the cases of {', '.join(lonely)} out: --exclude FILE, "
                "one id a line",
                code="class-lonely",
            )
        return cohort.subset([case.id for case in cohort.cases if case.klass is not None])

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        chosen = self.chosen
        return _planning.candidates(
            self.shape(cases), self.ndim, width=chosen.width, patch=chosen.patch,
            batch=chosen.batch, whole=True, bag=self.bag,
        )  # fmt: skip

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        chosen = self.chosen
        return _planning.smaller(
            first, self.shape(cases), self.ndim, patch=chosen.patch, batch=chosen.batch,
            bag=self.bag,
        )  # fmt: skip

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Pictures that the class of a case takes."""
        return 1 if self.axis is None else case.shape[1 + self.axis]

    def shape(self, cases: Sequence[PreparedCase]) -> list[int]:
        """Median shape of what is classified: of slices, where the feed takes slices."""
        seen = [[n for a, n in enumerate(case.shape[1:]) if a != self.axis] for case in cases]
        return [sorted(column)[len(column) // 2] for column in zip(*seen, strict=True)]

    def feed(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> ClassFeed:
        """Whole pictures with their classes."""
        mirror = _planning.mirror_axes(self.schema, self.preparation)
        stack = self.preparation.slice_axis
        if self.ndim == 3 and stack is not None:  # axes of a slice, as axes of the stack
            plane = [a for a in range(3) if a != stack]
            mirror = tuple(plane[a] for a in mirror)
        across = None if self.ndim == 2 else stack if self.bag is None else self.bag
        return ClassFeed(
            cases, self.chosen, self.target, tuple(self.outputs), self.axis, candidate.patch,
            candidate.batch, mirror, across,
        )  # fmt: skip

    def look(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, float]:
        """Cross-entropy and balanced accuracy of validation pictures; see ``Outlines.look``."""
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

    def settle(
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
            why = f"fitted on {len(truth)} pictures of {len(set(subjects))} validation subjects"
        except InputError as error:
            temperature, why = 1.0, f"left alone: {error.message}"
        return {
            "input": {
                "channels": list(self.preparation.outputs),
                "patch": list(feed.patch),
                "slice_axis": self.axis,
                "neighbours": 0,
                "mirror_axes": list(feed.mirror_axes),
            },
            "classes": {
                "names": self.outputs,
                "target": self.target,
                "temperature": temperature,
                "temperature_because": why,
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
        for case in cases:
            if tick is not None:
                tick(1, 1)
            known = _class_feed.pictures(case, self.axis, self.target, self.outputs)
            if not known:
                continue
            some = [place for place, _ in known]
            logits.append(classes.logits(network, case.image, self.axis, some, feed.patch, device))
            truth += [klass for _, klass in known]
            subjects += [case.subject] * len(known)
        if not logits:
            return np.zeros((0, len(self.outputs))), np.zeros(0, int), []
        return np.concatenate(logits), np.array(truth), subjects


def complete(chosen: RunConfig, cohort: Cohort) -> RunConfig:
    """Settings with the target, and with the method that goes with it, where they were left open.

    A network that is left open stays so where weights will tell which it is.
    """
    target, method, network = chosen.target, chosen.method, chosen.network
    if chosen.opening.class_column is not None:
        target = "class"
    if target == "auto":
        classed = not cohort.labelled().cases and bool(cohort.schema.classes)
        target = "class" if classed else "outline"
    if method == "auto":
        method = "supervised" if target == "outline" else "classify"
    if network == "auto" and chosen.weights is None:
        kind = "segmenter" if target == "outline" else "classifier"
        own = getattr(catalog.load("methods", method), "NETWORKS", {})  # some train only these
        network = own.get(kind, "unet" if target == "outline" else "cnn")
    _require_own(chosen, target)
    return dataclasses.replace(chosen, target=target, method=method, network=network)


def _require_own(chosen: RunConfig, target: str) -> None:
    """Refuse settings that only mean something for another target.

    Raises:
        ConfigError: There are such.
    """
    usual = RunConfig()
    of_outlines = {
        "crf": chosen.crf,
        "neighbours": bool(chosen.neighbours),
        "foreground": chosen.foreground != usual.foreground,
    }
    of_classes = {"balance": chosen.balance != usual.balance}
    lost = [name for name, given in (of_classes if target == "outline" else of_outlines).items()
            if given]  # fmt: skip
    if lost:
        other = "classes" if target == "outline" else "outlines"
        raise ConfigError(
            f"expected settings that mean something where the target is {target}, "
            f"got {', '.join(lost)}: of {other} alone",
            where=lost[0],
            fix=f"leave out {' and '.join(lost)}, or choose another target",
            code="setting-target",
        )


def usable(target: str, cohort: Cohort, say: Say = silent) -> Cohort:
    """The cases that a target can be learned from, the others being left out, and told.

    Raises:
        InputError: See ``Outlines.usable`` and ``Classes.usable``.
    """
    found = Outlines.usable(cohort) if target == "outline" else Classes.usable(cohort, target)
    kept = {case.id for case in found.cases}
    if lost := [case.id for case in cohort.cases if case.id not in kept]:
        lacking = "class" if target == "class" else "label map"
        shown = ", ".join(lost[:_NAMED]) + (" …" if len(lost) > _NAMED else "")
        say(f"{len(lost)} of {len(cohort)} cases left out for want of a {lacking}: {shown}")
    return found


def _dimensions(chosen: RunConfig, volumes: bool) -> int:
    """How many dimensions a classifier is to see: 2, unless 3 are asked for or it knows no others.

    Raises:
        ConfigError: A network for volumes, but flat images, or a question about single slices.
    """
    module = catalog.load("networks", chosen.network)
    if module.KIND != "classifier":  # another error, told where the network is built
        return 2
    if chosen.network_settings.get("ndim") != 3 and catalog.takes(module, 2):
        return 2
    if not volumes:
        raise ConfigError(
            f"expected volumes or stacks of slices for the 3D network {chosen.network!r}, "
            "got flat images",
            where="network",
            fix="choose a network for flat images, for instance cnn; see `delineate networks`",
            code="network-3d",
        )
    if chosen.target == "presence":
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


def of(
    target: str, chosen: RunConfig, cohort: Cohort, preparation: Preparation
) -> Outlines | Classes:
    """What stands for a target."""
    return (Outlines if target == "outline" else Classes)(chosen, cohort, preparation)
