from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError, GeometryError
from delineate.inference import sliding_window as windows
from delineate.inference.runtimes.torch import segmenter
from delineate.inference.sliding_window import (
    estimate_bytes,
    gaussian_weights,
    lattice_weights,
    sweep,
    window_starts,
)
from delineate.networks import unet


class Function(nn.Module):
    """A network from a function; it notes what it was given."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        return self.function(x)


def sliding_window(
    network: nn.Module, image: Tensor, patch: tuple[int, ...], *, outputs: int, **options: Any
) -> Tensor:
    """Probabilities by a network of PyTorch."""
    found = windows.sliding_window(
        segmenter(network, "cpu"), image.numpy(), patch, maps={"probabilities": outputs}, **options
    )
    return torch.from_numpy(found["probabilities"])


def pointwise(x: Tensor) -> Tensor:
    return torch.stack([0.3 * x[:, 0], x[:, -1] ** 2, -x.sum(1)], 1)


def expected(image: Tensor) -> Tensor:
    return torch.softmax(pointwise(image[None]), 1)[0]


@pytest.mark.parametrize("size", [(7, 9, 5), (3, 2, 2), (13, 6, 11), (1, 1, 1)])
@pytest.mark.parametrize("patch", [(4, 4, 4), (8, 8, 8), (16, 3, 5), (1, 1, 1)])
@pytest.mark.parametrize(("overlap", "batch"), [(0.0, 1), (0.3, 3), (0.5, 2), (0.75, 7)])
def test_pointwise_network_gives_the_whole_volume_result(
    size: tuple[int, ...], patch: tuple[int, ...], overlap: float, batch: int
) -> None:
    image = torch.randn(2, *size, generator=torch.Generator().manual_seed(1))
    network = Function(pointwise)
    found = sliding_window(network, image, patch, outputs=3, overlap=overlap, batch=batch)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected(image), atol=1e-5)
    assert all(shape[2:] == patch and shape[0] <= batch for shape in network.seen)


@pytest.mark.parametrize("size", [(9, 14), (3, 20)])
@pytest.mark.parametrize("patch", [(4, 6), (5, 5)])
def test_flat_images(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    image = torch.randn(1, *size)
    found = sliding_window(Function(pointwise), image, patch, outputs=3)
    assert torch.allclose(found, expected(image), atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_flat_network_on_a_volume(axis: int, batch: int) -> None:
    image = torch.randn(2, 6, 9, 7)
    network = Function(pointwise)
    patch = (4, 5)
    found = sliding_window(
        network, image, patch, outputs=3, batch=batch, slice_axis=axis, overlap=0.25
    )
    assert found.shape == (3, 6, 9, 7)
    assert torch.allclose(found, expected(image), atol=1e-5)
    assert all(shape[2:] == patch for shape in network.seen)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbouring_slices_come_in_order_and_repeat_at_the_rim(axis: int) -> None:
    image = torch.zeros(2, 5, 5, 5)
    for k in range(5):
        image.select(axis + 1, k)[0] = k
        image.select(axis + 1, k)[1] = 10 + k
    seen: list[list[float]] = []

    def look(x: Tensor) -> Tensor:
        seen.extend(x[:, :, 0, 0].tolist())
        return x[:, :2]

    sliding_window(Function(look), image, (5, 5), outputs=2, slice_axis=axis, neighbours=1)
    assert seen == [
        [0, 10, 0, 10, 1, 11],
        [0, 10, 1, 11, 2, 12],
        [1, 11, 2, 12, 3, 13],
        [2, 12, 3, 13, 4, 14],
        [3, 13, 4, 14, 4, 14],
    ]


def test_probabilities_add_up_to_one_for_a_network_that_depends_on_position() -> None:
    def rim(x: Tensor) -> Tensor:
        ramp = torch.linspace(-3, 3, x.shape[-1]).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat([ramp, -ramp, x[:, :1]], 1)

    found = sliding_window(Function(rim), torch.randn(1, 17, 23, 12), (8, 8, 8), outputs=3)
    assert torch.allclose(found.sum(0), torch.ones(17, 23, 12), atol=1e-5)
    assert found.min() >= 0


def test_overlapping_windows_are_averaged_with_gaussian_weights() -> None:
    """Two windows of 8 over 12 voxels; the network says "one" in the first window alone."""
    answers = iter([4.0, -4.0])

    def step(x: Tensor) -> Tensor:
        value = next(answers)
        return torch.stack([torch.full_like(x[:, 0], -value), torch.full_like(x[:, 0], value)], 1)

    found = sliding_window(Function(step), torch.zeros(1, 12, 1), (8, 1), outputs=2)[1, :, 0]
    x = torch.arange(12.0)
    first = torch.exp(-0.5 * (x - 3.5) ** 2) * (x < 8)
    second = torch.exp(-0.5 * (x - 7.5) ** 2) * (x >= 4)
    one = torch.sigmoid(torch.tensor(8.0))
    assert torch.allclose(found, (first * one + second * (1 - one)) / (first + second), atol=1e-6)


@pytest.mark.parametrize("patch", [1, 2, 3, 8, 31, 96, 512])
def test_gaussian_is_positive_symmetric_and_of_sigma_one_eighth(patch: int) -> None:
    weights = torch.from_numpy(gaussian_weights(patch))
    assert weights.min() > 1e-4
    assert torch.equal(weights, weights.flip(0))
    if patch >= 8:
        centre = (patch - 1) / 2
        at_sigma = torch.exp(torch.tensor(-0.5))
        x = torch.tensor([centre - patch / 8, centre + patch / 8]).round().long()
        exact = torch.exp(-0.5 * ((x - centre) / (patch / 8)) ** 2)
        assert torch.allclose(weights[x].float(), exact.float(), atol=1e-6)
        assert abs(weights[x[0]] - at_sigma) < 0.6


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.9])
def test_weights_are_a_partition_of_unity(overlap: float) -> None:
    for size, patch in itertools.product((1, 7, 16, 33, 200), (1, 4, 7, 16, 64)):
        starts = window_starts(size, patch, overlap)
        padded = max(size, patch)
        total = np.zeros(padded)
        for start, weight in zip(starts, lattice_weights(padded, patch, starts), strict=True):
            total[start : start + patch] += weight
            assert weight.min() > 0
        assert np.allclose(total, 1, atol=1e-5)


def test_windows_are_evenly_spread_and_cover_all() -> None:
    for size, patch, overlap in itertools.product(range(1, 60), (1, 5, 16), (0.0, 0.5, 0.8)):
        starts = window_starts(size, patch, overlap)
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert starts[0] == 0
        assert max(starts[-1] + patch, size) == max(size, patch)
        assert all(1 <= s <= max(1, round(patch * (1 - overlap)) + 1) for s in steps)
        assert max(steps, default=1) - min(steps, default=1) <= 1
        assert all(s <= patch for s in steps)


def test_mirrored_passes_of_a_symmetric_network_change_nothing() -> None:
    image = torch.randn(1, 9, 8, 7)
    plain = sliding_window(Function(pointwise), image, (4, 4, 4), outputs=3)
    network = Function(pointwise)
    mirrored = sliding_window(network, image, (4, 4, 4), outputs=3, mirror_axes=(0, 1, 2))
    assert torch.allclose(plain, mirrored, atol=1e-6)
    assert len(network.seen) == 8 * 4 * 3 * 3  # passes a window, windows


def test_mirrored_passes_are_flipped_back_and_averaged() -> None:
    """A network that answers by position: its mirrored pass answers by the mirrored position."""

    def ramp(x: Tensor) -> Tensor:
        line = torch.arange(4.0).expand(x.shape[0], 4, 4)
        return torch.stack([torch.zeros_like(line), line], 1)

    found = sliding_window(Function(ramp), torch.zeros(1, 4, 4), (4, 4), outputs=2, mirror_axes=[1])
    line = torch.sigmoid(torch.arange(4.0))
    assert torch.allclose(found[1], ((line + line.flip(0)) / 2).expand(4, 4), atol=1e-6)
    other = sliding_window(Function(ramp), torch.zeros(1, 4, 4), (4, 4), outputs=2, mirror_axes=[0])
    assert torch.allclose(other[1], line.expand(4, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "axis"),
    [((23, 9, 8), (8, 8, 8), None), ((5, 9, 8), (8, 8, 4), None), ((9, 6, 7), (4, 4), 2),
     ((19, 12), (5, 6), None)],
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 3])
def test_slabs_come_in_order_and_equal_the_whole(
    size: tuple[int, ...], patch: tuple[int, ...], axis: int | None, batch: int
) -> None:
    image = torch.randn(1, *size)
    torch.manual_seed(0)
    kind = nn.Conv2d if len(patch) == 2 else nn.Conv3d
    network = kind(1, 3, 3, padding=1)
    whole = sliding_window(network, image, patch, outputs=3, slice_axis=axis, batch=batch)
    blocks: list[Tensor] = []
    options = {"maps": {"probabilities": 3}, "slice_axis": axis, "batch": batch}
    for row, maps in sweep(segmenter(network, "cpu"), image.numpy(), patch, **options):
        assert row == sum(b.shape[1] for b in blocks)
        blocks.append(torch.from_numpy(maps["probabilities"].copy()))
    together = torch.cat(blocks, 1)
    assert len(blocks) > 1 or size[0] <= patch[0]
    assert torch.equal(together, whole if axis is None else whole.movedim(axis + 1, 1))


def test_progress_ends_with_all_windows() -> None:
    ticks: list[tuple[int, int]] = []
    sliding_window(
        Function(pointwise),
        torch.zeros(1, 9, 9),
        (4, 4),
        outputs=3,
        batch=4,
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert [done for done, _ in ticks] == [4, 8, 12, 16]
    assert {total for _, total in ticks} == {16}


def test_network_is_in_eval_mode_and_no_graph_is_kept() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.9)).train()
    image = torch.randn(1, 8, 8)
    first = sliding_window(network, image, (8, 8), outputs=2)
    assert torch.equal(first, sliding_window(network, image, (8, 8), outputs=2))
    assert not first.requires_grad
    assert torch.allclose(first, torch.softmax(network.eval()(image[None]), 1)[0], atol=1e-6)


def test_real_unet_agrees_with_itself_on_one_window() -> None:
    torch.manual_seed(0)
    network = unet.build(unet.Config(ndim=3, width=4, levels=3), 2, 3).eval()
    image = torch.randn(2, 16, 12, 8)
    found = sliding_window(network, image, (16, 12, 8), outputs=3)
    with torch.no_grad():
        assert torch.allclose(found, torch.softmax(network(image[None]), 1)[0], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"patch": (4, 4)}, {"patch": (0, 4, 4)}, {"overlap": 1.0}, {"overlap": -0.1},
     {"mirror_axes": (3,)}, {"slice_axis": 3, "patch": (4, 4)}, {"slice_axis": 0}],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(options: dict[str, object]) -> None:
    settings = {"patch": (4, 4, 4), "outputs": 3, **options}
    with pytest.raises(ConfigError):
        sliding_window(Function(pointwise), torch.zeros(1, 8, 8, 8), **settings)  # type: ignore[arg-type]


def test_network_with_another_output_shape_is_refused() -> None:
    with pytest.raises(GeometryError, match="expected probabilities"):
        sliding_window(Function(pointwise), torch.zeros(1, 8, 8), (4, 4), outputs=2)


def test_estimate_covers_what_is_held_and_slabs_need_less() -> None:
    shape, patch = (300, 100, 100), (64, 64, 64)
    whole = estimate_bytes(shape, patch, channels=1, outputs=5)
    slabs = estimate_bytes(shape, patch, channels=1, outputs=5, whole=False)
    assert whole > 4 * 5 * 300 * 100 * 100
    assert slabs < whole
    assert estimate_bytes((600, 100, 100), patch, channels=1, outputs=50, whole=False) < (
        estimate_bytes((600, 100, 100), patch, channels=1, outputs=50)
    )


def test_every_map_that_is_asked_for_is_averaged_whatever_its_channels() -> None:
    """Without torch, and without an activation: a map need not be a probability."""
    image = np.random.default_rng(0).normal(size=(2, 11, 9, 6)).astype(np.float32)

    def infer(x: Any) -> dict[str, Any]:
        return {"image": 5 + 100 * x, "trust": x[:, :1] ** 2, "unasked": None}

    for axes in ((), (0, 2)):
        found = windows.sliding_window(
            infer, image, (4, 4, 4), maps={"image": 2, "trust": 1}, mirror_axes=axes
        )
        assert found.keys() == {"image", "trust"}
        assert np.allclose(found["image"], 5 + 100 * image, rtol=1e-5)
        assert np.allclose(found["trust"], image[:1] ** 2, atol=1e-5)
