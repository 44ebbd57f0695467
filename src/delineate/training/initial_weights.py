"""Weights to start from: read from a file that may be anybody's, and given to a network.

Files of PyTorch are read with its reader for tensors alone, which runs no code from a file; what
needs more is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from delineate.core import catalog, model_file
from delineate.core.config import nearest
from delineate.core.errors import ConfigError, InputError, ModelFileError
from delineate.core.model_output import output
from delineate.engine.budget import Candidate
from delineate.methods._plan import Plan
from delineate.networks import _cost, _transfer
from delineate.networks._transfer import Ends, Transfer, Weights
from delineate.settings import RunConfig

#: Keys under which checkpoints of others keep their weights, the most telling first.
_WRAPPINGS = ("network_weights", "state_dict", "model_state_dict", "model", "net", "network")
#: What wrappers of modules put before every name.
_WRAPPERS = ("module.", "_orig_mod.")
_AGAIN = "copy it again from where it was made"
#: Weights that come along; their names stand for the files.
FOLDER = Path(__file__).parents[1] / "weights"


# --- reading --------------------------------------------------------------------------------------


def read(path: Path) -> Weights:
    """Read a model file of Delineate, a plain ``.safetensors`` or a PyTorch file.

    Args:
        path: The file, or the name of weights that come along.

    Raises:
        InputError: No such file, no weights in it, damaged, or one that needs code to be run.
        ModelFileError: A damaged or edited ``.safetensors`` file.
    """
    if is_own(path):
        return dataclasses.replace(read(FOLDER / f"{path}.safetensors"), path=path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
            digest = hashlib.file_digest(file, lambda: hashlib.sha256(start)).hexdigest()
    except OSError as error:
        inside = path / "model.safetensors"
        raise InputError(
            f"expected a file of weights, got: {error.strerror}",
            where=path,
            fix=f"give {inside}" if inside.is_file() else "check the path",
            code="weights-missing",
        ) from error
    if start[8:9] == b"{":
        return _safetensors(path, digest)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _torch(path, digest)
    raise InputError(
        "expected weights as .safetensors or a PyTorch file (.pt, .pth, .ckpt), got neither",
        where=path,
        fix="save the tensors with safetensors.torch.save_file",
        code="weights-format",
    )


def is_own(path: Path) -> bool:
    """Whether a path is the name of weights that come along."""
    return path.name == str(path) and (FOLDER / f"{path}.safetensors").is_file()


def _safetensors(path: Path, digest: str) -> Weights:
    try:
        file = model_file.load(path)
    except ModelFileError as error:
        if error.code != "model-file-foreign":
            raise
    else:
        tensors = {name: torch.from_numpy(array) for name, array in file.tensors.items()}
        return Weights(path, "delineate", digest, tensors, file.document)
    try:
        content = load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    return Weights(path, "safetensors", digest, *_peel(content, path))


def _torch(path: Path, digest: str) -> Weights:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which are read all the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader has an exception for every kind of damage
        text = str(error)
        needed = re.search(r"GLOBAL ([\w.]+)", text)
        if needed or "TorchScript" in text:
            raise InputError(
                "expected tensors alone, got a file that must run code to be read "
                f"({needed[1] if needed else 'TorchScript'}); nothing of it was run",
                where=path,
                fix="where you trust it, save only its tensors: "
                "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
                code="weights-unsafe",
            ) from error
        raise _damaged(path, error) from error
    return Weights(path, "torch", digest, *_peel(content, path))


def _damaged(path: Path, error: Exception) -> InputError:
    reason = (str(error) or repr(error)).splitlines()[0]
    return InputError(
        f"expected a whole file of weights, got a damaged one: {reason[:100]}",
        where=path,
        fix=_AGAIN,
        code="weights-damaged",
    )


def _peel(content: Any, path: Path) -> tuple[dict[str, Tensor], None, tuple[str, ...]]:
    """Tensors by name, without the wrappings that are common, and what these were."""
    peeled = []
    while isinstance(content, Mapping) and not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((k for k in _WRAPPINGS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        peeled.append(inner)
        content = content[inner]
    tensors = dict(_flat(content, ""))
    if not tensors:
        raise InputError(
            "expected tensors by name, got none", where=path, fix=_AGAIN, code="weights-empty"
        )
    while wrapper := next((w for w in _WRAPPERS if any(n.startswith(w) for n in tensors)), None):
        bare = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
        if len(bare) < len(tensors):  # the same name with and without: two networks in one file
            break
        tensors = bare
        peeled.append(wrapper)
    return tensors, None, tuple(peeled)


def _flat(node: Any, name: str) -> Iterable[tuple[str, Tensor]]:
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


# --- settings -------------------------------------------------------------------------------------


def start(chosen: RunConfig) -> Weights | None:
    """Read the weights that are meant.

    Raises:
        ConfigError: Layers are to be frozen or slowed, but there are no weights.
        InputError: See ``read``.
    """
    path = chosen.named_weights
    if path is None and (chosen.freeze or chosen.layer_rate < 1):
        raise ConfigError(
            "expected weights where layers are frozen or slowed, got none",
            fix="give the file to start from: --weights FILE",
            code="weights-needed",
        )
    return read(path) if path else None


def derive(chosen: RunConfig, weights: Weights | None) -> RunConfig:
    """Settings with the network that is meant; of a model file also its shape, where left open."""
    document = weights.document if weights else None
    name = chosen.network
    if name == "auto":
        name = catalog.stored_name("networks", document["network"]) if document else "unet"
    entry = document["network"] if document else {}
    same = entry.get("name") == catalog.title(name) and "file" in entry
    if document is None or not (same if catalog.is_path(name) else entry["name"] == name):
        return dataclasses.replace(chosen, network=name)
    known = {f.name for f in dataclasses.fields(catalog.load("networks", name).Config)}
    known -= {"ndim", "axis"}  # the data decide on these
    old = {k: v for k, v in document["network"]["config"].items() if k in known}
    if chosen.width is not None:
        old.pop("width", None)
    neighbours = chosen.neighbours
    if neighbours is None and document["input"].get("slice_axis") is not None:
        neighbours = document["input"].get("neighbours")
    return dataclasses.replace(
        chosen,
        network=name,
        network_settings={**old, **chosen.network_settings},
        width=chosen.width or old.get("width"),
        neighbours=neighbours,
    )


def channel_names(channels: Sequence[str], neighbours: int) -> list[str]:
    """Names of a network's input channels: every channel of every slice, in the order of a patch.

    Args:
        channels: Of one slice.
        neighbours: Slices to each side; their names end in ``-1``, ``+1`` and so on.
    """
    offsets = range(-neighbours, neighbours + 1)
    return [f"{name}{n:+d}" if n else name for n in offsets for name in channels]


# --- giving ---------------------------------------------------------------------------------------


def give(
    weights: Weights,
    module: ModuleType,
    config: Any,
    segmenter: nn.Module,
    channels: Sequence[str],
    outputs: Sequence[str],
) -> Transfer:
    """Put what fits of the weights into a segmenter; see ``networks._transfer``.

    A network module may bring ``load_pretrained(network, tensors) -> list[str]`` for weights of
    another program. It returns a line a tensor: ``loaded NAME``, ``resized NAME: how``, ``left out
    NAME: why``, each of the file, or ``fresh NAME`` of the network.

    Args:
        weights: As read.
        module: Of the network.
        config: Its settings.
        segmenter: Built from them; changed in place.
        channels: Names of its input channels.
        outputs: Names of its outputs: background and labels, or classes.
    """
    hook = getattr(module, "load_pretrained", None)
    state = segmenter.state_dict()
    if hook is not None and weights.document is None and not weights.tensors.keys() >= state.keys():
        return _hooked(hook, segmenter, weights)
    grow = _transfer.axes(lambda c, o: module.build(config, c, o), len(channels), len(outputs))
    ends = Ends(*grow, channels, outputs)
    if (document := weights.document) is not None:
        shape = document["input"]
        channels_seen = shape.get("channels", document["channels"])
        old = channel_names(channels_seen, shape.get("neighbours", 0))
        known = list(output(document).names)
        axis = shape.get("slice_axis")
        ends = Ends(*grow, channels, outputs, old, known, 2 if axis is None else axis)
    return _transfer.transfer(segmenter, weights.tensors, ends)


def _hooked(
    hook: Callable[[nn.Module, Mapping[str, Tensor]], list[str]],
    segmenter: nn.Module,
    weights: Weights,
) -> Transfer:
    """What a network's own loader says that it did."""
    try:
        lines = hook(segmenter, weights.tensors)
    except ConfigError as error:
        error.where = error.where or str(weights.path)
        raise
    by_outcome: dict[str, dict[str, str]] = {
        word: {} for word in ("loaded", "resized", "left out", "fresh")
    }
    for line in lines:
        if match := re.fullmatch(r"(loaded|resized|left out|fresh) ([^\s:]+)(?:: )?(.*)", line):
            by_outcome[match[1]][match[2]] = match[3]
    silent = "the network's loader has no use for it"
    left_out = {
        name: by_outcome["left out"].get(name) or silent
        for name in weights.tensors
        if name not in by_outcome["loaded"] and name not in by_outcome["resized"]
    }
    return Transfer(
        tuple(by_outcome["loaded"]), by_outcome["resized"], left_out, tuple(by_outcome["fresh"])
    )


