"""Every segmentation loss against hand-worked cases and independent referees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.losses import (
    boundary,
    cldice,
    cross_entropy,
    dice,
    focal,
    hausdorff,
    signed_distance,
    top_k,
    tversky,
)


def interval(start: int, stop: int, size: int = 20) -> Tensor:
    """``(1, size)`` labels, 1 from ``start`` to ``stop``."""
    label = torch.zeros((1, size), dtype=torch.uint8)
    label[:, start:stop] = 1
    return label


def sure(label: Tensor, outputs: int = 2) -> Tensor:
    """Logits that say ``label`` with certainty."""
    return 60.0 * nn.functional.one_hot(label.long(), outputs).movedim(-1, 1).float()


def noise(shape: tuple[int, ...], outputs: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((shape[0], outputs, *shape[1:]), generator=generator)
    return logits, torch.randint(0, outputs, shape, generator=generator)


# ---------------------------------------------------------------------------------- overlap


def test_dice_can_count_the_background_and_divide_case_by_case() -> None:
    label = torch.cat([interval(0, 5, 10), interval(0, 1, 10)])
    guess = torch.cat([interval(0, 5, 10), interval(1, 2, 10)])
    pooled, each = (dice.Config(pool=p) for p in ("batch", "case"))
    # 5 of 6 and 6 voxels found; case by case 1 and 0
    assert dice.loss(sure(guess), label, pooled).item() == pytest.approx(1 - 5 / 6, abs=1e-5)
    assert dice.loss(sure(guess), label, each).item() == pytest.approx(0.5, abs=1e-5)
    # background: 5 + 8 voxels found of 14 and 14
    whole = dice.loss(sure(guess), label, dice.Config(background=True)).item()
    assert whole == pytest.approx(1 - (5 / 6 + 13 / 14) / 2, abs=1e-5)


def test_tversky_weighs_false_alarms_and_misses() -> None:
    # 3 found, 2 missed, 4 false
    label, guess = interval(0, 5), interval(2, 9)
    found = tversky.loss(sure(guess), label, tversky.Config(alpha=0.2, beta=0.9)).item()
    assert found == pytest.approx(1 - 3 / (3 + 0.2 * 4 + 0.9 * 2), abs=1e-5)
    logits, label = noise((2, 6, 7), 3)
    half = tversky.loss(logits, label, tversky.Config(alpha=0.5, beta=0.5))
    assert half.item() == pytest.approx(dice.loss(logits, label).item(), abs=1e-5)


# ------------------------------------------------------------------------------ voxel by voxel


def test_cross_entropy_is_torch_s() -> None:
    logits, label = noise((2, 6, 7), 3)
    wanted = nn.CrossEntropyLoss()(logits, label)
    assert torch.equal(cross_entropy.loss(logits, label.byte()), wanted)
    soft = cross_entropy.loss(logits, label, cross_entropy.Config(label_smoothing=0.1))
    torch.testing.assert_close(soft, nn.CrossEntropyLoss(label_smoothing=0.1)(logits, label))


def test_focal_of_a_hand_worked_case() -> None:
    # p = 3/4 for the true class: (1/4)^2 x -ln(3/4)
    logits = torch.tensor([0.75, 0.25]).log().view(1, 2, 1)
    label = torch.tensor([[0]])
    found = focal.loss(logits, label).item()
    assert found == pytest.approx(-math.log(0.75) / 16, rel=1e-5)
    weighed = focal.loss(logits, label, focal.Config(alpha=0.9)).item()
    assert weighed == pytest.approx(0.1 * found, rel=1e-5)  # it is background
    plain = focal.loss(logits, label, focal.Config(gamma=0)).item()
    assert plain == pytest.approx(-math.log(0.75), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_stays_finite_where_it_is_certain(gamma: float) -> None:
    logits = sure(interval(3, 6)).requires_grad_()
    focal.loss(logits, interval(4, 7), focal.Config(gamma=gamma)).backward()
    assert torch.isfinite(logits.grad).all()


def test_top_k_is_the_mean_of_the_hardest_voxels() -> None:
    logits, label = noise((2, 5, 10), 3)
    losses = nn.CrossEntropyLoss(reduction="none")(logits, label).flatten().sort().values
    for share, count in ((0.1, 10), (0.25, 25), (1.0, 100), (1e-6, 1)):
        found = top_k.loss(logits, label, top_k.Config(share=share)).item()
        assert found == pytest.approx(losses[-count:].mean().item(), rel=1e-5)


# -------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("k", [0, 1, 2, 4])
@pytest.mark.parametrize("mm", [1.0, 2.5])
def test_a_shift_costs_the_distances_that_it_passes_over(k: int, mm: float) -> None:
    """An interval of 8 voxels moved by k: k voxels too many, k missed, 1, 2 ... k voxels away."""
    label, guess = interval(6, 14), interval(6 + k, 14 + k)
    wanted = 2 * sum(i * mm / 20 for i in range(1, k + 1)) / 20
    found = boundary.loss(sure(guess), label, spacing_mm=(mm,)).item()
    assert found == pytest.approx(wanted, abs=1e-6)
    squares = 2 * sum((i * mm / 20) ** 2 for i in range(1, k + 1)) / 20
    found = hausdorff.loss(sure(guess), label, spacing_mm=(mm,)).item()
    assert found == pytest.approx(squares, abs=1e-6)
    first = 2 * sum(i * mm / 20 for i in range(1, k + 1)) / 20
    linear = hausdorff.loss(sure(guess), label, hausdorff.Config(alpha=1), (mm,)).item()
    assert linear == pytest.approx(first, abs=1e-6)


def test_what_is_far_away_costs_more_than_what_is_near() -> None:
    label = interval(2, 6, 40)
    near, far = (sure(torch.maximum(label, interval(i, i + 1, 40))) for i in (6, 18))
    for module in (boundary, hausdorff):
        assert module.loss(far, label) > 10 * module.loss(near, label)
    # beyond the clip nothing is farther
    farther = sure(torch.maximum(label, interval(30, 31, 40)))
    small = boundary.Config(clip_mm=5.0)
    assert torch.equal(boundary.loss(farther, label, small), boundary.loss(far, label, small))


def test_boundary_has_the_gradient_of_the_paper() -> None:
    """Of ``mean p phi``; what is taken away does not depend on the guess."""
    from delineate.losses._distance import bounded

    logits, label = noise((2, 9, 11), 3)
    logits.requires_grad_()
    (found,) = torch.autograd.grad(boundary.loss(logits, label), logits)
    paper = (logits.softmax(1)[:, 1:] * bounded(label, 3)).mean()
    (wanted,) = torch.autograd.grad(paper, logits)
    assert torch.allclose(found, wanted, atol=1e-9)


def test_the_head_learns_where_the_surface_is() -> None:
    label = interval(6, 14)
    truth = torch.tensor(
        [6.0, 5, 4, 3, 2, 1, -1, -2, -3, -4, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]
    ).mul(-2.0)  # 2 mm a voxel, positive inside
    right = (truth / 5).view(1, 1, -1)  # the loss takes the tanh of both
    config = signed_distance.Config(tau_mm=5.0)
    found = signed_distance.loss(right, label, config, (2.0,))
    assert found.item() == pytest.approx(0, abs=1e-10)
    wrong = signed_distance.loss(torch.zeros_like(right), label, config, (2.0,)).item()
    assert wrong == pytest.approx((truth / 5).tanh().square().mean().item(), rel=1e-5)


def test_the_head_may_be_coarser_and_a_class_may_be_absent() -> None:
    label = torch.zeros((1, 16, 16), dtype=torch.uint8)
    coarse = torch.full((1, 2, 4, 4), -4.0)
    assert signed_distance.loss(coarse, label).item() < 1e-5  # far outside, everywhere


# --------------------------------------------------------------------------------- skeletons


def test_the_skeleton_of_a_thick_bar_is_its_middle() -> None:
    bar = torch.zeros((1, 1, 11, 30))
    bar[:, :, 3:8] = 1  # five rows across the whole image
    line = cldice.soft_skeleton(bar, 5)
    assert (line[0, 0, 5] == 1).all()
    assert line[0, 0].sum() == 30
    thin = torch.zeros_like(bar)
    thin[:, :, 5] = 1
    assert torch.equal(cldice.soft_skeleton(thin, 5), thin)


def test_cldice_minds_a_gap_more_than_a_thin_wall() -> None:
    """A vessel two voxels too thin keeps its centre line; a gap cuts it."""
    label = torch.zeros((1, 15, 40), dtype=torch.uint8)
    label[:, 5:10] = 1
    thin, cut = torch.zeros_like(label), label.clone()
    thin[:, 6:9] = 1
    cut[:, :, 18:26] = 0
    assert dice.loss(sure(thin), label) > dice.loss(sure(cut), label)
    assert cldice.loss(sure(thin), label).item() == pytest.approx(0, abs=1e-5)
    assert cldice.loss(sure(cut), label) > 0.05


# ---------------------------------------------------------------------------------- referees


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 9, 10), (2, 7, 8, 6)])
def test_they_agree_with_monai(shape: tuple[int, ...]) -> None:
    from monai.losses import DiceLoss, FocalLoss, HausdorffDTLoss, SoftclDiceLoss, TverskyLoss

    hot = {"include_background": False, "to_onehot_y": True, "softmax": True}
    for seed in range(3):
        logits, label = noise(shape, 3, seed)
        truth = label[:, None]
        theirs = DiceLoss(**hot, batch=True, smooth_nr=1e-5, smooth_dr=1e-5)(logits, truth)
        assert dice.loss(logits, label).item() == pytest.approx(theirs.item(), rel=1e-5)
        theirs = DiceLoss(**hot, smooth_nr=1e-5, smooth_dr=1e-5)(logits, truth)
        ours = dice.loss(logits, label, dice.Config(pool="case"))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)

        theirs = TverskyLoss(
            **hot, batch=True, alpha=0.3, beta=0.7, smooth_nr=1e-5, smooth_dr=1e-5
        )(logits, truth)
        assert tversky.loss(logits, label).item() == pytest.approx(theirs.item(), rel=1e-5)

        for alpha in (None, 0.8):
            referee = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0, alpha=alpha)
            ours = focal.loss(logits, label, focal.Config(alpha=alpha))
            theirs = 3 * referee(logits, truth)  # it divides by the classes too
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)

        # a guess that is nowhere above one half has no surface: the one-sided form is left
        low = logits.clone()
        low[:, 0] = low[:, 1:].amax(1) + 0.5
        theirs = HausdorffDTLoss(**hot, alpha=2.0)(low, truth) / 20**2
        assert hausdorff.loss(low, label).item() == pytest.approx(theirs.item(), rel=1e-5)

        logits, label = noise((1, *shape[1:]), 2, seed)
        referee = SoftclDiceLoss(iter_=3, smooth=1e-9, **hot)
        ours = cldice.loss(logits, label, cldice.Config(iterations=3))
        theirs = referee(logits, label[:, None])
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


# ---------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (dice.Config, {"weight": -1.0}),
        (dice.Config, {"weight": math.nan}),
        (dice.Config, {"weight": math.inf}),
        (dice.Config, {"warm_up": 1.0}),
        (dice.Config, {"ramp": -0.1}),
        (cross_entropy.Config, {"label_smoothing": 1.0}),
        (tversky.Config, {"alpha": -0.1}),
        (tversky.Config, {"alpha": 0.0, "beta": 0.0}),
        (focal.Config, {"gamma": -1.0}),
        (focal.Config, {"alpha": 1.0}),
        (top_k.Config, {"share": 0.0}),
        (boundary.Config, {"clip_mm": 0.0}),
        (hausdorff.Config, {"alpha": 0.0}),
        (hausdorff.Config, {"clip_mm": -1.0}),
        (signed_distance.Config, {"tau_mm": 0.0}),
        (signed_distance.Config, {"relative": True}),
        (cldice.Config, {"iterations": 0}),
    ],
)
def test_impossible_settings_are_refused(cls: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        cls(**wrong)
