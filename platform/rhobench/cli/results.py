"""``rhobench pareto`` and ``rhobench report``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import AsJson, StoreArgument, report_problems


def pareto(
    store: StoreArgument,
    x: Annotated[str, typer.Option(help="Metric of cost: gflops, latency_ms, fps or params_m.")] = "gflops",
    y: Annotated[str, typer.Option(help="Metric of accuracy: ap, ap50, ap75, ap_s, ...")] = "ap",
    as_json: AsJson = False,
) -> None:
    """Print the Pareto front of a store: accuracy against cost, and how certain it is."""
    from rich.console import Console

    from rhobench.dashboards import front_table
    from rhobench.results import Store
    from rhobench.results.relative_times import describe_relative_times, relative_times
    from rhobench.results.uncertainty import with_uncertainty

    opened = Store(store)
    frame = opened.frame()
    rows = with_uncertainty(frame, x, y, opened)
    relative = relative_times(opened, frame) if x == "latency_ms" else []
    report_problems(opened.problems)
    console = Console()
    console.print(front_table(frame, x, y, rows))
    for sentence in describe_relative_times(relative):
        console.print(sentence, highlight=False, markup=False)
    if as_json:
        # Through the JSON of pandas, which writes NaN as null; json.dumps would write NaN, which is not JSON.
        front = json.loads(rows.to_json(orient="records"))
        print(json.dumps({"front": front, "relative_times": [asdict(time) for time in relative]}))


def report(
    store: StoreArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="HTML file to write. Default: report.html in the store; for a bucket, here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a store as one HTML file that opens offline."""
    from rhobench.dashboards.report import report_path, write_report
    from rhobench.results import Store

    opened = Store(store)
    page = write_report(opened, out or report_path(opened))
    report_problems(opened.problems)
    print(page)
    if as_json:
        print(json.dumps({"report": str(page)}))
