"""Weighted sums from settings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.losses import _sum, cross_entropy, dice, focal, hausdorff, signed_distance

SHAPE = (2, 16, 16)


def label() -> Tensor:
    found = torch.zeros(SHAPE, dtype=torch.uint8)
    found[:, 4:11, 5:12] = 1
    found[0, 6:9, 7:9] = 2
    return found


def logits(scale: int = 1, seed: int = 0) -> Tensor:
    size = tuple(n // scale for n in SHAPE[1:])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((SHAPE[0], 3, *size), generator=generator).requires_grad_()


def test_the_default_is_dice_and_cross_entropy_bit_for_bit() -> None:
    """Beside the formula itself, gradients included, in each precision and with deep outputs."""

    def formula(output: Tensor, truth: Tensor) -> Tensor:
        output, truth = output.float(), truth.long()
        hot = torch.zeros_like(output).scatter_(1, truth.unsqueeze(1), 1.0)
        return dice.soft_dice(output.softmax(1), hot) + nn.functional.cross_entropy(output, truth)

    for dtype in (torch.float32, torch.bfloat16):
        for scales in ((1,), (1, 2, 4)):
            leaves = [logits(s) for s in scales]
            outputs = [leaf.to(dtype) for leaf in leaves]
            found, said = _sum.build(_sum.DEFAULT)(outputs, label())
            wanted = _sum.deeply_supervised(formula, outputs, label())
            assert torch.equal(found, wanted)
            pairs = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (found, wanted))
            assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
            assert set(said) == {"loss_dice", "loss_cross_entropy"}


def test_weights_and_settings_come_from_plain_data() -> None:
    x, y = logits(), label()
    criterion = _sum.build({"dice": 2, "focal": {"weight": 0.5, "gamma": 3}, "top_k": 0})
    total, said = criterion(x, y)
    parts = dice.loss(x, y), focal.loss(x, y, focal.Config(gamma=3.0))
    assert total.item() == pytest.approx((2 * parts[0] + 0.5 * parts[1]).item(), rel=1e-6)
    assert list(said) == ["loss_dice", "loss_focal"]
    assert torch.equal(said["loss_focal"], parts[1].detach())
    assert not any(value.requires_grad for value in said.values())


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ({"dise": 1.0}, "did you mean 'dice'"),
        ({"dice": 1.0, "hausdorf": 1.0}, "did you mean 'hausdorff'"),
        ({"focal": {"gama": 2.0}}, "did you mean 'gamma'"),
        ({"focal": {"gamma": "2"}}, "expected a number"),
        ({"dice": -1.0}, "weight >= 0"),
        ({"adversarial": 1.0}, "expected segmentation losses"),
        ({"dice": 1.0, "signed_distance": 0.3}, "look at the logits"),
        ({}, "acts from the start"),
        ({"dice": 0.0}, "acts from the start"),
        ({"hausdorff": 1.0}, "acts from the start"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_move(losses: _sum.Losses, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _sum.build(losses)
    assert told in str(caught.value)
    assert caught.value.fix or "type" in caught.value.code or "weight" in told


def test_a_head_alone_teaches_the_logits_nothing() -> None:
    with pytest.raises(ConfigError):
        _sum.build({"signed_distance": 1.0}, head=True)
    assert _sum.build({"dice": 1, "signed_distance": {}}, head=True).needs_head
    assert not _sum.build(_sum.DEFAULT, head=True).needs_head


def test_a_term_waits_and_then_rises() -> None:
    x, y = logits(), label()
    plan = {"weight": 2.0, "warm_up": 0.4, "ramp": 0.2, "relative": False}
    criterion = _sum.build({"dice": 1, "hausdorff": plan})
    base, extra = dice.loss(x, y), hausdorff.loss(x, y)
    for progress, factor in ((0.0, 0), (0.39, 0), (0.4, 0), (0.5, 1), (0.6, 2), (1.0, 2)):
        total, said = criterion(x, y, progress=progress)
        assert total.item() == pytest.approx((base + factor * extra).item(), rel=1e-6)
        assert ("loss_hausdorff" in said) == (progress >= 0.4)  # before, nothing is computed


@pytest.mark.parametrize("weight", [0.1, 0.5, 3.0])
def test_a_relative_weight_is_a_ratio_of_gradients(weight: float) -> None:
    x, y = logits(), label()
    criterion = _sum.build({"dice": 1, "cross_entropy": 1, "hausdorff": weight})
    (plain,) = torch.autograd.grad(_sum.build(_sum.DEFAULT)(x, y)[0], x)
    (whole,) = torch.autograd.grad(criterion(x, y)[0], x)
    extra = whole - plain
    assert (extra.norm() / plain.norm()).item() == pytest.approx(weight, rel=1e-4)
    (own,) = torch.autograd.grad(hausdorff.loss(x, y), x)
    cosine = nn.functional.cosine_similarity(extra.flatten(), own.flatten(), 0)
    assert cosine.item() == pytest.approx(1, abs=1e-5)


def test_a_relative_term_without_a_surface_adds_nothing() -> None:
    x, empty = logits(), torch.zeros(SHAPE, dtype=torch.uint8)
    total, said = _sum.build({"dice": 1, "hausdorff": 0.5, "boundary": 0.5})(x, empty)
    assert total.item() == pytest.approx(dice.loss(x, empty).item())
    (gradient,) = torch.autograd.grad(total, x)
    assert torch.isfinite(gradient).all()
    assert all(torch.isfinite(value) for value in said.values())


def test_without_gradient_it_can_still_be_read() -> None:
    with torch.no_grad():
        total, _ = _sum.build({"dice": 1, "boundary": 0.5})(logits(), label())
    assert torch.isfinite(total)


def test_surfaces_are_looked_at_on_the_finest_output_alone() -> None:
    outputs, y = [logits(1), logits(2), logits(4)], label()
    criterion = _sum.build({"dice": 1, "cldice": 1, "boundary": {"relative": False}})
    total, said = criterion(outputs, y)
    base = _sum.deeply_supervised(dice.loss, outputs, y)
    wanted = base + said["loss_cldice"] + said["loss_boundary"]
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)
    alone, _ = criterion(outputs[0], y)
    extra = alone - dice.loss(outputs[0], y)
    assert extra.item() == pytest.approx((total - base).item(), rel=1e-5)


def test_spacing_reaches_the_distances() -> None:
    x, y = logits(), label()
    criterion = _sum.build({"cross_entropy": 1, "hausdorff": {"relative": False}})
    near, far = (criterion(x, y, (mm, mm))[0] - cross_entropy.loss(x, y) for mm in (0.5, 1.0))
    assert far.item() == pytest.approx(4 * near.item(), rel=1e-4)


def test_the_head_is_weighed_like_any_other() -> None:
    x, y, head = logits(), label(), torch.randn(2, 2, 16, 16, requires_grad=True)
    criterion = _sum.build({"dice": 1, "signed_distance": {}}, head=True)
    total, _ = criterion(x, y, distances=head)
    wanted = dice.loss(x, y) + 0.3 * signed_distance.loss(head, y)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_deep_leaves_labels_labels() -> None:
    """A boundary between labels 0 and 2 has no label 1 at any size."""
    y = torch.zeros((1, 8, 8), dtype=torch.uint8)
    y[:, :4] = 2
    seen: list[set[float]] = []

    def one(_: Tensor, truth: Tensor) -> Tensor:
        seen.append(set(truth.flatten().tolist()))
        return torch.zeros(())

    _sum.deeply_supervised(one, [torch.zeros(1, 3, n, n) for n in (8, 4, 2)], y)
    assert seen == [{0.0, 2.0}] * 3
