"""Evaluation of an artifact on a data set: every number that COCO defines, with intervals, by class and size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhobench.config.metrics import METRICS
from rhobench.data import Categories, DatasetError, prepare_folder
from rhobench.data.coco import CocoDetection, collate
from rhobench.data.transforms import Flip
from rhobench.inference.checkpoint_config import UNUSED_CLASS
from rhobench.inference.predict import set_rho
from rhobench.measure.accuracy import EVAL_BATCH, Accuracy, Detection, batch_detections, score
from rhobench.measure.artifact import Artifact, ArtifactError, load_artifact
from rhobench.statistics.evaluation import Evaluation, class_replicates
from rhobench.statistics.interval import image_interval
from rhobench.statistics.precision import average_precision, class_values

STATS = (
    *("AP", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)
"""Names of the entries of ``COCOeval.stats``."""

NO_CATEGORY = -1
"""Id of detections of a class that the data set does not have."""

SIZES = {"ap": 0, "ap50": 1, "ap75": 2, "ap_s": 3, "ap_m": 4, "ap_l": 5}
"""Values of each class, by their index in ``COCOeval.stats``."""


@dataclass(frozen=True, kw_only=True)
class ArtifactEvaluation:
    """The accuracy of an artifact on a split."""

    artifact: Path
    """The artifact."""
    sha256: str
    """Its hexadecimal SHA-256."""
    rho: float | None
    """Share of the tokens that were updated; None: the dense encoder."""
    split: str
    """Name of the split."""
    annotations: Path
    """Its annotation file, in the cache for a data set of another layout than COCO's."""
    num_images: int
    """Number of images, all of the split."""
    notes: list[str]
    """What was derived from the data set, or how it was converted."""
    detections: list[Detection]
    """All detections in the COCO result format."""
    accuracy: Accuracy
    """Values of pycocotools."""
    bounds: dict[str, float | None]
    """Ends of the 95 % intervals over images by column, such as ``ap_low``."""
    classes: dict[str, dict[str, float | None]]
    """Class -> values of ``SIZES`` with ``ap_low`` and ``ap_high``, in the order of the ids; None without objects."""

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as ``--json`` prints it, without the detections."""
        return {
            "artifact": str(self.artifact),
            "sha256": self.sha256,
            "rho": self.rho,
            "split": self.split,
            "annotations": str(self.annotations),
            "notes": self.notes,
            "images": self.num_images,
            "detections": len(self.detections),
            "metrics": self.accuracy.metrics | self.bounds,
            "stats": {kind: dict(zip(STATS, values, strict=True)) for kind, values in self.accuracy.stats.items()},
            "classes": self.classes,
        }

    def write_detections(self, file: Path) -> None:
        """Write the detections as a COCO result file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.detections))


def evaluate_artifact(
    file: Path,
    data: Path,
    split: str | None,
    rho: float | None,
    on_image: Callable[[int, int], None],
    short_side_px: int | None = None,
) -> ArtifactEvaluation:
    """Evaluate an artifact on all images of a split, in fp32 and in the batches of the training.

    Args:
        file: the artifact.
        data: folder of a data set in any layout that training reads.
        split: name of the split; None: the one that the training was evaluated on.
        rho: share of the tokens to update, in (0, 1]; None: as trained.
        on_image: called with the number of finished images and of all.
        short_side_px: length of the shorter side after resizing, with the longer one in proportion; None: as trained.

    Raises:
        ArtifactError: the file is no artifact, or detects other classes than the data set has.
        DatasetError: the data set cannot be read.
        ValueError: ``rho`` does not apply.
    """
    artifact = load_artifact(file)
    set_rho(artifact, rho)
    masks = artifact.config.model.mask_head
    split = split or artifact.config.data.val_split
    images, notes = evaluated_images(artifact, data, split, short_side_px)
    if not len(images):
        raise DatasetError(f"{images.annotation_files[0]} has no images to evaluate on.")
    categories = _ids_in_data(artifact, images.categories, images.annotation_files[0])
    found = _detect(artifact, images, categories, on_image)
    accuracy = score(images.annotation_files[0], found, images.image_ids, masks=masks)
    return ArtifactEvaluation(
        artifact=file,
        sha256=artifact.sha256,
        rho=artifact.model.rho,
        split=split,
        annotations=images.annotation_files[0],
        num_images=len(images),
        detections=found,
        notes=notes,
        accuracy=accuracy,
        bounds=Evaluation.of(accuracy.matches).bounds(accuracy.metrics),
        classes=_classes(accuracy),
    )


