from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import two_stage
from delineate.networks.two_stage import Box


def make(ndim: int = 2, **changes: Any) -> two_stage.TwoStage:
    torch.manual_seed(0)
    small = {"width": 8, "levels": 3, "ndim": ndim}
    return two_stage.build(two_stage.Config(**{**small, **changes}), 1, 2)


def box(centre: list[float], half: list[float]) -> Box:
    return Box(torch.tensor([centre]), torch.tensor([half]))


def smooth(*size: int) -> Tensor:
    """``(1, 2, *size)``: a slow wave and a slope, which linear resampling keeps."""
    places = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    slope = sum(((i + 1) * p for i, p in enumerate(places)), torch.zeros(size))
    return torch.stack([slope, torch.sin(2 * places[0]) + places[-1]])[None]


def planted(n: int, size: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a bright block at a random place; where it is; its box ``(n, nd, 2)``."""
    rng = torch.Generator().manual_seed(seed)
    label, boxes = torch.zeros((n, *size)).long(), torch.zeros(n, len(size), 2)
    for i in range(n):
        where = []
        for axis, m in enumerate(size):
            side = int(torch.randint(m // 5, m // 2, (), generator=rng))
            start = int(torch.randint(0, m - side, (), generator=rng))
            boxes[i, axis] = torch.tensor([start, start + side]) / m * 2 - 1
            where.append(slice(start, start + side))
        label[(i, *where)] = 1
    noise = torch.randn((n, 1, *size), generator=rng)
    return 0.5 * noise + 2 * label[:, None], label, boxes


def overlap(one: Tensor, two: Tensor) -> Tensor:
    """Intersection over union of boxes ``(n, nd, 2)``."""
    low, high = torch.maximum(one[..., 0], two[..., 0]), torch.minimum(one[..., 1], two[..., 1])
    both = (high - low).clamp(min=0).prod(1)
    volumes = [(b[..., 1] - b[..., 0]).prod(1) for b in (one, two)]
    return both / (volumes[0] + volumes[1] - both)


def train(net: two_stage.TwoStage, size: tuple[int, ...], steps: int, batch: int) -> list[float]:
    optimiser = torch.optim.AdamW(net.train().parameters(), 3e-3)
    losses = []
    for step in range(steps):
        x, label, _ = planted(batch, size, step)
        final, coarse = net(x)
        loss = F.cross_entropy(final, label) + 0.5 * F.cross_entropy(coarse, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_the_box_of_a_block_of_heat_is_that_block() -> None:
    heat = torch.zeros(2, 8, 6)
    heat[0, 2:6, 1:4] = 1
    heat[1, 7:, :] = 1
    found = two_stage.box_of(heat)
    # rows 2 ... 5 of 8 reach from -0.5 to 0.5; columns 1 ... 3 of 6 from -2/3 to 1/3
    assert found.centre[0].tolist() == pytest.approx([0, -1 / 6], abs=1e-5)
    assert found.half[0].tolist() == pytest.approx([1 / 2, 1 / 2], abs=1e-5)
    assert found.centre[1].tolist() == pytest.approx([7 / 8, 0], abs=1e-5)
    assert found.half[1].tolist() == pytest.approx([1 / 8, 1], abs=1e-5)


def test_a_disc_and_a_pair_get_the_box_around_all_of_them() -> None:
    place = torch.arange(64) - 31.5
    disc = (place[:, None].square() + place.square() < 20**2).float()
    assert two_stage.box_of(disc[None]).half[0].tolist() == pytest.approx([20 / 32] * 2, abs=0.02)
    pair = torch.zeros(1, 32, 32)
    pair[0, 4:8, 10:12] = pair[0, 24:28, 20:22] = 1
    found = two_stage.box_of(pair)
    assert found.centre[0].tolist() == pytest.approx([0, 0], abs=1e-4)
    assert (found.half[0] >= torch.tensor([24 / 32, 12 / 32])).all()


def test_lukewarm_surroundings_do_not_widen_the_box() -> None:
    heat = torch.full((1, 16, 16), 0.1)
    heat[0, 4:8, 4:8] = 0.95
    found = two_stage.box_of(heat)
    assert found.half[0].tolist() == pytest.approx([4 / 16] * 2, rel=0.1)


@pytest.mark.parametrize("size", [(8, 12), (6, 8, 10)])
def test_the_box_of_the_whole_image_is_the_identity(size: tuple[int, ...]) -> None:
    whole = box([0.0] * len(size), [1.0] * len(size))
    x = smooth(*size)
    assert torch.allclose(two_stage.crop(x, whole, size), x, atol=1e-5)
    assert torch.allclose(two_stage.paste(x, whole, size), x, atol=1e-5)


def test_a_crop_of_whole_voxels_is_a_slice_and_its_axes_are_in_order() -> None:
    x = torch.randn(1, 1, 8, 12)
    # rows 2 ... 5: from -0.5 to 0.5; columns 6 ... 11: from 0 to 1
    found = two_stage.crop(x, box([0.0, 0.5], [0.5, 0.5]), (4, 6))
    assert torch.allclose(found, x[:, :, 2:6, 6:], atol=1e-5)
    volume = torch.randn(1, 1, 4, 8, 6)
    found = two_stage.crop(volume, box([0.5, -0.5, 0.0], [0.5, 0.5, 1.0]), (2, 4, 6))
    assert torch.allclose(found, volume[:, :, 2:, :4], atol=1e-5)


@pytest.mark.parametrize("size", [(40, 48), (24, 20, 28)])
def test_crop_and_paste_return_a_smooth_image_within_the_box(size: tuple[int, ...]) -> None:
    x = smooth(*size)
    here = box([0.15, -0.2, 0.1][: len(size)], [0.6, 0.55, 0.7][: len(size)])
    back = two_stage.paste(two_stage.crop(x, here, size), here, size)
    places = torch.meshgrid(*((2 * torch.arange(n) + 1) / n - 1 for n in size), indexing="ij")
    apart = torch.stack(
        [(p - c).abs() / h for p, c, h in zip(places, here.centre[0], here.half[0], strict=True)]
    ).amax(0)
    within, beyond = apart <= 1 - 1 / min(size), apart > 1 + 2 / min(size)
    assert within.any()
    assert (back - x)[:, :, within].abs().max() < 0.02
    # ... and outside of it is background
    assert (back[0, 0, beyond] == two_stage.OUTSIDE).all()
    assert (back[0, 1, beyond] == -two_stage.OUTSIDE).all()


def test_with_nothing_there_the_box_is_the_whole_image() -> None:
    net = make()
    torch.nn.init.zeros_(net.detector.heat.weight)
    net.detector.heat.bias.data = torch.tensor([3.0, -3.0])
    _, found = net.detect(torch.randn(2, 1, 32, 48))
    assert torch.equal(found.centre, torch.zeros(2, 2))
    assert torch.equal(found.half, torch.ones(2, 2))


def test_the_crop_is_wider_than_the_box_by_the_margin_and_stays_in_the_image() -> None:
    net = make(margin=1.3)
    torch.nn.init.zeros_(net.detector.size.weight)
    logits = torch.full((2, 2, 8, 8), -9.0)
    logits[:, 0] = 9.0
    logits[0, 1, 2:6, 2:6] = 27.0  # the middle half
    logits[1, 1, 0:4, 2:6] = 27.0  # the same at the upper rim
    net.detector.heat.register_forward_hook(lambda module, inputs, out: logits)
    _, found = net.detect(torch.randn(2, 1, 64, 64))
    assert found.half.tolist() == pytest.approx([pytest.approx([0.65, 0.65], abs=1e-3)] * 2)
    assert found.centre[0].tolist() == pytest.approx([0, 0], abs=1e-3)
    assert found.centre[1].tolist() == pytest.approx([0.65 - 1, 0], abs=1e-3)


def test_the_crop_has_the_share_of_voxels_that_was_asked_for() -> None:
    net, seen = make(crop=0.5), []
    net.segmenter.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].shape[2:]))
    net(torch.randn(1, 1, 64, 48))
    assert seen == [(32, 24)]


@pytest.mark.parametrize("stride", [2, 4, 16])
def test_cells_of_stage_1_are_as_large_as_was_asked_for(stride: int) -> None:
    logits, _ = make(stride=stride).detect(torch.randn(1, 1, 32, 48))
    assert logits.shape == (1, 2, 32 // stride, 48 // stride)


def test_training_gives_both_stages_at_full_size_and_use_the_last() -> None:
    net, x = make(), torch.randn(1, 1, 32, 48)
    final, coarse = net.train()(x)
    assert final.shape == coarse.shape == (1, 2, 32, 48)
    assert torch.allclose(net.eval()(x), final, atol=1e-5)


def test_mixed_precision_keeps_the_place() -> None:
    net, x = make().eval(), torch.randn(1, 1, 32, 48)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
    assert (logits - net(x)).abs().mean() < 0.05


def test_impossible_settings_and_sizes_are_refused() -> None:
    for wrong in ({"margin": 0.9}, {"crop": 0.0}, {"crop": 1.5}, {"stride": 3}, {"norm": "layer"}):
        with pytest.raises(ConfigError):
            make(**wrong)
    with pytest.raises(ConfigError, match="background"):
        two_stage.build(two_stage.Config(), 1, 1)
    with pytest.raises(ConfigError, match="one cell"):
        make()(torch.randn(1, 1, 8, 8))
    assert make()(torch.randn(1, 1, 8, 16))[0].shape == (1, 2, 8, 16)


@pytest.mark.slow
def test_it_learns_to_find_and_outline_a_square() -> None:
    net = make()
    losses = train(net, (64, 64), steps=100, batch=4)
    assert sum(losses[-5:]) / 5 < 0.3 * losses[0]
    x, label, truth = planted(16, (64, 64), 999)
    with torch.no_grad():
        found = net.eval()(x).argmax(1)
        _, crop = net.detect(x)
    half = crop.half / net.config.margin
    boxes = torch.stack([crop.centre - half, crop.centre + half], -1)
    assert overlap(boxes, truth).mean() > 0.5
    both = (found * label).sum()
    assert 2 * both / (found.sum() + label.sum()) > 0.8


@pytest.mark.slow
def test_it_learns_in_volumes() -> None:
    net, size = make(3, width=4, levels=2), (48, 32, 40)
    train(net, size, steps=50, batch=2)
    x, label, _ = planted(8, size, 999)
    with torch.no_grad():
        found = net.eval()(x).argmax(1)
    both = (found * label).sum()
    assert 2 * both / (found.sum() + label.sum()) > 0.5
