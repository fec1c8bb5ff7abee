"""Export of a trained detector to ONNX, checked by its AP on real images.

The graph goes from the normalised image to the best 100 boxes in pixels of the original image. Deformable attention is
the reference implementation, whose ``grid_sample`` is an operator of ONNX. ρ stays an input: the number of selected
tokens is a data-dependent size, which ``torch.export`` traces as an unknown. The size of the input is fixed, because
the geometry of the tokens is computed from it in Python.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from rhobench.adapters.benchmark import MAX_AP_LOSS, evaluate, evaluated_data
from rhobench.adapters.description import description_file
from rhobench.adapters.foreign_detector import (
    ForeignDetector,
    FoundObjects,
    LabelMap,
    LoadRequest,
    Reference,
    require_package,
)
from rhobench.adapters.kinds.onnx_file import OnnxDescription
from rhobench.adapters.kinds.onnx_file import load as load_onnx
from rhobench.config import DataConfig
from rhobench.data import prepare_data
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip, transform
from rhobench.measure.artifact import Artifact, atomic_replace, load_artifact
from rhobench.model import Detector
from rhobench.model.attention import DeformableAttention
from rhobench.model.postprocess import detections
from rhobench.results.table import dataset_name

FLAGGED_AP_LOSS = 0.001
"""Difference of the AP from that of the model above which the export is reported as inexact: 0.1 AP."""


class ExportError(ValueError):
    """A model that cannot be exported, or an option that does not fit it."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported file, and what its check found."""

    file: Path
    """The ONNX file; its description lies beside it."""
    engine: str
    """Engine that ran the check."""
    rho_is_input: bool
    """Whether ρ is an input of the graph; False for dense encoders."""
    height: int
    """Height of the input in pixels."""
    width: int
    """Width of the input in pixels."""
    ap: Mapping[float | None, tuple[float, float]]
    """AP in [0, 1] of the model and of the export, by ρ."""

    @property
    def largest_loss(self) -> float:
        """Largest difference of an AP from that of the model, in [0, 1]."""
        return max(abs(exported - own) for own, exported in self.ap.values())

    @property
    def usable(self) -> bool:
        """Whether the export detects what the model detects."""
        return self.largest_loss <= MAX_AP_LOSS


def export_onnx(
    artifact_file: Path,
    out: Path,
    *,
    rhos: tuple[float, ...] = (),
    size: tuple[int, int] | None = None,
    data: DataConfig | None = None,
    engine: str = "onnxruntime",
    notify: Callable[[str], None] = lambda line: None,
) -> Export:
    """Write a model as ONNX with its description, and compare its AP with that of the model.

    Args:
        artifact_file: model.safetensors of a run or of ``rhobench weights import``.
        out: .onnx file to write.
        rhos: values of rho to check; (): that of the model and those that its run measured.
        size: (height, width) of the input in pixels; None: ``data.resize_px`` of the run.
        data: data set of the check; None: that of the run.
        engine: engine that runs the check.
        notify: called with a line of progress.

    Raises:
        ValueError: the artifact, the data or an option cannot be used, or the export fails.
    """
    if out.suffix != ".onnx":
        raise ExportError(f"--out {out}: the name of an ONNX file ends with .onnx.")
    if not out.parent.is_dir():
        raise ExportError(f"--out {out}: the folder {out.parent} does not exist. Create it first.")
    for package in ("onnx", "onnxscript", engine):
        require_package(package, "ONNX")
    artifact = load_artifact(artifact_file)
    own = ArtifactDetector(artifact, _input_size(artifact, size))
    checked = _rhos(artifact, rhos)
    data = evaluated_data(data or artifact.config.data)
    images = CocoDetection(data, prepare_data(data), (data.val_split,), train=False)
    notify("exporting")
    with atomic_replace(out) as temporary:
        _write_graph(own, temporary)
    description = own.description
    description_file(out).write_text(json.dumps(asdict(description), indent=1))
    exported = load_onnx(LoadRequest(path=out, device=torch.device("cpu"), engine=engine))
    ap = {
        rho: (_ap(own, images, rho, "PyTorch", notify), _ap(exported, images, rho, engine, notify)) for rho in checked
    }
    by_rho = {"dense" if rho is None else f"{rho:g}": before for rho, (before, _) in ap.items()}
    reference = Reference(sha256=artifact.sha256, dataset=dataset_name(data), ap=by_rho)
    description_file(out).write_text(json.dumps(asdict(replace(description, reference=reference)), indent=1))
    height, width = own.size
    return Export(file=out, engine=engine, rho_is_input=description.rho is not None, height=height, width=width, ap=ap)


