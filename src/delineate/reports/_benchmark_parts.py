"""What a benchmark's page knows of its result: metrics, arms, regions and baselines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from delineate.metrics.statistics import by_subject
from delineate.reports import page
from delineate.reports.page import as_dict, as_list, as_number

Row = Mapping[str, Any]

#: Keys of a row of ``rows`` that are not metrics.
ROW_KEYS = ("arm", "run", "seed", "fold", "case", "subject", "region")
#: The region that is the mean over the others.
MEAN = "mean"
_NB = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Metric:
    """How a metric is called and read.

    Args:
        key: As in the data.
        name: As shown.
        digits: Decimals.
        better: 1 where more is better, -1 where less is, 0 where that is not known.
        unit: Of its numbers.
    """

    key: str
    name: str
    digits: int = 3
    better: int = 0
    unit: str = ""

    @property
    def axis(self) -> str:
        """The name with its unit, for an axis or a heading."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def heading(self) -> str:
        """The name with its unit and, where less is better, a word of that."""
        return f"{self.axis}, less is better" if self.better < 0 else self.axis


_KNOWN = {
    metric.key: metric
    for metric in (
        *(
            Metric(key, name, better=1)
            for key, name in (
                ("dice", "Dice"), ("iou", "IoU"), ("recall", "Recall"), ("precision", "Precision"),
                ("sensitivity", "Sensitivity"), ("specificity", "Specificity"), ("f1", "F1"),
                ("macro_f1", "Macro F1"), ("f1_macro", "Macro F1"),
                ("precision_macro", "Macro precision"), ("recall_macro", "Macro recall"),
                ("roc_auc", "ROC-AUC"), ("auc", "AUC"), ("auroc", "AUROC"), ("nsd", "NSD"),
                ("auprc", "AUPRC"), ("average_precision", "Average precision"), ("mcc", "MCC"),
                ("kappa", "Cohen’s kappa"), ("balanced_accuracy", "Balanced accuracy"),
                ("ssim", "SSIM"), ("cldice", "clDice"),
            )
        ),
        Metric("accuracy", "Accuracy", 4, 1),
        Metric("psnr", "PSNR", 2, 1, "dB"),
        *(
            Metric(key, name, 2, -1, "mm")
            for key, name in (
                ("hd95", "HD95"), ("hd95_mm", "HD95"), ("assd", "ASSD"), ("assd_mm", "ASSD"),
                ("hd", "Hausdorff distance"),
            )
        ),
        *(
            Metric(key, name, better=-1)
            for key, name in (
                ("ece", "Calibration error (ECE)"), ("brier", "Brier score"), ("nll", "NLL"),
                ("loss", "Loss"), ("mae", "MAE"), ("rmse", "RMSE"), ("error", "Error"),
            )
        ),
    )
}  # fmt: skip
#: Names under which papers print what we call otherwise.
_SYNONYMS = {"pixelaccuracy": "accuracy", "f1": "dice", "jaccard": "iou", "meaniou": "iou"}


def metric(key: str) -> Metric:
    """The metric called ``key``; an unknown one keeps its name and no direction."""
    return _KNOWN.get(key) or Metric(key, page.label(key))


def heading_of(column: str) -> str:
    """The heading of a printed column, spelt as we spell the metric."""
    known = _KNOWN.get(column.lower())
    return known.axis if known else page.label(column)


