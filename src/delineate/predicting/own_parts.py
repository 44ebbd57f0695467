"""Files of the user's own that models are built from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from delineate.core import catalog, model_file
from delineate.core.progress import Say, silent


def offer(
    files: Sequence[Path], models: Sequence[Path], force: bool = False, say: Say = silent
) -> tuple[str, ...]:
    """Let models be built from files that the user names.

    Args:
        files: Python files.
        models: Model files.
        force: Take a file also where it was changed since the training.
        say: Told so.

    Returns:
        What was said: a sentence for every part whose code is not that of the training.

    Raises:
        ConfigError: A file cannot be read.
        ModelFileError: A model file cannot be read, or needs a file that is not named.
    """
    catalog.unforce()  # what an earlier call wished
    for file in files:
        catalog.offer(file)
    changed: list[str] = []
    for model in models if force else ():
        document = model_file.load(model).document
        parts = [document, *document.get("parts", {}).values()]
        entries = [("networks", part["network"]) for part in parts]
        entries += [("targets", document["target"])] if "target" in document else []
        for room, entry in entries:
            if warning := catalog.force(room, entry):
                changed.append(warning)
    for warning in changed:
        say(warning)
    return tuple(changed)
