"""S0's DL-GAN-CNN: a generator learns maps of where structures are, a CNN names the class by them.

S0 trains its generator against "real feature maps" that it does not define. Here the real map of a
label is ``tanh(-d / tau)``, d its signed distance in mm, negative inside: in (-1, 1) as the tanh at
the generator's end wants it, steep at boundaries, and **positive inside**. So a voxel is of a label
where its map is above 0, and ``sigmoid(kappa F)`` is how likely.

Two stages. *Features*: adversary + 100 |F - F*| + Dice of ``sigmoid(kappa F)`` against a critic of
image and map (``_game``: patches, spectral norm, hinge, R1); images without a label take no part,
and a step that has none but such changes nothing but momentum. *Classify*: cross-entropy with the
generator at rest, or ``joint``: the game goes on and the generator gets a tenth of the classifier's
gradient beside. A segmenter (``feature_segmenter``) has the first stage alone.

``preset: literal`` is S0 as printed, eq. (8): no term ties a map to its image; the critic, of 64,
32 and 16 channels, judges maps alone, for the printed condition is missing where it judges fakes.
Whatever looks like some map will do. It exists so that a test can show it. (S0's generator is
``network_settings: {width: 64, norm: batch}``.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import IGNORED
from delineate.losses import _common, _distance
from delineate.losses.dice import soft_dice
from delineate.methods import _classes
from delineate.methods._game import Game, Rules, build_critic
from delineate.methods._plan import Plan, Stage, Update
from delineate.networks import global_critic
from delineate.networks._critics import input_channels, see
from delineate.networks._feature_gan import Generator, ReadOut
from delineate.networks.feature_cnn import FeatureCNN
from delineate.networks.feature_segmenter import FeatureSegmenter

TRAINS = ("classifier", "segmenter")
USES = ("labelled",)
#: Presets that show a fault: what they minimise does not say whether they learn.
UNSOUND = ("literal",)
#: What it trains of each kind.
NETWORKS = {"classifier": "feature_cnn", "segmenter": "feature_segmenter"}

#: tanh(-4) is -1 but for a thousandth: no need to know distances beyond so many tau.
_REACH = 4.0

#: What a preset changes of the defaults of ``Config``.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "stable": {},
    "literal": {
        "reconstruction": 0.0,
        "dice": 0.0,
        "falling": True,
        "critic_norm": "batch",
        "spectral_norm": False,
        "sees": "mask",
        "views": False,
        "noise": 0.0,
        "game": "nonsaturating",
        "warm_up": 0.0,
        "ramp": 0.0,
        "gate": (0.0, 1.0),
        "gradient_cap": 0.0,
        "r1_weight": 0.0,
        "learning_rate": 2e-4,
        "critic_rate": 2e-4,
    },
}


@dataclass(frozen=True)
class Config(Rules):
    """Settings of both stages."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    share: float = field(default=0.5, metadata={"help": "of training for the maps; rest: classes"})
    real: Literal["distance", "mask"] = field(
        default="distance", metadata={"help": "real maps: tanh(-distance / tau), or 1 and -1"}
    )
    tau_mm: float = field(default=5.0, metadata={"help": "distance at which a map levels off"})
    reconstruction: float = field(default=100.0, metadata={"help": "weight of |F - F*|"})
    dice: float = field(default=1.0, metadata={"help": "weight of the Dice loss of the read-out"})
    weight: float = field(default=1.0, metadata={"help": "of the adversary after the warm-up"})
    expert: Literal["one_hot"] = field(
        default="one_hot", metadata={"help": "real maps are shown as they are"}
    )
    falling: bool = field(
        default=False,
        metadata={"help": "critic of 4, 2 and 1 times critic_width channels, as S0 prints it"},
    )
    learning_rate: float = field(
        default=2e-3, metadata={"help": "generator's peak (Adam, beta 1 of 0.5)"}
    )
    joint: bool = field(
        default=False, metadata={"help": "the generator goes on learning beside the classifier"}
    )
    joint_weight: float = field(
        default=0.1, metadata={"help": "share of the classifier's gradient that it then gets"}
    )
    classifier_rate: float = field(default=1e-3, metadata={"help": "classifier's peak, AdamW"})
    weight_decay: float = field(default=1e-2, metadata={"help": "classifier's"})
    label_smoothing: float = field(default=0.05, metadata={"help": "classifier's; 0: none"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1 or self.tau_mm <= 0 or not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                "expected 0 < share < 1, tau_mm > 0 and 0 <= label_smoothing < 1, "
                f"got {self.share}, {self.tau_mm}, {self.label_smoothing}"
            )
        if min(self.reconstruction, self.dice, self.joint_weight) < 0:
            raise ConfigError(
                "expected reconstruction, dice and joint_weight of 0 or more, "
                f"got {self.reconstruction}, {self.dice}, {self.joint_weight}"
            )


class Maps:
    """The game about feature maps; its state is that of its parts."""

    def __init__(
        self, config: Config, generator: Generator, read_out: ReadOut, critic: nn.Module
    ) -> None:
        self.config, self.generator, self.read_out = config, generator, read_out
        self.critic, self.game = critic, Game(config, [critic])

    def play(
        self, batch: Batch, update: Update, progress: float
    ) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
        """The critic's turn, and what the generator should minimise in its own.

        Args:
            batch: Images and labels.
            update: The engine's side of the step.
            progress: Of the game, 0 to 1.

        Returns:
            Maps ``(B, R, *S)``, the generator's loss, and what the log should say.
        """
        config, game = self.config, self.game
        maps = self.generator(batch.image)
        known = _known(batch)
        if not bool(known.any()):
            silence = self.critic(see(config.sees, batch.image, maps.detach()))
            update(game.rival, 0 * silence.mean())
            zero = 0 * self.read_out(maps).mean()
            return maps, zero, {"loss": zero.detach()}
        image, label, predicted = batch.image[known], batch.label[known], maps[known].float()
        real = real_maps(label, predicted.shape[1], batch.spacing_mm, config)
        logits = self.read_out(predicted)
        mask = _common.annotated(label, predicted)
        hot, inside = _common.one_hot(label, logits)[:, 1:], logits[:, 1:].sigmoid() * mask
        distance = _common.mean((predicted - real).abs(), label)
        dice = soft_dice(inside, hot, background=True)
        loss = config.reconstruction * distance + config.dice * dice
        real, fake = game.view(image, real * mask, predicted * mask, progress)
        scores = game.teach(update, real, fake.detach())
        term, push = game.push(loss, predicted, fake, progress)
        parts = {"loss": loss, "loss_l1": distance, "loss_dice": dice}
        return maps, loss + term, {k: v.detach() for k, v in {**parts, **scores, **push}.items()}


def build(config: Config, network: nn.Module, context: Context) -> Plan:
    """A stage for the maps and, for a classifier, one for the classes.

    Args:
        config: Settings.
        network: ``feature_cnn`` or ``feature_segmenter``.
        context: Of the data; a map for each label of its schema.

    Raises:
        ConfigError: Another network, or other maps than labels.
    """
    if not isinstance(network, FeatureCNN | FeatureSegmenter):
        name = type(getattr(network, "config", network)).__module__.rpartition(".")[2]
        raise ConfigError(
            f"expected a network with a generator of feature maps, got {name!r}",
            where="network",
            fix="choose feature_cnn for classes, feature_segmenter for outlines",
            code="method-network",
        )
    _require_maps(network.generator.features, len(context.schema.labels))
    read_out = network.read_out if isinstance(network, FeatureSegmenter) else ReadOut()
    critic = _critic(config, context, len(context.schema.labels))
    maps = Maps(config, network.generator, read_out, critic)
    parameters = [*network.generator.parameters(), *read_out.parameters()]
    optimiser = Adam(parameters, config.learning_rate, (0.5, 0.999))
    modules = {
        "generator": network.generator,
        "read_out": read_out,
        "critic": critic,
        "referee": maps.game.referee,
    }

    def features(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        _, loss, logged = maps.play(batch, update, update.progress)
        update(optimiser, loss)
        return logged

    optimisers = {"generator": optimiser, "critic": maps.game.rival}
    if isinstance(network, FeatureSegmenter):
        return Plan((Stage("features", 1.0, modules, optimisers, features),), network)
    first = Stage("features", config.share, modules, optimisers, features)
    return Plan((first, _classify(config, network, maps, modules, parameters)), network)


def _classify(
    config: Config,
    net: FeatureCNN,
    maps: Maps,
    modules: Mapping[str, nn.Module],
    parameters: Sequence[nn.Parameter],
) -> Stage:
    """The second stage; see the module's docstring."""
    optimiser = AdamW(
        net.classifier.parameters(), config.classifier_rate, weight_decay=config.weight_decay
    )
    if config.joint:
        optimiser.add_param_group(
            {
                "params": parameters,
                "lr": config.learning_rate,
                "betas": (0.5, 0.999),
                "weight_decay": 0,
            }
        )

    def alone(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        net.generator.eval()  # at rest: no noise, and no running statistics that move
        with torch.no_grad():
            features = net.generator(batch.image)
        loss, logged = _classes.cross_entropy(
            net.classify(features, batch.image), batch, config.label_smoothing
        )
        update(optimiser, loss)
        return logged

    def together(batch: Batch, update: Update) -> Mapping[str, Tensor]:
        features, drawing, logged_of_maps = maps.play(batch, update, progress=1.0)
        weighted = features.detach() + config.joint_weight * (features - features.detach())
        loss, logged = _classes.cross_entropy(
            net.classify(weighted, batch.image), batch, config.label_smoothing
        )
        update(optimiser, loss + drawing)
        return {**logged_of_maps, **logged}

    if not config.joint:
        return Stage(
            "classify", 1 - config.share, {"classifier": net}, {"classifier": optimiser}, alone
        )
    optimisers = {"classifier": optimiser, "critic": maps.game.rival}
    return Stage("classify", 1 - config.share, {**modules, "classifier": net}, optimisers, together)


def real_maps(
    label: Tensor, maps: int, spacing_mm: Sequence[float], config: Config | None = None
) -> Tensor:
    """What the generator should draw, ``(B, maps, *S)``: positive inside of a label.

    Args:
        label: ``(B, *S)`` indices.
        maps: Labels, the background not counted.
        spacing_mm: Of the axes ``S``.
        config: Settings; the defaults if not given.
    """
    config = config or Config()
    if config.real == "mask":
        shape = (len(label), maps + 1, *label.shape[1:])
        return 2 * _common.one_hot(label, torch.empty(shape, device=label.device))[:, 1:] - 1
    reach = _REACH * config.tau_mm
    return torch.tanh(-_distance.signed(label, maps + 1, spacing_mm, reach) / config.tau_mm)


def _known(batch: Batch) -> Tensor:
    """``(B,)`` bool: images with a label map."""
    return batch.labelled & (batch.label != IGNORED).flatten(1).any(1)


def _critic(config: Config, context: Context, maps: int) -> nn.Module:
    """A critic of maps, or of image and maps."""
    if not config.falling:
        return build_critic(config, context.ndim, context.channels, maps)
    channels_seen = input_channels(config.sees, context.channels, maps)
    widths = tuple(factor * config.critic_width for factor in (4, 2, 1))
    shape = global_critic.Config(context.ndim, widths, config.critic_norm, config.spectral_norm)
    return global_critic.build(shape, channels_seen)


def _require_maps(maps: int, labels: int) -> None:
    """Refuse anything but one map a label."""
    if labels == 0:
        raise ConfigError(
            "expected label maps to learn feature maps from, got a cohort without labels",
            where="method",
            fix="add label maps, or use method: classify",
            code="no-labels",
        )
    if maps != labels:
        raise ConfigError(
            f"expected a feature map for each of {labels} labels, got {maps}",
            where="network_settings",
            fix=f"leave features out, or use features: {labels}",
            code="features",
        )
