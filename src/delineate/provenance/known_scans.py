"""What is known of predicted scans later on: whether they taught the model, and what they held."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from delineate.core.case import Case
from delineate.core.errors import DelineateError, InputError
from delineate.core.image import Image
from delineate.data.channels import read_channels, sources
from delineate.data.content import Hashes, content_hash
from delineate.provenance.lineage import TRAINED_ON, UNTOLD


def seen_in_training(parts: Mapping[str, str | None]) -> list[str]:
    """Of the scored cases, how many taught the model, or that this cannot be told.

    Args:
        parts: Id of each scored case -> part of the model's own data.
    """
    count = sum(part in TRAINED_ON for part in parts.values())
    if not count and UNTOLD in parts.values():
        return [
            "whether scored cases taught this model cannot be told: its subjects are marked with "
            "another site's key (predict with --site-key FILE if you have it)"
        ]
    if not count:
        return []
    return [
        f"WARNING: {count} of {len(parts)} scored cases taught this model (it was trained or tuned "
        "on these subjects): the figures flatter it and say nothing of new patients. Score cases "
        "that it has not seen"
    ]


def contents(case: Case, channels: Sequence[str], image: Image) -> dict[str, Any]:
    """What a predicted image held: hashes of its files, and of the voxels of each channel."""
    hashes = Hashes()
    return {
        "files": {
            name: content_hash(source, hashes) for name, source in sources(case, channels).items()
        },
        "voxels": dict(zip(channels, map(_voxels, image.array), strict=True)),
    }


def require_same(
    case: Case, entry: Mapping[str, Any], channels: Sequence[str], hashes: Hashes
) -> None:
    """Refuse a labelled case whose images are not those that were predicted under its name.

    Files that differ are read: an image that was only stored anew is the same image.

    Raises:
        InputError: Another image.
    """
    stored = entry.get("images")
    files, voxels = (
        stored.get(k) if isinstance(stored, Mapping) else None for k in ("files", "voxels")
    )
    if not isinstance(files, Mapping) or not isinstance(voxels, Mapping) or not case.images:
        return
    try:
        hashes_here = {content_hash(source, hashes) for source in case.images.values()}
        if set(files.values()) <= hashes_here:
            return
        image = read_channels(case, channels)
        same = list(voxels.values()) == [_voxels(array) for array in image.array]
    except DelineateError:  # nothing to compare with: labels are scored, not images
        return
    if not same:
        raise InputError(
            "expected the image that was predicted, got another one under the same name",
            where=case.id,
            fix="give the data set that was predicted, or predict these images",
            code="image-other",
        )


def _voxels(array: Any) -> str:
    values = np.ascontiguousarray(array, dtype=np.float32)
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()
