"""A whole experiment: its runs as Ray Tune trials, then their cost measured with the machine to themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from rhobench.cluster import attempt
from rhobench.cluster.attempt import FINISHED
from rhobench.cluster.data_preparation import prepare
from rhobench.cluster.early_stopping import EarlyStoppingScheduler, run_id_of, start_stop_decisions
from rhobench.cluster.execute import execute
from rhobench.cluster.measurement import measure_trained
from rhobench.cluster.placement import Resources
from rhobench.cluster.progress_table import ProgressTable
from rhobench.cluster.ray_folder import ray_folder
from rhobench.cluster.run_queue import Run, RunQueue, RunSearcher, resources_needed
from rhobench.cluster.session import Cluster, ClusterError, last_line, remembered_interrupt
from rhobench.cluster.trackers import tracking
from rhobench.cluster.trial import Execute, TrialContext, resources_of, trial
from rhobench.cluster.watchdog import Watchdog
from rhobench.config import RunConfig
from rhobench.config.experiment import EarlyStopping
from rhobench.config.paths import config_hash, to_dict, with_values
from rhobench.config.sweep import SweepOptions
from rhobench.results import Store


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
    """Train the runs that the store lacks, then measure those that are trained. Finished ones are left alone.

    Every result goes into the store as soon as it exists; an interruption loses what came after the last checkpoints.

    Args:
        runs: of one experiment, in the order in which they are tried.
        store: that every node can reach.
        cluster: of the session that is open.
        board: is told how it goes.
        base: configuration that the runs vary.
        options: retries, trackers and how long a run may stay silent.
        early_stopping: which runs end early; None: every run trains to its last epoch.
        searcher: proposes further runs from the results of finished ones.
        execute: trains one run; tests replace it.
    """
    known = store.statuses()
    for run_id in attempt.begun(store):
        if known.get(run_id) in FINISHED:
            attempt.settle(store, run_id)
    # Without early stopping those that were stopped go on.
    done = (*FINISHED, "stopped") if early_stopping else FINISHED
    for run in runs:
        if known.get(run.run_id) in done:
            progress.set_state(run.run_id, known[run.run_id], "found in the store")
    waiting = [run for run in runs if known.get(run.run_id) not in done]
    _require_capacity(waiting, cluster)
    if waiting or searcher:
        _prepare(waiting, cluster, progress)
        runs = [*runs, *_train(waiting, store, progress, base, options, early_stopping, searcher, execute)]
    statuses = store.statuses()
    measure_trained([run for run in runs if statuses.get(run.run_id) == "trained"], store, progress)


def _require_capacity(runs: Sequence[Run], cluster: Cluster) -> None:
    """Runs none of which can ever start would wait for ever. Where some can, the watchdog speaks of the others."""
    have = Resources(cpus=cluster.cpus, gpus=cluster.gpus)
    if runs and not any(resources_needed(run).fits(have) for run in runs):
        raise ClusterError(
            f"{runs[0].run_id} needs {resources_needed(runs[0])}, but the cluster has {have}: lower train.num_workers, "
            "train.cpus_per_worker or train.gpus_per_worker."
        )


def _prepare(runs: Sequence[Run], cluster: Cluster, progress: ProgressTable) -> None:
    """Data and features that several runs share are made once, with all cores, before the first of them starts."""
    progress.say("preparing data and backbone features")
    shared = {config_hash(r.config.data) + config_hash(r.config.model.backbone): r.config for r in runs}
    task = ray.remote(num_cpus=cluster.cores_per_node, max_calls=1)(prepare)
    for config in shared.values():
        try:
            problem = ray.get(task.remote(to_dict(config), cluster.cores_per_node))
        except RayError as error:
            problem = last_line(error)
        if problem:  # each run will meet it again and record it
            progress.say(f"preparation failed: {problem}")


def _train(
    waiting: Sequence[Run],
    store: Store,
    progress: ProgressTable,
    base: RunConfig,
    options: SweepOptions,
    early_stopping: EarlyStopping | None,
    searcher: RunSearcher | None,
    execute: Execute,
) -> list[Run]:
    """Try the runs -> those that were chosen by results on the way."""
    progress.say("training")
    with ray_folder(store) as folder, remembered_interrupt() as raise_again:
        queue = RunQueue(waiting, base, store, progress, options.retries, searcher)
        decisions = scheduler = None
        if early_stopping is not None:
            decisions = start_stop_decisions()
            epochs = max((run.config.train.epochs for run in waiting), default=base.train.epochs)
            known = [record for record in store.records() if record.experiment == base.experiment]
            scheduler = EarlyStoppingScheduler(early_stopping, epochs, decisions, known)
        context = TrialContext(
            store=store.place,
            base=to_dict(base),
            ray_storage=folder,
            decisions=decisions,
            execute=execute,
        )
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trial, context=context),
                lambda parameters: resources_of(parameters, with_values(base, parameters["values"]).train),
            ),
            tune_config=tune.TuneConfig(
                search_alg=queue,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                # The name by which trackers show a run.
                trial_name_creator=run_id_of,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[_TuneHooks(raise_again), *tracking(options.trackers, store, base.experiment)],
            ),
        )
        with Watchdog(queue, store, progress.warn, options.stuck_seconds):
            tuner.fit()
        return queue.chosen


def _folder_name(trial: Any) -> str:
    return f"{run_id_of(trial)}-{trial.trial_id}"


class _TuneHooks(tune.Callback):
    """Beside Tune's loop: raises Ctrl-C again where Ray lost it, and forgets what Tune would remember of ended trials.

    Of every number that a trial reports Tune keeps means and a history in the driver, 30 kB a trial.
    """

    def __init__(self, raise_again: Callable[[], None]) -> None:
        self.raise_again = raise_again

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks for a restore that never happens here."""
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.raise_again()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    on_trial_error = on_trial_complete
