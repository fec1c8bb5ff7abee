"""Distributed evaluation of a model on the validation images."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from rhobench.data.coco import CocoDetection
from rhobench.measure.accuracy import Accuracy, Detection, batch_detections, quick_score, score
from rhobench.model import Detector
from rhobench.model.precision import autocast
from rhobench.training.batches import to_device
from rhobench.training.objective import run_model
from rhobench.training.workers import all_gather


@torch.inference_mode()
def evaluate(
    model: Detector,
    loader: DataLoader[Any],
    images: CocoDetection,
    device: torch.device,
    precision: str = "fp32",
    *,
    of_record: bool = True,
) -> tuple[list[Detection], Accuracy]:
    """Evaluate a model on the validation images; every worker calls this with its share of them.

    Args:
        model: model to evaluate; it is put in evaluation mode.
        loader: this worker's share of the images, or of their cached features.
        images: all validation images.
        device: device of the model.
        precision: "fp32", "bf16" or "fp16".
        of_record: whether pycocotools scores the detections; otherwise hotcoco, for which every epoch has the time.

    Returns:
        Detections on all images, gathered from all workers, and their accuracy.
    """
    model.eval()
    share: list[Detection] = []
    ids: list[int] = []
    for batch in loader:
        with autocast(device, precision):
            output = run_model(model, to_device(batch, device))
        share += batch_detections(output.prediction, batch.targets, images.categories, output.masks)
        ids += [t.image_id for t in batch.targets]
    # The ids as well: images without detections count, and an image that was evaluated twice is an error.
    shares = all_gather((share, ids))
    found = [detection for part, _ in shares for detection in part]
    evaluated = [image_id for _, part in shares for image_id in part]
    # Every worker scores all detections, because each of them reports the AP. Validation has a single split.
    scored = score if of_record else quick_score
    return found, scored(images.annotation_files[0], found, evaluated, masks=model.config.mask_head)
