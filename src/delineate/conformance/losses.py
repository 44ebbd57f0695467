"""What every loss that can be a term of a sum owes the house."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from delineate.conformance._rules import (
    Check,
    Subject,
    close,
    draws,
    expect,
    has_settings,
    touches_nothing,
)
from delineate.core import catalog
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import IGNORED, Label, Schema
from delineate.losses._common import Term
from delineate.losses._distance import signed
from delineate.methods import supervised
from delineate.networks import unet

#: Outputs: background, a structure, and one inside it.
OUTPUTS = 3
KINDS = ("output", "finest", "head")
SHAPES = {2: (2, 18, 22), 3: (2, 10, 12, 9)}
#: Steps of gradient descent for "it can train a network", and how far the loss must fall.
STEPS, FALL = 20, 0.9


def subjects(module: ModuleType, name: str) -> list[Subject]:
    """A loss is tried on flat images and on volumes."""
    return [Subject(module, name, f"{ndim}D", ndim) for ndim in SHAPES]


def labels(ndim: int) -> Tensor:
    """A box in a box, elsewhere in each case."""
    label = torch.zeros(SHAPES[ndim], dtype=torch.uint8)
    for case, start in zip(label, (1, 2), strict=True):
        case[tuple(slice(start, start + 6) for _ in range(ndim))] = 1
        case[tuple(slice(start + 2, start + 4) for _ in range(ndim))] = 2
    return label


def answer(module: ModuleType, label: Tensor, sharpness: float = 8.0) -> Tensor:
    """What a network that believes in ``label`` says."""
    if module.KIND == "head":
        return -signed(label, OUTPUTS) / float(module.Config().tau_mm)
    return sharpness * nn.functional.one_hot(label.long(), OUTPUTS).movedim(-1, 1).float()


def guesses(module: ModuleType, ndim: int) -> Tensor:
    """What a network that knows nothing says."""
    channels = OUTPUTS - 1 if module.KIND == "head" else OUTPUTS
    shape = SHAPES[ndim]
    generator = torch.Generator().manual_seed(3)
    return torch.randn((shape[0], channels, *shape[1:]), generator=generator)


# --- the checks -----------------------------------------------------------------------------------


def keeps_the_contract(subject: Subject) -> None:
    """Its file has a docstring, KIND, Config(Term) and loss(logits, label, config, spacing_mm)."""
    module = subject.module
    expect(module.__doc__, "no docstring")
    expect(module.KIND in KINDS, f"KIND is {module.KIND!r}, none of {', '.join(KINDS)}")
    expect(issubclass(module.Config, Term), "Config does not add to Term")
    parameters = inspect.signature(module.loss).parameters
    names = list(parameters)[1:]
    expect(names == ["label", "config", "spacing_mm"], f"its parameters are {list(parameters)}")
    optional = all(parameters[n].default is None for n in names[1:])
    expect(optional, "config and spacing_mm have no default None")


def truth_costs_least(subject: Subject) -> None:
    """It is one finite number of at least 0, and the truth costs less than any other guess."""
    module, label = subject.module, labels(subject.ndim)
    spacing = (0.9, 1.3, 2.0)[: subject.ndim]
    tried = [answer(module, label), answer(module, label.roll(1, 1)), guesses(module, subject.ndim)]
    costs = [module.loss(guess, label, module.Config(), spacing) for guess in tried]
    for cost in costs:
        expect(cost.ndim == 0, f"its shape is {tuple(cost.shape)}")
        expect(cost.dtype == torch.float32, f"its type is {cost.dtype}")
        expect(torch.isfinite(cost) and cost >= 0, f"it is {cost.item()}")
    truth, shifted, noise = (cost.item() for cost in costs)
    message = f"truth {truth:.4g}, shifted by a voxel {shifted:.4g}, noise {noise:.4g}"
    expect(truth < min(shifted, noise), message)


def gradient_is_finite(subject: Subject) -> None:
    """Its gradient is finite, for any guess and where structures are absent, and not all zero."""
    module, nd = subject.module, subject.ndim
    for fill in (None, 0, 1, 2):
        label = labels(nd) if fill is None else labels(nd).fill_(fill)
        noise = guesses(module, nd)
        for guess in (noise, 50 * noise, answer(module, label, 200.0)):
            guess = guess.clone().requires_grad_()
            cost = module.loss(guess, label)
            cost.backward()
            where = "boxes" if fill is None else f"label {fill} everywhere"
            expect(torch.isfinite(cost), f"the loss is {cost.item()} with {where}")
            expect(guess.grad is not None, "no gradient reaches the guess")
            expect(torch.isfinite(_grad(guess)).all(), f"the gradient is not finite with {where}")
    guess = guesses(module, nd).requires_grad_()
    module.loss(guess, labels(nd)).backward()
    expect(_grad(guess).abs().max() > 0, "the gradient is zero")


def _grad(guess: Tensor) -> Tensor:
    return torch.zeros_like(guess) if guess.grad is None else guess.grad


def descends(subject: Subject) -> None:
    """A small step down its gradient makes it smaller."""
    module, label = subject.module, labels(subject.ndim)
    guess = guesses(module, subject.ndim).requires_grad_()
    before = module.loss(guess, label)
    (slope,) = torch.autograd.grad(before, guess)
    after = module.loss(guess - 0.1 * slope / slope.norm(), label)
    expect(after < before, f"it goes from {before.item():.6g} to {after.item():.6g}")


def half_precision(subject: Subject) -> None:
    """Half precision goes in, single comes out, and the gradient is as precise as the guess."""
    module, label = subject.module, labels(subject.ndim)
    for dtype in (torch.bfloat16, torch.float16):
        guess = (4 * guesses(module, subject.ndim)).to(dtype).requires_grad_()
        cost = module.loss(guess, label)
        expect(cost.dtype == torch.float32, f"{cost.dtype} comes out")
        single = module.loss(guess.detach().float(), label).item()
        message = (
            f"{cost.item():.8g} from {dtype}, {single:.8g} from single: sums in half precision"
        )
        expect(close(cost.item(), single, 1e-5), message)
        cost.backward()
        expect(torch.isfinite(_grad(guess)).all(), f"its gradient is not finite in {dtype}")


def ignored_has_no_say(subject: Subject) -> None:
    """What a guess says where nobody has annotated (IGNORED) changes neither loss nor gradient."""
    module, label = subject.module, labels(subject.ndim)
    label[:, 5:9, 2:8] = IGNORED
    ignored = (label == IGNORED).unsqueeze(1)
    guess = guesses(module, subject.ndim)
    noise = 30 * torch.randn(guess.shape, generator=torch.Generator().manual_seed(4))
    first, second = guess.requires_grad_(), torch.where(ignored, noise, guess.detach())
    second.requires_grad_()
    costs = [module.loss(x, label) for x in (first, second)]
    slopes = [torch.autograd.grad(c, x)[0] for c, x in zip(costs, (first, second), strict=True)]
    message = f"{costs[0].item():.8g} becomes {costs[1].item():.8g}"
    expect(torch.equal(costs[0], costs[1]), f"the loss changes: {message}")
    expect(torch.equal(*slopes), "the gradient elsewhere changes")
    expect(not slopes[0].masked_select(ignored).any(), "the gradient is not zero there")
    expect(slopes[0].masked_select(~ignored).any(), "the gradient is zero everywhere")


def ignored_half_is_cut_off(subject: Subject) -> None:
    """With half of an image ignored, it costs what the other half costs alone."""
    module, label = subject.module, labels(subject.ndim)
    guess, half = guesses(module, subject.ndim), SHAPES[subject.ndim][1] // 2
    alone = module.loss(guess[:, :, :half], label[:, :half]).item()
    label[:, half:] = IGNORED
    cost = module.loss(guess, label).item()
    within = float(getattr(module, "CUT_CHANGES", 1e-6))
    expect(close(cost, alone, within), f"{cost:.8g} instead of {alone:.8g}")


def nothing_annotated(subject: Subject) -> None:
    """A batch of which nothing is annotated is finite, and teaches nothing."""
    module, label = subject.module, labels(subject.ndim).fill_(IGNORED)
    guess = guesses(module, subject.ndim).requires_grad_()
    cost = module.loss(guess, label)
    (slope,) = torch.autograd.grad(cost, guess)
    expect(torch.isfinite(cost), f"it is {cost.item()}")
    expect(not slope.any(), "it has a gradient")


def repeats(subject: Subject) -> None:
    """The same guess costs the same, whatever the type of the label, and no dice are thrown."""
    module, label = subject.module, labels(subject.ndim)
    guess = guesses(module, subject.ndim)
    types = (torch.uint8, torch.uint8, torch.long, torch.float)
    costs = [module.loss(guess, label.to(t)).item() for t in types]
    expect(len(set(costs)) == 1, f"it costs {costs}")
    drawn = draws(lambda: module.loss(guess, label), torch_too=True)
    expect(not drawn, f"it draws from {', '.join(drawn)}")


def trains(subject: Subject) -> None:
    """Named in settings, in millimetres, with deep supervision, it trains a small U-Net."""
    module, nd, size = subject.module, subject.ndim, 16
    chosen: dict[str, Any] = {subject.name: {"weight": 1.0, "warm_up": 0.0, "ramp": 0.0}}
    if module.KIND == "head":
        chosen["dice"] = 1.0
    torch.manual_seed(0)
    net = unet.build(unet.Config(ndim=nd, width=4, levels=3, deep_supervision=1), 1, OUTPUTS)
    context = Context(nd, 1, OUTPUTS, Schema((Label("a", 1), Label("b", 2))))
    plan = supervised.build(supervised.Config(losses=chosen, learning_rate=5e-3), net, context)
    label = torch.zeros((2, *(size,) * nd), dtype=torch.uint8)
    label[:, 3:12, 4:13] = 1
    label[:, 6:9, 7:10] = 2
    image = label.float()[:, None] - 1 + 0.2 * torch.randn((2, 1, *(size,) * nd))
    batch = Batch(image, label, (1.5,) * nd)
    key = f"loss_{catalog.title(subject.name)}"
    engine = _Descent(net)
    losses = [plan.stages[0].step(batch, engine)[key].item() for _ in range(STEPS)]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    expect(last < FALL * first, f"from {first:.4g} to {last:.4g} in {STEPS} steps")


class _Descent:
    """Takes the engine's place."""

    progress, last = 1.0, True

    def __init__(self, network: nn.Module) -> None:
        self.averaged = network

    def __call__(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()


#: Of the file, and of every form in which it is tried.
FILE_CHECKS: tuple[Check, ...] = (keeps_the_contract, has_settings, touches_nothing)
CHECKS: tuple[Check, ...] = (
    truth_costs_least, gradient_is_finite, descends, half_precision, ignored_has_no_say,
    ignored_half_is_cut_off, nothing_annotated, repeats, trains,
)  # fmt: skip