@dataclass(frozen=True)
class Benchmark:
    """A result made safe to show.

    Args:
        result: As the benchmark task gives it; what is missing or of the wrong kind is left out.
    """

    result: Mapping[str, Any]
    arms: list[dict[str, Any]] = field(init=False)
    rows: list[dict[str, Any]] = field(init=False)
    summary: list[dict[str, Any]] = field(init=False)
    contrasts: list[dict[str, Any]] = field(init=False)
    curves: list[dict[str, Any]] = field(init=False)
    metrics: list[Metric] = field(init=False)
    regions: list[str] = field(init=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("arms", [a for a in _dicts(self.result.get("arms")) if a.get("arm") is not None])
        for name in ("rows", "summary", "contrasts"):
            put(name, [_named(d) for d in _dicts(self.result.get(name))])
        put("curves", _dicts(self.result.get("curves")))
        summarised = [str(s["metric"]) for s in self.summary if s.get("metric") is not None]
        measured = [
            k for r in self.rows for k in r if k not in ROW_KEYS and as_number(r[k]) is not None
        ]
        put("metrics", [metric(key) for key in dict.fromkeys(summarised or measured)])
        regions = dict.fromkeys(d["region"] for d in (self.summary or self.rows))
        put("regions", sorted(regions, key=lambda region: region != MEAN))  # otherwise as given

    @property
    def names(self) -> list[str]:
        """Arms that were trained, in the order given."""
        return list(dict.fromkeys(str(a["arm"]) for a in self.arms))

    @property
    def baselines(self) -> list[str]:
        """Arms that stand in the summary but were not trained."""
        summarised = dict.fromkeys(str(s.get("arm")) for s in self.summary)
        return [name for name in summarised if self.arms and name not in self.names]

    def marked(self, name: str) -> str:
        """An arm's name, and what keeps it from being judged: few steps, or gains to the end."""
        arm = next((arm for arm in self.arms if str(arm["arm"]) == name), {})
        if arm.get("undertrained"):
            return f"{name} (undertrained)"
        return f"{name} (still gaining)" if arm.get("converged") is False else name

    @property
    def main(self) -> Metric | None:
        """The metric of the headline: the first."""
        return self.metrics[0] if self.metrics else None

    @property
    def region(self) -> str:
        """The region of the headline: the mean over all, or else the first."""
        return self.regions[0] if self.regions else ""

    def region_in_words(self, region: str, before: str = ", ") -> str:
        """A region in words after ``before``; nothing where there is but one without a name."""
        words = "mean over regions" if region == MEAN else region
        return f"{before}{words}" if words else ""

    def figure(self, arm: str, region: str, key: str) -> dict[str, Any]:
        """``mean``, ``low``, ``high``, ``median``, ``n`` of an arm; empty where there is none."""
        for entry in self.summary:
            if (str(entry.get("arm")), entry["region"], entry.get("metric")) == (arm, region, key):
                return entry if as_number(entry.get("mean")) is not None else {}
        return {}

    def ranked(self, region: str, metric: Metric) -> list[str]:
        """Arms with a figure, the best first; in the order given where that is not known."""
        scored = [n for n in self.names or self._all() if self.figure(n, region, metric.key)]
        if not metric.better:
            return scored
        return sorted(
            scored, key=lambda n: -metric.better * self.figure(n, region, metric.key)["mean"]
        )

    def by_subject(self, arm: str, region: str, key: str) -> dict[str, float]:
        """Subject -> mean over its cases and over the runs of an arm."""
        chosen = [
            (value, str(r.get("subject") if r.get("subject") is not None else r.get("case")))
            for r in self.rows
            if str(r.get("arm")) == arm
            and r["region"] == region
            and (value := as_number(r.get(key))) is not None
        ]
        names, means = by_subject([v for v, _ in chosen], [s for _, s in chosen])
        return dict(zip(names, means.tolist(), strict=True))

    def runs(self) -> list[dict[str, Any]]:
        """One row a run: mean of every metric over subjects, in the headline's region."""
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["region"] == self.region and str(row.get("arm")) not in self.baselines:
                key = tuple(str(row.get(k)) for k in ("arm", "run", "seed", "fold"))
                groups.setdefault(key, []).append(row)
        entries = []
        for rows in groups.values():
            subjects = [str(r.get("subject")) for r in rows]
            entry = {k: rows[0].get(k) for k in ("arm", "run", "seed", "fold")}
            entry["cases"] = len({str(r.get("case")) for r in rows})
            for metric in self.metrics:
                values = [as_number(r.get(metric.key)) for r in rows]
                _, means = by_subject([np.nan if v is None else v for v in values], subjects)
                entry[metric.key] = float(means.mean()) if len(means) else None
            entries.append(entry)
        return entries

    def matching_mean(self, method: Any, column: str) -> tuple[Metric, float] | None:
        """Our mean of a printed method and column, where names agree."""
        arm = next((n for n in self.names if _plain(n) == _plain(method)), None)
        same_network = [
            str(a["arm"]) for a in self.arms if _plain(a.get("network")) == _plain(method)
        ]
        arm = arm or (same_network[0] if len(same_network) == 1 else None)
        column_name = _plain(column)  # papers on classes mean averages over them
        keys = (column_name, f"{column_name}macro", _SYNONYMS.get(column_name, ""))
        match = next((m for key in keys for m in self.metrics if _plain(m.key) == key), None)
        if arm is None or match is None:
            return None
        mean = as_number(self.figure(arm, self.region, match.key).get("mean"))
        return None if mean is None else (match, mean)

    def _all(self) -> list[str]:
        return list(dict.fromkeys(str(s.get("arm")) for s in self.summary))


def interval(entry: Mapping[str, Any], digits: int, factor: float = 1.0) -> str:
    """``0.71 to 0.79`` of an entry of the summary or a contrast; empty where there is none."""
    low, high = as_number(entry.get("low")), as_number(entry.get("high"))
    if low is None or high is None:
        return ""
    return f"{page.number(low, digits, factor)} to {page.number(high, digits, factor)}"


def p_value(value: Any) -> str:
    """A p-value in words: ``p = 0.031``, ``p < 0.001``."""
    number = as_number(value)
    if number is None:
        return ""
    return f"p{_NB}<{_NB}0.001" if number < 0.001 else f"p{_NB}={_NB}{page.number(number, 3)}"


def told_apart(contrast: Mapping[str, Any]) -> bool:
    """Whether a contrast is evidence: p after correction (or else the interval) at 5 %."""
    corrected = as_number(contrast.get("p_holm", contrast.get("p")))
    if corrected is not None:
        return corrected < 0.05
    low, high = as_number(contrast.get("low")), as_number(contrast.get("high"))
    return low is not None and high is not None and (low > 0 or high < 0)


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    region = entry.get("region")
    return {**entry, "region": "" if region is None else str(region)}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [as_dict(item) for item in as_list(value) if isinstance(item, Mapping)]


def _plain(name: Any) -> str:
    """A name without case, spaces and signs, so that ``U-Net`` and ``unet`` agree."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