def taken(weights: Weights, transfer: Transfer) -> int:
    """How many numbers of the file are in use."""
    names = (*transfer.loaded, *transfer.resized)
    return sum(weights.tensors[name].numel() for name in names)


def best(options: Sequence[Candidate], score: Callable[[Candidate], int]) -> list[Candidate]:
    """The candidates that can use the most of the weights, in their order."""
    scores = [score(option) for option in options]
    return [option for option, n in zip(options, scores, strict=True) if n == max(scores)]


def refuse_nothing(
    weights: Weights, transfer: Transfer, network: str, segmenter: nn.Module
) -> None:
    """Stop if not one tensor fits.

    Raises:
        ConfigError: With the reason of the first few, and the nearest names.
    """
    if transfer.loaded or transfer.resized:
        return
    why = "; ".join(f"{name}: {words}" for name, words in list(transfer.left_out.items())[:3])
    origin = (weights.document or {}).get("network", {}).get("name", network)
    first = next(iter(weights.tensors))
    if origin != network:
        fix = f"give --network {origin}: the file holds one"
    elif any(words.startswith("expected shape") for words in transfer.left_out.values()):
        fix = "give the network the settings that the file was trained with, such as width"
    else:
        fix = f"{first!r}: {nearest(first, segmenter.state_dict())}"
    raise ConfigError(
        f"expected weights for {network}, got {len(weights.tensors)} tensors of which none fits "
        f"({why})",
        where=weights.path,
        fix=fix if len(fix) < 300 else f"{fix[:300]} …",
        code="weights-nothing-fits",
    )


