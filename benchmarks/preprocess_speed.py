"""Milliseconds of every stage of preprocessing beside its peers, as Markdown tables.

    python benchmarks/preprocess_speed.py [--repeats 5] [--size 240 240 155] [--quick]

Two images: a slice of 256 × 256 with 3 channels, as LGG's, and a volume of 240 × 240 × 155 with 4.
All run in this process on one thread, in turns, on the same synthetic head (float32, or bytes where
it says so); the best of the repeats counts, and the ratio is to our own time: above 1 the peer is
slower. Numbers depend on the machine, ratios hardly. What takes seconds a run is run once;
``--quick`` leaves it out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from row import head
from scipy import ndimage
from skimage import exposure, filters, restoration
from skimage.measure import regionprops_table
from sklearn.cluster import KMeans, MiniBatchKMeans

from delineate.preprocess import (
    autoencoder,
    bias,
    cluster,
    crop,
    denoise,
    equalise,
    normalise,
    regions,
)

Array = NDArray[Any]
Way = Callable[[], object]
#: Stage -> who -> what to run; ours first.
Stages = dict[str, dict[str, Way]]
sitk: Any = SimpleITK


def stages(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[Stages, Stages]:
    """Fast ones, and those that take seconds in three dimensions."""
    image, flat = values[0], values.ndim == 3
    fast = {**intensities(image, mask, flat), **clustering(values, mask)}
    slow = denoising(image, flat) | shading(image, mask)
    return (fast | slow, {}) if flat else (fast, slow)


def intensities(image: Array, mask: Array, flat: bool) -> Stages:
    grey = (image / image.max() * 255).astype(np.uint8)
    plain = grey.reshape(grey.shape[0], -1)
    picture = sitk.GetImageFromArray(image)
    zero = crop.background(image)
    peers: dict[str, Way] = {}
    if flat:
        peers["OpenCV"] = lambda: cv2.createCLAHE(2.0, (8, 8)).apply(grey)
    peers["scikit-image"] = lambda: exposure.equalize_adapthist(grey, clip_limit=0.01)
    return {
        "equalise, bytes": {
            "Delineate": lambda: equalise.histogram(grey),
            "OpenCV": lambda: cv2.equalizeHist(plain),
            "scikit-image": lambda: exposure.equalize_hist(grey),
        },
        "equalise in the mask, float": {
            "Delineate": lambda: equalise.histogram(image, mask),
            "scikit-image": lambda: exposure.equalize_hist(image, mask=mask),
        },
        "CLAHE, bytes": {"Delineate": lambda: equalise.adaptive(grey), **peers},
        "CLAHE in the mask, float": {"Delineate": lambda: equalise.adaptive(image, mask)},
        "normalise (z-score, clipped)": {
            "Delineate": lambda: normalise.zscore(image, zero),
            "NumPy, not clipped": lambda: plain_zscore(image, mask),
            "SimpleITK, not masked": lambda: sitk.Normalize(picture),
        },
    }


def plain_zscore(image: Array, mask: Array) -> Array:
    inside = image[mask]
    return np.where(mask, (image - inside.mean()) / inside.std(), 0)


def clustering(values: Array, mask: Array) -> Stages:
    grey = (values[:1] / values[0].max() * 255).astype(np.uint8)
    z = values[:, mask].T
    z = np.ascontiguousarray((z - z.mean(0)) / z.std(0))
    one = np.ascontiguousarray(z[:, :1])
    labels = cluster.kmeans(values, mask).labels
    stacked = np.moveaxis(values, 0, -1)
    n = values.shape[0]

    def sklearn_way(data: Array, kind: Any, starts: int) -> Way:
        return lambda: kind(3, n_init=starts, random_state=0).fit(data)

    def opencv_way(data: Array, starts: int) -> Way:
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-4)
        return lambda: cv2.kmeans(data, 3, None, stop, starts, cv2.KMEANS_PP_CENTERS)

    return {
        "K-means of 1 channel, bytes": {
            "Delineate (exact)": lambda: cluster.kmeans(grey, mask),
            "scikit-learn KMeans, 1 start": sklearn_way(one, KMeans, 1),
            "scikit-learn MiniBatchKMeans": sklearn_way(one, MiniBatchKMeans, 1),
            "OpenCV, 1 start": opencv_way(one, 1),
        },
        "K-means of 1 channel, float": {
            "Delineate (256 bins)": lambda: cluster.kmeans(values[:1], mask),
            "scikit-learn KMeans, 1 start": sklearn_way(one, KMeans, 1),
            "scikit-learn MiniBatchKMeans": sklearn_way(one, MiniBatchKMeans, 1),
        },
        f"K-means of {n} channels": {
            "Delineate (3 starts on 50,000)": lambda: cluster.kmeans(values, mask),
            "scikit-learn KMeans, 3 starts": sklearn_way(z, KMeans, 3),
            "scikit-learn MiniBatchKMeans": sklearn_way(z, MiniBatchKMeans, 3),
            "OpenCV, 3 starts": opencv_way(z, 3),
        },
        "elbow, 1 channel, 2 to 8": {
            "Delineate": lambda: cluster.kmeans(values[:1], mask, k="elbow"),
        },
        f"elbow, {n} channels, 2 to 8": {"Delineate": lambda: cluster.inertias(values, mask)},
        "ROI features": {
            "Delineate": lambda: regions.describe(labels, values),
            "scikit-image": lambda: regionprops_table(
                labels.astype(np.int64),
                stacked,
                properties=("label", "area", "centroid", "intensity_mean", "inertia_tensor"),
            ),
        },
        "RGB rendering of clusters": {"Delineate": lambda: regions.render(labels)},
    }


def denoising(image: Array, flat: bool) -> Stages:
    picture = sitk.GetImageFromArray(image)
    noise = denoise.noise_std(image)
    reach = 6 if flat else 2
    generator = np.random.default_rng(0)
    axis = None if flat else 2
    learned = autoencoder.fit(
        autoencoder.pictures(image, 8, generator, 0.0, axis), steps=2
    )  # its weights do not change its speed
    found: Stages = {
        "Gaussian": {
            "Delineate (SciPy)": lambda: denoise.gaussian(image),
            "scikit-image": lambda: filters.gaussian(image, 1.0, preserve_range=True),
            "SimpleITK": lambda: sitk.DiscreteGaussian(picture, 1.0),
        },
        "median": {
            "Delineate": lambda: denoise.median(image),
            "SciPy": lambda: ndimage.median_filter(image, 3),
            "SimpleITK": lambda: sitk.Median(picture, [1] * image.ndim),
        },
        "wavelets (BayesShrink)": {
            "Delineate": lambda: denoise.wavelet(image, shifts=1),
            "scikit-image": lambda: restoration.denoise_wavelet(
                image, sigma=noise, wavelet="db2", wavelet_levels=4, rescale_sigma=False
            ),
        },
        "non-local means": {
            "Delineate (scikit-image)": lambda: denoise.non_local_means(image),
        },
        "autoencoder, applied": {
            "Delineate": lambda: autoencoder.clean(image, learned, axis),
        },
    }
    if flat:
        found["wavelets, 2 × 2 shifts"] = {"Delineate": lambda: denoise.wavelet(image)}
        found["Gaussian"]["OpenCV"] = lambda: cv2.GaussianBlur(image, (0, 0), 1.0)
        grey = (image / image.max() * 255).astype(np.uint8)
        found["non-local means"]["OpenCV, bytes"] = lambda: cv2.fastNlMeansDenoising(
            grey, None, 10.0, 5, 2 * reach + 1
        )
    return found


def shading(image: Array, mask: Array) -> Stages:
    spacing = (1.0,) * image.ndim
    picture = sitk.GetImageFromArray(image)
    region = sitk.GetImageFromArray(mask.astype(np.uint8))

    def plain() -> object:
        """The usual recipe: shrunk four times, the field at full size."""
        shrunk = [sitk.Shrink(one, [4] * image.ndim) for one in (picture, region)]
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations([50] * 4)
        n4.SetNumberOfThreads(1)
        n4.Execute(*shrunk)
        return picture / sitk.Exp(n4.GetLogBiasFieldAsImage(picture))

    return {
        "shading, N4": {
            "Delineate (SimpleITK, 8 mm)": lambda: bias.n4(image, mask, spacing),
            "SimpleITK, shrunk 4 times": plain,
        },
        "shading, smooth": {"Delineate": lambda: bias.smooth(image, mask, spacing)},
    }


def measure(stages: Stages, repeats: int) -> dict[tuple[str, str], float]:
    """Best time of each, in seconds; those that take seconds are run once."""
    best: dict[tuple[str, str], float] = {}
    for turn in range(repeats):
        for stage, ways in stages.items():
            for who, way in ways.items():
                if turn and best[stage, who] > 2:
                    continue
                start = time.perf_counter()
                way()
                took = time.perf_counter() - start
                best[stage, who] = min(best.get((stage, who), took), took)
    return best


def shown(best: dict[tuple[str, str], float], title: str, repeats: int) -> None:
    print(f"\n**{title}**, one thread, best of {repeats}\n")
    print("| stage | ours, ms | peers, ms (times ours) |\n|---|---:|---|")
    for stage in dict.fromkeys(stage for stage, _ in best):
        (_, first), *others = [(who, s) for (name, who), s in best.items() if name == stage]
        peers = ", ".join(f"{who} {digits(s)} ({s / first:.2g}×)" for who, s in others)
        print(f"| {stage} | {digits(first)} | {peers or '–'} |")


def digits(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.2f}" if ms < 10 else f"{ms:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    for shape, channels in (((256, 256), 3), (tuple(chosen.size), 4)):
        fast, slow = stages(*head(shape, channels))
        title = f"{' × '.join(map(str, shape))}, {channels} channels"
        best = measure(fast, chosen.repeats)
        if not chosen.quick:
            best |= measure(slow, min(2, chosen.repeats))
        shown(best, title, chosen.repeats)


if __name__ == "__main__":
    main()
