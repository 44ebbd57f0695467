"""Every setting of a training run, in one place for YAML, command line and record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from delineate.core.config import parse_duration
from delineate.core.errors import ConfigError
from delineate.engine.settings import Settings

#: Classes of a slice, by whether anything is outlined in it.
PRESENCE = ("absent", "present")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. What is null is derived from the data and the budget."""

    budget: str | None = field(default="40m", metadata={"help": "wall-clock time, all included"})
    steps: int | None = field(default=None, metadata={"help": "fixed number of steps instead"})
    seed: int = field(default=0, metadata={"help": "of the split, the weights and the sampling"})
    target: Literal["auto", "outline", "class", "presence"] = field(
        default="auto",
        metadata={
            "help": "outline: a label for every voxel; class: the class of a case; presence: "
            "whether a slice shows any structure; auto: outline where there are label maps"
        },
    )
    method: str = field(
        default="auto", metadata={"help": "a file of methods/; auto: supervised, or classify"}
    )
    method_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that method"}
    )
    network: str = field(
        default="auto",
        metadata={"help": "a file of networks/; auto: that of weights, or unet, or cnn"},
    )
    network_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that network"}
    )
    weights: Path | None = field(default=None, metadata={"help": "file of weights to start from"})
    freeze: tuple[str, ...] = field(
        default=(), metadata={"help": "parts of the network that keep those weights, by name"}
    )
    layer_rate: float = field(
        default=1.0, metadata={"help": "learning rate of a layer, in shares of the next one's"}
    )
    holdout: float = field(default=0.2, metadata={"help": "subjects never trained on, for figures"})
    folds: int | None = field(
        default=None, metadata={"help": "cross-validation: hold out one of so many parts instead"}
    )
    fold: int = field(default=0, metadata={"help": "which of the parts, counted from 0"})
    leaky: bool = field(
        default=False, metadata={"help": "let declared parts share subjects; figures mean nothing"}
    )
    validation: float = field(default=0.1, metadata={"help": "subjects that choose the clean-up"})
    width: int | None = field(default=None, metadata={"help": "channels at full resolution"})
    patch: tuple[int, ...] | None = field(default=None, metadata={"help": "size of a patch"})
    batch: int | None = field(default=None, metadata={"help": "patches a step"})
    neighbours: int | None = field(
        default=None, metadata={"help": "2D on volumes: slices to each side joined as channels"}
    )
    bias_correction: bool = field(
        default=False, metadata={"help": "MR: take the shading of the coils off (N4), first of all"}
    )
    denoise: Literal["none", "auto", "gaussian", "median", "nlm", "wavelet", "autoencoder"] = field(
        default="none",
        metadata={
            "help": "take noise off, before intensities are scaled; auto: the usual rule for the "
            "modality; autoencoder: learned from the training cases"
        },
    )
    derived: tuple[Literal["equalised", "clahe", "clusters"], ...] = field(
        default=(), metadata={"help": "channels computed from the others, for the network to see"}
    )
    clusters: int | Literal["auto"] = field(
        default=3,
        metadata={"help": "of K-means, where they are derived; auto: 2 to 8, by the elbow"},
    )
    balance: Literal["sampling", "weights", "none"] = field(
        default="sampling", metadata={"help": "how classes of unlike size are made to count alike"}
    )
    crf: bool = field(
        default=False, metadata={"help": "refine outlines with a fully connected CRF"}
    )
    foreground: float = field(default=1 / 3, metadata={"help": "patches centred on a structure"})
    augment: bool = field(default=True, metadata={"help": "rotate, scale, mirror, noise, gamma …"})
    rotation_degrees: float | None = field(
        default=None, metadata={"help": "largest rotation; null: 15 in 3D, 30 in 2D"}
    )
    scale: tuple[float, float] = field(default=(0.7, 1.4), metadata={"help": "range of the zoom"})
    drop_sequence: float = field(
        default=0.1, metadata={"help": "chance that one of several sequences is blanked out"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:1, mps"})
    threads: int | None = field(default=None, metadata={"help": "processor cores; null: all"})
    precision: Literal["auto", "32-true", "bf16-mixed"] = field(
        default="auto", metadata={"help": "auto: bf16 on GPUs that gain by it, else 32 bit"}
    )
    compile: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "torch.compile; auto: on GPUs, if measured to gain"}
    )
    loop: Settings = field(default_factory=Settings, metadata={"help": "the loop"})

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 0.9 or not 0 <= self.validation < 0.9:
            raise ConfigError(
                "expected holdout and validation from 0 to 0.9, "
                f"got {self.holdout} and {self.validation}"
            )
        if self.folds is not None and not (self.folds >= 2 and 0 <= self.fold < self.folds):
            raise ConfigError(
                f"expected at least 2 folds and a fold from 0 on, got {self.folds} and {self.fold}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"expected at least one thread, got {self.threads}")
        if not 0 < self.layer_rate <= 1:
            raise ConfigError(f"expected a layer_rate above 0, at most 1, got {self.layer_rate}")
        if self.budget is None and self.steps is None:
            raise ConfigError("expected a budget or a number of steps, got neither")
        if self.seed < 0:
            raise ConfigError(f"expected a seed of 0 or more, got {self.seed}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"expected at least one step, got {self.steps}")

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None where steps are fixed."""
        return None if self.steps or self.budget is None else parse_duration(self.budget)
