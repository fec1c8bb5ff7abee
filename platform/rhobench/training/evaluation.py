"""AP of a model on the validation images, which the workers share."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from rhobench.data import CocoDetection
from rhobench.measure.accuracy import Accuracy, Detection, found_objects, score
from rhobench.model import Detector
from rhobench.training.batches import to_device
from rhobench.training.objective import run_model
from rhobench.training.workers import all_gather


@torch.inference_mode()
def evaluate(
    model: Detector, loader: DataLoader[Any], images: CocoDetection, device: torch.device
) -> tuple[list[Detection], Accuracy]:
    """Detections and AP on the validation images.

    Args:
        model: put in evaluation mode.
        loader: this worker's share of the images, or of their features; the shares of all workers are joined.
        images: all of them.
        device: of the model.
    """
    model.eval()
    share: list[Detection] = []
    ids: list[int] = []
    for batch in loader:
        output = run_model(model, to_device(batch, device))
        share += found_objects(output.prediction, batch.targets, images.categories, output.masks)
        ids += [t.image_id for t in batch.targets]
    shares = all_gather((share, ids))
    found = [f for part, _ in shares for f in part]
    scored = [i for _, part in shares for i in part]
    return found, score(images.annotation_files[0], found, scored, masks=model.config.mask_head)
