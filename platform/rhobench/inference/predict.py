"""Prediction on single images: detections, and the tokens that the encoder updates, drawn to an image file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhobench.dashboards.pictures import DetectedObject, UpdatedTokens, draw
from rhobench.data import Flip, UnreadableImageError
from rhobench.data.masks import encode_mask
from rhobench.data.transforms import PILLOW_ERRORS, decode, transform
from rhobench.measure.artifact import Artifact, load_artifact
from rhobench.model import DetectorOutput
from rhobench.model.postprocess import detection_masks, detections


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """Detections in one image, and the number of tokens that were updated."""

    image: Path
    """The image file."""
    picture: Path
    """The file with the drawn predictions."""
    objects: list[DetectedObject]
    """Detections with at least the threshold score, in descending order of score."""
    tokens: int
    """Number of encoder tokens over all levels."""
    updated: int
    """Number of tokens that the encoder updated."""

    def as_dict(self) -> dict[str, Any]:
        """The predictions as JSON-serialisable values, for ``--json``."""
        return {
            "image": str(self.image),
            "picture": str(self.picture),
            "objects": [_object_as_dict(found) for found in self.objects],
            "tokens": self.tokens,
            "updated": self.updated,
        }


def _object_as_dict(found: DetectedObject) -> dict[str, Any]:
    """A detection as JSON-serialisable values; its mask in COCO run-length encoding at the size of the image."""
    mask = {} if found.mask is None else {"mask": encode_mask(found.mask)}
    return {"label": found.name, "score": found.score, "box": list(found.box)} | mask


def predict(
    artifact: Path, images: Sequence[Path], out: Path, rho: float | None, threshold: float
) -> Iterator[ImagePrediction]:
    """Detect objects in each image and write the annotated image to ``out`` as NAME.png.

    Arguments are checked at once; images are processed one by one as the iterator is consumed.

    Args:
        artifact: model.safetensors of a run or of ``rhobench weights import``.
        images: image files; their names without suffix must be distinct.
        out: output folder, created if it does not exist.
        rho: share of tokens to update, in (0, 1]; None: as trained.
        threshold: lowest score of detections to keep, in 0..1.

    Raises:
        ValueError: the artifact, an image or an argument cannot be used.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold} must be between 0 and 1.")
    for file in images:
        if not file.is_file():
            raise UnreadableImageError(f"There is no image {file}.")
    targets = {file: out / f"{file.stem}.png" for file in images}
    for file, target in targets.items():
        if list(targets.values()).count(target) > 1:
            raise ValueError(
                f"Several images would be written to {target.name}: rename {file} or use another --out for it."
            )
        if target.exists() and target.samefile(file):
            raise ValueError(f"{target} would overwrite the input image: choose another folder for --out.")
    loaded = load_artifact(artifact)
    set_rho(loaded, rho)
    out.mkdir(parents=True, exist_ok=True)
    # With ``yield`` here, arguments would be checked only when the first prediction is requested.
    return (_predict_one(loaded, file, target, threshold) for file, target in targets.items())


def set_rho(artifact: Artifact, rho: float | None) -> None:
    """Set the share of tokens that the model updates; None keeps that of the training."""
    if rho is None:
        return
    if not 0 < rho <= 1:
        raise ValueError(f"--rho {rho} is not allowed: it must be greater than 0 and at most 1.")
    if artifact.config.model.rho is None:
        raise ValueError(
            f"--rho {rho} does not apply: this {artifact.config.model.name} has a dense encoder. Omit --rho."
        )
    artifact.model.rho = rho


@torch.inference_mode()
def _predict_one(artifact: Artifact, file: Path, target: Path, threshold: float) -> ImagePrediction:
    """Detect objects in ``file`` and write the annotated image to ``target``."""
    try:
        image = decode(file)
    except PILLOW_ERRORS as error:
        raise UnreadableImageError(f"{file} cannot be read as an image: {error}") from error
    pixels, _ = transform(image, torch.zeros(0, 4), Flip.NONE, artifact.config.data)
    output = artifact.model(pixels[None])  # one image has no padding, hence no mask
    objects = _objects(artifact, output, image.size, threshold)
    scale = (image.width / pixels.shape[2], image.height / pixels.shape[1])
    levels = _updated_tokens(output, scale, pixels.shape[1])
    tokens = sum(output.grid.level_sizes)
    updated = sum(int(level.updated.sum()) for level in levels) if levels else tokens
    share = f"{updated:,} of {tokens:,} tokens updated ({updated / tokens:.1%})"
    title = f"{file.name}: {artifact.config.model.name}, {share}, {len(objects)} objects at {threshold:g} or more"
    draw(image, objects, levels, title).save(target)
    return ImagePrediction(image=file, picture=target, objects=objects, tokens=tokens, updated=updated)


def _objects(
    artifact: Artifact, output: DetectorOutput, size: tuple[int, int], threshold: float
) -> list[DetectedObject]:
    """Detections of at least ``threshold`` in an image of ``size`` (width, height) in pixels."""
    width, height = size
    detected = detections(output.prediction, torch.tensor([[height, width]]))
    kept = detected.scores[0] >= threshold
    scores, labels, boxes, queries = (values[0, kept] for values in detected)
    masks = _masks(output, queries, (height, width))
    names = artifact.categories.names
    rows = zip(scores.tolist(), labels.tolist(), boxes.tolist(), queries.tolist(), strict=True)
    return [
        DetectedObject(label=label, name=names[label], score=score, box=tuple(box), mask=masks.get(query))
        for score, label, box, query in rows
    ]


def _masks(output: DetectorOutput, queries: torch.Tensor, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Query index -> mask, (H, W) bool at the ``size`` (height, width) of the image; empty without a mask head."""
    if output.masks is None:
        return {}
    chunks = detection_masks(output.masks, 0, queries, size)
    return {query: mask for chunk, masks in chunks for query, mask in zip(chunk.tolist(), masks.numpy(), strict=True)}


def _updated_tokens(output: DetectorOutput, scale: tuple[float, float], input_height: int) -> list[UpdatedTokens]:
    """The updated tokens of each level; empty for a dense encoder.

    Args:
        output: output of the model for one image.
        scale: horizontal and vertical size of an input pixel of the model in pixels of the image file.
        input_height: height of the input of the model in pixels.
    """
    if output.selection is None:
        return []
    kept = np.zeros(sum(output.grid.level_sizes), dtype=bool)
    kept[output.selection.index[0].numpy()] = True  # the only image has no surplus entries
    parts = np.split(kept, np.cumsum(output.grid.level_sizes)[:-1])
    levels = []
    for part, (rows, columns) in zip(parts, output.grid.shapes, strict=True):
        stride = 2 ** round(np.log2(input_height / rows))  # strides are powers of 2; sizes are rounded up
        levels.append(
            UpdatedTokens(cell_px=(scale[0] * stride, scale[1] * stride), updated=part.reshape(rows, columns))
        )
    return levels
