"""Published numbers that ours are compared with, as they were printed."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

FIRST_IMAGES = "first100"
"""In ``PublishedRow.counted_on``: the mean over the first 100 images of val2017."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a table of Sparse DETR."""

    method: str
    """As printed."""
    backbone: str
    """As printed."""
    model: str
    """Our name of it, for ``rhobench.config.model_zoo.find_model``."""
    rho: float | None
    """Share of updated encoder tokens; None for dense encoders."""
    epochs: int
    """Of its training."""
    ap: float
    """AP on COCO val2017 in percent, like the following."""
    ap50: float
    ap75: float
    ap_s: float
    ap_m: float
    ap_l: float
    fps: float
    """On a V100; the rows mix batches of 1 and 4."""
    params_m: str
    """Millions of parameters, with the printed decimals."""
    gflops: str
    """10^9 operations, with the printed decimals."""
    counted_on: str
    """What image ``gflops`` fits: HEIGHTxWIDTH (spec section 17), or ``FIRST_IMAGES``."""
    source: str
    """Where accuracy and FPS stand; where parameters and GFLOPs do."""


def table1() -> list[PublishedRow]:
    """Table 1 of the paper, its rows of the DETR family.

    AP and FPS are those of the paper, GFLOPs and parameters those of the official README, which prints a decimal more.
    """
    with (files(__name__) / "table1.csv").open() as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: Mapping[str, str]) -> PublishedRow:
    numbers = {name: float(cells[name]) for name in ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "fps")}
    names = ("method", "backbone", "model", "params_m", "gflops", "counted_on", "source")
    texts = {name: cells[name] for name in names}
    rho = float(cells["rho"]) if cells["rho"] else None
    return PublishedRow(rho=rho, epochs=int(cells["epochs"]), **numbers, **texts)  # type: ignore[arg-type]


TABLES: Mapping[str, Callable[[], list[PublishedRow]]] = {"table1": table1}
"""Every table, by the name that the command line knows it by."""

__all__ = ["FIRST_IMAGES", "TABLES", "PublishedRow", "table1"]
