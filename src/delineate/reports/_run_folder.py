"""Reading a run folder for its report: what is absent or damaged is noted, never fatal."""

from __future__ import annotations

import base64
import csv
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image as Raster

from delineate.core.errors import DelineateError
from delineate.core.schema import Schema
from delineate.reports.figures import Picture
from delineate.reports.overlays import overlay
from delineate.reports.page import Section

#: Sections, sentences and tiles of what was scored.
Results = tuple[list[Section], list[str], Markup]
#: A picture of a case is small; anything larger is not one.
_LARGEST = 64 * 1024**2
#: What a damaged file may raise while it is read.
UNREADABLE = (
    EOFError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    DelineateError,
)


@dataclass
class RunFolder:
    """What a run left behind. Absent pieces are empty; ``problems`` says what was damaged.

    ``scores`` is an evaluation's folder: within the run, of the held-out cases, or another.
    """

    path: Path
    scores: Path = Path("validation")
    run: dict[str, Any] = field(default_factory=dict)
    cohort: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    cases: list[dict[str, str]] = field(default_factory=list)
    config: str = ""
    pictures: list[Picture] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def read(path: Path, scores: Path = Path("validation")) -> RunFolder:
        """Read what there is of a run folder, and of an evaluation."""
        folder = RunFolder(path, scores)
        folder.config = folder._text("config.yaml") or folder._text("asked.yaml")
        for name in ("run", "cohort", "split", "audit"):
            setattr(folder, name, folder._mapping(f"{name}.json"))
        folder.summary = folder._mapping(folder.scores / "summary.json")
        folder.log = folder._lines("log.jsonl")
        table = folder._text(folder.scores / "cases.csv")
        try:
            reader = csv.DictReader(table.splitlines())
            folder.cases = [{k: v for k, v in row.items() if k and v is not None} for row in reader]
        except csv.Error as error:
            folder._damaged(folder.scores / "cases.csv", f"cannot be read: {error}")
        folder._overlays()
        return folder

    def _damaged(self, name: str | Path, words: str) -> None:
        """Remember what is wrong with a file, by its name within the run where it has one."""
        path = self.path / name
        inside = path.relative_to(self.path) if path.is_relative_to(self.path) else path
        self.problems.append(f"{inside.as_posix()} {words}")

    def _text(self, name: str | Path) -> str:
        try:
            return (self.path / name).read_text("utf-8", "backslashreplace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            self._damaged(name, f"cannot be read: {error.strerror or error}")
            return ""

    def _json(self, name: str | Path) -> Any:
        text = self._text(name)
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            self._damaged(name, f"is damaged: {error}")
            return None

    def _mapping(self, name: str | Path) -> dict[str, Any]:
        data = self._json(name)
        if data is not None and not isinstance(data, dict):
            self._damaged(name, "is not what a run writes: expected an object")
        return data if isinstance(data, dict) else {}

    def _lines(self, name: str) -> list[dict[str, Any]]:
        lines, damaged = [], 0
        for text in self._text(name).splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                lines.append(line)
            else:
                damaged += bool(text.strip())
        if damaged:
            self.problems.append(f"{name}: {damaged} unreadable lines were left out")
        return lines

    def _overlays(self) -> None:
        folder = self.scores / "overlays"
        listed = self._json(folder / "overlays.json") or []
        for entry in listed if isinstance(listed, list) else []:
            name = Path(str(entry.get("file") if isinstance(entry, Mapping) else entry)).name
            try:
                self.pictures.append(self._overlay(name, entry))
            except UNREADABLE as error:
                self._damaged(folder / name, f"cannot be shown: {error}")

    def _overlay(self, name: str, entry: Mapping[str, Any]) -> Picture:
        path = self.path / self.scores / "overlays" / name
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST} bytes")
        if path.suffix == ".png":
            return _png(path, entry)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            image, truth, prediction = (arrays[k] for k in ("image", "truth", "prediction"))
        schema = self._schema()
        if schema and max(truth.max(), prediction.max()) < schema.num_outputs:
            truth, prediction = schema.to_values(truth), schema.to_values(prediction)
        aspect = float(entry.get("aspect") or 1.0)
        return overlay(
            image,
            truth,
            prediction,
            title=str(entry.get("title", name)),
            spacing_mm=(aspect, 1.0),
            letters=str(entry.get("letters") or ""),
            schema=schema,
        )

    def _schema(self) -> Schema | None:
        try:
            return Schema.from_dict(self.cohort["schema"])
        except UNREADABLE:
            return None


def _png(path: Path, entry: Mapping[str, Any]) -> Picture:
    """A picture that an evaluation kept, with its words."""
    with Raster.open(path, formats=["PNG"]) as raster:
        raster.verify()
        width, height = raster.size
    return Picture(
        title=str(entry.get("title", path.name)),
        alt=str(entry.get("alt", "")),
        src="data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii"),
        width=width,
        height=height,
        legend=tuple(
            (str(n), _colour(c), "line" if k == "line" else "fill")
            for n, c, k in entry.get("legend") or ()
        ),
        caption=str(entry.get("caption", "")),
    )


def _colour(value: Any) -> str:
    """A colour that is nothing but a colour, for it is written into a style."""
    return str(value) if re.fullmatch("#[0-9a-fA-F]{6}", str(value)) else "transparent"
