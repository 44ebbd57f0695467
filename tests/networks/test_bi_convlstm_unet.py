from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import bi_convlstm_unet as unet


def make(**changes: Any) -> unet.BiConvLSTMUNet:
    torch.manual_seed(0)
    settings = {"ndim": 2, "width": 4, "levels": 3, **changes}
    return unet.build(unet.Config(**settings), 1, 2)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ndim", [2, 3])
def test_on_a_single_voxel_it_is_the_lstm_of_torch(ndim: int) -> None:
    """Around one voxel the kernel sees zeros, so its middle weights are those of a dense LSTM."""
    torch.manual_seed(3)
    join = unet.Join(ndim, 6)
    referee = nn.LSTM(6, 3, bidirectional=True)
    middle = (slice(None), slice(None), *(1,) * ndim)
    for suffix, cell in (("", join.forwards), ("_reverse", join.backwards)):
        for kind, part in (("ih", cell.of_input), ("hh", cell.of_hidden)):
            getattr(referee, f"weight_{kind}_l0{suffix}").data = part.weight.data[middle]
        getattr(referee, f"bias_ih_l0{suffix}").data = cell.of_input.bias.data
        getattr(referee, f"bias_hh_l0{suffix}").data.zero_()  # torch keeps a second one
    skip, below = image(5, 6, seed=1), image(5, 6, seed=2)
    with torch.no_grad():
        states, _ = referee(torch.stack([skip, below]))
        last = torch.cat([states[-1, :, :3], states[0, :, 3:]], 1)  # each direction's last
        voxel = (..., *(None,) * ndim)
        expected = join.mix(last[voxel]).tanh()
        assert torch.allclose(join(skip[voxel], below[voxel]), expected, atol=1e-6)


def test_a_cell_worked_by_hand() -> None:
    """Weights 0, so gates are their biases: input 0, forget 1, cell 2, output 3."""
    cell = unet.ConvLSTM(2, 1, 1)
    for parameter in cell.parameters():
        nn.init.zeros_(parameter)
    cell.of_input.bias.data = torch.tensor([0.0, 1, 2, 3])
    with torch.no_grad():
        found = cell(image(1, 1, 2, 2), image(1, 1, 2, 2))
    # c1 = 0.5 tanh 2 = 0.48201; c2 = 0.73106 c1 + c1 = 0.83440; h2 = 0.95257 tanh c2 = 0.65038
    assert torch.allclose(found, torch.tensor(0.65038), atol=1e-4)


def test_it_remembers_at_first() -> None:
    for part in make().modules():
        if isinstance(part, unet.ConvLSTM):
            assert torch.equal(
                part.of_input.bias.chunk(4)[1], torch.ones(len(part.of_input.bias) // 4)
            )


def test_the_order_of_skip_and_map_from_below_matters() -> None:
    join = make().join[0]
    one, two = image(1, 4, 8, 8, seed=1), image(1, 4, 8, 8, seed=2)
    assert not torch.allclose(join(one, two), join(two, one))
    assert join(one, two).abs().max() < 1


def test_dense_blocks_read_all_blocks_before_them() -> None:
    # two levels of 4 and 8 channels; the bottom has 16
    first = [[block[0][0].in_channels for block in make(dense=n).bottom.blocks] for n in (1, 3, 4)]
    assert first == [[8], [8, 16, 32], [8, 16, 32, 48]]


def test_skips_reach_the_output() -> None:
    net = make().eval()
    net.bottom.register_forward_hook(lambda module, inputs, out: torch.ones_like(out))
    with torch.no_grad():
        assert not torch.equal(net(image(1, 1, 16, 16)), net(image(1, 1, 16, 16, seed=1)))


def test_an_odd_width_and_its_limit() -> None:
    net = make(width=5, max_width=7, levels=4)
    assert [stage[-1][0].out_channels for stage in net.encoder] == [5, 7, 7]
    assert net(image(1, 1, 16, 8)).shape == (1, 2, 16, 8)


def test_impossible_settings_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [
        {"width": 1}, {"max_width": 1}, {"levels": 1}, {"dense": 0}, {"dropout": 1.0},
        {"norm": "layer"}, {"ndim": 4},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            make(**wrong)
    with pytest.raises(ConfigError, match="one voxel"):
        make()(image(1, 1, 4, 4))
