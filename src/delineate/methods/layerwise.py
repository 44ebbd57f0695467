"""Training of a deep belief network: machine by machine without labels, then as a classifier.

Hinton et al. 2006, doi:10.1162/neco.2006.18.7.1527. Each machine has a stage: contrastive
divergence with one step (``dbn.contrast``), stochastic gradient with a momentum of 0.5 and, after
the first quarter, of 0.9 (5 of 20 epochs, as Hinton 2012, doi:10.1007/978-3-642-35289-8_32). Then
all machines together minimise the cross-entropy of the classes.

The first stages look at no class: images that the feed draws by their classes are all that they
know of them. Machines begin with small weights, for from those of a perceptron they learn far less;
one whose biases are not all 0 was trained before (``--weights``) and goes on from what it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.methods import _classes
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks import dbn

TRAINS = ("classifier",)
USES = ("labelled",)
#: What it trains of each kind.
NETWORKS = {"classifier": "dbn"}

#: Share of a machine's stage with little momentum.
_FIRST = 0.25
#: Spread of weights that have not learned yet (Hinton 2012).
_SMALL = 0.01


@dataclass(frozen=True)
class Config(_classes.Learning):
    """Settings of all stages."""

    share: float = field(
        default=0.5, metadata={"help": "of training for the machines, alike; rest: classes"}
    )
    rate: float = field(default=0.05, metadata={"help": "of contrastive divergence, peak"})
    learning_rate: float = field(default=3e-3, metadata={"help": "of the classes, peak, AdamW"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1 or self.rate <= 0:
            raise ConfigError(f"expected 0 < share < 1 and rate > 0, got {self.share}, {self.rate}")


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """A stage for each machine, from the lowest up, and one for the classes.

    Args:
        config: Settings.
        network: ``dbn``.
        context: Of the data and the task.

    Raises:
        ConfigError: Another network.
    """
    if not isinstance(network, dbn.DeepBelief):
        name = type(getattr(network, "config", network)).__module__.rpartition(".")[2]
        raise ConfigError(
            f"expected a network of machines to train one by one, got {name!r}",
            where="network",
            fix="choose dbn, or another method",
            code="method-network",
        )
    share = config.share / len(network.machines)
    stages = [_machine(config, network, level, share) for level in range(len(network.machines))]
    last = _classes.stage("classify", 1 - config.share, config, network)
    return Plan((*stages, last), network)


def _machine(config: Config, network: dbn.DeepBelief, level: int, share: float) -> Stage:
    """The stage of one machine; biases of what it sees are not part of the network."""
    machine = network.machines[level]
    weight = machine.get_parameter("weight")
    if not bool(machine.get_parameter("bias").any()):
        nn.init.normal_(weight, std=_SMALL)
    visible_bias = nn.Parameter(torch.zeros(weight[0].numel()))
    optimiser = torch.optim.SGD([*machine.parameters(), visible_bias], config.rate, momentum=0.5)

    def step(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        for group in optimiser.param_groups:
            group["momentum"] = 0.5 if update.progress < _FIRST else 0.9
        loss, error = dbn.contrast(network, level, visible_bias, batch.image)
        update(optimiser, loss)
        return {"loss": error}

    modules = {"classifier": network, "seen": nn.ParameterList([visible_bias])}
    return Stage(f"machine {level + 1}", share, modules, {"machine": optimiser}, step)
