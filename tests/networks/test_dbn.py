from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import dbn


def stripes(seed: int, batch: int = 32, size: int = 8) -> tuple[Tensor, Tensor]:
    """Vertical or horizontal stripes, of four phases each."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (batch,), generator=generator)
    phase = torch.randint(4, (batch, 1, 1), generator=generator)
    wave = torch.where((torch.arange(size) + phase) % 4 < 2, 2.0, -2.0).expand(batch, size, size)
    x = torch.where(label.reshape(-1, 1, 1) == 1, wave, wave.transpose(1, 2))
    return x.unsqueeze(1) + 0.3 * torch.randn((batch, 1, size, size), generator=generator), label


def make(**settings: Any) -> dbn.DeepBelief:
    torch.manual_seed(0)
    return dbn.build(dbn.Config(**{"grid": 8, "units": (32, 16), **settings}), 1, 2)


def test_the_machines_have_the_sizes_of_the_paper() -> None:
    net = dbn.build(dbn.Config(), 2, 3)
    shapes = [tuple(machine.weight.shape) for machine in net.machines]
    assert shapes == [(256, 2, 16, 16), (128, 256), (64, 128)]
    assert tuple(net.head.weight.shape) == (3, 64)


def test_images_of_any_size_become_probabilities_on_a_grid() -> None:
    net = make()
    for size in ((5, 6), (8, 8), (40, 33)):
        seen = net.visible(50 * torch.randn(2, 1, *size))
        assert seen.shape == (2, 1, 8, 8)
        assert ((seen >= 0) & (seen <= 1)).all()
    assert torch.equal(net.visible(torch.zeros(1, 1, 9, 9)), torch.full((1, 1, 8, 8), 0.5))


def test_one_step_of_contrastive_divergence_against_numpy() -> None:
    """The gradient of the loss is the rule of Hinton 2002, found by NumPy from the same draws."""
    net = make(grid=2, units=(3,))
    image = torch.tensor([[[[0.5, -1.0], [2.0, 0.0]]], [[[0.1, 0.2], [-0.7, 3.0]]]])
    seen = torch.tensor([0.3, -0.2, 0.0, 1.0], requires_grad=True)
    torch.manual_seed(4)
    loss, error = dbn.contrast(net, 0, seen, image)
    loss.backward()

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    machine = net.machines[0]
    weight = machine.get_parameter("weight").detach().double().numpy().reshape(3, 4)
    bias = machine.get_parameter("bias").detach().double().numpy()
    below = sigmoid(image.double().numpy().reshape(2, 4))
    up = sigmoid(below @ weight.T + bias)
    torch.manual_seed(4)
    sample = torch.bernoulli(torch.from_numpy(up).float()).numpy()
    down = sigmoid(sample @ weight + seen.detach().numpy())
    again = sigmoid(down @ weight.T + bias)
    expected = (again.T @ down - up.T @ below) / 2
    found = machine.get_parameter("weight").grad
    np.testing.assert_allclose(found.numpy().reshape(3, 4), expected, atol=1e-6)
    np.testing.assert_allclose(
        machine.get_parameter("bias").grad.numpy(), (again - up).mean(0), atol=1e-6
    )
    np.testing.assert_allclose(seen.grad.numpy(), (down - below).mean(0), atol=1e-6)
    assert float(error) == pytest.approx(((below - down) ** 2).mean(), rel=1e-5)


def test_a_machine_leaves_those_below_and_above_alone() -> None:
    net = make()
    loss, _ = dbn.contrast(net, 1, torch.zeros(32, requires_grad=True), stripes(0)[0])
    loss.backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None}
    assert moved == {"machines.1.weight", "machines.1.bias"}


@pytest.mark.parametrize("wrong", [{"ndim": 1}, {"grid": 0}, {"units": ()}, {"units": (8, 0)}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dbn.Config(**wrong)
