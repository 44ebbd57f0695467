"""How many cases can be read side by side."""

from __future__ import annotations

import contextlib
import math

from delineate.core.errors import DelineateError
from delineate.core.threads import cores
from delineate.data import readers
from delineate.data.cohort import Cohort

#: Cases whose size is looked at.
_CASES = 16
_MOST = 8


def threads(cohort: Cohort, copies: int) -> int:
    """Threads that the processors allow, and half of the free memory for the largest of some cases.

    Args:
        cohort: Whose cases are read.
        copies: Times that a case's float32 images are held at once, on the way included.
    """
    import psutil

    largest = 1
    for case in cohort.cases[:: max(1, len(cohort.cases) // _CASES)]:
        with contextlib.suppress(DelineateError, OSError):  # told when its turn comes
            probes = [readers.probe(source, case.reading) for source in case.images.values()]
            largest = max(largest, sum(4 * n * math.prod(grid.shape) for grid, n in probes))
    fit = int(psutil.virtual_memory().available * 0.5 / (copies * largest))
    return max(1, min(_MOST, cores(), fit))
