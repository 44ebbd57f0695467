"""From what was asked to settings in which nothing is left open, and what is told before any work.

A run writes both: ``asked.yaml``, by which the same command knows its own folder again, and
``config.yaml``, the settings of the run to the last field. Given to another run, the latter trains
the same model; on a CPU with fixed steps to the bit. A run on a budget paces its learning rate by
the clock, which never ticks alike: its ``config.yaml`` does the same plan by its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from delineate import targets
from delineate.core import catalog
from delineate.core import config as settings
from delineate.core._yaml import Key
from delineate.core.config import Document
from delineate.core.errors import ConfigError
from delineate.core.progress import Say, silent
from delineate.data.cohort import Cohort
from delineate.data.opening import Opening
from delineate.engine.budget import Candidate, last_steps
from delineate.settings import RunConfig
from delineate.targets import Target, _sizes
from delineate.training import initial_weights, splitting

if TYPE_CHECKING:
    from delineate.training.trial import Bench

#: Sides of patches for which the settings of a network are tried before the data say which.
_SIDES = (64, 128, 32, 16, 256, 8)


# --- what was asked -------------------------------------------------------------------------------


def read(
    path: Path | None, options: Mapping[str, Any], opening: Opening, say: Say = silent
) -> tuple[RunConfig, Document]:
    """Settings of the file, then the options that were given, and where the file says what.

    Args:
        path: A YAML file, or None.
        options: Options by name, None where they were left out.
        opening: How the folder is to be opened, as options.
        say: Told what of the file an option puts aside.

    Raises:
        ConfigError: Unknown keys or wrong values, with file and line; a budget beside steps.
    """
    document = settings.read(Path(path)) if path else Document()
    base = document.make(RunConfig)
    overrides = targets.with_own({k: v for k, v in options.items() if v is not None}, base)
    for part in overrides.keys() & {"target", "method", "network"}:
        overrides[part] = catalog.named(overrides[part])
    if "budget" in overrides and "steps" in overrides:
        raise ConfigError(
            f"expected a budget or a number of steps, got {overrides['budget']} and "
            f"{overrides['steps']}",
            fix="leave out --budget, or --steps",
            code="budget-and-steps",
        )
    if "budget" in overrides:
        overrides["steps"] = None
    if overrides.get("weights") == Path("none"):
        overrides["weights"] = None
    target = overrides.get("target", base.target)
    if "auto" not in (target, base.target) and target != base.target:
        raise document.error(
            ("target",),
            f"expected settings for the target {target}, got those for {base.target}",
            "target-differs",
            "leave out --target, or give settings of a run with that target",
        )
    for part in ("method", "network"):
        before, now = getattr(base, part), overrides.get(part, getattr(base, part))
        part_settings = getattr(base, f"{part}_settings")
        if part_settings and before != "auto" and now != before:
            overrides[f"{part}_settings"] = {}
            say(f"{document.at((f'{part}_settings',))}: {part}_settings of {before} are left out")
    width = base.network_settings.get("width") if "network_settings" not in overrides else None
    if base.width is None and isinstance(width, int) and width > 0:
        overrides["width"] = width  # said of the network alone, it is meant for the plan
    opening_values = {**dict(base.opening.non_default()), **dict(opening.non_default())}
    return dataclasses.replace(base, **overrides, opening=Opening(**opening_values)), document


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a document says the settings of a run.

    Args:
        document: As read.
        keys: Key of a setting, where that is not its name alone.
    """

    document: Document = dataclasses.field(default_factory=Document)
    keys: Mapping[str, Key] = dataclasses.field(default_factory=dict)

    def key(self, name: str) -> Key:
        """Of a setting."""
        return self.keys.get(name, (name,))

    def error(self, name: str, value: Any, message: str, fix: str | None, code: str) -> ConfigError:
        """An error about a setting, with file and line where the document says it."""
        documented = self.document.get(self.key(name))
        if isinstance(documented, str) and self.document.folder is not None:
            documented = catalog.named(documented, self.document.folder)
        if documented == value:
            return self.document.error(self.key(name), message, code, fix)
        return ConfigError(message, where=name, fix=fix, code=code)

    def member(self, room: str, name: str) -> ModuleType:
        """The method or network that is meant."""
        try:
            return catalog.load(room, name)
        except ConfigError as error:
            if catalog.in_file(error):
                raise
            part = room.removesuffix("s")
            raise self.error(part, name, error.message, error.fix, error.code) from error


def check(chosen: RunConfig, place: Place, weights: Mapping[str, Any] | None = None) -> None:
    """Refuse methods, networks and settings of theirs that there are not, before data are opened.

    Where the target is open, settings that suit one of those that it may be will do.

    Args:
        chosen: As asked.
        place: Where it says so.
        weights: Document of the model file to start from, which may name the network.

    Raises:
        ConfigError: With file, line, key and the nearest name.
    """
    if chosen.target != "auto":
        place.member("targets", chosen.target)
    faults: list[ConfigError] = []
    for target in targets.possible(chosen):
        config = place.member("targets", target).Config
        try:
            place.document.make(config, place.key("target_settings"), chosen.target_settings)
            _check(chosen, targets.make(target, chosen.target_settings), place, weights)
        except ConfigError as error:
            faults.append(error)
        else:
            return
    kind = ("method-target", "network-kind")  # they say less than a misspelt name
    raise next((fault for fault in faults if fault.code not in kind), faults[0])


