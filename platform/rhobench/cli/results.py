"""``rhobench pareto``, ``report`` and ``reproduce``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import FAILED, AsJson, StoreArgument, report_problems


def pareto(
    store: StoreArgument,
    x: Annotated[str, typer.Option(help="Metric of cost: gflops, latency_ms, fps or params_m.")] = "gflops",
    y: Annotated[str, typer.Option(help="Metric of accuracy: ap, ap50, ap75, ap_s, ...")] = "ap",
    as_json: AsJson = False,
) -> None:
    """Print the Pareto front of a store: accuracy against cost, and how certain it is."""
    from rich.console import Console

    from rhobench.dashboards import front_table
    from rhobench.results import Store, by_configuration
    from rhobench.results.uncertainty import with_uncertainty

    opened = Store(store)
    frame = opened.frame()
    rows = with_uncertainty(by_configuration(frame, x, y), frame, x, y, opened)
    report_problems(opened.problems)
    Console().print(front_table(frame, x, y, rows))
    if as_json:
        # Through the JSON of pandas, which writes NaN as null; json.dumps would write NaN, which is not JSON.
        print(json.dumps({"front": json.loads(rows.to_json(orient="records"))}))


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


def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Published table: table1.")],
    cost_only: Annotated[
        bool, typer.Option("--cost-only", help="Compare only parameters and GFLOPs, without weights.")
    ] = False,
    form: Annotated[str, typer.Option("--format", help="Output format: text, markdown, latex or json.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Compare a published table with our own numbers, with a verdict for every row."""
    from rich.console import Console

    from rhobench.dashboards.reproduction import FORMATS, render
    from rhobench.experiments.published import published_rows

    if form not in FORMATS:
        raise ValueError(f"There is no format {form!r}: choose one of {', '.join(FORMATS)}.")
    published_rows(table)  # raises for an unknown table
    if not cost_only:
        raise ValueError(
            f"The accuracy of {table} needs trained models, which cannot be compared with it yet: "
            f"`rhobench reproduce {table} --cost-only` reproduces its parameters and GFLOPs."
        )
    from rhobench.reproduction.cost import reproduce_cost  # imports torch, which no wrong request waits for

    with Console(stderr=True).status("") as status:
        reproduced = reproduce_cost(table, lambda model: status.update(f"counting {model}"))
    rendered = render(reproduced, form)
    if isinstance(rendered, str):
        print(rendered)
    else:
        Console(highlight=False).print(rendered)
    if as_json:
        print(json.dumps(reproduced.as_dict()))
    raise typer.Exit(0 if reproduced.reproduced else FAILED)
