"""Execute an experiment on Ray: train its runs as trials of Ray Tune, then measure them with exclusive access."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.progress_reporter import TrialProgressCallback

from rhobench.cluster.attempt import FINISHED, clean_up_finished, runs_with_attempt_file
from rhobench.cluster.driver_lease import DriverLease
from rhobench.cluster.early_stopping import EarlyStoppingScheduler, run_id_of, start_stop_decisions
from rhobench.cluster.interruption import forget_interruption, interrupt_trainings
from rhobench.cluster.measurement import measure_trained
from rhobench.cluster.node_tasks import execute, prepare
from rhobench.cluster.placement import Resources
from rhobench.cluster.progress_file import ProgressFile
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.ray_folder import ray_folder
from rhobench.cluster.run_queue import Run, RunQueue, RunSearcher, resources_needed
from rhobench.cluster.run_task import Execute
from rhobench.cluster.session import Cluster, ClusterError
from rhobench.cluster.stop_signals import StopRequested, StopSignals
from rhobench.cluster.trackers import tracker_callbacks
from rhobench.cluster.trial import TrialContext, resources_of, trial
from rhobench.cluster.turns import measuring_turn
from rhobench.cluster.watchdog import Watchdog
from rhobench.config import DataConfig, RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.experiment import EarlyStopping
from rhobench.config.paths import config_hash, with_values
from rhobench.config.sweep import SweepOptions
from rhobench.results import Store
from rhobench.study.known_runs import lacks_points

FEW_IMAGES = 100
"""Number of images up to which a process of its own is not worth it to prepare them."""


def run_sweep(
    runs: Sequence[Run],
    store: Store,
    cluster: Cluster,
    progress: ProgressTable,
    *,
    base: RunConfig,
    options: SweepOptions,
    stop: StopSignals,
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
        stop: signals that interrupt the sweep.
        early_stopping: rule by which runs are stopped early; None trains every run to its last epoch.
        searcher: proposes further runs from the results of finished ones.
        execute: executes one run; tests replace it.

    Raises:
        ClusterError: the cluster is too small for every run that is not finished.
        StopRequested: a stop signal was received; trainings have written checkpoints.
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
    with DriverLease(store) as lease, ProgressFile(lease, progress) as file:
        if waiting or searcher:
            _prepare(waiting, store, cluster, progress)
            queue = RunQueue(waiting, base, store, progress, options.retries, searcher, lease)
            file.queue = queue
            stop.raise_if_received()
            _train(queue, early_stopping, options, stop, execute)
            stop.raise_if_received()
            runs = [*runs, *queue.proposed]
        # Latency is measured last, because it needs a node on which nothing else is running.
        progress.on_phase("measuring")
        with measuring_turn(lease, progress.set_headline):
            records = {record.run_id: record for record in store.records()}
            unmeasured = [run for run in runs if lacks_points(records.get(run.run_id), run.config)]
            measure_trained(unmeasured, store, progress)


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


def _prepare(runs: Sequence[Run], store: Store, cluster: Cluster, progress: ProgressTable) -> None:
    """Prepare data that several runs share, and backbone features, with all cores of a node."""
    # Cached features depend on both.
    keys = [config_hash(run.config.data) + config_hash(run.config.model.backbone) for run in runs]
    shared = {
        key: run.config
        for key, run in zip(keys, runs, strict=True)
        # The data of a single run, and few images, are prepared by the runs' own processes, of which one does it while
        # the others wait. That saves the start of another process, six seconds on two cores.
        if (keys.count(key) > 1 or run.config.train.cache_features) and _has_many_images(run.config.data)
    }
    if not shared:
        return
    progress.begin_phase("preparing data and backbone features")
    # max_calls=1 ends the process, and with it the memory of the data and its number of threads.
    task = ray.remote(num_cpus=cluster.cores_per_node, max_calls=1)(prepare)
    for config in shared.values():
        try:
            problem = ray.get(task.remote(to_dict(config), cluster.cores_per_node))
        except RayError as error:
            problem = str(error)
        if problem is not None:  # not fatal here: each run that meets the problem records it
            path = f"experiments/{config.experiment}-preparation-error.txt"
            store.files.write(path, problem.encode(errors="replace"))
            line = (problem.strip().splitlines() or ["no message"])[-1]
            progress.warn(f"preparation failed: {line}; see {store.files.display_path(path)}")


def _has_many_images(data: DataConfig) -> bool:
    """Whether a data set has more than ``FEW_IMAGES``; so is assumed of a folder that this machine does not see."""
    if data.dir is None:
        return data.scenes.train_images + data.scenes.val_images > FEW_IMAGES
    files = (path for path in Path(data.dir).rglob("*") if path.is_file())
    return not Path(data.dir).is_dir() or sum(1 for _ in islice(files, FEW_IMAGES + 1)) > FEW_IMAGES


def _train(
    queue: RunQueue,
    early_stopping: EarlyStopping | None,
    options: SweepOptions,
    stop: StopSignals,
    execute: Execute,
) -> None:
    """Execute the runs of ``queue`` until it is empty and no trial is active, or a stop signal ends them."""
    queue.progress.begin_phase("training")
    store, base = queue.store, queue.base
    scheduler = None if early_stopping is None else _make_scheduler(early_stopping, queue)
    with ray_folder(store) as folder, stop.deferred():
        context = TrialContext(
            store=store.place,
            sweep=uuid.uuid4().hex,
            driver="" if queue.lease is None else queue.lease.token,
            base=to_dict(base),
            ray_storage=folder,
            decisions=None if scheduler is None else scheduler.decisions,
            execute=execute,
        )
        callbacks = [
            _TuneHooks(stop, queue, context.sweep),
            _SilentProgress(),
            *tracker_callbacks(options.trackers, store, base.experiment),
        ]
        tuner = _make_tuner(queue, context, scheduler, callbacks)
        try:
            with Watchdog(queue, store, queue.progress.warn, options.stuck_seconds):
                tuner.fit()
        finally:
            queue.end_active_attempts()
            forget_interruption(context.sweep)


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


class _SilentProgress(TrialProgressCallback):
    """Replaces Tune's own, which prints a line for each trial that ends without a report, in spite of verbose=0."""

    def _print(self, msg: str) -> None:
        pass


class _TuneHooks(tune.Callback):
    """Ends the trainings when a stop signal was received, and frees the statistics of ended trials.

    Tune keeps means and a history of every metric that a trial reports, 30 kB per trial, in the driver.
    """

    def __init__(self, stop: StopSignals, queue: RunQueue, sweep: str) -> None:
        self.stop, self.queue, self.sweep = stop, queue, sweep

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles callbacks to restore a sweep, which rhobench never does."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.stop.install()  # Tune has replaced the handler of SIGUSR1
        if self.stop.received is None:
            return
        if not self.queue.stopping:
            self.queue.stop(self.stop.received.name)
            interrupt_trainings(self.sweep)
        if self.stop.grace_is_over:
            raise StopRequested

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    on_trial_error = on_trial_complete