def _check(
    chosen: RunConfig, target: Target, place: Place, weights: Mapping[str, Any] | None
) -> None:
    """The same for one target."""
    name = target.method if chosen.method == "auto" else chosen.method
    if chosen.method == "auto" and name not in catalog.members("methods"):
        raise ConfigError(
            f"expected the method {name!r}, by which {catalog.title(chosen.target)} is learned, "
            "got none of that name",
            where="method",
            fix=f"name its file: --method PATH/{name}.py",
            code="method-needed",
        )
    method = place.member("methods", name)
    if target.trains not in method.TRAINS:
        raise place.error(
            "method", name, f"expected a method that trains a {target.trains}, got {name!r}",
            "choose another method, or leave it out", "method-target",
        )  # fmt: skip
    place.document.make(method.Config, place.key("method_settings"), chosen.method_settings)
    own = getattr(method, "NETWORKS", {}).get(target.trains)  # such a method trains no other
    name = chosen.network
    if name == "auto":
        entry = (weights or {}).get("network")
        named = catalog.stored_name("networks", entry) if entry else None
        name = named or own or target.network
    network = place.member("networks", name)
    if target.kind != network.KIND:
        raise place.error(
            "network", name, f"expected a {target.kind}, got {name!r}, a {network.KIND}",
            "choose another network, see `delineate networks`", "network-kind",
        )  # fmt: skip
    if own not in (None, name):
        raise place.error(
            "network", name,
            f"expected {own!r}, the network of the method {chosen.method}, got {name!r}",
            f"choose {own}, or another method", "method-network",
        )  # fmt: skip
    _check_network(network, chosen, place)


def complete(chosen: RunConfig, cohort: Cohort) -> RunConfig:
    """Settings with the target, what goes with it and the split's shares, where left open.

    A network that is left open stays so where weights will tell which it is.

    Raises:
        ConfigError: Settings that only mean something for another target.
    """
    name = targets.choose(chosen, cohort)
    target = targets.make(name, chosen.target_settings)
    method, network = chosen.method, chosen.network
    method = target.method if method == "auto" else method
    if network == "auto" and chosen.named_weights is None:
        own = getattr(catalog.load("methods", method), "NETWORKS", {})  # some train only these
        network = own.get(target.trains, target.network)
    chosen = dataclasses.replace(chosen, target=name, method=method, network=network)
    targets.require_own_settings(chosen)
    return splitting.with_shares(chosen, cohort)


def _check_network(network: ModuleType, chosen: RunConfig, place: Place) -> None:
    """Try the settings of a network with what a patch of some size would derive."""
    faults, own = list[ConfigError](), chosen.network_settings
    for ndim in (3, 2):
        patches: list[tuple[int, ...]] = [(side,) * ndim for side in _SIDES]
        if chosen.patch is not None and len(chosen.patch) == ndim:
            patches = [chosen.patch]
        for patch in patches:
            values = derived(network, patch, ndim, chosen.width or 16, network_settings=own)
            values |= own
            try:
                place.document.make(network.Config, place.key("network_settings"), values)
            except ConfigError as error:
                if error.code in ("config-unknown-key", "config-type"):
                    raise
                faults.append(error)
            else:
                return
    raise faults[0]


def derived(
    network: ModuleType,
    patch: Sequence[int],
    ndim: int,
    width: int,
    features: int = 1,
    spacing_mm: Sequence[float] = (),
    network_settings: Iterable[str] = (),
) -> dict[str, Any]:
    """What of a network's settings follows from the plan, where nobody gives it.

    Args:
        network: Its file.
        patch: Spatial size.
        ndim: That it sees.
        width: Channels at full resolution.
        features: Structures of the schema.
        spacing_mm: Of the axes that it sees; () where it is not known.
        network_settings: Those that somebody gives; one of levels, strides or kernels settles all.
    """
    names = {f.name for f in dataclasses.fields(network.Config)}
    levels, axes = _sizes.levels(patch, ndim), dict[str, Any]()
    if "strides" in names and not {"levels", "strides", "kernels"}.intersection(network_settings):
        strides, kernels = _sizes.strides_and_kernels(patch, spacing_mm)
        axes, levels = {"strides": strides, "kernels": kernels}, len(kernels) or levels
    known = axes | {
        "ndim": ndim,
        "width": width,
        "levels": levels,
        "deep_supervision": max(0, levels - 3),  # all but the two coarsest, as nnU-Net
        "features": features,
    }
    values = {name: value for name, value in known.items() if name in names}
    if hasattr(network, "derived"):  # what else in a network follows from the patch
        values |= network.derived(patch)
    return values


