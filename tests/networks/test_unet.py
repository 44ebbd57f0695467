from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import unet
from delineate.networks._blocks import UShape


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**changes: Any) -> UShape:
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


@pytest.mark.parametrize("options", [{}, {"residual": True, "squeeze": True, "down": "max"}])
@pytest.mark.parametrize("skips", [True, False])
def test_without_skips_nothing_passes_beside_the_bottleneck(
    skips: bool, options: dict[str, Any]
) -> None:
    net = make(skips=skips, **options).eval()
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


def test_models_of_the_past_load() -> None:
    """The names of a default network's weights are those of every model file written so far."""
    unit = ["0.weight", "0.bias", "1.weight", "1.bias"]
    stages = [f"encoder.{i}.{j}" for i in range(3) for j in range(2)]
    joined = [f"decoder.{i}.{j}" for i in range(2) for j in range(2)]
    expected = [f"{stage}.{name}" for stage in stages for name in unit]
    expected += [f"up.{i}.{name}" for i in range(2) for name in ("weight", "bias")]
    expected += [f"{stage}.{name}" for stage in joined for name in unit]
    assert list(make().state_dict()) == [*expected, "heads.0.weight", "heads.0.bias"]
    assert len(make(dropout=0.5).state_dict()) == len(expected) + 2
    pooled = make(down="max").state_dict()
    assert "encoder.1.1.0.weight" in pooled
    assert "encoder.1.0.0.weight" not in pooled


def test_a_residual_stage_adds_to_what_it_sees() -> None:
    block = unet.Residual(2, 4, 4, "instance", stride=1)
    torch.nn.init.zeros_(block.body[-1].weight)
    x = image(2, 4, 8, 8)
    assert torch.equal(block(x), torch.nn.functional.leaky_relu(x, 0.01))
    halved = unet.Residual(2, 4, 6, "instance", stride=2)
    assert halved(x).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("nd", [2, 3])
def test_a_squeeze_without_opinion_halves(nd: int) -> None:
    squeeze = unet.ConcurrentSqueeze(nd, 4)
    for parameter in squeeze.parameters():
        torch.nn.init.zeros_(parameter)
    x = image(2, 4, *[5] * nd)
    assert torch.allclose(squeeze(x), x / 2)


def test_a_squeeze_takes_the_larger_of_channel_and_place() -> None:
    squeeze = unet.ConcurrentSqueeze(2, 1)
    for parameter in squeeze.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        squeeze.place.weight.fill_(100.0)  # bright places pass, dark ones do not
    x = torch.tensor([[[[2.0, -2.0]]]])
    # dark: the channel's weight of a half gives -1, the place's weight of nothing gives 0
    assert torch.allclose(squeeze(x), torch.tensor([[[[2.0, 0.0]]]]))


def test_levels_that_a_patch_cannot_take_are_refused_with_those_it_can() -> None:
    net = make(levels=8, residual=True, width=1, max_width=4).eval()
    with torch.no_grad():
        assert net(image(1, 1, 256, 128)).shape == (1, 2, 256, 128)
    for shape, advice in {
        (128, 128): "pad to (256, 256), or use levels=7",  # one voxel would be left
        (192, 192): "pad to (256, 256), or use levels=7",
        (96, 160): "or use levels=6",
        (99, 160): "pad to (128, 256)",  # an odd size cannot be halved at all
    }.items():
        with pytest.raises(ConfigError) as caught:
            net(image(1, 1, *shape))
        assert caught.value.code == "size"
        assert advice in str(caught.value)
    # the advice is good
    for shape, levels in {(128, 128): 7, (192, 192): 7, (96, 160): 6}.items():
        taken = make(levels=levels, width=1, max_width=4).eval()
        with torch.no_grad():
            assert taken(image(1, 1, *shape)).shape == (1, 2, *shape)


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


# ------------------------------------------------------------------------------------ axis by axis

THICK: dict[str, Any] = {
    "ndim": 3,
    "levels": 4,
    "strides": ((2, 2, 1), (2, 2, 2), (2, 2, 1)),
    "kernels": ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
}


@pytest.mark.parametrize(
    "options", [{}, {"down": "max"}, {"residual": True}, {"residual": True, "down": "max"}]
)
def test_each_axis_is_halved_as_its_strides_say(options: dict[str, Any]) -> None:
    net = make(**THICK, **options, deep_supervision=2)
    assert unet.divisor(net.config) == (8, 8, 2)
    seen = []
    net.encoder[-1].register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape)))
    outputs = net.train()(image(1, 1, 24, 16, 6))
    assert seen == [(1, 32, 3, 2, 3)]
    assert [tuple(y.shape[2:]) for y in outputs] == [(24, 16, 6), (12, 8, 6), (6, 4, 3)]


@pytest.mark.parametrize("residual", [False, True])
def test_where_kernels_are_flat_slices_do_not_know_of_each_other(residual: bool) -> None:
    net = make(**{**THICK, "strides": ((2, 2, 1),) * 3, "kernels": ((3, 3, 1),) * 4})
    net = make(**{**net.config.__dict__, "residual": residual, "norm": "batch"}).eval()
    one = image(1, 1, 16, 16, 4)
    two = one.clone()
    two[..., 3] = 0
    with torch.no_grad():
        first, second = net(one), net(two)
    assert torch.equal(first[..., :3], second[..., :3])
    assert not torch.equal(first[..., 3], second[..., 3])


def test_strides_that_halve_everything_are_the_same_network() -> None:
    plain = make(ndim=3)
    spelt = make(ndim=3, strides=((2, 2, 2),) * 2, kernels=((3, 3, 3),) * 3)
    x = image(1, 1, 8, 8, 8)
    assert torch.equal(plain.eval()(x), spelt.eval()(x))


@pytest.mark.parametrize(
    ("size", "words"),
    [((24, 20, 6), "pad to (24, 24, 6)"), ((8, 8, 2), "pad to (16, 16, 4)")],
)
def test_a_size_that_strides_do_not_divide_is_refused(size: tuple[int, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**THICK)(image(1, 1, *size))
    assert caught.value.code == "size"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": 3},
        {"strides": ((2, 2),) * 3},
        {"strides": ((3, 2, 2),) * 3},
        {"kernels": ((3, 3, 1),) * 3},
        {"kernels": ((5, 3, 1),) * 4},
    ],
)
def test_strides_and_kernels_that_do_not_suit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected \d (strides|kernels) of 3 numbers"):
        unet.Config(**{**THICK, **changes})