def adjust(plan: Plan, segmenter: nn.Module, rate: float, shape: Sequence[int]) -> None:
    """Give every layer its learning rate, and refuse a plan whose optimiser has nothing to do.

    Args:
        plan: Its optimisers are changed in place.
        segmenter: Whose layers are meant; frozen ones are left as they are.
        rate: Factor from layer to layer, see ``networks._transfer.rates``.
        shape: ``(C, *S)`` of a patch.

    Raises:
        ConfigError: All that an optimiser trains is frozen.
    """
    for stage in plan.stages:
        for name, optimiser in stage.optimisers.items():
            if not any(p.requires_grad for g in optimiser.param_groups for p in g["params"]):
                raise ConfigError(
                    f"expected something to train, got all of {name!r} in stage {stage.name!r} "
                    "frozen",
                    where="freeze",
                    fix="freeze less, or choose another method",
                    code="freeze-all",
                )
    if rate == 1:
        return
    used = _cost.order(segmenter, shape[0], shape[1:])
    factors = _transfer.rates(segmenter, used, rate)
    by = {id(p): factors[name] for name, p in segmenter.named_parameters()}
    optimisers = {id(o): o for stage in plan.stages for o in stage.optimisers.values()}
    for optimiser in optimisers.values():
        groups = list(optimiser.param_groups)
        optimiser.param_groups.clear()
        for group in groups:
            factor = [by.get(id(p), 1.0) for p in group["params"]]
            # the log shows the first group's rate
            for rate_factor in sorted(set(factor), reverse=True):
                params = [
                    p for p, f in zip(group["params"], factor, strict=True) if f == rate_factor
                ]
                optimiser.add_param_group(
                    {**group, "params": params, "lr": group["lr"] * rate_factor}
                )
