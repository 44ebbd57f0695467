"""Milliseconds of each stage of preprocessing, a 256² slice and a 240×240×155 volume, beside peers.

    python benchmarks/preprocess_speed.py [--repeats 5] [--size 240 240 155] [--slow]

All run in this process, in turns, on the same synthetic head (a third of the volume, as float32 and
as bytes); the best of the repeats counts. Numbers depend on the machine: quote the ratios. What
takes seconds a run (3D medians, non-local means, N4, scikit-image's tiles in 3D) comes with
``--slow``, and is run once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import exposure
from sklearn.cluster import KMeans

from delineate.preprocess import bias, cluster, denoise, equalise

Way = Callable[[], object]
#: Stage -> who -> what to run; ours first.
Stages = dict[str, dict[str, Way]]


def head(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Three smooth tissues in an ellipsoid, with noise; FLAIR and T2."""
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    mask = np.asarray(sum(x**2 for x in axes) < 0.75)
    bumps = ndimage.gaussian_filter(generator.standard_normal(shape, np.float32), 4)
    truth = np.digitize(bumps / bumps.std(), (-0.5, 0.5))
    means = np.array([[100, 180, 260], [260, 100, 180]], np.float32)[:, truth]
    noise = generator.normal(0, 15, (2, *shape)).astype(np.float32)
    return np.where(mask, means + noise, 0).clip(0).astype(np.float32), mask


def stages(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[Stages, Stages]:
    """Fast and slow ones."""
    image = values[0]
    grey = (image / image.max() * 255).astype(np.uint8)
    plain = grey.reshape(grey.shape[0], -1)
    z = values[:, mask].T
    z = (z - z.mean(0)) / z.std(0)
    flat, thick = image.ndim == 2, image.ndim == 3
    fast: Stages = {
        "equalise, bytes": {
            "delineate": lambda: equalise.histogram(grey),
            "delineate, masked": lambda: equalise.histogram(grey, mask),
            "cv2": lambda: cv2.equalizeHist(plain),
            "numpy bincount + table": lambda: numpy_way(grey),
            "scikit-image": lambda: exposure.equalize_hist(grey),
        },
        "equalise, float32": {
            "delineate": lambda: equalise.histogram(image),
            "delineate, masked": lambda: equalise.histogram(image, mask),
            "scikit-image, masked": lambda: exposure.equalize_hist(image, mask=mask),
        },
        "equalise by tiles (CLAHE), bytes": {
            "delineate": lambda: equalise.adaptive(grey),
            "delineate, masked": lambda: equalise.adaptive(grey, mask),
            **({"cv2": lambda: cv2.createCLAHE(2.0, (8, 8)).apply(grey)} if flat else {}),
        },
        "K-means of one channel, k = 3": {
            "delineate (exact)": lambda: cluster.kmeans(values[:1], mask),
            "delineate, bytes": lambda: cluster.kmeans(grey[None], mask),
            "scikit-learn, 1 start": lambda: KMeans(3, n_init=1, random_state=0).fit(z[:, :1]),
            "cv2, 1 start": lambda: cv2_way(z[:, :1]),
        },
        "K-means of two channels, k = 3": {
            "delineate, 3 starts on 50,000": lambda: cluster.kmeans(values, mask),
            "scikit-learn, 3 starts": lambda: KMeans(3, n_init=3, random_state=0).fit(z),
            "cv2, 1 start": lambda: cv2_way(z),
        },
        "elbow, one channel, k = 2 to 8": {
            "delineate (exact)": lambda: cluster.kmeans(values[:1], mask, k="elbow"),
        },
        "Gaussian": {"delineate (SciPy)": lambda: denoise.gaussian(image)},
        "wavelets, BayesShrink": {
            "delineate db2, 1 shift": lambda: denoise.wavelet(image, shifts=1),
            **({"delineate db2, 2 x 2": lambda: denoise.wavelet(image)} if flat else {}),
        },
        "shading, smooth": {"delineate": lambda: bias.smooth(image, mask)},
    }
    slow: Stages = {
        "equalise by tiles (CLAHE), bytes": {
            "scikit-image": lambda: exposure.equalize_adapthist(grey, clip_limit=0.01),
        },
        "median, 3 voxels": {"delineate (cv2, SciPy)": lambda: denoise.median(image)},
        "non-local means": {
            "delineate (scikit-image)": lambda: denoise.non_local_means(image),
        },
        "shading, N4": {"delineate (SimpleITK, 1 thread)": lambda: bias.n4(image, mask)},
    }
    return (fast, slow) if thick else ({k: {**v, **slow.pop(k, {})} for k, v in fast.items()}, slow)


def numpy_way(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cumulated = np.cumsum(np.bincount(grey.reshape(-1), minlength=256))
    table = np.rint((cumulated - cumulated[0]) / (grey.size - cumulated[0]) * 255)
    return table.clip(0).astype(np.uint8)[grey]


def cv2_way(z: NDArray[np.float32]) -> object:
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-4)
    return cv2.kmeans(z, 3, None, stop, 1, cv2.KMEANS_PP_CENTERS)


def measure(stages: Stages, repeats: int, title: str) -> None:
    best = {(stage, who): float("inf") for stage, ways in stages.items() for who in ways}
    for _ in range(repeats):
        for stage, who in best:
            start = time.perf_counter()
            stages[stage][who]()
            best[stage, who] = min(best[stage, who], time.perf_counter() - start)
    print(f"\n{title}, best of {repeats}")
    for (stage, who), seconds in best.items():
        print(f"  {stage:34s} {who:32s} {seconds * 1000:10.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--slow", action="store_true")
    chosen = parser.parse_args()
    for shape in ((256, 256), tuple(chosen.size)):
        fast, slow = stages(*head(shape))
        title = "x".join(map(str, shape))
        measure(fast, chosen.repeats, title)
        if chosen.slow or len(shape) == 2:
            measure(slow, 1, title)


if __name__ == "__main__":
    main()
