"""A benchmark suite: which arms compete, in what, and what a document printed of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from delineate import targets
from delineate.comparing.splits_as_tables import Condition
from delineate.core import catalog
from delineate.core import config as settings
from delineate.core._yaml import Key
from delineate.core.config import Document
from delineate.core.errors import ConfigError
from delineate.settings import RunConfig
from delineate.targets import Terms
from delineate.training import resolving

_FOLDER = Path(__file__).parent
#: Settings of a run that the plan makes: for all runs, and alike for all arms.
_PLANNED = {"network", "method", "width", "steps", "seed", "folds", "fold", "threads", "device"}
_SHARED = {"patch", "batch"}


@dataclass(frozen=True)
class Arm:
    """One competitor: a network, a method, and what else differs from the others."""

    name: str = field(metadata={"help": "as shown in tables"})
    network: str = field(
        metadata={"room": "networks", "help": "a file of networks/ or of your own"}
    )
    method: str = field(
        default="supervised",
        metadata={"room": "methods", "help": "a file of methods/ or of your own"},
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of a training run that differ"}
    )
    exhibit: bool = field(
        default=False, metadata={"help": "classes: runs under every condition, even if quick"}
    )


@dataclass(frozen=True)
class Contrast:
    """A paired comparison that was planned before anybody looked: a minus b."""

    name: str = field(metadata={"help": "as shown in tables"})
    a: str = field(metadata={"help": "an arm"})
    b: str = field(metadata={"help": "an arm"})


@dataclass(frozen=True)
class Printed:
    """A table as a document prints it."""

    source: str = field(metadata={"help": "document, table, data"})
    rounding: float = field(metadata={"help": "one unit of the last printed digit"})
    columns: tuple[str, ...] = field(metadata={"help": "metrics, in order"})
    rows: tuple[Mapping[str, Any], ...] = field(metadata={"help": "method and figures"})


@dataclass(frozen=True)
class Suite:
    """Everything that defines a benchmark but its data and its budget."""

    title: str = field(metadata={"help": "heading of the report"})
    question: str = field(metadata={"help": "what it is to answer"})
    arms: tuple[Arm, ...] = field(metadata={"help": "competitors"})
    metrics: tuple[str, ...] = field(metadata={"help": "what is reported, the first in the lead"})
    target: str = field(
        default="outline", metadata={"help": "what is learned, see the settings of a run"}
    )
    level: Literal["slice", "case"] = field(
        default="slice",
        metadata={"help": "classes: whether stacks are taken apart, or judged whole"},
    )
    conditions: tuple[Condition, ...] = field(
        default=(Condition("by subject"),), metadata={"help": "classes: splits and labels"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "arm all others are held against"}
    )
    contrasts: tuple[Contrast, ...] = field(default=(), metadata={"help": "planned comparisons"})
    runs: int = field(default=3, metadata={"help": "seeds; each also holds out another part"})
    budget: str = field(default="2h", metadata={"help": "wall-clock time of everything"})
    quick_budget: str = field(default="12m", metadata={"help": "the same for --quick"})
    width: Mapping[int, int] = field(
        default_factory=lambda: {2: 16, 3: 8}, metadata={"help": "channels, by dimensions"}
    )
    batch: Mapping[int, int] = field(
        default_factory=lambda: {2: 8, 3: 2}, metadata={"help": "patches a step, by dimensions"}
    )
    patch_voxels: Mapping[int, int] = field(
        default_factory=lambda: {2: 128**2, 3: 2**16},
        metadata={"help": "size of a patch, by dimensions"},
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of every training run"}
    )
    printed: Printed | None = field(default=None, metadata={"help": "a document's own figures"})

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names) or self.runs < 2:
            raise ConfigError(
                f"expected arms of different names and 2 runs or more, got {names}, {self.runs}"
            )
        folders = [slug(name) for name in names]
        if "" in folders or len(set(folders)) != len(folders):
            raise ConfigError(
                "expected arms whose names differ in letters (a to z) or digits, for they name "
                f"folders, got {names}"
            )
        if len({condition.split == "labels" for condition in self.conditions}) > 1:
            raise ConfigError("expected conditions of few labels alone, got others beside them")
        used = [self.reference] if self.reference else []
        used += [name for contrast in self.contrasts for name in (contrast.a, contrast.b)]
        for name in used:
            if name not in names:
                raise ConfigError(
                    f"expected an arm, got {name!r}", fix=settings.nearest(name, names)
                )

    def check(self, document: Document | None = None) -> None:
        """Refuse networks, methods and settings that there are not.

        Args:
            document: The suite's file, for lines in messages.

        Raises:
            ConfigError: With the nearest name.
        """
        document = document or Document()
        document.make(RunConfig, ("settings",), self.settings)
        _leave_open(document, ("settings",), self.settings, _PLANNED)
        listed = [arm.get("name") for arm in document.get(("arms",))]
        for arm in self.arms:
            at: Key = ("arms", listed.index(arm.name)) if arm.name in listed else (arm.name,)
            self._check(arm, document, at)
        known = targets.make(self.target).comparison.metrics
        for i, name in enumerate(self.metrics):
            if known is not None and name not in known:
                raise document.error(
                    ("metrics", i), f"expected a metric, got {name!r}", "unknown-name",
                    settings.nearest(name, known),
                )  # fmt: skip

    def _check(self, arm: Arm, document: Document, at: Key) -> None:
        """One arm, which stands at ``at``."""
        _leave_open(document, (*at, "settings"), arm.settings, _PLANNED | _SHARED)
        settings = {**self.settings, **arm.settings}
        planned = {"network": arm.network, "method": arm.method, "target": self.target}
        chosen = document.make(RunConfig, (*at, "settings"), {**settings, **planned})
        keys: dict[str, Key] = {"network": (*at, "network"), "method": (*at, "method")}
        for name in ("network_settings", "method_settings"):
            keys[name] = (*at, "settings", name) if name in arm.settings else ("settings", name)
        resolving.check(chosen, resolving.Place(document, keys))

    @property
    def draws(self) -> bool:
        """Whether runs are draws of labelled subjects, which the same others judge."""
        return self.conditions[0].split == "labels"

    @property
    def terms(self) -> Terms:
        """On what terms its runs are compared."""
        alike = not any(arm.settings for arm in self.arms)
        return Terms(self.runs, alike, frozenset(c.split for c in self.conditions))

    def whole(self) -> Suite:
        """The same suite with every arm under every condition."""
        return replace(self, arms=tuple(replace(arm, exhibit=True) for arm in self.arms))

    def of_networks(self, names_asked: tuple[str, ...]) -> Suite:
        """The same suite with other arms: ``NETWORK`` or ``NETWORK+METHOD`` each."""
        known = {(arm.network, arm.method): arm for arm in self.arms if not arm.settings}
        arms = []
        for word in dict.fromkeys(name for text in names_asked for name in text.split(",") if name):
            network, _, method = word.partition("+")
            method = method or targets.make(self.target).method
            name = "+".join(catalog.title(part) for part in word.split("+"))
            network, method = catalog.named(network), catalog.named(method)
            arms.append(known.get((network, method), Arm(name, network, method)))
        if not arms:
            raise ConfigError(f"expected names of networks, got {names_asked}", where="--networks")
        names = {arm.name for arm in arms}
        return replace(
            self,
            arms=tuple(arms),
            reference=self.reference if self.reference in names else arms[0].name,
            contrasts=tuple(c for c in self.contrasts if {c.a, c.b} <= names),
        )


def _leave_open(
    document: Document, at: Key, settings: Mapping[str, Any], planned: set[str]
) -> None:
    """Refuse settings that the plan makes."""
    for name in planned & settings.keys():
        raise document.error(
            (*at, name),
            "expected settings that the benchmark leaves open, got one that the plan makes",
            "suite-planned",
            "leave it out: the plan gives it, for equal compute",
        )


def slug(name: str) -> str:
    """A name as a part of a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def names() -> list[str]:
    """The suites that come with Delineate."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load(name: str) -> Suite:
    """A suite by name, or of a YAML file.

    Raises:
        ConfigError: No such suite, or a fault in its file.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in names():
        raise ConfigError(
            f"expected a benchmark suite, got {name!r}",
            fix=settings.nearest(name, names()),
            code="unknown-suite",
        )
    document = settings.read(Path(name) if own else _FOLDER / f"{name}.yaml")
    suite = document.make(Suite)
    suite.check(document)
    return suite
