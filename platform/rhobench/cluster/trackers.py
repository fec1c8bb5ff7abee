"""Where trainings can be watched beside the live table: TensorBoard files in the store, MLflow, Weights & Biases.

Ray's own TensorBoard callback writes beside Ray's state, which ends with the sweep, over the count of reports. Ours
writes into the folder of each run, over optimiser steps. MLflow and W&B are Ray's own callbacks.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from rhobench.cluster.early_stopping import run_id_of
from rhobench.config import ConfigError
from rhobench.data import cache_dir
from rhobench.results import Store

PACKAGES: Mapping[str, str] = {"mlflow": "mlflow", "wandb": "wandb"}
"""What ``--log-to`` takes, and the package that each needs."""

TENSORBOARD = "tensorboard"
"""Folder of the event files, in that of their run."""

SCALARS = ("loss", "ap", "lr", "images_per_second", "data_wait", "memory_gib")
"""Fields of ``training.Status`` that become curves, beside each of its loss terms."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuse what cannot be logged to, before anything is started.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"--log-to {name} is not known: it takes {' or '.join(PACKAGES)}.")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"--log-to {name} needs the Python package {PACKAGES[name]}, which is not installed: "
                f"pip install {PACKAGES[name]}, or leave out --log-to."
            )


def tracking(names: Sequence[str], store: Store, experiment: str) -> list[Callback]:
    """Callbacks for a sweep.

    Args:
        names: of trackers, beside the TensorBoard files that are always written.
        store: holds what they write, unless MLFLOW_TRACKING_URI or W&B's own variables say otherwise.
        experiment: MLflow's experiment and W&B's project, unless WANDB_PROJECT_NAME gives another.
    """
    callbacks: list[Callback] = [TensorBoard(store)]
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{store.path / 'mlflow.db'}")
        callbacks.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback

        project = os.environ.get("WANDB_PROJECT_NAME", experiment)
        callbacks.append(WandbLoggerCallback(project=project, dir=str(store.path)))
    return callbacks


class TensorBoard(LoggerCallback):
    """Curves of every run as TensorBoard event files: ``tensorboard --logdir STORE/runs``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._writers: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles its callbacks for a restore that never happens here; open files cannot be pickled."""
        return {"store": self.store, "_writers": {}}

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write what a run reported of its steps."""
        if result.get("loss") is None or not result["terms"]:
            return  # a note or a warning
        run_id, step = run_id_of(trial), result["step"]
        if run_id not in self._writers:
            from tensorboardX import SummaryWriter

            # A run that was taken up again repeats the steps since its last checkpoint.
            self._writers[run_id] = SummaryWriter(str(self._folder(run_id)), purge_step=step)
        values = {name: result[name] for name in SCALARS} | {f"terms/{n}": v for n, v in result["terms"].items()}
        for name, value in values.items():
            if value is not None:
                self._writers[run_id].add_scalar(name, value, global_step=step)
        self._writers[run_id].flush()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Close the file of a run."""
        run_id = run_id_of(trial)
        writer = self._writers.pop(run_id, None)
        if writer is None:
            return
        writer.close()
        if not self.store.is_local:
            for file in self._folder(run_id).iterdir():
                self.store.files.upload(file, f"runs/{run_id}/{TENSORBOARD}/{file.name}")

    def _folder(self, run_id: str) -> Path:
        """Where the files of a run are written: in the store, or on this machine until they are uploaded."""
        if self.store.is_local:
            return self.store.run_dir(run_id) / TENSORBOARD
        return cache_dir() / TENSORBOARD / self.store.name / run_id
