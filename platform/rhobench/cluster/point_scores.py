"""Accuracy and operations of a trained model at a point, which do not depend on how the point is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch

from rhobench.cluster.measurement_files import MeasurementFiles
from rhobench.config import DataConfig
from rhobench.config.points import PointSettings
from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip
from rhobench.measure.artifact import Artifact
from rhobench.measure.flops import count_flops
from rhobench.results import Point
from rhobench.results.evaluations import write_evaluation
from rhobench.results.points import is_run_like
from rhobench.training.evaluation import evaluate
from rhobench.training.loaders import image_loader

SCORES = (
    *("rho", "precision", "height", "width", "accuracy", "accuracy_batch_size", "accuracy_bounds", "matches_file"),
    *("ap_by_class", "gflops", "gflops_by_part", "flops_count", "params_m"),
)
"""Fields of a point that scoring sets."""


class MeasureError(ValueError):
    """A measurement that cannot be made as requested."""


def data_of(artifact: Artifact, settings: PointSettings, data: str | None) -> DataConfig:
    """The data that a point of a model reads: its own, at the given folder and resolution."""
    own = artifact.config.data
    own = own if data is None else replace(own, dir=data)
    return own if settings.resolution is None else replace(own, resize_px=settings.resolution)


@cache
def images_of(data: DataConfig) -> CocoDetection:
    """The validation images, opened once."""
    return CocoDetection(data, prepare_data(data), (data.val_split,), train=False)


@dataclass(kw_only=True)
class Scorer:
    """Accuracy and operations of one model, computed once for each way of running it."""

    artifact: Artifact
    device: torch.device
    data: str | None
    """Folder of the data set, if it is not where it was in the training."""
    known: Sequence[Point]
    """Points of its record, whose accuracy is used where it was measured in the same way."""
    folder: Path
    """Folder of the model, in which the matches are written."""
    files: MeasurementFiles
    """Names of the files of this measurement."""
    computed: dict[PointSettings, Point] = field(default_factory=dict)

    def point(self, settings: PointSettings) -> Point:
        """The point with its accuracy, operations and parameters, and its difference in AP from fp32."""
        scored = self._scored(settings)
        if settings.precision == "fp32":
            return scored
        exact = self._scored(replace(settings, precision="fp32"))
        ap, reference = scored.accuracy.get("ap"), exact.accuracy.get("ap")
        return replace(scored, ap_difference=None if ap is None or reference is None else ap - reference)

    def _scored(self, settings: PointSettings) -> Point:
        settings = replace(settings, compiled=False)  # which changes no more than the rounding
        data = data_of(self.artifact, settings, self.data)
        if self.data is None:  # on other data, the accuracy of the record says nothing
            for point in self.known:
                if is_run_like(point, settings, self.known) and point.accuracy and _same_padding(point, settings, data):
                    return _only_scores(point)
        if settings not in self.computed:
            self.computed[settings] = self._compute(settings, data)
        return self.computed[settings]

    def _compute(self, settings: PointSettings, data: DataConfig) -> Point:
        model, images = self.artifact.model, images_of(data)
        if images.categories != self.artifact.categories:
            raise MeasureError(
                f"{images.annotation_files[0]} has other categories than the model was trained on: give its own data "
                "set with --data DIR."
            )
        height, width = images.size_of((0, Flip.NONE))
        own_rho, model.rho = model.rho, settings.rho
        try:
            loader = image_loader(images, batch_size=settings.batch_size)
            _, accuracy = evaluate(model, loader, images, self.device, settings.precision)
            cost = count_flops(model, height, width, rho=settings.rho)
        except ValueError as error:
            if settings.resolution is None:
                raise
            raise MeasureError(
                f"The model cannot be run at {height}x{width} ({error}): choose another --resolution."
            ) from error
        finally:
            model.rho = own_rho
        return Point(
            rho=settings.rho,
            precision=settings.precision,
            height=height,
            width=width,
            **write_evaluation(
                self.folder,
                settings.rho,
                accuracy.metrics,
                accuracy.per_class,
                accuracy.matches,
                suffix=f"-{self.files.stamp}-{len(self.computed)}",
            ),
            accuracy_batch_size=settings.batch_size,
            gflops_by_part=dict(cost.parts),
            gflops=cost.gflops,
            flops_count=cost.count,
            params_m=cost.params_m,
        )


def _same_padding(point: Point, settings: PointSettings, data: DataConfig) -> bool:
    """Whether the accuracy of a known point also holds at the batch size of ``settings``.

    Images of one size need no padding. The accuracy of the training, which is not timed yet, is taken as it is.
    """
    return data.resize_px is not None or point.protocol is None or point.accuracy_batch_size == settings.batch_size


def _only_scores(point: Point) -> Point:
    return Point(**{name: getattr(point, name) for name in SCORES})
