"""What rival classifiers have in common: they learn, say their features, and take any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.networks import _imagenet, _pooling, cnn, dcnn, ensemble, lenet

#: Small settings, and a size at which the last features are not all at one place.
SMALL: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("cnn", {"width": 8}, (33, 32)),
    ("cnn", {"width": 8, "depth": 2, "norm": "batch", "ndim": 3}, (9, 12, 10)),
    ("dcnn", {"width": 4}, (33, 32)),
    ("vgg", {"width": 4, "depth": 11}, (33, 32)),
    ("alexnet", {"width": 8}, (33, 32)),
    ("lenet", {}, (33, 32)),
    ("lenet", {"pool": "avg"}, (33, 32)),
    ("lenet", {"pool": "minmax"}, (33, 32)),
    ("googlenet", {"width": 8}, (40, 40)),
    ("inception_v3", {"width": 4}, (107, 107)),
    ("resnet", {"width": 8}, (48, 47)),
    ("resnet", {"width": 4, "ndim": 3}, (16, 24, 20)),
    ("densenet", {"width": 8, "layers": (2, 2, 2)}, (48, 47)),
    ("densenet", {"width": 8, "layers": (2, 2), "ndim": 3}, (16, 24, 20)),
    ("efficientnet", {"width": 8}, (40, 40)),
    ("ensemble", {"width": 4, "depths": (11, 13), "dropout": 0.0}, (33, 32)),
    ("dbn", {}, (33, 32)),
]
each = pytest.mark.parametrize(
    ("name", "settings", "size"),
    [pytest.param(*row, id="-".join([row[0], *map(str, row[1].values())])) for row in SMALL],
)


def make(name: str, channels: int, outputs: int, **settings: Any) -> Any:
    module = catalog.load("networks", name)
    torch.manual_seed(0)
    return module.build(module.Config(**settings), channels, outputs)


def draw(batch: int, size: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise, brighter in one class."""
    label = torch.randint(2, (batch,), generator=generator)
    x = torch.randn((batch, 1, *size), generator=generator)
    return x + label.reshape(batch, 1, *[1] * len(size)) - 0.5, label


