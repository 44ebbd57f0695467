"""From a name, settings, a file or data to the target that is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from delineate.core import catalog, model_output
from delineate.core import config as settings
from delineate.core.errors import ConfigError, InputError
from delineate.core.progress import QUIET, Progress, Say, silent
from delineate.data.layouts._listing import load_json
from delineate.data.outputs import INDEX
from delineate.scoring.options import Options

if TYPE_CHECKING:
    from delineate.data.cohort import Cohort
    from delineate.data.opening import Opening
    from delineate.reports._run_folder import Results, RunFolder
    from delineate.settings import RunConfig
    from delineate.targets import Target


def make(name: str, values: Mapping[str, Any] | None = None) -> Target:
    """A target by its name.

    Args:
        name: Of a file of this room.
        values: Its own settings.

    Raises:
        ConfigError: No such target, or a setting that it does not know.
    """
    module = catalog.load("targets", name)
    config = settings.from_dict(values or {}, module.Config, "target_settings")
    return cast("Target", module.build(config))


def of(chosen: RunConfig) -> Target:
    """The target that the settings of a run name."""
    return make(chosen.target, chosen.target_settings)


def stored(document: Mapping[str, Any]) -> Target:
    """The target that a model file or ``predictions.json`` names.

    Args:
        document: See ``core.model_output.target``.
    """
    entry = model_output.target(document)
    return make(catalog.stored_name("targets", entry), entry["config"])


def of_predictions(path: Path) -> Target:
    """The target of predictions; those of other tools are outlines."""
    return stored((load_json(path / INDEX) if path.is_dir() else None) or {})


def of_summary(summary: Mapping[str, Any]) -> Target:
    """The target whose scores a ``summary.json`` holds; of an empty one outlines.

    Raises:
        InputError: None that is known here writes such scores.
    """
    names = [*catalog.within("targets"), *catalog.own("targets")]
    by_format = {candidate.format: candidate for candidate in map(make, names)}
    expected_format = summary.get("format", make("outline").format)
    if expected_format not in by_format:
        raise InputError(
            f"expected scores of a target that is known here, got {expected_format!r}",
            fix="name the file of the target that they are of",
            code="scores-unknown",
        )
    return by_format[expected_format]


def score_predictions(
    predictions: Path,
    labels: Path,
    out: Path,
    opening: Opening,
    options: Options | None = None,
    *,
    say: Say = silent,
    progress: Progress = QUIET,
) -> dict[str, Any]:
    """Score predictions as their target wants it; see ``Target.score``."""
    target = of_predictions(predictions)
    return target.score(predictions, labels, out, opening, options or Options(), say, progress)


def results(folder: RunFolder) -> Results:
    """What the report of a run shows of its scores; see ``Target.results``."""
    return of_summary(folder.summary).results(folder)


def asked_by(opening: Opening) -> dict[str, str]:
    """Targets that the way data are opened asks for, and what of it does, in words."""
    names = catalog.within("targets")
    return {name: words for name in names if (words := make(name).asked_by(opening))}


def possible(chosen: RunConfig) -> list[str]:
    """Names of the targets that a run may turn out to have, the likeliest first.

    Raises:
        ConfigError: The way the data are opened asks for another one than is named.
    """
    asked = asked_by(chosen.opening)
    for name, words in asked.items():
        if chosen.target not in ("auto", *asked):
            raise ConfigError(
                f"expected --target {name} beside a {words}, got {chosen.target}",
                fix="leave out one of the two",
            )
    if chosen.target != "auto":
        return [chosen.target]
    ranks = {
        name: rank
        for name in catalog.within("targets")
        if (rank := make(name).automatic) is not None
    }
    return list(asked) or sorted(ranks, key=lambda name: ranks[name])


def with_own(options: Mapping[str, Any], base: RunConfig) -> dict[str, Any]:
    """Options of which some are settings of one target alone, as settings of a run.

    Args:
        options: Options by name.
        base: What they are put upon.

    Raises:
        ConfigError: Another target is named beside them.
    """
    wins, known = dict(options), {field.name for field in dataclasses.fields(base)}
    own = {name: wins.pop(name) for name in options if name not in known}
    if not own:
        return wins
    (asked, *_) = (
        name
        for name in catalog.within("targets")
        if own.keys() <= {f.name for f in dataclasses.fields(catalog.load("targets", name).Config)}
    )
    if (target := wins.get("target", base.target)) not in ("auto", asked):
        options_in_words = " and ".join(f"--{name.replace('_', '-')}" for name in own)
        raise ConfigError(
            f"expected --target {asked} beside {options_in_words}, got {target}",
            fix="leave out one of the two",
            code="setting-target",
        )
    return {**wins, "target": asked, "target_settings": {**base.target_settings, **own}}


def choose(chosen: RunConfig, cohort: Cohort) -> str:
    """The name of the target of a run: as asked, or as suits the data."""
    names = possible(chosen)
    return next((name for name in names if make(name).suits(cohort)), names[0])


def require_own_settings(chosen: RunConfig) -> None:
    """Refuse settings that only mean something for another target.

    Raises:
        ConfigError: There are such.
    """
    usual, own = type(chosen)(), of(chosen).settings
    owners: dict[str, list[str]] = {}
    for name in catalog.within("targets"):
        for setting in make(name).settings:
            owners.setdefault(setting, []).append(name)
    lost = [
        name
        for name in owners
        if name not in own
        and (value := getattr(chosen, name)) != (default := getattr(usual, name))
        and (value or default)  # nothing, written out
    ]
    if lost:
        others = " and ".join(dict.fromkeys(owner for name in lost for owner in owners[name]))
        raise ConfigError(
            f"expected settings that mean something where the target is {chosen.target}, "
            f"got {', '.join(lost)}: for {others} alone",
            where=lost[0],
            fix=f"leave out {' and '.join(lost)}, or choose another target",
            code="setting-target",
        )