class ArtifactDetector(ForeignDetector):
    """A model of ours behind the interface of foreign detectors, at one size of the input."""

    def __init__(self, artifact: Artifact, size: tuple[int, int]) -> None:
        self.model, self.size, self.artifact = artifact.model, size, artifact
        self.architecture = artifact.config.model.name
        self.classes = dict(enumerate(artifact.categories.names))
        self.takes_rho = artifact.model.rho is not None
        self.rho = artifact.model.rho
        self.data = replace(artifact.config.data, resize_px=size)
        for module in self.model.modules():
            if isinstance(module, DeformableAttention):
                module.backend = "reference"

    def prepare(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Normalised image (1, 3, H, W), and the original (height, width) as (1, 2)."""
        pixels, _ = transform(image, torch.zeros(0, 4), Flip.NONE, self.data)
        return pixels[None], torch.tensor([[image.height, image.width]])

    def detect(self, prepared: tuple[Tensor, Tensor]) -> FoundObjects:
        """Run the model and its post-processing."""
        images, sizes = prepared
        self.model.rho = self.rho
        found = detections(self.model(images).prediction, sizes, len(self.classes))
        return FoundObjects(found.boxes[0], found.scores[0], found.labels[0])

    @property
    def description(self) -> OnnxDescription:
        """Description of the exported file."""
        return OnnxDescription(
            height=self.size[0],
            width=self.size[1],
            pixel_mean=self.data.pixel_mean,
            pixel_std=self.data.pixel_std,
            sizes="sizes",
            rho="rho" if self.takes_rho else None,
            classes=list(self.artifact.categories.names),
            architecture=f"{self.architecture}_{self.artifact.config.model.backbone.name}",
        )


class _Graph(nn.Module):
    """What is exported: from images, original sizes and rho to scores, labels and boxes."""

    def __init__(self, model: Detector, num_categories: int) -> None:
        super().__init__()
        self.model, self.num_categories = model, num_categories

    def forward(self, images: Tensor, sizes: Tensor, rho: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        trained, self.model.rho = self.model.rho, rho
        found = detections(self.model(images, with_aux=False).prediction, sizes, self.num_categories)
        self.model.rho = trained
        return found.scores, found.labels, found.boxes


def _write_graph(detector: ArtifactDetector, file: Path) -> None:
    height, width = detector.size
    inputs: dict[str, Any] = {"images": torch.zeros(1, 3, height, width), "sizes": torch.tensor([[height, width]])}
    if detector.takes_rho:
        inputs["rho"] = torch.tensor(detector.rho)
    graph = _Graph(detector.model, len(detector.classes)).eval().requires_grad_(False)
    try:
        with _quiet():
            traced = torch.export.export(graph, tuple(inputs.values()), strict=False)
            program = torch.onnx.export(
                traced,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=["scores", "labels", "boxes"],
                verbose=False,
            )
            assert program is not None
            program.save(file, external_data=False)
    except Exception as error:  # torch.export and the converter raise many types of their own
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"The {detector.architecture} cannot be exported to ONNX: {first}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress and the notes of the exporter, which say nothing about the model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _ap(
    detector: ForeignDetector, images: CocoDetection, rho: float | None, engine: str, notify: Callable[[str], None]
) -> float:
    detector.rho, where = rho, f"AP in {engine}" + ("" if rho is None else f" at ρ {rho:g}")
    labels = LabelMap(detector.classes, images.categories)
    _, accuracy = evaluate(detector, labels, images, lambda step: notify(f"{where}: {step}"))
    if accuracy.ap is None:
        raise ExportError("The split of the check has no objects, so there is no AP: give other data with --data.")
    return accuracy.ap


def _input_size(artifact: Artifact, size: tuple[int, int] | None) -> tuple[int, int]:
    size = size or artifact.config.data.resize_px
    if size is None:
        raise ExportError(
            "The run resized images with their aspect ratio, but the input of the graph has one size: give it with "
            "--size HxW, such as --size 800x1066."
        )
    return size


def _rhos(artifact: Artifact, rhos: tuple[float, ...]) -> tuple[float | None, ...]:
    own = artifact.model.rho
    if own is None:
        if rhos:
            raise ExportError(f"The encoder of this {artifact.config.model.name} is dense: omit --rho.")
        return (None,)
    if wrong := [rho for rho in rhos if not 0 < rho <= 1]:
        raise ExportError(f"--rho {wrong[0]} is not allowed: it must be greater than 0 and at most 1.")
    return tuple(dict.fromkeys(rhos or (own, *artifact.config.measure.rhos)))
