"""The tree of errors.

    DelineateError            anything the user can act on        exit 1
    ├── ConfigError           a setting is unknown or wrong
    ├── InputError            something about the user's files
    │   ├── LayoutError       a folder is not what it should be
    │   ├── ReadError         a file is damaged, foreign or unsafe
    │   ├── GeometryError     shapes, spacings or affines disagree
    │   └── LabelError        label values are not what was declared
    ├── AuditError            blocking findings in a cohort       exit 2
    ├── ConformanceError      a part of the user's own breaks a rule    exit 2
    ├── PartialError          some cases of a batch failed        exit 3
    ├── ModelFileError        a model file is foreign or damaged
    ├── CheckpointError       no checkpoint can be used
    ├── OutputError           the output cannot be written
    │   └── LockedError       another run is using the folder     exit 4
    ├── ResourceError         memory, disk or a device ran out
    ├── TrainingError         training cannot go on (NaN, divergence)
    └── MissingExtraError     an optional package is needed

Every error carries a stable code, what was expected and came, where, and the next move.
"""

from __future__ import annotations

import os


class DelineateError(Exception):
    """Base of all errors a user can act on.

    Args:
        message: What was expected and what came.
        where: File, folder or setting concerned.
        fix: The next move.
        code: Stable code such as ``"nifti-truncated"``; defaults to the class's own.
    """

    code = "error"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | os.PathLike[str] | None = None,
        fix: str | None = None,
        code: str | None = None,
    ) -> None:
        self.message = message
        self.where = None if where is None else os.fspath(where)
        self.fix = fix
        self.code = code or type(self).code
        super().__init__(message)

    def __str__(self) -> str:
        parts = [f"[{self.code}] "]
        if self.where:
            parts.append(f"{self.where}: ")
        parts.append(self.message)
        if self.fix:
            parts.append(f"\n  -> {self.fix}")
        return "".join(parts)


class ConfigError(DelineateError):
    """A setting is unknown, missing or out of range."""

    code = "config"


class InputError(DelineateError):
    """Something about the user's files."""

    code = "input"


class LayoutError(InputError):
    """A folder does not have a layout that is recognised, or is incomplete."""

    code = "layout"


class ReadError(InputError):
    """A file is unreadable, truncated, foreign or unsafe to read."""

    code = "read"


class GeometryError(InputError):
    """Shapes, spacings or affines disagree."""

    code = "geometry"


class LabelError(InputError):
    """Label values are not those that the schema declares."""

    code = "label"


class AuditError(DelineateError):
    """A cohort has blocking findings."""

    code = "audit"
    exit_code = 2


class ConformanceError(DelineateError):
    """A network, loss or method breaks a rule of its room."""

    code = "conformance"
    exit_code = 2


class PartialError(DelineateError):
    """Some cases of a batch failed; the others were finished."""

    code = "partial"
    exit_code = 3


class ModelFileError(DelineateError):
    """A model file is foreign, truncated, tampered with or of a newer format."""

    code = "model-file"


class CheckpointError(DelineateError):
    """No checkpoint of a run can be used."""

    code = "checkpoint"


class OutputError(DelineateError):
    """The output cannot be written."""

    code = "output"


class LockedError(OutputError):
    """Another run is using the folder."""

    code = "locked"
    exit_code = 4


class ResourceError(DelineateError):
    """Memory, disk space or a device ran out."""

    code = "resource"


class TrainingError(DelineateError):
    """Training cannot go on, for instance because the loss is not finite."""

    code = "training"


class MissingExtraError(DelineateError):
    """An optional package is needed."""

    code = "missing-extra"
