"""``rhobench reproduce``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli.options import FAILED, OUTPUT, AsJson, absolute_place, report_problems
from rhobench.cli.progress import progress
from rhobench.config.sweep import SweepOptions

if TYPE_CHECKING:
    from rhobench.config.published import PublishedTable
    from rhobench.results import Store
    from rhobench.results.reproduction import ReproducedTable

SOURCES, MISSING = "Our own values", "Missing runs"
FORMATS = ("text", "markdown", "latex", "json", "html")
DEFAULTS = SweepOptions()


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE]", help="Published table, such as table1 or claims. Without it: list them."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="Folder or URL that `rhobench run` wrote to, whose runs are compared."),
    ] = None,
    store_option: Annotated[
        str | None, typer.Option("--store", metavar="DIR|URL", help="The same as STORE.", rich_help_panel=SOURCES)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder with official checkpoints or our own models, which are evaluated on --data.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="COCO data set for --weights, and for --run if it trains on COCO.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Shorter side of the images for --weights. Default: 800; another is not comparable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    cost_only: Annotated[
        bool,
        typer.Option("--cost-only", help="Only what needs neither runs nor weights.", rich_help_panel=SOURCES),
    ] = False,
    run: Annotated[
        bool,
        typer.Option("--run", help="Train the rows that have no run; the cost is told first.", rich_help_panel=MISSING),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="With --run: list the runs and their cost, and exit.", rich_help_panel=MISSING),
    ] = False,
    address: Annotated[
        str,
        typer.Option(help="With --run: Ray cluster, local, auto or HOST:PORT.", rich_help_panel=MISSING),
    ] = DEFAULTS.address,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="With --run: start a plan of a year of compute or more.", rich_help_panel=MISSING),
    ] = False,
    form: Annotated[
        str, typer.Option("--format", help=f"Output format: {', '.join(FORMATS)}.", rich_help_panel=OUTPUT)
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Compare a published table or claim with our own numbers, with a verdict for every row.

    Costs are counted at once. AP and speed come from the runs of STORE or from weights.

    Examples:
      rhobench reproduce table1 --cost-only
      rhobench reproduce claims STORE
      rhobench reproduce table1 --weights DIR --data COCO --format latex
      rhobench reproduce scoring STORE --run
    """
    from rhobench.experiments.published import find_table

    if form not in FORMATS:
        raise ValueError(f"There is no format {form!r}: choose one of {', '.join(FORMATS)}.")
    if table is None:
        _list_tables(as_json=as_json)
        return
    published = find_table(table)  # raises for an unknown table
    place = _place(store, store_option)
    _require_consistent(place, weights, data, short_side, cost_only=cost_only, run=run, dry_run=dry_run)
    if run:
        place = place or f"rhobench-store/{table}"
        started = _run_missing(table, published, place, data, address, dry_run=dry_run, confirmed=yes)
        if dry_run or started:
            raise typer.Exit(started)
    done = _reproduce(table, place, weights, data, short_side, cost_only=cost_only)
    _print(done, form, as_json=as_json)
    raise typer.Exit(0 if done.reproduced else FAILED)


def _list_tables(*, as_json: bool) -> None:
    from rhobench.experiments.published import TABLES

    titles = {name: build().title for name, build in TABLES.items()}
    for name, title in titles.items():
        print(f"{name:<18} {title}")
    if as_json:
        print(json.dumps({"tables": titles}))


def _place(store: str | None, option: str | None) -> str | None:
    if store is not None and option is not None:
        raise ValueError(f"The store is given twice, as {store} and as --store {option}: leave one out.")
    given = store if store is not None else option
    if given is not None and not given.strip():
        raise ValueError("The store is empty: give a folder or a URL, or leave it out.")
    return given


def _require_consistent(
    place: str | None,
    weights: Path | None,
    data: Path | None,
    short_side: int | None,
    *,
    cost_only: bool,
    run: bool,
    dry_run: bool,
) -> None:
    """Refuse options that contradict each other or miss another one."""
    if cost_only and (place or weights or run):
        extra = "--run" if run else "--weights" if weights else "the store"
        raise ValueError(f"--cost-only needs neither runs nor weights: leave out {extra}, or --cost-only.")
    if dry_run and not run:
        raise ValueError("--dry-run shows what --run would do: add --run.")
    if weights is not None and data is None:
        raise ValueError("--weights needs the images to evaluate on: add --data DIR, a data set in COCO's layout.")
    if data is not None and weights is None and not run:
        raise ValueError("--data is used by --weights and --run: add one of them.")
    if short_side is not None and weights is None:
        raise ValueError("--short-side is used by --weights: add it.")
    if short_side is not None and short_side < 1:
        raise ValueError(f"--short-side {short_side} is no length: give a number of pixels.")


def _reproduce(
    table: str, place: str | None, weights: Path | None, data: Path | None, short_side: int | None, *, cost_only: bool
) -> ReproducedTable:
    from rhobench.reproduction.reproduce import reproduce_table

    opened, problems = _open(place), list[str]()
    with progress() as show:
        done = reproduce_table(
            table,
            store=opened,
            weights=weights,
            data=data,
            short_side_px=short_side,
            cost_only=cost_only,
            on_progress=show,
            problems=problems,
        )
    report_problems(problems)
    return done


def _open(place: str | None) -> Store | None:
    """The store, with a message if it has no runs."""
    if place is None:
        return None
    from rhobench.results import Store

    opened = Store(place)
    if opened.frame().empty:
        report_problems([f"{place} has no runs, so no row is compared with one. `rhobench run` writes them."])
    return opened


def _print(done: ReproducedTable, form: str, *, as_json: bool) -> None:
    from rich.console import Console

    from rhobench.dashboards.reproduction import render

    rendered = render(done, form)
    if isinstance(rendered, str):
        print(rendered)
    else:
        Console(highlight=False).print(rendered)
    if as_json:
        print(json.dumps(done.as_dict()))


def _run_missing(
    table: str,
    published: PublishedTable,
    place: str,
    data: Path | None,
    address: str,
    *,
    dry_run: bool,
    confirmed: bool,
) -> int:
    """Run the experiments of the rows without a run, each after its estimate -> exit status."""
    from rhobench.cli.run import check, show_plan, start
    from rhobench.experiments import EXPERIMENTS
    from rhobench.results import Store
    from rhobench.results.published_runs import missing_experiments
    from rhobench.study.request import StudyRequest
    from rhobench.study.resolve import resolve_study

    if not published.experiments:
        raise ValueError(f"No row of {table} needs a run: leave out --run.")
    options = SweepOptions(address=address)
    for name in missing_experiments(published, Store(place)):
        needs_data = EXPERIMENTS[name]().base.data.dir is not None
        if needs_data and data is None:
            raise ValueError(f"{name} trains on COCO: add --data DIR with its folder.")
        study = resolve_study(StudyRequest(experiment=name, data=data if needs_data else None))
        report_problems(study.data_notes)
        study = check(study, address, confirmed=confirmed or dry_run)
        status = show_plan(study, absolute_place(place), options)
        if not dry_run:
            status = status or start(study, absolute_place(place), options)
        if status:
            return status
    return 0
