"""What a network costs: ``(network, channels, size) -> parameters, GMAC``; nothing is computed.

A forward pass is counted on the meta device, where tensors have shapes and no content, so even a
large network takes milliseconds and no memory. The network itself is left as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


def parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included; shared ones count once."""
    return sum(p.numel() for p in network.parameters())


def gmac(network: nn.Module, channels: int, size: Sequence[int]) -> float:
    """Multiply-accumulates of a forward pass of one image, in 10⁹.

    Convolutions, transposed convolutions and matrix products are counted, attention among them;
    norms, activations, pooling and resampling are not, as is usual.

    Args:
        network: Takes ``(1, channels, *size)``.
        channels: Input channels.
        size: Spatial size.

    Raises:
        ConfigError: The network cannot take this size; the nearest is named.
    """
    return _first_that_can(lambda device: macs(network, channels, size, device)) / 1e9


def macs(network: nn.Module, channels: int, size: Sequence[int], device: str) -> int:
    """Multiply-accumulates as in ``gmac``, counted on ``device``: ``meta`` or ``cpu``."""
    twin = _twin(network, device)
    fast = torch.backends.mha.get_fastpath_enabled()
    # fused attention of CPUs is unknown to the counter; its plain form is the same products
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Counter() as counter:
            twin(torch.zeros((1, channels, *size), device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.macs


def order(network: nn.Module, channels: int, size: Sequence[int]) -> list[str]:
    """Names of the modules that hold parameters themselves, in the order in which they are used.

    Args:
        network: Takes ``(1, channels, *size)``; modules used only in training come last.
        channels: Input channels.
        size: Spatial size.
    """
    modules = dict(network.named_modules())
    holders = [n for n, m in modules.items() if next(m.parameters(False), None) is not None]

    def use(device: str) -> list[str]:
        twin, used = _twin(network, device), dict[str, None]()

        def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _module, _inputs: used.setdefault(name)

        for name, module in twin.named_modules():
            module.register_forward_pre_hook(note(name))
        with torch.no_grad():
            twin(torch.zeros((1, channels, *size), device=device))
        return list(used)

    used = _first_that_can(use)
    return [n for n in used if n in holders] + [n for n in holders if n not in used]


def _first_that_can(run: Callable[[str], T]) -> T:
    """``run`` on the meta device; on the CPU if the network needs content to decide something."""
    try:
        return run("meta")
    except RuntimeError:
        return run("cpu")


def _twin(network: nn.Module, device: str) -> nn.Module:
    """The network again, in evaluation; on ``meta`` its weights are shapes alone."""
    known: dict[int, object] = {id(b): b.to(device, copy=True) for b in network.buffers()}
    for p in network.parameters():
        known[id(p)] = nn.Parameter(p.detach().to(device), p.requires_grad)
    return copy.deepcopy(network, known).eval()


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates of whatever runs within it, backward passes included.

    PyTorch's own counter also tells modules apart, and for that it hooks into the graph in a way
    that ``autograd.grad`` and ``backward(inputs=...)`` do not bear. What an operation costs is
    PyTorch's own table, but for the backward pass of convolutions: there it forgets groups, and
    makes a depthwise convolution as many times too dear as it has channels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0

    def __enter__(self) -> Counter:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        cost = flop_registry.get(func._overloadpacket)
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            self.macs += _convolution_backward(*args, **(kwargs or {}))
        elif cost is not None:
            self.macs += cost(*args, **(kwargs or {}), out_val=out) // 2
        return out


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any, **named: Any
) -> int:
    """Multiplications of the gradients that are asked for: each costs what the forward pass did."""
    transposed, mask = rest[4], rest[7] if len(rest) > 7 else named["output_mask"]
    points = x if transposed else gradient
    forward = points.numel() * weight.numel() // weight.shape[0]
    return forward * (int(mask[0]) + int(mask[1]))
