"""What every network owes the house."""

from __future__ import annotations

import copy
import inspect
import re
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from delineate.conformance._rules import (
    Check,
    Subject,
    draws,
    expect,
    has_settings,
    settings_of,
    touches_nothing,
)
from delineate.core import catalog, config, model_file
from delineate.core.errors import ConfigError
from delineate.networks import _cost, _transfer
from delineate.networks._blocks import per_axis

BATCH, CHANNELS, OUTPUTS = 2, 2, 3
KINDS = ("segmenter", "classifier", "critic")
#: Fields that only decide how much there is to compute, made small; a file adds its own as SMALL.
_SMALL: dict[str, Any] = {"width": 4, "widths": (4, 8, 8)}


def subjects(module: ModuleType, name: str) -> list[Subject]:
    """A network is tried in each number of dimensions that its settings allow."""
    accepted = [ndim for ndim in (2, 3) if catalog.supports_ndim(module, ndim)]
    return [Subject(module, name, f"{ndim}D", ndim) for ndim in accepted]


def settings(subject: Subject) -> Any:
    """Small settings of the network."""
    cls = subject.module.Config
    small = {name: value for name, value in _SMALL.items() if name in settings_of(cls)}
    return cls(**{**small, **getattr(subject.module, "SMALL", {}), "ndim": subject.ndim})


def make(subject: Subject, seed: int = 0) -> tuple[Any, nn.Module]:
    """Settings, and a network with the weights that a seed gives."""
    chosen = settings(subject)
    torch.manual_seed(seed)
    outputs = 1 if subject.module.KIND == "critic" else OUTPUTS
    network: nn.Module = subject.module.build(chosen, CHANNELS, outputs)
    return chosen, network


