"""The command line. Each command imports what it needs inside, so that ``rhobench --help`` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhobench import cli_cluster, cli_data, cli_weights
from rhobench.cli_conventions import FAILED, WRONG_REQUEST, AsJson, full_place, warn

if TYPE_CHECKING:
    from rhobench.study import Study

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(cli_cluster.app, name="cluster")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_weights.app, name="weights")


@app.callback()
def rhobench() -> None:
    """Benchmark Sparse DETR: what accuracy does a given cost buy?"""


def main() -> None:
    """Entry point: a ValueError is a wrong request, told in one sentence with exit status 2."""
    try:
        app(standalone_mode=True)
    except ValueError as error:
        sys.exit(_complain(str(error)))


def _complain(sentence: str) -> int:
    print(f"rhobench: {sentence}", file=sys.stderr)
    return WRONG_REQUEST


@app.command()
def experiments(as_json: AsJson = False) -> None:
    """List the experiments: what each shows, its runs, its estimated time."""
    from rhobench.expansion import run_count
    from rhobench.experiments import EXPERIMENTS

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


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment; `rhobench experiments` lists them.")],
    store: Annotated[
        str | None,
        typer.Option(metavar="DIR|URL", help="Folder or s3:// URL of the results. Default: rhobench-store/EXPERIMENT."),
    ] = None,
    address: Annotated[str, typer.Option(help="Ray cluster: local, auto or HOST:PORT.")] = "local",
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
    retries: Annotated[int, typer.Option(help="Further tries at a run whose process or machine failed.")] = 2,
    stuck_after: Annotated[
        float, typer.Option(metavar="MINUTES", help="Stop a run that says nothing for so long, and try it again.")
    ] = 60.0,
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

    from rhobench.conduct import How, run_study
    from rhobench.study import resolve
    from rhobench.variation import Variation

    if price_per_hour is not None and not (fit or dry_run):
        raise ValueError("--price-per-hour is for the estimates of --fit and --dry-run: add one of them.")
    variation = Variation(
        axes=axis or [],
        ranges=range_ or [],
        samples=samples,
        sampler=sampler,
        exclude=exclude or [],
        seeds=seeds,
        order=order,
        stop=stop,
    )
    how = How(
        address=address,
        without_token=without_token,
        trackers=log_to or [],
        retries=retries,
        stuck_minutes=stuck_after,
    )
    study = resolve(experiment, set_ or [], data, smoke, fork, variation)
    place = full_place(store or f"rhobench-store/{experiment}{'-smoke' if smoke else ''}")
    if dry_run:
        raise typer.Exit(_plan(study, place, address, price_per_hour, as_json))
    if fit:
        raise typer.Exit(_fit(study, price_per_hour, as_json))
    outcome = run_study(study, place, how, Console())
    if as_json:
        print(json.dumps(outcome.as_dict()))
    raise typer.Exit(outcome.exit_status)


def _plan(study: Study, place: str, address: str, price_per_hour: float | None, as_json: bool) -> int:
    """Say what would be run -> exit status."""
    from rich.console import Console

    from rhobench.plan import plan
    from rhobench.results import Store

    store = Store(place)
    with Console(stderr=True).status("reading the store") as status:
        planned = plan(study, store, address, price_per_hour, status.update)
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

    from rhobench.fit import fit

    if not study.configs:
        raise ValueError("Optuna chooses these runs later: add --sampler sobol to try runs that are spread evenly.")
    with Console(stderr=True).status("trying") as status:
        fitted = fit(study, price_per_hour, status.update)
    Console(highlight=False).print(fitted.card(), soft_wrap=True)
    if as_json:
        print(json.dumps(fitted.as_dict()))
    return 0 if fitted.micro_batch_size else FAILED


@app.command()
def pareto(
    store: Annotated[str, typer.Argument(help="Folder or URL that `rhobench run` wrote to.")],
    x: Annotated[str, typer.Option(help="Cost: gflops, latency_ms, fps or params_m.")] = "gflops",
    y: Annotated[str, typer.Option(help="Accuracy: ap, ap50, ...")] = "ap",
    as_json: AsJson = False,
) -> None:
    """Print the Pareto front of a store."""
    from rich.console import Console

    from rhobench.dashboards.tables import front_table
    from rhobench.results import Store, by_configuration

    opened = Store(store)
    frame = opened.frame()
    warn(opened.problems)
    Console().print(front_table(frame, x, y))
    if as_json:
        print(json.dumps({"front": json.loads(by_configuration(frame, x, y).to_json(orient="records"))}))


@app.command()
def report(
    store: Annotated[str, typer.Argument(help="Folder or URL that `rhobench run` wrote to.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write a self-contained page that opens offline."""
    from rhobench.dashboards import write_report
    from rhobench.results import Store

    opened = Store(store)
    page = write_report(opened, out)
    warn(opened.problems)
    print(page)
    if as_json:
        print(json.dumps({"report": str(page)}))


