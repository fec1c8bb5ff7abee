"""The result of a store in sentences that a reader can quote."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from rhobench.config.metrics import METRICS
from rhobench.dashboards.figures.comparable import RHO_FIELDS
from rhobench.dashboards.figures.style import seeds_text
from rhobench.results import Store, configuration_labels, samples_rho, timing_statuses
from rhobench.results.comparable import scored, settings_besides
from rhobench.results.comparison import describe_difference
from rhobench.results.paired_tests import paired_difference
from rhobench.results.pareto import as_trained, averaged_rows, by_configuration
from rhobench.results.relative_times import relative_times

KEPT = 0.97
"""Share of the AP of the dense encoder from which a saving is told; if no ρ keeps it, the best one is told."""

_FREE = RHO_FIELDS | {"model.name"}
"""Fields in which the dense model and those with a ρ differ."""

_DENSE = 2.0
"""Stands for the rho of a dense encoder, where NaN would not count as a value."""

MIN_AP = 0.01
"""AP of the dense encoder below which shares of it mean nothing."""

MAX_SENTENCES = 3
"""Number of sentences: those of the best models."""


def headline(frame: pd.DataFrame, store: Store | None = None) -> list[str]:
    """One sentence per group of runs that differ only in rho: what the cheapest good rho keeps and costs.

    The reference is the dense encoder, or else the largest rho. Seeds are averaged.

    Args:
        frame: rows of ``Store.frame()``.
        store: of the frame, whose evaluations give the interval of the difference in AP; None: without it.
    """
    rows = scored(frame, "ap", "gflops")
    # A run that was measured at other ρ than its own is not a training of that ρ.
    rows = rows[(rows["rho"] == rows["rho_infer"]) | rows["rho"].isna() | samples_rho(rows)]
    if rows.empty:
        return ["No run has both AP and GFLOPs yet."]
    # Trainings that sampled their ρ are not compared with the others.
    keys = [settings_besides(rows, _FREE), samples_rho(rows)]
    rows = rows[rows["rho_infer"].fillna(_DENSE).groupby(keys).transform("nunique") > 1]
    group = rows.groupby([key.loc[rows.index] for key in keys]).ngroup()
    best = rows.groupby(group)["ap"].max().sort_values(ascending=False, kind="stable").index[:MAX_SENTENCES]
    sentences = [sentence for number in best for sentence in _sentences(rows[group == number], frame, store)]
    return sentences or ["No saving is shown: no runs differ only in ρ."]


def _sentences(rows: pd.DataFrame, frame: pd.DataFrame, store: Store | None) -> Iterator[str]:
    table = by_configuration(rows[as_trained(rows)], "gflops", "ap")
    table = table[table["setting"] == table["setting"].iloc[0]]
    if len(table) < 2:
        return
    dense = table[table["rho_infer"].isna()]
    reference = dense.iloc[0] if len(dense) else table.loc[table["rho_infer"].idxmax()]
    name = "the dense encoder" if len(dense) else f"ρ={reference['rho_infer']:g}"
    if len(dense) == 0 and reference["rho_infer"] == 1:
        name = "ρ=1 (every token)"
    where = _where(rows, frame)
    if reference["ap"] < MIN_AP:
        ap = METRICS["ap"].format(reference["ap"])
        yield f"No saving is shown{where}: {name} itself reaches an AP of only {ap}."
        return
    cheaper = table[table["gflops"] < reference["gflops"]]
    if cheaper.empty:
        yield f"No saving is shown{where}: nothing is cheaper than {name}."
        return
    good = cheaper[cheaper["ap"] >= KEPT * reference["ap"]].sort_values(["gflops", "n"], ascending=[True, False])
    chosen = good.iloc[0] if len(good) else cheaper.loc[cheaper["ap"].idxmax()]
    kept = _percent(chosen["ap"] / reference["ap"])
    seeds = seeds_text(min(chosen["n"], reference["n"]), max(chosen["n"], reference["n"]))
    spent = [f"{_percent(chosen['gflops'] / reference['gflops'])} of its GFLOPs"]
    share = _latency_share(averaged_rows(chosen, rows), averaged_rows(reference, rows), store)
    if share is not None:
        spent.append(f"{_percent(share)} of its latency")
    text = f"ρ={chosen['rho_infer']:g} keeps {kept} of the AP of {name} at {' and '.join(spent)}{where}"
    values = f"AP {_ap(chosen)} against {_ap(reference)}"
    caution = "" if min(chosen["n"], reference["n"]) > 1 else ", so the variation between seeds is unknown"
    paired = _paired(rows, reference, chosen, store)
    yield f"{text} ({values}; {seeds}{caution}{paired})."


def _latency_share(own: pd.DataFrame, other: pd.DataFrame, store: Store | None) -> float | None:
    """Latency of ``own`` as a share of that of ``other``; None: unknown.

    It is the one within rounds, which the speed of the machine does not change, where the two took turns.
    """
    both = pd.concat([own, other])
    if store is not None and len(times := relative_times(store, both)) == 1:
        return times[0].ratio if times[0].label == configuration_labels(both)[0] else 1 / times[0].ratio
    first, second = _latency(own), _latency(other)
    return first / second if first and second else None


def _latency(rows: pd.DataFrame) -> float | None:
    """Mean latency over the seeds; None: a time is missing, or its status keeps it off fronts."""
    times = rows.loc[timing_statuses(rows) == "ok", "latency_ms"]
    return None if times.isna().any() or len(times) < len(rows) else float(times.mean())


def _paired(rows: pd.DataFrame, reference: pd.Series, chosen: pd.Series, store: Store | None) -> str:
    """The paired difference of the AP in words, if the store has the evaluations: "; difference -0.3 (95 % ...)"."""
    if store is None:
        return ""
    measured = paired_difference(store, *(averaged_rows(one, rows) for one in (reference, chosen)))
    if measured is None:
        return ""
    scope = (
        "over images and seeds" if measured.covers == "seeds and images" else "over images, for these trained models"
    )
    return f"; paired difference {describe_difference(measured, 'ap')} {scope}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ap(row: pd.Series) -> str:
    spread = f" ± {METRICS['ap'].format(row['ap_sd'])}" if row["n"] > 1 else ""
    return METRICS["ap"].format(row["ap"]) + spread


def _where(rows: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Which runs the sentence is about, if the store has others: " in experiment demo"."""
    first = rows.iloc[0]
    alone = frame["experiment"].nunique() > 1 and rows["experiment"].nunique() == 1
    parts = [f"experiment {first['experiment']}"] if alone else []
    parts += [str(first[name]) for name in ("model", "backbone") if frame[name].nunique() > 1]
    return f" in {', '.join(parts)}" if parts else ""
