"""Distance maps against SciPy's, and what is said where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from delineate.losses._distance import bounded, signed


def blobs(shape: tuple[int, ...], outputs: int = 3) -> Tensor:
    """Smooth random labels ``shape``, batch first."""
    noise = np.random.default_rng(0).normal(size=(outputs, *shape))
    smooth = [ndimage.gaussian_filter(n, (0, *(2.0,) * (len(shape) - 1))) for n in noise]
    return torch.from_numpy(np.argmax(smooth, 0).astype(np.uint8))


@pytest.mark.parametrize(
    ("shape", "spacing", "reach"),
    [
        ((2, 33, 40), (1.0, 1.0), 20.0),
        ((2, 33, 40), (0.4, 2.7), 20.0),
        ((2, 33, 40), (0.4, 2.7), 3.0),
        ((1, 14, 20, 17), (1.0, 1.0, 5.0), 20.0),
        ((2, 14, 20, 17), (0.9, 0.7, 1.1), 1e6),
    ],
)
def test_it_agrees_with_scipy(
    shape: tuple[int, ...], spacing: tuple[float, ...], reach: float
) -> None:
    label = blobs(shape)
    found = signed(label, 3, spacing, reach)
    assert found.shape == (shape[0], 2, *shape[1:])
    for case, whole in zip(found, label.numpy(), strict=True):
        for index, field in enumerate(case.numpy(), 1):
            out, inside = (
                ndimage.distance_transform_edt(m, sampling=spacing)
                for m in (whole != index, whole == index)
            )
            wanted = np.clip(out - inside, -reach, reach)
            assert np.allclose(field, wanted, atol=1e-4)


def test_a_line_is_measured_from_centre_to_centre_in_mm() -> None:
    label = torch.tensor([[0, 0, 0, 1, 1, 0]])
    found = signed(label, 2, (2.0,), 100.0)
    assert found.flatten().tolist() == [6, 4, 2, -2, -2, 2]
    assert signed(label, 2, (2.0,), 5.0).flatten().tolist() == [5, 4, 2, -2, -2, 2]
    assert signed(label, 2).flatten().tolist() == [3, 2, 1, -1, -1, 1]
    assert bounded(label, 2, (2.0,), 5.0).flatten().tolist() == pytest.approx(
        [1, 0.8, 0.4, -0.4, -0.4, 0.4]
    )


def test_a_class_without_a_surface_is_far_or_unknown() -> None:
    label = torch.zeros((2, 4, 5), dtype=torch.uint8)
    label[1] = 2
    far = signed(label, 3, reach_mm=7.0)
    assert (far[0] == 7).all()
    assert (far[1, 0] == 7).all()
    assert (far[1, 1] == -7).all()
    assert not bounded(label, 3).any()


def test_each_case_and_class_is_judged_apart() -> None:
    label = blobs((2, 16, 16))
    label[1] = 0
    both = bounded(label, 3)
    assert torch.equal(both[:1], bounded(label[:1], 3))
    assert both[0].any()
    assert not both[1].any()
