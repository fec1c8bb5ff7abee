"""Execute an experiment on Ray: train its runs as trials of Ray Tune, then measure them with exclusive access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from rhobench.cluster.attempt import FINISHED, clean_up_finished, runs_with_attempt_file
from rhobench.cluster.early_stopping import EarlyStoppingScheduler, run_id_of, start_stop_decisions
from rhobench.cluster.measurement import measure_trained
from rhobench.cluster.node_tasks import execute, prepare
from rhobench.cluster.placement import Resources
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.ray_folder import ray_folder
from rhobench.cluster.run_queue import Run, RunQueue, RunSearcher, resources_needed
from rhobench.cluster.run_task import Execute
from rhobench.cluster.session import Cluster, ClusterError, last_line, persistent_interrupt
from rhobench.cluster.trackers import tracker_callbacks
from rhobench.cluster.trial import TrialContext, resources_of, trial
from rhobench.cluster.watchdog import Watchdog
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import EarlyStopping
from rhobench.config.paths import config_hash, with_values
from rhobench.config.sweep import SweepOptions
from rhobench.results import Store
from rhobench.study.known_runs import lacks_points


def run_sweep(
    runs: Sequence[Run],
    store: Store,
    cluster: Cluster,
    progress: ProgressTable,
    *,
    base: RunConfig,
    options: SweepOptions,
    early_stopping: EarlyStopping | None = None,
    searcher: RunSearcher | None = None,
    execute: Execute = execute,
) -> None:
    """Train the runs that ``store`` does not contain, then measure those that are trained.

    Results are stored as soon as they exist, so an interruption loses only the work since the last checkpoints.

    Args:
        runs: of one experiment, in the order in which they are started.
        store: that every node can access.
        cluster: of the current session.
        progress: shows the state of every run.
        base: configuration of the experiment, from which the runs differ.
        options: retries, trackers and the time after which a run without reports is considered stuck.
        early_stopping: rule by which runs are stopped early; None trains every run to its last epoch.
        searcher: proposes further runs from the results of finished ones.
        execute: executes one run; tests replace it.

    Raises:
        ClusterError: the cluster is too small for every run that is not finished.
    """
    known = store.statuses()
    for run_id in runs_with_attempt_file(store):
        if known.get(run_id) in FINISHED:
            clean_up_finished(store, run_id)
    # Without early stopping, runs that were stopped by an earlier command continue.
    done = (*FINISHED, "stopped") if early_stopping else FINISHED
    for run in runs:
        if known.get(run.run_id) in done:
            progress.set_state(run.run_id, known[run.run_id], "found in the store")
    waiting = [run for run in runs if known.get(run.run_id) not in done]
    _require_capacity(waiting, cluster)
    if waiting or searcher:
        _prepare(waiting, cluster, progress)
        queue = RunQueue(waiting, base, store, progress, options.retries, searcher)
        _train(queue, early_stopping, options, execute)
        runs = [*runs, *queue.proposed]
    # Latency is measured last, because it needs a node on which nothing else is running.
    records = {record.run_id: record for record in store.records()}
    measure_trained([run for run in runs if lacks_points(records.get(run.run_id), run.config)], store, progress)


def _require_capacity(runs: Sequence[Run], cluster: Cluster) -> None:
    """Raise ClusterError if no run fits the cluster, since Ray would wait forever.

    If only some runs do not fit, the watchdog warns about them.
    """
    capacity = Resources(cpus=cluster.cpus, gpus=cluster.gpus)
    if runs and not any(resources_needed(run).fits(capacity) for run in runs):
        raise ClusterError(
            f"{runs[0].run_id} needs {resources_needed(runs[0])}, but the cluster has {capacity}: lower "
            "train.num_workers, train.cpus_per_worker or train.gpus_per_worker."
        )


def _prepare(runs: Sequence[Run], cluster: Cluster, progress: ProgressTable) -> None:
    """Prepare data that several runs share, and backbone features, with all cores of a node."""
    # Cached features depend on both.
    keys = [config_hash(run.config.data) + config_hash(run.config.model.backbone) for run in runs]
    shared = {
        key: run.config
        for key, run in zip(keys, runs, strict=True)
        # The data of a single run are prepared by its own process, which saves the start of another one.
        if keys.count(key) > 1 or run.config.train.cache_features
    }
    if not shared:
        return
    progress.set_headline("preparing data and backbone features")
    # max_calls=1 ends the process, and with it the memory of the data and its number of threads.
    task = ray.remote(num_cpus=cluster.cores_per_node, max_calls=1)(prepare)
    for config in shared.values():
        try:
            problem = ray.get(task.remote(to_dict(config), cluster.cores_per_node))
        except RayError as error:
            problem = last_line(error)
        if problem:  # not fatal here: each run that meets the problem records it
            progress.set_headline(f"preparation failed: {problem}")


def _train(queue: RunQueue, early_stopping: EarlyStopping | None, options: SweepOptions, execute: Execute) -> None:
    """Execute the runs of ``queue`` until it is empty and no trial is active."""
    queue.progress.set_headline("training")
    store, base = queue.store, queue.base
    scheduler = None if early_stopping is None else _make_scheduler(early_stopping, queue)
    with ray_folder(store) as folder, persistent_interrupt() as raise_if_interrupted:
        context = TrialContext(
            store=store.place,
            base=to_dict(base),
            ray_storage=folder,
            decisions=None if scheduler is None else scheduler.decisions,
            execute=execute,
        )
        callbacks = [_TuneHooks(raise_if_interrupted), *tracker_callbacks(options.trackers, store, base.experiment)]
        tuner = _make_tuner(queue, context, scheduler, callbacks)
        with Watchdog(queue, store, queue.progress.warn, options.stuck_seconds):
            tuner.fit()


def _make_scheduler(early_stopping: EarlyStopping, queue: RunQueue) -> EarlyStoppingScheduler:
    """Scheduler that also compares with the runs of the experiment in the store."""
    epochs = max((run.config.train.epochs for run in queue.waiting), default=queue.base.train.epochs)
    known = [record for record in queue.store.records() if record.experiment == queue.base.experiment]
    return EarlyStoppingScheduler(early_stopping, epochs, start_stop_decisions(), known)


def _make_tuner(
    queue: RunQueue,
    context: TrialContext,
    scheduler: EarlyStoppingScheduler | None,
    callbacks: list[tune.Callback],
) -> tune.Tuner:
    base = queue.base  # the function below must not refer to the queue, which Ray pickles without its state
    trainable = tune.with_resources(
        tune.with_parameters(trial, context=context),  # stored once, not sent with every trial
        lambda parameters: resources_of(parameters, with_values(base, parameters["values"]).train),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=scheduler,
            num_samples=-1,  # RunQueue ends the sweep
            reuse_actors=True,  # a new process per run would import torch every time
            trial_name_creator=run_id_of,  # the name that trackers show
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(storage_path=context.ray_storage, verbose=0, callbacks=callbacks),
    )


def _folder_name(trial: Any) -> str:
    # Several attempts at a run are trials with the same name, so the id of the trial is added.
    return f"{run_id_of(trial)}-{trial.trial_id}"


class _TuneHooks(tune.Callback):
    """Raises a swallowed Ctrl-C again in Tune's event loop, and frees the statistics of ended trials.

    Tune keeps means and a history of every metric that a trial reports, 30 kB per trial, in the driver.
    """

    def __init__(self, raise_if_interrupted: Callable[[], None]) -> None:
        self.raise_if_interrupted = raise_if_interrupted

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles callbacks to restore a sweep, which rhobench never does."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.raise_if_interrupted()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    on_trial_error = on_trial_complete
