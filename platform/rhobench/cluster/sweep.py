"""A whole experiment: its runs as Ray Tune trials, then their cost measured with the machine to themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from rhobench.cluster.board import Board
from rhobench.cluster.execute import write_failure
from rhobench.cluster.measuring import MEASURED_TOGETHER, measure_runs
from rhobench.cluster.preparing import prepare
from rhobench.cluster.session import Cluster, ClusterError, remembered_interrupt
from rhobench.cluster.trackers import tracking
from rhobench.cluster.trial import resources_of, trial
from rhobench.config import RunConfig
from rhobench.config_tree import config_hash, to_dict
from rhobench.results import Store
from rhobench.training import Status


@dataclass(frozen=True)
class Run:
    """A run with its identity."""

    run_id: str
    config: RunConfig


def run_sweep(runs: Sequence[Run], store: Store, cluster: Cluster, board: Board, trackers: Sequence[str] = ()) -> None:
    """Train the runs that the store lacks, then measure those that are trained. Finished ones are left alone.

    Every result goes into the store as soon as it exists; an interruption loses the epochs of the running trials only.

    Args:
        runs: of one experiment.
        store: with an absolute path that every node can reach.
        cluster: of the session that is open.
        board: is told how it goes.
        trackers: names of ``trackers.PACKAGES`` that the trainings are logged to, beside TensorBoard files.
    """
    known = store.statuses()
    for run in runs:
        if known.get(run.run_id) in ("trained", "completed"):
            board.set_state(run.run_id, "trained", "found in the store")
    waiting = [run for run in runs if known.get(run.run_id) not in ("trained", "completed")]
    _require_capacity(waiting, cluster)
    if waiting:
        _prepare(waiting, cluster, board)
        _train(waiting, store, cluster, board, trackers)
    statuses = store.statuses()
    trained = [run for run in runs if statuses.get(run.run_id) == "trained"]
    for start in range(0, len(trained), MEASURED_TOGETHER):
        group = trained[start : start + MEASURED_TOGETHER]
        board.say(f"measuring latency of {len(group)} runs, nothing else running")
        try:
            _measure(group, store, cluster)
        except RayError as error:  # the runs stay "trained": the same command measures them again
            board.say(f"measuring failed: {_last_line(error)}")
            continue
        for run in group:
            board.set_state(run.run_id, "completed")


def _require_capacity(runs: Sequence[Run], cluster: Cluster) -> None:
    """A run that can never start would wait for ever."""
    for run in runs:
        train = run.config.train
        cpus, gpus = train.cpus_per_worker * train.num_workers, train.gpus_per_worker * train.num_workers
        if cpus > cluster.cpus or gpus > cluster.gpus:
            raise ClusterError(
                f"{run.run_id} needs {cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {cluster.cpus:g} and "
                f"{cluster.gpus:g}: lower train.num_workers, train.cpus_per_worker or train.gpus_per_worker."
            )


def _prepare(runs: Sequence[Run], cluster: Cluster, board: Board) -> None:
    """Data and features that several runs share are made once, with all cores, before the first of them starts."""
    board.say("preparing data and backbone features")
    shared = {config_hash(r.config.data) + config_hash(r.config.model.backbone): r.config for r in runs}
    task = ray.remote(num_cpus=cluster.cores_per_node, max_calls=1)(prepare)
    for config in shared.values():
        try:
            problem = ray.get(task.remote(to_dict(config), cluster.cores_per_node))
        except RayError as error:
            problem = _last_line(error)
        if problem:  # each run will meet it again and record it
            board.say(f"preparation failed: {problem}")


def _train(runs: Sequence[Run], store: Store, cluster: Cluster, board: Board, trackers: Sequence[str]) -> None:
    board.say("training")
    ray_storage = store.path / ".ray" / runs[0].config.experiment
    specs = [
        {
            "run_id": run.run_id,
            "config": to_dict(run.config),
            "folder": str(store.run_dir(run.run_id)),
            "ray_storage": str(ray_storage),
        }
        for run in runs
    ]
    train = runs[0].config.train
    # Trials that wait for workers hold no CPU themselves, so Ray would start all of them at once.
    at_once = max(int(cluster.cpus // (train.cpus_per_worker * train.num_workers)), 1)
    try:
        with remembered_interrupt() as raise_again:
            watcher = _Watcher(runs, store, board, raise_again)
            tuner = tune.Tuner(
                tune.with_resources(trial, resources_of(runs[0].config)),
                param_space={"spec": tune.grid_search(specs)},
                # The name by which trackers show a run.
                tune_config=tune.TuneConfig(max_concurrent_trials=at_once, trial_name_creator=_run_id),
                run_config=tune.RunConfig(
                    storage_path=str(ray_storage),
                    verbose=0,
                    callbacks=[watcher, *tracking(trackers, store, runs[0].config.experiment)],
                ),
            )
            tuner.fit()
    finally:
        # Ray's own state is never read again: the store remembers.
        shutil.rmtree(ray_storage, ignore_errors=True)


def _measure(runs: Sequence[Run], store: Store, cluster: Cluster) -> None:
    # max_calls=1: Ray reuses worker processes, and a used one keeps its threads and affinity.
    gpus = 1 if runs[0].config.train.gpus_per_worker else 0
    task = ray.remote(num_cpus=cluster.cores_per_node, num_gpus=gpus, max_calls=1)(measure_runs)
    ray.get(task.remote(str(store.path), [run.run_id for run in runs], cluster.cores_per_node))


def _last_line(error: RayError) -> str:
    """The exception itself, without the remote traceback above it."""
    return str(error).strip().splitlines()[-1]


class _Watcher(tune.Callback):
    """Passes what trials report to the board, and records runs whose process died without a word."""

    def __init__(self, runs: Sequence[Run], store: Store, board: Board, raise_again: Callable[[], None]) -> None:
        self.configs, self.store, self.board = {run.run_id: run.config for run in runs}, store, board
        self.raise_again = raise_again

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks for a restore that never happens here; a live table cannot be pickled."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.raise_again()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.set_state(_run_id(trial), "training")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        fields = Status.__dataclass_fields__
        if "epochs" in result:
            self.board.update(_run_id(trial), Status(**{name: result[name] for name in fields}))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run_id = _run_id(trial)
        status = self.store.statuses().get(run_id, "failed")
        reported = self.board.rows[run_id].status or Status(epoch=0, epochs=0)
        note = reported.note if reported.ap is None else f"AP {100 * reported.ap:.1f}"
        self.board.set_state(run_id, status, note)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        run_id = _run_id(trial)
        error = RuntimeError("the process of the run died; see Ray's log, and the machine's memory")
        reason = write_failure(self.configs[run_id], run_id, self.store.run_dir(run_id), error)
        self.board.set_state(run_id, "failed", reason)


def _run_id(trial: Any) -> str:
    return trial.config["spec"]["run_id"]