@pytest.mark.slow
@each
def test_bright_is_told_from_dark_within_sixty_steps(
    name: str, settings: dict[str, Any], size: tuple[int, ...]
) -> None:
    net = make(name, 1, 2, **settings).train()
    optimiser = torch.optim.Adam(net.parameters(), 5e-3 if name == "dbn" else 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60 if name == "dbn" else 40):
        x, label = draw(8, size, generator)
        loss = F.cross_entropy(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, label = draw(32, size, generator)
    with torch.no_grad():  # as in training: running averages lag behind so few and so large steps
        assert (net(x).argmax(1) == label).float().mean() > 0.8


@each
def test_features_are_what_the_logits_are_made_from(
    name: str, settings: dict[str, Any], size: tuple[int, ...]
) -> None:
    net = make(name, 2, 3, **settings).eval()
    x = torch.randn((2, 2, *size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = _pooling.features(net, x)
        assert found.ndim == 2
        assert len(found) == 2
        if name == "ensemble":
            assert found.shape[1] == 2 * 64 * settings["width"]
            return
        layer = [part for part in net.modules() if isinstance(part, torch.nn.Linear)][-1]
        assert torch.equal(layer(found), net(x))


@pytest.mark.parametrize("name", ["resganet_classifier", "lkmlp_classifier"])
def test_features_of_a_classifier_that_does_not_say_them(name: str) -> None:
    net = make(name, 1, 3, ndim=2, width=4).eval()
    x = torch.randn((2, 1, 17, 16), generator=torch.Generator().manual_seed(0))
    found = _pooling.features(net, x)
    assert torch.equal(net.head(found), net(x))
    assert found.requires_grad


def test_a_network_without_a_linear_layer_has_no_features() -> None:
    with pytest.raises(ConfigError, match="linear layer"):
        _pooling.features(torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(("name", "least"), [("alexnet", 7), ("lenet", 13), ("inception_v3", 75)])
def test_the_smallest_image_is_taken_and_a_smaller_one_refused(name: str, least: int) -> None:
    small = {} if name == "lenet" else {"width": 4}
    net = make(name, 1, 2, **small).eval()
    assert net(torch.zeros(1, 1, least, least + 3)).shape == (1, 2)
    with pytest.raises(ConfigError, match="at least") as caught:
        net(torch.zeros(1, 1, least + 3, least - 1))
    assert caught.value.code == "size"
    assert str((least + 3, least)) in str(caught.value)


@pytest.mark.parametrize("name", ["vgg", "googlenet", "resnet", "densenet", "efficientnet"])
def test_networks_of_large_stride_take_small_and_odd_images(name: str) -> None:
    net = make(name, 1, 2, width=4, **({"layers": (2, 2)} if name == "densenet" else {})).eval()
    for size in ((1, 5), (9, 31)):
        assert torch.isfinite(net(torch.zeros(1, 1, *size))).all()


# ------------------------------------------------------------------------------------------ cnn


def test_parameters_of_the_cnn_are_those_counted_by_hand() -> None:
    net = cnn.build(cnn.Config(depth=3), 1, 2)
    convolutions = (9 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 128
    norms = 2 * (32 + 64 + 128)
    dense = (128 + 1) * 128 + (128 + 1) * 2
    assert sum(p.numel() for p in net.parameters()) == convolutions + norms + dense


def test_depth_and_convolutions_are_what_they_say() -> None:
    for depth in (2, 5):
        net = cnn.build(cnn.Config(depth=depth), 1, 2)
        pools = [p for p in net.modules() if isinstance(p, _imagenet.HalvingPool)]
        assert len(pools) == depth
    deep = dcnn.build(dcnn.Config(ndim=3, width=2, convolutions=3), 1, 2)
    assert sum(isinstance(part, torch.nn.Conv3d) for part in deep.modules()) == 15


def test_a_cnn_refuses_what_would_leave_one_voxel() -> None:
    net = cnn.build(cnn.Config(width=4), 1, 2).eval()
    assert net(torch.zeros(1, 1, 9, 1)).shape == (1, 2)
    with pytest.raises(ConfigError, match="one voxel") as caught:
        net(torch.zeros(1, 1, 8, 8))
    assert "(9, 9)" in str(caught.value)


@pytest.mark.parametrize("module", [cnn, dcnn])
@pytest.mark.parametrize(
    "wrong", [{"ndim": 1}, {"width": 0}, {"depth": 0}, {"dropout": 1.0}, {"norm": "layer"}]
)
def test_impossible_settings_of_a_cnn_are_refused(module: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        module.Config(**wrong)
    with pytest.raises(ConfigError):
        dcnn.Config(convolutions=0)


# ---------------------------------------------------------------------------------------- lenet


def test_lenet_has_the_61706_parameters_of_the_textbooks() -> None:
    net = lenet.build(lenet.Config(), 1, 10)
    assert sum(p.numel() for p in net.parameters()) == 61_706


def test_min_max_pooling_worked_by_hand() -> None:
    x = torch.tensor([[1.0, -2.0, 5.0], [3.0, 0.0, 4.0]]).reshape(1, 1, 2, 3)
    found = lenet.MinMaxPool()(x)
    assert found.tolist() == [[[[3.0, 5.0]], [[-2.0, 4.0]]]]


def test_a_1x1_convolution_brings_the_doubled_channels_back() -> None:
    net = lenet.build(lenet.Config(pool="minmax"), 1, 2)
    kernels = [p.weight.shape for p in net.modules() if isinstance(p, torch.nn.Conv2d)]
    assert [tuple(k) for k in kernels] == [
        (6, 1, 5, 5),
        (6, 12, 1, 1),
        (16, 6, 5, 5),
        (16, 32, 1, 1),
    ]


@pytest.mark.parametrize(
    "wrong", [{"ndim": 3}, {"pool": "sum"}, {"filters": (6,)}, {"hidden": (120, 0)}]
)
def test_impossible_settings_of_lenet_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        lenet.Config(**wrong)


# ------------------------------------------------------------------------------------- ensemble


def test_an_ensemble_averages_probabilities() -> None:
    net = make("ensemble", 1, 3, width=2).eval()
    x = torch.randn((2, 1, 33, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (member(x).softmax(1) for member in net.members)
        assert not torch.allclose(one, two)
        assert torch.allclose(net(x).softmax(1), (one + two) / 2)
        assert torch.allclose(net(x).exp().sum(1), torch.ones(2))


def test_members_are_vgg_16_and_19_by_default() -> None:
    """Together the weights of both: 138,365,992 and 143,678,248 for a thousand classes."""
    with torch.device("meta"):
        net = ensemble.build(ensemble.Config(width=64), 3, 1000)
    assert sum(p.numel() for p in net.parameters()) == 138_365_992 + 143_678_248
    with pytest.raises(ConfigError):
        ensemble.Config(depths=())
    with pytest.raises(ConfigError):
        ensemble.Config(depths=(16, 18))
