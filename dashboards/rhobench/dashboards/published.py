"""Published detectors as a muted layer of the figures."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rhobench.experiments.published import table1

SPLIT = "val2017"
"""Split that the published AP was measured on; other data cannot be compared with it."""


def published_points(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Name and metrics of every row of the paper's Table 1; empty unless the store has runs on COCO val2017.

    GFLOPs only if the store counts them as the official code does.

    Args:
        frame: rows of ``Store.frame()``.
    """
    if not frame["dataset"].str.endswith(SPLIT).any():
        return []
    official = set(frame["flops_count"].dropna()) == {"official"}
    points = []
    for row in table1():
        rho = "" if row.rho is None else f", ρ {row.rho:g}"
        point: dict[str, Any] = {"name": f"{row.method} {row.backbone}{rho} (published; FPS on a V100)"}
        point |= {name: getattr(row, name) / 100 for name in ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l")}
        point |= {"params_m": float(row.params_m), "fps": row.fps}
        points.append(point | ({"gflops": float(row.gflops)} if official else {}))
    return points
