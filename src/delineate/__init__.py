"""Delineate: from a folder of medical images to a model, its figures and its report.

Every name below is loaded when it is first used, so ``import delineate`` is quick and does not
import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delineate.core.image import Image
    from delineate.core.model_file import load as load_model
    from delineate.core.schema import Schema
    from delineate.data.cohort import Cohort
    from delineate.data.readers import read
    from delineate.tasks.audit import audit
    from delineate.tasks.benchmark import benchmark
    from delineate.tasks.crossvalidate import crossvalidate
    from delineate.tasks.demo import demo
    from delineate.tasks.evaluate import evaluate
    from delineate.tasks.export import export
    from delineate.tasks.phantom import phantom
    from delineate.tasks.predict import predict
    from delineate.tasks.report import report
    from delineate.tasks.train import train

__version__ = "0.1.0"

__all__ = [
    "Cohort",
    "Image",
    "Schema",
    "__version__",
    "audit",
    "benchmark",
    "crossvalidate",
    "demo",
    "evaluate",
    "export",
    "load_model",
    "phantom",
    "predict",
    "read",
    "report",
    "train",
]

#: Public name -> (module, name there), where it is not the task of that name.
_ELSEWHERE = {
    "Cohort": ("data.cohort", "Cohort"),
    "Image": ("core.image", "Image"),
    "Schema": ("core.schema", "Schema"),
    "load_model": ("core.model_file", "load"),
    "read": ("data.readers", "read"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'delineate' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, (f"tasks.{name}", name))
    value = getattr(importlib.import_module(f"delineate.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
