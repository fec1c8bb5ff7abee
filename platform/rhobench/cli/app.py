"""The command line: which commands there are."""

from __future__ import annotations

import sys

import typer

from rhobench.cli import cluster, data, weights
from rhobench.cli.doctor import doctor
from rhobench.cli.model import cost, predict
from rhobench.cli.options import WRONG_REQUEST
from rhobench.cli.results import pareto, report, reproduce
from rhobench.cli.run import experiments, run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (experiments, run, pareto, report, predict, cost, reproduce, doctor):
    app.command()(command)
app.add_typer(cluster.app, name="cluster")
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


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
