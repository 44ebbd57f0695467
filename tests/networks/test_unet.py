from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import unet


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**changes: Any) -> unet.UNet:
    torch.manual_seed(0)
    return unet.build(unet.Config(**{"ndim": 2, "width": 4, "levels": 3, **changes}), 1, 2)


def test_parameters_are_those_counted_by_hand() -> None:
    # 2D, widths 4 and 8: two convolutions a level, each with a bias and an affine norm
    fine = (1 * 4 * 9 + 4) + 8 + (4 * 4 * 9 + 4) + 8
    coarse = (4 * 8 * 9 + 8) + 16 + (8 * 8 * 9 + 8) + 16
    up = 8 * 4 * 4 + 4
    joined = (8 * 4 * 9 + 4) + 8 + (4 * 4 * 9 + 4) + 8
    head = 4 * 2 + 2
    assert blocks.count_parameters(make(levels=2)) == fine + coarse + up + joined + head == 1714
    # without skips the decoder's first convolution sees 4 channels, not 8
    assert blocks.count_parameters(make(levels=2, skips=False)) == 1714 - 4 * 4 * 9
    # a second head at widths[1] = 8
    assert blocks.count_parameters(make(deep_supervision=1)) == (
        blocks.count_parameters(make()) + 8 * 2 + 2
    )


def test_width_doubles_up_to_its_limit() -> None:
    net = make(levels=5, max_width=16)
    assert [stage[-1][0].out_channels for stage in net.encoder] == [4, 8, 16, 16, 16]


@pytest.mark.parametrize("skips", [True, False])
def test_without_skips_nothing_passes_beside_the_bottleneck(skips: bool) -> None:
    net = make(skips=skips).eval()
    net.encoder[-1].register_forward_hook(lambda module, inputs, out: torch.ones_like(out))
    with torch.no_grad():
        one, two = net(image(1, 1, 16, 16)), net(image(1, 1, 16, 16, seed=1))
    assert torch.equal(one, two) is not skips


def test_deep_supervision_gives_a_list_while_training_alone() -> None:
    net = make(levels=4, deep_supervision=2)
    found = net.train()(image(2, 1, 32, 16))
    assert [tuple(y.shape) for y in found] == [(2, 2, 32, 16), (2, 2, 16, 8), (2, 2, 8, 4)]
    in_use = net.eval()(image(2, 1, 32, 16))
    assert torch.allclose(in_use, found[0])
    # the coarsest level is the encoder's: a 3-level network has two decoder levels at most
    assert len(make(deep_supervision=9).train()(image(1, 1, 16, 16))) == 2
    assert isinstance(make(levels=2, deep_supervision=1).train()(image(1, 1, 16, 16)), Tensor)


@pytest.mark.parametrize("down", ["stride", "max"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_way_down_and_norm_halves_as_it_says(down: str, norm: str) -> None:
    net = make(levels=4, down=down, norm=norm)
    seen = []
    net.encoder[-1].register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape)))
    assert net(image(2, 1, 32, 16)).shape == (2, 2, 32, 16)
    assert seen == [(2, 32, 4, 2)]


def test_instance_norm_does_not_mind_gain_and_offset() -> None:
    """Each image is normalised by itself after the first convolution, away from the rim."""
    net = make(levels=2).eval()
    stage = net.encoder[0][0]
    x = image(1, 1, 16, 16)
    inner = (..., slice(1, -1), slice(1, -1))  # the padding with 0 is not shifted along
    plain, changed = stage[0](x)[inner], stage[0](3 * x + 7)[inner]
    assert torch.allclose(stage[1](plain), stage[1](changed), atol=1e-4)


def test_dropout_works_in_training_alone() -> None:
    net = make(dropout=0.5)
    x = image(1, 1, 16, 16)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_a_patch_of_one_coarse_voxel_is_refused_in_words() -> None:
    """Instance norm over one voxel is 0 / 0; torch would stop with a bare ValueError."""
    net = make(levels=4)
    for mode in (True, False):
        with pytest.raises(ConfigError, match="one voxel") as caught:
            net.train(mode)(image(1, 1, 8, 8))
        assert "(16, 16)" in str(caught.value)
    assert net(image(1, 1, 8, 16)).shape == (1, 2, 8, 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ndim": 4},
        {"levels": 1},
        {"width": 0},
        {"max_width": 0},
        {"down": "average"},
        {"deep_supervision": -1},
        {"dropout": 1.0},
        {"norm": "layer"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make(**wrong)
