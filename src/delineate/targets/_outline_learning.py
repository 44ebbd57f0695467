"""Outlines as one run learns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from delineate.core.model_output import PROBABILITIES
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.engine.budget import Candidate
from delineate.inference.sliding_window import Tick
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets import _patches, _sizes
from delineate.targets._cleanup import choose_rules, harmless, least_volumes
from delineate.targets._outline_feed import Feed, mean_dice, outline


class LearningOutlines:
    """Outlines as one run learns them; see ``delineate.targets.Learning``."""

    whole = False
    #: Settings of a network that follow from the data.
    derived: Mapping[str, Any] = {}

    def __init__(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> None:
        self.chosen, self.schema, self.preparation = chosen, cohort.schema, preparation
        self.channels = tuple(preparation.outputs)
        self.outputs = ["background", *(label.name for label in cohort.schema.labels)]
        self.ndim = preparation.ndim
        self.spacing_mm = _patches.spacing_mm(preparation)
        self.neighbours = _patches.neighbours(chosen, preparation)

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""
        return _patches.candidates(self.chosen, self.preparation, cases)

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""
        return _patches.smaller(first, self.chosen, self.preparation, cases)

    def patch(self, cases: Sequence[PreparedCase], voxels: Mapping[int, int]) -> tuple[int, ...]:
        """See ``Learning.patch``."""
        shape = _patches.shape(self.preparation, cases)
        return _sizes.patch_size(shape, voxels[self.ndim], self.ndim, self.spacing_mm)

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Patches that an outline of a case takes."""
        return _patches.windows(case, patch, self.preparation.slice_axis)

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> Feed:
        """Patches with their labels."""
        mirror = _sizes.mirror_axes(self.schema, self.preparation)
        return Feed(
            cases, self.chosen, self.preparation, candidate.patch, candidate.batch, mirror,
            self.neighbours, unlabelled,
        )  # fmt: skip

    def document(self, feed: Feed) -> dict[str, Any]:
        """Shape of the network's input, as its predictions need it."""
        return {
            "input": _patches.input_document(
                self.channels, feed, self.preparation.slice_axis, feed.neighbours
            ),
            "output": {"map": PROBABILITIES, "names": list(self.outputs)},
        }

    def validate(
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
        defined = [dice for dice in dices if not np.isnan(dice)]  # else nobody drew or guessed any
        return {"val_dice": float(np.mean(defined))} if defined else {}

    def select(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, Any]:
        """The part of the model file that is chosen on validation cases: the clean-up."""
        guesses = [outline(network, case, feed, len(self.outputs), device, tick) for case in cases]
        rules = choose_rules(guesses, [np.asarray(case.label) for case in cases], self.schema)
        least = least_volumes(feed.cases, self.schema)
        return {
            "postprocess": {
                **rules,
                "least_volume": harmless(least, guesses, cases, self.schema, rules["keep_largest"]),
                **({"crf": {}} if self.chosen.crf else {}),
            },
        }
