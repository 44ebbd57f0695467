"""A step asks the device for as little as it can: a GPU waits every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods import supervised
from delineate.methods._plan import Plan, Stage
from delineate.networks import unet
from delineate.training import devices

#: What brings a number from the device one by one.
ASKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)


class Questions(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in ASKS
        return func(*args, **(kwargs or {}))


def batches(step: int, micro: int, split: int) -> Batch:
    generator = torch.Generator().manual_seed(step * 100 + micro)
    label = torch.randint(0, 3, (2, 16, 16), generator=generator).byte()
    return Batch(label[:, None].float(), label)


def loop(plan: Plan, folder: Path, **settings: Any) -> Loop:
    fabric = Fabric(accelerator="cpu", devices=1)
    devices.place(plan, fabric)
    return Loop(
        plan, batches, Settings(**settings), folder, fabric=fabric, seed=1, pace=Pace(4, None)
    )


def test_a_step_asks_for_no_number_by_itself(tmp_path: Path) -> None:
    net = unet.build(unet.Config(ndim=2, width=4, levels=3), 1, 3)
    context = Context(2, 1, 3, Schema((Label("a", 1), Label("b", 2))))
    run = loop(supervised.build(supervised.Config(), net, context), tmp_path)
    with Questions() as questions:
        numbers = run._step()
        assert questions.count == 0
        assert float(torch.ones(())) == 1
        assert questions.count == 1, "it would have been counted"
    assert numbers["loss"] > 0
    assert numbers["gradient_norm"] > 0


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_loss_that_is_not_finite_changes_no_weight_of_anything(
    tmp_path: Path, bad: int, spoilt: int
) -> None:
    """Not even a loss whose gradient is finite, of whichever micro-batch and optimiser."""
    nets = [nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)]
    optimisers = [torch.optim.AdamW(net.parameters()) for net in nets]

    def step(batch: Batch, update: Any) -> dict[str, Tensor]:
        total = torch.zeros(())
        for number, (net, optimiser) in enumerate(zip(nets, optimisers, strict=True)):
            loss = net(batch.image).square().mean()
            if number == spoilt and update.micro == bad:
                loss = loss + torch.tensor(float("inf"))
            update(optimiser, loss)
            total += loss.detach()
        return {"loss": total}

    stage = Stage(
        "both", 1.0, dict(zip("ab", nets, strict=True)), dict(zip("ab", optimisers, strict=True)),
        step,
    )  # fmt: skip
    run = loop(Plan((stage,), nets[0]), tmp_path, accumulate=2)
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    first = 0 if bad == 0 or spoilt == 0 else 2  # what stepped before the bad loss, has
    run._step()
    after = [p.detach() for net in nets for p in net.parameters()]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [first == 0, first == 0, True, True]
    assert run.skipped == 1
    assert all(p.grad is None for net in nets for p in net.parameters())
