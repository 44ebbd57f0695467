from __future__ import annotations

from typing import Any

import pytest
import torch

from delineate.core.errors import ConfigError
from delineate.networks import _vae as vae
from delineate.networks import film_unet, vae_cnn

SMALL: dict[str, Any] = {"width": 4, "common": 6, "unique": 3, "grid": 2}


def make(channels: int = 2, ndim: int = 2, **given: Any) -> vae_cnn.VaeCnn:
    torch.manual_seed(0)
    return vae_cnn.build(vae_cnn.Config(ndim=ndim, **SMALL, **given), channels, 3)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, ((0,), (0,))),
        (2, ((0,), (1,))),
        (3, ((0,), (1, 2))),
        (5, ((0, 1), (2, 3, 4))),  # an image and its equalised twin; three clusters
    ],
)
def test_channels_are_halved_between_the_encoders(channels: int, expected: Any) -> None:
    assert vae.CodeConfig().split(channels) == expected


def test_channels_can_be_chosen() -> None:
    net = make(3, first=(0,), second=(1,)).eval()
    x = torch.randn(2, 3, 32, 32)
    one, two = net.branches.pictures(x)
    assert torch.equal(one, x[:, :1])
    assert torch.equal(two, x[:, 1:2])
    other = x.clone()
    other[:, 2] = 9
    assert torch.equal(net(x), net(other)), "a channel that is in neither is not seen"
    for wrong in ({"first": (0,)}, {"first": (-1,), "second": (0,)}):
        with pytest.raises(ConfigError):
            make(3, **wrong)
    with pytest.raises(ConfigError, match="got 3") as caught:
        make(3, first=(0,), second=(3,))
    assert caught.value.code == "channel-unknown"


def test_the_joined_code_is_the_mean_common_one_and_both_unique_ones() -> None:
    net = make().eval()
    x = torch.randn(2, 2, 32, 48)
    first, second = net.branches(x)
    code = net.branches.code(x)
    assert code.shape == (2, 6 + 2 * 3)
    torch.testing.assert_close(code[:, :6], (first.common.mean + second.common.mean) / 2)
    assert torch.equal(code[:, 6:9], first.unique.mean)
    assert torch.equal(code[:, 9:], second.unique.mean)


def test_training_draws_and_use_does_not() -> None:
    net = make(dropout=0.0)
    x = torch.randn(2, 2, 32, 32)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    torch.testing.assert_close(net(x), net.classify(net.branches.code(x)))


def test_draws_have_the_mean_and_the_spread_that_they_should() -> None:
    torch.manual_seed(0)
    code = vae.Normal(torch.tensor([[1.0, -2.0]]), torch.tensor([[4.0, 0.25]]).log())
    drawn = torch.cat([code.draw() for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([2.0, 0.5]), atol=0.1, rtol=0)


@pytest.mark.parametrize("size", [(33, 20), (16, 16), (17, 24, 9)])
def test_a_decoder_gives_a_picture_of_any_size(size: tuple[int, ...]) -> None:
    config = vae.CodeConfig(common=6, unique=3, grid=2)
    decoder = vae.Decoder(len(size), 2, 4, config)
    found = decoder(torch.randn(3, 6), torch.randn(3, 3), size)
    assert found.shape == (3, 2, *size)


def film(**given: Any) -> film_unet.FilmUNet:
    torch.manual_seed(0)
    return film_unet.build(film_unet.Config(ndim=2, **SMALL, **given), 2, 3)


def test_the_coarsest_level_and_two_decoder_levels_are_modulated() -> None:
    def stages(net: film_unet.FilmUNet) -> list[str]:
        return [n for n, m in net.named_modules() if isinstance(m, film_unet.Stage)]

    assert stages(film(levels=5)) == ["bottleneck", "decoder.2", "decoder.3"]
    assert stages(film(levels=2)) == ["bottleneck", "decoder.0"]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_outlines_depend_on_the_code(norm: str) -> None:
    net = film(levels=4, norm=norm).eval()
    x = torch.randn(2, 2, 32, 32)
    code = net.branches.code(x)
    assert torch.equal(net(x), net.segment(x, code))
    assert (net.segment(x, code) - net.segment(x, -code)).abs().max() > 1e-4


def test_without_factors_and_offsets_it_is_a_plain_network() -> None:
    net = film(levels=3).eval()
    x = torch.randn(2, 2, 16, 16)
    for part in net.modules():
        if isinstance(part, film_unet.Stage):
            torch.nn.init.zeros_(part.film.weight)
    code = net.branches.code(x)
    assert torch.equal(net.segment(x, code), net.segment(x, 5 - code))
