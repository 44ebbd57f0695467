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


def test_reconstruction_gets_better_and_below_is_left_alone() -> None:
    net = make()
    head = net.head.weight.clone()
    batches = [stripes(i)[0] for i in range(10)]
    errors = dbn.pretrain(net, batches)
    assert [len(row) for row in errors] == [20, 20]
    assert errors[0][-1] < 0.5 * errors[0][0]
    assert all(row[-1] < row[0] for row in errors)
    assert torch.equal(net.head.weight, head)
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_one_step_of_contrastive_divergence_against_numpy() -> None:
    """One image and one epoch: what NumPy finds from the same draws."""
    net = make(grid=2, units=(3,))
    image = torch.tensor([[[[0.5, -1.0], [2.0, 0.0]]]])
    dbn.pretrain(net, [image], epochs=1, rate=0.1, seed=4)

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    draw = torch.Generator().manual_seed(4)
    weight = 0.01 * torch.randn((3, 1, 2, 2), generator=draw).double().numpy().reshape(3, 4)
    below = sigmoid(image.double().numpy().ravel())
    up = sigmoid(weight @ below)
    sample = (torch.rand((1, 3), generator=draw).numpy().ravel() < up).astype(float)
    down = sigmoid(weight.T @ sample)
    again = sigmoid(weight @ down)
    expected = weight + 0.1 * (np.outer(up, below) - np.outer(again, down))
    found = next(net.machines[0].parameters()).detach().numpy().reshape(3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    bias = dict(net.machines[0].named_parameters())["bias"].detach().numpy()
    np.testing.assert_allclose(bias, 0.1 * (up - again), atol=1e-6)


def test_the_seed_decides() -> None:
    states = []
    for seed in (1, 1, 2):
        net = make()
        before = torch.get_rng_state()
        dbn.pretrain(net, [stripes(0)[0]], epochs=2, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(next(net.machines[0].parameters()).clone())
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def readable(net: dbn.DeepBelief) -> float:
    """Accuracy on new images when only the last layer is trained."""
    x, label = stripes(100, batch=200)
    with torch.no_grad():
        known = net.embed(x)
    optimiser = torch.optim.Adam(net.head.parameters(), 0.05)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(net.head(known), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    other, truth = stripes(200, batch=200)
    return float((net(other).argmax(1) == truth).float().mean())


def test_what_it_has_learnt_without_labels_can_be_read_by_a_linear_layer() -> None:
    """Stripes of all phases: nothing that is linear in the pixels tells their directions."""
    assert readable(make(units=(64, 32))) < 0.8
    net = make(units=(64, 32))
    dbn.pretrain(net, [stripes(i)[0] for i in range(10)])
    assert readable(net) > 0.9


def test_batches_that_end_are_refused() -> None:
    with pytest.raises(ConfigError, match="iterator"):
        dbn.pretrain(make(), iter([stripes(0)[0]]))
    with pytest.raises(ConfigError, match="none"):
        dbn.pretrain(make(), [])


@pytest.mark.parametrize("wrong", [{"ndim": 1}, {"grid": 0}, {"units": ()}, {"units": (8, 0)}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dbn.Config(**wrong)
