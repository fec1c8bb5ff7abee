"""Detectors in ONNX files, with a description of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from rhobench.adapters.description import description_file, read_description
from rhobench.adapters.engines import ENGINES, Graph, load_graph
from rhobench.adapters.foreign_detector import AdapterError, ForeignDetector, FoundObjects, LoadRequest, Reference
from rhobench.config import DataConfig
from rhobench.data.transforms import Flip, transform
from rhobench.model.heads import Prediction
from rhobench.model.postprocess import detections

KIND = "onnx"
TAKES = "an .onnx file with a .json of the same name that describes its inputs and outputs"

EXAMPLE = (
    '{"height": 640, "width": 640, "boxes": "boxes", "scores": "scores", "labels": "labels", "box_unit": "original", '
    '"sizes": "orig_target_sizes", "size_order": "width_height", "classes": ["cat", "dog"]}'
)


@dataclass(frozen=True, kw_only=True)
class OnnxDescription:
    """Inputs and outputs of an ONNX file, for one image."""

    height: int
    """Height that images are resized to, in pixels."""
    width: int
    """Width that images are resized to, in pixels."""
    image: str = "images"
    """Input (1, 3, height, width) float32: the image."""
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from red, green and blue in [0, 1]."""
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides red, green and blue afterwards."""
    sizes: str | None = None
    """Input (1, 2) int64: size of the original image in pixels. None: there is no such input."""
    size_order: Literal["height_width", "width_height"] = "height_width"
    """Order of the numbers in the input ``sizes``."""
    rho: str | None = None
    """Scalar input float32: share of the encoder tokens to update. None: there is no such input."""
    boxes: str = "boxes"
    """Output (1, n, 4): boxes."""
    scores: str = "scores"
    """Output (1, n): score of each box; with ``activation``, (1, n, classes): logits."""
    labels: str | None = "labels"
    """Output (1, n): class of each box, an index of ``classes``. None: with ``activation``."""
    activation: Literal["sigmoid", "softmax"] | None = None
    """Function from logits to scores, of which the best 100 are kept; the last class of a softmax is "no object"."""
    box_format: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """Meaning of the four numbers of a box."""
    box_unit: Literal["original", "input", "relative"] = "original"
    """Unit of boxes: pixels of the original image, pixels of the input, or shares of the image."""
    classes: list[str]
    """Names of the classes in the order of the labels."""
    architecture: str = "unknown"
    """Name of the model, for tables."""
    reference: Reference | None = None
    """Model that the file was exported from."""


def recognises(path: Path) -> bool:
    """Whether ``path`` has the suffix of an ONNX file."""
    return path.suffix == ".onnx"


def load(request: LoadRequest) -> OnnxDetector:
    """Load the file into its engine and compare the description with its inputs and outputs.

    Raises:
        AdapterError: the description is missing or does not fit, or the engine cannot run the file.
    """
    path = request.path
    if not path.is_file():
        raise AdapterError(f"{path} is not a file.")
    described = read_description(path, OnnxDescription, EXAMPLE)
    engine = request.engine or next(iter(ENGINES))
    graph = load_graph(path, engine, request.device)
    _require_names(path, "inputs", [described.image, described.sizes, described.rho], graph.inputs, complete=True)
    _require_names(path, "outputs", [described.boxes, described.scores, described.labels], graph.outputs)
    if (described.labels is None) != (described.activation is not None):
        raise AdapterError(
            f"{description_file(path)}: give either labels, the output with the class of each box, or activation, if "
            "scores are logits of all classes (with labels: null)."
        )
    return OnnxDetector(graph, described, engine)


def _require_names(
    path: Path, what: str, named: list[str | None], known: tuple[str, ...], *, complete: bool = False
) -> None:
    names = {name for name in named if name is not None}
    if not names <= set(known) or (complete and names != set(known)):
        raise AdapterError(
            f"{description_file(path)} names the {what} {', '.join(sorted(names))}, but those of {path.name} are "
            f"{', '.join(known)}."
        )


class OnnxDetector(ForeignDetector):
    """A detector in an ONNX file."""

    def __init__(self, graph: Graph, described: OnnxDescription, engine: str) -> None:
        self.graph, self.described, self.engine = graph, described, engine
        self.packages = (engine,)
        self.architecture = described.architecture
        self.classes = dict(enumerate(described.classes))
        self.input_size = (described.height, described.width)
        self.takes_rho = described.rho is not None
        self.reference = described.reference
        self.data = DataConfig(
            resize_px=self.input_size, pixel_mean=described.pixel_mean, pixel_std=described.pixel_std
        )

    def prepare(self, image: Image.Image) -> tuple[Mapping[str, np.ndarray], tuple[int, int]]:
        """Inputs by name without rho, and the original (height, width)."""
        described, size = self.described, (image.height, image.width)
        pixels, _ = transform(image, torch.zeros(0, 4), Flip.NONE, self.data)
        inputs = {described.image: pixels[None].numpy()}
        if described.sizes is not None:
            inputs[described.sizes] = np.array([size if described.size_order == "height_width" else size[::-1]])
        return inputs, size

    def detect(self, prepared: tuple[Mapping[str, np.ndarray], tuple[int, int]]) -> FoundObjects:
        """Run the graph, and convert its boxes to pixels of the original image."""
        inputs, (height, width) = prepared
        described = self.described
        rho = (
            {}
            if described.rho is None
            else {described.rho: np.array(1.0 if self.rho is None else self.rho, np.float32)}
        )
        outputs = self.graph.run({**inputs, **rho})
        boxes, scores = (torch.from_numpy(outputs[name]) for name in (described.boxes, described.scores))
        if described.activation is not None:
            shares = box_convert(self._shares(boxes, height, width), "xyxy", "cxcywh")
            prediction = Prediction(scores, shares, described.activation == "softmax")
            best = detections(prediction, torch.tensor([[height, width]]))
            return FoundObjects(best.boxes[0], best.scores[0], best.labels[0])
        assert described.labels is not None, "read together with activation"
        labels = torch.from_numpy(outputs[described.labels]).reshape(-1).long()
        shares = self._shares(boxes.reshape(-1, 4), height, width)
        return FoundObjects(shares * torch.tensor([width, height, width, height]), scores.reshape(-1), labels)

    def _shares(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Boxes (..., 4) as x0, y0, x1, y1 in shares of the image."""
        corners = box_convert(boxes, self.described.box_format, "xyxy")
        if self.described.box_unit == "relative":
            return corners
        if self.described.box_unit == "input":
            height, width = self.described.height, self.described.width
        return corners / torch.tensor([width, height, width, height])
