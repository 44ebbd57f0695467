"""Memory that a process frees and soon asks for again."""

from __future__ import annotations

import ctypes
import functools
import sys

#: ``mallopt`` of the GNU C library: free memory at the end of the heap that is given back beyond
#: so many bytes, and the least size that is not taken from the heap at all.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: For these; older libraries refuse the larger one.
_NEVER, _LARGE = 2**31 - 1, (2**30, 2**25)


@functools.cache
def keep_freed() -> None:
    """From here on keep freed memory in this process, up to its peak, instead of giving it back.

    The activations of a training step are freed at its end, and the next step needs as much: what
    was given back to the system comes page by page, which took up to a seventh of a step
    (docs/LOG.md). Nothing happens but with the GNU C library.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    mallopt(_TRIM_THRESHOLD, _NEVER)
    for size in _LARGE:
        if mallopt(_MMAP_THRESHOLD, size):
            return
