"""A run as a Ray Tune trial. Several workers go through Ray Train, one worker runs inside the trial itself.

A trainer nested in a trial costs ten seconds a run and four more processes, so one worker does without.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from rhobench.cluster.execute import execute, write_failure
from rhobench.config import RunConfig
from rhobench.config_tree import from_dict
from rhobench.training import Status

DRIVER_RESOURCES = {"node:__internal_head__": 0.001}
"""Of a trial that only waits for its workers: no CPU, or the workers may never get theirs."""


def resources_of(config: RunConfig) -> dict[str, float]:
    """What the trial itself occupies."""
    train = config.train
    if train.num_workers > 1:
        return DRIVER_RESOURCES
    return {"CPU": train.cpus_per_worker, "GPU": train.gpus_per_worker}


def trial(parameters: dict[str, Any]) -> None:
    """Run one configuration. A failure becomes a record, not an error of Ray: the other runs go on."""
    spec = parameters["spec"]
    config, run_id, folder = from_dict(RunConfig, spec["config"]), spec["run_id"], Path(spec["folder"])
    try:
        if config.train.num_workers > 1:
            _train_with_workers(spec)
        else:
            execute(config, run_id, folder, lambda status: tune.report(_result(status)))
    except Exception as error:
        reason = write_failure(config, run_id, folder, _root_cause(error))
        tune.report(_result(Status(epoch=0, epochs=config.train.epochs, note=f"failed: {reason}")))


def _train_with_workers(spec: dict[str, Any]) -> None:
    config = from_dict(RunConfig, spec["config"]).train
    trainer = TorchTrainer(
        _worker,
        train_loop_config=spec,
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker},
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=spec["ray_storage"],
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    trainer.fit()


def _worker(spec: dict[str, Any]) -> None:
    """What each worker of a ``TorchTrainer`` does; Ray has set up the process group."""
    config = from_dict(RunConfig, spec["config"])
    execute(config, spec["run_id"], Path(spec["folder"]), lambda status: ray.train.report(_result(status)))


def _result(status: Status) -> dict[str, Any]:
    """What Ray is told; by that name its trackers know the optimiser steps, which they draw curves over."""
    return asdict(status) | {"timesteps_total": status.step}


def _root_cause(error: Exception) -> BaseException:
    """The exception of the first worker that failed, where Ray Train wraps it.

    One with a sentence of ours comes first: the others may only have lost their connection to that worker.
    """
    failures = list((getattr(error, "worker_failures", None) or {}).values())
    ours = (failure for failure in failures if isinstance(failure, (ValueError, ArithmeticError)))
    return next(ours, failures[0] if failures else error)