def part_words(chosen: RunConfig) -> list[str]:
    """Options with which a verb is told the files that a run's model is built from."""
    files = [name for name in (chosen.network, chosen.target) if catalog.is_path(name)]
    return ["--part", *files] if files else []


def own(chosen: RunConfig) -> list[dict[str, Any]]:
    """Parts of a run that are not of the package: room, title, and the hash of each file.

    Args:
        chosen: Target, method and network named.
    """
    names = [(f"{part}s", getattr(chosen, part)) for part in ("network", "method", "target")]
    method = catalog.load("methods", chosen.method).Config
    config = settings.from_dict(chosen.method_settings, method, "method_settings")
    for setting in dataclasses.fields(config):
        if "room" in setting.metadata:
            names += [(setting.metadata["room"], name) for name in getattr(config, setting.name)]
    origins = [(room, name, catalog.origin(room, name)) for room, name in names]
    return [
        {"room": room, "name": catalog.title(name), **origin["file"]}
        for room, name, origin in origins
        if origin
    ]


# --- what became of it ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Settings of a run in which nothing is left open.

    Args:
        chosen: All but those of method and network.
        target: Settings of the target, its ``Config``.
        method: Settings of the method, its ``Config``.
        network: Settings of the network, its ``Config``.
        budget: That the run keeps to, if it does.
    """

    chosen: RunConfig
    target: Any
    method: Any
    network: Any
    budget: str | None = None

    @staticmethod
    def of(bench: Bench, plan: Mapping[str, Any], threads: int) -> Resolved:
        """What a run does.

        Args:
            bench: Knows its method and network.
            plan: The candidate taken, as the record has it.
            threads: Processor cores in use.
        """
        chosen, prepared, learning = bench.chosen, bench.preparation, bench.learning
        candidate = Candidate(plan["width"], tuple(plan["patch"]), plan["batch"])
        own = targets.of(chosen).settings
        done = dataclasses.replace(
            chosen,
            budget=None,
            steps=plan["steps"] + plan.get("last_fit", 0),
            weights=_whole_path(start.path) if (start := bench.start(candidate)) else None,
            opening=_with_paths(chosen.opening, Path.resolve),
            width=candidate.width,
            patch=candidate.patch,
            batch=candidate.batch,
            dimensions=cast(Any, prepared.ndim) if "dimensions" in own else "auto",
            neighbours=learning.neighbours,
            bias_correction=prepared.bias_correction,
            denoise=cast(Any, prepared.denoise),
            clusters=prepared.clusters,
            rotation_degrees=chosen.rotation(learning.ndim, whole=learning.whole),
            device=str(bench.device),
            threads=threads,
            precision=plan["precision"],
            compile="on" if plan["compile"] else "off",
        )
        budget = chosen.budget if chosen.steps is None else None
        target = settings.from_dict(
            chosen.target_settings, catalog.load("targets", chosen.target).Config, "target_settings"
        )
        return Resolved(
            done, target, bench.method_config(), bench.network_config(candidate), budget
        )

    def text(self) -> str:
        """As YAML, with the help of every setting."""
        again = "on a CPU to the bit"
        if self.budget is not None:
            again = f"by its steps (it kept to {self.budget}: its learning rate followed the clock)"
        head = (
            "# Every setting of a run, nothing left open. `delineate train DATA --config` with\n"
            f"# this file does it again, {again}.\n"
        )
        return head + settings.dump(self.chosen, dict(self._parts()))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the model file; of other files their names alone, no folder of anybody."""
        weights = self.chosen.weights
        chosen = dataclasses.replace(
            self.chosen,
            weights=Path(weights.name) if weights else None,
            opening=_with_paths(self.chosen.opening, lambda path: Path(path.name)),
        )
        parts = {name: settings.to_dict(part) for name, part in self._parts()}
        resolved: dict[str, Any] = catalog.titled({**settings.to_dict(chosen), **parts})
        return resolved

    def own(self) -> list[dict[str, Any]]:
        """Parts from outside the package, see ``own``."""
        return own(self.chosen)

    def of_steps(self, steps: int, last: int | None = None) -> Resolved:
        """The same for so many steps, the ``last`` of them on all subjects, if that is known."""
        share = self.chosen.last_fit
        if last is not None and last_steps(steps, share) != last:
            share = round(last / steps, 6)
        chosen = dataclasses.replace(self.chosen, steps=steps, last_fit=share)
        return dataclasses.replace(self, chosen=chosen)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "target_settings", self.target
        yield "method_settings", self.method
        yield "network_settings", self.network


def _whole_path(weights: Path) -> Path:
    return weights if initial_weights.is_own(weights) else weights.resolve()


def _with_paths(opening: Opening, change: Callable[[Path], Path]) -> Opening:
    """The same with every path changed."""
    values = opening.non_default()
    paths: dict[str, Any] = {n: change(v) for n, v in values if isinstance(v, Path)}
    return dataclasses.replace(opening, **paths)
