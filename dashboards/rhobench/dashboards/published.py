"""Published detectors as a muted layer behind the fronts, with hardware and protocol on every point."""

from __future__ import annotations

import html
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rhobench.config.metrics import METRICS, Metric
from rhobench.dashboards.figures.style import MUTED
from rhobench.experiments.published._detectors import PublishedDetector, published_detectors, table1_rows

SPLIT = "val2017"
"""Split that the published AP was measured on; other data cannot be compared with it."""

COUNTED_ALIKE = "800/1333"
"""Input size of the DETR family, whose GFLOPs count multiply-adds; the rules behind those of others are not known."""

GPUS = ("V100", "T4", "A100")
"""Devices of published speeds, as they stand in the names of devices."""

_TABLE1_HARDWARE = "V100, batch 4"

_TIMED = frozenset(name for name, m in METRICS.items() if m.timed)


def published_points(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Name and metrics of published detectors; empty unless the store has runs on COCO val2017.

    GFLOPs only if the store counts them as the official code does, and only of detectors that are counted alike. FPS
    and latency only of one way of measuring, on the device of the store.

    Args:
        frame: rows of ``Store.frame()``.
    """
    if not frame["dataset"].astype(str).str.endswith(SPLIT).any():
        return []
    official = set(frame["flops_count"].dropna()) == {"official"}
    detectors = [*_table1(), *published_detectors()]
    hardware = _comparable_hardware(frame, detectors)
    points = []
    for detector in detectors:
        accuracy = {"ap": detector.ap, **detector.metrics}
        known = {
            name: value / METRICS[name].scale
            for name, value in accuracy.items()
            if name in METRICS
            and (name not in _TIMED or detector.hardware == hardware)
            and (name != "gflops" or (official and detector.input_size == COUNTED_ALIKE))
        }
        points.append({"name": _name(detector), **known})
    return points


def published_layer(frame: pd.DataFrame, cost: Metric, value: Metric) -> list[go.Scatter]:
    """The detectors as one muted trace behind a front; empty if none has both metrics or the data are others.

    Args:
        frame: rows of ``Store.frame()``.
        cost: metric of x.
        value: metric of y.
    """
    points = [p for p in published_points(frame) if cost.name in p and value.name in p] if value.coco else []
    if not points:
        return []
    return [
        go.Scatter(
            x=[point[cost.name] * cost.scale for point in points],
            y=[point[value.name] * value.scale for point in points],
            mode="markers",
            name="Published",
            marker={"symbol": "x-thin-open", "size": 6, "color": MUTED, "opacity": 0.5, "line": {"width": 1}},
            hovertext=[html.escape(point["name"]) for point in points],
            hovertemplate="%{hovertext}<br>%{y:.1f} at %{x}<extra>published</extra>",
            meta="published",
        )
    ]


def _table1() -> list[PublishedDetector]:
    """The rows of the paper's Table 1 whose speed was measured with batch 4."""
    return [
        PublishedDetector(
            name=f"{row.method} {row.backbone}" + ("" if row.rho is None else f", ρ {row.rho:g}"),
            ap=float(row.ap),
            metrics={
                name: float(text)
                for name in ("ap50", "ap75", "ap_s", "ap_m", "ap_l", "params_m", "gflops", "fps")
                if (text := getattr(row, name)) is not None
            },
            hardware=_TABLE1_HARDWARE,
            input_size=COUNTED_ALIKE,
            measured_by="maker",
            source=f"Sparse DETR, {row.source}",
            confidence="",
        )
        for row in table1_rows()
        if row.epochs == 50
    ]


def _comparable_hardware(frame: pd.DataFrame, detectors: list[PublishedDetector]) -> str | None:
    """The way of measuring on the only GPU of the store that most detectors share; None: there is none."""
    devices = {gpu for device in frame["device"].dropna().unique() for gpu in GPUS if gpu in str(device).split()}
    if len(devices) != 1 or frame["device"].nunique() != 1:
        return None
    (gpu,) = devices
    ways = pd.Series([d.hardware for d in detectors if gpu in d.hardware.replace(",", " ").split()], dtype=object)
    return None if ways.empty else str(ways.value_counts().idxmax())


def _name(detector: PublishedDetector) -> str:
    facts = [
        "published" if detector.measured_by == "maker" else f"measured by {detector.measured_by}",
        detector.input_size and f"input {detector.input_size}",
        detector.hardware or "hardware not stated",
        detector.source,
    ]
    return f"{detector.name} ({'; '.join(filter(None, facts))})"
