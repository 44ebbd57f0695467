"""From a candidate (width, patch, batch) to a network, a plan, a feed and the cost of a step."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from delineate import targets
from delineate.core import catalog
from delineate.core import config as settings
from delineate.core.context import Context
from delineate.core.errors import ConfigError, ResourceError
from delineate.data.cache import PreparedCase
from delineate.engine.budget import Candidate
from delineate.engine.loop import is_memory
from delineate.engine.prefetch import Batches, made_ahead, on_device
from delineate.engine.update import EngineUpdate, average
from delineate.inference.runtimes.torch import fastest_precision
from delineate.inference.sliding_window import windows_at_once
from delineate.methods._plan import Plan, Stage
from delineate.networks._blocks import per_axis
from delineate.networks._cost import Counter, gmac
from delineate.networks._transfer import Transfer, Weights, freeze
from delineate.preprocess.presets import Preparation
from delineate.settings import RunConfig
from delineate.targets import Feed, Learning, _sizes
from delineate.training import devices, initial_weights, resolving, warm_start

#: Steps timed of a candidate; the first warms up.
_TIMED = 4
#: Steps counted; the R1 penalty comes every eighth.
_COUNTED = 8


#: Sides of patches with which settings are tried before the cases say which.
_SIDES = (64, 32, 16, 128)


@dataclasses.dataclass
class Bench:
    """Everything that a candidate needs to be built and tried.

    Args:
        chosen: Settings of the run, network and method named.
        learning: What the model is to give.
        preparation: Of the cases.
        weights: To start from.
        fabric: Device and precision.
    """

    chosen: RunConfig
    learning: Learning
    preparation: Preparation
    weights: Weights | None
    fabric: Fabric
    #: Prepared cases without labels, where the method learns from them too.
    unlabelled: Sequence[PreparedCase] = ()
    #: What the last network that was built took from the weights, and how much of it is frozen.
    transfer: Transfer | None = None
    frozen: dict[str, int] = dataclasses.field(default_factory=dict)
    #: Weights that come along and may suit, where nobody chose others.
    warm: Weights | None = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        channels, ndim = self.learning.channels, self.learning.ndim
        self.warm = warm_start.suiting(self.chosen, channels, ndim)

    @property
    def device(self) -> torch.device:
        """Where networks are tried."""
        return self.fabric.device

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.learning.channels) * (2 * self.learning.neighbours + 1)

    @property
    def context(self) -> Context:
        """What a method is told of the data and the task."""
        learning = self.learning
        return Context(
            learning.ndim, self.channels, len(learning.outputs), learning.schema,
            learning.spacing_mm, catalog.title(self.chosen.target),
        )  # fmt: skip

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring: sizes that the network can take, and that suit its weights."""
        options = list(dict.fromkeys(map(self.fitting, self.learning.candidates(cases))))
        if self.weights is not None:
            return initial_weights.best(options, self._taken)
        # what starts warm needs few steps: narrower networks are no way to save time
        warm = [i for i, option in enumerate(options) if self.start(option)]
        return options[warm[0] :] if warm else options

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits, from small to large."""
        fitting = dict.fromkeys(map(self.fitting, self.learning.smaller(first, cases)))
        options = sorted(fitting, key=lambda option: option.work)
        return [option for option in options if option.work < first.work]

    def network_config(self, candidate: Candidate) -> Any:
        """Settings of the network: those given, and what follows from the candidate.

        Raises:
            ConfigError: Not a network for this target, or a setting it does not know.
        """
        module = catalog.load("networks", self.chosen.network)
        kind = targets.of(self.chosen).kind
        if kind != module.KIND:
            raise ConfigError(
                f"expected a {kind}, got {self.chosen.network!r}, a {module.KIND}",
                where="network",
                fix="choose another network, see `delineate networks`",
                code=f"not-a-{kind}",
            )
        features = max(1, len(self.learning.schema.labels))
        values = resolving.derived(
            module, candidate.patch, self.learning.ndim, candidate.width, features,
            self.learning.spacing_mm, self.chosen.network_settings,
        )  # fmt: skip
        if self.warm is not None and self.chosen.patch is None:
            values |= warm_start.depth(self.warm, values, self.chosen.network_settings)
        names = {f.name for f in dataclasses.fields(module.Config)}
        values |= {k: v for k, v in self.learning.derived.items() if k in names}
        values_chosen = {**values, **self.chosen.network_settings}
        return self._complete(settings.from_dict(values_chosen, module.Config, "network_settings"))

    def method_config(self) -> Any:
        """Settings of the method: those given, the defaults, and what follows from the data."""
        cls = catalog.load("methods", self.chosen.method).Config
        values = self.chosen.method_settings
        return self._complete(settings.from_dict(values, cls, "method_settings"))

    def _complete(self, config: Any) -> Any:
        """Settings may have fields that are left open until the dimensions are known."""
        return config.complete(self.learning.ndim) if hasattr(config, "complete") else config

    def divisors(self, candidate: Candidate) -> tuple[int, ...]:
        """What each side of the network's input must be a multiple of."""
        network = catalog.load("networks", self.chosen.network)
        return per_axis(self.learning.ndim, network.divisor(self.network_config(candidate)))

    def fitting(self, candidate: Candidate) -> Candidate:
        """The candidate with a patch that the network can take: divisible, and not too small.

        One that somebody gave is left for the network to refuse.
        """
        if self.chosen.patch is not None:
            return candidate
        divisors = self.divisors(candidate)
        least = getattr(catalog.load("networks", self.chosen.network), "LEAST", 1)
        patch = [
            max(n, math.ceil(least / step) * step)
            for n, step in zip(candidate.patch, divisors, strict=True)
        ]
        return dataclasses.replace(candidate, patch=_sizes.round_to(patch, divisors))

    def start(self, candidate: Candidate) -> Weights | None:
        """What a candidate's network starts from; None: from random weights."""
        if self.weights is not None or self.warm is None:
            return self.weights
        return self.warm if warm_start.fits(self.warm, self.network_config(candidate)) else None

    def _network(self, candidate: Candidate) -> tuple[nn.Module, Transfer | None]:
        """The network with the weights that the seed gives; then those of a file that fit."""
        torch.manual_seed(self.chosen.seed)
        module = catalog.load("networks", self.chosen.network)
        config = self.network_config(candidate)
        network: nn.Module = _made(
            "network_settings", module.build, config, self.channels, len(self.learning.outputs)
        )
        weights = self.start(candidate)
        if weights is None:
            return network, None
        channels: Sequence[str] = self.learning.channels
        if initial_weights.is_own(weights.path):
            channels = warm_start.sequences(channels)
        names = initial_weights.channel_names(channels, self.learning.neighbours)
        return network, initial_weights.give(
            weights, module, config, network, names, self.learning.outputs
        )

    def _taken(self, candidate: Candidate) -> int:
        """How many numbers of the file a candidate's network can use."""
        transfer = self._network(candidate)[1]
        return initial_weights.taken(self.weights, transfer) if self.weights and transfer else 0

    def build(self, candidate: Candidate) -> Plan:
        """Network and method for a candidate, with the weights that it starts from."""
        network, transfer = self._network(candidate)
        if self.weights and transfer:
            initial_weights.refuse_nothing(self.weights, transfer, self.chosen.network, network)
        self.transfer = transfer
        plan = self._plan(network)
        shape = (self.channels, *candidate.patch)
        initial_weights.adjust(plan, network, self.chosen.layer_rate, shape)
        devices.place(plan, self.fabric)
        return plan

    def check(self) -> None:
        """Build once, small, before cases are prepared: what cannot be built is told before them.

        Sizes that follow from the cases are not known yet; it will do if one can be built.

        Raises:
            ConfigError: Settings that suit no size, such as frozen parts that there are not.
        """
        nd, faults = self.learning.ndim, list[ConfigError]()
        for side in _SIDES if self.chosen.patch is None else _SIDES[:1]:
            try:
                (first, *_) = _sizes.candidates(
                    (side,) * nd, nd, width=self.chosen.width, patch=self.chosen.patch, batch=1
                )
                config = self.network_config(self.fitting(first))
                module = catalog.load("networks", self.chosen.network)
                outputs = len(self.learning.outputs)
                self._plan(_made("network_settings", module.build, config, self.channels, outputs))
            except ConfigError as error:
                faults.append(error)
            else:
                return
        raise faults[0]

    def _plan(self, network: nn.Module) -> Plan:
        """The method's plan for a network, parts of which are frozen."""
        self.frozen = {part: freeze(network, [part]) for part in self.chosen.freeze}
        method = catalog.load("methods", self.chosen.method)
        role = targets.of(self.chosen).trains
        if role not in method.TRAINS:
            raise ConfigError(
                f"expected a method that trains a {role}, got {self.chosen.method!r}",
                where="method",
                fix="choose another method, or leave it out",
                code="method-target",
            )
        plan: Plan = _made(
            "method_settings", method.build,
            self.method_config(), network, self.context,
        )  # fmt: skip
        return plan

    def feed(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> Feed:
        """Batches for a candidate."""
        return self.learning.feed(candidate, cases, self.unlabelled)

    def measure(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        compiled: bool = False,
        limit: float = math.inf,
    ) -> float:
        """Seconds a step of a candidate, sampling and augmentation included; mean over stages.

        Args:
            candidate: What to try.
            cases: To draw from.
            compiled: Compile the predictor first.
            limit: Seconds after which no further step is timed, two of each stage apart.
        """
        seconds, started = 0.0, time.perf_counter()
        with made_ahead(self.feed(candidate, cases), 1, self.device) as batches:
            for share, once in self._steps_of(candidate, batches, compiled):
                times: list[float] = []
                for step in range(_TIMED):
                    if len(times) > 1 and time.perf_counter() - started > limit:
                        break
                    times.append(self._timed(partial(once, step)))
                seconds += share * sorted(times[1:])[len(times[1:]) // 2]
        return seconds * self.chosen.loop.accumulate

    def network_seconds(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> float:
        """Seconds that a typical prepared case takes to be outlined, or given its class."""
        network = self.build(candidate).predictor.eval()
        windows = self.windows(candidate, cases)
        batch = max(1, min(round(windows), windows_at_once(candidate.patch, self.device)))
        shape = (batch, self.channels, *candidate.patch)

        def once() -> None:
            with torch.inference_mode(), fastest_precision(self.device):
                network(torch.zeros(shape, device=self.device))

        return min(self._timed(once) for _ in range(2)) * windows / batch  # the first warms up

    def windows(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> float:
        """Patches, or pictures, that a typical case is taken apart into."""
        return statistics.fmean(self.learning.windows(case, candidate.patch) for case in cases)

    def _timed(self, work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def gmac(self, candidate: Candidate) -> float:
        """Billion multiplications of a step, backward taken for twice as much as forward."""
        network = self._network(candidate)[0]
        forward = gmac(network, self.channels, candidate.patch)
        return 3 * candidate.batch * self.chosen.loop.accumulate * forward

    def count(self, candidate: Candidate, cases: Sequence[PreparedCase]) -> float:
        """Billion multiplications a step, of all that the method computes, backward included.

        The mean over stages and some steps of each, for methods need not do the same in each.
        """
        macs = 0.0
        for share, once in self._steps_of(candidate, self.feed(candidate, cases)):
            with Counter() as counter:
                for step in range(_COUNTED):
                    once(step)
            macs += share * counter.macs
        return macs / 1e9 / _COUNTED * self.chosen.loop.accumulate

    def _steps_of(
        self, candidate: Candidate, batches: Batches, compiled: bool = False
    ) -> list[tuple[float, Callable[[int], None]]]:
        """Share and step of every stage, fed and guarded, as a function of the step's number."""
        plan = self.build(candidate)
        if compiled:
            plan.predictor.compile()
        averaged = copy.deepcopy(plan.predictor).eval().requires_grad_(False)

        def once(stage: Stage, step: int) -> None:
            for module in stage.modules.values():
                module.train()
            batch = on_device(batches(step, 0, 1), self.fabric)
            update = EngineUpdate(self.fabric, averaged, 1, self.chosen.loop.clip, progress=0.5)
            try:
                with self.fabric.autocast():
                    stage.step(batch, update)
                average(averaged, plan.predictor, self.chosen.loop.ema)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                raise ResourceError(
                    f"no memory for width {candidate.width}, patch {candidate.patch}, "
                    f"batch {candidate.batch}",
                    fix="choose a smaller width, patch or batch in the settings",
                    code="out-of-memory",
                ) from error

        return [(stage.share, partial(once, stage)) for stage in plan.stages]


def _made(where: str, build: Callable[..., Any], *arguments: Any) -> Any:
    """What ``build`` makes; a value that only PyTorch refuses is an error about settings too."""
    try:
        return build(*arguments)
    except ValueError as error:
        raise ConfigError(
            f"expected settings that can be built, got: {error}", where=where, code="not-built"
        ) from error
