"""The verb ``model``: look into a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from delineate.core import model_file


def model(action: Literal["show"], file: Path) -> dict[str, Any]:
    """Show what a model file says of itself.

    Args:
        action: ``show`` is the only one.
        file: The ``.safetensors`` file.

    Returns:
        The model's document, with its hash and the number and size of its weights first; ``parts``
        lists the predictor and each part that was kept beside it, with what it takes.

    Raises:
        ModelFileError: The file is foreign, damaged or was changed.
    """
    loaded = model_file.load(file)
    document = {name: value for name, value in loaded.document.items() if name != "sha256"}
    provenance = document.get("provenance", {})
    # Marks by the hundred tell a person nothing.
    counts = {
        name: {part: len(each) for part, each in provenance[name].items()}
        for name in ("subjects", "subjects_elsewhere") if provenance.get(name)
    }  # fmt: skip
    document["provenance"] = {**provenance, **counts}
    if counts and "subject_key" not in provenance:
        document["provenance"]["warning"] = (
            "subjects are marked without a key, as earlier versions did: who has this file can try "
            "names on it; train it anew before you pass it on"
        )
    described = {"predictor": {"network": document["network"]}, **document.get("parts", {})}
    parts = [
        {
            "part": name,
            "network": described[name]["network"]["name"],
            "parameters": sum(tensor.size for tensor in tensors.values()),
            "bytes": sum(tensor.nbytes for tensor in tensors.values()),
            "sees": described[name].get("sees"),
            "config": described[name]["network"]["config"],
        }
        for name, tensors in {"predictor": loaded.tensors, **loaded.parts}.items()
    ]
    return {
        "file": str(file),
        "hash": loaded.hash,
        "parameters": sum(part["parameters"] for part in parts),
        "megabytes": sum(part["bytes"] for part in parts) / 1e6,
        **document,
        "parts": parts,
    }
