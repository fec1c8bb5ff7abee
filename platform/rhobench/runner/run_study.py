"""Run a study: the runs that its store lacks, then the front, the verdicts and the report."""

from __future__ import annotations

import signal
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
from rhobench.results.verdicts import Verdict
from rhobench.runner.timings import Timings, training_parts
from rhobench.study.known_runs import lacks_points
from rhobench.study.study import Study

if TYPE_CHECKING:
    from rhobench.cluster.progress_table import ProgressTable
    from rhobench.cluster.search import OptunaSearch
    from rhobench.cluster.stop_signals import StopSignals

DONE, FAILED = 0, 1
"""Exit statuses of a study that ended by itself; one that a signal has ended has 128 and the number of the signal."""

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
    timings: dict[str, float]
    """Seconds by phase, see ``Timings``."""
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
            "timings": self.timings,
        }


def run_study(
    study: Study, place: str, options: SweepOptions, console: Console, *, show_timings: bool = False
) -> Outcome:
    """Run what the store at ``place`` lacks, print the front and the verdicts, write the report.

    Ctrl-C and the other signals of ``stop_signals`` keep every finished run, which the report shows, and checkpoints.

    Raises:
        StoreOccupiedError: the store holds the experiment with other settings.
        ClusterError: there is no cluster, or it is too small.
    """
    # Modules that import Ray, torch or Optuna are imported when they are needed, so that a command answers at once.
    from rhobench.cluster.address import read_address
    from rhobench.cluster.progress_table import ProgressTable
    from rhobench.cluster.stop_signals import StopSignals

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
    timings = Timings()
    progress = ProgressTable(study.run_ids, console, study.experiment.base.experiment, timings.begin)
    with StopSignals() as stop:
        interrupted_by = None
        try:
            records = {record.run_id: record for record in store.records()}
            incomplete = any(_is_unfinished(records.get(i), c, study) for i, c in study.configs_by_id.items())
            if incomplete or (search is not None and not search.has_enough):
                with progress.shown():
                    _sweep(study, store, options, search, progress, stop)
        except KeyboardInterrupt:
            interrupted_by = stop.received or signal.SIGINT
        with stop.deferred():
            # Also those that were proposed during the sweep.
            if search is not None:
                study = study.with_runs(search.configs)
            timings.begin("front and report")
            outcome = _conclude(study, store, interrupted_by, timings, console)
            if show_timings:
                console.print(timings.table())
            return outcome


def _sweep(
    study: Study,
    store: Store,
    options: SweepOptions,
    search: OptunaSearch | None,
    progress: ProgressTable,
    stop: StopSignals,
) -> None:
    """Execute the missing runs in a Ray session."""
    progress.begin_phase("starting Ray")
    from rhobench.cluster.run_queue import Run
    from rhobench.cluster.session import priority_warning, ray_session
    from rhobench.cluster.sweep import run_sweep

    with ray_session(options.address, without_token=options.without_token) as cluster:
        progress.set_headline(cluster.access)
        if options.address != "local" and (warning := priority_warning()):
            progress.warn(warning)
        run_sweep(
            [Run(i, config) for i, config in zip(study.run_ids, study.configs, strict=True)],
            store,
            cluster,
            progress,
            base=study.experiment.base,
            options=options,
            stop=stop,
            early_stopping=study.experiment.early_stopping,
            searcher=search,
        )
        progress.on_phase("stopping Ray")


def _conclude(
    study: Study, store: Store, interrupted_by: signal.Signals | None, timings: Timings, console: Console
) -> Outcome:
    """Print and write what the store has, after a sweep that has ended by itself or by a signal."""
    from rhobench.dashboards import front_table, report_path, write_report
    from rhobench.results.relative_times import describe_relative_times, relative_times
    from rhobench.results.uncertainty import with_uncertainty

    records = {record.run_id: record for record in store.records()}
    runs = [_summary_of(i, records.get(i)) for i in study.run_ids]
    frame = store.frame()
    own = frame[frame.run_id.isin(study.run_ids)]
    for x in ("gflops", "latency_ms"):
        if own["ap"].notna().any() and own[x].notna().any():
            rows = with_uncertainty(own, x, store=store)
            console.print(front_table(own, x, rows=rows))
    for sentence in describe_relative_times(relative_times(store, own)):
        console.print(sentence, highlight=False, markup=False)
    verdicts = _judge(study, store, frame, console)
    for line in _describe_exceptions(runs):
        console.print(line, highlight=False, soft_wrap=True)
    waiting = [i for i, config in study.configs_by_id.items() if _is_unfinished(records.get(i), config, study)]
    unfinished = len(waiting)
    if interrupted_by is not None:
        trained = sum(i in records and records[i].status in ("trained", "completed") for i in waiting)
        kept = describe_interruption(len(runs), trained=trained, untrained=unfinished - trained)
        console.print(f"\nInterrupted by {interrupted_by.name}: {kept}", highlight=False, soft_wrap=True)
    if unfinished:
        console.print("Run the same command again to continue; finished runs are not repeated.", highlight=False)
    report = write_report(store, report_path(store))
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    status = 128 + interrupted_by if interrupted_by is not None else FAILED if unfinished else DONE
    timings.add_parts("training", training_parts(records[i] for i in study.run_ids if i in records))
    return Outcome(
        store=store.place,
        report=report,
        runs=runs,
        verdicts=verdicts,
        timings=timings.seconds(),
        exit_status=status,
    )


def describe_interruption(runs: int, *, trained: int, untrained: int) -> str:
    """What an interrupted study keeps: finished runs, those that only lack measurements, and checkpoints."""
    parts = [f"{runs - trained - untrained} of {runs} runs are finished"]
    if trained:
        parts.append(f"{trained} more only need{'s' if trained == 1 else ''} to be measured")
    if untrained:
        parts.append("the checkpoints of the others are kept")
    if len(parts) > 1:
        parts[-1] = f"and {parts[-1]}"
    return ", ".join(parts) + "."


def _is_unfinished(record: Record | None, config: RunConfig, study: Study) -> bool:
    """Whether a run is still to be trained, or to be measured at points that its record lacks."""
    return record is None or record.status not in study.finished_statuses or lacks_points(record, config)


def _judge(study: Study, store: Store, frame: pd.DataFrame, console: Console) -> list[Verdict]:
    """Compare the results with what the experiment expects; print and store the verdicts."""
    # Here, because the import of statistics takes a second, which a sweep has while it trains.
    from rhobench.results.evaluations import Evaluations
    from rhobench.results.expectations import compare_with_expectations
    from rhobench.study.expectations import expectation_scope

    name, scope = study.original.base.experiment, expectation_scope(study)
    rows = frame[frame.run_id.isin(scope.run_ids)]
    expected = study.original.expected
    verdicts = compare_with_expectations(name, expected, rows, scope.not_applicable, Evaluations(store))
    for verdict in verdicts:
        style = {"met": "green", "not met": "bold red"}.get(verdict.outcome, "yellow")
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
