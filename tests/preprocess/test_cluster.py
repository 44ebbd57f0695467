"""K-means against every partition, scikit-learn and scikit-image; and two printed faults."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import regionprops
from sklearn.cluster import KMeans

from delineate.core.errors import ConfigError, InputError
from delineate.preprocess import cluster, regions
from delineate.preprocess.cluster import COORDINATES, kmeans


def tissues(
    shape: tuple[int, ...] = (48, 52), seed: int = 0, noise: float = 12
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.intp]]:
    """FLAIR and T2 of four tissues, in a ball; and which tissue is where."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = sum(x**2 for x in axes) < 0.8
    truth = np.where(mask, generator.integers(1, 5, shape), 0)
    means = np.array([[0, 100, 180, 260, 400], [0, 300, 180, 260, 100]])[:, truth]
    values = np.where(mask, means + generator.normal(0, noise, (2, *shape)), 0)
    return values.astype(np.float32), mask, truth


def inertia(values: NDArray[np.float64], parts: tuple[NDArray[np.float64], ...]) -> float:
    return sum(float(((part - part.mean()) ** 2).sum()) for part in parts) / (
        values.size * values.var()
    )


@pytest.mark.parametrize("k", [2, 3, 4])
def test_one_channel_finds_the_best_of_all_partitions(k: int) -> None:
    for seed in range(5):
        values = np.random.default_rng(seed).integers(0, 255, 14).astype(np.uint8)
        line = np.sort(values).astype(np.float64)
        cuts = itertools.combinations(range(1, line.size), k - 1)
        best = min(inertia(line, tuple(np.split(line, cut))) for cut in cuts)
        found = kmeans(values.reshape(1, 2, 7), k=k)
        assert found.inertia == pytest.approx(best, abs=1e-9)
        assert found.k == k


def exact(counts: NDArray[np.int64], k: int) -> float:
    """Least sum of squares of ``k`` intervals of a histogram, by the textbook's recursion."""
    n = len(counts)
    places = np.arange(n, dtype=float)

    def cost(i: int, j: int) -> float:
        w, x = counts[i:j], places[i:j]
        return float(w @ (x - w @ x / max(1, w.sum())) ** 2)

    best = [cost(0, j) for j in range(n + 1)]
    for _ in range(k - 1):
        best = [min(best[i] + cost(i, j) for i in range(j + 1)) for j in range(n + 1)]
    return best[n]


def test_histograms_are_parted_at_the_optimum() -> None:
    counts = np.random.default_rng(0).integers(0, 30, 40)
    values = np.repeat(np.arange(40, dtype=np.uint8), counts)[None, None]
    for k in (2, 3, 5):
        found = kmeans(values, k=k)
        assert found.inertia * values.size * values.var() == pytest.approx(exact(counts, k))


def test_one_channel_is_as_good_as_scikit_learn() -> None:
    values, mask, _ = tissues((64, 64))
    grey = (values[:1] / 2).clip(0, 255).astype(np.uint8)
    inside = grey[0][mask].astype(float)[:, None]
    referee = KMeans(3, n_init=10, random_state=0).fit(inside).inertia_
    found = kmeans(grey, mask)
    assert found.inertia <= referee / (inside.size * inside.var()) + 1e-9
    exact_labels = kmeans(values[:1], mask)  # 256 bins of numbers that are no bytes
    inside = values[0][mask].astype(float)[:, None]
    referee = KMeans(3, n_init=10, random_state=0).fit(inside).inertia_ / inside.size / inside.var()
    assert exact_labels.inertia == pytest.approx(referee, rel=1e-3)


