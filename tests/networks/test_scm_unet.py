from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from delineate.core.errors import ConfigError
from delineate.networks import scm_unet


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def connection(nd: int = 2, width: int = 4, positions: int = 1024) -> scm_unet.SimilarityConnection:
    torch.manual_seed(0)
    return scm_unet.SimilarityConnection(nd, width, positions)


@pytest.mark.parametrize(
    ("size", "step"),
    [((16, 16), 1), ((32, 32), 1), ((33, 32), 2), ((64, 64), 2), ((65, 65), 3), ((16, 16, 16), 2)],
)
def test_keys_are_pooled_to_32_by_32_at_most(size: tuple[int, ...], step: int) -> None:
    assert scm_unet.pool_step(size, 32**2) == step
    assert math.prod(-(-n // step) for n in size) <= 32**2


def test_attention_is_a_weighted_sum_of_all_places() -> None:
    block, x = connection(), image(1, 4, 3, 5)
    with torch.no_grad():
        query, key, value = (
            part(x)[0].flatten(1).double() for part in (block.query, block.key, block.value)
        )
        assert query.shape == (2, 15), "half the channels"
        gathered = torch.zeros(2, 15, dtype=torch.double)
        for i in range(15):
            alike = [math.exp(float(query[:, i] @ key[:, j]) / math.sqrt(2)) for j in range(15)]
            for j in range(15):
                gathered[:, i] += alike[j] / sum(alike) * value[:, j]
        expected = x + block.out(gathered.float().reshape(1, 2, 3, 5))
        assert torch.allclose(block(x), expected, atol=1e-5)


def test_where_a_place_lies_does_not_matter() -> None:
    block, x = connection(), image(1, 4, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    with torch.no_grad():
        expected = block(x).flatten(2)[:, :, order]
        assert torch.allclose(block(shuffled).flatten(2), expected, atol=1e-5)


@pytest.mark.parametrize("nd", [2, 3])
def test_corners_inform_each_other_also_where_keys_are_pooled(nd: int) -> None:
    block = connection(nd, positions=8)
    x = image(1, 4, *[5] * nd).requires_grad_()
    block(x)[(0, 0, *[0] * nd)].backward()
    assert x.grad is not None
    assert x.grad[(0, slice(None), *[slice(3, 5)] * nd)].abs().max() > 0


@pytest.mark.parametrize(
    ("levels", "size"), [(6, (8, 4)), (4, (8, 4)), (3, (16, 8)), (2, (32, 16))]
)
def test_the_connection_sits_at_an_eighth_or_the_coarsest(
    levels: int, size: tuple[int, int]
) -> None:
    net = scm_unet.build(scm_unet.Config(ndim=2, width=2, levels=levels), 1, 2).eval()
    found = [m for m in net.modules() if isinstance(m, scm_unet.SimilarityConnection)]
    assert len(found) == 1
    seen = []
    found[0].register_forward_hook(lambda module, inputs, out: seen.append(tuple(out.shape[2:])))
    with torch.no_grad():
        net(image(1, 1, 64, 32))
    assert seen == [size]


def test_no_positions_are_refused() -> None:
    with pytest.raises(ConfigError):
        scm_unet.Config(positions=0)
