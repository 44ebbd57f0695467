"""One file a loss.

Such a file holds:

- a docstring: what it measures, and the paper it follows;
- ``KIND``: what it looks at, ``"output"``, ``"finest"`` or ``"head"``; see ``_sum``;
- ``Config``: a frozen dataclass that adds to ``Term``, with a help text for every field;
- ``loss(logits, label, config=None, spacing_mm=None) -> Tensor``: one number of at least 0.

It may have ``CUT_CHANGES``: by how much it may change, relatively, where an image is cut; 1e-6 by
default. A file without ``KIND`` is a brick of methods, no term of a sum.

A method whose users choose losses has a setting of type ``Losses`` with the metadata ``"room":
"losses"``, and ``weighted_sum`` makes what it computes; ``DEFAULT`` is Dice and cross-entropy. What
is named here is for files of anybody's own too.
"""

from delineate.losses._common import Term, annotated, mean, one_hot
from delineate.losses._sum import DEFAULT, Losses, Sum
from delineate.losses._sum import build as weighted_sum

__all__ = ["DEFAULT", "Losses", "Sum", "Term", "annotated", "mean", "one_hot", "weighted_sum"]
