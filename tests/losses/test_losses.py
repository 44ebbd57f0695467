from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from delineate.losses import _sum, adversarial, class_bce
from delineate.losses._common import EPSILON
from delineate.losses.dice import soft_dice


def two_class(foreground: list[float]) -> Tensor:
    """``(1, 2, n)`` background first."""
    found = torch.tensor(foreground)
    return torch.stack([1 - found, found])[None]


def dice_and_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """What segmenters learn by where nothing else is said."""
    return _sum.build(_sum.DEFAULT)(logits, label)[0]


# ------------------------------------------------------------------------------- Dice and CE


def test_soft_dice_of_a_hand_worked_case() -> None:
    # overlap 1 + 0.5, sizes 1.5 and 2: Dice = 2 x 1.5 / 3.5 = 6/7
    found = soft_dice(two_class([1, 0.5, 0, 0]), two_class([1, 1, 0, 0]))
    assert found.item() == pytest.approx(1 / 7, abs=1e-5)


def test_soft_dice_pools_the_batch_before_it_divides() -> None:
    # one voxel found, one falsely: Dice = 2 x 1 / (2 + 1) over the batch, not mean(1, 0)
    guess = torch.cat([two_class([1.0]), two_class([1.0])])
    truth = torch.cat([two_class([1.0]), two_class([0.0])])
    assert soft_dice(guess, truth).item() == pytest.approx(1 / 3, abs=1e-5)


def test_soft_dice_leaves_the_background_out_and_averages_labels() -> None:
    truth = torch.eye(3)[None]  # each voxel another class
    guess = torch.tensor([[[1.0, 0, 0], [0, 1, 1], [0, 0, 0]]])
    # label 1: 2 x 1 / (2 + 1); label 2: nothing found of one voxel
    assert soft_dice(guess, truth).item() == pytest.approx(1 - (2 / 3 + 0) / 2, abs=1e-4)


def test_undecided_logits_cost_what_they_should() -> None:
    # p = 1/2 everywhere, half is foreground: Dice = 2 x 1 / (2 + 2), CE = ln 2
    label = torch.tensor([[1, 1, 0, 0]], dtype=torch.uint8)
    found = dice_and_entropy(torch.zeros(1, 2, 4), label)
    assert found.item() == pytest.approx(0.5 + math.log(2), abs=1e-5)


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 8)])
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much(shape: tuple[int, ...]) -> None:
    label = torch.randint(0, 3, (2, *shape), generator=torch.Generator().manual_seed(0)).byte()
    right = nn.functional.one_hot(label.long(), 3).movedim(-1, 1) * 40.0
    assert dice_and_entropy(right, label).item() == pytest.approx(0, abs=1e-5)
    assert class_bce.loss(right - 20, label).item() == pytest.approx(0, abs=1e-5)
    assert dice_and_entropy(right.roll(1, 1), label).item() > 10


def test_a_label_that_is_nowhere_and_not_guessed_costs_nothing() -> None:
    label = torch.zeros((1, 4), dtype=torch.uint8)
    logits = torch.zeros(1, 2, 4)
    logits[:, 0] = 60
    logits.requires_grad_()
    found = dice_and_entropy(logits, label)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_raises_the_right_class_at_every_voxel() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 5, 5), generator=generator).byte()
    logits = torch.randn((2, 3, 5, 5), generator=generator).requires_grad_()
    dice_and_entropy(logits, label).backward()
    assert (logits.grad.gather(1, label.long()[:, None]) < 0).all()


