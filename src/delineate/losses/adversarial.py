"""Losses of the game between a segmenter and a critic; scores are logits, high means real.

Non-saturating: Goodfellow et al. 2014 (arXiv:1406.2661); hinge: Lim and Ye 2017
(arXiv:1705.02894); R1: Mescheder et al. 2018 (arXiv:1801.04406).
"""

from __future__ import annotations

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


def r1(real: Tensor, inputs: Tensor) -> Tensor:
    """Squared gradient of the real scores with respect to the critic's input, mean over cases.

    For a critic that scores patches it is the mean over the scores too, so that a penalty weight
    means the same whatever the size of the image.

    Args:
        real: ``(B, 1, ...)`` scores of ``inputs``.
        inputs: ``(B, C, *S)`` with ``requires_grad``.
    """
    (gradient,) = torch.autograd.grad(real.sum(), inputs, create_graph=True)
    return gradient.float().square().sum() / real.numel()
