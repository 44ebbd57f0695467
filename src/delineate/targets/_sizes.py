"""Which networks, patches and batches are worth measuring for a cohort."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from delineate.core.errors import ConfigError
from delineate.core.schema import Schema
from delineate.engine.budget import Candidate
from delineate.preprocess.presets import Preparation

#: Voxels of a patch at most, from modest to ambitious, by number of dimensions.
_CAPS = {2: (128**2, 192**2, 256**2, 512**2), 3: (2**15, 2**17, 2**19, 2**21)}
_BATCHES = {2: (8,), 3: (2, 4)}
_MOST_LEVELS = {2: 6, 3: 5}
#: Rungs: (width, index of the patch cap).
_LADDER = ((8, 0), (16, 0), (16, 1), (16, 2), (32, 2), (32, 3))
#: The same for classifiers, which see pictures whole.
_CLASS_CAPS = {2: (64**2, 96**2, 128**2, 224**2), 3: (2**15, 2**17, 2**19)}
_CLASS_BATCHES = {2: (16,), 3: (4,)}
_CLASS_LADDER = {2: ((16, 0), (32, 0), (32, 1), (32, 2), (64, 3)), 3: ((16, 0), (16, 1), (32, 2))}
#: Slices of a bag at most; more are averaged. A step over bags sees that many more pictures.
_SLICES = 32
_BAG_LADDER = ((8, 0), (16, 0), (16, 1), (32, 1), (32, 2))
#: Below the first rung: shares of its patch, and the smallest batch.
_SHRUNK, _LEAST_BATCH = {2: (4,), 3: (8, 3)}, 2
#: Billion multiplications a step and processor core, where the steps are given and not the time:
#: about half a second. Counted, not measured, so that the same command trains the same network.
_GMAC_A_CORE = 12.0


def levels(patch: Sequence[int], ndim: int) -> int:
    """Resolutions of a U-Net whose coarsest map keeps at least four voxels an axis."""
    return max(2, min(_MOST_LEVELS[ndim], 1 + int(math.log2(max(1, min(patch) / 4)))))


def strides_and_kernels(
    patch: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Strides and kernels of a U-Net whose axes are halved each as often as it can be.

    An axis is halved while at least four voxels are left of it, and waits while its spacing is more
    than twice the finest; until then kernels do not reach along it (Isensee et al. 2021). A side
    that is odd when its turn comes ends it. Axes whose sides and spacings are within a factor of
    two are alike, and are halved together; sides that can be halved as often as there are levels
    are alike too.

    Args:
        patch: Its size.
        spacing_mm: Of its voxels; () where it is not known.

    Returns:
        From each level to the next, 2 or 1 an axis; of each level, 3 or 1 an axis. Both empty where
        all axes are alike.
    """
    sides, spacing = list(patch), list(spacing_mm) or [1.0] * len(patch)
    most = _MOST_LEVELS[len(sides)]
    alike = max(sides) <= 2 * min(sides) or min(sides) >= 4 * 2 ** (most - 1)
    if alike and max(spacing) <= 2 * min(spacing):
        return (), ()
    strides, kernels = list[tuple[int, ...]](), [(1,) * len(sides)]
    while True:
        large = [n >= 8 for n in sides]
        finest = min(
            (mm for mm, can in zip(spacing, large, strict=True) if can), default=min(spacing)
        )
        near = [mm <= 2 * finest for mm in spacing]
        kernels.append(tuple(3 if a else n for a, n in zip(near, kernels[-1], strict=True)))
        halved = [a and b for a, b in zip(large, near, strict=True)]
        indivisible = any(n % 2 for n, turn in zip(sides, halved, strict=True) if turn)
        if indivisible or not any(large) or len(strides) == most - 1:
            break
        strides.append(tuple(2 if turn else 1 for turn in halved))
        sides = [n // step for n, step in zip(sides, strides[-1], strict=True)]
        spacing = [mm * step for mm, step in zip(spacing, strides[-1], strict=True)]
    return (tuple(strides), tuple(kernels[1:])) if strides else ((), ())


def patch_size(
    shape: Sequence[int], cap: int, ndim: int, spacing_mm: Sequence[float] = ()
) -> tuple[int, ...]:
    """Patch for images of about this shape with at most ``cap`` voxels, ready to be halved.

    Args:
        shape: Median spatial shape of the prepared cases.
        cap: Voxels at most, give or take the rounding.
        ndim: 2 or 3.
        spacing_mm: Of the prepared cases; () where it is not known.
    """
    zoom = min(1.0, (cap / math.prod(shape)) ** (1 / len(shape)))
    target = [max(8, n * zoom) for n in shape]
    strides, _ = strides_and_kernels([2 ** int(math.log2(n)) for n in target], spacing_mm)
    multiples = tuple(map(math.prod, zip(*strides, strict=True)))
    multiples = multiples or (2 ** (levels([round(n) for n in target], ndim) - 1),) * len(target)
    up = math.ceil if zoom == 1.0 else round
    return tuple(max(m, up(n / m) * m) for n, m in zip(target, multiples, strict=True))


def view_size(
    shape: Sequence[int],
    cap: int,
    ndim: int,
    bag: int | None = None,
    spacing_mm: Sequence[float] = (),
) -> tuple[int, ...]:
    """Size at which images of about this shape are seen whole.

    Args:
        shape: Median spatial shape of the prepared cases.
        cap: Voxels at most, of one slice where there is a ``bag``.
        ndim: 2 or 3.
        bag: Axis along which a whole volume is a bag of slices: each is sized like a flat picture.
        spacing_mm: As in ``patch_size``.
    """
    if bag is None:
        return patch_size(shape, cap, ndim, spacing_mm)
    plane = patch_size([n for a, n in enumerate(shape) if a != bag], cap, 2)
    return (*plane[:bag], min(_SLICES, shape[bag]), *plane[bag:])


def round_to(patch: Sequence[int], multiples: Sequence[int]) -> tuple[int, ...]:
    """The patch with every side brought to the nearest multiple, at least one."""
    return tuple(max(1, round(n / m)) * m for n, m in zip(patch, multiples, strict=True))


def candidates(
    shape: Sequence[int],
    ndim: int,
    *,
    width: int | None = None,
    patch: tuple[int, ...] | None = None,
    batch: int | None = None,
    whole: bool = False,
    bag: int | None = None,
    spacing_mm: Sequence[float] = (),
) -> list[Candidate]:
    """What to measure, from modest to ambitious; what the user fixed stays fixed.

    Args:
        shape: Median spatial shape of the prepared cases.
        ndim: 2 or 3.
        width: Where the user fixed it.
        patch: Where the user fixed it.
        batch: Where the user fixed it.
        whole: A patch shows a whole picture, shrunk, instead of a part of it.
        bag: Axis along which a whole volume is a bag of slices: each is sized like a flat picture.
        spacing_mm: As in ``patch_size``.

    Raises:
        ConfigError: A patch of another number of dimensions.
    """
    if patch and len(patch) != ndim:
        raise ConfigError(
            f"expected a patch of {ndim} sizes, got {tuple(patch)}",
            where="patch",
            fix="leave it out to have it derived",
            code="patch",
        )
    ndim_seen = 2 if bag is not None else ndim
    ladder = _CLASS_LADDER[ndim] if whole else _LADDER
    ladder = ladder if bag is None else _BAG_LADDER
    caps, batches = (_CLASS_CAPS, _CLASS_BATCHES) if whole else (_CAPS, _BATCHES)
    listed: list[Candidate] = []
    for rung_width, cap in ladder:
        size = patch or view_size(shape, caps[ndim_seen][cap], ndim, bag, spacing_mm)
        for rung_batch in batches[ndim]:
            candidate = Candidate(width or rung_width, tuple(size), batch or rung_batch)
            if candidate not in listed:
                listed.append(candidate)
    return listed


def smaller(
    first: Candidate,
    shape: Sequence[int],
    ndim: int,
    *,
    patch: tuple[int, ...] | None = None,
    batch: int | None = None,
    bag: int | None = None,
    spacing_mm: Sequence[float] = (),
) -> list[Candidate]:
    """What to take where hardly a step of the first candidate fits, from small to large.

    Args:
        first: The most modest of ``candidates``.
        shape: Median spatial shape of the prepared cases.
        ndim: 2 or 3.
        patch: Where the user fixed it.
        batch: Where the user fixed it.
        bag: As in ``candidates``.
        spacing_mm: As in ``patch_size``.
    """
    ndim_seen = 2 if bag is not None else ndim
    whole = math.prod(n for a, n in enumerate(first.patch) if a != bag)
    sizes = [
        patch or view_size(shape, whole // share, ndim, bag, spacing_mm)
        for share in _SHRUNK[ndim_seen]
    ]
    batches = [batch] if batch else [min(_LEAST_BATCH, first.batch), first.batch]
    listed = {Candidate(first.width, tuple(size), n) for size in sizes for n in batches}
    if not batch:
        listed.add(Candidate(first.width, first.patch, max(_LEAST_BATCH, first.batch // 2)))
    return sorted(
        (candidate for candidate in listed if candidate.work < first.work),
        key=lambda candidate: candidate.work,
    )


def accelerated(
    options: Sequence[Candidate], *, width: int | None = None, batch: int | None = None
) -> list[Candidate]:
    """The options with more for an accelerator, which takes wider and more at once: it is measured.

    Args:
        options: From modest to ambitious.
        width: Where the user fixed it.
        batch: Where the user fixed it.
    """
    last = options[-1]
    if width is None:
        options = [*options, replace(last, width=2 * last.width)]
    listed: list[Candidate] = []
    for option in options:
        larger = [] if batch else [replace(option, batch=n * option.batch) for n in (2, 4)]
        listed += [candidate for candidate in (option, *larger) if candidate not in listed]
    return listed


def sized(
    options: Sequence[Candidate], gmac: Callable[[Candidate], float], cores: int | None
) -> Candidate:
    """What is taken where the steps are given: the default, or what this processor can do.

    Args:
        options: From small to large.
        gmac: Billion multiplications a step.
        cores: Of the processor; None on an accelerator.
    """
    preferred = default(options)
    below = [
        candidate
        for candidate in options
        if candidate.work < preferred.work and candidate.width <= preferred.width
    ]
    for candidate in [preferred, *sorted(below, key=lambda candidate: -candidate.work)]:
        if cores is None or gmac(candidate) <= cores * _GMAC_A_CORE:
            return candidate
    return options[0]


def default(options: Sequence[Candidate]) -> Candidate:
    """What is taken where nothing limits the time: 16 channels and the second smallest patch."""
    wide = [c for c in options if c.width >= 16] or list(options)
    patches = list(dict.fromkeys(c.patch for c in wide))
    patch = patches[min(1, len(patches) - 1)]
    fitting = [c for c in wide if c.patch == patch]
    return [c for c in fitting if c.width == fitting[0].width][-1]


def median_shape(shapes: Sequence[Sequence[int]], preparation: Preparation) -> tuple[int, ...]:
    """Median of the axes that the network sees; shapes are spatial, after preparation."""
    axis = preparation.slice_axis
    in_plane = [[n for a, n in enumerate(shape) if a != axis] for shape in shapes]
    return tuple(sorted(column)[len(column) // 2] for column in zip(*in_plane, strict=True))


def mirror_axes(schema: Schema, preparation: Preparation) -> tuple[int, ...]:
    """Axes of the patch along which a mirrored patient is still a plausible patient.

    Left and right may be exchanged unless they are different labels; top and bottom, front and
    back may not. Axis 0 is left-right in RAS+ volumes; flat images run left-right along columns.
    """
    if schema.lateral:
        return ()
    if preparation.ndim == 3:
        return (0,)
    if not preparation.orient:
        return (1,)
    return (0,) if preparation.slice_axis in (1, 2) else ()
