"""What is known of how a cohort is prepared: plain data, kept in the model file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from delineate.core.errors import ConfigError
from delineate.preprocess import derive, normalise, restore


@dataclass(frozen=True)
class Channel:
    """How one channel is brought to a common scale.

    Args:
        name: Name in the cohort, see ``Case.channel_names``.
        modality: MR, CT, PET, XR, US, OCT, RGB or unknown.
        rule: Member of ``normalise``.
        parameters: Of the rule.
    """

    name: str
    modality: str
    rule: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normalise.rule(self.rule)


@dataclass(frozen=True)
class Preparation:
    """Everything that is done to an image before a network sees it.

    Args:
        channels: One rule a channel, in order.
        ndim: 2 where a network sees slices or flat images, 3 where it sees volumes.
        spacing_mm: Target voxel size by axis after orientation; None for an axis keeps that axis,
            None keeps all. Axes within 1 % of it are left alone.
        crop: Cut off constant margins.
        slice_axis: Axis (after orientation) along which a stack is cut into slices; None for 3D
            and for flat images.
        orient: Bring the axes to RAS+; False where the files do not say how they lie.
        reasons: Why the plan is as it is, one sentence each.
        derived: Channels computed from these and appended to them, see ``derive``.
        clusters: How many, where they are derived.
        bias_correction: Take the shading of MR off (N4), before anything else is done to the
            intensities.
        denoise: Member of ``restore.NAMES``: what takes noise off, before they are scaled.
        denoiser: The autoencoder, where that does it.
        elbow: Mean inertia of the training cases by number of clusters, where it chose them.
        single_slices: The cases are stacks of one slice, which has no neighbours to be shown with.
        target: The channel that a model is to give, which is then none of those that it sees. Only
            its geometry is prepared, see ``rescale``.
    """

    channels: tuple[Channel, ...]
    ndim: int
    spacing_mm: tuple[float | None, ...] | None = None
    crop: bool = True
    slice_axis: int | None = None
    orient: bool = True
    reasons: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    clusters: int = 3
    bias_correction: bool = False
    denoise: str = "none"
    denoiser: Mapping[str, Any] | None = None
    elbow: Mapping[str, float] = field(default_factory=dict)
    single_slices: bool = False
    target: Channel | None = None

    def __post_init__(self) -> None:
        restore.check(
            self.bias_correction, self.denoise, self.denoiser,
            [(channel.name, channel.modality) for channel in self.channels],
        )  # fmt: skip
        if self.ndim not in (2, 3) or (self.ndim == 3 and self.slice_axis is not None):
            raise ConfigError(
                f"expected ndim 2, or 3 without slice_axis, got {self.ndim} and {self.slice_axis}"
            )
        if self.spacing_mm and any(mm is not None and not mm > 0 for mm in self.spacing_mm):
            raise ConfigError(f"expected positive spacings in mm, got {self.spacing_mm}")
        unknown = sorted(set(self.derived) - set(derive.KINDS))
        if unknown or len(set(self.derived)) != len(self.derived):
            raise ConfigError(
                f"expected each at most once of {', '.join(derive.KINDS)}, "
                f"got {', '.join(self.derived)}",
                where="derived",
                code="unknown-name",
            )
        ordered = tuple(kind for kind in derive.KINDS if kind in self.derived)
        object.__setattr__(self, "derived", ordered)  # those that show intensities come first
        if not 2 <= self.clusters <= 16:
            raise ConfigError(f"expected 2 to 16 clusters, got {self.clusters}", where="clusters")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the channels that a network sees: those of the files, then the derived ones."""
        measured = tuple(channel.name for channel in self.channels)
        return measured + derive.names(measured, self.derived, self.clusters)

    @property
    def sources(self) -> tuple[int | None, ...]:
        """Of every output the channel that it shows, None for those that show no intensities."""
        measured = tuple(range(len(self.channels)))
        sources_of_kind: dict[str, tuple[int | None, ...]] = {
            "equalised": measured, "clahe": measured, "clusters": (None,) * self.clusters,
        }  # fmt: skip
        return sum((sources_of_kind[kind] for kind in self.derived), start=measured)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data = dataclasses.asdict(self)
        lists = {k: list(v) for k, v in data.items() if isinstance(v, tuple)}
        if self.target is None:  # so that what was prepared without one is found again
            del data["target"]
        return {**data, **lists, "channels": [dataclasses.asdict(c) for c in self.channels]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Preparation:
        """The inverse of ``to_dict``.

        What older versions did not write has its default.

        Raises:
            ConfigError: A key is missing or unknown.
        """
        data = {**_ADDED, **data}
        _same_keys(data, Preparation)
        target = data["target"]
        for channel in [*data["channels"], *([target] if target else [])]:
            _same_keys(channel, Channel)
        spacing = data["spacing_mm"]
        return Preparation(
            **{
                **data,
                "channels": tuple(Channel(**c) for c in data["channels"]),
                "spacing_mm": None if spacing is None else tuple(spacing),
                "reasons": tuple(data["reasons"]),
                "derived": tuple(data["derived"]),
                "target": Channel(**target) if target else None,
            }
        )


#: What older versions did not write, or is left out.
_ADDED: dict[str, Any] = {
    "derived": (), "clusters": 3, "bias_correction": False, "denoise": "none", "denoiser": None,
    "elbow": {}, "single_slices": False, "target": None,
}  # fmt: skip


def _same_keys(data: Mapping[str, Any], kind: type) -> None:
    expected = {f.name for f in dataclasses.fields(kind)}
    if set(data) != expected:
        raise ConfigError(
            f"expected the keys {sorted(expected)}, got unknown {sorted(set(data) - expected)} and "
            f"missing {sorted(expected - set(data))}",
            where=kind.__name__,
            code="unknown-key",
        )
