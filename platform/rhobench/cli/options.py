"""Options, exit statuses and conventions that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

FAILED, WRONG_REQUEST, INTERRUPTED = 1, 2, 130
"""Exit statuses: the work failed; the request was wrong and the message says what to change; Ctrl-C was pressed."""

OUTPUT = "Output"
"""Help panel of the options that change what is printed or written."""

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=OUTPUT)
]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL that `rhobench run` wrote to.")]
ExperimentArgument = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="Name of an experiment; `rhobench experiments` lists them.")
]
ArtifactArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ARTIFACT",
        exists=True,  # checked before torch is imported, as for all paths of commands that need it
        help="Folder of a run, or a model.safetensors of a run or of `rhobench weights import`.",
    ),
]


def command_group(summary: str) -> typer.Typer:
    """A group of commands that prints its help when it is called without one."""
    group = typer.Typer(help=summary, invoke_without_command=True, rich_markup_mode="rich")

    @group.callback(help=summary)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            context.get_help()  # prints

    return group


def report_problems(problems: Sequence[str]) -> None:
    """Print to stderr what could not be read, so that nothing is skipped in silence."""
    for problem in problems:
        print(f"rhobench: {problem}", file=sys.stderr)


def absolute_place(store: str) -> str:
    """The URL of a store, or the absolute path of its folder, by which other nodes may know it."""
    from rhobench.results.open_files import parse_place  # the package needs pandas

    place = parse_place(store)
    return place if isinstance(place, str) else str(place.absolute())
