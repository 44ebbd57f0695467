"""Patches, and how often a network halves each of their axes."""

from __future__ import annotations

import pytest

from delineate.networks import unet
from delineate.targets import _sizes
from delineate.training import resolving


@pytest.mark.parametrize(
    ("patch", "spacing_mm"),
    [
        ((32, 32, 32), (1.0, 1.0, 1.0)),
        ((28, 40, 28), (1.0, 1.0, 1.0)),  # sides within a factor of two
        ((64, 64, 32), (1.0, 1.0, 2.0)),  # and spacings
        ((256, 256, 96), (1.0, 1.0, 1.0)),  # enough of all for the most levels
        ((256, 224), ()),
        ((7, 6, 6), (1.0, 1.0, 6.0)),  # nothing can be halved
    ],
)
def test_axes_that_are_alike_are_left_to_be_halved_together(
    patch: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> None:
    assert _sizes.strides_and_kernels(patch, spacing_mm) == ((), ())
    ndim = len(patch)
    derived = resolving.derived(unet, patch, ndim, 8, spacing_mm=spacing_mm)
    assert derived == {
        "ndim": ndim,
        "width": 8,
        "levels": _sizes.levels(patch, ndim),
        "deep_supervision": max(0, _sizes.levels(patch, ndim) - 3),
        "strides": (),
        "kernels": (),
    }


def test_thick_slices_wait_until_pixels_have_caught_up() -> None:
    # 0.6 x 0.6 x 3.6 mm: pixels of 2.4 mm are within a factor of two of the slices
    strides, kernels = _sizes.strides_and_kernels((320, 320, 20), (0.6, 0.6, 3.6))
    assert strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert _sizes.levels((320, 320, 20), 3) == 3  # what the thinnest axis would allow


def test_few_slices_do_not_stop_the_others() -> None:
    strides, kernels = _sizes.strides_and_kernels((128, 128, 8), (1.0, 1.0, 1.0))
    assert strides == ((2, 2, 2), (2, 2, 1), (2, 2, 1), (2, 2, 1))
    assert {*kernels} == {(3, 3, 3)}
    # too few to be halved at all, and finer than the pixels: kernels still see what is halved
    strides, kernels = _sizes.strides_and_kernels((64, 64, 6), (3.0, 3.0, 1.0))
    assert {*strides} == {(2, 2, 1)}
    assert {*kernels} == {(3, 3, 3)}


@pytest.mark.parametrize("shape", [(320, 320, 20), (301, 187, 11), (90, 512, 30), (36, 90, 40)])
@pytest.mark.parametrize("spacing_mm", [(), (0.6, 0.6, 3.6), (5.0, 0.5, 0.5), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("cap", [2**15, 2**17, 2**21])
def test_a_patch_is_a_multiple_of_what_its_network_asks_for(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], cap: int
) -> None:
    patch = _sizes.patch_size(shape, cap, 3, spacing_mm)
    values = resolving.derived(unet, patch, 3, 8, spacing_mm=spacing_mm)
    divisor = unet.divisor(unet.Config(**values))
    steps = (divisor,) * 3 if isinstance(divisor, int) else divisor
    assert all(n % step == 0 for n, step in zip(patch, steps, strict=True))
    assert all(n // step >= 3 for n, step in zip(patch, steps, strict=True))


def test_an_accelerator_may_take_wider_networks_and_larger_batches() -> None:
    options = _sizes.candidates((96, 96, 96), 3)
    more = _sizes.accelerated(options)
    assert {c.width for c in more} == {*(c.width for c in options), 64}
    assert {c.batch for c in more} == {2, 4, 8, 16}
    assert [c for c in more if c in options] == options  # in their order
    assert len({*more}) == len(more)
    given = _sizes.accelerated(options, width=16, batch=3)
    assert given == options


def test_a_side_that_is_odd_is_left_for_the_network_to_refuse() -> None:
    assert _sizes.strides_and_kernels((101, 101, 20), ()) == ((), ())
    strides, _ = _sizes.strides_and_kernels((100, 100, 10), ())
    assert strides == ((2, 2, 2), (2, 2, 1))  # down to 25


def test_a_patch_is_rounded_by_axis_and_not_to_a_common_multiple() -> None:
    assert _sizes.patch_size((320, 320, 20), 2**21, 3, (0.6, 0.6, 3.6)) == (320, 320, 20)
    assert _sizes.patch_size((250, 250, 18), 2**21, 3, (0.6, 0.6, 3.6)) == (256, 256, 20)
    # alike, they are what they always were
    shape = (36, 50, 36)
    for cap in (2**12, 2**15, 2**19):
        assert _sizes.patch_size(shape, cap, 3, (1.0,) * 3) == _sizes.patch_size(shape, cap, 3)


@pytest.mark.parametrize("given", [{"levels"}, {"strides"}, {"kernels"}])
def test_who_gives_levels_has_settled_how_axes_are_halved(given: set[str]) -> None:
    patch, spacing_mm = (64, 64, 8), (1.0, 1.0, 5.0)
    assert "strides" in resolving.derived(unet, patch, 3, 8, spacing_mm=spacing_mm)
    derived = resolving.derived(unet, patch, 3, 8, spacing_mm=spacing_mm, network_settings=given)
    assert not {"strides", "kernels"} & derived.keys()
