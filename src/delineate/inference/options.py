"""How scans are predicted."""

from __future__ import annotations

from dataclasses import dataclass

from delineate.core.quantities import parse_bytes


@dataclass(frozen=True)
class Options:
    """What may be chosen for a batch; see ``delineate.predict``.

    Args:
        probabilities: Write them too.
        mirror: Average over mirrored passes.
        crf: Refine with a CRF; None: as the model says.
        memory: A scan that needs more is refused.
        device: To compute on.
        overwrite: Replace predictions that are there already.
        force: Predict scans of another kind than in training.
        maps: Names of maps of the model's parts to write too.
        runtime: What computes the network; None: as its file has it.
        changed: Sentences about parts whose code is not that of the training.
    """

    probabilities: bool = False
    mirror: bool = False
    crf: bool | None = None
    memory: str = "8G"
    device: str = "auto"
    overwrite: bool = False
    force: bool = False
    maps: tuple[str, ...] = ()
    runtime: str | None = None
    changed: tuple[str, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """The memory as a number of bytes."""
        return parse_bytes(self.memory)
