"""A whole experiment: its runs as Ray Tune trials, then their cost measured with the machine to themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

from rhobench.cluster import attempt
from rhobench.cluster.attempt import FINISHED
from rhobench.cluster.board import Board
from rhobench.cluster.execute import execute
from rhobench.cluster.measuring import measure_trained
from rhobench.cluster.placement import Need
from rhobench.cluster.preparing import prepare
from rhobench.cluster.ray_folder import ray_folder
from rhobench.cluster.session import Cluster, ClusterError, last_line, remembered_interrupt
from rhobench.cluster.stopping import EarlyStop, run_id_of, start_verdicts
from rhobench.cluster.supply import Chooser, Run, Supply, need_of
from rhobench.cluster.trackers import tracking
from rhobench.cluster.trial import Execute, Setting, resources_of, trial
from rhobench.cluster.watchdog import Watchdog
from rhobench.config import RunConfig
from rhobench.config.experiment import EarlyStopping
from rhobench.config.paths import config_hash, to_dict, with_values
from rhobench.results import Store


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a sweep goes about its runs."""

    base: RunConfig
    """Configuration that the runs vary."""
    trackers: Sequence[str] = ()
    """Names of ``trackers.PACKAGES`` that the trainings are logged to, beside TensorBoard files."""
    retries: int = 2
    """Further tries at a run whose attempt the machine ended."""
    early_stopping: EarlyStopping | None = None
    """Which runs end early."""
    chooser: Chooser | None = None
    """Chooses further runs by the results of others."""
    stuck_seconds: float = 3600.0
    """A run that says nothing for so long is stopped and tried again."""
    execute: Execute = execute
    """Does a run."""


def run_sweep(runs: Sequence[Run], store: Store, cluster: Cluster, board: Board, manner: Manner) -> None:
    """Train the runs that the store lacks, then measure those that are trained. Finished ones are left alone.

    Every result goes into the store as soon as it exists; an interruption loses what came after the last checkpoints.

    Args:
        runs: of one experiment, in the order in which they are tried.
        store: that every node can reach.
        cluster: of the session that is open.
        board: is told how it goes.
        manner: the rest.
    """
    known = store.statuses()
    for run_id in attempt.begun(store):
        if known.get(run_id) in FINISHED:
            attempt.settle(store, run_id)
    # Without early stopping those that were stopped go on.
    done = (*FINISHED, "stopped") if manner.early_stopping else FINISHED
    for run in runs:
        if known.get(run.run_id) in done:
            board.set_state(run.run_id, known[run.run_id], "found in the store")
    waiting = [run for run in runs if known.get(run.run_id) not in done]
    _require_capacity(waiting, cluster)
    if waiting or manner.chooser:
        _prepare(waiting, cluster, board)
        runs = [*runs, *_train(waiting, store, board, manner)]
    statuses = store.statuses()
    measure_trained([run for run in runs if statuses.get(run.run_id) == "trained"], store, board)


def _require_capacity(runs: Sequence[Run], cluster: Cluster) -> None:
    """Runs none of which can ever start would wait for ever. Where some can, the watchdog speaks of the others."""
    have = Need(cpus=cluster.cpus, gpus=cluster.gpus)
    if runs and not any(need_of(run).fits(have) for run in runs):
        raise ClusterError(
            f"{runs[0].run_id} needs {need_of(runs[0])}, but the cluster has {have}: lower train.num_workers, "
            "train.cpus_per_worker or train.gpus_per_worker."
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
            problem = last_line(error)
        if problem:  # each run will meet it again and record it
            board.say(f"preparation failed: {problem}")


def _train(waiting: Sequence[Run], store: Store, board: Board, manner: Manner) -> list[Run]:
    """Try the runs -> those that were chosen by results on the way."""
    board.say("training")
    with ray_folder(store) as folder, remembered_interrupt() as raise_again:
        supply = Supply(waiting, manner.base, store, board, manner.retries, manner.chooser)
        verdicts = scheduler = None
        if manner.early_stopping is not None:
            verdicts = start_verdicts()
            epochs = max((run.config.train.epochs for run in waiting), default=manner.base.train.epochs)
            known = [record for record in store.records() if record.experiment == manner.base.experiment]
            scheduler = EarlyStop(manner.early_stopping, epochs, verdicts, known)
        setting = Setting(
            store=store.place,
            base=to_dict(manner.base),
            ray_storage=folder,
            verdicts=verdicts,
            execute=manner.execute,
        )
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trial, setting=setting),
                lambda parameters: resources_of(parameters, with_values(manner.base, parameters["values"]).train),
            ),
            tune_config=tune.TuneConfig(
                search_alg=supply,
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
                callbacks=[_Beside(raise_again), *tracking(manner.trackers, store, manner.base.experiment)],
            ),
        )
        with Watchdog(supply, store, board.warn, manner.stuck_seconds):
            tuner.fit()
        return supply.chosen


def _folder_name(trial: Any) -> str:
    return f"{run_id_of(trial)}-{trial.trial_id}"


class _Beside(tune.Callback):
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
