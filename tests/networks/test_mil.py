"""A volume as a bag of slices: what each pooling owes, and a toy that one slice decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delineate.core import config, model_file
from delineate.core.errors import ConfigError
from delineate.networks import _pooling, cnn, mil

POOLS = ["attention", "gru", "mean"]
SLICES = 16


def make(pool: str = "attention", axis: int = 2, seed: int = 0) -> mil.Mil:
    torch.manual_seed(seed)
    shape = mil.Config(width=4, depth=2, hidden=8, dropout=0.0, axis=axis, pool=pool)  # type: ignore[arg-type]
    return mil.build(shape, 2, 3)


def volumes(*size: int, seed: int = 0) -> Tensor:
    return torch.randn((2, 2, *size), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pool", POOLS)
def test_only_a_gru_minds_the_order_of_slices(pool: str) -> None:
    net = make(pool).eval()
    x = volumes(9, 11, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    same = torch.allclose(net.embed(x[..., order]), net.embed(x), atol=1e-6)
    assert same == (pool != "gru")


@pytest.mark.parametrize("pool", POOLS)
def test_slices_are_taken_along_the_axis_that_is_set(pool: str) -> None:
    x = volumes(9, 11, 6)
    last = make(pool).eval()
    for axis in (0, 1):
        other = make(pool, axis).eval()
        other.load_state_dict(last.state_dict())
        assert torch.equal(other(x.movedim(4, 2 + axis)), last(x))
    assert last.slices(x).shape == (2, 6, 8)


# PyTorch's own GRU takes up its weights anew while it is traced, and says so
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_trains_exports_and_survives_the_file(pool: str, tmp_path: Path) -> None:
    net = make(pool)
    x = volumes(9, 8, 5)
    net(x).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, key
    net.eval()
    program = torch.export.export(net, (x,))
    assert torch.allclose(program.module()(x + 1), net(x + 1), atol=1e-5)
    document = {
        "network": {"name": "mil", "config": config.to_dict(net.config)},
        "channels": ["a", "b"], "schema": {}, "preparation": {}, "input": {"patch": [9, 8, 5]},
    }  # fmt: skip
    model_file.save(tmp_path / "model.safetensors", net.state_dict(), document)
    loaded = model_file.load(tmp_path / "model.safetensors")
    shape = config.from_dict(loaded.document["network"]["config"], mil.Config)
    again = mil.build(shape, 2, 3)
    again.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in loaded.tensors.items()})
    assert torch.equal(again.eval()(x), net(x))


def test_one_slice_is_a_bag_too_and_attention_is_then_all_on_it() -> None:
    x = volumes(9, 8, 1)
    for pool in POOLS:
        assert torch.isfinite(make(pool).eval()(x)).all()
    assert torch.equal(make().eval().slice_weights(x), torch.ones(2, 1))


def test_the_gru_is_as_wide_as_specified() -> None:
    pool = mil.build(mil.Config(pool="gru"), 1, 2).pool
    assert isinstance(pool, _pooling.GruPool)
    assert (pool.gru.hidden_size, pool.gru.bidirectional, pool.width) == (128, True, 256)


def test_only_attention_says_what_counted() -> None:
    x = volumes(9, 8, 7)
    net = make().eval()
    weights = net.slice_weights(x)
    assert weights is not None
    assert weights.shape == (2, 7)
    assert torch.allclose(weights.sum(1), torch.ones(2))
    assert torch.allclose((weights.unsqueeze(2) * net.slices(x)).sum(1), net.embed(x), atol=1e-6)
    assert make("gru").slice_weights(x) is None
    assert make("mean").slice_weights(x) is None


def test_what_it_is_not_for_is_refused() -> None:
    for wrong in ({"ndim": 2}, {"axis": 3}, {"pool": "max"}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            mil.Config(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="more than one voxel") as caught:
        mil.build(mil.Config(width=4), 1, 2)(torch.zeros(1, 1, 8, 8, 30))
    assert "(9, 9)" in str(caught.value), "the number of slices does not matter"


# --- a toy: one slice of sixteen decides ---------------------------------------------------------


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise; in every other volume one slice shows a square."""
    x = torch.randn((count, 1, 10, 10, SLICES), generator=generator)
    class_index = torch.arange(count) % 2
    place = torch.randint(SLICES, (count,), generator=generator)
    x[torch.arange(count), 0, 2:8, 2:8, place] += 1.5 * class_index[:, None, None]
    return x, class_index, place


def taught(net: nn.Module, by_slice: bool) -> torch.Generator:
    """Sixty steps on volumes, or on their slices with the class of the volume."""
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    for _ in range(60):
        x, class_index, _ = draw(16, generator)
        if by_slice:
            x, class_index = x.movedim(4, 1).flatten(0, 1), class_index.repeat_interleave(SLICES)
        optimiser.zero_grad()
        F.cross_entropy(net(x), class_index).backward()
        optimiser.step()
    net.eval()
    return generator


def test_attention_finds_the_slice_that_decides() -> None:
    torch.manual_seed(1)
    net = mil.build(mil.Config(width=8, depth=2, hidden=32, dropout=0.0), 1, 2)
    x, class_index, place = draw(100, taught(net, by_slice=False))
    with torch.no_grad():
        found, weights = net(x), net.slice_weights(x)
    assert (found.argmax(1) == class_index).float().mean() > 0.9
    assert F.cross_entropy(found, class_index) < 0.3
    assert weights is not None
    ill = class_index == 1
    assert (weights.argmax(1) == place)[ill].float().mean() > 0.9
    assert weights[ill].max(1).values.mean() > 0.8, "and rests on it"


def test_the_mean_of_slices_is_hardly_sure_of_anything() -> None:
    """Fifteen slices of sixteen show nothing, and each has as much of a say.

    Which volume is which can still be told, as means lie a little apart; but a probability is
    near one half, where cross-entropy is log 2 = 0.69.
    """
    torch.manual_seed(1)
    net = cnn.build(cnn.Config(width=8, depth=2, hidden=32, dropout=0.0), 1, 2)
    x, class_index, _ = draw(100, taught(net, by_slice=True))
    with torch.no_grad():
        each = net(x.movedim(4, 1).flatten(0, 1)).softmax(1)
    mean = each.unflatten(0, (len(x), SLICES)).mean(1)
    assert F.nll_loss(mean.log(), class_index) > 0.5
