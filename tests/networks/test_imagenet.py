"""Networks made for ImageNet: at the paper's width, names and shapes are those of torchvision."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delineate.core import catalog
from delineate.core.errors import ConfigError
from delineate.networks import (
    _imagenet,
    _transfer,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    resnet,
    vgg,
)

#: Of torchvision 0.29 with 1,000 classes: parameters, tensors, and the beginning of the SHA-256 of
#: the sorted lines "name (shape)" of the state.
FACTS: list[tuple[str, dict[str, Any], int, int, str]] = [
    ("alexnet", {"width": 64}, 61_100_840, 16, "935c1ea73a7869ee"),
    ("vgg", {"width": 64, "batch_norm": False}, 138_357_544, 32, "ba63c2556d912509"),
    ("vgg", {"width": 64}, 138_365_992, 97, "86bad13b66635552"),
    ("vgg", {"width": 64, "depth": 19, "batch_norm": False}, 143_667_240, 38, "393fac8b08b63fbe"),
    ("vgg", {"width": 64, "depth": 19}, 143_678_248, 118, "faf0fdbb92f698c6"),
    ("googlenet", {"width": 64}, 6_624_904, 344, "545eb1baab91f5d8"),
    ("googlenet", {"width": 64, "auxiliary": True}, 13_004_888, 364, "de3745733576b3b1"),
    ("inception_v3", {"width": 32}, 23_834_568, 566, "fafa341565705812"),
    ("inception_v3", {"width": 32, "auxiliary": True}, 27_161_264, 580, "4c9e13f64584de74"),
    ("resnet", {"width": 64}, 11_689_512, 122, "5191d63ec3989592"),
    ("resnet", {"width": 64, "depth": 34}, 21_797_672, 218, "f8de2a1812ef85e4"),
    ("resnet", {"width": 64, "depth": 50}, 25_557_032, 320, "a87e91cd6bd1f939"),
    ("resnet", {"width": 64, "depth": 101}, 44_549_160, 626, "dbc3ca74fffafc72"),
    ("resnet", {"width": 64, "depth": 152}, 60_192_808, 932, "7d486dbdc941506e"),
    ("densenet", {"width": 64}, 7_978_856, 727, "9c659ec278435e95"),
    ("densenet", {"width": 96, "depth": 161}, 28_681_000, 967, "96e788964c2c431f"),
    ("densenet", {"width": 64, "depth": 169}, 14_149_480, 1015, "03a0accd6e99d8d0"),
    ("densenet", {"width": 64, "depth": 201}, 20_013_928, 1207, "ebf13d018b02ad9d"),
    ("efficientnet", {"width": 32}, 5_288_548, 360, "98a6d92c040c4bca"),
    ("efficientnet", {"width": 32, "scale": 1}, 7_794_184, 508, "391b882d956123d4"),
    ("efficientnet", {"width": 32, "scale": 2}, 9_109_994, 508, "35d7528e6debccfe"),
    ("efficientnet", {"width": 32, "scale": 3}, 12_233_232, 574, "cf2f96a4b05e716c"),
    ("efficientnet", {"width": 32, "scale": 4}, 19_341_616, 706, "f55c08c98724c959"),
    ("efficientnet", {"width": 32, "scale": 5}, 30_389_784, 854, "16e12ed3d4b769a0"),
    ("efficientnet", {"width": 32, "scale": 6}, 43_040_704, 986, "63246a7d29b7e31c"),
    ("efficientnet", {"width": 32, "scale": 7}, 66_347_960, 1200, "f44ee38885b1d8f5"),
]

#: Some of them in full, to be read.
NAMED: dict[str, dict[str, tuple[int, ...]]] = {
    "alexnet": {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.weight": (192, 64, 5, 5),
        "features.10.bias": (256,),
        "classifier.1.weight": (4096, 9216),
        "classifier.6.weight": (1000, 4096),
    },
    "vgg": {
        "features.0.weight": (64, 3, 3, 3),
        "features.1.running_mean": (64,),
        "features.40.weight": (512, 512, 3, 3),
        "classifier.0.weight": (4096, 25088),
        "classifier.6.bias": (1000,),
    },
    "googlenet": {
        "conv1.conv.weight": (64, 3, 7, 7),
        "inception3a.branch3.1.conv.weight": (32, 16, 3, 3),
        "inception5b.branch4.1.bn.running_var": (128,),
        "fc.weight": (1000, 1024),
    },
    "inception_v3": {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6b.branch7x7dbl_3.conv.weight": (128, 128, 1, 7),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1000, 2048),
    },
    "resnet": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.bn2.weight": (64,),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.conv2.weight": (512, 512, 3, 3),
        "fc.weight": (1000, 512),
    },
    "densenet": {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
        "features.transition3.conv.weight": (512, 1024, 1, 1),
        "features.norm5.running_mean": (1024,),
        "classifier.weight": (1000, 1024),
    },
    "efficientnet": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
        "features.2.0.block.1.0.weight": (96, 1, 3, 3),
        "features.8.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
}
PAPER_WIDTH = {"inception_v3": 32, "efficientnet": 32}


def shapes(name: str, **settings: Any) -> dict[str, tuple[int, ...]]:
    module = catalog.load("networks", name)
    with torch.device("meta"):
        net = module.build(module.Config(**settings), 3, 1000)
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "tensors", "digest"),
    [pytest.param(*fact, id=f"{fact[0]}-{fact[2]}") for fact in FACTS],
)
def test_every_name_and_shape_is_torchvisions(
    name: str, settings: dict[str, Any], parameters: int, tensors: int, digest: str
) -> None:
    module = catalog.load("networks", name)
    with torch.device("meta"):
        net = module.build(module.Config(**settings), 3, 1000)
    assert sum(p.numel() for p in net.parameters()) == parameters
    state = net.state_dict()
    assert len(state) == tensors
    lines = "\n".join(f"{key} {tuple(state[key].shape)}" for key in sorted(state))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", NAMED)
def test_names_and_shapes_that_can_be_read(name: str) -> None:
    found = shapes(name, width=PAPER_WIDTH.get(name, 64))
    wanted = NAMED[name]
    assert {key: found.get(key) for key in wanted} == wanted


@pytest.mark.parametrize("name", NAMED)
def test_weights_for_a_thousand_classes_serve_two(name: str) -> None:
    """Everything but the last layer is taken, for images of one channel too."""
    module = catalog.load("networks", name)
    settings = {"width": 8} | ({"layers": (2, 2)} if name == "densenet" else {})
    config = module.Config(**settings)
    old, new = module.build(config, 3, 1000), module.build(config, 1, 2)
    channel, output = _transfer.axes(lambda c, o: module.build(config, c, o), 1, 2)
    ends = _transfer.Ends(channel, output, ["flair"], ["absent", "present"])
    found = _transfer.transfer(new, old.state_dict(), ends)
    last = next(reversed(dict(old.named_parameters()))).rpartition(".")[0]
    assert set(found.left_out) == {f"{last}.weight", f"{last}.bias"}
    assert len(found.resized) == 1, "the first layer, whose three channels become one"


def test_older_densenet_files_are_renamed() -> None:
    old = "features.denseblock1.denselayer12.norm.1.running_mean"
    other = "features.denseblock1.denselayer12.conv.2.weight"
    kept = "features.transition1.norm.weight"
    found = densenet.renamed({key: torch.zeros(1) for key in (old, other, kept)})
    assert list(found) == [
        "features.denseblock1.denselayer12.norm1.running_mean",
        "features.denseblock1.denselayer12.conv2.weight",
        kept,
    ]


# ------------------------------------------------------------------------------------ one by one


def test_channels_are_scaled_with_the_width() -> None:
    assert [_imagenet.scaled(c, 64, 64) for c in (1, 16, 192)] == [2, 16, 192]
    assert [_imagenet.scaled(c, 16, 64) for c in (16, 24, 192)] == [4, 6, 48]
    assert _imagenet.scaled(16, 1, 64) == 2


@pytest.mark.parametrize(("size", "after"), [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((7, 8), (4, 4))])
def test_pooling_halves_upwards(size: tuple[int, ...], after: tuple[int, ...]) -> None:
    for average in (False, True):
        assert _imagenet.HalvingPool(average=average)(image(1, 2, *size)).shape[2:] == after
    x = image(1, 2, 8, 6, 4)
    assert torch.equal(_imagenet.HalvingPool()(x), F.max_pool3d(x, 2))
    assert torch.equal(_imagenet.HalvingPool(average=True)(x), F.avg_pool3d(x, 2))


@pytest.mark.parametrize("size", [55, 27, 13])
def test_pooling_by_three_is_that_of_the_papers_at_their_sizes(size: int) -> None:
    x = image(1, 1, size, size)
    assert torch.equal(_imagenet.HalvingPool(3)(x), F.max_pool2d(x, 3, 2))


@pytest.mark.parametrize(("depth", "bottleneck"), [(18, False), (50, True)])
def test_a_residual_block_adds_to_its_shortcut(depth: int, bottleneck: bool) -> None:
    net = resnet.build(resnet.Config(width=4, depth=depth), 1, 2).eval()
    block = net.layer1[1]
    assert isinstance(block, resnet.Block)
    assert block.downsample is None
    nn.init.zeros_((block.bn3 if bottleneck else block.bn2).weight)
    x = image(1, 16 if bottleneck else 4, 5, 5)
    assert torch.equal(block(x), torch.relu(x))


def test_the_stride_of_a_bottleneck_is_in_its_wide_convolution() -> None:
    block = resnet.Block(2, 8, 4, 2, True)
    strides = [part.stride[0] for part in (block.conv1, block.conv2, block.conv3)]  # type: ignore[index]
    assert strides == [1, 2, 1]


def test_a_dense_layer_keeps_what_it_saw() -> None:
    block = densenet.DenseBlock(2, 6, 3, 4).eval()
    x = image(1, 6, 4, 4)
    found = block(x)
    assert found.shape == (1, 6 + 4 * 3, 4, 4)
    assert torch.equal(found[:, :6], x)


@pytest.mark.parametrize("module", [resnet, densenet])
def test_flat_weights_serve_volumes(module: Any) -> None:
    small = {"width": 4} | ({"layers": (2, 2)} if module is densenet else {})
    flat = module.build(module.Config(**small), 1, 2)
    solid = module.build(module.Config(ndim=3, **small), 1, 2)
    found = _transfer.transfer(solid, flat.state_dict(), _transfer.Ends())
    assert not found.left_out
    assert not found.fresh


def test_branches_with_a_common_beginning_compute_it_once() -> None:
    mixed = inception_v3.Mixed(8, inception_v3.MODULES["Mixed_7b"], 4).eval()
    calls: list[str] = []
    for name, part in mixed.named_children():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    x = image(1, 8, 5, 5)
    found = mixed(x)
    assert len(calls) == len(set(calls)) == len(dict(mixed.named_children()))
    by_hand = mixed.branch3x3_2b(mixed.branch3x3_1(x))
    start = mixed.branch1x1.conv.out_channels + mixed.branch3x3_2a.conv.out_channels  # type: ignore[union-attr]
    assert torch.equal(found[:, start : start + by_hand.shape[1]], by_hand)


@pytest.mark.parametrize(("module", "size", "heads"), [(googlenet, 40, 3), (inception_v3, 107, 2)])
def test_auxiliary_heads_speak_while_training_alone(module: Any, size: int, heads: int) -> None:
    torch.manual_seed(0)
    net = module.build(module.Config(width=4, auxiliary=True), 2, 3)
    x = image(2, 2, size, size + 1)
    found = net.train()(x)
    assert [tuple(part.shape) for part in found] == [(2, 3)] * heads
    sum(part.square().mean() for part in found).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.eval()(x).shape == (2, 3)


def test_multiples_take_away_no_more_than_a_tenth() -> None:
    assert [efficientnet.rounded(c, 8) for c in (3, 11, 17.6, 35.2, 352)] == [8, 16, 16, 32, 352]
    assert efficientnet.rounded(18.5, 8) == 24  # 16 would be less than nine tenths


def test_skipped_blocks_keep_the_expected_value() -> None:
    torch.manual_seed(0)
    block = efficientnet.Bottleneck(4, 4, 8, 3, 1, 1e-5, 0.25).eval()
    x = image(1, 4, 5, 5).expand(4000, -1, -1, -1)
    with torch.no_grad():
        expected = block(x[:1]) - x[:1]
        block.training = True  # the norms in it still rest
        added = block(x) - x
    skipped = (added == 0).flatten(1).all(1)
    assert abs(skipped.float().mean().item() - 0.25) < 0.03
    assert torch.allclose(added.mean(0, keepdim=True), expected, atol=0.05 * expected.abs().max())


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("vgg", {"depth": 17}),
        ("vgg", {"dropout": 1.0}),
        ("vgg", {"ndim": 3}),
        ("resnet", {"depth": 20}),
        ("resnet", {"width": 0}),
        ("densenet", {"depth": 18}),
        ("densenet", {"layers": (2, 0)}),
        ("densenet", {"width": 1}),
        ("efficientnet", {"scale": 8}),
        ("efficientnet", {"drop_path": 1.0}),
        ("alexnet", {"dropout": -0.1}),
        ("googlenet", {"ndim": 3}),
        ("inception_v3", {"width": 0}),
    ],
)
def test_impossible_settings_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        catalog.load("networks", name).Config(**wrong)


def test_vgg_is_as_deep_as_it_is_called() -> None:
    for depth in _imagenet.VGG_STAGES:
        net = vgg.build(vgg.Config(width=2, depth=depth), 1, 2)
        found = [part for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        assert len(found) == depth
