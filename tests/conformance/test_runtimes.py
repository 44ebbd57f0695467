"""What every runtime owes the house: the maps that PyTorch gives, whatever computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from delineate.core import catalog, config, model_file
from delineate.core.errors import ConfigError, ResourceError
from delineate.core.schema import Label, Schema
from delineate.inference.runtimes import Runtime
from delineate.preprocess.presets import Channel, Preparation

NAMES = catalog.members("inference.runtimes")
SCHEMA = Schema((Label("a", 1), Label("b", 2)), classes=("x", "y", "z"))
#: What a network gives, and a small network that does.
GIVES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "probabilities": ("unet", {"width": 4, "levels": 3}, ["background", "a", "b"]),
    "image": ("unet", {"width": 4, "levels": 3}, ["t2"]),
    "logits": ("cnn", {"width": 4}, ["x", "y", "z"]),
}
PATCH = (16, 24)


@pytest.fixture(params=GIVES)
def model(request: Any, tmp_path: Path) -> Path:
    """A model file with weights that nobody trained."""
    name, settings, outputs = GIVES[request.param]
    module = catalog.load("networks", name)
    chosen = module.Config(ndim=2, **settings)
    torch.manual_seed(0)
    network = module.build(chosen, 2, len(outputs))
    channels = tuple(Channel(n, "unknown", "window", {"mean": 0.0, "std": 1.0}) for n in "pq")
    document = {
        "network": {"name": name, "config": config.to_dict(chosen)},
        "channels": ["p", "q"],
        "schema": SCHEMA.to_dict(),
        "preparation": Preparation(channels=channels, ndim=2).to_dict(),
        "input": {
            "channels": ["p", "q"], "patch": list(PATCH), "slice_axis": None, "neighbours": 0,
            "mirror_axes": [],
        },
        "output": {"map": request.param, "names": outputs},
    }  # fmt: skip
    path = tmp_path / "m.safetensors"
    model_file.save(path, network.state_dict(), document)
    return path


@pytest.fixture(params=NAMES)
def load(request: Any) -> Callable[..., Runtime]:
    """How a runtime opens a model file."""

    def opened(*given: Any) -> Runtime:
        module = catalog.load("inference.runtimes", request.param)
        try:
            runtime: Runtime = module.load(*given)
        except ConfigError as error:
            if error.code != "extra-missing":
                raise
            pytest.skip(str(error))
        return runtime

    return opened


@pytest.mark.slow
def test_its_maps_are_those_of_pytorch(load: Callable[..., Runtime], model: Path) -> None:
    expected, found = catalog.load("inference.runtimes", "torch").load(model, "cpu"), load(model)
    assert found.maps == expected.maps
    assert found.document == expected.document
    for windows in (3, 1):  # as many as there is room for, and the rest
        patches = np.random.default_rng(windows).standard_normal((windows, 2, *PATCH))
        maps, again, truth = (
            one.infer(patches.astype(np.float32)) for one in (found, found, expected)
        )
        assert maps.keys() == truth.keys()
        for name, values in maps.items():
            assert values.dtype == np.float32
            assert np.array_equal(values, again[name]), "the same windows give the same maps"
            np.testing.assert_allclose(values, truth[name], atol=1e-4, rtol=1e-4)


def test_a_part_that_it_does_not_have_is_refused(load: Callable[..., Runtime], model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(model, "cpu", ("critic",))
    assert caught.value.code == "map-unknown"


@pytest.mark.slow
def test_a_device_that_is_not_here_is_refused(load: Callable[..., Runtime], model: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        load(model, "cuda:99")
    assert caught.value.code == "device"