def size(module: ModuleType, chosen: Any) -> tuple[int, ...]:
    """Unequal sizes that the network takes, with several voxels at its coarsest level."""
    steps = _steps(module, chosen)
    least = [
        max(step * (1 if step >= 32 else max(2, -(-16 // step))), getattr(module, "LEAST", 0))
        for step in steps
    ]
    least[1] += steps[1]
    return tuple(least)


def _steps(module: ModuleType, chosen: Any) -> tuple[int, ...]:
    """What each side must be a multiple of."""
    return per_axis(chosen.ndim, module.divisor(chosen))


def image(shape: tuple[int, ...]) -> Tensor:
    """A batch of noise."""
    return torch.randn((BATCH, CHANNELS, *shape), generator=torch.Generator().manual_seed(5))


# --- the checks -----------------------------------------------------------------------------------


def keeps_the_contract(subject: Subject) -> None:
    """Its file has a docstring that begins with shapes, PAPER, KIND, Config, divisor and build."""
    module = subject.module
    first = (module.__doc__ or "").split("\n")[0]
    expect("->" in first, f"no shapes such as (B, C, *S) -> (B, outputs, *S) in {first!r}")
    expect(module.KIND in KINDS, f"KIND is {module.KIND!r}, none of {', '.join(KINDS)}")
    message = f"PAPER is {module.PAPER!r}: who described it, and in which year?"
    expect(re.search(r"\d{4}", str(module.PAPER)), message)
    names = settings_of(module.Config)
    expect("ndim" in names, f"Config has no ndim, but {', '.join(sorted(names)) or 'nothing'}")
    for function, expected in (("divisor", 1), ("build", 3)):
        parameters = list(inspect.signature(getattr(module, function)).parameters)
        expect(
            len(parameters) == expected, f"{function} takes {', '.join(parameters) or 'nothing'}"
        )


def takes_two_or_three_dimensions(subject: Subject) -> None:
    """Its settings take ndim of 2, of 3 or both, and refuse any other with a ConfigError."""
    module = subject.module
    accepted = [ndim for ndim in (2, 3) if catalog.supports_ndim(module, ndim)]
    expect(accepted, "neither 2 nor 3 is taken")
    expect(not catalog.supports_ndim(module, 4), "ndim=4 is taken")


def gives_the_shape_it_promises(subject: Subject) -> None:
    """In use it gives one finite tensor of the shape of its kind, for images of unequal sides."""
    chosen, network = make(subject)
    shape = size(subject.module, chosen)
    with torch.no_grad():
        output = network.eval()(image(shape))
    expect(isinstance(output, Tensor), f"it gives a {type(output).__name__} in evaluation mode")
    expect(torch.isfinite(output).all(), "it gives NaN or infinity")
    expected = {
        "segmenter": (BATCH, OUTPUTS, *shape),
        "classifier": (BATCH, OUTPUTS),
        "critic": (BATCH, 1, *output.shape[2:]),
    }[subject.module.KIND]
    expect(output.shape == expected, f"{tuple(output.shape)} instead of {expected}")


def its_scores_have_a_place(subject: Subject) -> None:
    """Where a critic offers score_map, it gives finite scores of every voxel at any size."""
    chosen, network = make(subject)
    score_map = getattr(network.eval(), "score_map", None)
    if score_map is None:
        return
    shape = size(subject.module, chosen)
    larger = (shape[0] + _steps(subject.module, chosen)[0], *shape[1:])
    for sides in (shape, larger):
        with torch.no_grad():
            scores = score_map(image(sides))
        expected = (BATCH, 1, *sides)
        expect(scores.shape == expected, f"{tuple(scores.shape)} instead of {expected}")
        expect(torch.isfinite(scores).all(), "it gives NaN or infinity")


def takes_any_channels_and_outputs(subject: Subject) -> None:
    """It is built for any number of channels and outputs."""
    chosen = settings(subject)
    shape = size(subject.module, chosen)
    critic = subject.module.KIND == "critic"
    for channels, outputs in ((1, 1 if critic else 2), (5, 1 if critic else 4)):
        network = subject.module.build(chosen, channels, outputs).eval()
        with torch.no_grad():
            output = network(torch.zeros((1, channels, *shape)))
        message = f"{tuple(output.shape)} of {channels} channels and {outputs} outputs"
        expect(output.shape[:2] == (1, outputs), message)


def refuses_a_size_it_cannot_take(subject: Subject) -> None:
    """A size that is no multiple of divisor is refused, and the next larger one named."""
    chosen, network = make(subject)
    shape = size(subject.module, chosen)
    step, axis = max((step, -axis) for axis, step in enumerate(_steps(subject.module, chosen)))
    if step == 1:
        indivisible = tuple(n + 1 for n in shape)
        expect(
            torch.isfinite(network(image(indivisible))).all(), f"NaN or infinity at {indivisible}"
        )
        return
    wrong, right = (
        tuple(n + more * (a == -axis) for a, n in enumerate(shape)) for more in (1, step)
    )
    try:
        network(image(wrong))
    except ConfigError as error:
        expect(error.code == "size", f"the error's code is {error.code!r} instead of 'size'")
        expect(str(right) in str(error), f"{right} is not in {error.message!r}")
    else:
        expect(False, f"{wrong} is taken, though divisor is {step}")


def gradient_reaches_every_parameter(subject: Subject) -> None:
    """Gradient reaches every parameter, and is finite."""
    chosen, network = make(subject)
    output = network.train()(image(size(subject.module, chosen)))
    outputs = [output] if isinstance(output, Tensor) else list(output)
    total = sum((y.square().mean() for y in outputs), torch.zeros(()))
    total.backward()
    for key, parameter in network.named_parameters():
        expect(parameter.grad is not None, f"none reaches {key}")
        slope = torch.zeros(()) if parameter.grad is None else parameter.grad
        expect(torch.isfinite(slope).all(), f"NaN or infinity at {key}")
        # a bias before a norm is taken out again by it, so only weights must have some
        expect(parameter.ndim == 1 or slope.abs().max() > 0, f"zero at all of {key}")


def the_seed_decides(subject: Subject) -> None:
    """The seed alone decides its weights, and in evaluation mode no dice are thrown."""
    chosen, first = make(subject, seed=1)
    x = image(size(subject.module, chosen))
    again, other = make(subject, seed=1)[1].eval(), make(subject, seed=2)[1].eval()
    with torch.no_grad():
        answer = first.eval()(x)
        expect(
            torch.equal(answer, first(x)), "in evaluation mode, it answers differently each time"
        )
        same, different = again(x), other(x)
        expect(torch.equal(answer, same), "two networks of one seed differ")
    expect(not torch.equal(answer, different), "another seed gives the same weights")
    drawn = draws(lambda: make(subject), torch_too=False)
    expect(not drawn, f"weights are drawn from {', '.join(drawn)} instead of torch")
    drawn = draws(lambda: first(x), torch_too=True)
    expect(not drawn, f"in evaluation mode, it draws from {', '.join(drawn)}")


def survives_the_model_file(subject: Subject) -> None:
    """Built again from the settings and weights of a model file, it answers the same."""
    module = subject.module
    if module.KIND == "critic":
        return
    chosen, network = make(subject)
    shape = size(module, chosen)
    network(image(shape))  # running statistics, where there are any, are part of the state
    network.eval()
    document = {
        "network": {"name": subject.name, "config": config.to_dict(chosen)},
        "channels": ["a", "b"],
        "schema": {},
        "preparation": {},
        "input": {"patch": list(shape)},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model_file.save(path, network.state_dict(), document)
        loaded = model_file.load(path)
    known = config.from_dict(loaded.document["network"]["config"], module.Config)
    again = module.build(known, CHANNELS, OUTPUTS)
    again.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in loaded.tensors.items()})
    with torch.no_grad():
        written, read_again = network(image(shape)), again.eval()(image(shape))
    expect(torch.equal(written, read_again), "it answers differently")


def its_cost_is_counted(subject: Subject) -> None:
    """Its cost is counted alike with and without computing, and counting changes nothing."""
    chosen, network = make(subject)
    shape = size(subject.module, chosen)
    state = copy.deepcopy(network.state_dict())
    counts = {where: _cost.macs(network, CHANNELS, shape, where) for where in ("meta", "cpu")}
    expect(counts["meta"] == counts["cpu"], f"multiplications: {counts}")
    expect(0 < counts["cpu"] < 1e12, f"{counts['cpu']} multiplications")
    expect(_cost.gmac(network, CHANNELS, shape) == counts["cpu"] / 1e9, "GMAC differ")
    expect(0 < _cost.parameters(network) < 1e9, f"{_cost.parameters(network)} parameters")
    expect(network.training, "it is left in evaluation mode")
    same = all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
    expect(same, "its weights or buffers change in evaluation mode")


def weights_serve_others(subject: Subject) -> None:
    """Its weights serve a network for other channels and labels."""
    module = subject.module
    if module.KIND == "critic":
        return
    chosen, old = make(subject, seed=1)
    new = module.build(chosen, 1, OUTPUTS - 1)
    channel, output = _transfer.axes(lambda c, o: module.build(chosen, c, o), 1, OUTPUTS - 1)
    ends = _transfer.Ends(
        channel, output, ["b"], ["background", "y"], ["a", "b"], ["background", "x", "y"]
    )
    tensors = old.state_dict()
    transferred = _transfer.transfer(new, tensors, ends)
    fitting = {*transferred.loaded, *transferred.resized}
    every = sorted([*transferred.loaded, *transferred.resized, *transferred.left_out])
    expect(every == sorted(tensors), "tensors are unaccounted for")
    expect(transferred.resized.keys() <= channel.keys() | output.keys(), "others were resized")
    # what is left out hangs together with channels or labels in a way that only its file knows
    same_shape = {
        k for k, t in new.state_dict().items() if k in tensors and t.shape == tensors[k].shape
    }
    missing = sorted((same_shape | channel.keys() | output.keys()) - fitting)
    expect(not missing, f"not taken: {', '.join(missing[:3])}")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    share = sum(tensors[key].numel() for key in fitting) / numbers
    expect(share > 0.3, f"{100 * share:.0f} % of them are taken")


def exports(subject: Subject) -> None:
    """It exports (torch.export), and the export answers the same within 1e-5."""
    chosen, network = make(subject)
    x = image(size(subject.module, chosen))
    network.eval()
    program = torch.export.export(network, (x,))
    new = x.flip(0) * 1.5
    with torch.no_grad():
        apart = (program.module()(new) - network(new)).abs()
        expect((apart <= 1e-5 + 1e-5 * network(new).abs()).all(), f"it is {apart.max():.2g} off")


#: Of the file, of every form in which it is tried, and those that take seconds.
FILE_CHECKS: tuple[Check, ...] = (
    keeps_the_contract, has_settings, takes_two_or_three_dimensions, touches_nothing
)  # fmt: skip
CHECKS: tuple[Check, ...] = (
    gives_the_shape_it_promises, its_scores_have_a_place, takes_any_channels_and_outputs,
    refuses_a_size_it_cannot_take, gradient_reaches_every_parameter, the_seed_decides,
    survives_the_model_file, its_cost_is_counted, weights_serve_others,
)  # fmt: skip
SLOW_CHECKS: tuple[Check, ...] = (exports,)
