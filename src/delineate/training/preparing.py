"""Plan how a cohort is prepared, and prepare it into the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from delineate.core import case_failures, threads
from delineate.core.case import Case
from delineate.core.errors import DelineateError, GeometryError, InputError, PartialError
from delineate.core.image import Grid, Image
from delineate.core.progress import QUIET, Progress
from delineate.core.schema import IGNORED, Schema
from delineate.data import cache, capacity, readers
from delineate.data.cache import PreparedArrays, PreparedCase
from delineate.data.channels import holds, read_channels
from delineate.data.cohort import Cohort
from delineate.data.labels import read_indices
from delineate.inference import _contract
from delineate.preprocess import orient, presets, rescale, thickness
from delineate.preprocess.presets import Preparation
from delineate.training import learned_preparation

T = TypeVar("T")

#: Modalities whose rule depends on the cohort's own values, so that some cases are read to plan.
_MEASURED = ("CT", "PET", "RGB")
#: Cases read, and voxels taken of each, to measure them.
_CASES, _VOXELS = 24, 20_000
#: Times that a case is held while it is prepared: image, copies on the way, label.
_COPIES = 8
#: Cases that a denoiser and the number of clusters are learned from.
_LEARNED = 8


def plan_preparation(
    cohort: Cohort,
    workers: int | None = None,
    *,
    judged: Cohort | None = None,
    derived: Sequence[str] = (),
    clusters: int | Literal["auto"] = 3,
    bias_correction: bool = False,
    denoise: str = "none",
    target: str | None = None,
    dimensions: Literal["auto", 2, 3] = "auto",
) -> Preparation:
    """Look at every case's header, and at some labels and images to measure, and plan.

    Args:
        cohort: The training cases alone: what is measured here becomes part of the model.
        workers: Threads.
        judged: The cases that the model is going to be judged on. They decide on nothing, but
            those that it could not take are told before it is trained.
        derived: Channels to append, see ``preprocess.derive``.
        clusters: How many, where they are derived; ``auto``: the elbow of the training cases.
        bias_correction: Take the shading of MR off.
        denoise: Member of ``preprocess.restore.NAMES``.
        target: The channel that the model is to give; it is not among those that it sees.
        dimensions: That a network is to see; ``auto``: the data decide.

    Raises:
        ConfigError: Nothing that can be derived or take noise off is called so, N4 for anything but
            MR, or three dimensions of flat images or single slices.
        PartialError: Headers that cannot be read; all are listed.
        InputError: Cases with different channels; nothing for the autoencoder or the elbow to
            learn from.
        GeometryError: Flat images and volumes in one cohort.
    """
    workers = workers or min(8, threads.cores())
    probes = _probe_all(cohort, workers)
    others = () if judged is None else judged.cases
    all_probes = [*probes, *(_probe_all(judged, workers) if judged else ())]
    _require_alike([*cohort.cases, *others], all_probes, cohort.root)
    counts = {channel: n for channel, (_, n) in probes[0].items()}
    names, modalities = [], []
    for channel, n in counts.items():
        names_of_channel = cohort.cases[0].channel_names(channel, n)
        names += names_of_channel
        modalities += [cohort.modality(name, channel) for name in names_of_channel]
    grids = [next(iter(probe.values()))[0] for probe in probes]
    plan = presets.plan(
        grids,
        modalities,
        names=names,
        statistics=_statistics(cohort, names, modalities)
        if set(modalities) & set(_MEASURED)
        else None,
        derived=derived,
        clusters=3 if clusters == "auto" else clusters,
        bias_correction=bias_correction,
        denoise="none" if denoise == "autoencoder" else denoise,
        target=target,
        dimensions=dimensions,
        thickness=None if dimensions == 3 else _thickness(cohort, grids),
    )
    names = [channel.name for channel in plan.channels]
    sample = _sample(cohort.cases, _LEARNED)
    return learned_preparation.complete(
        plan, lambda: (read_channels(case, names) for case in sample), len(sample),
        autoencode=denoise == "autoencoder", clusters=clusters,
    )  # fmt: skip


def prepare_cohort(
    cohort: Cohort,
    preparation: Preparation,
    folder: Path,
    *,
    workers: int | None = None,
    progress: Progress = QUIET,
    verify: bool = False,
) -> list[PreparedCase]:
    """Read, check and prepare every case into the cache ``folder``; finished ones are reused.

    Args:
        cohort: Cases, labelled or not.
        preparation: From ``plan_preparation``.
        folder: Of the cache; may be shared by runs and cohorts.
        workers: Threads; by default as many as processors and memory allow, at most 8.
        progress: Told of every case.
        verify: Compare every byte of cases that lie in the cache already.

    Raises:
        PartialError: Cases that cannot be used, each with its reason; the others are kept.
        OutputError: The folder cannot be written, or the disk is full.
    """
    schema = cohort.schema
    return cache.prepare(
        cohort.cases,
        recipe_key(preparation, schema),
        lambda case: _prepare_named(case, preparation, schema),
        folder,
        workers=workers or capacity.threads(cohort, _COPIES),
        progress=progress,
        verify=verify,
    )


def _prepare_named(case: Case, preparation: Preparation, schema: Schema) -> PreparedArrays:
    """``prepare_case``, with the case's name on faults that nobody foresaw."""
    try:
        return prepare_case(case, preparation, schema)
    except (DelineateError, MemoryError):
        raise
    except Exception as error:
        raise case_failures.unforeseen(error, case.id) from error


