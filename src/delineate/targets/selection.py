"""What a model is to give, outlines or classes: which, from which cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.progress import Say, silent
from delineate.data.cache import PreparedCase
from delineate.data.cohort import Cohort
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets.classes import Classes
from delineate.targets.outline import Outlines

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


def of(
    target: str, chosen: RunConfig, cohort: Cohort, preparation: Preparation
) -> Outlines | Classes:
    """What stands for a target."""
    return (Outlines if target == "outline" else Classes)(chosen, cohort, preparation)
