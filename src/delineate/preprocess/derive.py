"""Channels that are computed from the others, so that a network can see them too.

- ``equalised``: every channel once more, its histogram equalised by the rule for its modality. All
  of them and not FLAIR alone: each sequence has a scale and a shading of its own to be rid of, and
  no cohort need have a FLAIR. Scaled like the channels beside it: a uniform distribution of mean 0
  and variance 1 in the tissue, 0 in the background.
- ``clahe``: the same by tiles with limited contrast, whatever the modality: what is faint beside
  its surroundings shows, and the shading goes.
- ``clusters``: the clusters of K-means, one map of 0 and 1 each. Not one map of numbers: where an
  augmentation or a convolution mixes two neighbours, half of cluster 1 and half of cluster 3 would
  read as cluster 2. Their number is fixed, as a network's input is; they are ordered by FLAIR,
  where there is one, so that a channel means the same in every scan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delineate.core.image import Image
from delineate.preprocess import cluster, equalise, normalise

#: What can be derived.
KINDS = ("equalised", "clahe", "clusters")
_CLAHE: tuple[str, Mapping[str, Any]] = ("adaptive", {"clip": 2.0})
#: Standard deviation of a uniform distribution from 0 to 1.
_UNIFORM_STD = 1 / math.sqrt(12)


def names(channels: Sequence[str], derived: Sequence[str], clusters: int) -> tuple[str, ...]:
    """Names of the derived channels, in order."""
    listed: list[str] = []
    for kind in derived:
        if kind != "clusters":
            listed += [f"{kind}:{channel}" for channel in channels]
        else:
            listed += [f"cluster:{i}" for i in range(1, clusters + 1)]
    return tuple(listed)


def tissue(
    array: NDArray[Any],
    backgrounds: Sequence[float | None],
    whole: Sequence[bool],
) -> NDArray[np.bool_]:
    """What is not background in each channel of ``(C, *S)``, by the rule of the normalisation."""
    return np.stack(
        [
            normalise.tissue(values, background, whole_image)
            for values, background, whole_image in zip(array, backgrounds, whole, strict=True)
        ]
    )


def append(
    image: Image,
    masks: NDArray[np.bool_],
    derived: Sequence[str],
    channels: Sequence[tuple[str, str]],
    clusters: int,
) -> Image:
    """Append derived channels to a prepared image ``(C, *S)``.

    Args:
        image: Normalised and resampled.
        masks: ``(C, *S)`` the tissue.
        derived: Members of ``KINDS``.
        channels: Name and modality of each channel.
        clusters: How many.
    """
    added: list[NDArray[Any]] = []
    facts: dict[str, Any] = {}
    for kind in derived:
        if kind != "clusters":
            rules = [_CLAHE if kind == "clahe" else _rule(m) for _, m in channels]
            added += [
                _equalised(values, mask, *rule)
                for values, mask, rule in zip(image.array, masks, rules, strict=True)
            ]
            facts[kind] = [{"rule": name, **parameters} for name, parameters in rules]
        else:
            flair = next((i for i, (n, _) in enumerate(channels) if "flair" in n.lower()), None)
            derived_clusters = _clusters(image, np.logical_or.reduce(masks), clusters, flair)
            added += list(derived_clusters.one_hot(clusters))
            facts[kind] = {
                "centres": derived_clusters.centres.tolist(),
                "ordered_by": "mean" if flair is None else channels[flair][0],
            }
    array = np.concatenate([image.array, np.stack(added).astype(np.float32)])
    return image.with_step("derive", array, **facts)


def _rule(modality: str) -> tuple[str, Mapping[str, Any]]:
    return equalise.MODALITIES.get(modality, equalise.MODALITIES["unknown"])


def _equalised(
    values: NDArray[Any], mask: NDArray[np.bool_], name: str, parameters: Mapping[str, Any]
) -> NDArray[np.float32]:
    levels = equalise.rule(name)(values, None if mask.all() else mask, **parameters)
    scaled = (levels.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(_UNIFORM_STD)
    return np.where(mask, scaled, np.float32(0))


def _clusters(
    image: Image, mask: NDArray[np.bool_], clusters: int, flair: int | None
) -> cluster.Clusters:
    """K-means of what is not background; an image without any is taken whole."""
    whole_image = mask.all() or not mask.any()
    return cluster.kmeans(image.array, None if whole_image else mask, k=clusters, order_by=flair)