def prepare_case(case: Case, preparation: Preparation, schema: Schema) -> PreparedArrays:
    """Read, check and prepare one case.

    Raises:
        ReadError: A damaged file.
        InputError: NaN, infinite or constant images; another number of channels.
        GeometryError: Channels, or image and label, on different grids.
        LabelError: Values that the schema does not declare.
    """
    names = [channel.name for channel in preparation.channels]
    if preparation.target is not None and holds(case, preparation.target.name):
        names.append(preparation.target.name)
    image = read_channels(case, names)
    image, target_image = _split(image, len(preparation.channels))
    prepared = presets.apply(preparation, image)
    label, target = None, None
    facts: dict[str, Any] = {
        "notes": list(image.meta.get("notes", ())), "intensity": _contract.measure(image)
    }  # fmt: skip
    if preparation.target is not None:  # what is outlined, if anything, is not asked for
        if len(target_image):
            target, facts["target"] = rescale.prepare(
                target_image[0], preparation.target, image.array, prepared
            )
            # Patches are drawn where it is known, as where somebody has annotated.
            label = np.where(np.isfinite(target[0]), 0, IGNORED).astype(np.uint8)
    elif case.label is not None:
        full = read_indices(case, schema, image.grid)
        indices = full.array
        label = presets.apply_label(full, prepared)
        names = [entry.name for entry in schema.labels]
        before = np.bincount(indices.reshape(-1), minlength=IGNORED)[1 : len(names) + 1]
        drawn = Image(np.where(indices == IGNORED, 0, indices), full.grid)
        facts["voxels_cropped"] = presets.cropped_away(drawn, prepared)
        facts["voxels"] = dict(zip(names, before.tolist(), strict=True))
    original = image.grid
    return PreparedArrays(
        prepared.array, label, prepared.history, original, prepared.grid, facts, target
    )


def _split(image: Image, inputs: int) -> tuple[Image, NDArray[Any]]:
    """What a model sees of an image that was read, and the channels that come after it."""
    if image.channels == inputs:
        return image, image.array[:0]
    meta = {**image.meta, "modalities": image.meta["modalities"][:inputs]}
    return dataclasses.replace(image, array=image.array[:inputs], meta=meta), image.array[inputs:]


