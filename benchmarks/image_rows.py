"""Rows of ``table.py`` without a network: the same work for us and for each peer.

Peers are imported where they are prepared, so that the table can be had without any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from row import Array, Peer, Row, Run, Setup, head, largest


def metrics(setup: Setup) -> Row:
    import metrics_speed

    from delineate.metrics.surface import bounding_box

    shape = (40, 40, 30) if setup.tiny else (240, 240, 155)
    truth = metrics_speed.tumour(shape, 0, 2 * min(shape) / 155)
    prediction = metrics_speed.tumour(shape, 3, -2 * min(shape) / 155)

    def cropped() -> list[tuple[float, float, float, float]]:
        """By the textbook, but for the box that holds both, with a voxel around it."""
        box = tuple(
            slice(max(0, s.start - 1), s.stop + 1) for s in bounding_box((prediction + truth) > 0)
        )
        return metrics_speed.scipy_way(prediction[box], truth[box])

    def monai() -> Run:
        import monai.metrics  # noqa: F401

        return lambda: metrics_speed.monai_way(prediction, truth)

    def apart(ours: Any, theirs: Any) -> float:
        return float(np.nanmax(np.abs(np.array(ours) - np.array(theirs))))

    return Row(
        f"{' × '.join(map(str, shape))}, 3 labels; ours gives all metrics, peers Dice, HD95 and "
        "surface Dice (MONAI by surface elements, SciPy by voxels within the bounding box)",
        lambda: metrics_speed.our_way(prediction, truth),
        [
            Peer("MONAI", monai, apart, 0.02, "Dice, HD95, NSD"),
            Peer("SciPy", lambda: cropped, apart, 0.02, "Dice, HD95, NSD of voxels"),
        ],
    )


def preparation(setup: Setup) -> Row:
    from scipy import ndimage
    from skimage.transform import resize

    from delineate.core.image import Grid, Image
    from delineate.preprocess import normalise
    from delineate.preprocess.resample import new_shape, resample

    shape = (16, 16, 12) if setup.tiny else (128, 128, 96)
    values, _ = head(shape, 1)
    image = Image(values, Grid(shape, np.diag((0.8, 0.8, 1.2, 1.0))))
    target = (1.0, 1.0, 1.0)
    after = new_shape(image.grid, target)

    def ours() -> Array:
        resampled = resample(image, target)
        return normalise.zscore(resampled.array[0], whole=True)[0]

    def scaled(resampled: Array) -> Array:
        clipped = np.clip(resampled, *np.percentile(resampled, (0.1, 99.9)))
        return (clipped - clipped.mean()) / clipped.std()

    def scipy() -> Array:
        zoom = np.divide(after, shape)
        resampled = ndimage.zoom(values[0], zoom, order=3, mode="nearest", grid_mode=True)
        return scaled(np.clip(resampled, values.min(), values.max()))

    def scikit() -> Array:
        return scaled(resize(values[0], after, 3, "edge", anti_aliasing=False))

    def nnunet() -> Run:
        from nnunetv2.preprocessing.resampling import default_resampling as theirs

        spacing = image.grid.spacing_mm
        return lambda: scaled(
            theirs.resample_data_or_seg_to_shape(values, after, spacing, target, order_z=3)[0]
        )

    peers: dict[str, Callable[[], Run]] = {
        "SciPy and NumPy": lambda: scipy, "scikit-image and NumPy": lambda: scikit,
        "nnU-Net and NumPy": nnunet,
    }  # fmt: skip
    return Row(
        f"{' × '.join(map(str, shape))} by cubic splines to {' × '.join(map(str, after))}, "
        "clipped to 0.1–99.9 %, mean 0, variance 1",
        ours,
        [Peer(name, make, largest, 0.05, "values") for name, make in peers.items()],
    )


def kmeans(setup: Setup) -> Row:
    values, mask = head((16, 16, 12) if setup.tiny else (128, 128, 96), 1)
    grey = (values / values.max() * 255).astype(np.uint8)
    return _kmeans(grey, mask, 1, "bytes; ours is exact, peers have 1 start")


def kmeans_channels(setup: Setup) -> Row:
    values, mask = head((16, 16, 12) if setup.tiny else (128, 128, 96), 4)
    return _kmeans(values, mask, 3, "float, 3 starts; ours starts on 50,000 voxels of them")


def _kmeans(values: Array, mask: NDArray[np.bool_], starts: int, how: str) -> Row:
    from delineate.preprocess import cluster

    z = values[:, mask].T.astype(np.float32)
    z = np.ascontiguousarray((z - z.mean(0)) / z.std(0))

    def inertia(labels: Array) -> float:
        groups = [z[labels == i] for i in np.unique(labels)]
        return float(sum(((g - g.mean(0, dtype=np.float64)) ** 2).sum() for g in groups))

    def scikit(name: str) -> Run:
        import sklearn.cluster

        kind = getattr(sklearn.cluster, name)
        return lambda: kind(3, n_init=starts, random_state=0).fit(z).labels_

    def opencv() -> Run:
        import cv2

        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-4)

        def run() -> Array:
            _, labels, _ = cv2.kmeans(z, 3, None, stop, starts, cv2.KMEANS_PP_CENTERS)
            return labels[:, 0]

        return run

    def worse(ours: Array, theirs: Array) -> float:
        """A peer may stop in a poor optimum; ours may not be the poorer."""
        return max(0.0, inertia(ours) / inertia(theirs) - 1)

    peers: dict[str, Callable[[], Run]] = {
        "scikit-learn KMeans": lambda: scikit("KMeans"),
        "scikit-learn MiniBatchKMeans": lambda: scikit("MiniBatchKMeans"),
        "OpenCV": opencv,
    }
    return Row(
        f"{len(z):,} voxels of {z.shape[1]} channel(s), 3 clusters, {how}",
        lambda: cluster.kmeans(values, mask).labels[mask],
        [
            Peer(name, make, worse, 0.01, "our inertia, if above theirs,")
            for name, make in peers.items()
        ],
    )


def equalisation(setup: Setup) -> Row:
    from delineate.preprocess import equalise

    values, _ = head((16, 16, 12) if setup.tiny else (240, 240, 155), 1)
    grey = (values[0] / values.max() * 255).astype(np.uint8)

    def opencv() -> Run:
        import cv2

        return lambda: cv2.equalizeHist(grey.reshape(len(grey), -1)).reshape(grey.shape)

    def scikit() -> Run:
        from skimage.exposure import equalize_hist

        return lambda: equalize_hist(grey)

    def stretched(ours: Array, theirs: Array) -> float:
        """scikit-image leaves the darkest value where it is; ours and OpenCV send it to 0."""
        darkest = theirs.min()
        return largest(ours, 255 * (theirs - darkest) / (1 - darkest))

    return Row(
        f"{' × '.join(map(str, grey.shape))} bytes, whole image, 256 levels",
        lambda: equalise.histogram(grey),
        [
            Peer("OpenCV", opencv, largest, 1, "grey levels"),
            Peer("scikit-image", scikit, stretched, 1, "grey levels, once stretched,"),
        ],
    )


def nifti(setup: Setup) -> Row:
    import nibabel

    from delineate.data.readers import nifti as reader

    shape = (16, 16, 12) if setup.tiny else (160, 160, 128)
    values, _ = head(shape, 1)
    path = setup.folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values[0].astype(np.int16), np.eye(4)), path)

    def plain() -> Array:
        scan: Any = nibabel.load(path)
        return np.ascontiguousarray(scan.get_fdata(dtype=np.float32))

    def itk() -> Run:
        import SimpleITK

        sitk: Any = SimpleITK

        def run() -> Array:
            picture = sitk.ReadImage(str(path), sitk.sitkFloat32)
            return np.ascontiguousarray(sitk.GetArrayFromImage(picture).T)

        return run

    return Row(
        f"{' × '.join(map(str, shape))} int16, .nii.gz, to float32 in C order; "
        "ours also checks header, length and checksum",
        lambda: reader.read(path).array[0],
        [
            Peer("nibabel", lambda: plain, largest, 0, "voxels"),
            Peer("SimpleITK", itk, largest, 0, "voxels"),
        ],
    )


ROWS: dict[str, Callable[[Setup], Row]] = {
    "metrics": metrics,
    "preparation": preparation,
    "kmeans": kmeans,
    "kmeans-channels": kmeans_channels,
    "equalisation": equalisation,
    "nifti": nifti,
}
