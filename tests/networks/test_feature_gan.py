"""The generator of feature maps, its read-out, and the CNN that sees them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from delineate.core.errors import ConfigError
from delineate.networks import _feature_gan, feature_cnn, feature_segmenter


def widths(module: nn.Module, kind: type[nn.Module]) -> list[int]:
    return [int(m.out_channels) for m in module.modules() if isinstance(m, kind)]  # type: ignore[call-overload]


def test_it_is_the_generator_and_the_cnn_that_are_described() -> None:
    net = feature_cnn.build(feature_cnn.Config(width=64, norm="batch", features=3), 7, 2)
    assert widths(net.generator.down, nn.Conv2d) == [64, 128, 256]
    assert widths(net.generator.up, nn.ConvTranspose2d) == [128, 64, 64]
    noisy = [any(isinstance(m, nn.Dropout) for m in block) for block in net.generator.up]
    assert noisy == [True, True, False]
    assert widths(net.classifier.features, nn.Conv2d) == [32, 64, 128]
    assert next(iter(net.classifier.features)).in_channels == 3 + 7
    assert net.classifier.dense[0].out_features == 128
    alone = feature_cnn.build(feature_cnn.Config(features=3, sees_image=False), 7, 2)
    assert next(iter(alone.classifier.features)).in_channels == 3


def test_maps_lie_between_minus_and_plus_one_and_start_near_zero() -> None:
    torch.manual_seed(0)
    net = feature_segmenter.build(feature_segmenter.Config(), 2, 3)
    maps = net.generator(torch.randn(2, 2, 16, 24))
    assert maps.shape == (2, 2, 16, 24)
    assert 0 < maps.abs().max() < 0.9


def test_its_noise_is_for_training_alone() -> None:
    torch.manual_seed(0)
    net = feature_segmenter.build(feature_segmenter.Config(), 1, 2)
    x = torch.randn(1, 1, 16, 16)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_the_read_out_is_background_unless_a_map_is_positive() -> None:
    maps = torch.tensor([[-0.2, 0.1, 0.3], [-0.1, 0.4, -0.5]]).reshape(1, 2, 1, 3)
    logits = _feature_gan.ReadOut(kappa=2.0)(maps)
    assert logits.argmax(1).flatten().tolist() == [0, 2, 1]
    assert torch.allclose(logits[:, 1:], 2 * maps)
    assert torch.equal(logits[:, 0], torch.zeros(1, 1, 3))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"depth": 0}, {"noise": 1.0}, {"norm": "layer"}, {"features": 0},
              {"cnn_width": 0}, {"cnn_norm": "layer"}, {"ndim": 1}],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        feature_cnn.Config(**wrong)  # type: ignore[arg-type]
