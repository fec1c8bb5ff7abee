"""Published results of detectors as printed: the rows of the paper's Table 1, and 188 detectors with their hardware."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from rhobench.config.published import SAME_SIZE


@dataclass(frozen=True, kw_only=True)
class Table1Row:
    """One row of the paper's Table 1."""

    method: str
    """Name of the method, as printed."""
    backbone: str
    """Name of the backbone, as printed."""
    model: str | None
    """Name of the model in rhobench, for ``rhobench.config.model_zoo.find_model``; None: it has no such model."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: a dense encoder."""
    epochs: int
    """Epochs of the training."""
    ap: str
    """AP on COCO val2017 over IoU 0.50:0.95, in percent; all numbers are texts with the printed decimals."""
    ap50: str
    """AP at IoU 0.50, in percent."""
    ap75: str
    """AP at IoU 0.75, in percent."""
    ap_s: str
    """AP of small objects, in percent."""
    ap_m: str
    """AP of medium objects, in percent."""
    ap_l: str
    """AP of large objects, in percent."""
    fps: str | None
    """Images per second on a V100; batch size 1 in the rows of Faster R-CNN and DETR on R50, and 4 in the others."""
    params_m: str | None
    """Millions of parameters."""
    gflops: str | None
    """10^9 operations per image."""
    counted_on: str
    """Input size that reproduces ``gflops``: HEIGHTxWIDTH (spec section 17), or ``FIRST_IMAGES``."""
    source: str
    """Source of accuracy and FPS, then source of parameters and GFLOPs."""


@dataclass(frozen=True, kw_only=True)
class PublishedDetector:
    """One detector with what its authors, or those who measured it again, printed."""

    name: str
    """Name of the method, with its backbone and epochs."""
    ap: float
    """AP on COCO val2017 over IoU 0.50:0.95, in percent."""
    metrics: dict[str, float]
    """ap50, ap75, ap_s, ap_m and ap_l in percent, params_m, gflops, fps and latency_ms, as far as they were printed."""
    hardware: str
    """Device and way of measuring FPS and latency; empty: not stated."""
    input_size: str
    """Size of the images in pixels: shorter and longer side at most, or the side of a square; empty: not stated."""
    measured_by: str
    """"maker", or who measured it again."""
    source: str
    """Repository and file of the numbers."""
    confidence: str
    """How the numbers were read."""


_METRICS = ("ap50", "ap75", "ap_s", "ap_m", "ap_l", "params_m", "gflops", "fps", "latency_ms")


def table1_rows() -> list[Table1Row]:
    """Read the rows of the paper's Table 1.

    Accuracy and FPS come from the paper, GFLOPs and parameters from the official README, which prints one more decimal.
    """
    optional = {"model", "fps", "params_m", "gflops"}
    return [
        Table1Row(
            **{name: None if name in optional and not cell else cell for name, cell in cells.items()}  # type: ignore[arg-type]
            | {
                "rho": float(cells["rho"]) if cells["rho"] else None,
                "epochs": int(cells["epochs"]),
                "counted_on": cells["counted_on"] or SAME_SIZE,
            }
        )
        for cells in _read("table1_rows.csv")
    ]


def published_detectors() -> list[PublishedDetector]:
    """Read the published detectors, every one on COCO val2017."""
    return [
        PublishedDetector(
            name=" ".join(filter(None, (cells["method"], cells["backbone"], _epochs(cells["epochs"])))),
            ap=float(cells["ap"]),
            metrics={name: float(cells[name]) for name in _METRICS if cells[name]},
            **{name: cells[name] for name in ("hardware", "input_size", "measured_by", "source", "confidence")},
        )
        for cells in _read("detectors.csv")
    ]


def _epochs(cell: str) -> str:
    return f"({cell} epochs)" if cell else ""


def _read(name: str) -> Iterator[dict[str, str]]:
    with (files("rhobench.experiments.published") / name).open(encoding="utf-8") as file:
        yield from csv.DictReader(file)
