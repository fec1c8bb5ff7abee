"""``rhobench run`` and ``rhobench experiments``."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import typer

from rhobench.cli import run_options as of_run
from rhobench.cli.options import FAILED, AsJson, ExperimentArgument, absolute_place, report_problems
from rhobench.cli.progress import progress
from rhobench.config.sweep import SweepOptions

if TYPE_CHECKING:
    from rhobench.study.study import Study

DEFAULTS = SweepOptions()


def experiments(as_json: AsJson = False) -> None:
    """List the experiments: what each shows, its number of runs and its estimated time."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rhobench.experiments import EXPERIMENTS
    from rhobench.study.grid import run_count

    rows = []
    table = Table("experiment", "what it shows", box=box.SIMPLE_HEAD)
    table.add_column("runs", justify="right")
    table.add_column("about", no_wrap=True)
    for name, build in EXPERIMENTS.items():
        experiment = build()
        row = {
            "name": name,
            "summary": experiment.summary,
            "runs": run_count(experiment),
            "cpu_hours": experiment.cpu_hours,
            "gpu_hours": experiment.gpu_hours,
        }
        rows.append(row)
        cost = f"{experiment.gpu_hours:g} GPU h" if experiment.gpu_hours else f"{experiment.cpu_hours:g} CPU core h"
        cost = "your data decide" if experiment.follows_data else cost
        table.add_row(name, experiment.summary, str(row["runs"]), cost)
    Console(highlight=False).print(table)
    if as_json:
        print(json.dumps({"experiments": rows}))


