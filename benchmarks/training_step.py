"""Where the time of a training step goes: feed, forward, backward, optimiser, average, the rest.

    python benchmarks/training_step.py [--only 2d] [--steps 60] [--threads 2] [--device cuda]

On synthetic cases of the sizes of hearts (ACDC) and brains, with the loop and the feed that train
models. Parts are timed where they begin and end: on a GPU, which is not waited for, that is what
issuing them takes. ``feed`` is what the loop waits for: made ahead, that is what is left of making
a batch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from delineate.core.config import from_dict
from delineate.core.context import Context
from delineate.core.image import Grid
from delineate.core.schema import Label, Schema
from delineate.engine.budget import Pace
from delineate.engine.loop import Loop
from delineate.engine.settings import Settings
from delineate.methods import supervised
from delineate.networks import unet
from delineate.preprocess.presets import Channel, Preparation
from delineate.settings import RunConfig
from delineate.targets._outline_feed import Feed
from delineate.training import devices

PARTS = ("feed", "forward", "backward", "clip", "optimiser", "average", "rest")
SCHEMA = Schema((Label("cavity", 1), Label("muscle", 2), Label("other", 3)))
#: Steps that are not timed: the first fill caches.
WARM = 4


def case(seed: int, shape: tuple[int, int, int], channels: int) -> SimpleNamespace:
    """A prepared case with three structures, without files."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    inside = (axes[0] / 0.5) ** 2 + (axes[1] / 0.7) ** 2 + (axes[2] / 0.9) ** 2 < 1
    parts = np.where(axes[1] > 0.2, 1, np.where(axes[0] > 0, 2, 3))
    label = np.where(inside, parts, 0).astype(np.uint8)
    noise = 0.3 * rng.standard_normal((channels, *shape), np.float32)
    spacing = (1.5, 1.5, 8.0 if shape[2] < 16 else 1.5, 1.0)
    return SimpleNamespace(
        image=(label > 0) + noise, label=label, shape=(channels, *shape), target=None, meta={},
        samples={k: np.argwhere(label == k).astype(np.int32) for k in (1, 2, 3)},
        grid=Grid(shape, np.diag(spacing)),
    )  # fmt: skip


def feed(ndim: int) -> Feed:
    """Slices with their neighbours of thick stacks, or patches of volumes of four sequences."""
    cases: Any
    if ndim == 2:
        cases = [case(seed, (224, 256, 10), 1) for seed in range(16)]
        preparation = Preparation((Channel("mr", "MR", "zscore"),), 2, slice_axis=2)
        return Feed(cases, RunConfig(), preparation, (144, 112), 8, (0, 1), 1)
    cases = [case(seed, (70, 80, 60), 4) for seed in range(8)]
    preparation = Preparation(tuple(Channel(c, "MR", "zscore") for c in "abcd"), 3)
    return Feed(cases, RunConfig(), preparation, (32, 40, 32), 4, (0, 1, 2), 0)


def measure(ndim: int, steps: int, device: torch.device) -> tuple[dict[str, float], float]:
    """Milliseconds a step by part, mean over steps, and the median of whole steps."""
    torch.manual_seed(0)
    source, channels = feed(ndim), 3 if ndim == 2 else 4
    settings = {"ndim": ndim, "width": 16, "levels": 5 if ndim == 2 else 4}
    net = unet.build(from_dict(settings, unet.Config), channels, 4)
    plan = supervised.build(supervised.Config(), net, Context(ndim, channels, 4, SCHEMA))
    fabric = devices.fabric(device, devices.precision("auto", device))
    devices.place(plan, fabric)
    seconds, marks = defaultdict[str, float](float), list[float]()

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    with tempfile.TemporaryDirectory() as folder:
        loop: Any = Loop(
            plan, source, Settings(checkpoint_seconds=1e9), Path(folder), fabric=fabric, seed=0,
            pace=Pace(WARM + steps, None),
        )  # fmt: skip
        stage: Any = plan.stages[0]
        object.__setattr__(stage, "step", timed("step", stage.step))
        fabric.backward = timed("backward", fabric.backward)  # type: ignore[method-assign]
        for optimiser in stage.optimisers.values():
            optimiser.step = timed("optimiser", optimiser.step)
        clip = torch.nn.utils.clip_grad_norm_
        torch.nn.utils.clip_grad_norm_ = timed("clip", clip)
        loop._average = timed("average", loop._average)

        def stop() -> bool:
            if loop.pace.step == WARM:
                loop.next_batch = timed("feed", loop.next_batch)
                seconds.clear()
            marks.append(time.perf_counter())
            return False

        save = loop._save

        def last() -> None:
            marks.append(time.perf_counter())
            save()

        loop.stop, loop._save = stop, last
        loop.run()
        torch.nn.utils.clip_grad_norm_ = clip
    inside = sum(seconds[name] for name in ("backward", "clip", "optimiser"))
    parts = {name: seconds[name] for name in PARTS} | {"forward": seconds["step"] - inside}
    lengths = [after - before for before, after in itertools.pairwise(marks[-steps - 1 :])]
    parts["rest"] = sum(lengths) - sum(parts.values())
    milliseconds = {name: 1000 * value / steps for name, value in parts.items()}
    return milliseconds, 1000 * statistics.median(lengths)


def main() -> None:
    """Print a row for slices and one for volumes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("2d", "3d"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("ms a step |", " | ".join([*PARTS, "sum", "median", "outside the network"]))
    for ndim in (2, 3):
        if given.only in (None, f"{ndim}d"):
            parts, median = measure(ndim, given.steps, torch.device(given.device))
            whole = sum(parts.values())
            outside = 1 - (parts["forward"] + parts["backward"]) / whole
            cells = [f"{value:.1f}" for value in [*parts.values(), whole, median]]
            print(f"{ndim}D |", " | ".join(cells), f"| {100 * outside:.1f} %")


if __name__ == "__main__":
    main()
