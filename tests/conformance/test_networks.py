"""What every network owes the house: one parametrised test a promise, over all of ``networks/``."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from delineate.core import catalog, config, model_file
from delineate.core.errors import ConfigError
from delineate.networks import _cost, _transfer

BATCH, CHANNELS, OUTPUTS = 2, 2, 3
KINDS = {"segmenter", "classifier", "critic"}
#: Fields that only decide how much there is to compute, made small.
SMALL: dict[str, Any] = {"width": 4, "widths": (4, 8, 8)}
#: ... and what single networks need beside it.
SMALL_OF: dict[str, dict[str, Any]] = {
    "dbn": {"grid": 4, "units": (16, 8)},
    "densenet": {"layers": (2, 3, 2)},
    "efficientnet": {"drop_path": 0.0},
    "fcn": {"levels": 4},
    "mobilenet_unet": {"levels": 4},
    "sam_automed": {"dim": 24, "depth": 2, "neck": 16, "adapter": 6, "window": 2},
    "sam_medcls": {"dim": 24, "depth": 2, "neck": 16, "adapter": 6},
    "segnet": {"levels": 4},
    "swin_unetr": {"depths": (2, 1, 1, 1), "window": 4},
}


def settings(module: ModuleType, ndim: int, **changes: Any) -> Any:
    names = {f.name for f in dataclasses.fields(module.Config)}
    small = {name: value for name, value in SMALL.items() if name in names}
    own = SMALL_OF.get(module.__name__.rsplit(".", 1)[-1], {})
    return module.Config(**{**small, **own, "ndim": ndim, **changes})


def accepted(name: str) -> list[int]:
    module = catalog.load("networks", name)
    found = []
    for ndim in (2, 3):
        try:
            module.Config(ndim=ndim)
        except ConfigError:
            continue
        found.append(ndim)
    return found


NAMES = catalog.members("networks")
VARIANTS = [pytest.param(name, nd, id=f"{name}-{nd}d") for name in NAMES for nd in accepted(name)]
MODELS = [v for v in VARIANTS if catalog.load("networks", str(v.values[0])).KIND != "critic"]
every = pytest.mark.parametrize(("name", "ndim"), VARIANTS)


def make(name: str, ndim: int, seed: int = 0) -> tuple[ModuleType, Any, nn.Module]:
    module = catalog.load("networks", name)
    chosen = settings(module, ndim)
    torch.manual_seed(seed)
    outputs = 1 if module.KIND == "critic" else OUTPUTS
    return module, chosen, module.build(chosen, CHANNELS, outputs)


def size(module: ModuleType, chosen: Any) -> tuple[int, ...]:
    """Unequal sizes that the network takes, with several voxels at its coarsest level."""
    step = module.divisor(chosen)
    least = max(step * (1 if step >= 32 else max(2, -(-16 // step))), getattr(module, "LEAST", 0))
    return (least, least + step, least)[: chosen.ndim]


def image(shape: tuple[int, ...]) -> Tensor:
    return torch.randn((BATCH, CHANNELS, *shape), generator=torch.Generator().manual_seed(5))


def outputs_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    found = net(x)
    return [found] if isinstance(found, Tensor) else list(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_file_has_what_the_catalog_promises(name: str) -> None:
    module = catalog.load("networks", name)
    assert module.KIND in KINDS
    assert accepted(name), "at least one of 2D and 3D"
    assert re.search(r"\d{4}", module.PAPER), "who described it, and when"
    assert "->" in (module.__doc__ or "").split("\n")[0], "the docstring begins with shapes"
    assert callable(module.build)
    assert callable(module.divisor)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    fields = {f.name: f for f in dataclasses.fields(module.Config)}
    assert "ndim" in fields
    for setting in fields.values():
        assert setting.metadata.get("help"), f"{setting.name} has no help"
    again = config.from_dict(config.to_dict(module.Config()), module.Config)
    assert again == module.Config()
    with pytest.raises(ConfigError):
        module.Config(ndim=4)


@every
def test_it_gives_the_shape_it_promises(name: str, ndim: int) -> None:
    module, chosen, net = make(name, ndim)
    shape = size(module, chosen)
    with torch.no_grad():
        found = net.eval()(image(shape))
    assert isinstance(found, Tensor), "one tensor in use, whatever training gives"
    assert torch.isfinite(found).all()
    if module.KIND == "segmenter":
        assert found.shape == (BATCH, OUTPUTS, *shape)
    elif module.KIND == "classifier":
        assert found.shape == (BATCH, OUTPUTS)
    else:
        assert found.shape[:2] == (BATCH, 1)


@every
def test_a_size_it_cannot_take_is_refused_and_the_nearest_named(name: str, ndim: int) -> None:
    module, chosen, net = make(name, ndim)
    step, shape = module.divisor(chosen), size(module, chosen)
    if step == 1:
        odd = tuple(n + 1 for n in shape)
        assert torch.isfinite(net(image(odd))).all()
        return
    with pytest.raises(ConfigError) as caught:
        net(image((shape[0] + 1, *shape[1:])))
    assert str((shape[0] + step, *shape[1:])) in str(caught.value)
    assert caught.value.code == "size"


@every
def test_gradient_reaches_every_parameter(name: str, ndim: int) -> None:
    module, chosen, net = make(name, ndim)
    found = outputs_of(net.train(), image(size(module, chosen)))
    sum((y.square().mean() for y in found), torch.zeros(())).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # a bias before a norm is taken out again by it, so only weights must have some
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, key


@every
def test_the_seed_decides_the_output(name: str, ndim: int) -> None:
    module, chosen, first = make(name, ndim, seed=1)
    x = image(size(module, chosen))
    one, same, other = (
        net.eval()(x) for net in (first, make(name, ndim, 1)[2], make(name, ndim, 2)[2])
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "ndim"), MODELS)
def test_a_model_survives_the_model_file(name: str, ndim: int, tmp_path: Path) -> None:
    module, chosen, net = make(name, ndim)
    shape = size(module, chosen)
    net(image(shape))  # running statistics, where there are any, are part of the state
    net.eval()
    path = tmp_path / "model.safetensors"
    document = {
        "network": {"name": name, "config": config.to_dict(chosen)},
        "channels": ["a", "b"],
        "schema": {},
        "preparation": {},
        "input": {"patch": list(shape)},
    }
    model_file.save(path, net.state_dict(), document)
    loaded = model_file.load(path)
    known = config.from_dict(loaded.document["network"]["config"], module.Config)
    again = module.build(known, CHANNELS, OUTPUTS)
    again.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in loaded.tensors.items()})
    assert torch.equal(net(image(shape)), again.eval()(image(shape)))


@pytest.mark.slow
@every
def test_it_exports_and_the_export_agrees(name: str, ndim: int) -> None:
    module, chosen, net = make(name, ndim)
    x = image(size(module, chosen))
    net.eval()
    program = torch.export.export(net, (x,))
    new = x.flip(0) * 1.5
    with torch.no_grad():
        assert torch.allclose(program.module()(new), net(new), atol=1e-5)


@every
def test_its_cost_is_counted_alike_with_and_without_computing(name: str, ndim: int) -> None:
    module, chosen, net = make(name, ndim)
    shape = size(module, chosen)
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    counts = {device: _cost.macs(net, CHANNELS, shape, device) for device in ("meta", "cpu")}
    assert counts["meta"] == counts["cpu"]
    assert 0 < counts["cpu"] < 1e12
    assert _cost.gmac(net, CHANNELS, shape) == counts["cpu"] / 1e9
    assert 0 < _cost.parameters(net) < 1e9
    assert net.training
    assert all(torch.equal(state[key], tensor) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize(("name", "ndim"), MODELS)
def test_its_weights_serve_other_channels_and_labels(name: str, ndim: int) -> None:
    module, chosen, old = make(name, ndim, seed=1)
    new = module.build(chosen, 1, OUTPUTS - 1)
    channel, output = _transfer.axes(lambda c, o: module.build(chosen, c, o), 1, OUTPUTS - 1)
    ends = _transfer.Ends(
        channel, output, ["b"], ["background", "y"], ["a", "b"], ["background", "x", "y"]
    )
    tensors = old.state_dict()
    found = _transfer.transfer(new, tensors, ends)
    taken = {*found.loaded, *found.resized}
    assert sorted([*found.loaded, *found.resized, *found.left_out]) == sorted(tensors)
    assert found.resized.keys() <= channel.keys() | output.keys()
    # what is left out hangs together with channels or labels in a way that only its file knows
    alike = {k for k, t in new.state_dict().items() if k in tensors and t.shape == tensors[k].shape}
    assert alike <= taken
    assert channel.keys() | output.keys() <= taken
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert sum(tensors[key].numel() for key in taken) > 0.3 * numbers
