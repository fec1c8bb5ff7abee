"""Published results of Sparse DETR and its relatives, as printed, for comparison with our own runs."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

FIRST_IMAGES = "first100"
"""Value of ``PublishedRow.counted_on``: GFLOPs are the mean over the first 100 images of val2017."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a published table."""

    method: str
    """Name of the method, as printed."""
    backbone: str
    """Name of the backbone, as printed."""
    model: str
    """Name of the model in rhobench, for ``rhobench.config.model_zoo.find_model``."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: a dense encoder."""
    epochs: int
    """Epochs of the training."""
    ap: float
    """AP on COCO val2017 over IoU 0.50:0.95, in percent."""
    ap50: float
    """AP at IoU 0.50, in percent."""
    ap75: float
    """AP at IoU 0.75, in percent."""
    ap_s: float
    """AP of small objects, in percent."""
    ap_m: float
    """AP of medium objects, in percent."""
    ap_l: float
    """AP of large objects, in percent."""
    fps: float
    """Images per second on a V100; batch size 1 in some rows and 4 in others."""
    params_m: str
    """Millions of parameters, with the printed decimals."""
    gflops: str
    """10^9 operations per image, with the printed decimals."""
    counted_on: str
    """Input size that reproduces ``gflops``: HEIGHTxWIDTH (spec section 17), or ``FIRST_IMAGES``."""
    source: str
    """Source of accuracy and FPS, then source of parameters and GFLOPs."""


def table1() -> list[PublishedRow]:
    """Read the rows of the DETR family in Table 1 of the paper.

    AP and FPS come from the paper, GFLOPs and parameters from the official README, which prints one more decimal.
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
"""Functions that read the published tables, by name on the command line."""


class PublishedTableError(ValueError):
    """A published table that does not exist."""


def published_rows(name: str) -> list[PublishedRow]:
    """Return the rows of a published table; PublishedTableError, with the closest name, if there is none."""
    if name not in TABLES:
        near = difflib.get_close_matches(name, TABLES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(TABLES)}."
        raise PublishedTableError(f"There is no published table {name!r}. {hint}")
    return TABLES[name]()


__all__ = ["FIRST_IMAGES", "TABLES", "PublishedRow", "PublishedTableError", "published_rows", "table1"]
