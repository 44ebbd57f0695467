"""A known field is found again, and divided out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from delineate.core.errors import ConfigError, InputError
from delineate.core.image import Grid, Image
from delineate.preprocess import bias

SPACING = (4.0, 4.0, 4.0)
FAST: dict[str, dict[str, Any]] = {"n4": {"iterations": 30, "levels": 3}, "smooth": {}}


@pytest.fixture(scope="module")
def shaded() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[Any], NDArray[np.bool_]]:
    """A head of two tissues, its mask, the field that lies on it, and where one tissue is."""
    shape = (40, 48, 36)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.8
    bright = np.sin(9 * x) * np.cos(8 * y) + np.sin(7 * z + 1) > 0
    field = np.exp(0.35 * x - 0.25 * y**2 + 0.2 * z)
    noise = np.random.default_rng(0).normal(0, 4, shape)
    values = np.where(mask, (100 + 60 * bright) * field + noise, 0).clip(0).astype(np.float32)
    return values, mask, field, mask & bright


def spread(values: NDArray[Any]) -> float:
    return float(values.std() / values.mean())


@pytest.mark.parametrize(("rule", "left"), [("n4", 0.25), ("smooth", 0.4)])
def test_a_known_field_is_found(rule: str, left: float, shaded: Any) -> None:
    every = 2 if rule == "n4" else 1  # it takes its time
    values, mask, true, tissue = (a[::every, ::every, ::every] for a in shaded)
    spacing = tuple(every * mm for mm in SPACING)
    found = getattr(bias, rule)(values, mask, spacing, **FAST[rule])
    assert np.corrcoef(np.log(found[mask]), np.log(true[mask]))[0, 1] > 0.95
    assert abs(np.log(found[mask]).mean()) < 1e-5
    assert spread((values / found)[tissue]) < left * spread(values[tissue])
    np.testing.assert_array_equal(found, getattr(bias, rule)(values, mask, spacing, **FAST[rule]))


def test_fields_are_measured_on_coarse_voxels_and_brought_to_fine_ones(shaded: Any) -> None:
    values, mask, _, _ = shaded
    coarse = bias.smooth(values, mask, SPACING)
    fine = [np.repeat(np.repeat(np.repeat(a, 2, 0), 2, 1), 2, 2) for a in (values, mask)]
    found = bias.smooth(fine[0], fine[1], (2.0, 2.0, 2.0))
    middle = found.reshape(40, 2, 48, 2, 36, 2).mean(axis=(1, 3, 5))
    assert np.abs(np.log(middle / coarse)[mask]).max() < 0.02


def test_slices_are_corrected_too_and_the_step_is_recorded(shaded: Any) -> None:
    values, _, true, _ = shaded
    grid = Grid((40, 48), np.diag([4.0, 4.0, 1.0, 1.0]))
    image = Image(values[None, :, :, 18], grid)
    done = bias.correct(image, rule="smooth")
    mask = values[:, :, 18] > 0
    field = (image.array / np.where(done.array > 0, done.array, 1))[0]
    assert np.corrcoef(np.log(field[mask]), np.log(true[:, :, 18][mask]))[0, 1] > 0.9
    step = done.history[-1]
    assert step["rule"] == "smooth"
    assert json.loads(json.dumps(step)) == step


def test_what_cannot_be_corrected_is_refused(shaded: Any) -> None:
    values, *_ = shaded
    with pytest.raises(InputError, match="expected magnitudes"):
        bias.smooth(values - 50)
    with pytest.raises(InputError, match="expected tissue"):
        bias.smooth(values * 0)
    with pytest.raises(ConfigError, match="n4, smooth"):
        bias.correct(Image(values[None], Grid(values.shape, np.eye(4))), rule="n5")
