"""Weights of one network for another: ``(network, tensors) -> what fitted, and how``.

A tensor is taken if its name and shape fit. Where only the number of input channels or of outputs
differs, the channels and rows that mean the same are kept. Everything else is left out and listed:
nothing is cut, padded or guessed in silence.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delineate.core.config import nearest
from delineate.core.errors import ConfigError

Build = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Weights:
    """Tensors of a file.

    Args:
        path: The file.
        format: ``"delineate"``, ``"safetensors"`` or ``"torch"``.
        sha256: Of its bytes.
        tensors: By name, wrappings taken away.
        document: Of a model file of Delineate.
        peeled: What was taken away.
    """

    path: Path
    format: str
    sha256: str
    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any] | None = None
    peeled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ends:
    """Which axes of a network are input channels and outputs, and what they mean.

    Args:
        channel_axis: Tensor -> the axis that grows with the input channels.
        output_axis: Tensor -> the axis that grows with the outputs.
        channels: Names of the network's input channels.
        outputs: Names of the network's outputs, background first.
        old_channels: Names of the channels that the tensors were made for; None: not known.
        old_outputs: Names of the outputs that the tensors were made for; None: not known.
        slice_axis: Axis of a volume across which flat kernels are repeated.
    """

    channel_axis: Mapping[str, int] = field(default_factory=dict)
    output_axis: Mapping[str, int] = field(default_factory=dict)
    channels: Sequence[str] = ()
    outputs: Sequence[str] = ()
    old_channels: Sequence[str] | None = None
    old_outputs: Sequence[str] | None = None
    slice_axis: int = 2


@dataclass(frozen=True)
class Transfer:
    """What became of every tensor that was given; ``loaded``, ``resized`` and ``left_out`` are all.

    Args:
        loaded: Taken as they are.
        resized: Taken with other channels, rows or dimensions -> how.
        left_out: Not taken -> why.
        fresh: Tensors of the network that keep what the seed gave them.
        renamed: How names were changed to fit, in words; empty if they fitted.
    """

    loaded: tuple[str, ...]
    resized: Mapping[str, str]
    left_out: Mapping[str, str]
    fresh: tuple[str, ...]
    renamed: str = ""


def axes(build: Build, channels: int, outputs: int) -> tuple[dict[str, int], dict[str, int]]:
    """Axes that grow with the input channels, and axes that grow with the outputs, by tensor.

    They are found by trying: the network is built (without weights) with one more of each.

    Args:
        build: ``(channels, outputs) -> network``.
        channels: Input channels.
        outputs: Output channels.
    """

    def shapes(*counts: int) -> dict[str, torch.Size]:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    network = build(*counts)
            except RuntimeError:  # its building looks at values, which meta tensors have not
                network = build(*counts)
        return {name: tensor.shape for name, tensor in network.state_dict().items()}

    def growing(larger: Mapping[str, torch.Size], count: int) -> dict[str, int]:
        axis_of_tensor = {}
        for name, shape in base.items():
            other = larger.get(name, shape)
            changed = [a for a, (m, n) in enumerate(zip(shape, other, strict=False)) if m != n]
            if [(shape[a], other[a]) for a in changed] == [(count, count + 1)]:
                axis_of_tensor[name] = changed[0]
        return axis_of_tensor

    base = shapes(channels, outputs)
    try:
        return (
            growing(shapes(channels + 1, outputs), channels),
            growing(shapes(channels, outputs + 1), outputs),
        )
    except ConfigError:  # a network for just so many channels
        return {}, {}


def transfer(network: nn.Module, tensors: Mapping[str, Tensor], ends: Ends) -> Transfer:
    """Copy what fits into the network.

    Args:
        network: Changed in place, or not at all; what is not given keeps its values.
        tensors: By the names of their own network, which may have other prefixes.
        ends: Which axes are channels and outputs.

    Raises:
        ConfigError: A tensor that fits holds NaN or infinity.
    """
    state, modules = network.state_dict(), dict(network.named_modules())
    strip, add = rename(tensors, state)
    loaded, resized, left_out = list[str](), dict[str, str](), dict[str, str]()
    accepted = dict[str, Tensor]()
    for name, tensor in tensors.items():
        target = add + name.removeprefix(strip)
        if not name.startswith(strip) or target not in state:
            left_out[name] = "the network has no tensor of this name"
            continue
        owner = modules[target.rpartition(".")[0]]
        fitted, words = _fit(target, tensor, state[target], owner, ends)
        if fitted is None:
            left_out[name] = words
            continue
        if not bool(torch.isfinite(fitted).all()):
            raise ConfigError(
                f"expected finite weights, got NaN or infinity in {name!r}",
                fix="its training diverged: take an earlier checkpoint",
                code="weights-not-finite",
            )
        accepted[target] = fitted
        if words:
            resized[name] = words
        else:
            loaded.append(name)
    with torch.no_grad():
        for target, fitted in accepted.items():
            state[target].copy_(fitted)
    prefixes = [f"{strip}… taken away"] * bool(strip) + [f"{add}… put before"] * bool(add)
    fresh = tuple(name for name in state if name not in accepted)
    return Transfer(tuple(loaded), resized, left_out, fresh, ", ".join(prefixes))


def rename(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> tuple[str, str]:
    """The prefix to take away and the prefix to put before, so that most tensors fit.

    Both are empty unless another choice fits more of them. An encoder's own file, for instance, has
    ``layer1.weight`` where the network has ``encoder.layer1.weight``. Names are changed only if
    most that are changed then fit in shape too: networks have many names that are nearly alike.
    """
    shapes = {name: tensor.shape for name, tensor in target.items()}
    strips = dict.fromkeys(["", *(_head(n, parts) for parts in (1, 2) for n in source)])
    adds = dict.fromkeys(["", *(_head(n, 1) for n in target)])
    best, most_fitting = ("", ""), sum(name in target for name in source)
    for strip in strips:
        stripped = {
            n.removeprefix(strip): t.shape for n, t in source.items() if n.startswith(strip)
        }
        for add in adds:
            fitting = sum(shapes.get(add + n) == shape for n, shape in stripped.items())
            if fitting > most_fitting and 2 * fitting >= len(stripped):
                best, most_fitting = (strip, add), fitting
    return best


def _head(name: str, parts: int) -> str:
    """The first components of a dotted name, with their dots; empty if there is nothing after."""
    pieces = name.split(".")
    return "".join(f"{piece}." for piece in pieces[:parts]) if len(pieces) > parts else ""


def _fit(
    name: str, tensor: Tensor, parameter: Tensor, owner: nn.Module, ends: Ends
) -> tuple[Tensor | None, str]:
    """The tensor in the shape of ``parameter``, and what was done; None and why where it cannot."""
    original_shape, changes = tuple(tensor.shape), []
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return None, f"expected plain numbers, got {tensor.layout}, {tensor.dtype}"
    if tensor.is_floating_point() != parameter.is_floating_point():
        return None, f"expected {parameter.dtype}, got {tensor.dtype}"
    if tensor.ndim == 4 and isinstance(owner, nn.Conv3d | nn.ConvTranspose3d):
        tensor, words = _inflate(tensor, owner, ends.slice_axis)
        changes += words
    if (axis := ends.channel_axis.get(name)) is not None and tensor.ndim == parameter.ndim:
        tensor, words = _channels(tensor, axis, ends)
        changes += words
    if (axis := ends.output_axis.get(name)) is not None and tensor.ndim == parameter.ndim:
        rows = _rows(tensor, parameter, axis, ends)
        if rows is None:
            return None, "no output has the meaning of one of the network's"
        tensor = rows[0]
        changes += rows[1]
    if tensor.shape != parameter.shape:
        return None, f"expected shape {tuple(parameter.shape)}, got {original_shape}"
    return tensor, "; ".join(changes)


def _inflate(
    tensor: Tensor, owner: nn.Conv3d | nn.ConvTranspose3d, axis: int
) -> tuple[Tensor, list[str]]:
    """A flat kernel, repeated across slices; where all slices are alike, so is the answer.

    Carreira and Zisserman 2017, arXiv:1705.07750, section 2.3.
    """
    depth = owner.kernel_size[axis]
    # a transposed convolution of stride 2 and kernel 2 gives each slice one share, not two
    shares = depth / owner.stride[axis] if isinstance(owner, nn.ConvTranspose3d) else depth
    repeats = [depth if a == 2 + axis else 1 for a in range(5)]
    return tensor.unsqueeze(2 + axis).repeat(repeats) / shares, ["2D kernel repeated over slices"]


def _channels(tensor: Tensor, axis: int, ends: Ends) -> tuple[Tensor, list[str]]:
    """Kernels for other input channels: by name; by their mean where the name says nothing."""
    new, old = list(ends.channels), list(ends.old_channels or ())
    count = tensor.shape[axis]
    if len(old) != count or not set(old) & set(new):
        if count == len(new):
            return tensor, []
        # the sum over channels is kept, so that the same image in each gives the same answer
        mean = tensor.sum(axis, keepdim=True) / len(new)
        shape = [len(new) if a == axis else -1 for a in range(tensor.ndim)]
        return mean.expand(shape), [f"{count} input channels to {len(new)}, each their mean"]
    if old == new:
        return tensor, []
    mean = tensor.mean(axis)
    kernels = [tensor.select(axis, old.index(n)) if n in old else mean for n in new]
    change = f"input channels {', '.join(n for n in new if n in old)} kept"
    others = [n for n in new if n not in old]
    if others:
        change += f", {', '.join(others)} from the mean of {count}"
    return torch.stack(kernels, axis), [change]


def _rows(
    tensor: Tensor, parameter: Tensor, axis: int, ends: Ends
) -> tuple[Tensor, list[str]] | None:
    """Outputs of the same name; the others stay fresh. None where no label is shared."""
    new, old = list(ends.outputs), list(ends.old_outputs or ())
    if len(old) != tensor.shape[axis]:
        return (tensor, []) if tensor.shape == parameter.shape else None
    if old == new:
        return tensor, []
    shared = [name for name in new if name in old]
    if not set(shared) - {"background"}:
        return None
    source_shape, target_shape = (t.shape[:axis] + t.shape[axis + 1 :] for t in (tensor, parameter))
    if source_shape != target_shape:  # the caller says so
        return tensor, []
    filled = parameter.clone()
    for name in shared:
        filled.select(axis, new.index(name)).copy_(tensor.select(axis, old.index(name)))
    return filled, [f"outputs {', '.join(shared)} kept"]


def freeze(network: nn.Module, prefixes: Sequence[str]) -> int:
    """Stop parameters from learning, and norms among them from following the data.

    Args:
        network: Changed in place.
        prefixes: Whole parts of dotted names: ``encoder.1`` is not ``encoder.10``.

    Returns:
        How many numbers no longer learn.

    Raises:
        ConfigError: No parameter has such a name, or nothing is left that learns.
    """
    names = [name for name, _ in network.named_parameters()]
    heads = {_head(n, parts).rstrip(".") for n in names for parts in range(1, n.count(".") + 1)}
    for prefix in prefixes:
        if not any(_within(name, prefix) for name in names):
            known = sorted(heads, key=lambda head: (head.count("."), head))
            raise ConfigError(
                f"expected the beginning of a parameter's name to freeze, got {prefix!r}",
                where="freeze",
                fix=nearest(prefix, [h for h in known if h.count(".") <= prefix.count(".")]),
                code="freeze-unknown",
            )
    count = 0
    for name, parameter in network.named_parameters():
        if any(_within(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
            count += parameter.numel()
    for name, module in network.named_modules():
        frozen = any(_within(name, prefix) for prefix in prefixes)
        if frozen and isinstance(module, nn.modules.batchnorm._NormBase):
            module.train = types.MethodType(_rest, module)  # type: ignore[method-assign]
            module.eval()
    if not any(p.requires_grad for p in network.parameters()):
        raise ConfigError(
            f"expected something left to train, got all {count:,} parameters frozen",
            where="freeze",
            fix="freeze less, for instance the encoder alone",
            code="freeze-all",
        )
    return count


def _within(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix.rstrip('.')}.")


def _rest(self: nn.Module, mode: bool = True) -> nn.Module:
    """Takes the place of a frozen norm's ``train``: the engine calls that at every step."""
    return nn.Module.train(self, mode=False)


def rates(network: nn.Module, used: Sequence[str], rate: float) -> dict[str, float]:
    """Factor of the learning rate by parameter: ``rate`` to the number of stages that follow.

    Clark et al. 2020, arXiv:2003.10555. A stage is what stands before the first number in a name,
    and that number: ``encoder.2`` or ``image_encoder.blocks.7``.

    Args:
        network: Whose parameters.
        used: Modules in the order of their use, see ``_cost.order``.
        rate: Above 0; 1 leaves all alike.
    """
    stages = list(dict.fromkeys(_stage(name) for name in used))
    return {
        name: rate ** (len(stages) - 1 - stages.index(_stage(name.rpartition(".")[0])))
        for name, _ in network.named_parameters()
    }


def _stage(name: str) -> str:
    pieces = name.split(".")
    numbers = [i for i, piece in enumerate(pieces) if piece.isdigit()]
    return ".".join(pieces[: numbers[0] + 1] if numbers else pieces[:1])
