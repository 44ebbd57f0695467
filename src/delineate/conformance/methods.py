"""What every method owes the house."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from delineate import targets
from delineate.conformance._rules import (
    Check,
    Subject,
    expect,
    has_settings,
    settings_of,
    touches_nothing,
)
from delineate.core import catalog, config
from delineate.core.case import Batch
from delineate.core.context import Context
from delineate.core.schema import IGNORED, Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods._plan import Plan
from delineate.networks import resganet_classifier, unet

SCHEMA = Schema((Label("a", 1), Label("b", 2)), classes=("dark", "grey", "bright"))
#: What each kind of model is asked for, and how much it gives.
TARGETS = {"segmenter": "outline", "classifier": "class", "translator": "image"}
OUTPUTS = {"segmenter": SCHEMA.num_outputs, "classifier": len(SCHEMA.classes), "translator": 1}
STREAMS = (("labelled",), ("labelled", "unlabelled"))
SIZE = 32
#: Who of a batch is labelled, where some are not.
LABELLED = (True, False, True, False)
#: Fields that only decide how much there is to compute, made small.
_SMALL: dict[str, Any] = {"critic_width": 4, "critic_layers": 3}
#: Steps for "it learns", and how far the loss must fall from the first third to the last.
STEPS, FALL = 30, 0.95


def kinds() -> dict[str, str]:
    """What a method may train, for the targets that there are -> ``KIND`` of its network."""
    names = [*catalog.members("targets"), *catalog.own("targets")]
    return {target.trains: target.kind for target in map(targets.make, names)}


def subjects(module: ModuleType, name: str) -> list[Subject]:
    """A method is tried with every kind of model that it trains, and with every preset.

    What only a target of anybody's own asks for is tried with that target, see ``targets``.
    """
    presets = getattr(module.Config, "PRESETS", None)
    chosen = [(("preset", p),) for p in presets] if presets else [()]
    return [
        Subject(module, name, "-".join([kind, *(str(v) for _, v in c)]), 2, kind, tuple(c))
        for kind in module.TRAINS
        if kind in TARGETS
        for c in chosen
    ]


def batches(step: int, micro: int, split: int) -> Batch:
    """Three batches over and over: a square in a square, each of another brightness."""
    generator = torch.Generator().manual_seed(step % 3)
    label = torch.zeros((4, SIZE, SIZE), dtype=torch.uint8)
    for case, (i, j) in zip(label, torch.randint(2, 14, (4, 2), generator=generator), strict=True):
        case[i : i + 14, j : j + 14] = 1
        case[i + 4 : i + 10, j + 4 : j + 10] = 2
    noise = 0.2 * torch.randn(label.shape, generator=generator)
    return Batch((label.float() - 1 + noise)[:, None], label)


def pictures(step: int, micro: int, split: int) -> Batch:
    """The same with a class for each image, which its brightness tells."""
    batch = batches(step, micro, split)
    class_index = torch.tensor([0, 1, 2, step % 3])
    return dataclasses.replace(
        batch,
        image=batch.image + 2.0 * class_index[:, None, None, None],
        class_index=class_index,
        subject=4 * (step % 3) + torch.arange(4),
    )


def scans(step: int, micro: int, split: int) -> Batch:
    """The same with another image of each to be given, without the noise."""
    batch = batches(step, micro, split)
    return dataclasses.replace(batch, target=2.0 - batch.label[:, None].float())


def feed(subject: Subject) -> Callable[[int, int, int], Batch]:
    """Batches for the kind of network."""
    return {"classifier": pictures, "translator": scans}.get(subject.kind, batches)


def make(subject: Subject, **changes: Any) -> Plan:
    """The method's plan for a small network, its own one where it trains no other."""
    torch.manual_seed(0)
    module, classes = subject.module, subject.kind == "classifier"
    own: str | None = getattr(module, "NETWORKS", {}).get(subject.kind)
    network: Any = resganet_classifier if classes else unet
    if own is not None:
        network = catalog.load("networks", own)
    size = {"width": 4, "features": len(SCHEMA.labels)} | ({} if classes else {"levels": 3})
    size = {key: value for key, value in size.items() if key in settings_of(network.Config)}
    outputs = OUTPUTS[subject.kind]
    net: nn.Module = network.build(network.Config(ndim=2, **size), 1, outputs)
    small = {key: value for key, value in _SMALL.items() if key in settings_of(module.Config)}
    chosen = config.from_dict({**small, **dict(subject.settings), **changes}, module.Config)
    context = Context(2, 1, outputs, SCHEMA, target=TARGETS[subject.kind])
    plan: Plan = module.build(chosen, net, context)
    return plan


