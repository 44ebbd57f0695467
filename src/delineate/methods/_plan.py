"""What a method owes the engine: stages with a step each, a predictor, and parts to keep.

``step(batch, update)`` computes losses and calls ``update(optimiser, loss)`` for each of its
optimisers, once. Everything behind ``update`` is the engine's: precision, accumulation, clipping,
the optimiser's step. ``update`` sends gradient only into the parameters of the optimiser it is
given, so a segmenter's loss never leaks into its critic.

A batch is of labelled samples alone, unless the method's file says ``USES = ("labelled",
"unlabelled")``: then about half of a batch comes from cases without labels. ``Batch.labelled`` says
which is which, and of a sample that is not labelled label and class are ``IGNORED``.

Whatever must survive a crash lives in ``modules`` (counters as buffers) or ``optimisers``.

A stage with an ``end`` finds something out at once, when its steps are done, and leaves it in the
predictor. The predictor begins such a stage with its averaged weights, and what ``end`` leaves in
it are the averaged weights from then on; between, the stage leaves it alone. ``end`` depends on
``modules`` alone: after a crash it may be called again.

What was trained beside the predictor and should travel with it in the model file (a critic) is a
kept ``Part``. Its weights are those of the last step: averaged ones told experts from guesses no
better (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from delineate.core.case import Batch
from delineate.core.errors import ConfigError
from delineate.core.progress import Say


class Update(Protocol):
    """The engine's side of a step."""

    #: How much of the stage is done, 0 to 1; ramps and schedules follow it.
    progress: float

    @property
    def last(self) -> bool:
        """Whether optimisers step now, or gradients wait for further micro-batches of the step."""

    @property
    def averaged(self) -> nn.Module:
        """The predictor with its averaged weights, as the last step left it: a mean teacher.

        On the device, in evaluation mode, without gradients. It is the engine's: look at it only.
        """

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Do whatever a loss should do to an optimiser's parameters."""


Step = Callable[[Batch, Update], Mapping[str, Tensor]]
End = Callable[[Say], Mapping[str, float]]


@dataclass(frozen=True)
class Stage:
    """One part of training.

    Args:
        name: Shown in the progress bar and the log.
        share: Part of the budget, 0 to 1; shares of a plan add up to 1.
        modules: Everything with weights or counters, by name.
        optimisers: By name; learning rates are peaks, the engine schedules them. None where a
            stage only looks.
        step: See the module's docstring. Returns scalars for the log.
        end: See the module's docstring. Says in words what was found; returns scalars for the log.
    """

    name: str
    share: float
    modules: Mapping[str, nn.Module]
    optimisers: Mapping[str, Optimizer]
    step: Step
    end: End | None = None


@dataclass(frozen=True)
class Part:
    """What the model file keeps beside the predictor: all that it takes to build it again.

    Args:
        network: File of ``networks/``.
        config: Its settings.
        channels: What it was built for.
        outputs: Likewise.
        sees: What its input is made of; settings that networks of its kind say, such as
            ``networks._critics.CriticInput``.
        module: With its weights; among the modules of a stage.
    """

    network: str
    config: Any
    channels: int
    outputs: int
    sees: Any
    module: nn.Module


@dataclass(frozen=True)
class Plan:
    """A method made ready for one data set.

    Args:
        stages: In order.
        predictor: ``(B, C, *S) -> (B, outputs, *S)`` logits; its averaged weights are the model.
        keeps: What travels beside it, by the name that users call it.
    """

    stages: tuple[Stage, ...]
    predictor: nn.Module
    keeps: Mapping[str, Part] = field(default_factory=dict)


def require_rates(config: Any) -> None:
    """Refuse settings that no optimiser takes: rates of 0, negative decay, a momentum of 1.

    Args:
        config: Settings of a method; fields are known by their names.

    Raises:
        ConfigError: With the name of the field.
    """
    for setting in fields(config):
        name, value = setting.name, getattr(config, setting.name)
        if name.endswith("rate") and value <= 0:
            raise ConfigError(f"expected a {name} above 0, got {value}")
        if name.endswith("decay") and value < 0:
            raise ConfigError(f"expected a {name} of 0 or more, got {value}")
        if name.endswith("momentum") and not 0 <= value < 1:
            raise ConfigError(f"expected a {name} from 0 to below 1, got {value}")
