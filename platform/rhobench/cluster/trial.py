"""One try at a run as a Ray Tune trial. Several workers go through Ray Train, one worker runs inside the trial itself.

A trainer nested in a trial costs ten seconds a run and four more processes, so one worker does without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from rhobench.cluster import attempt
from rhobench.cluster.attempt import ActiveAttempt, SupersededError
from rhobench.cluster.early_stopping import StoppedEarlyError
from rhobench.cluster.execute import RunTask, execute
from rhobench.config import RunConfig, TrainConfig
from rhobench.config.paths import from_dict, with_values
from rhobench.data import cache_dir
from rhobench.results import Store
from rhobench.results.mirror import mirrored
from rhobench.results.record import Cause
from rhobench.training import Report, Status
from rhobench.training.workers import broadcast, worker_rank

HEAD = {"node:__internal_head__": 0.001}
"""Of a trial that only waits for its workers: no CPU, or the workers may never get theirs."""

SCRATCH = "scratch"
"""Folder of the cache for runs whose store is in a bucket."""

NODE_LABEL = "ray.io/node-id"

Execute = Callable[[RunTask, Report], None]


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a sweep share."""

    store: str
    """Place of the store."""
    base: dict[str, Any]
    """``RunConfig`` that the parameters of a trial change."""
    ray_storage: str
    """Folder for Ray's own files, which are never read."""
    decisions: Any = None
    """The actor ``stopping.StopDecisions``, when runs may be stopped early."""
    execute: Execute = execute
    """Does the run."""


def resources_of(parameters: dict[str, Any], train: TrainConfig) -> tune.PlacementGroupFactory:
    """What the trial itself occupies, on none of the nodes that the parameters avoid."""
    if train.num_workers > 1:
        return _bundle(0.0, 0.0, ())
    return _bundle(train.cpus_per_worker, train.gpus_per_worker, tuple(parameters["avoid"]))


@cache
def _bundle(cpus: float, gpus: float, avoid: tuple[str, ...]) -> tune.PlacementGroupFactory:
    """One object for all trials alike: Ray keeps it for each of them."""
    if not cpus and not gpus:
        return tune.PlacementGroupFactory([HEAD])
    bundle = {"CPU": cpus, "GPU": gpus}
    return tune.PlacementGroupFactory([bundle], **({"bundle_label_selector": [avoiding(avoid)]} if avoid else {}))


def avoiding(nodes: tuple[str, ...]) -> dict[str, str]:
    """Ray's label selector for all nodes but these."""
    return {NODE_LABEL: f"!in({','.join(nodes)})"} if nodes else {}


def trial(parameters: dict[str, Any], context: TrialContext) -> None:
    """Try to run one configuration. A failure becomes a record; the other runs go on.

    Where another try may succeed the error is raised again, so that no later trial gets a process that may be ill.
    """
    config = with_values(from_dict(RunConfig, context.base), parameters["values"])
    store, run_id = Store(context.store), parameters["run_id"]
    mine = attempt.begin(store, run_id, config, ray.get_runtime_context().get_node_id())
    try:
        if config.train.num_workers > 1:
            _train_with_workers(parameters, mine, config.train, context)
        else:
            _work(mine, context, lambda status: tune.report(_result(status)))
        attempt.end(store, mine)
    except Exception as error:
        root = _root_cause(error)
        if isinstance(root, SupersededError):
            return
        # Our own errors are sentences about the run; every other may pass.
        cause: Cause = "run" if isinstance(root, (ValueError, ArithmeticError)) else "machine"
        attempt.fail(store, mine, root, cause)
        if cause == "machine":
            raise


def _work(mine: ActiveAttempt, context: TrialContext, tell: Report) -> None:
    """Do the run in this process, one of its workers."""
    store = Store(context.store)
    rank, _ = worker_rank()

    def report(status: Status) -> None:
        tell(status)
        superseded, verdict = False, None
        if rank == 0:
            superseded = attempt.is_superseded(store, mine)
            if context.decisions is not None:
                verdict = ray.get(context.decisions.reason.remote(mine.run_id))
        # All workers leave at the same report.
        superseded, verdict = broadcast((superseded, verdict))
        if superseded:
            raise SupersededError(mine.run_id)
        if verdict is not None and status.epoch < status.epochs:
            raise StoppedEarlyError(verdict)

    config = from_dict(RunConfig, mine.config)
    with mirrored(store, mine.run_id, cache_dir() / SCRATCH) as folder:
        context.execute(RunTask(run_id=mine.run_id, config=config, folder=folder, past=mine.past), report)


def _train_with_workers(
    parameters: dict[str, Any], mine: ActiveAttempt, train: TrainConfig, context: TrialContext
) -> None:
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"mine": asdict(mine), "setting": context},
        scaling_config=ray.train.ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker={"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker},
            label_selector=avoiding(tuple(parameters["avoid"])) or None,
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=context.ray_storage,
            callbacks=[TuneReportCallback()],
            # The supply of the sweep decides whether there is another try.
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    trainer.fit()


def _worker(parameters: dict[str, Any]) -> None:
    """What each worker of a ``TorchTrainer`` does; Ray has set up the process group."""
    mine = attempt.from_json(parameters["mine"])
    _work(mine, parameters["setting"], lambda status: ray.train.report(_result(status)))


def _result(status: Status) -> dict[str, Any]:
    """What Ray is told; by that name its trackers know the optimiser steps, which they draw curves over."""
    return asdict(status) | {"timesteps_total": status.step}


def _root_cause(error: Exception) -> BaseException:
    """The exception of the first worker that failed, where Ray Train wraps it.

    One with a sentence of ours comes first: the others may only have lost their connection to that worker.
    """
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    ours = (failure for failure in failures if isinstance(failure, (ValueError, ArithmeticError, SupersededError)))
    return next(ours, failures[0] if failures else error)
