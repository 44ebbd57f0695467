"""What a run says of every step: ``log.jsonl``, and for TensorBoard where that is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from delineate.engine.budget import Pace
from delineate.methods._plan import Stage

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Log:
    """Open while training runs.

    Args:
        folder: Of the run.
        pace: Where the run is; lines beyond, which will be written again, are dropped.
    """

    def __init__(self, folder: Path, pace: Pace) -> None:
        self.folder, self.pace = folder, pace
        self.file: TextIO | None = None
        self.board: SummaryWriter | None = None
        self.open = ExitStack()

    def __enter__(self) -> Self:
        step = self.pace.step
        trim(self.folder, step)
        path = self.folder / "log.jsonl"
        self.file = self.open.enter_context(path.open("a", buffering=1))
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            purge = step + 1 if step else None
            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)
            self.open.callback(self.board.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open.close()

    def write(self, stage: Stage, numbers: Mapping[str, float]) -> None:
        """One line a step: the rate, the losses, what validation said."""
        if self.file is None:
            return
        rates = (group["lr"] for o in stage.optimisers.values() for group in o.param_groups)
        rate = next(rates, 0.0)
        line = {
            "step": self.pace.step,
            "steps": self.pace.steps,
            "seconds": round(self.pace.spent, 3),
            "stage": stage.name,
            "lr": rate,
            **{k: (v if math.isfinite(v) else None) for k, v in numbers.items()},
        }
        self.file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in {"lr": rate, **numbers}.items():
                self.board.add_scalar(name, value, self.pace.step)


def trim(folder: Path, step: int) -> None:
    """Drop the lines of steps that will be done again."""
    path = folder / "log.jsonl"
    lines = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line)
            except (ValueError, KeyError):
                continue  # the last line of a killed run may be half written
    path.write_text("".join(line + "\n" for line in lines))
