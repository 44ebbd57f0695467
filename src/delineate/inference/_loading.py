"""From a model file to networks with their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from delineate.core import catalog, config
from delineate.core.errors import DelineateError, ModelFileError
from delineate.core.model_file import ModelFile
from delineate.core.model_output import output
from delineate.networks._critics import CriticInput


@dataclass(frozen=True)
class Critic:
    """A critic that a model file keeps.

    Args:
        network: It gives ``score_map``.
        sees: What its input is made of.
        outputs: Scores at each voxel.
    """

    network: nn.Module
    sees: CriticInput
    outputs: int


def build(document: Mapping[str, Any]) -> nn.Module:
    """The network that predicts, with fresh weights."""
    with _explained(document["network"]):
        names = output(document).names
        return _fresh(document["network"], input_channels(document), len(names))


def input_channels(document: Mapping[str, Any]) -> int:
    """Channels that the predictor is given: of a slice and its neighbours together."""
    shape = document["input"]
    # With those that the preparation derives; older files have none and do not say.
    own = len(shape.get("channels", document["channels"]))
    return own * (2 * int(shape.get("neighbours", 0)) + 1)


def critic(file: ModelFile, name: str) -> Critic:
    """A part beside the predictor, with its weights; of any other kind than critics none has a map.

    Raises:
        ModelFileError: A network that is not known here, has no map, or has other weights.
    """
    part = file.document["parts"][name]
    with _explained(part["network"]):
        network = _fresh(part["network"], part["channels"], part["outputs"])
        sees = config.from_dict(part["sees"], CriticInput)
    if not hasattr(network, "score_map"):
        raise ModelFileError(
            f"expected a part with a map, got {name!r}: {part['network']['name']} gives no "
            "score_map",
            fix="ask for no such map",
            code="model-file-part",
        )
    fill(network, file.parts[name], name)
    return Critic(network, sees, part["outputs"])


def _fresh(entry: Mapping[str, Any], channels: int, outputs: int) -> nn.Module:
    module = catalog.stored("networks", entry)
    settings = config.from_dict(entry["config"], module.Config)
    network: nn.Module = module.build(settings, channels, outputs)
    return network


@contextmanager
def _explained(entry: Mapping[str, Any]) -> Iterator[None]:
    """What goes wrong in making a network is told as a fault of the file."""
    try:
        yield
    except ModelFileError:
        raise
    except (DelineateError, KeyError, TypeError) as error:
        message = error.message if isinstance(error, DelineateError) else repr(error)
        raise ModelFileError(
            f"expected a network of this version of Delineate, got {entry['name']!r}: {message}",
            fix="install the version that trained it, see provenance in the file",
            code="model-file-network",
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, NDArray[Any]], part: str = "network") -> None:
    """Load weights; every name and shape must fit."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    stored = {name: tuple(array.shape) for name, array in tensors.items()}
    problems = [f"{name} is missing" for name in expected.keys() - stored.keys()]
    problems += [f"{name} is unknown" for name in stored.keys() - expected.keys()]
    problems += [
        f"{name} is {stored[name]} instead of {expected[name]}"
        for name in expected.keys() & stored.keys()
        if expected[name] != stored[name]
    ]
    if problems:
        examples = "; ".join(sorted(problems)[:4]) + (" …" if len(problems) > 4 else "")
        raise ModelFileError(
            f"expected the {len(expected)} tensors of the {part}, got others: {examples}",
            fix="this file was not written for this {part}; train anew or fetch it again",
            code="model-file-weights",
        )
    network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
