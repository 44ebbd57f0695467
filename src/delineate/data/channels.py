"""How the channels of a case are read: by one rule, in training and in prediction."""

from __future__ import annotations

import re
from collections.abc import Iterable

from delineate.core.case import Case, Source
from delineate.core.errors import InputError
from delineate.core.image import Image
from delineate.data import readers


def read_channels(case: Case, channels: Iterable[str]) -> Image:
    """Read the channels of a case in a model's order, as one image ``(C, *S)``.

    Channels of a source that holds several are named by ``Case.channel_names``. A single
    source is taken whatever its name, if it holds as many channels as are wanted; whether it shows
    what the model was trained on is another question (``inference._contract``).

    Returns:
        The image; ``meta["modalities"]`` has what each channel's own file says it is, or None.

    Raises:
        InputError: A channel is missing.
        GeometryError: The channels lie on different grids.
        ReadError: A damaged file.
    """
    from delineate.preprocess.geometry import stack_channels

    expected = tuple(channels)
    images = {
        name: readers.read(source, case.reading) for name, source in sources(case, expected).items()
    }
    names, modalities = [], []
    for name, image in images.items():
        count = image.channels
        names += case.channel_names(name, count)
        modalities += [image.meta.get("modality")] * count
    interchangeable = len(case.images) == 1 and len(names) == len(expected)
    missing = [name for name in expected if name not in names]
    if missing and not interchangeable:
        raise InputError(
            f"expected the channels {', '.join(expected)}, got {', '.join(names or case.images)}",
            where=case.id,
            fix=f"give scans of the model's kind, with {', '.join(missing)}; if only names differ, "
            "name the channels as the model does",
            code="channels",
        )
    stacked = stack_channels(list(images.values()), list(images))
    order = list(range(len(names))) if missing else [names.index(name) for name in expected]
    stacked.meta["modalities"] = [modalities[i] for i in order]
    if order == list(range(len(names))):
        return stacked
    return stacked.with_step("channels", stacked.array[order])


def holds(case: Case, channel: str) -> bool:
    """Whether a case has a channel of this very name, as far as its list of files tells."""
    base = _base(channel)
    listed = case.meta.get("channels") or ()
    return channel in (*case.images, *listed) or (base != channel and base in case.images)


def sources(case: Case, channels: Iterable[str]) -> dict[str, Source]:
    """The sources of a case that hold channels that are wanted; a single one in any case."""
    bases = {name for channel in channels for name in (channel, _base(channel))}
    return {
        name: source
        for name, source in case.images.items()
        if len(case.images) == 1 or name in bases
    }


def _base(channel: str) -> str:
    return re.sub(r"\.\d+$", "", channel)