def test_half_precision_logits_lose_nothing_on_the_way() -> None:
    """Summed in bfloat16 the loss of a nearly right volume was off by half."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 16, 16, 16), generator=generator).byte()
    hot = nn.functional.one_hot(label.long(), 3).movedim(-1, 1)
    logits = (8 * hot + torch.randn(hot.shape, generator=generator)).bfloat16()
    found = dice_and_entropy(logits, label)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(dice_and_entropy(logits.float(), label).item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8), (6, 6, 6)])
def test_dice_and_cross_entropy_agree_with_monai(shape: tuple[int, ...]) -> None:
    from monai.losses import DiceCELoss

    referee = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True,
        smooth_nr=EPSILON, smooth_dr=EPSILON,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        logits = 2 * torch.randn((3, 4, *shape), generator=generator)
        label = torch.randint(0, 4, (3, *shape), generator=generator)
        theirs = referee(logits, label[:, None])
        assert dice_and_entropy(logits, label.byte()).item() == pytest.approx(
            theirs.item(), rel=1e-5
        )


def test_deep_supervision_weighs_by_powers_of_two() -> None:
    label = torch.zeros((1, 8, 8), dtype=torch.uint8)
    label[:, :4] = 2
    seen = []

    def one(logits: Tensor, truth: Tensor) -> Tensor:
        assert truth.shape == (1, *logits.shape[2:])
        seen.append(sorted(set(truth.flatten().tolist())))
        assert torch.equal(
            truth[:, : truth.shape[1] // 2] == 2, truth[:, : truth.shape[1] // 2] > 0
        )
        return torch.tensor({8: 1.0, 4: 10.0, 2: 100.0}[logits.shape[-1]])

    outputs = [torch.zeros(1, 3, n, n) for n in (8, 4, 2)]
    # (4 x 1 + 2 x 10 + 1 x 100) / 7
    assert _sum.deeply_supervised(one, outputs, label).item() == pytest.approx(124 / 7)
    assert seen == [[0, 2]] * 3
    assert _sum.deeply_supervised(one, outputs[0], label).item() == 1.0
    assert _sum.deeply_supervised(one, outputs[:1], label).item() == 1.0


def test_class_cross_entropy_of_a_hand_worked_case() -> None:
    # sigmoid outputs 0.25 and 0.8 for classes 0 and 1, the truth is class 1
    logits = torch.tensor([0.25, 0.8]).logit().view(1, 2, 1)
    found = class_bce.loss(logits, torch.tensor([[1]], dtype=torch.uint8))
    assert found.item() == pytest.approx(-(math.log(0.75) + math.log(0.8)) / 2, abs=1e-6)


# --------------------------------------------------------------------------------- the game


def test_hinge_counts_only_scores_that_are_not_yet_clear() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.5])
    # mean(0, 1) + mean(0, 1.5)
    assert adversarial.critic_loss(real, fake).item() == pytest.approx(0.5 + 0.75)
    assert adversarial.segmenter_loss(fake).item() == pytest.approx(0.75)


def test_the_non_saturating_game_starts_at_two_ln_two() -> None:
    zero = torch.zeros(3)
    found = adversarial.critic_loss(zero, zero, "nonsaturating")
    assert found.item() == pytest.approx(2 * math.log(2))
    assert adversarial.segmenter_loss(zero, "nonsaturating").item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("kind", "real_slope", "fake_slope"),
    [("hinge", -1.0, 1.0), ("nonsaturating", -0.5, 0.5), ("swapped", 0.5, -0.5)],
)
def test_the_swapped_loss_teaches_the_critic_the_opposite(
    kind: str, real_slope: float, fake_slope: float
) -> None:
    """A4 of S1: descending its loss lowers the scores of experts and raises those of fakes."""
    real, fake = (torch.zeros((), requires_grad=True) for _ in range(2))
    adversarial.critic_loss(real, fake, kind).backward()
    assert (real.grad.item(), fake.grad.item()) == (real_slope, fake_slope)


def test_r1_of_a_linear_critic_is_the_square_of_its_weights() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    inputs = torch.randn(2, 1, 3, requires_grad=True)
    scores = (inputs * weights).sum(2)
    found = adversarial.r1(scores, inputs)
    assert found.item() == pytest.approx(1 + 4 + 9)
    found.backward()
    assert weights.grad.tolist() == pytest.approx([2, 4, 6])  # differentiable once more


@pytest.mark.parametrize("n", [4, 16, 64])
def test_r1_of_a_patch_critic_does_not_grow_with_the_image(n: int) -> None:
    inputs = torch.randn(2, 1, n, n, requires_grad=True)
    assert adversarial.r1(3 * inputs, inputs).item() == pytest.approx(9)  # one score a voxel
