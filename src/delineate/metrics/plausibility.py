"""Which printed figures contradict each other, or what any picture would give.

Published tables can be checked without their data: some figures bound others. All bounds allow for
rounding of the printed digits, so that what is reported is arithmetic, not taste.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

#: Pixel accuracy of an answer that finds nothing in a BraTS volume, of which about 1.7 % is tumour.
BACKGROUND_ACCURACY = 0.983
#: Decimal digits are no binary fractions.
_TINY = 1e-12


def most_f1(precision: float, recall: float, rounding: float = 0.0) -> float:
    """Largest F1 that a precision and a recall allow, however they were averaged.

    Within a class F1 is the harmonic mean, which is at most the arithmetic mean; so the mean F1
    over classes is at most the arithmetic mean of the mean precision and the mean recall.
    """
    return (precision + recall) / 2 + rounding


def most_dice(iou: float, rounding: float = 0.0) -> float:
    """Largest mean Dice that a mean IoU over the same units allows.

    Dice is ``2J / (1 + J)`` in every unit, which is concave in J, so the mean of Dice is at most
    that of the mean J (Jensen).
    """
    top = iou + rounding / 2
    return 2 * top / (1 + top) + rounding / 2


def contradictions(row: Mapping[str, Any], rounding: float) -> list[dict[str, str]]:
    """What cannot be true of one printed row of fractions.

    Args:
        row: ``method`` and any of ``accuracy``, ``precision``, ``recall``, ``f1``, ``iou``,
            ``dice``, ``pixel_accuracy``.
        rounding: One unit of the last printed digit.

    Returns:
        ``{"claim", "arithmetic", "verdict"}`` each.
    """
    findings: list[dict[str, str]] = []
    method = str(row.get("method", "?"))
    precision, recall, f1 = row.get("precision"), row.get("recall"), row.get("f1")
    if precision is not None and recall is not None and f1 is not None:
        harmonic = _harmonic(precision, recall)
        half_unit = rounding / 2 + _TINY
        lowest = (
            _harmonic(max(0.0, precision - half_unit), max(0.0, recall - half_unit)) - half_unit
        )
        highest = _harmonic(precision + half_unit, recall + half_unit) + half_unit
        arithmetic = (
            f"precision {_p(precision)} and recall {_p(recall)}: harmonic mean {_p(harmonic)}, "
            f"arithmetic mean {_p((precision + recall) / 2)}"
        )
        if f1 > most_f1(precision, recall, rounding):
            findings.append(_finding(method, "F1", f1, arithmetic, "impossible, however averaged"))
        elif not lowest <= f1 <= highest:
            verdict = "not the harmonic mean; possible only as an average over unlike classes"
            findings.append(_finding(method, "F1", f1, arithmetic, verdict))
    iou, dice = row.get("iou"), row.get("dice")
    if iou is not None and dice is not None and dice > most_dice(iou, rounding):
        arithmetic = f"IoU {iou:.4f} allows Dice {most_dice(iou):.4f} at most"
        findings.append(
            _finding(method, "Dice", dice, arithmetic, "impossible for one set of units")
        )
    pixels = row.get("pixel_accuracy")
    if pixels is not None and pixels < BACKGROUND_ACCURACY:
        arithmetic = f"an answer that finds nothing has about {BACKGROUND_ACCURACY:.3f}"
        findings.append(
            _finding(method, "pixel accuracy", pixels, arithmetic, "not plain pixel accuracy")
        )
    return findings


def repetitions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of unlike studies that agree to the last digit in most of three figures or more.

    Args:
        rows: As for ``contradictions``; what stands before a colon in ``method`` is the study.

    Returns:
        The same as ``contradictions``.
    """
    findings = []
    for first, second in combinations(rows, 2):
        studies = [str(row.get("method", "?")).partition(":")[0] for row in (first, second)]
        keys = [k for k, v in first.items() if isinstance(v, float) and k in second]
        repeated = [k for k in keys if first[k] == second[k]]
        if studies[0] != studies[1] and len(keys) >= 3 and 2 * len(repeated) > len(keys):
            figures = ", ".join(f"{k} {_p(first[k])}" for k in repeated)
            claim = f"{first['method']} and {second['method']}, on unlike data"
            verdict = "copied rather than measured, or a coincidence in every digit"
            findings.append(
                {"claim": claim, "arithmetic": f"the same {figures}", "verdict": verdict}
            )
    return findings


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _p(value: float) -> str:
    return f"{100 * value:.2f} %"


def _finding(method: str, name: str, value: float, arithmetic: str, verdict: str) -> dict[str, str]:
    figure = _p(value) if name == "F1" else f"{value:.4f}"
    return {"claim": f"{method}: {name} {figure}", "arithmetic": arithmetic, "verdict": verdict}
