"""Losses of the game between a segmenter and a critic; scores are logits, high means real.

Non-saturating: Goodfellow et al. 2014 (arXiv:1406.2661); hinge: Lim and Ye 2017
(arXiv:1705.02894); R1: Mescheder et al. 2018 (arXiv:1801.04406); distance of features at several
scales: Xue et al. 2018 (arXiv:1706.01805).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def critic_loss(real: Tensor, fake: Tensor, kind: str = "hinge") -> Tensor:
    """What the critic minimises.

    Args:
        real: Scores of expert masks.
        fake: Scores of predicted masks.
        kind: ``hinge``, ``nonsaturating``, or ``swapped``: the loss as S1 prints it (A4), whose
            labels are exchanged, so that it teaches the critic to call fakes real.
    """
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "swapped":
        real, fake = fake, real
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def segmenter_loss(fake: Tensor, kind: str = "hinge") -> Tensor:
    """What the segmenter adds to its own loss: to be scored as real."""
    return -fake.mean() if kind == "hinge" else F.softplus(-fake).mean()


def feature_distance(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """``(1/L) sum_l mean |f_l - g_l|``: SegAN's loss, which its critic maximises.

    Args:
        features: Features of the predicted mask, one tensor a layer, any shapes.
        reference: Features of the expert mask.
    """
    pairs = zip(features, reference, strict=True)
    return torch.stack([F.l1_loss(f, g) for f, g in pairs]).mean()


def r1(real: Tensor, inputs: Tensor, signs: Tensor | None = None) -> Tensor:
    """Squared gradient of the real scores with respect to the critic's input, mean over scores.

    A critic that scores patches has many scores an image. Each is a critic of its own patch, and
    what should be bounded is each one's gradient. With random ``signs`` the products of different
    scores' gradients vanish in expectation, and their squares remain. Without, gradients add up
    where patches overlap, which punishes a patch critic many times over (docs/LOG.md).

    Args:
        real: ``(B, 1, ...)`` scores of ``inputs``.
        inputs: ``(B, C, *S)`` with ``requires_grad``.
        signs: +1 or -1, drawn at random, of the shape of ``real``; None: all +1.
    """
    total = (real if signs is None else real * signs).sum()
    (gradient,) = torch.autograd.grad(total, inputs, create_graph=True)
    return gradient.float().square().sum() / real.numel()