def run(
    experiment: ExperimentArgument,
    set_: of_run.SetOption = None,
    data: of_run.DataOption = None,
    smoke: of_run.SmokeOption = False,
    axis: of_run.AxisOption = None,
    range_: of_run.RangeOption = None,
    exclude: of_run.ExcludeOption = None,
    seeds: of_run.SeedsOption = None,
    order: of_run.OrderOption = None,
    fork: of_run.ForkOption = None,
    store: of_run.StoreOption = None,
    address: of_run.AddressOption = DEFAULTS.address,
    without_token: of_run.WithoutTokenOption = DEFAULTS.without_token,
    samples: of_run.SamplesOption = None,
    sampler: of_run.SamplerOption = None,
    stop: of_run.StopOption = None,
    retries: of_run.RetriesOption = DEFAULTS.retries,
    stuck_after: of_run.StuckAfterOption = DEFAULTS.stuck_minutes,
    dry_run: of_run.DryRunOption = False,
    fit: of_run.FitOption = False,
    price_per_hour: of_run.PriceOption = None,
    log_to: of_run.LogToOption = None,
    require_expected: of_run.RequireExpectedOption = False,
    timings: of_run.TimingsOption = False,
    yes: of_run.YesOption = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment: train, evaluate, measure, record, report.

    The same command again continues it and repeats no finished run.

    Examples:
      rhobench run demo --smoke
      rhobench run demo --axis model.rho=0.1,0.3,1 --seeds 0,1,2
      rhobench run finetune --data DIR
      rhobench run bccd --data DIR --address auto --store s3://bucket/bccd
      rhobench run encoder_depth --stop asha --retries 5
      rhobench run official_50ep --data COCO --fit --price-per-hour 2.5
    """
    from rhobench.study.overrides import Overrides

    overrides = Overrides(
        axes=axis or [],
        ranges=range_ or [],
        samples=samples,
        sampler=sampler,
        exclude=exclude or [],
        seeds=seeds,
        order=order,
        stop=stop,
        confirmed=yes,
    )
    options = SweepOptions(
        address=address,
        without_token=without_token,
        trackers=tuple(log_to or ()),
        retries=retries,
        stuck_minutes=stuck_after,
    )
    _require_price(price_per_hour, estimating=dry_run or fit)
    if store is not None and not store.strip():
        raise ValueError("--store is empty: give a folder or a URL, or leave it out.")
    from rhobench.study.request import StudyRequest
    from rhobench.study.resolve import resolve_study

    study = resolve_study(
        StudyRequest(
            experiment=experiment, assignments=set_ or (), data=data, smoke=smoke, fork=fork, overrides=overrides
        )
    )
    report_problems(study.data_notes)
    study = check(study, options.address, confirmed=yes or dry_run or fit)
    place = absolute_place(store or f"rhobench-store/{experiment}{'-smoke' if smoke else ''}")
    if dry_run:
        raise typer.Exit(show_plan(study, place, options, price_per_hour, as_json=as_json))
    if fit:
        raise typer.Exit(_fit(study, price_per_hour, as_json))
    raise typer.Exit(start(study, place, options, require_expected=require_expected, timings=timings, as_json=as_json))


def check(study: Study, address: str, *, confirmed: bool) -> Study:
    """Refuse a study that cannot work or that is very long, before anything starts, and print warnings.

    Returns:
        The study, without "auto" as a precision.
    """
    study = _with_precision(study, address)
    from rich.console import Console

    from rhobench.runner.preflight import check_study, require_confirmed_hours

    with Console(stderr=True).status("checking the plan") as status:
        warnings = check_study(study, address, status.update)
        require_confirmed_hours(study, confirmed=confirmed)
    report_problems(warnings)
    return study


def _require_price(price_per_hour: float | None, *, estimating: bool) -> None:
    if price_per_hour is None:
        return
    if not estimating:
        raise ValueError("--price-per-hour is used by the estimates of --fit and --dry-run: add one of them.")
    if not 0 <= price_per_hour < math.inf:
        raise ValueError(f"--price-per-hour {price_per_hour:g} is not a price: give a number of at least 0.")


def _with_precision(study: Study, address: str) -> Study:
    """The study without "auto" as a precision; what it means on this machine is printed."""
    from rhobench.study.precision import resolve_precision

    resolved, choice = resolve_precision(study, address)
    if choice is not None:
        print(f"train.{choice}")
    return resolved


def start(
    study: Study,
    place: str,
    options: SweepOptions,
    *,
    require_expected: bool = False,
    timings: bool = False,
    as_json: bool = False,
) -> int:
    """Run the study -> exit status."""
    from rich.console import Console

    from rhobench.runner.run_study import run_study

    if require_expected:
        _require_expectations(study)
    outcome = run_study(study, place, options, Console(), show_timings=timings)
    if as_json:
        print(json.dumps(outcome.as_dict()))
    if require_expected and not outcome.meets_expectations:
        return outcome.exit_status or FAILED
    return outcome.exit_status


def _require_expectations(study: Study) -> None:
    """Refuse ``--require-expected`` before anything runs, if nothing could be compared."""
    from rhobench.study.expectations import expectation_scope

    reason = expectation_scope(study).not_applicable
    if reason is not None:
        raise ValueError(f"--require-expected cannot be met: {reason}.")


def show_plan(
    study: Study, place: str, options: SweepOptions, price_per_hour: float | None = None, *, as_json: bool = False
) -> int:
    """List what would run -> exit status."""
    from rich.console import Console

    from rhobench.results import Store
    from rhobench.runner.dry_run import plan_sweep

    store = Store(place)
    # On stderr, so that stdout holds nothing but the plan.
    with progress("reading the store") as show:
        planned = plan_sweep(study, store, options.address, price_per_hour, show, without_token=options.without_token)
    report_problems(store.problems)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # one line a run, so that programs can read the table
    console.print(planned.card(), soft_wrap=True)
    if as_json:
        print(json.dumps(planned.as_dict()))
    return 0 if planned.fits else FAILED


def _fit(study: Study, price_per_hour: float | None, as_json: bool) -> int:
    """Find the largest micro-batch that fits -> exit status."""
    from rich.console import Console

    from rhobench.runner.fit import measure_fit

    if not study.configs:
        raise ValueError("Optuna chooses these runs during the sweep: add --sampler sobol to probe evenly spread ones.")
    with progress("probing batch sizes") as show:
        fitted = measure_fit(study, price_per_hour, show)
    Console(highlight=False).print(fitted.card(), soft_wrap=True)
    if as_json:
        print(json.dumps(fitted.as_dict()))
    return 0 if fitted.micro_batch_size else FAILED
