from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from delineate.networks import _blocks as blocks
from delineate.networks import unetpp


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make(**changes: Any) -> unetpp.UNetPlusPlus:
    torch.manual_seed(0)
    return unetpp.build(unetpp.Config(**{"ndim": 2, "width": 4, **changes}), 1, 2)


def test_nodes_and_gates_are_those_of_the_paper() -> None:
    net = make(levels=5)
    assert len(net.nodes) == 4 + 3 + 2 + 1
    # node (0, 4) joins four nodes of its level and one from below
    assert net.nodes["0_4"][0][0].in_channels == 5 * 4
    assert len(net.gates) == 4 * 1 + 3 * 2 + 2 * 3 + 1 * 4
    assert len(make(attention=False).gates) == 0


def test_gates_weigh_between_nothing_and_all() -> None:
    net = make().eval()
    seen: list[Tensor] = []
    for gate in net.gates.values():
        assert isinstance(gate, blocks.AttentionGate)
        gate.register_forward_hook(lambda module, x, out: seen.append(module.weights(*x)))
    with torch.no_grad():
        net(image(1, 1, 16, 24))
    assert len(seen) == len(net.gates)
    assert all(((w > 0) & (w < 1)).all() for w in seen)


def test_supervision_is_of_nested_networks_at_full_resolution() -> None:
    net = make(levels=4, deep_supervision=9).train()
    x = image(2, 1, 32, 16)
    found = net(x)
    assert [tuple(y.shape) for y in found] == [(2, 2, 32, 16)] * 3
    assert torch.allclose(net.eval()(x), found[0], atol=1e-6)
    assert isinstance(make(deep_supervision=0).train()(x), Tensor)


def test_a_shallow_nested_network_does_not_see_the_coarse_levels() -> None:
    """Node (0, 1) is a U-Net of two levels: it can be cut out."""
    net = make(levels=4).train()
    x = image(1, 1, 32, 32)
    with torch.no_grad():
        before = net(x)
        net.encoder[2].register_forward_hook(lambda module, inputs, out: torch.zeros_like(out))
        after = net(x)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True]
