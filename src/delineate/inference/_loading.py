"""From a model file to a network with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from delineate.core import catalog, config
from delineate.core.errors import DelineateError, ModelFileError
from delineate.core.schema import Schema


def build(document: Mapping[str, Any]) -> nn.Module:
    """The network that the document names, with fresh weights."""
    name = document["network"]["name"]
    try:
        module = catalog.stored("networks", document["network"])
        settings = config.from_dict(document["network"]["config"], module.Config)
        schema = Schema.from_dict(document["schema"])
        shape = document["input"]
        neighbours = shape.get("neighbours", 0)
        # With those that the preparation derives; older files have none and do not say.
        channels = len(shape.get("channels", document["channels"])) * (2 * neighbours + 1)
        classes = document.get("classes", {}).get("names")
        outputs = len(classes) if classes else schema.num_outputs
        network: nn.Module = module.build(settings, channels, outputs)
    except ModelFileError:
        raise
    except (DelineateError, KeyError, TypeError) as error:
        message = error.message if isinstance(error, DelineateError) else repr(error)
        raise ModelFileError(
            f"expected a network of this version of Delineate, got {name!r}: {message}",
            fix="install the version that trained it, see provenance in the file",
            code="model-file-network",
        ) from error
    return network


def fill(network: nn.Module, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Load weights; every name and shape must fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(array.shape) for name, array in tensors.items()}
    problems = [f"{name} is missing" for name in wanted.keys() - given.keys()]
    problems += [f"{name} is unknown" for name in given.keys() - wanted.keys()]
    problems += [
        f"{name} is {given[name]} instead of {wanted[name]}"
        for name in wanted.keys() & given.keys()
        if wanted[name] != given[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:4]) + (" …" if len(problems) > 4 else "")
        raise ModelFileError(
            f"expected the {len(wanted)} tensors of the network, got others: {shown}",
            fix="this file was not written for this network; train anew or fetch it again",
            code="model-file-weights",
        )
    network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
