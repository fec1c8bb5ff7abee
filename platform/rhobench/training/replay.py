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
from rhobench.config_tree import from_dict
from rhobench.data import Batch, Target
from rhobench.model import Detector, build_model
from rhobench.training.batches import FeatureBatch, TrainBatch
from rhobench.training.diagnosis import diagnose, kept_files


def load_step(folder: Path, worker: int = 0) -> tuple[Detector, TrainBatch, RunConfig, float]:
    """The model in training mode, the batch, the configuration and the loss scale of the step that failed.

    Raises:
        ValueError: the folder holds no such step.
    """
    tensors_file, description_file = kept_files(folder, worker)
    if not (tensors_file.is_file() and description_file.is_file()):
        raise ValueError(f"{folder} holds no {tensors_file.name}: no step of worker {worker} failed there.")
    tensors, kept = load_file(tensors_file), json.loads(description_file.read_text())
    config = from_dict(RunConfig, kept["config"])
    backbone = replace(config.model.backbone, weights=None)
    model = build_model(replace(config.model, backbone=backbone, num_classes=kept["num_classes"]))
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    targets = tuple(
        Target(image["id"], tensors[f"labels.{row}"], tensors[f"boxes.{row}"], tuple(image["size"]))
        for row, image in enumerate(kept["images"])
    )
    inputs = [tensors[f"input.{level}"] for level in range(sum(name.startswith("input.") for name in tensors))]
    mask = tensors["mask"]
    batch = FeatureBatch(inputs, mask, targets) if kept["features"] else Batch(inputs[0], mask, targets)
    return model.train(), batch, config, kept["loss_scale"]


def replay(folder: Path, worker: int = 0) -> str:
    """What is found when the step of ``worker`` is run again, on the CPU."""
    return diagnose(*load_step(folder, worker))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m rhobench.training.replay RUN_FOLDER")
    torch.manual_seed(0)
    print(replay(Path(sys.argv[1])))
