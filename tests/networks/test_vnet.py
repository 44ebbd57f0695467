from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from delineate.core.errors import ConfigError
from delineate.networks import _vnet, vnet


def image(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_stages_have_the_papers_convolutions_and_widths() -> None:
    net = vnet.build(vnet.Config(ndim=3, levels=5, kernel=5), 1, 2)
    encoder = [m for m in net.encoder.modules() if isinstance(m, _vnet.Stage)]
    decoder = [m for m in net.decoder.modules() if isinstance(m, _vnet.Stage)]

    def convolutions(stage: _vnet.Stage) -> list[nn.Conv3d]:
        return [m for m in stage.layers if isinstance(m, nn.Conv3d)]

    assert [len(convolutions(stage)) for stage in encoder] == [1, 2, 3, 3, 3]
    assert [len(convolutions(stage)) for stage in decoder] == [1, 2, 3, 3]
    assert [convolutions(stage)[-1].out_channels for stage in encoder] == [16, 32, 64, 128, 256]
    assert [convolutions(stage)[-1].out_channels for stage in decoder] == [32, 64, 128, 256]
    assert {conv.kernel_size for s in encoder + decoder for conv in convolutions(s)} == {(5, 5, 5)}
    kinds = {type(m) for m in net.modules()}
    assert nn.PReLU in kinds
    assert not kinds & {nn.ReLU, nn.LeakyReLU, nn.MaxPool3d}


@pytest.mark.parametrize("count", [1, 3])
def test_a_stage_adds_to_what_it_sees(count: int) -> None:
    stage = _vnet.Stage(vnet.Config(ndim=2), 4, 4, count)
    nn.init.zeros_(stage.layers[-1].weight)
    x = image(2, 4, 8, 8)
    assert torch.equal(stage(x), nn.functional.prelu(x, torch.tensor([0.25])))


def test_a_limit_on_width_is_kept() -> None:
    net = vnet.build(vnet.Config(ndim=2, width=4, levels=6, max_width=8), 2, 3).eval()
    with torch.no_grad():
        assert net(image(1, 2, 64, 32)).shape == (1, 3, 64, 32)
    assert max(m.out_channels for m in net.encoder.modules() if isinstance(m, nn.Conv2d)) == 8


@pytest.mark.parametrize("kernel", [0, 4])
def test_even_kernels_are_refused(kernel: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        vnet.Config(kernel=kernel)
