"""A model that is to outline: what there is to learn from, to plan with and to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from delineate.core.errors import InputError
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate
from delineate.inference.sliding_window import OVERLAP, Tick, window_starts
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets import sizes
from delineate.targets._cleanup import choose_rules
from delineate.targets._outline_feed import Feed, mean_dice, outline


class Outlines:
    """A segmenter: a label for every voxel."""

    kind = "segmenter"
    #: Settings of a network that follow from the data.
    derived: Mapping[str, Any] = {}

    def __init__(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> None:
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.outputs = ["background", *(label.name for label in cohort.schema.labels)]
        self.ndim = preparation.ndim
        planned = enumerate(preparation.spacing_mm or ())
        self.spacing_mm = tuple(mm or 1.0 for a, mm in planned if a != preparation.slice_axis)
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
        shape = sizes.median_shape([case.shape[1:] for case in cases], self.preparation)
        chosen = self.chosen
        return sizes.candidates(
            shape, self.ndim, width=chosen.width, patch=chosen.patch, batch=chosen.batch
        )

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        shape = sizes.median_shape([case.shape[1:] for case in cases], self.preparation)
        chosen = self.chosen
        return sizes.smaller(first, shape, self.ndim, patch=chosen.patch, batch=chosen.batch)

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Patches that an outline of a case takes."""
        axis, shape = self.preparation.slice_axis, list(case.shape[1:])
        many = 1 if axis is None else shape.pop(axis)
        for n, size in zip(shape, patch, strict=True):
            many *= len(window_starts(n, size, OVERLAP))
        return many

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> Feed:
        """Patches with their labels."""
        mirror = sizes.mirror_axes(self.schema, self.preparation)
        return Feed(
            cases, self.chosen, self.preparation, candidate.patch, candidate.batch, mirror,
            self.neighbours, unlabelled,
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
