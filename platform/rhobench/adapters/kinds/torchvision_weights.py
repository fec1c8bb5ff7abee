"""Detection models of torchvision: a file of weights, with a description that names the model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import detection, get_model_builder, list_models
from torchvision.transforms.v2.functional import pil_to_tensor, to_dtype

from rhobench.adapters.description import description_file, read_description
from rhobench.adapters.foreign_detector import AdapterError, ForeignDetector, FoundObjects, LoadRequest

KIND = "torchvision"
TAKES = "a state_dict (.pth, .pt or .safetensors) with a .json of the same name that names the model"

EXAMPLE = (
    '{"model": "fasterrcnn_resnet50_fpn", "arguments": {"num_classes": 3}, "classes": ["__background__", "cat", "dog"]}'
)
SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class TorchvisionDescription:
    """Description of a file of weights."""

    model: str
    """Name of a detection model of torchvision, such as "retinanet_resnet50_fpn_v2"."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of its builder, such as num_classes and min_size."""
    classes: list[str] = field(default_factory=list)
    """Names of the classes in the order of the labels; label 0 is the background. Empty: there are no names."""


def recognises(path: Path) -> bool:
    """Whether ``path`` has the suffix of a file of weights."""
    return path.suffix in SUFFIXES


def load(request: LoadRequest) -> TorchvisionDetector:
    """Build the model without weights and load all of them from the file.

    Raises:
        AdapterError: the description is missing or wrong, or the file does not have exactly the weights of the model.
    """
    path = request.path
    if request.engine not in (None, "pytorch"):
        raise AdapterError(f"--engine {request.engine} does not run a model of torchvision: omit it.")
    if not path.is_file():
        raise AdapterError(f"{path} is not a file of weights.")
    described = read_description(path, TorchvisionDescription, EXAMPLE)
    known = list_models(module=detection)
    if described.model not in known:
        raise AdapterError(
            f"{description_file(path)}: torchvision has no detection model {described.model!r}, only "
            f"{', '.join(known)}."
        )
    build = get_model_builder(described.model)
    try:
        # Without both, torchvision would download weights of the backbone.
        model = build(weights=None, weights_backbone=None, **described.arguments)
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{description_file(path)}: {described.model} cannot be built: {error}") from error
    # Builders of torchvision pass on what they do not know, and some models ignore it.
    known_arguments = signature(build).parameters.keys() | signature(type(model)).parameters.keys()
    if unknown := described.arguments.keys() - known_arguments:
        raise AdapterError(
            f"{description_file(path)}: {described.model} has no argument {', '.join(sorted(unknown))}, only "
            f"{', '.join(sorted(known_arguments - {'kwargs', 'weights', 'weights_backbone', 'progress'}))}."
        )
    try:
        model.load_state_dict(_state(path))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise AdapterError(
            f"{path} does not have the weights of {described.model}({described.arguments}): {reason[:300]} ... "
            f"Correct the model or its arguments in {description_file(path)}; every weight must be in the file."
        ) from error
    return TorchvisionDetector(model.to(request.device).eval(), described)


def _state(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[0]
        raise AdapterError(f"{path} is damaged or holds more than tensors ({first}): save a state_dict.") from error
    for key in ("model", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise AdapterError(f"{path} does not hold a state_dict, neither at the top level nor as 'model'.")
    return content


class TorchvisionDetector(ForeignDetector):
    """A detection model of torchvision with its own post-processing, thresholds included."""

    packages = ("torch", "torchvision")

    def __init__(self, model: Any, described: TorchvisionDescription) -> None:
        self.model = model
        self.resizing = model.transform
        self.resized = model.transform = _Resized(model.transform)
        self.architecture = described.model
        count = int(described.arguments.get("num_classes", len(described.classes) or 91))
        if described.classes and len(described.classes) != count:
            raise AdapterError(
                f"The description of {described.model} has {len(described.classes)} classes, but the model {count}: "
                "list a name for each label, the first one for the background."
            )
        # Label 0 is the background.
        self.classes = {label: described.classes[label] if described.classes else None for label in range(1, count)}
        self.params_m = sum(p.numel() for p in model.parameters()) / 1e6

    def prepare(self, image: Image.Image) -> tuple[Tensor, Any]:
        """The image as a tensor, and resized and normalised by the model's own transform."""
        pixels = to_dtype(pil_to_tensor(image), torch.float32, scale=True)
        pixels = pixels.to(next(self.model.parameters()).device)
        return pixels, self.resizing([pixels])[0]

    def detect(self, prepared: tuple[Tensor, Any]) -> FoundObjects:
        """Run everything after resizing, including non-maximum suppression."""
        pixels, self.resized.images = prepared
        (found,) = self.model([pixels])
        return FoundObjects(found["boxes"], found["scores"], found["labels"])


class _Resized(nn.Module):
    """Takes the place of the transform in a model whose images are resized before they are timed."""

    def __init__(self, transform: Any) -> None:
        super().__init__()
        self.postprocess = transform.postprocess
        self.images: Any = None
        """``ImageList`` of the next call."""

    def forward(self, images: list[Tensor], targets: None = None) -> tuple[Any, None]:
        return self.images, targets