def evaluated_images(
    artifact: Artifact, data: Path, split: str, short_side_px: int | None
) -> tuple[CocoDetection, list[str]]:
    """The images of a split as the model reads them, with masks if it has a mask head, and what was derived for it.

    Args:
        artifact: the model.
        data: folder of a data set in any layout that training reads.
        split: name of the split; if the training held out its validation images, the same ones are its split "val".
        short_side_px: length of the shorter side after resizing, with the longer one in proportion; None: as trained.

    Raises:
        DatasetError: the data set cannot be read.
    """
    trained = artifact.config.data
    # With a share held out, both parts of the images must be those of the training.
    others = (*trained.train_splits, trained.val_split) if trained.val_share else ()
    splits = tuple(dict.fromkeys((*others, split)))
    config = replace(trained, dir=str(data), train_splits=splits, val_split=split)
    if short_side_px is not None:
        longest = round(config.max_side_px * short_side_px / config.short_side_px)
        config = replace(config, resize_px=None, short_side_px=short_side_px, max_side_px=longest)
    prepared = prepare_folder(config)
    images = CocoDetection(config, prepared.folder, (split,), train=False, masks=artifact.config.model.mask_head)
    return images, prepared.notes


@torch.inference_mode()
def _detect(
    artifact: Artifact, images: CocoDetection, categories: Categories, on_image: Callable[[int, int], None]
) -> list[Detection]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = artifact.model.to(device)
    known = set(images.categories.ids)
    found: list[Detection] = []
    for start in range(0, len(images), EVAL_BATCH):
        batch = collate([images[i, Flip.NONE] for i in range(start, min(start + EVAL_BATCH, len(images)))])
        mask = None if batch.mask is None else batch.mask.to(device)
        output = model(batch.images.to(device), mask)
        detected = batch_detections(output.prediction, batch.targets, categories, output.masks)
        # Official models have classes without a category, which COCO's own evaluation ignores as well.
        found += [detection for detection in detected if detection["category_id"] in known]
        on_image(start + len(batch.targets), len(images))
    return found


def _ids_in_data(artifact: Artifact, categories: Categories, file: Path) -> Categories:
    """The classes of the model with the ids that the data set gives to the same names.

    Every export of the same images may number the categories in its own way.
    """
    own, other = (dict(zip(each.ids, each.names, strict=True)) for each in (artifact.categories, categories))
    used = {number: name for number, name in own.items() if name != UNUSED_CLASS}
    if used == other:
        return artifact.categories
    trained, given = set(used.values()), set(other.values())
    if trained != given:
        differing = (("model", sorted(trained - given)), ("data", sorted(given - trained)))
        parts = [f"{', '.join(names[:5])} only in the {where}" for where, names in differing if names]
        raise ArtifactError(f"{file} has other classes than the model was trained on: {'; '.join(parts)}.")
    if len(given) < len(other) or len(trained) < len(used):
        raise ArtifactError(
            f"{file} has the classes of the model under other ids, and several have the same name: renumber them."
        )
    by_name = dict(zip(categories.names, categories.ids, strict=True))
    names = artifact.categories.names
    return Categories(ids=tuple(by_name.get(name, NO_CATEGORY) for name in names), names=names)


def _classes(accuracy: Accuracy) -> dict[str, dict[str, float | None]]:
    matches = accuracy.matches["bbox"]
    precisions = average_precision(matches)
    values = {name: class_values(precisions, index) for name, index in SIZES.items()}
    alone, replicates = class_replicates(matches)
    classes: dict[str, dict[str, float | None]] = {}
    for k, name in enumerate(matches.categories):
        row: dict[str, float | None] = {m: _known(each[0, k]) for m, each in values.items() if each is not None}
        interval = image_interval(float(alone[k]), replicates[:, k])
        classes[name] = row | {"ap_low": _known(interval.low), "ap_high": _known(interval.high)}
    return classes


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def value_text(name: str, values: dict[str, float | None]) -> str:
    """A metric with its interval, such as "55.9 (53.9 to 57.8)"."""
    m = METRICS[name]
    ends = [values.get(column) for column in m.interval or ()]
    text = m.format(values.get(name))
    return text if None in ends or not ends else f"{text} ({' to '.join(m.format(end) for end in ends)})"