@app.command()
def predict(
    artifact: Annotated[Path, typer.Argument(help="A model.safetensors, of a run or of `rhobench weights import`.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the pictures.")],
    rho: Annotated[float | None, typer.Option(help="Share of the tokens to update; as trained without this.")] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score that is shown.")] = 0.4,
    as_json: AsJson = False,
) -> None:
    """Draw what a model finds in images, beside the tokens that its encoder updates at each level."""
    from rhobench.predict import predict as predict_images

    predicted = []
    for one in predict_images(artifact, images, out, rho, threshold):
        predicted.append(one.as_dict())
        print(f"{one.picture}: {len(one.objects)} objects, {one.updated:,} of {one.tokens:,} tokens updated")
    if as_json:
        print(json.dumps({"images": predicted}))


@app.command()
def cost(
    model: Annotated[str, typer.Argument(help="A named model, such as sparse_detr_r50, or FAMILY_ANYTIMMBACKBONE.")],
    rho: Annotated[float | None, typer.Option(help="Share of the encoder tokens to update.")] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the image in pixels.")] = "800x1066",
    val2017: Annotated[bool, typer.Option("--val2017", help="The mean over COCO val2017 instead of one size.")] = False,
    first: Annotated[int | None, typer.Option(help="With --val2017: its first so many images.")] = None,
    count: Annotated[str, typer.Option(help="standard: 2 for a multiply-add. official: as published.")] = "standard",
    as_json: AsJson = False,
) -> None:
    """Count parameters and operations of a model. Needs no weights."""
    from rich.console import Console

    from rhobench.cost import mean_cost, model_cost

    if first is not None and not val2017:
        raise ValueError("--first chooses among the images of val2017: add --val2017.")
    with Console(stderr=True).status(f"counting {model}"):
        counted = mean_cost(model, rho, first, count) if val2017 else model_cost(model, rho, size, count)
    Console(highlight=False).print(counted.card())
    if as_json:
        print(json.dumps(counted.as_dict()))


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(help="A published table: table1.")],
    cost_only: Annotated[bool, typer.Option("--cost-only", help="Parameters and GFLOPs: no weights needed.")] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex or json.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Put a published table beside our own numbers, with a verdict for every row."""
    from rich.console import Console

    from rhobench.dashboards.reproduction import FORMATS, render
    from rhobench.reproduce import published_rows, reproduce_cost

    if form not in FORMATS:
        raise ValueError(f"There is no format {form!r}: choose one of {', '.join(FORMATS)}.")
    published_rows(table)
    if not cost_only:
        raise ValueError(
            f"The accuracy of {table} needs trained models, which cannot be put beside it yet: "
            f"`rhobench reproduce {table} --cost-only` reproduces its parameters and GFLOPs."
        )
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


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Try what works on this machine: backends against float64, GPU, Ray, browser."""
    from rich.console import Console

    from rhobench.doctor import examine

    findings = []
    with Console(stderr=True).status("trying"):
        for finding in examine():
            findings.append(finding)
            print(f"{finding.verdict:<7} {finding.name}: {finding.sentence}", flush=True)
    failed = any(finding.required and not finding.works for finding in findings)
    if as_json:
        print(json.dumps({"works": not failed, "findings": [finding.as_dict() for finding in findings]}))
    raise typer.Exit(FAILED if failed else 0)
