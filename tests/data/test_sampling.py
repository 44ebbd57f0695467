from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from delineate.core.errors import InputError
from delineate.core.schema import IGNORED
from delineate.data import sampling
from delineate.data.sampling import Region


@dataclass
class Prepared:
    """A case in memory, with the samples that the cache would keep."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None = None
    samples: dict[int, NDArray[Any]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape


def case(shape: tuple[int, ...], channels: int = 2, labels: int = 0, seed: int = 0) -> Prepared:
    """Every voxel has its own number in every channel; labels lie where they fall."""
    voxels = int(np.prod(shape))
    image = np.arange(1, channels * voxels + 1, dtype=np.float32).reshape(channels, *shape)
    rng = np.random.default_rng(seed)
    label = rng.integers(0, labels + 1, shape).astype(np.uint8)
    samples = {i: np.argwhere(label == i) for i in range(1, labels + 1)}
    return Prepared(image, label, samples)


# ------------------------------------------------------------------------------------- drawing


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    cases = [case((9, 8, 7), labels=2, seed=i) for i in range(5)]
    later_first = [sampling.draw(cases, 4, 7, step) for step in (9, 3, 0)]
    assert [sampling.draw(cases, 4, 7, step) for step in (9, 3, 0)] == later_first
    state = np.random.get_state()[1].copy()
    one = sampling.draw(cases, 4, 7, 3)
    assert np.array_equal(np.random.get_state()[1], state)
    assert one != sampling.draw(cases, 4, 8, 3)
    assert one != sampling.draw(cases, 4, 7, 4)


@pytest.mark.parametrize(("batch", "with_labels"), [(2, 1), (3, 2), (8, 4)])
def test_of_two_pools_half_of_a_batch_is_labelled(batch: int, with_labels: int) -> None:
    cases, others = [case((4, 4), labels=1) for _ in range(3)], [case((9, 9)) for _ in range(5)]
    found = sampling.draw(cases, batch, 1, 4, unlabelled=others)
    assert [d.labelled for d in found] == [True] * with_labels + [False] * (batch - with_labels)
    # what is labelled is drawn as if there were nothing else, in a batch of its size
    assert found[:with_labels] == sampling.draw(cases, with_labels, 1, 4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_case_of_both_pools_is_seen_once_an_epoch(batch: int) -> None:
    pools = {True: [case((4, 4)) for _ in range(4)], False: [case((4, 4)) for _ in range(6)]}
    draws = [
        d for step in range(24) for d in sampling.draw(pools[True], batch, 1, step,
        unlabelled=pools[False])
    ]  # fmt: skip
    for labelled, pool in pools.items():
        seen = [d.case for d in draws if d.labelled == labelled]
        epochs = [seen[i : i + len(pool)] for i in range(0, len(seen) - len(pool) + 1, len(pool))]
        assert len(epochs) > 1
        assert all(sorted(epoch) == list(range(len(pool))) for epoch in epochs)


@pytest.mark.parametrize("batch", [1, 2, 3, 10])
def test_every_case_is_seen_once_an_epoch(batch: int) -> None:
    cases = [case((4, 4)) for _ in range(7)]
    seen = [d.case for step in range(70 // batch) for d in sampling.draw(cases, batch, 1, step)]
    whole = [seen[i : i + 7] for i in range(0, len(seen) - 6, 7)]
    assert len(whole) >= 8
    assert all(sorted(epoch) == list(range(7)) for epoch in whole)
    assert len({tuple(epoch) for epoch in whole}) > 1, "every epoch in another order"


@pytest.mark.parametrize(
    ("batch", "foreground", "wanted"),
    [(3, 1 / 3, 1), (6, 0.5, 3), (4, 1.0, 4), (4, 0.0, 0), (2, 0.1, 1), (8, 1 / 3, 3)],
)
def test_the_share_of_patches_on_a_structure(batch: int, foreground: float, wanted: int) -> None:
    lonely = case((300, 300))
    lonely.samples = {1: np.array([[37, 2]])}
    for step in range(20):
        found = sampling.draw([lonely], batch, 0, step, foreground=foreground)
        assert sum(d.centre == (37, 2) for d in found) == wanted


def test_a_batch_of_one_is_on_a_structure_now_and_then() -> None:
    lonely = case((40, 40))
    lonely.samples = {1: np.array([[37, 2]])}
    hits = sum(sampling.draw([lonely], 1, 0, step)[0].centre == (37, 2) for step in range(600))
    assert hits / 600 == pytest.approx(1 / 3, abs=0.06)


def test_a_small_structure_is_as_likely_as_a_large_one() -> None:
    volume = case((12, 12, 12))
    volume.label = np.ones((12, 12, 12), np.uint8)
    volume.label[3, 4, 5] = 2
    volume.samples = {i: np.argwhere(volume.label == i) for i in (1, 2)}
    volume.samples[3] = np.empty((0, 3), int)  # declared, but not in this case
    labels = Counter(
        int(volume.label[d.centre])
        for step in range(200)
        for d in sampling.draw([volume], 2, 0, step, foreground=1.0)
    )
    assert set(labels) == {1, 2}
    assert labels[2] / 400 == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_a_forced_patch_has_its_label_in_the_middle(shape: tuple[int, ...]) -> None:
    cases = [case(shape, labels=3, seed=i) for i in range(3)]
    region = Region((4,) * len(shape))
    for step in range(30):
        for drawn in sampling.draw(cases, 3, 0, step, foreground=1.0):
            chosen = cases[drawn.case]
            assert chosen.label is not None
            assert chosen.label[drawn.centre] > 0
            inside = all(2 <= c < n - 1 for c, n in zip(drawn.centre, shape, strict=True))
            _, mask = sampling.read(chosen, drawn.centre, region)
            if inside:
                assert mask[(2,) * len(shape)] == chosen.label[drawn.centre]


def test_other_patches_fall_anywhere() -> None:
    plain = case((5, 6))
    centres = Counter(sampling.draw([plain], 1, 0, step)[0].centre for step in range(1500))
    assert len(centres) == 30
    assert max(centres.values()) < 3 * 1500 / 30


def test_without_cases_there_is_a_message() -> None:
    with pytest.raises(InputError, match="at least one"):
        sampling.draw([], 2, 0, 0)


# ------------------------------------------------------------------------------------- reading


def padded(chosen: Prepared, start: tuple[int, ...], size: tuple[int, ...]) -> Any:
    """The referee: pad far more than enough with 0, then cut."""
    far = 50
    wide = [(far, far)] * len(size)
    window = tuple(slice(s + far, s + far + n) for s, n in zip(start, size, strict=True))
    image = np.pad(chosen.image, [(0, 0), *wide])[(slice(None), *window)]
    return image, np.pad(chosen.label, wide)[window]


@pytest.mark.parametrize(
    ("centre", "start"),
    [
        ((5, 5, 5), (3, 2, 4)),  # around the voxel
        ((0, 0, 0), (0, 0, 0)),  # held inside
        ((9, 11, 8), (6, 6, 7)),
        ((9, 0, 4), (6, 0, 3)),
    ],
)
def test_a_region_lies_around_its_centre_and_stays_inside(centre, start) -> None:
    chosen = case((10, 12, 9), labels=2)
    image, mask = sampling.read(chosen, centre, Region((4, 6, 2)))
    wanted = padded(chosen, start, (4, 6, 2))
    assert np.array_equal(image, wanted[0])
    assert np.array_equal(mask, wanted[1])
    assert image.dtype == np.float32
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("centre", [(0, 0), (2, 10), (4, 5)])
def test_a_case_smaller_than_the_region_stays_centred(centre: tuple[int, int]) -> None:
    chosen = case((5, 11), labels=2)
    image, mask = sampling.read(chosen, centre, Region((9, 20)))
    wanted = padded(chosen, (-2, -5), (9, 20))  # 2 + 5 + 2 and 5 + 11 + 4
    assert np.array_equal(image, wanted[0])
    assert np.array_equal(mask, wanted[1])
    assert np.count_nonzero(image) == chosen.image.size


def test_the_patch_in_the_middle_of_a_region_reaches_the_rim() -> None:
    """A region that had to stay inside would hide the rim of the case from every patch."""
    chosen = case((30, 30), labels=2)
    region = Region((14, 14), patch=(10, 10))
    image, mask = sampling.read(chosen, (0, 29), region)
    wanted = padded(chosen, (-2, 18), (14, 14))
    assert np.array_equal(image, wanted[0])
    assert np.array_equal(mask, wanted[1])
    whole = sampling.read(chosen, (0, 29), Region((14, 14)))
    assert np.array_equal(whole[0], padded(chosen, (0, 16), (14, 14))[0])
    # the patch is the same whether there is a margin around it or not
    for centre in ((0, 0), (15, 3), (29, 29)):
        bare = sampling.read(chosen, centre, Region((10, 10)))[0]
        assert np.array_equal(sampling.read(chosen, centre, region)[0][:, 2:-2, 2:-2], bare)
    # smaller than the region but larger than the patch: moved, not centred
    small = case((12, 12), labels=2)
    assert np.array_equal(
        sampling.read(small, (0, 6), region)[0], padded(small, (-2, -1), (14, 14))[0]
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_slices_come_with_their_neighbours_and_the_rim_repeats(axis: int, at: int) -> None:
    shape = [6, 7]
    shape.insert(axis, 5)
    chosen = case(tuple(shape), channels=2, labels=2)
    assert chosen.label is not None
    centre = [3, 3]
    centre.insert(axis, at)
    image, mask = sampling.read(chosen, centre, Region((6, 7), axis, neighbours=2))
    slices = [min(max(at + o, 0), 4) for o in (-2, -1, 0, 1, 2)]
    assert image.shape == (10, 6, 7)
    for place, k in enumerate(slices):
        found = image[2 * place : 2 * place + 2]
        assert np.array_equal(found, np.take(chosen.image, k, axis + 1))
    assert np.array_equal(mask, np.take(chosen.label, at, axis))


def test_slices_are_cut_and_padded_as_flat_images_are() -> None:
    chosen = case((9, 5, 12), channels=1, labels=2)
    flat = Prepared(chosen.image[:, :, 3], chosen.label[:, 3])
    region, plain = Region((6, 14), 1), Region((6, 14))
    ours = sampling.read(chosen, (0, 3, 11), region)
    assert np.array_equal(ours[0], sampling.read(flat, (0, 11), plain)[0])
    assert np.array_equal(ours[1], sampling.read(flat, (0, 11), plain)[1])


def test_a_flat_image_has_no_slices() -> None:
    flat = case((6, 7))
    image, _ = sampling.read(flat, (3, 3), Region((6, 7), slice_axis=2, neighbours=1))
    assert np.array_equal(image, flat.image)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_training_and_prediction_give_the_network_the_same_channels(axis: int) -> None:
    from delineate.inference.sliding_window import sliding_window

    volume = case((6, 6, 6), channels=2)
    given: list[np.ndarray] = []

    def spy(windows: np.ndarray) -> dict[str, np.ndarray]:
        given.extend(windows)
        return {"map": windows[:, :2]}

    sliding_window(spy, volume.image, (6, 6), maps={"map": 2}, slice_axis=axis, neighbours=1)
    for at in range(6):
        centre = [3, 3]
        centre.insert(axis, at)
        image, _ = sampling.read(volume, centre, Region((6, 6), axis, 1))
        assert np.array_equal(image, given[at])


def test_of_an_unlabelled_case_nothing_is_said_to_be_background() -> None:
    bare = Prepared(np.ones((1, 6, 6), np.float32))
    image, mask = sampling.read(bare, (2, 2), Region((4, 4)))
    assert image.min() == 1
    assert np.unique(mask).tolist() == [IGNORED]
    (drawn,) = sampling.draw([bare], 1, 0, 0, foreground=1.0)
    assert len(drawn.centre) == 2


def test_what_is_read_is_a_copy() -> None:
    chosen = case((6, 6), labels=1)
    image, mask = sampling.read(chosen, (3, 3), Region((6, 6)))
    image[:] = 0
    mask[:] = 9
    assert chosen.image.min() == 1
    assert chosen.label is not None
    assert chosen.label.max() <= 1


@pytest.mark.parametrize("axis", [None, 2])
def test_an_image_beside_the_case_is_read_at_the_same_place(axis: int | None) -> None:
    prepared = case((9, 8, 7), channels=1)
    region = Region((12, 4) if axis else (12, 4, 4), axis, neighbours=1 if axis else 0)
    patch, _ = sampling.read(prepared, (4, 5, 3), region)
    beside = sampling.read_like(2 * prepared.image, (4, 5, 3), region)
    middle = patch[1:2] if axis else patch
    np.testing.assert_array_equal(np.nan_to_num(beside), 2 * middle)
    np.testing.assert_array_equal(np.isnan(beside), middle == 0)  # where the region leaves the case
