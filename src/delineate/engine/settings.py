"""Settings of the training loop; apart from the loop, so that reading them needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from delineate.core.errors import ConfigError


@dataclass(frozen=True)
class Settings:
    """What the loop needs to know; defaults suit most data."""

    accumulate: int = field(default=1, metadata={"help": "micro-batches a step"})
    ema: float = field(default=0.99, metadata={"help": "averaging of weights, 0: none"})
    clip: float = field(default=12.0, metadata={"help": "largest gradient norm"})
    warm_up: float = field(default=0.03, metadata={"help": "share with a rising learning rate"})
    power: float = field(default=0.9, metadata={"help": "of the polynomial decay to zero"})
    checkpoint_seconds: float = field(default=60.0, metadata={"help": "between checkpoints"})
    validations: int = field(default=10, metadata={"help": "looks at the validation cases"})
    skip_limit: int = field(
        default=5, metadata={"help": "non-finite steps in a row before a roll-back"}
    )
    roll_backs: int = field(default=3, metadata={"help": "roll-backs before giving up"})

    def __post_init__(self) -> None:
        if self.accumulate < 1 or not 0 <= self.ema < 1 or self.clip <= 0:
            raise ConfigError(
                "expected accumulate >= 1, 0 <= ema < 1 and clip > 0, "
                f"got {self.accumulate}, {self.ema}, {self.clip}"
            )
        if not 0 <= self.warm_up <= 1:
            raise ConfigError(f"expected a warm_up from 0 to 1, got {self.warm_up}")
        for name in ("power", "checkpoint_seconds", "validations", "skip_limit", "roll_backs"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of 0 or more, got {getattr(self, name)}")
