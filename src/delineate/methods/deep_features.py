"""Deep features, a choice among them, and a support vector machine: hybrids of the literature.

A network is trained as a classifier; what goes into its last layer are the features of a picture;
few of them are selected, and a linear SVM decides by these: recursive elimination behind AlexNet
and VGG-16 (Toğaçar et al. 2020, doi:10.1016/j.eswa.2020.113274), or boosted trees behind a ResNet.

Two stages. *Train*: cross-entropy. *Collect*: the network at rest, with its averaged weights; the
features of what the feed gives are kept, pictures augmented where the feed augments them. At the
end they are scaled, selected and fitted (``_linear``), C and the scale of the probabilities chosen
in folds of subjects that repeat all of it; with fewer than 3 subjects C is 1. The network knows
these subjects, so what is said of the folds flatters; a temperature found on validation subjects
mends the probabilities. All of it is affine in the features and becomes the weights of the last
layer, 0 for features left out: the model is an ordinary one. A kernel of radial functions is not
offered, for it does not fold.

``share: 0`` trains nothing and takes the features of the network as it is, for ``--weights`` of a
pre-trained one. With ``balance: sampling`` classes come alike, and ``smote`` has nothing to do: it
is for ``balance: none``. Several networks side by side: ``ensemble`` with ``mean: logits``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.progress import Say
from delineate.methods import _classes, _linear
from delineate.methods._linear import Fitted, Recipe, Samples
from delineate.methods._plan import Plan, Stage, Update

TRAINS = ("classifier",)
USES = ("labelled",)


@dataclass(frozen=True)
class Config(_classes.Learning, Recipe):
    """Settings of both stages."""

    share: float = field(
        default=0.8, metadata={"help": "of the steps that train; the rest collects features"}
    )
    capacity: int = field(default=2048, metadata={"help": "pictures kept, the latest"})

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        super().__post_init__()
        if not 0 <= self.share < 1 or self.capacity < 2:
            raise ConfigError(
                f"expected 0 <= share < 1 and capacity >= 2, got {self.share}, {self.capacity}"
            )


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """Train, then collect and fit.

    Args:
        config: Settings.
        network: ``(B, channels, *S) -> (B, classes)``. Its logits are what its last linear layer
            gives, or the mean of what several give that its ``heads`` names.
        context: Of the data and the task.

    Raises:
        ConfigError: A network without a linear layer.
    """
    ends = heads(network)
    collected = Collected(config.capacity, sum(head.in_features for head in ends))

    def collect(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        network.eval()  # no dropout, and no running statistics that move
        features, logits = extract_features(network, ends, batch.image)
        _, logged = _classes.cross_entropy(logits, batch)
        collected.add(features, batch)
        return {**logged, "collected": collected.count.float()}

    def end(say: Say) -> Mapping[str, float]:
        samples, classes = collected.samples(), ends[0].out_features
        _require_classes(samples, classes)
        fitted = _linear.fit(samples, classes, config)
        fold(ends, fitted)
        say(_sentence(config, samples, fitted))
        return {
            "svm_cost": fitted.cost,
            "svm_scale": fitted.scale,
            "svm_folds": fitted.folds,
            "svm_balanced_accuracy": fitted.accuracy,
        }

    modules = {"classifier": network, "collected": collected}
    last = Stage("collect", 1 - config.share, modules, {}, collect, end)
    if config.share == 0:
        return Plan((last,), network)
    return Plan((_classes.stage("train", config.share, config, network), last), network)


class Collected(nn.Module):
    """The latest pictures' features, classes and subjects; buffers, so that a crash loses none.

    Args:
        capacity: Pictures.
        features: Of each.
    """

    features: Tensor
    class_index: Tensor
    subject: Tensor
    weight: Tensor
    count: Tensor

    def __init__(self, capacity: int, features: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(capacity, features))
        self.register_buffer("class_index", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("subject", torch.zeros(capacity, dtype=torch.int64))
        self.register_buffer("weight", torch.zeros(capacity))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def add(self, features: Tensor, batch: Batch) -> None:
        """Keep the features ``(B, F)`` of labelled pictures of a batch; the oldest give way.

        Where subjects are not known, all pictures count as one's.
        """
        class_index = _classes.require(batch)
        subject = torch.zeros_like(class_index) if batch.subject is None else batch.subject
        weight = torch.ones_like(features[:, 0]) if batch.weight is None else batch.weight
        known = batch.labelled
        features, class_index, subject, weight = (
            x[known] for x in (features, class_index, subject, weight)
        )
        last = slice(-len(self.class_index), None)  # of a batch that is larger than the store
        slots = (self.count + torch.arange(len(class_index), device=class_index.device)) % len(
            self.class_index
        )
        slots = slots[last]
        self.features[slots], self.class_index[slots] = features[last], class_index[last]
        self.subject[slots], self.weight[slots] = subject[last], weight[last]
        self.count += len(class_index)

    def samples(self) -> Samples:
        """All that is kept."""
        count = min(int(self.count), len(self.class_index))
        features, class_index, subject, weight = (
            part[:count].cpu()
            for part in (self.features, self.class_index, self.subject, self.weight)
        )
        return Samples(
            features.double().numpy(), class_index.numpy(), subject.numpy(), weight.double().numpy()
        )


def heads(network: nn.Module) -> list[nn.Linear]:
    """The layers whose mean are the logits: those that the network names, or its last linear one.

    Raises:
        ConfigError: There is none.
    """
    linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
    layers = list(getattr(network, "heads", linear[-1:]))
    if not layers:
        raise _no_head(network)
    return layers


def extract_features(
    network: nn.Module, ends: Sequence[nn.Linear], image: Tensor
) -> tuple[Tensor, Tensor]:
    """Features ``(B, F)``, those of several layers side by side, and logits ``(B, K)``.

    In full precision, as the model will be used; without gradient.

    Raises:
        ConfigError: The logits are not what these layers give: nothing could be folded into them.
    """
    inputs: list[Tensor] = []
    hooks = [head.register_forward_pre_hook(lambda _, x: inputs.append(x[0])) for head in ends]
    try:
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            logits = network.forward(image)  # uncompiled, where hooks are heard
    finally:
        for hook in hooks:
            hook.remove()
    if len(inputs) == len(ends) and all(x.ndim == 2 for x in inputs) and isinstance(logits, Tensor):
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            outputs = [head(x) for head, x in zip(ends, inputs, strict=True)]
            mean = torch.stack(outputs).mean(0)
        if mean.shape == logits.shape and torch.allclose(mean, logits, 1e-3, 1e-4):
            return torch.cat(inputs, 1), logits
    raise _no_head(network)


@torch.no_grad()
def fold(ends: Sequence[nn.Linear], fitted: Fitted) -> None:
    """Give the layers weights whose mean output are the logits that were fitted."""
    widths = [head.in_features for head in ends]
    parts = np.split(fitted.weight, np.cumsum(widths)[:-1], 1)
    for head, part in zip(ends, parts, strict=True):
        head.weight.copy_(torch.from_numpy(len(ends) * part))
        head.bias.copy_(torch.from_numpy(fitted.bias))


def _no_head(network: nn.Module) -> ConfigError:
    name = type(getattr(network, "config", network)).__module__.rpartition(".")[2]
    return ConfigError(
        f"expected a network whose logits come from a linear layer, got {name!r}",
        where="network",
        fix="choose resnet, vgg or cnn; for ensemble set mean: logits in network_settings",
        code="no-features",
    )


def _require_classes(samples: Samples, classes: int) -> None:
    """Refuse to tell apart what was never seen."""
    counts = np.bincount(samples.class_index, minlength=classes)
    if counts.min() == 0:
        counts_in_words = ", ".join(f"{n} of class {k}" for k, n in enumerate(counts))
        raise ConfigError(
            f"expected pictures of every class among those collected, got {counts_in_words}",
            where="method",
            fix="collect for longer (a smaller share, or more steps), or set balance: sampling",
            code="class-not-collected",
        )


def _sentence(config: Config, samples: Samples, fitted: Fitted) -> str:
    """What was fitted, in words."""
    subjects, all_features = len(np.unique(samples.subject)), samples.features.shape[1]
    used = int((fitted.weight != 0).any(0).sum())
    choice = (
        f"chosen in {fitted.folds} folds of subjects, balanced accuracy there {fitted.accuracy:.3f}"
        if fitted.folds
        else "not chosen, for that takes 3 subjects and 2 of every class: "
        "probabilities are not calibrated"
    )
    return (
        f"{config.head} on {len(samples.class_index)} pictures of {subjects} subjects: {used} of "
        f"{all_features} features, C {fitted.cost:g}, scale {fitted.scale:.3g}, {choice}"
    )
