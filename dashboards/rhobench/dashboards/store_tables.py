"""Reading of everything that the figures take from a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd

from rhobench.dashboards.figures.card import Tables
from rhobench.results import Record, Store

MAX_TIMED = 24
"""Number of runs whose timed calls are read: the fastest ones."""

_NO_BREAKDOWN = ["run_id", "rho_infer", "place", "kind", "name", "value"]


def read_tables(store: Store, records: list[Record]) -> Tables:
    """The tables of a store whose ``records`` have been read just before."""
    frame = store.frame()
    # In this order, because curves() replaces the problems of the store.
    curves = store.curves()
    timed = frame[frame["latency_ms"].notna()].sort_values("latency_ms")
    calls = store.timed_calls(timed[timed["run_id"].isin(timed["run_id"].drop_duplicates().head(MAX_TIMED))])
    return Tables(frame=frame, curves=curves, breakdown=_breakdown(records), calls=calls)


def _breakdown(records: list[Record]) -> pd.DataFrame:
    return pd.DataFrame(list(_breakdown_rows(records)), columns=_NO_BREAKDOWN)


def _breakdown_rows(records: list[Record]) -> Iterator[tuple[Any, ...]]:
    for record in records:
        places: Counter[float | None] = Counter()
        for point in record.points:
            kinds = {"class": point.ap_by_class, "part": point.gflops_by_part, "part_ms": point.ms_by_part}
            for kind, values in kinds.items():
                for name, value in values.items():
                    yield record.run_id, point.rho, places[point.rho], kind, name, value
            places[point.rho] += 1
