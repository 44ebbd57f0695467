"""Features of a network, and a machine that becomes its last layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop, Outcome
from delineate.engine.settings import Settings
from delineate.methods import _linear
from delineate.methods import deep_features as method
from delineate.methods._plan import Plan
from delineate.networks import cnn, ensemble

SCHEMA = Schema((), classes=("dark", "grey", "bright"))
CONTEXT = Context(2, 1, 3, SCHEMA, target="class")
SIZE = 32


def pictures(step: int, micro: int, split: int, classes: int = 3) -> Batch:
    """Squares on noise; the brighter, the higher the class. Nine subjects."""
    generator = torch.Generator().manual_seed(step)
    klass = torch.arange(9) % classes
    image = 0.5 * torch.randn((9, 1, SIZE, SIZE), generator=generator)
    image[:, :, 8:20, 8:20] += klass[:, None, None, None].float()
    return Batch(
        image, torch.zeros(9, SIZE, SIZE).byte(), class_index=klass, subject=torch.arange(9)
    )


def build(network: nn.Module | None = None, **given: Any) -> Plan:
    torch.manual_seed(0)
    network = network or cnn.build(cnn.Config(width=4, depth=3, hidden=24), 1, 3)
    return method.build(method.Config(**given), network, CONTEXT)


def loop(plan: Plan, folder: Path, steps: int = 20, feed: Any = pictures, **given: Any) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    return Loop(
        plan, feed, Settings(), folder, fabric=fabric, seed=1, pace=Pace(steps, None), **given
    )


def run(plan: Plan, folder: Path, **given: Any) -> Outcome:
    return loop(plan, folder, **given).run()


def kept(plan: Plan) -> method.Collected:
    found = plan.stages[-1].modules["collected"]
    assert isinstance(found, method.Collected)
    return found


# ------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("select", ["rfe", "boosting", "none"])
def test_the_model_decides_as_the_machine_on_every_picture_it_saw(
    tmp_path: Path, select: str
) -> None:
    plan = build(select=select)
    net = run(plan, tmp_path, steps=20).predictor
    samples = kept(plan).samples()
    assert len(samples.class_index) == 4 * 9
    fitted = _linear.fit(samples, 3, method.Config(select=select))
    expected = samples.features @ fitted.weight.T + fitted.bias
    image = torch.cat([pictures(step, 0, 1).image for step in range(16, 20)])
    with torch.no_grad():
        logits, features = net(image).numpy(), net.embed(image).numpy()
    np.testing.assert_allclose(features, samples.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(logits.argmax(1), expected.argmax(1))
    used = int((net.head[1].weight != 0).any(0).sum())
    assert 5 < used <= 24 if select == "none" else used == 5
    assert (logits.argmax(1) == samples.class_index).mean() > 0.9


def test_it_says_what_it_chose(tmp_path: Path) -> None:
    said: list[str] = []
    run(build(), tmp_path, say=said.append)
    line = next(line for line in said if line.startswith("svm"))
    assert "36 pictures of 9 subjects: 5 of 24 features" in line
    assert "3 folds of subjects" in line

    def one(step: int, micro: int, split: int) -> Batch:
        return dataclasses.replace(pictures(step, micro, split), subject=None)

    run(build(), tmp_path / "one", feed=one, say=said.append)
    assert "not calibrated" in said[-1]
    assert "C 1, scale 1, not chosen" in said[-1]


@pytest.mark.parametrize("at", [3, 16, 18, 19])
def test_a_stopped_run_goes_on_bit_exactly(tmp_path: Path, at: int) -> None:
    whole = run(build(), tmp_path / "whole").predictor.state_dict()
    first = loop(build(), tmp_path / "part")
    first.stop = lambda: first.pace.step >= at
    first.run()
    parted = run(build(), tmp_path / "part").predictor.state_dict()
    assert all(torch.equal(tensor, parted[name]) for name, tensor in whole.items())


def test_a_network_that_is_not_trained_keeps_all_but_its_last_layer(tmp_path: Path) -> None:
    plan = build(share=0.0)
    before = {name: t.clone() for name, t in plan.predictor.state_dict().items()}
    after = run(plan, tmp_path, steps=3).predictor.state_dict()
    changed = {name for name, t in before.items() if not torch.equal(t, after[name])}
    assert changed == {"head.1.weight", "head.1.bias"}


def test_dropout_and_running_statistics_rest_while_features_are_collected() -> None:
    plan = build()
    collect = plan.stages[1]
    batch = pictures(0, 0, 1)
    for _ in range(2):
        plan.predictor.train()  # as the engine does
        collect.step(batch, None)  # type: ignore[arg-type]
    features = kept(plan).features
    assert torch.equal(features[:9], features[9:18])
    assert all(int(m.num_batches_tracked) == 0 for m in plan.predictor.modules()
               if isinstance(m, nn.BatchNorm2d))  # fmt: skip


def test_the_latest_pictures_stay() -> None:
    store = method.Collected(5, 2)
    for step in range(3):
        batch = Batch(
            torch.zeros(2, 1, 2, 2), torch.zeros(2, 2, 2), class_index=torch.tensor([0, step]),
            subject=torch.tensor([step, step]), weight=torch.tensor([1.0, 0.5]),
        )  # fmt: skip
        store.add(torch.full((2, 2), float(step)), batch)
    samples = store.samples()
    assert samples.subject.tolist() == [2, 0, 1, 1, 2]
    assert samples.features[:, 0].tolist() == [2, 0, 1, 1, 2]
    assert samples.weight.tolist() == [0.5, 0.5, 1, 0.5, 1]
    assert samples.class_index.tolist() == [2, 0, 0, 1, 0]


# -------------------------------------------------------------------------------- any classifier

SMALL: dict[str, dict[str, Any]] = {
    "dbn": {"grid": 4, "units": (16, 8)},
    "densenet": {"layers": (2, 2, 2, 2)},
    "ensemble": {"mean": "logits", "depths": (11, 13)},
    "sam_medcls": {"dim": 24, "depth": 2, "neck": 16, "adapter": 6},
}
CLASSIFIERS = [
    name for name in catalog.members("networks")
    if catalog.load("networks", name).KIND == "classifier"
]  # fmt: skip


def classifier(name: str, **given: Any) -> tuple[nn.Module, Tensor]:
    module = catalog.load("networks", name)
    names = {f.name for f in dataclasses.fields(module.Config)}
    values = {k: v for k, v in {"width": 4, **SMALL.get(name, {}), **given}.items() if k in names}
    config = module.Config(**values)
    torch.manual_seed(0)
    side = 32 if config.ndim == 3 else 80
    size = [-(-side // module.divisor(config)) * module.divisor(config)] * config.ndim
    net: nn.Module = module.build(config, 2, 3)
    return net.eval(), torch.randn(2, 2, *size)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_is_fitted_becomes_the_last_layer_of_any_classifier(name: str) -> None:
    net, image = classifier(name)
    ends = method.heads(net)
    features, _ = method.extract_features(net, ends, image)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, features.shape[1])) / 30
    fitted = _linear.Fitted(weight, rng.normal(size=3), 1.0, 1.0, 0, 0.0)
    method.fold(ends, fitted)
    with torch.no_grad():
        logits = net(image)
    expected = features.numpy() @ weight.T + fitted.bias
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_a_network_that_is_not_linear_at_its_end_is_refused_before_training(tmp_path: Path) -> None:
    net, _ = classifier("ensemble", mean="probabilities")
    plan = build(net)
    with pytest.raises(ConfigError, match="ensemble") as found:
        plan.stages[1].step(Batch(torch.zeros(2, 2, 32, 32), torch.zeros(2, 32, 32)), None)  # type: ignore[arg-type]
    assert "mean: logits" in str(found.value.fix)
    assert found.value.code == "no-features"
    flat = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="linear layer"):
        build(flat)
    twice = nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 3), nn.LogSoftmax(1))
    with pytest.raises(ConfigError, match="linear layer"):
        build(twice).stages[1].step(pictures(0, 0, 1), None)  # type: ignore[arg-type]


def test_ensembles_of_logits_are_the_mean_of_their_members() -> None:
    config = ensemble.Config(width=4, depths=(11, 13), mean="logits")
    net = ensemble.build(config, 1, 3).eval()
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = sum(member(image) for member in net.members) / 2
        torch.testing.assert_close(net(image), expected)
    with pytest.raises(ConfigError, match="mean"):
        ensemble.Config(mean="votes")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- errors


def test_a_class_that_was_never_collected_is_named(tmp_path: Path) -> None:
    def dark(step: int, micro: int, split: int) -> Batch:
        return pictures(step, micro, split, classes=1)

    with pytest.raises(ConfigError, match="36 of class 0, 0 of class 1, 0 of class 2") as found:
        run(build(), tmp_path / "one", feed=dark)
    assert found.value.code == "class-not-collected"
    with pytest.raises(ConfigError, match="0 of class 0"):
        run(build(), tmp_path / "none", steps=1)


def test_batches_without_classes_are_refused() -> None:
    batch = dataclasses.replace(pictures(0, 0, 1), class_index=None)
    for stage in build().stages:
        with pytest.raises(ConfigError, match="class"):
            stage.step(batch, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"share": 1.0}, {"capacity": 1}, {"label_smoothing": 1.0}, {"select": "all"}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        method.Config(**wrong)
