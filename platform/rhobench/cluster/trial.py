"""Trial of Ray Tune that executes one attempt at a run: with Ray Train for several workers, in its process for one.

A trainer nested in a trial costs ten seconds per run and four more processes, so a single worker does without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import ray
import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from rhobench.cluster.attempt import (
    FINISHED,
    ActiveAttempt,
    SupersededError,
    begin_attempt,
    clean_up_finished,
    end_attempt,
    fail_attempt,
    is_superseded,
    readable_record,
)
from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.cluster.interruption import InterruptionCheck
from rhobench.cluster.node_tasks import execute
from rhobench.cluster.placement import TRIAL_STRATEGY
from rhobench.cluster.run_task import SCRATCH_DIR, Execute, RunTask
from rhobench.config import RunConfig, TrainConfig
from rhobench.config.cache import cache_dir
from rhobench.config.conversion import from_dict
from rhobench.config.paths import with_values
from rhobench.results import Store
from rhobench.results.mirror import mirrored
from rhobench.results.record import Cause
from rhobench.training.status import Report, Status, TrainingInterruptedError

HEAD_NODE_RESOURCE = {"node:__internal_head__": 0.001}
"""Resources of a trial that only waits for its workers. It reserves no CPU, which its workers may need to start."""

NODE_LABEL = "ray.io/node-id"
"""Label of Ray with the id of a node."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """Values that all trials of a sweep share."""

    store: str
    """Path or URL of the store."""
    sweep: str
    """Unique identifier of the sweep, by which its trainings are interrupted."""
    base: dict[str, Any]
    """``RunConfig`` of the experiment, which the parameters of a trial change."""
    ray_storage: str
    """Folder for the state of Ray, which is never read."""
    driver: str = ""
    """Token of the command, by which others tell that its attempts are alive."""
    decisions: Any = None
    """Handle of the actor ``early_stopping.StopDecisions``; None without early stopping."""
    execute: Execute = execute
    """Executes a run."""


def resources_of(parameters: dict[str, Any], train: TrainConfig) -> tune.PlacementGroupFactory:
    """Resources of the trial itself, on a node that the parameters do not exclude."""
    if train.num_workers > 1:
        return _bundle(0.0, 0.0, ())
    return _bundle(train.cpus_per_worker, train.gpus_per_worker, tuple(parameters["avoid"]))


@cache
def _bundle(cpus: float, gpus: float, avoid: tuple[str, ...]) -> tune.PlacementGroupFactory:
    """Placement group of a trial, cached because Ray keeps the object for each trial."""
    bundle = {"CPU": cpus, "GPU": gpus} if cpus or gpus else HEAD_NODE_RESOURCE  # Ray rejects one without resources
    selector = {"bundle_label_selector": [exclude_nodes(avoid)]} if avoid else {}
    return tune.PlacementGroupFactory([bundle], strategy=TRIAL_STRATEGY, **selector)


def exclude_nodes(nodes: tuple[str, ...]) -> dict[str, str]:
    """Label selector of Ray for all nodes except these."""
    return {NODE_LABEL: f"!in({','.join(nodes)})"} if nodes else {}


def trial(parameters: dict[str, Any], context: TrialContext) -> None:
    """Attempt one run. A failure is recorded and does not affect other runs.

    An error that may be transient is raised again, so that Ray does not reuse the process for another trial.
    """
    config = with_values(from_dict(RunConfig, context.base), parameters["values"])
    store, run_id = Store(context.store), parameters["run_id"]
    node = ray.get_runtime_context().get_node_id()
    attempt = begin_attempt(store, run_id, config, node, context.driver, parameters["dead"])
    if attempt is None:
        return
    try:
        if config.train.num_workers > 1:
            _train_with_workers(parameters, attempt, config.train, context)
        else:
            _run_task(attempt, context, lambda status: tune.report(_metrics(status)))
        end_attempt(store, attempt)
    except Exception as error:
        root = _root_cause(error)
        if isinstance(root, SupersededError):
            return
        if isinstance(root, TrainingInterruptedError):  # no failure: the next command continues from the checkpoint
            end_attempt(store, attempt)
            return
        record = readable_record(store, run_id)
        if record is not None and record.status in FINISHED:  # what failed came after the result, which stays
            clean_up_finished(store, run_id)
            return
        # Our exceptions are permanent failures of the run; anything else may be transient and is retried.
        cause: Cause = "run" if isinstance(root, (ValueError, ArithmeticError)) else "machine"
        fail_attempt(store, attempt, root, cause)
        if cause == "machine":
            raise


def _run_task(
    attempt: ActiveAttempt,
    context: TrialContext,
    report_to_ray: Report,
    rank: int = 0,
    broadcast: Callable[[tuple[bool, str | None]], tuple[bool, str | None]] = lambda decision: decision,
) -> None:
    """Execute the run in this process, as the worker ``rank``.

    Args:
        attempt: the attempt at the run.
        context: values that all trials share.
        report_to_ray: passes the status of the training on to Ray.
        rank: of this worker; the first one decides whether the run ends.
        broadcast: returns the decision of the first worker on every worker.
    """
    store = Store(context.store)

    def report(status: Status) -> None:
        report_to_ray(status)
        superseded, stop_reason = False, None
        if rank == 0:
            superseded = is_superseded(store, attempt)
            if context.decisions is not None:
                stop_reason = ray.get(context.decisions.reason.remote(attempt.run_id))
        # All workers must leave at the same report, or the others would wait for the missing one forever.
        superseded, stop_reason = broadcast((superseded, stop_reason))
        if superseded:
            raise SupersededError(attempt.run_id)
        # After the last epoch, stopping would save little, and ``execute`` no longer expects it while it evaluates.
        if stop_reason is not None and status.epoch < status.epochs:
            raise StoppedEarlyError(stop_reason)

    config = from_dict(RunConfig, attempt.config)
    with mirrored(store, attempt.run_id, cache_dir() / SCRATCH_DIR) as folder:
        task = RunTask(
            run_id=attempt.run_id,
            config=config,
            folder=folder,
            started_at=attempt.started_at,
            past=attempt.past,
            interrupted=InterruptionCheck(context.sweep),
        )
        context.execute(task, report)


def _train_with_workers(
    parameters: dict[str, Any], attempt: ActiveAttempt, train: TrainConfig, context: TrialContext
) -> None:
    from ray.train.torch import TorchTrainer  # imports torch

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"attempt": asdict(attempt), "context": context},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker={"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker},
            label_selector=exclude_nodes(tuple(parameters["avoid"])) or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=context.ray_storage,  # not inherited from Tune
            callbacks=[TuneReportCallback()],
            # RunQueue decides about retries.
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    trainer.fit()


def _worker(parameters: dict[str, Any]) -> None:
    """Training function of each worker of a ``TorchTrainer``, for which Ray has set up the process group."""
    from rhobench.training.workers import broadcast, worker_rank  # imports torch, which single workers may not need yet

    attempt, (rank, _) = from_dict(ActiveAttempt, parameters["attempt"]), worker_rank()
    try:
        _run_task(attempt, parameters["context"], lambda status: ray.train.report(_metrics(status)), rank, broadcast)
    except TrainingInterruptedError:
        return  # every worker ends at this step, which Ray Train need not take for a failure


def _metrics(status: Status) -> dict[str, Any]:
    """Metrics for Ray, whose trackers use "timesteps_total", the optimiser steps, as the x-axis of curves."""
    return asdict(status) | {"timesteps_total": status.step}


def _root_cause(error: Exception) -> BaseException:
    """The exception of the first failed worker, if Ray Train has wrapped it.

    Our own exceptions take precedence: other workers may only have lost the connection to the worker that raised one.
    """
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    ours = (failure for failure in failures if isinstance(failure, (ValueError, ArithmeticError, SupersededError)))
    return next(ours, failures[0] if failures else error)
