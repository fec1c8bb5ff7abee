"""Every metric of a benchmark: one row each, from which scoring, records, fronts, tables and pages take it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
"""Direction in which a metric improves."""

IouType = Literal["bbox", "segm"]
"""What COCOeval compares: boxes or masks."""


class MetricError(ValueError):
    """A metric that does not exist."""


@dataclass(frozen=True)
class CocoStat:
    """Position of an accuracy metric among the results of pycocotools."""

    iou_type: IouType
    """Kind of evaluation."""
    index: int
    """Index into ``COCOeval.stats``, which has 12 entries."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of ``Store.frame()`` that can be an axis of a Pareto front."""

    name: str
    """Column of ``Store.frame()``."""
    label: str
    """Name on axes and in table headers."""
    unit: str = ""
    """Unit of the displayed value, after ``scale``."""
    better: Better
    """Direction in which the metric improves."""
    digits: int = 1
    """Decimals displayed; at most one from 100 up."""
    scale: float = 1.0
    """Displayed value divided by the stored value: 100 for AP."""
    must_agree: tuple[str, ...] = ()
    """Columns that must agree for two values to be comparable."""
    distinguishes: tuple[str, ...] = ()
    """Columns whose values are different configurations on one front, such as the engine that runs a model."""
    interval: tuple[str, str] | None = None
    """Columns with the ends of an interval around the value, see ``interval_text``; None: it has no such columns."""
    interval_text: str = ""
    """What the interval is, as figures call it."""
    timed: bool = False
    """Whether it is a wall-clock measurement, which other processes on the host disturb."""
    in_runs_table: bool = True
    """Whether the table of runs on the report page has a column for it."""
    coco: CocoStat | None = None
    """Where COCOeval returns it; None: it is not an accuracy metric."""

    @property
    def title(self) -> str:
        """Label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def short_title(self) -> str:
        """Label with its unit where the label does not imply it, for narrow tables."""
        return self.label if self.unit.startswith("per ") or self.unit == "images/s" else self.title

    @property
    def noun(self) -> str:
        """Label inside a sentence: "GFLOPs", "latency"."""
        return self.label if self.label[1].isupper() else self.label.lower()  # acronyms keep their capitals

    def format(self, value: float | None) -> str:
        """The value as displayed; a dash for None and NaN."""
        if value is None or math.isnan(value):
            return "–"
        displayed = value * self.scale
        return f"{displayed:.{min(self.digits, 1) if abs(displayed) >= 100 else self.digits}f}"


def _accuracy(name: str, label: str, iou_type: IouType, index: int, *, in_runs_table: bool = True) -> Metric:
    return Metric(
        name=name,
        label=label,
        better="higher",
        scale=100,
        must_agree=("dataset",),
        # Resampling knows average precisions, which are the first six values of COCOeval.
        interval=(f"{name}_low", f"{name}_high") if index < 6 else None,
        interval_text="95 % over images",
        in_runs_table=in_runs_table,
        coco=CocoStat(iou_type, index),
    )


_TIMING = ("device", "protocol", "threads", "batch_size")

METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        _accuracy("ap", "AP", "bbox", 0),
        _accuracy("ap50", "AP50", "bbox", 1),
        _accuracy("ap75", "AP75", "bbox", 2),
        _accuracy("ap_s", "AP small", "bbox", 3, in_runs_table=False),
        _accuracy("ap_m", "AP medium", "bbox", 4, in_runs_table=False),
        _accuracy("ap_l", "AP large", "bbox", 5, in_runs_table=False),
        _accuracy("segm_ap", "Mask AP", "segm", 0),
        _accuracy("segm_ap50", "Mask AP50", "segm", 1),
        _accuracy("segm_ap75", "Mask AP75", "segm", 2),
        Metric(name="gflops", label="GFLOPs", unit="per image", better="lower", digits=2, must_agree=("flops_count",)),
        Metric(name="params_m", label="Parameters", unit="M", better="lower"),
        Metric(
            name="latency_ms",
            label="Latency",
            unit="ms",
            better="lower",
            must_agree=_TIMING,
            interval=("latency_low_ms", "latency_high_ms"),
            interval_text="95 % over rounds",
            distinguishes=("backend",),
            timed=True,
        ),
        Metric(
            name="fps",
            label="FPS",
            unit="images/s",
            better="higher",
            must_agree=_TIMING,
            interval=("fps_low", "fps_high"),
            interval_text="95 % over rounds",
            distinguishes=("backend",),
            timed=True,
        ),
    )
}
"""Every metric by name.

An accuracy metric is added by one row here. A cost metric also needs a field of the same name in ``Point`` and its
measurement.
"""


def metric(name: str) -> Metric:
    """The metric called ``name``; MetricError lists those that exist."""
    if name not in METRICS:
        raise MetricError(f"There is no metric {name!r}; choose one of {', '.join(METRICS)}.")
    return METRICS[name]


def accuracy_metrics(*iou_types: IouType) -> list[str]:
    """Names of the accuracy metrics of these kinds of evaluation, of all kinds without arguments."""
    return [m.name for m in METRICS.values() if m.coco and (not iou_types or m.coco.iou_type in iou_types)]


def accuracy_bounds() -> list[str]:
    """Columns with the ends of the intervals of the accuracy metrics."""
    return [column for name in accuracy_metrics() for column in METRICS[name].interval or ()]
