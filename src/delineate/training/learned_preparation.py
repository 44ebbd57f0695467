"""What of a preparation is learned from training cases, and the picture of its clusters.

A denoising autoencoder and the number of clusters are learned once for a cohort, from training
cases alone, and kept as numbers: what the model file holds needs no image to be repeated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from delineate.core.atomic import atomic_path, writable_folder
from delineate.core.errors import DelineateError, InputError
from delineate.core.image import Image
from delineate.core.schema import IGNORED
from delineate.data.cache import PreparedCase
from delineate.preprocess import autoencoder, cluster, denoise, presets, regions, restore
from delineate.preprocess.presets import Preparation

T = TypeVar("T")
#: Pictures that the autoencoder learns from, of all cases together.
_PICTURES = 512


def complete(
    plan: Preparation,
    images: Callable[[], Iterable[Image]],
    cases: int,
    *,
    autoencode: bool,
    clusters: int | Literal["auto"],
) -> Preparation:
    """Learn what is still missing in a plan.

    Args:
        plan: Without denoising where the autoencoder is to do it.
        images: Read again at each call: some training cases, or all.
        cases: How many they are.
        autoencode: Fit the autoencoder.
        clusters: ``auto``: let the elbow choose their number.

    Raises:
        InputError: Images without noise, or with too few different values for the elbow.
    """
    if autoencode:
        learned = _denoiser(plan, images, cases)
        reason = (
            f"noise taken off by an autoencoder, learned from {learned['pictures']} pictures of "
            f"{cases} training cases; it tells {100 * learned['removed']:.0f} % of the variance of "
            "noise added to them"
        )
        plan = dataclasses.replace(
            plan, denoise="autoencoder", denoiser=learned, reasons=(*plan.reasons, reason)
        )
    if clusters == "auto" and "clusters" in plan.derived:
        curve = _curve(plan, images)
        k = cluster.elbow(curve)
        reason = f"{k} clusters, where the mean inertia of {cases} training cases has its elbow"
        elbow = {str(n): round(inertia, 6) for n, inertia in curve.items()}
        plan = dataclasses.replace(plan, clusters=k, elbow=elbow, reasons=(*plan.reasons, reason))
    return plan


def _denoiser(
    plan: Preparation, images: Callable[[], Iterable[Image]], cases: int
) -> dict[str, Any]:
    pictures_of_channel = max(1, _PICTURES // (cases * len(plan.channels)))
    modalities = [channel.modality for channel in plan.channels]
    generator = np.random.default_rng(0)
    # Shading is far smoother than noise: N4, which takes long, would change nothing here.
    plan = dataclasses.replace(plan, bias_correction=False)

    def draw(image: Image) -> NDArray[Any]:
        image, backgrounds = presets.before_denoising(plan, image)
        axis = plan.slice_axis if plan.slice_axis is not None else restore.across(image.grid)
        pictures = []
        for values, (noise, _, _), background in zip(
            image.array, restore.rules("auto", image, modalities), backgrounds, strict=True
        ):
            even, _, _ = denoise.even_scale(np.asarray(values, np.float32), noise)
            outside = even[values == background][:1]  # one value in any scale, if not cut away
            level = float(outside[0]) if outside.size else None
            pictures.append(autoencoder.pictures(even, pictures_of_channel, generator, level, axis))
        return np.concatenate(pictures)

    return autoencoder.fit(np.concatenate(list(_usable(images(), draw))))


def _curve(plan: Preparation, images: Callable[[], Iterable[Image]]) -> dict[int, float]:
    """Mean inertia by number of clusters."""
    # With two clusters derived, their channels say what is tissue.
    clusters_only = dataclasses.replace(plan, derived=("clusters",), clusters=2)
    n_channels = len(plan.channels)

    def curve(image: Image) -> dict[int, float]:
        array = presets.apply(clusters_only, image).array
        return cluster.inertias(
            array[:n_channels], np.any(array[n_channels:], axis=0, keepdims=True)[0]
        )

    curves = list(_usable(images(), curve))
    full = [curve_of_case for curve_of_case in curves if len(curve_of_case) == len(cluster.ELBOW)]
    if not full:
        most = max((max(curve_of_case, default=1) for curve_of_case in curves), default=1)
        raise InputError(
            f"expected training images that part into {cluster.ELBOW[-1]} clusters, so that the "
            f"elbow can choose, got at most {most} different values in them",
            fix="give clusters as a number",
            code="elbow-few-values",
        )
    return {n: float(np.mean([curve_of_case[n] for curve_of_case in full])) for n in cluster.ELBOW}


def _usable(images: Iterable[Image], use: Callable[[Image], T]) -> Iterator[T]:
    """Results of the images that can be prepared; the others are reported when they are."""
    done, failed = 0, None
    for image in images:
        try:
            result = use(image)
        except DelineateError as error:
            failed = failed or error
            continue
        done += 1
        yield result
    if failed is not None and not done:
        raise failed


# --------------------------------------------------------------------------------- the picture


def keep_clusters(run: Path, preparation: Preparation, cases: Sequence[PreparedCase]) -> None:
    """Keep a slice of a training case, its clusters and the curve of the elbow, for the report.

    Args:
        run: The run folder.
        preparation: Derives clusters.
        cases: To train on; the first with anything outlined is shown.
    """
    from delineate.reports import clusters

    case = next(
        (candidate for candidate in cases if candidate.label is not None and candidate.label.any()),
        cases[0],
    )
    n_channels, names = len(preparation.channels), preparation.outputs
    first = names.index("cluster:1")
    image = case.image
    maps = image[first : first + preparation.clusters]
    labels = np.where(maps.any(axis=0), maps.argmax(axis=0) + 1, 0).astype(np.uint8)
    curve = {int(n): v for n, v in preparation.elbow.items()} or cluster.inertias(
        image[:n_channels], labels > 0
    )
    channel = next((i for i, name in enumerate(names[:n_channels]) if "flair" in name.lower()), 0)
    values, spacing = image[channel], case.grid.spacing_mm
    if labels.ndim == 3:
        axis = preparation.slice_axis
        axis = restore.across(case.grid) if axis is None else axis
        full = labels
        if case.label is not None and case.label.any():
            full = (case.label > 0) & (case.label != IGNORED)
        others = tuple(a for a in range(3) if a != axis)
        place = int(np.count_nonzero(full, axis=others).argmax())
        values, labels = np.take(values, [place], axis), np.take(labels, [place], axis)
        values, labels = values.squeeze(axis), labels.squeeze(axis)
        spacing = tuple(mm for a, mm in enumerate(spacing) if a != axis)
    if preparation.orient:  # as radiologists look at it
        values, labels, spacing = values[::-1, ::-1].T, labels[::-1, ::-1].T, spacing[::-1]
    inside = labels > 0
    low, high = np.percentile(values[inside] if inside.any() else values, (0.5, 99.5))
    grey = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * 255 * inside
    target = run / clusters.FILE
    writable_folder(target.parent)
    with atomic_path(target) as temporary:
        np.savez(
            temporary, allow_pickle=False,
            image=grey.astype(np.uint8), colours=regions.render(labels),
            spacing_mm=np.array(spacing), numbers=np.array(list(curve)),
            inertia=np.array(list(curve.values())) / n_channels,
            chosen=np.array(preparation.clusters),
            by_elbow=np.array(bool(preparation.elbow)), case=np.array(case.id),
            channel=np.array(names[channel]),
        )  # fmt: skip
