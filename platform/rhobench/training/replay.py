"""The step that stopped a training, run again: ``python -m rhobench.training.replay RUN_FOLDER``.

Works from the two files that the training left, ``nonfinite-workerN.safetensors`` and ``.json``: the batch as the model
saw it, the weights before the step, the configuration. Neither is unpickled.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from rhobench.config import RunConfig
from rhobench.config.paths import from_dict
from rhobench.data import Batch, Target
from rhobench.model import Detector, build_model
from rhobench.training.batches import FeatureBatch, TrainBatch
from rhobench.training.diagnosis import failed_step_files, find_nonfinite


def failed_workers(folder: Path) -> list[int]:
    """The workers of whom ``folder`` keeps a step.

    Raises:
        ValueError: there are none.
    """
    files = folder.glob("nonfinite-worker*.json")
    workers = sorted(int(file.stem.removeprefix("nonfinite-worker")) for file in files)
    if not workers:
        raise ValueError(f"{folder} holds no nonfinite-worker*.json: no step has failed there. Give a run's folder.")
    return workers


def load_failed_step(folder: Path, worker: int = 0) -> tuple[Detector, TrainBatch, RunConfig, float, int]:
    """Of the step that failed: model in training mode, batch, configuration, loss scale, steps before it.

    Raises:
        FileNotFoundError: the folder keeps no step of this worker; see ``failed_workers``.
    """
    tensors_file, description_file = failed_step_files(folder, worker)
    tensors, kept = load_file(tensors_file), json.loads(description_file.read_text())
    config = from_dict(RunConfig, kept["config"])
    changes = {"backbone": replace(config.model.backbone, weights=None), "num_classes": kept["num_classes"]}
    model = build_model(replace(config.model, **changes, attention_backend="auto"))  # the run's may need its GPU
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    targets = tuple(
        Target(
            image["id"],
            tensors[f"labels.{row}"],
            tensors[f"boxes.{row}"],
            tuple(image["size"]),
            tensors.get(f"masks.{row}"),
        )
        for row, image in enumerate(kept["images"])
    )
    inputs = [tensors[f"input.{level}"] for level in range(sum(name.startswith("input.") for name in tensors))]
    mask = tensors["mask"]
    batch = FeatureBatch(inputs, mask, targets) if kept["features"] else Batch(inputs[0], mask, targets)
    return model.train(), batch, config, kept["loss_scale"], kept["steps"]


def replay(folder: Path, worker: int = 0) -> str:
    """What is found when the step of ``worker`` is run again, on the CPU."""
    return find_nonfinite(*load_failed_step(folder, worker))


def main(arguments: list[str]) -> None:
    """Print what is found in the steps of all workers that a folder keeps."""
    if len(arguments) != 1:
        sys.exit("usage: python -m rhobench.training.replay RUN_FOLDER")
    folder = Path(arguments[0])
    try:
        workers = failed_workers(folder)
    except ValueError as error:
        sys.exit(str(error))
    torch.manual_seed(0)
    for worker in workers:
        print(f"worker {worker}: {replay(folder, worker)}")


if __name__ == "__main__":
    main(sys.argv[1:])
