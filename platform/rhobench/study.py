"""An experiment as the command line runs it: resolve what was asked for, run it, say what came out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from rhobench.config import Axis, ConfigError, Expectation, Experiment, RunConfig, TrainConfig
from rhobench.config_tree import parse_assignment, run_id, runs_of, value_at, with_values
from rhobench.data import require_valid
from rhobench.experiments import EXPERIMENTS
from rhobench.results import Store, metric

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit statuses of a study that was started; 130 is what shells give for Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment with everything that the user changed, and its runs."""

    experiment: Experiment
    run_ids: list[str]
    smoke: bool

    @property
    def configs(self) -> list[RunConfig]:
        """Of the runs, in the order of ``run_ids``."""
        return runs_of(self.experiment)

    def as_records(self) -> list[dict[str, Any]]:
        """For ``--dry-run --json``: run_id of each run, images of its steps and their learning rates by group."""
        return [
            {"run_id": i, "batch_size": config.train.batch_size, "rates": config.train.rates}
            for i, config in zip(self.run_ids, self.configs, strict=True)
        ]

    def steps_in_words(self) -> list[str]:
        """``step_in_words`` of its runs, each sentence once."""
        return list(dict.fromkeys(step_in_words(config.train) for config in self.configs))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a study left."""

    store: Path
    report: Path
    runs: list[dict[str, Any]]
    """run_id, status and reason of each run of the study."""
    interrupted: bool

    @property
    def exit_status(self) -> int:
        """0 when every run is completed."""
        if self.interrupted:
            return INTERRUPTED
        return DONE if all(run["status"] == "completed" for run in self.runs) else FAILED

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"store": str(self.store), "report": str(self.report), "runs": self.runs}


def resolve(name: str, assignments: Sequence[str], data: Path | None, smoke: bool, fork: Path | None = None) -> Study:
    """The experiment ``name`` with the user's settings; ``fork`` is the folder of a run to start from.

    Raises:
        ConfigError: there is no such experiment, field, value, or run to start from.
        DatasetError: the data set cannot be used.
    """
    study = configure(name, assignments, data, smoke, fork)
    base = study.experiment.base
    source = base.train.fork_from
    if source is not None and not Path(source).is_dir():
        raise ConfigError(f"There is no run at {source} to start from: give the folder of a run, STORE/runs/RUN_ID.")
    if base.data.dir is not None:
        if base.data.dir == _find(name).base.data.dir and not Path(base.data.dir).is_dir():
            raise ConfigError(
                f"{name} needs its data set: give the folder that holds annotations/ and images/ with --data DIR."
            )
        require_valid(Path(base.data.dir), (*base.data.train_splits, base.data.val_split))
    return study


def configure(name: str, assignments: Sequence[str], data: Path | None, smoke: bool, fork: Path | None = None) -> Study:
    """``resolve`` for another machine: no file of this one is looked at.

    Raises:
        ConfigError: there is no such experiment, field or value.
    """
    experiment = _find(name)
    if smoke and data and "data.dir" in experiment.smoke:
        raise ConfigError(f"A smoke run of {name} makes its own images: leave out --data, or --smoke.")
    base, axes = experiment.base, {axis.path: axis for axis in experiment.axes}
    settings: list[tuple[str, Any]] = list(experiment.smoke.items()) if smoke else []
    settings += [("data.dir", str(data.absolute()))] if data else []
    settings += [("train.fork_from", str(fork.absolute()))] if fork else []
    settings += [parse_assignment(text) for text in assignments]
    chosen = dict(settings)
    if "experiment" in chosen:
        raise ConfigError(f"--set experiment=... would give {name} another name: leave it out.")
    changed = with_values(base, chosen)
    for path in axes.keys() & chosen.keys():
        # Pinned for these runs; the base stays, so that they join the others in their store.
        axes[path] = Axis(path=path, values=(value_at(changed, path),))
    try:
        base = with_values(base, {path: value for path, value in chosen.items() if path not in axes})
    except ConfigError:  # the other settings fit only together with what was pinned
        base = changed
    # What the user set is set in every run.
    pinned = {path: value_at(changed, path) for path in chosen}
    also = tuple(
        {**extra, **{path: value for path, value in pinned.items() if path in axes or path in extra}}
        for extra in experiment.also
    )
    # A seed that is set is the only one: the experiment's own would replace it without a word.
    seeds = (base.seed,) if "seed" in chosen else experiment.seeds
    experiment = replace(experiment, base=base, axes=tuple(axes.values()), also=also, seeds=seeds)
    # How a run is measured is no part of what it is called.
    varied = [path for extra in also for path in extra if not path.startswith("measure.")]
    paths = tuple(dict.fromkeys([*axes, *varied]))
    return Study(experiment=experiment, run_ids=[run_id(c, paths) for c in runs_of(experiment)], smoke=smoke)


def step_in_words(train: TrainConfig) -> str:
    """What one optimiser step of a run is: its images and its learning rates, as they really are."""
    share = train.batch_size // train.num_workers
    at_once = train.micro_batch_size or share
    rates = ", ".join(f"{name} {rate:.4g}" for name, rate in train.rates.items())
    rule = "as given" if train.lr_rule == "constant" else f"{train.lr_rule} from a batch of {train.lr_batch_size}"
    return (
        f"{train.batch_size} images a step on {train.num_workers} worker{'s' if train.num_workers > 1 else ''}, "
        f"{at_once} at once on each; learning rates {rates} ({rule})"
    )


def _find(name: str) -> Experiment:
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]()
    near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(EXPERIMENTS)}."
    raise ConfigError(f"There is no experiment {name!r}. {hint} `rhobench experiments` lists them.")


def run_study(
    study: Study,
    folder: Path,
    address: str,
    console: Console,
    trackers: Sequence[str] = (),
    *,
    without_token: bool = False,
) -> Outcome:
    """Run what the store lacks, print the front, write the page.

    Ctrl-C keeps every finished run; the page then shows those. ``trackers``: see ``--log-to``. ``without_token``: see
    ``--without-token``.

    Raises:
        ConfigError: a tracker is not known or not installed.
        StoreOccupiedError: the store holds the experiment with other settings.
        ClusterError: no cluster, or one that is too small.
    """
    from rhobench.cluster.address import read_address
    from rhobench.cluster.board import Board
    from rhobench.cluster.session import ray_session
    from rhobench.cluster.sweep import Run, run_sweep
    from rhobench.cluster.trackers import require_trackers

    require_trackers(trackers)
    read_address(address)
    store = Store(folder)
    store.claim(study.experiment)
    runs = [Run(i, c) for i, c in zip(study.run_ids, study.configs, strict=True)]
    name = study.experiment.base.experiment
    board = Board(study.run_ids, console, name)
    interrupted = False
    try:
        statuses = store.statuses()
        if any(statuses.get(i) != "completed" for i in study.run_ids):
            with board.shown():
                board.say("starting Ray")
                with ray_session(address, without_token=without_token) as cluster:
                    console.print(cluster.access, highlight=False, markup=False, soft_wrap=True)
                    run_sweep(runs, store, cluster, board, trackers)
    except KeyboardInterrupt:
        interrupted = True
    return _conclude(study, store, interrupted, console)


def _conclude(study: Study, store: Store, interrupted: bool, console: Console) -> Outcome:
    from rhobench.dashboards import front_table, write_report

    records = {record.run_id: record for record in store.records()}
    runs = [
        {
            "run_id": i,
            "status": records[i].status if i in records else "not run",
            "reason": records[i].reason if i in records else None,
        }
        for i in study.run_ids
    ]
    frame = store.frame()
    mine = frame[frame.run_id.isin(study.run_ids)]
    for x in ("gflops", "latency_ms"):
        if mine["ap"].notna().any() and mine[x].notna().any():
            console.print(front_table(mine, x=x))
    if not study.smoke:
        check_expectations(study.experiment.expected, mine, console)
    for run in runs:
        if run["status"] == "failed":
            console.print(
                f"[bold red]failed[/] {run['run_id']}: {escape(str(run['reason']))}", highlight=False, soft_wrap=True
            )
    unfinished = sum(run["status"] != "completed" for run in runs)
    if interrupted:
        console.print(f"\nInterrupted: {len(runs) - unfinished} of {len(runs)} runs are finished and kept.")
    if unfinished:
        console.print("The same command continues: it repeats no finished run.", highlight=False)
    report = write_report(store, store.path / "report.html")
    console.print(f"report: {report}", highlight=False, soft_wrap=True)
    return Outcome(store=store.path, report=report, runs=runs, interrupted=interrupted)


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
