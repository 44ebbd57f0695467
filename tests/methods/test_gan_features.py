"""S0's features: what the maps are, that they are learned, and what eq. (8) alone would give."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from delineate.core import config as settings
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop, Outcome
from delineate.engine.settings import Settings
from delineate.methods import _classes
from delineate.methods import gan_features as method
from delineate.methods._plan import Plan
from delineate.networks import _feature_gan, cnn, feature_cnn, feature_segmenter, unet
from delineate.networks._critics import see

SCHEMA = Schema((Label("disc", 1),), classes=("small", "large"))
CONTEXT = Context(2, 1, 2, SCHEMA)
SIZE = 32


def discs(step: int, micro: int, split: int, count: int = 8) -> Batch:
    """Noisy images of a bright disc, and whether it is large."""
    generator = torch.Generator().manual_seed(step)
    centre = torch.randint(10, SIZE - 10, (count, 2, 1, 1), generator=generator)
    radius = torch.randint(4, 9, (count, 1, 1), generator=generator)
    grid = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"))
    label = ((grid - centre).square().sum(1) < radius**2).to(torch.uint8)
    image = label[:, None] + 0.5 * torch.randn((count, 1, SIZE, SIZE), generator=generator)
    return Batch(image, label, class_index=(radius[:, 0, 0] >= 6).long())


def classifier(**given: Any) -> tuple[feature_cnn.FeatureCNN, Plan]:
    torch.manual_seed(0)
    network = feature_cnn.build(feature_cnn.Config(width=8, cnn_width=8, hidden=32), 1, 2)
    config = settings.from_dict({"critic_width": 8, **given}, method.Config)
    return network, method.build(config, network, CONTEXT)


def train(plan: Plan, folder: Path, steps: int, until: int | None = None) -> Outcome:
    fabric = Fabric(accelerator="cpu", devices=1)
    loop = Loop(plan, discs, Settings(), folder, fabric=fabric, seed=1, pace=Pace(steps, None))
    loop.stop = lambda: until is not None and loop.pace.step >= until
    return loop.run()


def dice(maps: Tensor, label: Tensor) -> float:
    found, truth = maps[:, 0] > 0, label > 0
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@cache
def learned(preset: str) -> float:
    """Dice of the read-out after 60 steps of the first stage."""
    from tempfile import TemporaryDirectory

    torch.manual_seed(0)
    network = feature_segmenter.build(feature_segmenter.Config(width=8), 1, 2)
    options: dict[str, Any] = {"learning_rate": 2e-3, "critic_rate": 4e-3, "critic_width": 8}
    chosen = settings.from_dict({"preset": preset, **options}, method.Config)
    plan = method.build(chosen, network, CONTEXT)
    with TemporaryDirectory() as folder:
        outcome = train(plan, Path(folder), 60)
    new = discs(10_000, 0, 1, 32)
    with torch.no_grad():
        logits = outcome.predictor(new.image)
    return dice(logits[:, 1:], new.label)


# ------------------------------------------------------------------------------------ the maps


def test_a_real_map_by_hand() -> None:
    label = torch.tensor([[[0, 0, 0, 1, 1, 1, 0]]])
    real = method.real_maps(label.expand(1, 2, 7), 1, (1.0, 2.5))
    # 2.5 mm between voxels of a row, tau = 5 mm: half a tau a step, plus inside, minus outside
    steps = torch.tensor([-3, -2, -1, 1, 2, 1, -1]) / 2
    assert torch.allclose(real, steps.tanh().expand(1, 1, 2, 7))


def test_a_label_that_is_nowhere_is_far_away_and_each_label_has_a_map() -> None:
    label = torch.zeros(1, 6, 6, dtype=torch.uint8)
    label[0, 2:4, 2:4] = 2
    real = method.real_maps(label, 2, (1.0, 1.0))
    assert torch.allclose(real[:, 0], torch.full((1, 6, 6), math.tanh(-4)))
    assert torch.equal(real[:, 1] > 0, label == 2)
    plain = method.real_maps(label, 2, (1.0, 1.0), method.Config(real="mask"))
    assert torch.equal(plain[:, 1], 2 * (label == 2).float() - 1)
    assert torch.equal(plain[:, 0], -torch.ones(1, 6, 6))


def test_the_read_out_of_real_maps_is_the_label() -> None:
    label = torch.zeros(1, 12, 12, dtype=torch.uint8)
    label[0, 2:10, 2:10] = 1
    label[0, 4:7, 4:7] = 2
    logits = _feature_gan.ReadOut()(method.real_maps(label, 2, (1.0, 1.0)))
    assert torch.equal(logits.argmax(1), label.long())


# -------------------------------------------------------------------------------- what is learned


def test_maps_are_learned_in_seconds() -> None:
    assert learned("stable") > 0.7


def test_equation_8_alone_ties_no_map_to_its_image() -> None:
    assert learned("literal") < 0.5 < learned("stable")


def test_the_printed_critic_cannot_know_whose_map_it_sees() -> None:
    """Maps of other patients' images are as good to it; the sound critic sees a difference."""
    for preset, alike in (("literal", True), ("stable", False)):
        plan = classifier(preset=preset, noise=0.0, views=False)[1]
        batch, game = discs(0, 0, 1), plan.stages[0]
        critic = game.modules["critic"].eval()
        maps = method.real_maps(batch.label, 1, batch.spacing_mm)
        sees = settings.from_dict({"preset": preset}, method.Config).sees
        with torch.no_grad():
            own, other = (
                critic(see(sees, image, maps)) for image in (batch.image, batch.image.roll(1, 0))
            )
        assert torch.equal(own, other) == alike, preset


