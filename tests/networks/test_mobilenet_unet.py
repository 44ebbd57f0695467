from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import _blocks as blocks
from delineate.networks import mobilenet_unet


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make(channels: int = 3, **changes: Any) -> mobilenet_unet.MobileNetUNet:
    torch.manual_seed(0)
    config = mobilenet_unet.Config(**{"ndim": 2, **changes})
    return mobilenet_unet.build(config, channels, 2)


def test_parameters_are_those_of_the_published_encoder() -> None:
    """All of MobileNetV2 has 3,504,872, of them in the last convolution and the classifier ..."""
    last = 320 * 1280 + 2 * 1280
    classifier = 1280 * 1000 + 1000
    encoder = make(norm="batch").encoder
    assert blocks.count_parameters(encoder) == 3_504_872 - last - classifier


def test_names_are_those_of_weights_in_circulation() -> None:
    net = make(norm="batch")
    state = net.encoder.state_dict()
    assert state["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert "features.0.1.running_mean" in state
    # no expansion in the first block
    assert state["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3)
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.1.conv.2.weight"].shape == (16,)
    assert state["features.2.conv.0.0.weight"].shape == (96, 16, 1, 1)
    assert state["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3)
    assert state["features.17.conv.2.weight"].shape == (320, 960, 1, 1)
    assert state["features.17.conv.3.running_var"].shape == (320,)
    assert not [key for key in state if key.startswith("features.18")]

    local = {key: torch.full_like(value, 2) for key, value in state.items()}
    local |= {"features.18.0.weight": torch.ones(1), "classifier.1.bias": torch.ones(1)}
    left = net.encoder.load_state_dict(local, strict=False)
    assert left.missing_keys == []
    assert set(left.unexpected_keys) == {"features.18.0.weight", "classifier.1.bias"}
    assert all((value == 2).all() for value in net.encoder.state_dict().values())


@pytest.mark.parametrize("levels", range(2, 7))
def test_fewer_levels_drop_the_last_strides_and_keep_the_weights(levels: int) -> None:
    net = make(width=8, levels=levels).eval()
    with torch.no_grad():
        found = net.encode(image(1, 3, 64, 128))
        assert net(image(1, 3, 64, 128)).shape == (1, 2, 64, 128)
    assert [tuple(y.shape[2:]) for y in found] == [(64 >> i, 128 >> i) for i in range(levels)]
    assert found[-1].shape[1] == 320 // 4
    assert net.encoder.state_dict().keys() == make(width=8).encoder.state_dict().keys()


def test_the_image_itself_reaches_the_last_stage() -> None:
    net = make(channels=1, width=8).eval()
    assert torch.equal(net.encode(image(1, 1, 64, 64))[0], image(1, 1, 64, 64))
    assert net.decoder[0][0][0].in_channels == 1 + 4


def test_widths_follow_the_first_convolution() -> None:
    assert [make(width=w).encoder.widths for w in (16, 32)] == [
        [8, 12, 16, 48, 160],
        [16, 24, 32, 96, 320],
    ]


def test_a_bottleneck_adds_only_where_shapes_agree() -> None:
    features = make(width=8).encoder.features
    added = [i for i, block in enumerate(features) if getattr(block, "shortcut", False)]
    assert added == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]


def test_more_levels_than_the_encoder_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 2 to 6"):
        mobilenet_unet.Config(levels=7)
