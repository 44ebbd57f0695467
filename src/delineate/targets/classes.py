"""A model that is to name classes: what there is to learn from, to plan with and to choose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from delineate.core import catalog
from delineate.core.errors import ConfigError, InputError
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate
from delineate.inference import classes
from delineate.inference.runtimes import LOGITS
from delineate.inference.runtimes.torch import classifier
from delineate.inference.sliding_window import Tick
from delineate.preprocess import views
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets import _class_feed, sizes
from delineate.targets._class_feed import ClassFeed
from delineate.targets.outline import Outlines

#: Validation subjects below which a temperature would be a guess.
_CALIBRATE = 8


class Classes:
    """A classifier: a class for every image, case or slice."""

    kind = "classifier"
    neighbours = 0
    #: Of pictures, which are resized each by its own factor: not known.
    spacing_mm: tuple[float, ...] = ()

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
            if case.class_name is not None:
                subjects.setdefault(case.class_name, set()).add(case.subject)
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
        return cohort.subset([case.id for case in cohort.cases if case.class_name is not None])

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        chosen = self.chosen
        return sizes.candidates(
            self.shape(cases), self.ndim, width=chosen.width, patch=chosen.patch,
            batch=chosen.batch, whole=True, bag=self.bag,
        )  # fmt: skip

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        chosen = self.chosen
        return sizes.smaller(
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

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> ClassFeed:
        """Whole pictures with their classes."""
        mirror = sizes.mirror_axes(self.schema, self.preparation)
        stack = self.preparation.slice_axis
        if self.ndim == 3 and stack is not None:  # axes of a slice, as axes of the stack
            plane = [a for a in range(3) if a != stack]
            mirror = tuple(plane[a] for a in mirror)
        across = None if self.ndim == 2 else stack if self.bag is None else self.bag
        return ClassFeed(
            cases, self.chosen, self.target, tuple(self.outputs), self.axis, candidate.patch,
            candidate.batch, mirror, across, unlabelled,
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
        infer = classifier(network, device)
        for case in cases:
            if tick is not None:
                tick(1, 1)
            known = _class_feed.pictures(case, self.axis, self.target, self.outputs)
            if not known:
                continue
            some = [place for place, _ in known]
            found = classes.answers(infer, case.image, self.axis, some, feed.patch)
            logits.append(found[LOGITS])
            truth += [class_index for _, class_index in known]
            subjects += [case.subject] * len(known)
        if not logits:
            return np.zeros((0, len(self.outputs))), np.zeros(0, int), []
        return np.concatenate(logits), np.array(truth), subjects


def _dimensions(chosen: RunConfig, volumes: bool) -> int:
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