def test_falling_widths_leave_the_last_layer_a_quarter_of_the_first() -> None:
    widths = {}
    for preset in ("literal", "stable"):
        _, plan = classifier(preset=preset, critic_width=16)
        layers = [m for m in plan.stages[0].modules["critic"].modules() if isinstance(m, nn.Conv2d)]
        widths[preset] = [layer.out_channels for layer in layers]
    assert widths == {"literal": [64, 32, 16], "stable": [16, 32, 64, 1]}


def test_it_learns_classes_by_maps_that_are_at_rest(tmp_path: Path) -> None:
    network, plan = classifier(share=0.4, classifier_rate=5e-3)
    ends = [*train(plan, tmp_path, 100, until=40).events]
    maps = {k: t.clone() for k, t in network.generator.state_dict().items()}
    network, plan = classifier(share=0.4, classifier_rate=5e-3)
    outcome = train(plan, tmp_path, 100)
    assert not [*ends, *outcome.events]
    for key, tensor in network.generator.state_dict().items():
        assert torch.equal(tensor, maps[key]), key
    new = discs(10_000, 0, 1, 64)
    with torch.no_grad():
        right = outcome.predictor(new.image).argmax(1) == new.class_index
        assert dice(network.generator.eval()(new.image), new.label) > 0.7
    assert right.float().mean() > 0.8


@dataclasses.dataclass
class Look:
    """Takes the engine's place and measures what a loss would do to some parameters."""

    optimiser: Optimizer
    parameters: list[nn.Parameter]
    progress: float = 0.5
    norm: float = math.nan

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        if optimiser is self.optimiser:
            pushed = torch.autograd.grad(loss, self.parameters)
            self.norm = float(torch.stack([g.norm() for g in pushed]).norm())


def test_joint_training_gives_the_generator_a_share_of_the_classifiers_gradient() -> None:
    found = {}
    for share in (0.0, 0.1, 1.0):
        network, plan = classifier(
            joint=True, joint_weight=share, reconstruction=0.0, dice=0.0, weight=0.0
        )
        stage = plan.stages[1]
        look = Look(stage.optimisers["classifier"], list(network.generator.parameters()))
        torch.manual_seed(0)
        said = stage.step(discs(0, 0, 1), look)
        assert {"loss", "loss_l1", "d_accuracy", "train_accuracy"} <= said.keys()
        found[share] = look.norm
    assert found[0.0] == 0
    assert found[0.1] == pytest.approx(0.1 * found[1.0], rel=1e-3)


@pytest.mark.parametrize(("joint", "until"), [(False, 2), (False, 3), (False, 4), (True, 4)])
def test_a_run_goes_on_bit_exactly_across_the_stages(
    joint: bool, until: int, tmp_path: Path
) -> None:
    whole = train(classifier(joint=joint)[1], tmp_path / "whole", 6)
    train(classifier(joint=joint)[1], tmp_path / "part", 6, until)
    torch.manual_seed(77)
    again = train(classifier(joint=joint)[1], tmp_path / "part", 6)
    for key, tensor in whole.predictor.state_dict().items():
        assert torch.equal(tensor, again.predictor.state_dict()[key]), key


def test_the_predictor_can_be_exported(tmp_path: Path) -> None:
    predictor = train(classifier()[1], tmp_path, 4).predictor
    image = discs(0, 0, 1).image
    program = torch.export.export(predictor, (image,))
    with torch.no_grad():
        assert torch.allclose(program.module()(image), predictor(image), atol=1e-5)


# ------------------------------------------------------------------------ what is left out, refused


def test_images_without_a_label_take_no_part(engine: Callable[..., Any]) -> None:
    batch = discs(0, 0, 1)
    known = torch.tensor([True] * 5 + [False] * 3)
    blank = batch.label.where(known[:, None, None], torch.zeros((), dtype=torch.uint8))
    some = dataclasses.replace(batch, label=blank, labelled=known)
    five = Batch(batch.image[:5], batch.label[:5], class_index=batch.class_index[:5])
    losses = []
    for seen in (some, five):
        _, plan = classifier(views=False, noise=0.0)
        plan.predictor.eval()  # else its dropout would not be the same for five and for eight
        losses.append(plan.stages[0].step(seen, engine(moves=()))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_without_any_label_changes_nothing(engine: Callable[..., Any]) -> None:
    batch = dataclasses.replace(discs(0, 0, 1), labelled=torch.zeros(8, dtype=torch.bool))
    network, plan = classifier()
    before = {k: p.clone() for k, p in network.named_parameters()}
    run = engine()
    assert plan.stages[0].step(batch, run)["loss"] == 0
    assert len(run.losses) == 2
    for key, parameter in network.named_parameters():
        assert torch.equal(parameter, before[key]), key


def test_other_networks_and_cohorts_are_refused() -> None:
    for other in (
        cnn.build(cnn.Config(width=4), 1, 2),
        unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 2),
    ):
        with pytest.raises(ConfigError, match="feature_cnn for classes") as caught:
            method.build(method.Config(), other, CONTEXT)
        assert caught.value.code == "method-network"
    network = feature_cnn.build(feature_cnn.Config(width=4, features=3), 1, 2)
    with pytest.raises(ConfigError, match="each of 1 labels, got 3"):
        method.build(method.Config(), network, CONTEXT)
    with pytest.raises(ConfigError, match="label maps"):
        method.build(method.Config(), network, Context(2, 1, 2, Schema(classes=("a", "b"))))
    for wrong in ({"share": 1.0}, {"tau_mm": 0.0}, {"joint_weight": -0.1}):
        with pytest.raises(ConfigError, match="expected"):
            method.Config(**wrong)
    batch = dataclasses.replace(discs(0, 0, 1), class_index=None)
    with pytest.raises(ConfigError, match="a class for every image"):
        _classes.cross_entropy(torch.zeros(8, 2), batch)
