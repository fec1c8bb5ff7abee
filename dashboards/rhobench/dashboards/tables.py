"""The Pareto front of a store with its uncertainty, as a table for the terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from rhobench.config.metrics import Metric, metric
from rhobench.results import ENDED_EARLY, describe_left_out, describe_missing_front, printable
from rhobench.results.uncertainty import with_uncertainty

MARKS = {"certain": "●", "within noise": "○"}
"""Marks of configurations on the front."""


def front_table(frame: pd.DataFrame, x: str = "gflops", y: str = "ap", rows: pd.DataFrame | None = None) -> Table:
    """Table of all configurations in order of increasing cost, with how certain the front is.

    "●": on the front for certain; "○": within noise. "~": not shown to differ from the best cheaper configuration. Each
    setting (device, protocol, dataset) has its own front; if there are several, they are numbered, and the caption
    names them. If all models of our own are of one kind, the title names it, and a foreign model has its label. Times
    that may not enter the front are marked by "*" and their status.

    Args:
        frame: rows of ``Store.frame()``.
        x: name of the cost metric.
        y: name of the accuracy metric.
        rows: ``with_uncertainty(frame, x, y, ...)`` of a store; None: without its evaluations.
    """
    if rows is None:
        rows = with_uncertainty(frame, x, y)
    cost, value = metric(x), metric(y)
    kinds = rows["model"].astype(str) + " · " + rows["backbone"].astype(str)
    own, settings = kinds[~rows["foreign"].astype(bool)].unique(), sorted(rows["setting"].unique())
    table = Table(
        title=f"{value.label} against {cost.noun}" + (f" · {_shown(own[0])}" if len(own) == 1 else ""),
        caption=_caption(frame, rows, settings, cost, value),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("configuration", overflow="fold")
    if len(own) > 1:
        table.add_column("model", overflow="fold")
    if len(settings) > 1:
        table.add_column("")
    table.add_column(f"{cost.title} {'↓' if cost.better == 'lower' else '↑'}", justify="right")
    table.add_column("")
    table.add_column(f"{value.title} {'↓' if value.better == 'lower' else '↑'}", justify="right")
    ends = list(value.interval or ())
    intervals = bool(ends) and bool(rows[ends].notna().all(axis=1).any())
    if intervals:
        table.add_column("interval", justify="right")
    table.add_column("seeds", justify="right")
    numbers = rows["setting"].map(settings.index)
    for index in numbers.sort_values(kind="stable").index:
        row = rows.loc[index]
        marks = [time_mark(m, row["timing_status"]) for m in (cost, value)]
        spread = f" ± {value.format(row[f'{y}_sd'])}" if row["n"] > 1 else ""
        on_front = MARKS.get(row["membership"], " ")
        cells = [on_front, row["label"], *[kinds[index]] * (len(own) > 1)]
        cells += [f"[{numbers[index] + 1}]"] * (len(settings) > 1) + [cost.format(row[x]) + marks[0]]
        cells += ["~" if row["not_different"] else " ", value.format(row[y]) + spread + marks[1]]
        if intervals:
            cells.append(" to ".join(value.format(row[column]) for column in ends))
        table.add_row(*map(_shown, (*cells, str(row["n"]))), style="bold" if row["membership"] == "certain" else "dim")
    return table


def time_mark(m: Metric, status: str) -> str:
    """Suffix of a time that may not enter the front, with its status; empty for every other value."""
    return f" * {status.replace('_', ' ')}" if m.timed and status != "ok" else ""


def _shown(text: object) -> str:
    """Text of a record without control characters and without markup of rich."""
    return escape(printable(text))


def _caption(frame: pd.DataFrame, rows: pd.DataFrame, settings: list[str], cost: Metric, value: Metric) -> str:
    status = frame.drop_duplicates("run_id")["status"]
    unmeasured = len(status) - len({run for runs in rows["run_ids"] for run in runs})
    parts = [_front_sentence(rows, value)]
    for ended in ENDED_EARLY:
        if count := int((status == ended).sum()):
            parts.append(f"{count} {ended}")
            unmeasured -= count
    if unmeasured:
        parts.append(f"{unmeasured} without {cost.noun} or {value.noun}")
    if left_out := describe_left_out(rows):
        parts.append(f"* {left_out}")
    sentences = [", ".join(parts) + "."]
    foreign = rows.loc[rows["timing_status"] != "ok", "foreign"].astype(bool)
    commands = ["`rhobench measure STORE`"] * (not foreign.all()) + ["`rhobench benchmark PATH`"] * bool(foreign.any())
    if commands:
        sentences.append(f"Repeat their times on a quiet machine: {' and '.join(commands)}.")
    if rows["not_different"].any():
        sentences.append("~ not shown to differ from the best cheaper configuration.")
    covers = set(rows["interval_covers"].dropna())
    if covers == {"images"}:
        sentences.append("Intervals: 95 % over images, for these trained models and not for other seeds.")
    elif covers:
        sentences.append(f"Intervals: 95 % over {' or, for one seed, over '.join(sorted(covers, reverse=True))}.")
    elif value.coco and len(rows):
        sentences.append("No intervals: evaluated on one image, or by a version that stored no matches.")
    if len(settings) > 1:
        listed = "; ".join(f"[{number}] {text}" for number, text in enumerate(settings, 1))
        sentences.append(f"Settings that cannot be compared, one front each: {listed}.")
    return " ".join(sentences)


def _front_sentence(rows: pd.DataFrame, value: Metric) -> str:
    if missing := describe_missing_front(rows, value.name):
        return missing[:1].upper() + missing[1:]
    kinds = rows["membership"].value_counts()
    noise = f", {MARKS['within noise']} {kinds['within noise']} within noise" if "within noise" in kinds else ""
    return f"{MARKS['certain']} {kinds.get('certain', 0)} of {len(rows)} configurations on the front{noise}"