@pytest.mark.parametrize("shape", [(48, 52), (24, 26, 20)])
def test_several_channels_are_as_good_as_scikit_learn(shape: tuple[int, ...]) -> None:
    values, mask, truth = tissues(shape)
    found = kmeans(values, mask, k=4, order_by=0)
    z = values[:, mask].T.astype(float)
    z = (z - z.mean(0)) / z.std(0)
    referee = KMeans(4, n_init=10, random_state=0).fit(z)
    assert found.inertia == pytest.approx(referee.inertia_ / len(z), rel=1e-3)
    assert (found.labels == truth).mean() > 0.99
    np.testing.assert_allclose(found.centres, values[:, mask].T.reshape(-1, 2)[
        np.argsort(truth[mask], kind="stable")
    ].mean(0) + found.centres - found.centres.mean(0), atol=20)  # fmt: skip
    assert not found.labels[~mask].any()


def test_the_elbow_finds_how_many_tissues_there_are() -> None:
    values, mask, truth = tissues((32, 34, 30))
    one = kmeans(values[:1], mask, k="elbow")
    two = kmeans(values, mask, k="elbow", order_by=0)
    for found in (one, two):
        assert found.k == 4
        assert list(found.curve) == list(range(2, 9))
        assert (np.diff(list(found.curve.values())) < 1e-3).all()
        assert (found.labels == truth).mean() > 0.97


def test_the_curve_alone_is_that_of_the_elbow() -> None:
    values, mask, _ = tissues((32, 34, 30))
    assert cluster.inertias(values[:1], mask) == kmeans(values[:1], mask, k="elbow").curve
    curve = cluster.inertias(values, mask)
    whole = kmeans(values, mask, k="elbow").curve
    assert list(curve) == list(whole)
    assert list(curve.values()) == pytest.approx(list(whole.values()), rel=0.05)
    assert cluster.elbow(curve) == 4
    few = np.array([[[1, 2, 3]], [[5, 7, 9]]], np.float32)
    assert list(cluster.inertias(few)) == [2, 3]
    assert cluster.inertias(few, np.zeros((1, 3), bool)) == {}


def test_a_number_means_the_same_in_every_scan() -> None:
    for seed in range(4):
        values, mask, truth = tissues(seed=seed)
        scaled = np.stack([values[0] * (seed + 1) + 70, values[1] * 0.3])
        found = kmeans(scaled, mask, k=4, order_by=0, seed=seed)
        assert (found.labels == truth).mean() > 0.99
        by_t2 = kmeans(scaled, mask, k=4, order_by=1)
        assert (np.diff(by_t2.centres[:, 1]) > 0).all()
    assert (np.diff(kmeans(values[:1], mask).centres[:, 0]) > 0).all()


def test_the_seed_decides_what_is_drawn_and_nothing_else_does() -> None:
    values, mask, _ = tissues()
    np.random.seed(1)  # global state must not matter
    first = kmeans(values, mask, voxels=300)
    np.random.seed(2)
    again = kmeans(values, mask, voxels=300)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centres, again.centres)
    few = kmeans(values, mask, k=4, voxels=300)
    assert few.inertia == pytest.approx(kmeans(values, mask, k=4).inertia, rel=0.02)


