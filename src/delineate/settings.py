"""Every setting of a training run, in one place for YAML, command line and record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from delineate.core.errors import ConfigError
from delineate.core.quantities import parse_duration
from delineate.data.opening import Opening
from delineate.engine.settings import Settings

#: Weights that are left open.
WEIGHTS_AUTO = Path("auto")


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run. What is null is derived from the data and the budget."""

    TITLE: ClassVar = "a run"
    HINT: ClassVar = "those of a part go below target_settings, method_settings or network_settings"

    budget: str | None = field(default="40m", metadata={"help": "wall-clock time, all included"})
    steps: int | None = field(default=None, metadata={"help": "fixed number of steps instead"})
    seed: int = field(default=0, metadata={"help": "of the split, the weights and the sampling"})
    target: str = field(
        default="auto",
        metadata={
            "room": "targets",
            "help": "outline: a label for every voxel; class: the class of a case; presence: "
            "whether a slice shows any structure; image: one sequence from the others; or a file "
            "of your own; auto: outline where there are label maps",
        },
    )
    target_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that target"}
    )
    method: str = field(
        default="auto",
        metadata={
            "room": "methods",
            "help": "a file of methods/ or of your own; auto: supervised, or classify",
        },
    )
    method_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that method"}
    )
    network: str = field(
        default="auto",
        metadata={
            "room": "networks",
            "help": "a file of networks/ or of your own; auto: that of weights, or unet, or cnn",
        },
    )
    network_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of that network"}
    )
    weights: Path | None = field(
        default=WEIGHTS_AUTO,
        metadata={
            "help": "file of weights to start from; null: random ones; auto: those that come "
            "along, learnt on phantoms, where sequences and network are theirs"
        },
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata={"help": "parts of the network that keep those weights, by name"}
    )
    layer_rate: float = field(
        default=1.0, metadata={"help": "learning rate of a layer, in shares of the next one's"}
    )
    holdout: float | None = field(
        default=None,
        metadata={
            "help": "share of subjects never trained on, for figures; null: 0.2, and 0 where fewer "
            "than 8 are labelled"
        },
    )
    folds: int | None = field(
        default=None, metadata={"help": "cross-validation: hold out one of so many parts instead"}
    )
    fold: int = field(default=0, metadata={"help": "which of the parts, counted from 0"})
    leaky: bool = field(
        default=False, metadata={"help": "let declared parts share subjects; figures mean nothing"}
    )
    validation: float | None = field(
        default=None,
        metadata={
            "help": "share of subjects that choose the clean-up; null: 0.1, and 0 where fewer than "
            "8 are labelled"
        },
    )
    last_fit: float = field(
        default=0.15,
        metadata={"help": "share of training that ends it on all subjects, those of figures too"},
    )
    width: int | None = field(default=None, metadata={"help": "channels at full resolution"})
    patch: tuple[int, ...] | None = field(default=None, metadata={"help": "size of a patch"})
    batch: int | None = field(default=None, metadata={"help": "patches a step"})
    dimensions: Literal["auto", 2, 3] = field(
        default="auto",
        metadata={"help": "of what a network sees of volumes: 3, or 2, slices; auto: by the data"},
    )
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
        default=None, metadata={"help": "largest rotation; null: 15, of flat patches 30"}
    )
    scale: tuple[float, float] = field(default=(0.7, 1.4), metadata={"help": "range of the zoom"})
    drop_sequence: float = field(
        default=0.1, metadata={"help": "chance that one of several sequences is blanked out"}
    )
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:1, mps"})
    threads: int | None = field(default=None, metadata={"help": "processor cores; null: all"})
    precision: Literal["auto", "32-true", "bf16-mixed"] = field(
        default="auto", metadata={"help": "auto: bf16 where it is measured or known to be faster"}
    )
    compile: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "torch.compile; auto: on GPUs, if measured to gain"}
    )
    loop: Settings = field(default_factory=Settings, metadata={"help": "the loop"})
    drop_duplicates: bool = field(
        default=False, metadata={"help": "of images that are there twice or more, keep one"}
    )
    opening: Opening = field(
        default_factory=Opening, metadata={"help": "how the folder of scans is opened"}
    )

    def __post_init__(self) -> None:
        if self.budget is not None:
            parse_duration(self.budget)
        for name, least in (("width", 1), ("batch", 1), ("neighbours", 0), ("steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"expected {name} of {least} or more, got {value}")
        if self.dimensions == 3 and self.neighbours:
            raise ConfigError(
                f"expected neighbours of slices alone, got {self.neighbours} where dimensions is 3",
                fix="leave one of the two out",
            )
        if self.patch is not None and (len(self.patch) not in (2, 3) or min(self.patch) < 1):
            raise ConfigError(f"expected a patch of 2 or 3 sizes, got {list(self.patch)}")
        for name in ("foreground", "drop_sequence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name} from 0 to 1, got {getattr(self, name)}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"expected a scale from low to high, above 0, got {self.scale}")
        if self.rotation_degrees is not None and not 0 <= self.rotation_degrees <= 180:
            raise ConfigError(
                f"expected rotation_degrees from 0 to 180, got {self.rotation_degrees}"
            )
        if self.clusters != "auto" and not 2 <= self.clusters <= 16:
            raise ConfigError(f"expected 2 to 16 clusters, got {self.clusters}")
        for name in ("holdout", "validation"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 0.9:
                raise ConfigError(
                    f"expected a share of subjects from 0 to below 0.9 as {name}, got {share:g}",
                    fix="0.2 sets a fifth of them aside",
                )
        if not 0 <= self.last_fit <= 0.5:
            raise ConfigError(
                f"expected a share of training from 0 to 0.5 as last_fit, got {self.last_fit:g}",
                fix="0.15 is usual; 0 ends a run with the model that its figures are of",
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
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"expected a seed of 0 or more, below 2^32, got {self.seed}")

    def rotation(self, ndim: int, whole: bool) -> float:
        """Largest rotation in degrees: 30 for patches of flat images, else 15, if none is given."""
        if self.rotation_degrees is not None:
            return self.rotation_degrees
        return 30.0 if ndim == 2 and not whole else 15.0

    @property
    def named_weights(self) -> Path | None:
        """Weights to start from by somebody's choice, if any."""
        return None if self.weights == WEIGHTS_AUTO else self.weights

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None where steps are fixed."""
        return None if self.steps or self.budget is None else parse_duration(self.budget)
