"""What weak views teach strong ones, and when they teach nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core import config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Label, Schema
from delineate.losses import _sum
from delineate.methods import unimatch
from delineate.methods._plan import Plan
from delineate.networks import unet, unetpp

CONTEXT = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
NOBODY = torch.zeros(4, dtype=torch.bool)
SOME = torch.tensor([True, True, False, False])


def make(**given: Any) -> Plan:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=2, width=4, levels=2, deep_supervision=1), 1, 3)
    return unimatch.build(config.from_dict(given, unimatch.Config), network, CONTEXT)


class Says(nn.Module):
    """A network that gives the same probabilities everywhere, whatever it sees."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(shares).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.get_buffer("logits").view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])


@pytest.mark.parametrize(("share", "teaches"), [(0.96, True), (0.94, False)])
def test_what_the_teacher_is_not_sure_of_teaches_nothing(
    share: float, teaches: bool, squares: Batch, lending: Callable[..., Any]
) -> None:
    plan = make(teacher="averaged", weight_decay=0.0)
    before = [p.detach().clone() for p in plan.predictor.parameters()]
    update = lending(Says(1 - share, share, 1e-9))
    logged = plan.stages[0].step(dataclasses.replace(squares, labelled=NOBODY), update)
    assert logged["sure"].item() == float(teaches)
    pairs = zip(plan.predictor.parameters(), before, strict=True)
    assert any(not torch.equal(*pair) for pair in pairs) == teaches


def test_a_handful_of_sure_voxels_weighs_little(
    squares: Batch, lending: Callable[..., Any]
) -> None:
    """Cross-entropy of strong views is a mean over all voxels, not over the sure ones alone."""

    class SureOfARow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 3, *x.shape[2:])
            logits[:, 1, 0] = 50
            return logits

    plan = make(preset="fixmatch", teacher="averaged", mix=0.0, losses={"cross_entropy": 1.0})
    update = lending(SureOfARow())
    logged = plan.stages[0].step(dataclasses.replace(squares, labelled=SOME), update)
    assert logged["sure"].item() == pytest.approx(1 / 32)
    expected = logged["loss"] + logged["loss_pseudo"] / 32
    assert update.losses == pytest.approx([expected.item()])


@pytest.mark.parametrize(
    ("preset", "passes", "decoded"), [("unimatch", [2, 2 + 2 * 2], 3), ("fixmatch", [2, 2 + 2], 2)]
)
def test_fixmatch_is_one_strong_view_and_no_features_with_gaps(
    preset: str,
    passes: list[int],
    decoded: int,
    squares: Batch,
    lending: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, seen, times = make(preset=preset), list[int](), list[int]()
    network: Any = plan.predictor
    network.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda x: (times.append(len(x[0])), decode(x))[1])
    plan.stages[0].step(dataclasses.replace(squares, labelled=SOME), lending(plan))
    assert seen == passes  # who draws the masks, then labelled samples and strong views
    assert len(times) == decoded


def test_labelled_samples_learn_as_in_supervised_training(
    squares: Batch, lending: Callable[..., Any]
) -> None:
    plan = make()
    expected, _ = _sum.build(_sum.DEFAULT)(plan.predictor(squares.image), squares.label)
    logged = plan.stages[0].step(squares, update := lending(plan))
    assert logged["loss_pseudo"].item() == 0
    assert update.losses == pytest.approx([expected.item()])


def test_a_strong_view_keeps_every_mask_at_its_image() -> None:
    torch.manual_seed(0)
    label = torch.arange(3, dtype=torch.uint8).view(3, 1, 1).repeat(1, 32, 32)
    # brightness tells who is seen, so much that no change of intensity hides it
    image = 1000.0 * label[:, None].float() + torch.rand(3, 1, 32, 32)
    changed, mask = unimatch.strong_view(image, label, 1.0)
    assert (mask != label).flatten(1).any(1).all()
    for own in range(3):
        other = (own + 1) % 3
        assert set(mask[own].unique().tolist()) == {own, other}
        pasted = changed[own, 0][mask[own] == other]
        assert pasted.mean().item() == pytest.approx(1000 * other, rel=0.6, abs=20)
    alone, same = unimatch.strong_view(image[:1], label[:1], 1.0)
    assert torch.equal(same, label[:1])
    assert alone.shape == (1, 1, 32, 32)


def test_a_network_without_features_of_an_encoder_is_refused_with_what_to_do() -> None:
    network = unetpp.build(unetpp.Config(ndim=2, width=4, levels=2), 1, 3)
    with pytest.raises(ConfigError, match="decodes features of an encoder") as caught:
        unimatch.build(unimatch.Config(), network, CONTEXT)
    assert caught.value.fix is not None
    assert "features: 0" in caught.value.fix
    unimatch.build(unimatch.Config(features=0.0), network, CONTEXT)


def test_settings_that_mean_nothing_are_refused() -> None:
    for given in ({"threshold": 1.1}, {"mix": -0.1}, {"features": 1.0}, {"views": 0}):
        with pytest.raises(ConfigError, match="expected"):
            unimatch.Config(**given)