@contextmanager
def loop(subject: Subject, plan: Plan, steps: int, folder: Path | None = None) -> Iterator[Loop]:
    """The engine with a plan, in a folder of its own or a given one."""
    with tempfile.TemporaryDirectory() as own:
        yield Loop(
            plan, feed(subject), Settings(), folder or Path(own),
            fabric=Fabric(accelerator="cpu", devices=1), seed=1, pace=Pace(steps, None),
        )  # fmt: skip


def log(folder: Path) -> list[dict[str, Any]]:
    """What the engine wrote down, a line a step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@dataclasses.dataclass
class Spy:
    """Takes the engine's place and writes down what a step asks for."""

    averaged: nn.Module
    progress: float = 0.9
    last: bool = True
    asked: list[int] = dataclasses.field(default_factory=list)

    @staticmethod
    def of(plan: Plan) -> Spy:
        """With an averaged network that is a copy."""
        return Spy(copy.deepcopy(plan.predictor).eval().requires_grad_(False))

    def __call__(self, optimiser: Optimizer, loss: Tensor) -> None:
        """Do a step."""
        expect(loss.ndim == 0, f"a loss has the shape {tuple(loss.shape)}")
        expect(loss.requires_grad, "a loss depends on nothing that is trained")
        self.asked.append(id(optimiser))
        owned = [p for group in optimiser.param_groups for p in group["params"]]
        loss.backward(inputs=owned)  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()


# --- the checks -----------------------------------------------------------------------------------


def keeps_the_contract(subject: Subject) -> None:
    """Its file has a docstring, TRAINS, USES, Config and build(config, network, context)."""
    module = subject.module
    expect(module.__doc__, "no docstring")
    trains, known = module.TRAINS, kinds()
    right = isinstance(trains, tuple) and trains and set(trains) <= known.keys()
    others = "; name the file of a target that asks for another: --part FILE"
    expect(right, f"TRAINS is {trains!r}, not of {', '.join(known)}{others}")
    expect(module.USES in STREAMS, f"USES is {module.USES!r}, none of {STREAMS}")
    for kind, network in getattr(module, "NETWORKS", {}).items():
        network_kind = catalog.load("networks", network).KIND
        expect(
            known.get(kind) == network_kind,
            f"NETWORKS has {network} for a {kind}: it is a {network_kind}",
        )
    names = list(inspect.signature(module.build).parameters)
    expect(names == ["config", "network", "context"], f"build takes {', '.join(names)}")


def its_plan_is_whole(subject: Subject) -> None:
    """Shares of its stages add up to 1; all that is trained has one optimiser, and is saved."""
    plan = make(subject)
    total = sum(stage.share for stage in plan.stages)
    expect(math.isclose(total, 1), f"shares add up to {total:g}")
    expect(all(stage.share > 0 for stage in plan.stages), "a stage has no share")
    names = [stage.name for stage in plan.stages]
    expect(len(set(names)) == len(names), f"stages are called {names}")
    trained: set[int] = set()
    for stage in plan.stages:
        inside = {id(p) for module in stage.modules.values() for p in module.parameters()}
        owners = [
            {id(p) for group in o.param_groups for p in group["params"]}
            for o in stage.optimisers.values()
        ]
        owned = set[int]().union(*owners)
        expect(owned <= inside, f"{stage.name} trains what is not among its modules")
        once = sum(map(len, owners)) == len(owned)
        expect(once, f"in {stage.name}, a parameter has two optimisers")
        trained |= owned
    left = {id(p) for p in plan.predictor.parameters()} - trained
    expect(not left, f"{len(left)} parameters of the predictor have no optimiser")


def a_step_updates_and_reports(subject: Subject) -> None:
    """A step updates every optimiser once, and returns finite numbers, among them the loss."""
    plan = make(subject)
    for stage in plan.stages:
        for step in range(3):
            engine = Spy.of(plan)
            logged = stage.step(feed(subject)(step, 0, 1), engine)
            once = sorted(engine.asked) == sorted(map(id, stage.optimisers.values()))
            counts = f"{len(engine.asked)} updates of {len(stage.optimisers)} optimisers"
            expect(once, f"{counts} in {stage.name}")
            expect("loss" in logged, f"it returns {', '.join(logged) or 'nothing'}, and no loss")
            for key, value in logged.items():
                expect(isinstance(value, Tensor), f"{key} is a {type(value).__name__}, no tensor")
                expect(value.ndim == 0, f"{key} has the shape {tuple(value.shape)}")
                expect(not value.requires_grad, f"{key} holds on to its graph: detach it")
                expect(torch.isfinite(value), f"{key} is {value.item()}")


