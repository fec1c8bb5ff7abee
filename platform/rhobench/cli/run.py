"""``rhobench run`` and ``rhobench experiments``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench.cli.options import FAILED, AsJson, full_place, warn
from rhobench.config.sweep import SweepOptions

if TYPE_CHECKING:
    from rhobench.study.study import Study

DEFAULTS = SweepOptions()


def experiments(as_json: AsJson = False) -> None:
    """List the experiments: what each shows, its runs, its estimated time."""
    from rhobench.experiments import EXPERIMENTS
    from rhobench.study.grid import run_count

    rows = []
    for name, build in EXPERIMENTS.items():
        experiment = build()
        runs = run_count(experiment)
        rows.append(
            {
                "name": name,
                "summary": experiment.summary,
                "runs": runs,
                "cpu_hours": experiment.cpu_hours,
                "gpu_hours": experiment.gpu_hours,
            }
        )
        cost = f"{experiment.gpu_hours:g} GPU h" if experiment.gpu_hours else f"{experiment.cpu_hours:g} CPU core h"
        print(f"{name:<15} {experiment.summary}  [{runs} runs, about {cost}]")
    if as_json:
        print(json.dumps({"experiments": rows}))


def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment; `rhobench experiments` lists them.")],
    store: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Folder or s3:// URL of the results. Default: rhobench-store/EXPERIMENT."),
    ] = None,
    address: Annotated[str, typer.Option(help="Ray cluster: local, auto or HOST:PORT.")] = DEFAULTS.address,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The smallest size that goes the whole way, in about a minute.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set a field, such as train.epochs=3.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=V1,V2", help="Vary a field. Fields that take several values: PATH=V1,V2;V1,V2."),
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="PATH=LOW:HIGH[:log]", help="Vary a number, with --samples."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Draw so many configurations along all axes.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="random, sobol (spread evenly) or optuna (chosen from results).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATH=V,PATH=V", help="Leave out runs that have all these values.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N", help="Seeds of every configuration.")] = None,
    order: Annotated[
        str | None, typer.Option(help="given, cheapest or informative (what is left out last tells least).")
    ] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="RULE", help="End runs that are far behind: asha or median; none: no run.")
    ] = None,
    retries: Annotated[
        int, typer.Option(help="Further tries at a run whose process or machine failed.")
    ] = DEFAULTS.retries,
    stuck_after: Annotated[
        float, typer.Option(metavar="MINUTES", help="Stop a run that says nothing for so long, and try it again.")
    ] = DEFAULTS.stuck_minutes,
    data: Annotated[Path | None, typer.Option(help="Folder of a COCO-format data set.")] = None,
    fork: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Start every run from the weights in the folder of this run."),
    ] = None,
    log_to: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACKER", help="Log to mlflow or wandb, too. TensorBoard files are always written."),
    ] = None,
    without_token: Annotated[
        bool,
        typer.Option("--without-token", help="Use Ray without a token: whoever reaches it can then run code on it."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs, what they need and cost, and stop.")
    ] = False,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Try the largest batches on this machine, say what fits and what all runs take."),
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(help="With --fit or --dry-run: of the device of one worker, a GPU or its cores.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run an experiment: train, score, measure, record, report. The same command again continues it."""
    from rich.console import Console

    from rhobench.runner.run_study import run_study
    from rhobench.study.overrides import Overrides
    from rhobench.study.resolve import resolve

    if price_per_hour is not None and not (fit or dry_run):
        raise ValueError("--price-per-hour is for the estimates of --fit and --dry-run: add one of them.")
    if price_per_hour is not None and not 0 <= price_per_hour < math.inf:
        raise ValueError(f"--price-per-hour {price_per_hour:g} is no price: it is a number from 0 on.")
    overrides = Overrides(
        axes=axis or [],
        ranges=range_ or [],
        samples=samples,
        sampler=sampler,
        exclude=exclude or [],
        seeds=seeds,
        order=order,
        stop=stop,
    )
    options = SweepOptions(
        address=address,
        without_token=without_token,
        trackers=tuple(log_to or ()),
        retries=retries,
        stuck_minutes=stuck_after,
    )
    if store is not None and not store.strip():
        raise ValueError("--store is empty: give a folder or a URL, or leave it out.")
    study = resolve(experiment, set_ or [], data, smoke, fork, overrides)
    place = full_place(store or f"rhobench-store/{experiment}{'-smoke' if smoke else ''}")
    if dry_run:
        raise typer.Exit(_plan(study, place, options, price_per_hour, as_json))
    if fit:
        raise typer.Exit(_fit(study, price_per_hour, as_json))
    outcome = run_study(study, place, options, Console())
    if as_json:
        print(json.dumps(outcome.as_dict()))
    raise typer.Exit(outcome.exit_status)


def _plan(study: Study, place: str, options: SweepOptions, price_per_hour: float | None, as_json: bool) -> int:
    """Say what would be run -> exit status."""
    from rich.console import Console

    from rhobench.results import Store
    from rhobench.runner.dry_run import plan

    store = Store(place)
    with Console(stderr=True).status("reading the store") as status:
        planned = plan(
            study, store, options.address, price_per_hour, status.update, without_token=options.without_token
        )
    warn(store.problems)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # a run is a line, so that programs can read the table, too
    console.print(planned.card(), soft_wrap=True)
    if as_json:
        print(json.dumps(planned.as_dict()))
    return 0 if planned.fits else FAILED


def _fit(study: Study, price_per_hour: float | None, as_json: bool) -> int:
    """Try what fits -> exit status."""
    from rich.console import Console

    from rhobench.runner.fit import fit

    if not study.configs:
        raise ValueError("Optuna chooses these runs later: add --sampler sobol to try runs that are spread evenly.")
    with Console(stderr=True).status("trying") as status:
        fitted = fit(study, price_per_hour, status.update)
    Console(highlight=False).print(fitted.card(), soft_wrap=True)
    if as_json:
        print(json.dumps(fitted.as_dict()))
    return 0 if fitted.micro_batch_size else FAILED
