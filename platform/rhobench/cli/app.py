"""The command line: all commands, in the groups of its help page."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from rhobench.cli import cluster, data, weights
from rhobench.cli.benchmark import benchmark
from rhobench.cli.compare import compare
from rhobench.cli.doctor import doctor
from rhobench.cli.evaluate import evaluate
from rhobench.cli.measure import measure
from rhobench.cli.model import cost, predict
from rhobench.cli.options import INTERRUPTED, WRONG_REQUEST
from rhobench.cli.reproduce import reproduce
from rhobench.cli.results import pareto, report
from rhobench.cli.run import experiments, run
from rhobench.cli.runs import dashboard, export, runs, show

EXPERIMENTS, RESULTS, MODELS, SETUP = "Experiments", "Results", "Models", "Data and machines"

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", invoke_without_command=True)
for panel, commands in {
    EXPERIMENTS: (run, experiments),
    RESULTS: (pareto, compare, report, dashboard, runs, show, export, reproduce),
    MODELS: (measure, evaluate, predict, cost, benchmark),
}.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(weights.app, name="weights", rich_help_panel=MODELS)
app.add_typer(data.app, name="data", rich_help_panel=SETUP)
app.add_typer(cluster.app, name="cluster", rich_help_panel=SETUP)
app.command(rich_help_panel=SETUP)(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rhobench {version('rhobench')}")
        raise typer.Exit


@app.callback()
def rhobench(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Benchmark Sparse DETR: what accuracy does a given cost buy?

    Start with: rhobench run demo
    """
    if context.invoked_subcommand is None:
        context.get_help()  # prints


def main() -> None:
    """Entry point. A wrong request ends with one sentence on stderr and exit status 2."""
    try:
        # In its standalone mode, Typer prints usage errors itself and ends the process.
        status = app(standalone_mode=False)
    except typer.TyperException as error:  # an unknown command or option, a missing argument
        sys.exit(_refuse(_usage_sentence(error)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except ValueError as error:  # the base of all errors that a user can correct
        sys.exit(_refuse(str(error)))
    sys.exit(status)


def _usage_sentence(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "rhobench"
    hint = _field_hint(getattr(error, "option_name", ""))
    return f"{error.format_message().rstrip('.')}. {hint}See `{command} --help`."


def _field_hint(option: str) -> str:
    """``--epochs`` is a field of the configuration, not an option."""
    from rhobench.config.paths import paths_of_field

    paths = paths_of_field(option.lstrip("-").replace("-", "_"))
    return f"It is a field of the configuration: --set {paths[0]}=VALUE. " if paths else ""


def _refuse(message: str) -> int:
    for sentence in message.splitlines():  # a plan may have several problems, one a line
        print(f"rhobench: {sentence}", file=sys.stderr)
    return WRONG_REQUEST
