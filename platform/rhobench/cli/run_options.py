"""The options of ``rhobench run``, in the groups of its help page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhobench.cli.options import OUTPUT

WHAT, WHERE = "What to run", "Where"
SEARCH, FAILURES, ESTIMATES = "Early stopping and search", "Failures", "Estimates"

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set a field of the configuration, such as --set train.epochs=3. Repeatable.",
        rich_help_panel=WHAT,
    ),
]
SmokeOption = Annotated[
    bool,
    typer.Option(
        "--smoke",
        help="Run the smallest size that exercises every step, in about a minute.",
        rich_help_panel=WHAT,
    ),
]
AxisOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH=V1,V2",
        help="Vary a field: --axis model.rho=0.1,0.3. Separate the values of a field that is a list by semicolons: "
        "PATH=V1,V2;V1,V2.",
        rich_help_panel=WHAT,
    ),
]
RangeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="PATH=LOW:HIGH",
        help="Vary a number within bounds, with --samples; append :log for a logarithmic scale: "
        "--range train.lr=1e-4:1e-2:log.",
        rich_help_panel=WHAT,
    ),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH=V,PATH=V",
        help="Leave out runs that have all these values: --exclude model.rho=0.1,model.enc_layers=1.",
        rich_help_panel=WHAT,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option(metavar="N,N", help="Seeds of every configuration: --seeds 0,1,2.", rich_help_panel=WHAT),
]
OrderOption = Annotated[
    str | None,
    typer.Option(
        help="Order of the runs: given, cheapest (first) or informative (most informative first).",
        rich_help_panel=WHAT,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of a data set in COCO's, Roboflow's, YOLO's, Pascal VOC's or a CSV layout: --data coco.",
        rich_help_panel=WHAT,
    ),
]
ForkOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Start every run from the weights of this run or artifact: --fork STORE/runs/RUN_ID.",
        rich_help_panel=WHAT,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="Folder or s3:// URL of the results: --store s3://bucket/prefix. Default: rhobench-store/EXPERIMENT.",
        rich_help_panel=WHERE,
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        help="Ray cluster: local (start one on this machine), auto (find a running one) or HOST:PORT.",
        rich_help_panel=WHERE,
    ),
]
WithoutTokenOption = Annotated[
    bool,
    typer.Option(
        "--without-token",
        help="Use Ray without token authentication: anyone who can reach the cluster can run code on it.",
        rich_help_panel=WHERE,
    ),
]
StopOption = Annotated[
    str | None,
    typer.Option(
        metavar="RULE",
        help="Stop runs early that are far behind: asha, median or none. Example: --stop asha.",
        rich_help_panel=SEARCH,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Sample N configurations from all axes instead of running their product: --samples 16.",
        rich_help_panel=SEARCH,
    ),
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="How to sample: random, sobol (evenly spread) or optuna (guided by results).", rich_help_panel=SEARCH
    ),
]
RetriesOption = Annotated[
    int,
    typer.Option(help="Further attempts at a run whose process or node failed: --retries 5.", rich_help_panel=FAILURES),
]
StuckAfterOption = Annotated[
    float,
    typer.Option(
        metavar="MINUTES",
        help="Stop and retry a run that reports nothing for this long: --stuck-after 20.",
        rich_help_panel=FAILURES,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="List the runs with their resources and estimated cost, and exit.",
        rich_help_panel=ESTIMATES,
    ),
]
FitOption = Annotated[
    bool,
    typer.Option(
        "--fit",
        help="Find the largest micro-batch that fits on this machine, and estimate time and cost from it.",
        rich_help_panel=ESTIMATES,
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        help="Price of one worker's GPU or cores per hour, with --fit or --dry-run: --price-per-hour 2.5.",
        rich_help_panel=ESTIMATES,
    ),
]
YesOption = Annotated[
    bool,
    typer.Option(
        "--yes",
        help="Start a plan of more than 10,000 runs or a year of compute.",
        rich_help_panel=ESTIMATES,
    ),
]
LogToOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        help="Also log to mlflow or wandb: --log-to mlflow. TensorBoard files are always written; the viewer is "
        "installed by pip install 'rhobench[[tensorboard]]'.",
        rich_help_panel=OUTPUT,
    ),
]
RequireExpectedOption = Annotated[
    bool,
    typer.Option(
        "--require-expected",
        help="Exit with status 1 unless every expectation of the experiment is met.",
        rich_help_panel=OUTPUT,
    ),
]
TimingsOption = Annotated[
    bool,
    typer.Option("--timings", help="Print where the time of the command went.", rich_help_panel=OUTPUT),
]
