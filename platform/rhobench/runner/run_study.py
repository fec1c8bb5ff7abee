"""Run a study: the runs that its store lacks, then the front, the verdicts and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from rhobench.config import RunConfig
from rhobench.config.sweep import SweepOptions
from rhobench.results import Record, Store, printable
from rhobench.results.expectations import Verdict, compare_with_expectations
from rhobench.study.known_runs import lacks_points
from rhobench.study.study import Study

if TYPE_CHECKING:
    from rhobench.cluster.progress_table import ProgressTable
    from rhobench.cluster.search import OptunaSearch

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses of a study that was started; 130 is what shells return for Ctrl-C."""

MAX_LISTED = 20
"""Runs of one status that are listed at the end; the report has all of them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a study."""

    store: str
    """Folder or URL of the store."""
    report: Path
    """HTML file of the report."""
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
        """JSON-ready dictionary, as printed by ``--json``."""
        return {
            "store": self.store,
            "report": str(self.report),
            "runs": self.runs,
            "expected": [verdict.as_dict() for verdict in self.verdicts],
        }


def run_study(study: Study, place: str, options: SweepOptions, console: Console) -> Outcome:
    """Run what the store at ``place`` lacks, print the front and the verdicts, write the report.

    Ctrl-C keeps every finished run, and the report shows those.

    Raises:
        StoreOccupiedError: the store holds the experiment with other settings.
        ClusterError: there is no cluster, or it is too small.
    """
    # Modules that import Ray, torch or Optuna are imported when they are needed, so that a command answers at once.
    from rhobench.cluster.address import read_address
    from rhobench.cluster.progress_table import ProgressTable

    read_address(options.address)  # only to refuse a wrong one before the store is claimed
    store = Store(place)
    store.claim(study.experiment)
    study = study.resolved_in(store)
    for sentence in study.describe_shared_runs():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    search = None
    if study.experiment.search is not None:
        from rhobench.cluster.search import OptunaSearch

        search = OptunaSearch.from_store(study.experiment, store)
    if search is not None:
        study = study.with_runs(search.configs)
    progress = ProgressTable(study.run_ids, console, study.experiment.base.experiment)
    interrupted = False
    try:
        records = {record.run_id: record for record in store.records()}
        incomplete = any(_is_unfinished(records.get(i), c, study) for i, c in study.configs_by_id.items())
        if incomplete or (search is not None and not search.has_enough):
            with progress.shown():
                _sweep(study, store, options, search, progress)
    except KeyboardInterrupt:
        interrupted = True
    # Also those that were proposed during the sweep.
    if search is not None:
        study = study.with_runs(search.configs)
    return _conclude(study, store, interrupted, console)


def _sweep(
    study: Study, store: Store, options: SweepOptions, search: OptunaSearch | None, progress: ProgressTable
) -> None:
    """Execute the missing runs in a Ray session."""
    progress.set_headline("starting Ray")
    from rhobench.cluster.run_queue import Run
    from rhobench.cluster.session import ray_session
    from rhobench.cluster.sweep import run_sweep

    with ray_session(options.address, without_token=options.without_token) as cluster:
        progress.set_headline(cluster.access)
        run_sweep(
            [Run(i, config) for i, config in zip(study.run_ids, study.configs, strict=True)],
            store,
            cluster,
            progress,
            base=study.experiment.base,
            options=options,
            early_stopping=study.experiment.early_stopping,
            searcher=search,
        )


def _conclude(study: Study, store: Store, interrupted: bool, console: Console) -> Outcome:
    from rhobench.dashboards import front_table, write_report

    records = {record.run_id: record for record in store.records()}
    runs = [_summary_of(i, records.get(i)) for i in study.run_ids]
    frame = store.frame()
    own = frame[frame.run_id.isin(study.run_ids)]
    for x in ("gflops", "latency_ms"):
        if own["ap"].notna().any() and own[x].notna().any():
            console.print(front_table(own, x=x))
    verdicts = _judge(study, store, frame, console)
    for line in _describe_exceptions(runs):
        console.print(line, highlight=False, soft_wrap=True)
    unfinished = sum(_is_unfinished(records.get(i), config, study) for i, config in study.configs_by_id.items())
    if interrupted:
        console.print(f"\nInterrupted: {len(runs) - unfinished} of {len(runs)} runs are finished and kept.")
    if unfinished:
        console.print("Run the same command again to continue; finished runs are not repeated.", highlight=False)
    # The report of a store in a bucket is written to this machine, where a browser can open it.
    report = write_report(store, store.path / "report.html" if store.is_local else Path(f"{store.name}.html"))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    status = INTERRUPTED if interrupted else FAILED if unfinished else DONE
    return Outcome(store=store.place, report=report, runs=runs, verdicts=verdicts, exit_status=status)


def _is_unfinished(record: Record | None, config: RunConfig, study: Study) -> bool:
    """Whether a run is still to be trained, or to be measured at points that its record lacks."""
    return record is None or record.status not in study.finished_statuses or lacks_points(record, config)


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


def _summary_of(run_id: str, record: Record | None) -> dict[str, Any]:
    if record is None:
        return {"run_id": run_id, "status": "not run", "reason": None, "attempts": 0}
    return {
        "run_id": run_id,
        "status": record.status,
        "reason": record.reason,
        "attempts": len(record.attempts),
    }


def _describe_exceptions(runs: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Lines on runs that were retried, stopped or failed, in Rich markup."""
    # The last attempt of a failed run is the failure itself, not a retry.
    retried = [run for run in runs if run["attempts"] > (run["status"] == "failed")]
    if retried:
        yield f"retried: {len(retried)} of {len(runs)} runs; the report lists their failed attempts"
    for status, style in (("stopped", "yellow"), ("failed", "bold red")):
        affected = [run for run in runs if run["status"] == status]
        for run in affected[:MAX_LISTED]:
            attempts = f" after {run['attempts']} attempts" if status == "failed" and run["attempts"] > 1 else ""
            reason = escape(printable(run["reason"] or "no reason was recorded"))
            yield f"[{style}]{status}[/] {run['run_id']}{attempts}: {reason}"
        if len(affected) > MAX_LISTED:
            yield f"[{style}]{status}[/] {len(affected) - MAX_LISTED} more; the report lists all of them"
