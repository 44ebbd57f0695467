from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from delineate.augment import spatial
from delineate.core.errors import ConfigError

#: Sizes of regions and of the patches in their middle.
SIZES = [((20, 26), (16, 20)), ((12, 14, 10), (8, 10, 10))]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(shape: tuple[int, ...], batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    image = torch.randn((batch, 2, *shape), generator=seeded(seed))
    label = torch.randint(0, 4, (batch, *shape), generator=seeded(seed + 1)).byte()
    return image, label


def matrices(linear: Any, batch: int = 2, shift: Any = None) -> Tensor:
    matrix = torch.as_tensor(linear, dtype=torch.float32)
    column = torch.zeros(len(matrix)) if shift is None else torch.tensor(shift)
    return torch.cat([matrix, column[:, None]], 1).repeat(batch, 1, 1)


def draw(config: spatial.Config, spacing: Any, mirror: Any = (), n: int = 64, seed: int = 0):
    return spatial.draw(config, n, spacing, mirror, seeded(seed))


STILL = {"probability": 0.0, "shift": 0.0}


@pytest.mark.parametrize(("region", "patch"), SIZES)
def test_the_identity_gives_the_crop_back(region, patch) -> None:
    image, label = scene(region)
    moved, mask = spatial.apply(matrices(torch.eye(len(patch))), image, label, patch)
    wanted = spatial.crop_centre(image, label, patch)
    assert torch.allclose(moved, wanted[0], atol=1e-5)
    assert torch.equal(mask, wanted[1])
    assert mask.dtype == label.dtype
    assert moved.dtype == image.dtype


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_a_quarter_turn_is_rot90(plane: tuple[int, int]) -> None:
    image, label = scene((8, 8, 8))
    a, b = plane
    turn = torch.eye(3)
    turn[a, a] = turn[b, b] = 0
    turn[a, b], turn[b, a] = 1, -1  # what lies at (b, -a) comes to (a, b)
    moved, mask = spatial.apply(matrices(turn), image, label, (8, 8, 8))
    assert torch.allclose(moved, torch.rot90(image, 1, (a + 2, b + 2)), atol=1e-4)
    assert torch.equal(mask, torch.rot90(label, 1, (a + 1, b + 1)))


def test_a_mirrored_patch_is_flip() -> None:
    image, label = scene((8, 10))
    moved, mask = spatial.apply(
        matrices(torch.diag(torch.tensor([1.0, -1.0]))), image, label, (8, 10)
    )
    assert torch.allclose(moved, image.flip(3), atol=1e-5)
    assert torch.equal(mask, label.flip(2))


def test_a_larger_zoom_enlarges() -> None:
    label = torch.zeros((1, 40, 40), dtype=torch.uint8)
    label[:, 14:26, 14:26] = 1
    config = spatial.Config(rotation_degrees=0, scale=(1.5, 1.5), probability=1, shift=0)
    _, mask = spatial.apply(draw(config, (1, 1), n=1), label[:, None].float(), label, (32, 32))
    assert mask.sum().item() == pytest.approx(12 * 12 * 1.5**2, rel=0.1)


@pytest.mark.parametrize(("region", "patch"), SIZES)
@pytest.mark.parametrize("spacing", [1.0, 4.0])
def test_scipy_finds_the_same_voxels(region, patch, spacing: float) -> None:
    nd = len(patch)
    image, label = scene(region, batch=4)
    found = spatial.draw(spatial.Config(40.0), 4, (1.0,) * (nd - 1) + (spacing,), (0,), seeded(3))
    moved, mask = spatial.apply(found, image, label, patch)
    for case in range(4):
        linear = found[case, :, :nd].double().numpy()
        shift = np.round(found[case, :, nd].numpy() * patch)
        middle = (np.array(region) - 1) / 2 + shift
        offset = middle - linear @ ((np.array(patch) - 1) / 2)
        common = {"offset": offset, "output_shape": patch, "mode": "grid-constant"}
        for channel in range(2):
            theirs = ndimage.affine_transform(
                image[case, channel].double().numpy(), linear, order=1, **common
            )
            assert np.allclose(moved[case, channel].numpy(), theirs, atol=1e-3)
        theirs = ndimage.affine_transform(label[case].numpy(), linear, order=0, **common)
        assert np.mean(mask[case].numpy() == theirs) > 0.999  # but for ties


def test_outside_the_region_there_is_zero_and_background() -> None:
    image, label = torch.ones(1, 1, 8, 8), torch.ones((1, 8, 8), dtype=torch.uint8)
    far = matrices(torch.eye(2), 1, shift=[0.5, 0.0])
    moved, mask = spatial.apply(far, image, label, (8, 8))
    assert torch.allclose(moved[0, 0, :4], torch.ones(4, 8))
    assert moved[0, 0, 4:].abs().max() < 1e-6
    assert mask[0, 4:].max() == 0


def test_a_shift_alone_does_not_smooth() -> None:
    """Between voxels, linear interpolation halves the noise of a volume."""
    image, label = scene((30, 30, 30), batch=4)
    found = draw(spatial.Config(probability=0.0, shift=0.1), (1.0, 1.0, 1.0), n=4, seed=2)
    moved, _ = spatial.apply(found, image, label, (24, 24, 24))
    assert moved.std().item() == pytest.approx(1, abs=0.02)
    seen = moved[0, 0, 5, 5].view(-1, 1)
    assert (seen - image[0, 0].reshape(1, -1)).abs().min(1).values.max() < 1e-4


def test_image_and_label_move_together() -> None:
    """Where every voxel tells its place, image and label agree to half a voxel."""
    place = torch.arange(40.0).view(1, 1, 40, 1).expand(1, 1, 40, 40).contiguous()
    label = place[:, 0].byte()
    for seed in range(5):
        found = draw(spatial.Config(30, (0.9, 1.4), 1.0, 0.05), (1, 1), (0, 1), 1, seed)
        moved, mask = spatial.apply(found, place, label, (20, 20))
        inside = mask > 0
        assert (moved[:, 0] - mask.float())[inside].abs().max() <= 0.5 + 1e-3
        assert inside.float().mean() > 0.95


def test_rotations_are_rigid_in_millimetres() -> None:
    spacing = torch.tensor([1.0, 1.0, 5.0])
    config = spatial.Config(rotation_degrees=30, scale=(1.0, 1.0), probability=1.0, shift=0.0)
    found = draw(config, spacing.tolist())[:, :, :3]
    turns = torch.diag(spacing) @ found @ torch.diag(1 / spacing)
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(64, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(64), atol=1e-5)
    # a rotation rigid in voxels would stretch the patient
    assert not torch.allclose(found @ found.mT, torch.eye(3).expand(64, 3, 3), atol=0.1)


def test_in_2d_the_angle_stays_within_its_limit() -> None:
    config = spatial.Config(rotation_degrees=20, scale=(1.0, 1.0), probability=1.0)
    found = draw(config, (1, 1), n=300)
    angles = torch.rad2deg(torch.atan2(found[:, 1, 0], found[:, 0, 0]))
    assert 19 < angles.abs().max() <= 20.001
    assert abs(angles.mean()) < 2


def test_zoom_stays_in_range_and_is_as_often_up_as_down() -> None:
    config = spatial.Config(rotation_degrees=0, scale=(0.5, 2.0), probability=1.0)
    zoom = 1 / draw(config, (1, 1), n=400)[:, 0, 0]
    assert 0.5 <= zoom.min() < 0.55
    assert 1.9 < zoom.max() <= 2.0
    assert (zoom > 1).float().mean().item() == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("allowed", [(), (0,), (2,), (0, 2)])
def test_mirrors_only_where_allowed(allowed: tuple[int, ...]) -> None:
    found = draw(spatial.Config(**STILL), (1.0, 1.0, 3.0), allowed)[:, :, :3]
    signs = torch.diagonal(found, dim1=1, dim2=2)
    assert torch.allclose(found, torch.diag_embed(signs))
    for axis in range(3):
        wanted = {-1.0, 1.0} if axis in allowed else {1.0}
        assert set(signs[:, axis].tolist()) == wanted


def test_with_no_chance_at_all_nothing_changes() -> None:
    found = draw(spatial.Config(**STILL), (1.0, 2.0))
    assert torch.equal(found, matrices(torch.eye(2), 64))


def test_the_generator_alone_decides() -> None:
    before = torch.get_rng_state()
    one, same, other = (draw(spatial.Config(), (1, 1, 1), (0,), seed=s) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    image, label = scene((12, 12, 12), batch=64)
    kept = image.clone()
    first = spatial.apply(one, image, label, (8, 8, 8))
    again = spatial.apply(same, image, label, (8, 8, 8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(image, kept)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.4, 0.7), (-1.0, 1.0)])
def test_impossible_zooms_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ConfigError):
        spatial.Config(scale=scale)


def test_a_small_turn_goes_the_same_way_in_every_spacing() -> None:
    """15 degrees at 4 mm slices: a point 4 mm up a slice moves by 4 sin(15) mm in the plane."""
    angle = math.radians(15)
    turn = spatial._rotation(torch.tensor([0.0, 0.0, angle]), 3)
    assert turn[1, 2].item() == pytest.approx(-math.sin(angle))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)
