"""A study from its store to its page: run what is lacking, say what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from rhobench.config.sweep import SweepOptions
from rhobench.results import Record, Store, printable
from rhobench.results.expectations import Verdict, compare_with_expectations
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
    verdicts: list[Verdict]
    """What the experiment expects of its results, and whether they meet it."""
    exit_status: int
    """0 if every run is completed, or was stopped by early stopping."""

    @property
    def meets_expectations(self) -> bool:
        """Whether every expectation was checked and is met."""
        return all(verdict.outcome == "met" for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "store": self.store,
            "report": str(self.report),
            "runs": self.runs,
            "expected": [verdict.as_dict() for verdict in self.verdicts],
        }


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
    study = study.resolved_in(store)
    for sentence in study.describe_shared_runs():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    search = OptunaSearch.from_store(study.experiment, store)
    if search is not None:
        study = study.with_runs(search.configs)
    progress = ProgressTable(study.run_ids, console, study.experiment.base.experiment)
    interrupted = False
    try:
        statuses = store.statuses()
        chooses = search is not None and not search.has_enough
        if chooses or any(statuses.get(i) not in study.finished_statuses for i in study.run_ids):
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
        study = study.with_runs(search.configs)
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
    verdicts = _judge(study, store, frame, console)
    for line in _endings(runs):
        console.print(line, highlight=False, soft_wrap=True)
    unfinished = sum(run["status"] not in study.finished_statuses for run in runs)
    if interrupted:
        console.print(f"\nInterrupted: {len(runs) - unfinished} of {len(runs)} runs are finished and kept.")
    if unfinished:
        console.print("The same command continues: it repeats no finished run.", highlight=False)
    # A page is for a browser on this machine.
    report = write_report(store, store.path / "report.html" if store.is_local else Path(f"{store.name}.html"))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    status = INTERRUPTED if interrupted else FAILED if unfinished else DONE
    return Outcome(store=store.place, report=report, runs=runs, verdicts=verdicts, exit_status=status)


def _judge(study: Study, store: Store, frame: pd.DataFrame, console: Console) -> list[Verdict]:
    """Compare the results with what the experiment expects; print and store the verdicts."""
    from rhobench.study.expectations import expectation_scope

    name, scope = study.original.base.experiment, expectation_scope(study)
    rows = frame[frame.run_id.isin(scope.run_ids)]
    verdicts = compare_with_expectations(name, study.original.expected, rows, scope.not_applicable)
    for verdict in verdicts:
        style = {"met": "green", "not met": "bold red", "not checked": "yellow"}[verdict.outcome]
        console.print(f"expected {verdict.sentence()}", style=style, highlight=False, markup=False, soft_wrap=True)
    if scope.run_ids:  # a smoke run or changed settings replace no verdict
        store.write_verdicts(name, verdicts)
    return verdicts


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
