"""Reading of everything that the figures take from a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from rhobench.dashboards.figures.card import Tables
from rhobench.results import Record, Store

MAX_TIMED = 24
"""Number of runs whose timed calls are read: the fastest ones."""


def read_tables(store: Store, records: list[Record]) -> Tables:
    """The tables of a store whose ``records`` have been read just before."""
    frame = store.frame()
    # In this order, because curves() replaces the problems of the store.
    curves = store.curves()
    timed = frame[frame["latency_ms"].notna()].sort_values("latency_ms")
    calls = store.timed_calls(timed[timed["run_id"].isin(timed["run_id"].drop_duplicates().head(MAX_TIMED))])
    return Tables(frame=frame, curves=curves, breakdown=_breakdown(frame, records), calls=calls)


def _breakdown(frame: pd.DataFrame, records: list[Record]) -> pd.DataFrame:
    names = frame["run_id"].drop_duplicates()
    first = dict(zip(names, names.index.tolist(), strict=True))
    rows = (row for record in records if record.run_id in first for row in _of_run(record, first[record.run_id]))
    return pd.DataFrame(list(rows), columns=["point", "kind", "name", "value"])


def _of_run(record: Record, first: int) -> Iterator[tuple[Any, ...]]:
    for row, point in enumerate(record.points, first):  # a frame has the points of a run in their order
        kinds = {"class": point.ap_by_class, "part": point.gflops_by_part, "part_ms": point.ms_by_part}
        for kind, values in kinds.items():
            for name, value in values.items():
                yield row, kind, name, value