def ignored_teaches_nothing(subject: Subject) -> None:
    """No loss has a slope at what the network says where nobody has annotated (IGNORED).

    A setting called ``consistency`` is put to 0: what a guess owes another asks for no label.
    """
    if subject.kind != "segmenter":
        return
    quiet = {"consistency": 0.0} if "consistency" in settings_of(subject.module.Config) else {}
    plan = make(subject, **quiet)
    network: Any = plan.predictor
    slopes: list[Tensor] = []

    def listen(outputs: Any) -> Any:
        fine = outputs if isinstance(outputs, Tensor) else outputs[0]
        if fine.requires_grad:
            fine.register_hook(slopes.append)
        return outputs

    if hasattr(network, "segment"):
        whole = network.segment
        network.segment = lambda *arguments: listen(whole(*arguments))
    else:  # the maps, where a network draws some before its answer
        hooked = getattr(network, "generator", network)
        hooked.register_forward_hook(lambda _module, _inputs, outputs: listen(outputs))
    batch = feed(subject)(0, 0, 1)
    ignored = torch.zeros_like(batch.label, dtype=torch.bool)
    ignored[:, 8:24, 8:20] = True
    batch.label[ignored] = IGNORED
    for stage in plan.stages:
        logged = stage.step(batch, Spy.of(plan))
        expect(all(torch.isfinite(value) for value in logged.values()), "a number is not finite")
    expect(slopes, "no loss has a slope at what the network says")
    for slope in slopes:
        # a step may show the network the same images more than once, side by side
        parts = torch.split(slope.movedim(1, -1), len(ignored))
        free = not any(part[ignored].any() for part in parts)
        expect(free, "there is one (what asks for no label is weighed by a setting `consistency`)")
        annotated = any(part[~ignored].any() for part in parts)
        expect(annotated, "what is annotated teaches nothing either")


def _after_some_steps(subject: Subject, labelled: Tensor, otherwise: bool) -> dict[str, Tensor]:
    """All that a plan has learnt, where samples are not labelled, or labelled otherwise."""
    plan, known = make(subject), torch.tensor(LABELLED)
    torch.manual_seed(1)
    state = {}
    for stage in plan.stages:
        for step in range(2):
            batch = feed(subject)(step, 0, 1)
            label, class_index, target = batch.label.clone(), batch.class_index, batch.target
            if otherwise:
                label[~known] = 0
                class_index = None if class_index is None else class_index.where(known, 0)
                target = None if target is None else target.where(known[:, None, None, None], 0)
            altered = dataclasses.replace(
                batch, label=label, class_index=class_index, labelled=labelled, target=target
            )
            logged = stage.step(altered, Spy.of(plan))
            expect(
                all(torch.isfinite(value) for value in logged.values()), "a number is not finite"
            )
        for part, module in stage.modules.items():
            for key, tensor in module.state_dict().items():
                state[f"{stage.name}.{part}.{key}"] = tensor.clone()
    return state


def unlabelled_teach_no_label(subject: Subject) -> None:
    """Samples without labels (Batch.labelled) teach no label: 0 and class 0 are no answers."""
    labelled = torch.tensor(LABELLED)
    first, second = (_after_some_steps(subject, labelled, otherwise) for otherwise in (False, True))
    for key, tensor in first.items():
        expect(torch.equal(tensor, second[key]), f"{key} learns from what stands in their place")
    everyone = torch.ones_like(labelled)
    first, second = (_after_some_steps(subject, everyone, otherwise) for otherwise in (False, True))
    same = all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    expect(not same, "labels teach nothing at all")


def nobody_labelled_does_no_harm(subject: Subject) -> None:
    """A batch of which nobody is labelled leaves all numbers finite."""
    state = _after_some_steps(subject, torch.zeros(len(LABELLED), dtype=torch.bool), False)
    lost = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    expect(not lost, f"not finite: {', '.join(lost[:3])}")


