"""``rhobench compare``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rhobench.cli.options import AsJson, report_problems


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Run folder or store; with --store, also a name in it.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same; differences are B minus A.")],
    store: Annotated[
        str | None, typer.Option(metavar="STORE", help="Store of run ids, configurations and labels ('ρ 0.3').")
    ] = None,
    name: Annotated[str, typer.Option("--metric", help="Metric of the verdict: ap, ap50, ap_s, ...")] = "ap",
    as_json: AsJson = False,
) -> None:
    """Say whether B is better than A, by how much, and how sure that is.

    A and B are folders of runs, stores, or names in --store: a run id, a configuration or its label. A name or a run
    may end in @RHO, the rho at inference. Two stores are compared in every configuration that both have.
    """
    from rich.console import Console

    from rhobench.cli.comparison_card import comparison_card
    from rhobench.config.metrics import metric
    from rhobench.results.sides import compare_arguments

    metric(name)  # raises for an unknown metric
    with Console(stderr=True).status("resampling the images"):
        compared, problems = compare_arguments(first, second, name, store)
    report_problems(problems)
    console = Console(highlight=False)
    for one in compared:
        console.print(comparison_card(one))
    if as_json:
        print(json.dumps({"comparisons": [one.as_dict() for one in compared]}))
