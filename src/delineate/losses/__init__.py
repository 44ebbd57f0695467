"""One file a loss.

Such a file holds:

- a docstring: what it measures, and the paper it follows;
- ``KIND``: what it looks at, ``"output"``, ``"finest"`` or ``"head"``; see ``_sum``;
- ``Config``: a frozen dataclass that adds to ``Term``, with a help text for every field;
- ``loss(logits, label, config=None, spacing_mm=None) -> Tensor``: one number of at least 0.

It may have ``CUT_CHANGES``: by how much it may change, relatively, where an image is cut; 1e-6 by
default. A file without ``KIND`` is a brick of methods, no term of a sum. What is named here is for
files of anybody's own too.
"""

from delineate.losses._common import Term, annotated, mean, one_hot

__all__ = ["Term", "annotated", "mean", "one_hot"]
