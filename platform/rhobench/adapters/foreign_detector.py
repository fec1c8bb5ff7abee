"""The interface of a detector of another library: an image in; boxes, scores and labels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from rhobench.config.phrases import listed
from rhobench.data import Categories
from rhobench.measure.accuracy import Detection
from rhobench.model.postprocess import MAX_DETECTIONS


class AdapterError(ValueError):
    """A file or folder that holds no detector which can be measured."""


class FoundObjects(NamedTuple):
    """Objects that a detector found in one image, in any order; n may be 0."""

    boxes: Tensor
    """(n, 4) x0, y0, x1, y1 in pixels of the original image."""
    scores: Tensor
    """(n,) scores, higher is better."""
    labels: Tensor
    """(n,) int64 labels of the detector, keys of ``ForeignDetector.classes``."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """A detector to load."""

    path: Path
    """File or folder."""
    device: torch.device
    """Device to run on."""
    engine: str | None = None
    """Engine for a file that several can run; None: the default of its kind."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The model that a detector was exported from, and the AP that it must keep."""

    sha256: str
    """Hexadecimal SHA-256 of the artifact."""
    dataset: str
    """Data set and split of the APs."""
    ap: dict[str, float]
    """AP of the model in [0, 1] by rho as text; by "dense" if it has none."""


class ForeignDetector(ABC):
    """A trained detector of another library.

    ``prepare`` is not timed and ``detect`` is, so that the times have the scope of our own: from the prepared image in
    memory to boxes in pixels of the original image, including non-maximum suppression if the method needs it.
    """

    architecture: str
    """Class or builder of the model."""
    engine: str = "pytorch"
    """Library that runs it."""
    packages: tuple[str, ...] = ("torch",)
    """Distributions whose versions are recorded."""
    classes: Mapping[int, str | None]
    """Every label that it can return, with the name of its class; None: it has no names."""
    precision: str = "fp32"
    """Numerical precision of the weights."""
    params_m: float | None = None
    """Millions of parameters; None: not counted."""
    input_size: tuple[int, int] | None = None
    """(height, width) of the input in pixels; None: it varies between images."""
    takes_rho: bool = False
    """Whether the share of updated tokens is an input."""
    rho: float | None = None
    """Share of tokens to update in the next calls, for a detector that takes it."""
    reference: Reference | None = None
    """The model it was exported from; None: it is no export of ours."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any:
        """Resize and normalise an RGB image, and move it to the device."""

    @abstractmethod
    def detect(self, prepared: Any) -> FoundObjects:
        """Find objects in an image that ``prepare`` returned."""


class LabelMap:
    """The category of the data set for each label of a detector."""

    def __init__(self, classes: Mapping[int, str | None], categories: Categories) -> None:
        """Match classes and categories: by name if the detector has names, otherwise by number.

        Without names the labels are the categories in the order of their ids, or the ids themselves.

        Raises:
            AdapterError: a category of the data set has no class, or the numbers of classes and categories differ.
        """
        names = {label: name for label, name in classes.items() if name is not None}
        ids = self._by_name(names, categories) if names else self._by_number(sorted(classes), categories)
        self.category_ids: dict[int, int] = ids
        self.ignored = sorted({name for label, name in names.items() if label not in ids})
        """Names of the classes that the data set does not have."""

    @staticmethod
    def _by_name(names: Mapping[int, str], categories: Categories) -> dict[int, int]:
        wanted = {_plain(name): number for name, number in zip(categories.names, categories.ids, strict=True)}
        known = {_plain(name) for name in names.values()}
        missing = [name for name in categories.names if _plain(name) not in known]
        if missing:
            raise AdapterError(
                f"The detector has no class for {listed(missing, repr, most=5)}; its {len(names)} classes are "
                f"{listed(sorted(set(names.values())), repr, most=5)}. Rename its classes, or give data with its "
                "categories."
            )
        return {label: wanted[_plain(name)] for label, name in names.items() if _plain(name) in wanted}

    @staticmethod
    def _by_number(labels: list[int], categories: Categories) -> dict[int, int]:
        if len(labels) == len(categories):
            return dict(zip(labels, categories.ids, strict=True))
        if labels and max(labels) == max(categories.ids) and set(categories.ids) <= set(labels):
            return {number: number for number in categories.ids}
        raise AdapterError(
            f"The detector has {len(labels)} classes without names, but the data set has {len(categories)} categories "
            f"({listed(categories.names, repr, most=5)}): give the detector names of its classes, or the data it was "
            "trained on."
        )

    def detections(self, found: FoundObjects, image_id: int) -> list[Detection]:
        """The best ``MAX_DETECTIONS`` objects of an image in the COCO result format, without ignored classes."""
        rows = []
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            if label in self.category_ids:
                x0, y0, x1, y1 = box
                category = self.category_ids[label]
                rows.append(
                    {"image_id": image_id, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
                )
        return sorted(rows, key=lambda row: -row["score"])[:MAX_DETECTIONS]


def require_package(name: str, kind: str) -> Any:
    """Import an optional package; AdapterError names the extra that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise AdapterError(
            f"{kind} detectors need the package {name}, which cannot be imported ({error}): "
            f"pip install 'rhobench[{'onnx' if name.startswith('onnx') else name}]'."
        ) from error


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by name of the distribution."""
    return {name: version(name) for name in names}


def _plain(name: str) -> str:
    """Name of a class without differences of case, blanks and underscores: "Traffic_Light" is "traffic light"."""
    return " ".join(name.casefold().replace("_", " ").split())
