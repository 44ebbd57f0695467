"""Translation learns from the voxels that are known, and from nothing else."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.methods import translate
from delineate.networks import unet


def batch() -> Batch:
    image = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    label = torch.zeros((2, 16, 16), dtype=torch.uint8)
    return Batch(image, label, target=image.mean(1, keepdim=True))


def test_the_error_is_the_mean_over_known_voxels() -> None:
    target = torch.tensor([[[[1.0, 2.0], [math.nan, 4.0]]]])
    assert translate.absolute_error(torch.zeros(1, 1, 2, 2), target).item() == pytest.approx(7 / 3)
    assert translate.absolute_error(torch.ones(1, 1, 2, 2), target * math.nan).item() == 0
    assert translate.absolute_error(torch.zeros(1, 1, 1, 1), target).item() == 1  # the nearest


@pytest.mark.parametrize("deep", [0, 1])
def test_no_slope_comes_from_unknown_voxels_and_unlabelled_samples(deep: int) -> None:
    network = unet.build(unet.Config(2, 4, 3, deep_supervision=deep), 3, 1)
    plan = translate.build(
        translate.Config(), network, Context(2, 3, 1, Schema(()), target="image")
    )
    slopes: list[Tensor] = []
    network.register_forward_hook(
        lambda _m, _i, out: (out[0] if deep else out).register_hook(slopes.append) and None
    )
    given = dataclasses.replace(batch(), labelled=torch.tensor([True, False]))
    assert given.target is not None
    given.target[0, :, 4:8] = math.nan

    class Update:
        progress, last, averaged = 0.5, True, network

        def __call__(self, optimiser: object, loss: Tensor) -> None:
            loss.backward()

    said = plan.stages[0].step(given, Update())
    assert torch.isfinite(said["loss"])
    (slope,) = slopes
    assert not slope[1].any()
    assert not slope[0, :, 4:8].any()
    assert slope[0, :, :4].any()


def test_batches_without_images_are_refused() -> None:
    network = unet.build(unet.Config(2, 4, 2), 3, 1)
    plan = translate.build(
        translate.Config(), network, Context(2, 3, 1, Schema(()), target="image")
    )
    with pytest.raises(ConfigError, match="--target image"):
        plan.stages[0].step(dataclasses.replace(batch(), target=None), lambda *_: None)  # type: ignore[arg-type]
