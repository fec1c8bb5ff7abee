"""Replay of the step that stopped a training: ``python -m rhobench.training.replay RUN_FOLDER``.

It reads the two files of a failed step, ``nonfinite-workerN.safetensors`` and ``.json``: the batch after augmentation,
the weights before the step, and the configuration. Nothing is unpickled.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.data.coco import Batch, Target
from rhobench.model import Detector, build_model
from rhobench.training.batches import FeatureBatch, TrainBatch
from rhobench.training.diagnosis import failed_step_files, find_nonfinite


def failed_workers(folder: Path) -> list[int]:
    """Ranks of the workers with a failed step in the folder of a run.

    Raises:
        ValueError: there are none.
    """
    files = folder.glob("nonfinite-worker*.json")
    workers = sorted(int(file.stem.removeprefix("nonfinite-worker")) for file in files)
    if not workers:
        raise ValueError(f"{folder} has no nonfinite-worker*.json, so no step failed in it: give the folder of a run.")
    return workers


def load_failed_step(folder: Path, worker: int = 0) -> tuple[Detector, TrainBatch, RunConfig, float, int]:
    """Load the failed step of a worker.

    Returns:
        Model in training mode, batch, configuration, loss scale, and optimiser steps done before: the arguments of
        ``find_nonfinite``.

    Raises:
        FileNotFoundError: the folder has no failed step of this worker; see ``failed_workers``.
    """
    tensors_file, description_file = failed_step_files(folder, worker)
    tensors, saved = load_file(tensors_file), json.loads(description_file.read_text())
    config = from_dict(RunConfig, saved["config"])
    # The saved weights include the backbone's, so its pretrained file is not needed.
    changes = {"backbone": replace(config.model.backbone, weights=None), "num_classes": saved["num_classes"]}
    # The backend of the run may need a GPU, which this machine may lack.
    model = build_model(replace(config.model, **changes, attention_backend="auto"))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    targets = tuple(
        Target(
            image["id"],
            tensors[f"labels.{row}"],
            tensors[f"boxes.{row}"],
            tuple(image["size"]),
            tensors.get(f"masks.{row}"),
        )
        for row, image in enumerate(saved["images"])
    )
    inputs = [tensors[f"input.{level}"] for level in range(sum(name.startswith("input.") for name in tensors))]
    mask = tensors["mask"]
    batch = FeatureBatch(inputs, mask, targets) if saved["features"] else Batch(inputs[0], mask, targets)
    return model.train(), batch, config, saved["loss_scale"], saved["steps"]


def replay(folder: Path, worker: int = 0) -> str:
    """Run the failed step of a worker again on the CPU, and describe the first non-finite value."""
    return find_nonfinite(*load_failed_step(folder, worker))


def main(arguments: list[str]) -> None:
    """Replay the failed steps of all workers of a run, and print the findings."""
    if len(arguments) != 1:
        sys.exit("usage: python -m rhobench.training.replay RUN_FOLDER")
    folder = Path(arguments[0])
    try:
        workers = failed_workers(folder)
    except ValueError as error:
        sys.exit(str(error))
    torch.manual_seed(0)  # dropout then gives the same result in every replay
    for worker in workers:
        print(f"worker {worker}: {replay(folder, worker)}")


if __name__ == "__main__":
    main(sys.argv[1:])
