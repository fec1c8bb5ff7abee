"""Model and losses as one module, whose forward pass DistributedDataParallel can wrap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rhobench.config import LossConfig
from rhobench.model import Detector, DetectorOutput
from rhobench.model.criterion import losses
from rhobench.model.matcher import Objects
from rhobench.model.precision import autocast
from rhobench.training.batches import FeatureBatch, TrainBatch


def run_model(model: Detector, batch: TrainBatch) -> DetectorOutput:
    """Run the model on a batch of images, or its transformer on a batch of cached features."""
    if isinstance(batch, FeatureBatch):
        return model.detect(batch.features, batch.mask)
    return model(batch.images, batch.mask)


class Objective(nn.Module):
    """Maps a batch to its loss terms."""

    def __init__(self, model: Detector, config: LossConfig, precision: str) -> None:
        super().__init__()
        self.model, self.config, self.precision = model, config, precision

    def forward(self, batch: TrainBatch, objects: Sequence[Objects], num_boxes: float) -> dict[str, Tensor]:
        """Compute the unweighted terms of ``criterion.losses``: the model under autocast, the losses in fp32."""
        with autocast(batch.mask.device, self.precision):
            output = run_model(self.model, batch)
        return losses(output, objects, self.config, num_boxes)