def same_partition(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def test_the_printed_distance_ignores_the_image() -> None:
    """Equation 4 of DL-GAN-CNN measures between coordinates: tiles, whatever the image shows."""
    values, mask, truth = tissues()
    other = np.random.default_rng(9).normal(size=values.shape).astype(np.float32)
    a, b = (kmeans(v, mask, coord_weight=COORDINATES).labels for v in (values, other))
    assert same_partition(a, b)
    assert not same_partition(kmeans(values, mask).labels, kmeans(other, mask).labels)
    # Each tissue is everywhere, so tiles know nothing of it.
    for tile in (1, 2, 3):
        shares = np.bincount(truth[a == tile], minlength=5)[1:] / (a == tile).sum()
        np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_a_little_weight_on_coordinates_joins_neighbours() -> None:
    values, mask, _ = tissues(noise=60)

    def borders(labels: NDArray[np.uint8]) -> int:
        return int((np.diff(labels, axis=0) != 0).sum() + (np.diff(labels, axis=1) != 0).sum())

    plain = kmeans(values, mask, k=4)
    joined = kmeans(values, mask, k=4, coord_weight=1.5)
    assert borders(joined.labels) < 0.8 * borders(plain.labels)
    thick = kmeans(values, mask, k=4, coord_weight=1.5, spacing_mm=(1.0, 5.0))
    assert not same_partition(joined.labels, thick.labels)


def test_the_printed_update_of_the_centres_fails() -> None:
    """Equation 3 of DL-VAE-CNN divides by k, so that centres leave the data altogether."""
    values, mask, _ = tissues()
    right = kmeans(values, mask, k=4)
    wrong = kmeans(values, mask, k=4, update="printed")
    assert right.k == 4
    assert wrong.k < 4, "clusters are lost"
    assert wrong.inertia > 10 * right.inertia


def test_fewer_values_than_clusters_give_fewer_clusters() -> None:
    values = np.zeros((1, 6, 6), np.float32)
    values[0, :3] = 5
    assert kmeans(values, k=3).k == 2
    assert kmeans(values, k="elbow").k == 2
    assert kmeans(np.concatenate([values, values]), k=3).k == 2
    one_hot = kmeans(values, k=3).one_hot(3)
    assert one_hot.shape == (3, 6, 6)
    np.testing.assert_array_equal(one_hot.sum(0), 1)
    assert kmeans(np.full((1, 4, 4), 2.0, np.float32), k=3).k == 1


def test_a_hot_voxel_does_not_merge_all_tissues() -> None:
    values, mask, truth = tissues((32, 34, 30))
    hot = values[:1].copy()
    hot[0, 16, 17, 15] = 1e6
    found = kmeans(hot, mask, k=4)
    assert (found.labels == truth).mean() > 0.97


def test_regions_are_described_as_scikit_image_does() -> None:
    labels = np.zeros((60, 80), np.uint8)
    rows, columns = np.ogrid[:60, :80]
    labels[((rows - 20) / 8) ** 2 + ((columns - 40) / 24) ** 2 < 1] = 1
    labels[40:50, 10:20] = 2
    values = np.stack([np.full((60, 80), 50.0), np.where(labels == 2, 30.0, 10.0)])
    rows_ = regions.describe(labels, values)
    for row, referee in zip(rows_, regionprops(labels), strict=True):
        assert row["voxels"] == referee.area
        assert row["eccentricity"] == pytest.approx(referee.eccentricity, abs=0.01)
        assert row["centre_mm"] == pytest.approx(referee.centroid)
    assert rows_[1]["mean"] == [50, 30]
    whole = values[1][labels > 0].mean()
    assert rows_[1]["ratio"] == pytest.approx([1, 30 / whole])
    scaled = regions.describe(labels, values, (0.5, 2.0))
    assert scaled[0]["size"] == rows_[0]["voxels"]
    assert scaled[1]["eccentricity"] == pytest.approx(np.sqrt(1 - 1 / 16))
    cube = regions.describe(np.ones((5, 5, 5), np.uint8), np.ones((1, 5, 5, 5)))
    assert cube[0]["eccentricity"] == pytest.approx(0, abs=1e-6)


def test_regions_are_drawn_in_colours_of_their_own() -> None:
    labels = np.array([[0, 1], [2, 9]], np.uint8)
    colours = regions.render(labels)
    assert colours.shape == (3, 2, 2)
    assert colours.dtype == np.uint8
    assert colours[:, 0, 0].tolist() == [0, 0, 0]
    assert colours[:, 0, 1].tolist() == [0xE6, 0x9F, 0x00]
    assert colours[:, 1, 0].tolist() == [0x56, 0xB4, 0xE9]
    np.testing.assert_array_equal(colours[:, 1, 1], colours[:, 0, 1])  # eight colours go round


def test_wrong_settings_are_refused() -> None:
    values, mask, _ = tissues()
    with pytest.raises(ConfigError, match="got 0"):
        kmeans(values, mask, k=0)
    with pytest.raises(ConfigError, match="got -1"):
        kmeans(values, mask, coord_weight=-1)
    with pytest.raises(InputError, match="inside the mask"):
        kmeans(values, np.zeros_like(mask))
