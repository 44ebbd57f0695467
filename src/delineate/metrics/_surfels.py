"""Pieces of a mask's surface (surfels): where they lie and how large they are.

Around every corner of a voxel stand 2 x 2 x 2 voxels (2 x 2 in 2D). Where some of them are inside
and some outside, classic marching cubes (Lorensen and Cline 1987) lays up to four triangles, and in
2D marching squares up to two lines, through the middles of the edges between them. Ambiguous
neighbourhoods separate the rarer kind of voxel, so that a mask and its complement have one surface.
The areas are those of DeepMind's ``surface-distance``, with which the surface Dice was published;
here the triangles keep their direction, so that they can be measured on sheared grids too.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

#: Area vectors of the triangles of neighbourhoods 0 to 127, three digits each: components in
#: eighths of a voxel's face, plus 4. Neighbourhood 255 - n has the triangles of n. The voxel at
#: (0, 0, 0) counts 128, the one at (1, 1, 1) counts 1.
_TRIANGLES = """
    - 555 553 664664 535 646646 535553 555666844 533 533555 642642 553662844 624624 535626844
    533622844 844844 533 466466 533553 484555666 533535 448555666 533535553 555555666666 533533
    466466533 533642642 466553646771 533624624 466535664717 533533622844 555666844 535 535555
    462462 484553662 535535 535646646 462462535 462555642777 533535 533535555 448553662
    553553662662 535624624 535535626844 466553624771 553662844 624624 484533622 484535626 484484
    535624624 533646664711 484535535626 484555666 533624624 484533533622 535642664717 484553662
    624624624624 553664664 555664664 664664 553 553555 553553 553664664 462462 448535626
    462462553 462555624777 533553 533553555 553642642 553553662844 484535626 535535626626
    462533646711 535626844 642642 448533622 553642642 555624642777 448553662 448448 448553553662
    448555666 533642642 448533533622 642642642642 535646646 553624646771 448535626 555646646
    646646 535553 535553555 462462553 484553553662 462462535 448535535626 462462462462 466466533
    533535553 533535553555 448553553662 533535555 484535535626 533553555 466466555 533555
    533622844 533533622622 466535642717 484533622 462533664711 448533622 466466555 466466
    533533622844 535553555 555646646 535555 555664664 553555 555555 555
"""
#: Lines of neighbourhoods 0 to 7 in 2D, in halves of a voxel's side, plus 4.
_LINES = "- 53 55 46 55 64 5555 53"


def surfels(mask: Mask, steps_mm: FloatArray) -> tuple[Mask, FloatArray]:
    """Corners of voxels that a surface passes by, and how much of the surface lies there.

    Args:
        mask: ``(*S)`` boolean, 2D or 3D; beyond it is outside.
        steps_mm: ``(D, ndim)``; column a is the step in mm from a voxel to the next along axis a.

    Returns:
        Which corners hold a piece of surface ``(*S + 1)``, and the area of each in mm2 (length in
        mm in 2D), in the order of ``numpy.nonzero``.
    """
    padded = np.pad(mask.view(np.uint8), 1)
    code = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for place in np.ndindex((2,) * mask.ndim):
        code <<= 1
        code |= padded[tuple(slice(p, p + n) for p, n in zip(place, code.shape, strict=True))]
    border = (code > 0) & (code < 2 ** (2**mask.ndim) - 1)
    return border, _sizes(mask.ndim, steps_mm)[code[border]]


def _sizes(ndim: int, steps_mm: FloatArray) -> FloatArray:
    """Area, in 2D length, of the surface in every neighbourhood: ``(256,)`` or ``(16,)``."""
    pieces = _pieces(ndim)
    if ndim == 3:
        # An area vector goes through the cofactors of the matrix that moves the points.
        pieces = pieces @ (np.linalg.det(steps_mm) * np.linalg.inv(steps_mm))
    else:
        pieces = pieces @ steps_mm.T
    return np.asarray(np.linalg.norm(pieces, axis=-1).sum(axis=-1))


@cache
def _pieces(ndim: int) -> FloatArray:
    """Triangles' area vectors ``(256, 4, 3)``, or lines ``(16, 2, 2)``, in voxels."""
    words, unit = (_TRIANGLES.split(), 8) if ndim == 3 else (_LINES.split(), 2)
    table = np.zeros((2 * len(words), 4 if ndim == 3 else 2, ndim))
    for place, word in enumerate(words):
        if word != "-":
            vectors = np.reshape([int(digit) - 4 for digit in word], (-1, ndim)) / unit
            table[place, : len(vectors)] = table[-1 - place, : len(vectors)] = vectors
    return table