def learns(subject: Subject) -> None:
    """In a few steps on pictures of squares, the loss of every stage falls."""
    if dict(subject.settings).get("preset") in getattr(subject.module, "UNSOUND", ()):
        return
    plan = make(subject)
    for stage in plan.stages:
        for optimiser in stage.optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = max(group["lr"], 2e-3)  # rates for days would take all day
    with loop(subject, plan, STEPS) as engine:
        outcome = engine.run()
        logged = log(engine.folder)
    expect(outcome.status == "finished", f"training is {outcome.status}")
    expect(not outcome.events, "; ".join(outcome.events))
    for stage in plan.stages:
        losses = [line["loss"] for line in logged if line["stage"] == stage.name]
        few = len(losses) // 3
        first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
        fell = not stage.optimisers or last < FALL * first
        expect(fell, f"from {first:.4g} to {last:.4g} in {len(losses)} steps of {stage.name}")


def goes_on_bit_exactly(subject: Subject) -> None:
    """Stopped and taken up again, it trains the same weights to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "whole", Path(folder) / "part"
        with loop(subject, make(subject), 6, whole) as engine:
            uninterrupted = engine.run()
        with loop(subject, make(subject), 6, part) as engine:
            pace = engine.pace
            engine.stop = lambda: pace.step >= 3
            engine.run()
        with loop(subject, make(subject), 6, part) as engine:
            resumed = engine.run()
        lines = [
            [{k: v for k, v in line.items() if k != "seconds"} for line in log(where)]
            for where in (whole, part)
        ]
    for key, tensor in uninterrupted.predictor.state_dict().items():
        same = torch.equal(tensor, resumed.predictor.state_dict()[key])
        expect(same, f"{key} differs: what must survive lives in a stage's modules and optimisers")
    for key, part_kept in uninterrupted.keeps.items():
        again = resumed.keeps[key].module.state_dict()
        same = all(torch.equal(again[k], v) for k, v in part_kept.module.state_dict().items())
        expect(same, f"{key}, which it keeps, differs")
    expect(lines[0] == lines[1], "the numbers that it logs differ")


def what_it_keeps_is_built_again(subject: Subject) -> None:
    """What it keeps beside the predictor is trained, and built again from what is written."""
    plan = make(subject)
    trained = [module for stage in plan.stages for module in stage.modules.values()]
    before = {key: copy.deepcopy(part.module.state_dict()) for key, part in plan.keeps.items()}
    if not before:
        return
    with loop(subject, plan, 6) as engine:
        keeps = engine.run().keeps
    expect(keeps.keys() == before.keys(), f"{', '.join(keeps)} come out of {', '.join(before)}")
    for key, part in keeps.items():
        expect(any(part.module is module for module in trained), f"no checkpoint holds {key}")
        expect(part.module is not plan.predictor, f"{key} is the predictor")
        expect(not part.module.training, f"{key} is left in training mode")
        network = catalog.load("networks", part.network)
        written = json.loads(json.dumps(config.to_dict(part.config)))
        fresh = network.build(
            config.from_dict(written, network.Config), part.channels, part.outputs
        )
        fresh.load_state_dict(part.module.state_dict())
        inputs = torch.randn(1, part.channels, SIZE, SIZE)
        with torch.no_grad():
            same = torch.equal(fresh.eval()(inputs), part.module(inputs))
        expect(same, f"{key} answers differently")
        sees = json.loads(json.dumps(config.to_dict(part.sees)))
        expect(config.from_dict(sees, type(part.sees)) == part.sees, f"what {key} sees differs")
        after = part.module.state_dict()
        changed = any(not torch.equal(after[k], tensor) for k, tensor in before[key].items())
        expect(changed, f"{key} has learnt nothing")


def predictor_gives_logits(subject: Subject) -> None:
    """Its predictor gives finite logits of the right shape, in evaluation mode."""
    with loop(subject, make(subject), 6) as engine:
        predictor = engine.run().predictor
    expect(not predictor.training, "it is left in training mode")
    with torch.no_grad():
        logits = predictor(torch.zeros(2, 1, SIZE, 2 * SIZE))
    place = () if subject.kind == "classifier" else (SIZE, 2 * SIZE)
    expected = (2, OUTPUTS[subject.kind], *place)
    expect(logits.shape == expected, f"{tuple(logits.shape)} instead of {expected}")
    expect(torch.isfinite(logits).all(), "NaN or infinity")


#: Of the file, and of every form in which it is tried.
FILE_CHECKS: tuple[Check, ...] = (keeps_the_contract, has_settings, touches_nothing)
CHECKS: tuple[Check, ...] = (
    its_plan_is_whole, a_step_updates_and_reports, ignored_teaches_nothing,
    unlabelled_teach_no_label, nobody_labelled_does_no_harm, learns, goes_on_bit_exactly,
    what_it_keeps_is_built_again, predictor_gives_logits,
)  # fmt: skip