def _sample(cases: Sequence[T], largest: int) -> Sequence[T]:
    """Cases, evenly spread, in which something is measured."""
    count = min(largest, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def recipe_key(preparation: Preparation, schema: Schema) -> str:
    """Everything but the files that decides what a prepared case looks like."""
    recipe = {**preparation.to_dict(), "reasons": None, "elbow": None}
    labels = [(label.name, label.value) for label in schema.labels]
    facts = [presets.ARITHMETIC, recipe, labels, schema.ignore, schema.named]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _thickness(cohort: Cohort, grids: Sequence[Grid]) -> thickness.Thickness | None:
    """Of slices, by the labels of some cases; None where no volume is labelled.

    Labels that cannot be read are told when their case is prepared.
    """
    oriented = all(grid.oriented for grid in grids)
    labelled = [
        (case, grid)
        for case, grid in zip(cohort.cases, grids, strict=True)
        if case.label is not None and grid.ndim == 3 and min(grid.shape) > 1
    ]

    def measure(labelled_case: tuple[Case, Grid]) -> thickness.Thickness | None:
        case, grid = labelled_case
        try:
            label = read_indices(case, cohort.schema, grid)
        except Exception:
            return None
        if label.grid.shape != grid.shape:
            return None
        return thickness.of_label((orient.to_ras(label) if oriented else label).array[0])

    with threads.pool(capacity.threads(cohort, _COPIES)) as pool:
        measured = list(pool.map(measure, _sample(labelled, _CASES)))
    return thickness.median([case for case in measured if case is not None])


def _probe_all(cohort: Cohort, workers: int) -> list[dict[str, tuple[Grid, int]]]:
    """Grid and channel count of each channel of each case."""

    def probe(case: Case) -> dict[str, tuple[Grid, int]] | DelineateError:
        try:
            return {
                channel: readers.probe(source, case.reading)
                for channel, source in case.images.items()
            }
        except DelineateError as error:
            return error

    with threads.pool(workers) as pool:
        probes = list(pool.map(probe, cohort.cases))
    failed = [f"\n  {c.id}: {p}" for c, p in zip(cohort.cases, probes, strict=True)
              if isinstance(p, DelineateError)]  # fmt: skip
    if failed:
        raise PartialError(
            f"{len(failed)} of {len(probes)} cases cannot be read:{''.join(failed)}",
            where=cohort.root,
            fix="correct these cases, or leave them out: --exclude FILE, one id a line",
            code="prepare-failed",
        )
    return [probe for probe in probes if not isinstance(probe, DelineateError)]


def _require_alike(
    cases: Sequence[Case], probes: Sequence[Mapping[str, tuple[Grid, int]]], root: Path
) -> None:
    """Refuse cases with other channels or dimensions than most; they are named."""
    counts = [{channel: n for channel, (_, n) in probe.items()} for probe in probes]
    common = Counter(frozenset(kind.items()) for kind in counts).most_common(1)[0][0]
    common_counts = next(kind for kind in counts if kind.items() == common)
    for case, kind in zip(cases, counts, strict=True):
        if kind != common_counts:
            raise InputError(
                f"expected the channels {_channels_in_words(common_counts)} as most cases have, "
                f"got {_channels_in_words(kind)}",
                where=case.id,
                fix="add the channels that are missing, or leave such cases out: --exclude FILE",
                code="channels-differ",
            )
    flat = [
        case.id
        for case, probe in zip(cases, probes, strict=True)
        if next(iter(probe.values()))[0].ndim == 2
    ]
    if 0 < len(flat) < len(cases):
        raise GeometryError(
            f"expected a cohort of flat images or of volumes, got both: {len(flat)} flat among "
            f"{len(cases)} ({', '.join(flat[:5])}{' …' if len(flat) > 5 else ''})",
            where=root,
            fix="give each kind a cohort of its own",
            code="cohort-mixed",
        )


def _statistics(
    cohort: Cohort, names: Sequence[str], modalities: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Range, mean and spread of the outlined voxels (all, where unlabelled) in some cases.

    By channel; none of those whose rule does not depend on them.
    """
    if not set(modalities) & set(_MEASURED):
        return {}
    samples: list[Any] = []
    for seed, case in enumerate(_sample(cohort.cases, _CASES)):
        image = read_channels(case, names)
        values = image.array.reshape(image.channels, -1)
        inside = np.arange(values.shape[1])
        if case.label is not None:
            label = readers.read_label(case.label, case.reading, image.grid)
            if not label.grid.same_as(image.grid):
                raise GeometryError(
                    "expected the label on the grid of its image",
                    where=case.id,
                    fix="export the label on the image's grid; nothing is resampled silently",
                    code="label-grid",
                )
            known = cohort.schema.meaning(label.meta.get("names"))
            not_outlined = [0, *(value for value, index in known.items() if index == IGNORED)]
            drawn = np.flatnonzero(~np.isin(label.array, not_outlined))
            inside = drawn if drawn.size else inside
        generator = np.random.default_rng(seed)
        if inside.size > _VOXELS:
            inside = generator.choice(inside, _VOXELS, replace=False)
        samples.append((values[:, inside], values.max(axis=1)))
    voxels = np.concatenate([inside for inside, _ in samples], axis=1)
    maximum = np.max([top for _, top in samples], axis=0)
    statistics = {}
    for i, modality in enumerate(modalities):
        low, high = np.percentile(voxels[i], (0.5, 99.5))
        if modality in _MEASURED:
            statistics[i] = {
                "p00_5": float(low), "p99_5": float(high), "maximum": float(maximum[i]),
                "mean": float(np.clip(voxels[i], low, high).mean()),
                "std": float(np.clip(voxels[i], low, high).std()),
            }  # fmt: skip
    return statistics


def _channels_in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())
