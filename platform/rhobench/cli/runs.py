"""``rhobench runs``, ``show``, ``export`` and ``dashboard``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import OUTPUT, AsJson, StoreArgument, report_problems

XMetric = Annotated[str, typer.Option("--x", help="Metric of cost: gflops, latency_ms, fps or params_m.")]
YMetric = Annotated[str, typer.Option("--y", help="Metric of accuracy: ap, ap50, ap75, ap_s, ...")]


def runs(
    store: StoreArgument,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Only runs that fulfil it, such as rho=0.1, lr<=1e-4 or status!=failed."
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to sort by, the best value first.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of rows to print; 0: all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the runs of a store, with the settings that vary and the results."""
    from rich.console import Console

    from rhobench.dashboards.runs_list import runs_table, select_rows, unmatched
    from rhobench.results import Store

    opened = Store(store)
    frame = opened.frame()
    report_problems(opened.problems)
    rows = select_rows(frame, where or [], sort)
    report_problems(unmatched(frame, where or []))
    console = Console()
    console.print(runs_table(rows, frame, limit or None))
    if limit and len(rows) > limit:
        console.print(f"{len(rows) - limit:,} more; --limit 0 lists all.", highlight=False)
    if as_json:
        print(json.dumps({"runs": json.loads(rows.to_json(orient="records"))}))


def show(
    store: StoreArgument,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or a part of it that no other run has.")],
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every metric and every field, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the card of a run: status, results, cost and configuration."""
    from rich.console import Console

    from rhobench.dashboards.run_card import run_card
    from rhobench.results import Store

    opened = Store(store)
    frame = opened.frame()
    report_problems(opened.problems)
    known = frame["run_id"].drop_duplicates()
    found = [run] if (known == run).any() else known[known.str.contains(run, regex=False)].tolist()
    if len(found) != 1:
        names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        problem = f"{len(found)} runs have {run!r} in their id: {names}" if found else f"There is no run {run!r}"
        raise ValueError(f"{problem}. `rhobench runs {store}` lists them.")
    record = opened.read(found[0])
    assert record is not None  # its row was read a moment ago
    Console().print(run_card(record, frame[frame["run_id"] == found[0]], verbose=verbose))
    if as_json:
        print(json.dumps({"run": json.loads(record.to_json())}))


def export(
    store: StoreArgument,
    figure: Annotated[
        str | None, typer.Option(help="Figure to write: front, or the name of another figure of the report.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Format of the figure: svg, pdf, png or html.")] = "svg",
    table: Annotated[str | None, typer.Option(help="Table to write: latex, markdown or csv.")] = None,
    x: XMetric = "gflops",
    y: YMetric = "ap",
    width_mm: Annotated[
        float, typer.Option(min=20, help="Width of the figure in millimetres: a column of a paper.")
    ] = 84,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: FIGURE.FORMAT here; a table is printed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a figure or a table of a store in the form that papers need."""
    from rhobench.dashboards.export import FRONT, ExportError, export_figure, export_table, figure_names, write_figure
    from rhobench.dashboards.store_tables import read_tables
    from rhobench.results import Store
    from rhobench.results.uncertainty import with_uncertainty

    if (figure is None) == (table is None):
        raise ExportError(f"Give either --figure ({', '.join(figure_names())}) or --table latex, markdown or csv.")
    opened = Store(store)
    tables = None if figure is None else read_tables(opened, opened.records())
    frame, rows = opened.frame() if tables is None else tables.frame, None
    if figure == FRONT or table in ("latex", "markdown"):
        rows = with_uncertainty(frame, x, y, opened)
    if table is not None:
        text = export_table(frame, table, x, y, rows)
        report_problems(opened.problems)
        if out is None:
            print(text)
        else:
            out.write_text(text + "\n", encoding="utf-8")
            print(out)
    else:
        assert figure is not None
        assert tables is not None
        report_problems(opened.problems)
        out = out or Path(f"{figure}.{form}")
        write_figure(export_figure(tables, figure, x, y, width_mm, rows), out, width_mm)
        print(out)
    if as_json:
        print(json.dumps({"written": None if out is None else str(out)}))


def dashboard(
    store: StoreArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8050,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this machine need the token that is printed.")
    ] = "127.0.0.1",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the address as one JSON object before serving.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Show the results of a store in a browser while a sweep is running."""
    from rhobench.dashboards.live import serve
    from rhobench.results import Store

    def announce(address: str) -> None:
        print(f"{address} shows {store}; Ctrl-C ends it.", flush=True)
        if as_json:
            print(json.dumps({"address": address}), flush=True)

    serve(Store(store), host, port, announce)
