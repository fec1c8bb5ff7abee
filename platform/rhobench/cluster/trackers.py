"""Experiment trackers: TensorBoard files in the store, MLflow, and Weights & Biases.

Ray's TensorBoard callback writes into the folder of Ray's state, which is deleted with the sweep, and counts reports.
The callback of this module writes into the folder of each run and counts optimiser steps. MLflow and W&B use the
callbacks of Ray.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.logger import LoggerCallback

from rhobench.cluster.early_stopping import run_id_of
from rhobench.config.cache import cache_dir
from rhobench.results import Store

TENSORBOARD = "tensorboard"
"""Name of the folder of the event files, in the folder of the run."""

SCALARS = ("loss", "ap", "lr", "images_per_second", "data_wait", "memory_gib")
"""Fields of ``training.Status`` that become curves, besides its loss terms."""


def tracker_callbacks(names: Sequence[str], store: Store, experiment: str) -> list[Callback]:
    """Callbacks of Ray Tune for a sweep.

    Args:
        names: of trackers, besides TensorBoard, which is always used.
        store: where their files are written, unless MLFLOW_TRACKING_URI or the environment variables of W&B are set.
        experiment: name of the MLflow experiment and, unless WANDB_PROJECT_NAME is set, of the W&B project.
    """
    callbacks: list[Callback] = [TensorBoardCallback(store)]
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback  # imports mlflow, which need not be installed

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{store.path / 'mlflow.db'}")
        callbacks.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=experiment))
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback  # imports wandb, likewise

        project = os.environ.get("WANDB_PROJECT_NAME", experiment)
        callbacks.append(WandbLoggerCallback(project=project, dir=str(store.path)))
    return callbacks


class TensorBoardCallback(LoggerCallback):
    """Writes TensorBoard event files for every run: ``tensorboard --logdir STORE/runs``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._writers: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """State without the open files: Ray pickles callbacks to restore a sweep, which rhobench never does."""
        return {"store": self.store, "_writers": {}}

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write the metrics of a report."""
        if result.get("loss") is None or not result["terms"]:
            return  # the report has only a note or a warning
        run_id, step = run_id_of(trial), result["step"]
        if run_id not in self._writers:
            from tensorboardX import SummaryWriter

            # A resumed run repeats the steps since its last checkpoint; earlier values of these steps are hidden.
            self._writers[run_id] = SummaryWriter(str(self._folder(run_id)), purge_step=step)
        values = {name: result[name] for name in SCALARS} | {f"terms/{n}": v for n, v in result["terms"].items()}
        for name, value in values.items():
            if value is not None:
                self._writers[run_id].add_scalar(name, value, global_step=step)
        self._writers[run_id].flush()  # curves can be watched while the run is training

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Close the file of a run, and upload it if the store is in a bucket."""
        run_id = run_id_of(trial)
        writer = self._writers.pop(run_id, None)
        if writer is None:
            return
        writer.close()
        if not self.store.is_local:
            for file in self._folder(run_id).iterdir():
                self.store.files.upload(file, f"runs/{run_id}/{TENSORBOARD}/{file.name}")

    def _folder(self, run_id: str) -> Path:
        """Folder of the event files of a run: in the store, or in the cache until they are uploaded to a bucket."""
        if self.store.is_local:
            return self.store.run_dir(run_id) / TENSORBOARD
        return cache_dir() / TENSORBOARD / self.store.name / run_id
