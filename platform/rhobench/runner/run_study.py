"""A study from its store to its page: run what is lacking, say what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from rhobench.config.experiment import Expectation
from rhobench.config.sweep import SweepOptions
from rhobench.results import Record, Store, metric, printable
from rhobench.study.study import Study

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses of a study that was started; 130 is what shells give for Ctrl-C."""

TOLD = 20
"""Runs of one status that are named at the end; the page has all of them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study left."""

    store: str
    report: Path
    runs: list[dict[str, Any]]
    """run_id, status, reason and number of failed attempts of each run of the study."""
    exit_status: int
    """0 when every run is completed, or was stopped early as it was meant to."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"store": self.store, "report": str(self.report), "runs": self.runs}


def run_study(study: Study, place: str, options: SweepOptions, console: Console) -> Outcome:
    """Run what the store at ``place`` lacks, print the front, write the page.

    Ctrl-C keeps every finished run; the page then shows those.

    Raises:
        ConfigError: a tracker is not known or not installed.
        StoreOccupiedError: the store holds the experiment with other settings.
        ClusterError: no cluster, or one that is too small.
    """
    from rhobench.cluster.address import read_address
    from rhobench.cluster.progress_table import ProgressTable
    from rhobench.cluster.run_queue import Run
    from rhobench.cluster.search import OptunaSearch
    from rhobench.cluster.session import ray_session
    from rhobench.cluster.sweep import run_sweep
    from rhobench.cluster.trackers import require_trackers

    require_trackers(options.trackers)
    read_address(options.address)
    store = Store(place)
    store.claim(study.experiment)
    study = study.in_store(store)
    for sentence in study.of_others():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    search = OptunaSearch.from_store(study.experiment, store)
    if search is not None:
        study = study.of_runs(search.configs)
    progress = ProgressTable(study.run_ids, console, study.experiment.base.experiment)
    interrupted = False
    try:
        statuses = store.statuses()
        chooses = search is not None and not search.has_enough
        if chooses or any(statuses.get(i) not in study.finished for i in study.run_ids):
            with progress.shown():
                progress.say("starting Ray")
                with ray_session(options.address, without_token=options.without_token) as cluster:
                    progress.say(cluster.access)
                    runs = [Run(i, c) for i, c in zip(study.run_ids, study.configs, strict=True)]
                    run_sweep(
                        runs,
                        store,
                        cluster,
                        progress,
                        base=study.experiment.base,
                        options=options,
                        early_stopping=study.experiment.early_stopping,
                        searcher=search,
                    )
    except KeyboardInterrupt:
        interrupted = True
    if search is not None:
        study = study.of_runs(search.configs)
    return _conclude(study, store, interrupted, console)


def _conclude(study: Study, store: Store, interrupted: bool, console: Console) -> Outcome:
    from rhobench.dashboards import front_table, write_report

    records = {record.run_id: record for record in store.records()}
    runs = [_in_short(i, records.get(i)) for i in study.run_ids]
    frame = store.frame()
    mine = frame[frame.run_id.isin(study.run_ids)]
    for x in ("gflops", "latency_ms"):
        if mine["ap"].notna().any() and mine[x].notna().any():
            console.print(front_table(mine, x=x))
    if not study.smoke:
        check_expectations(study.experiment.expected, mine, console)
    for line in _endings(runs):
        console.print(line, highlight=False, soft_wrap=True)
    unfinished = sum(run["status"] not in study.finished for run in runs)
    if interrupted:
        console.print(f"\nInterrupted: {len(runs) - unfinished} of {len(runs)} runs are finished and kept.")
    if unfinished:
        console.print("The same command continues: it repeats no finished run.", highlight=False)
    # A page is for a browser on this machine.
    report = write_report(store, store.path / "report.html" if store.is_local else Path(f"{store.name}.html"))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    status = INTERRUPTED if interrupted else FAILED if unfinished else DONE
    return Outcome(store=store.place, report=report, runs=runs, exit_status=status)


def _in_short(run_id: str, record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"run_id": run_id, "status": "not run", "reason": None, "attempts": 0}
    return {
        "run_id": run_id,
        "status": record.status,
        "reason": record.reason,
        "attempts": len(record.attempts),
    }


def _endings(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What is to be known of runs beside their numbers, in rich's markup: what was tried again, stopped, and failed."""
    # The last attempt at a failed run is the failure itself.
    again = [run for run in runs if run["attempts"] > (run["status"] == "failed")]
    if again:
        yield f"tried again: {len(again)} of {len(runs)} runs; the page says why their first attempts failed"
    for status, style in (("stopped", "yellow"), ("failed", "bold red")):
        ended = [run for run in runs if run["status"] == status]
        for run in ended[:TOLD]:
            attempts = f" after {run['attempts']} attempts" if status == "failed" and run["attempts"] > 1 else ""
            reason = escape(printable(run["reason"] or "no reason was recorded"))
            yield f"[{style}]{status}[/] {run['run_id']}{attempts}: {reason}"
        if len(ended) > TOLD:
            yield f"[{style}]{status}[/] {len(ended) - TOLD} more runs; the page lists them with their reasons"


def check_expectations(expected: Sequence[Expectation], frame: pd.DataFrame, console: Console) -> None:
    """Print, for each expectation of the experiment, the worst run and the verdict."""
    for expectation in expected:
        meant = frame
        for column, value in expectation.where.items():
            meant = meant[meant[column] == value]
        values = meant[expectation.metric].dropna()
        if values.empty:
            continue
        shown = metric(expectation.metric)
        if expectation.at_least is not None:
            worst, bound, met = values.min(), expectation.at_least, values.min() >= expectation.at_least
            wanted = f"at least {shown.format(bound)}"
        else:
            assert expectation.at_most is not None
            worst, bound, met = values.max(), expectation.at_most, values.max() <= expectation.at_most
            wanted = f"at most {shown.format(bound)}"
        verdict = "[green]met[/]" if met else "[red]not met[/]"
        runs = "every run" + "".join(f" with {column} {value}" for column, value in expectation.where.items())
        source = f" ({expectation.source})" if expectation.source else ""
        console.print(
            f"expected {shown.label} {wanted} in {runs}{source}: {verdict}, worst {shown.format(worst)}",
            highlight=False,
        )
