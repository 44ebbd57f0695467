"""Where the time of a training step goes: feed, forward, backward, optimiser, average, the rest.

    python benchmarks/training_step.py [--src OTHER/src ...] [--steps 20] [--rounds 5] [--ahead 1]

On synthetic cases of the size of cropped hippocampi, with the loop and the feed that train models.
Several trees are measured in turn, each time in a new process, so that a busy machine is busy for
all of them. Parts are timed where they begin and end: on a GPU, which is not waited for, that is
what issuing them takes, and the whole says how long a step is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PARTS = ("feed", "forward", "backward", "clip", "optimiser", "average", "rest")


def measure(given: argparse.Namespace) -> dict[str, float]:
    """Milliseconds a step by part, and ``whole``, in this process."""
    import inspect

    import torch
    from lightning_fabric import Fabric

    from delineate.core.config import from_dict
    from delineate.core.context import Context
    from delineate.core.schema import Label, Schema
    from delineate.engine.budget import Pace
    from delineate.engine.loop import Loop, Settings
    from delineate.methods import supervised
    from delineate.networks import unet
    from delineate.preprocess.presets import Channel, Preparation
    from delineate.settings import RunConfig
    from delineate.targets._outline_feed import Feed

    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    patch = tuple(given.patch)
    schema = Schema((Label("anterior", 1), Label("posterior", 2)))
    feed = Feed(
        [hippocampus(seed) for seed in range(20)], RunConfig(augment=True),  # type: ignore[arg-type]
        Preparation((Channel("mr", "MR", "zscore"),), 3), patch, given.batch, (0, 1, 2), 0,
    )  # fmt: skip
    net = unet.build(from_dict({"ndim": 3, "width": given.width}, unet.Config), 1, 3)
    plan = supervised.build(supervised.Config(), net, Context(3, 1, 3, schema))
    seconds = Counter[str]()

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                seconds[part] += time.perf_counter() - start

        return run

    cuda = given.device == "cuda"
    fabric = Fabric(accelerator=given.device, devices=1, precision="bf16-mixed" if cuda else None)
    warm = 3
    options: dict[str, Any] = {}
    if given.ahead is not None and "ahead" in inspect.signature(Loop.__init__).parameters:
        options["ahead"] = given.ahead
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(
            plan, feed, Settings(checkpoint_seconds=1e9), Path(folder), fabric=fabric, seed=0,
            pace=Pace(warm + given.steps, None), **options,
        )  # fmt: skip
        stage = plan.stages[0]
        step = timed("step", stage.step)
        object.__setattr__(stage, "step", step)
        fabric.backward = timed("backward", fabric.backward)  # type: ignore[method-assign]
        for optimiser in stage.optimisers.values():
            optimiser.step = timed("optimiser", optimiser.step)  # type: ignore[method-assign]
        torch.nn.utils.clip_grad_norm_ = timed("clip", torch.nn.utils.clip_grad_norm_)
        loop_any: Any = loop
        if hasattr(loop, "average"):
            loop_any.average.update = timed("average", loop_any.average.update)
        else:
            loop_any._average = timed("average", loop_any._average)
        marks: list[float] = []

        def stop() -> bool:
            if loop.pace.step == warm:
                if cuda:
                    torch.cuda.synchronize()
                # what the loop waits for; made ahead, that is what is left of making a batch
                loop.batches = timed("feed", loop.batches)
                seconds.clear()
                marks.append(time.perf_counter())
            return False

        save, ended = loop_any._save, list[float]()

        def last(*arguments: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            ended.append(time.perf_counter())
            save(*arguments)

        loop_any._save, loop.stop = last, stop
        loop.run()
        whole = ended[-1] - marks[0]
    parts = {name: seconds[name] for name in PARTS}
    parts["forward"] = seconds["step"] - sum(
        seconds[name] for name in ("backward", "clip", "optimiser")
    )
    parts["rest"] = whole - sum(value for name, value in parts.items() if name != "rest")
    return {name: 1000 * value / given.steps for name, value in {**parts, "whole": whole}.items()}


def hippocampus(seed: int) -> SimpleNamespace:
    """A prepared case of 36 x 50 x 36 voxels of 1 mm with two structures, without files."""
    import numpy as np

    from delineate.core.image import Grid

    rng = np.random.default_rng(seed)
    size = (36, 50, 36)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    inside = (axes[0] / 0.5) ** 2 + (axes[1] / 0.7) ** 2 + (axes[2] / 0.4) ** 2 < 1
    label = np.where(inside, np.where(axes[1] > 0, 1, 2), 0).astype(np.uint8)
    image = (label > 0) + 0.3 * rng.standard_normal(size)
    return SimpleNamespace(
        image=image[None].astype(np.float32), label=label, shape=(1, *size),
        samples={k: np.argwhere(label == k) for k in (1, 2)}, grid=Grid(size, np.eye(4)),
        target=None, meta={},
    )  # fmt: skip


def main() -> None:
    """Print a table, one row a tree: medians over rounds, and the share outside of the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parents[1] / "src"
    parser.add_argument("--src", type=Path, nargs="+", default=[here])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, nargs=3, default=[32, 48, 32])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ahead", type=int, help="batches made ahead; else as the device suggests")
    parser.add_argument("--once", action="store_true", help="print the parts as JSON and end")
    given = parser.parse_args()
    if given.once:
        print(json.dumps(measure(given)))
        return
    found: dict[Path, list[dict[str, float]]] = {tree: [] for tree in given.src}
    options = [arg for arg in sys.argv[1:] if arg != "--src" and Path(arg) not in given.src]
    for _ in range(given.rounds):
        for tree, rounds in found.items():
            command = [sys.executable, __file__, "--once", *options]
            environment = {**os.environ, "PYTHONPATH": str(tree)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    print("ms a step, median of rounds |", " | ".join([*PARTS, "whole", "outside the network"]))
    for tree, rounds in found.items():
        outside = [1 - (r["forward"] + r["backward"]) / r["whole"] for r in rounds]
        cells = [f"{statistics.median(r[p] for r in rounds):.2f}" for p in (*PARTS, "whole")]
        spread = f"{100 * min(outside):.1f} to {100 * max(outside):.1f} %"
        print(
            f"{tree} |",
            " | ".join([*cells, f"{100 * statistics.median(outside):.1f} % ({spread})"]),
        )


if __name__ == "__main__":
    main()
