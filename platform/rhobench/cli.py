"""The command line. Each command imports what it needs inside, so that ``rhobench --help`` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
data_app = typer.Typer(no_args_is_help=True, help="Check a data set, or generate one.")
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]

FAILED, WRONG_REQUEST = 1, 2


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
    from rhobench.config_tree import runs_of
    from rhobench.experiments import EXPERIMENTS

    rows = []
    for name, build in EXPERIMENTS.items():
        experiment = build()
        runs = len(runs_of(experiment))
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
        print(f"{name:<8} {experiment.summary}  [{runs} runs, about {cost}]")
    if as_json:
        print(json.dumps({"experiments": rows}))


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment; `rhobench experiments` lists them.")],
    store: Annotated[
        Path | None, typer.Option(help="Folder of the results. Default: rhobench-store/EXPERIMENT.")
    ] = None,
    address: Annotated[str, typer.Option(help="Ray cluster: local, auto or HOST:PORT.")] = "local",
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The smallest size that goes the whole way, in about a minute.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set a field, such as train.epochs=3.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of a COCO-format data set.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment: train, score, measure, record, report. The same command again continues it."""
    from rich.console import Console

    from rhobench.study import resolve, run_study

    study = resolve(experiment, set_ or [], data, smoke)
    if dry_run:
        print("\n".join(study.run_ids))
        return
    folder = store or Path("rhobench-store") / (f"{experiment}-smoke" if smoke else experiment)
    outcome = run_study(study, folder.absolute(), address, Console())
    if as_json:
        print(json.dumps(outcome.as_dict()))
    raise typer.Exit(outcome.exit_status)


@app.command()
def pareto(
    store: Annotated[Path, typer.Argument(help="Folder that `rhobench run` wrote to.")],
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
    _warn(opened.problems)
    Console().print(front_table(frame, x, y))
    if as_json:
        print(json.dumps({"front": json.loads(by_configuration(frame, x, y).to_json(orient="records"))}))


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="Folder that `rhobench run` wrote to.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write a self-contained page that opens offline."""
    from rhobench.dashboards import write_report
    from rhobench.results import Store

    opened = Store(store)
    page = write_report(opened, out)
    _warn(opened.problems)
    print(page)
    if as_json:
        print(json.dumps({"report": str(page)}))


@data_app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with images/ and annotations/.")],
    split: Annotated[list[str] | None, typer.Option(help="Split to check; all of them without this.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a COCO-format data set before anything is trained on it."""
    from rhobench.data import check_dataset

    found = sorted(p.stem.removeprefix("instances_") for p in folder.glob("annotations/instances_*.json"))
    problems = check_dataset(folder, split or found or ["train"])
    for problem in problems:
        print(f"{problem.level}: {problem.message}")
    errors = sum(problem.level == "error" for problem in problems)
    print(f"{folder}: {errors} errors, {len(problems) - errors} warnings in {', '.join(split or found) or 'no split'}")
    if as_json:
        print(json.dumps({"errors": errors, "problems": [vars(problem) for problem in problems]}))
    raise typer.Exit(FAILED if errors else 0)


@data_app.command("scenes")
def scenes(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder.")],
    images: Annotated[int, typer.Option(help="Training images; the validation split has 3 for every 20.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same images.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generate a detection data set of scenes with textured backgrounds and occluded objects."""
    from rhobench.config import ScenesConfig
    from rhobench.data import generate_scenes

    config = ScenesConfig(train_images=images, val_images=max(images * 3 // 20, 1), seed=seed)
    generate_scenes(config, folder)
    print(f"{folder}: {config.train_images} training and {config.val_images} validation images of {config.size_px} px")
    if as_json:
        print(json.dumps({"dir": str(folder), "train_images": config.train_images, "val_images": config.val_images}))


def _warn(problems: list[str]) -> None:
    """Records that could not be read are named, never left out in silence."""
    for problem in problems:
        print(f"rhobench: {problem}", file=sys.stderr)
