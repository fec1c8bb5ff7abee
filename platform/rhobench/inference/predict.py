"""Prediction on single images: detections, and the tokens that the encoder updates, drawn to an image file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from rhobench.config.phrases import counted
from rhobench.config.protocols import Precision
from rhobench.dashboards.pictures import DetectedObject, UpdatedTokens, draw
from rhobench.data import UnreadableImageError
from rhobench.data.pixels import PILLOW_ERRORS, decode
from rhobench.data.segmentation import encode_mask
from rhobench.data.transforms import Flip, transform
from rhobench.measure.artifact import Artifact, load_artifact
from rhobench.model import DetectorOutput
from rhobench.model.postprocess import detection_masks, detections
from rhobench.model.precision import autocast, choose_precision


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """Detections in one image, and the number of tokens that were updated."""

    image: Path
    """The image file."""
    picture: Path
    """The file with the drawn predictions."""
    objects: list[DetectedObject]
    """Detections with at least the threshold score, in descending order of score."""
    highest_score: float
    """Score of the best detection, whether or not it reaches the threshold; in 0..1."""
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
            "highest_score": self.highest_score,
            "tokens": self.tokens,
            "updated": self.updated,
        }


def _object_as_dict(found: DetectedObject) -> dict[str, Any]:
    """A detection as JSON-serialisable values; its mask in COCO run-length encoding at the size of the image."""
    mask = {} if found.mask is None else {"mask": encode_mask(found.mask)}
    return {"label": found.name, "score": found.score, "box": list(found.box)} | mask


@dataclass(frozen=True, kw_only=True)
class FailedImage:
    """An image that nothing could be detected in."""

    image: Path
    """The image file."""
    reason: str
    """Why, in one sentence."""

    def as_dict(self) -> dict[str, Any]:
        """The failure as JSON-serialisable values, for ``--json``."""
        return {"image": str(self.image), "reason": self.reason}


def predict(
    artifact: Path,
    images: Sequence[Path],
    out: Path,
    rho: float | None,
    threshold: float,
    precision: str = "fp32",
) -> Iterator[ImagePrediction | FailedImage]:
    """Detect objects in each image and write the annotated image to ``out`` as NAME.png.

    Arguments are checked at once; images are processed one by one as the iterator is consumed, and one that cannot be
    used does not end it.

    Args:
        artifact: model.safetensors of ``rhobench weights import`` or of a run, or the folder of a run.
        images: image files, and folders of which all images are taken.
        out: output folder, created if it does not exist.
        rho: share of tokens to update, in (0, 1]; None: as trained.
        threshold: lowest score of detections to keep, in 0..1.
        precision: "fp32", "bf16", "fp16", or "auto" for the one that is fast on this machine.

    Raises:
        ValueError: the artifact or an argument cannot be used.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold} must be between 0 and 1.")
    if precision not in get_args(Precision):
        raise ValueError(f"--precision {precision} is not a precision: use {', '.join(get_args(Precision))}.")
    targets = _targets(_image_files(images), out)
    loaded = load_artifact(artifact)
    set_rho(loaded, rho)
    if precision == "auto":
        precision = choose_precision("cpu").precision
    out.mkdir(parents=True, exist_ok=True)
    # With ``yield`` here, arguments would be checked only when the first prediction is requested.
    return (_predict_or_fail(loaded, file, target, threshold, precision) for file, target in targets.items())


def _image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the images of the given folders by name."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            suffixes = Image.registered_extensions()
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
            if not found:
                raise UnreadableImageError(f"The folder {path} contains no images: give a folder or files with images.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UnreadableImageError(f"There is no image {path}.")
    return list(dict.fromkeys(files))


def _targets(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file that each picture is written to: named like the image, with its suffix if two would be the same."""
    stems = Counter(file.stem for file in files)
    targets = {file: out / f"{file.stem if stems[file.stem] == 1 else file.name}.png" for file in files}
    counts = Counter(targets.values())
    for file, target in targets.items():
        if counts[target] > 1:
            raise ValueError(
                f"Several images would be written to {target.name}: rename {file} or use another --out for it."
            )
        if target.exists() and target.samefile(file):
            raise ValueError(f"{target} would overwrite the input image: choose another folder for --out.")
    return targets


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


def _predict_or_fail(
    artifact: Artifact, file: Path, target: Path, threshold: float, precision: str
) -> ImagePrediction | FailedImage:
    try:
        return _predict_one(artifact, file, target, threshold, precision)
    # RuntimeError: what PyTorch raises for an image that a layer does not accept
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return FailedImage(image=file, reason=reason if str(file) in reason else f"{file} cannot be used: {reason}")


@torch.inference_mode()
def _predict_one(artifact: Artifact, file: Path, target: Path, threshold: float, precision: str) -> ImagePrediction:
    """Detect objects in ``file`` and write the annotated image to ``target``."""
    try:
        image = decode(file)
    except PILLOW_ERRORS as error:
        raise UnreadableImageError(f"{file} cannot be read as an image: {error}") from error
    pixels, _ = transform(image, torch.zeros(0, 4), Flip.NONE, artifact.config.data)
    with autocast(pixels.device, precision):
        output = artifact.model(pixels[None])  # one image has no padding, hence no mask
    objects, highest = _objects(artifact, output, image.size, threshold)
    scale = (image.width / pixels.shape[2], image.height / pixels.shape[1])
    levels = _updated_tokens(output, scale, (pixels.shape[1], pixels.shape[2]))
    tokens = sum(output.grid.level_sizes)
    updated = sum(int(level.updated.sum()) for level in levels) if levels else tokens
    share = f"{updated:,} of {tokens:,} tokens updated ({100 * updated / tokens:.1f} %)"
    found = f"{counted(len(objects), 'object')} at {threshold:g} or more"
    title = f"{file.name}: {artifact.config.model.name}, {share}, {found}"
    draw(image, objects, levels, title).save(target)
    return ImagePrediction(
        image=file, picture=target, objects=objects, highest_score=highest, tokens=tokens, updated=updated
    )


def _objects(
    artifact: Artifact, output: DetectorOutput, size: tuple[int, int], threshold: float
) -> tuple[list[DetectedObject], float]:
    """Detections of at least ``threshold`` in an image of ``size`` (width, height) in pixels, and the highest score."""
    width, height = size
    detected = detections(output.prediction, torch.tensor([[height, width]]), len(artifact.categories))
    kept = detected.scores[0] >= threshold
    scores, labels, boxes, queries = (values[0, kept] for values in detected)
    masks = _masks(output, queries, (height, width))
    names = artifact.categories.names
    rows = zip(scores.tolist(), labels.tolist(), boxes.tolist(), queries.tolist(), strict=True)
    objects = [
        DetectedObject(label=label, name=names[label], score=score, box=tuple(box), mask=masks.get(query))
        for score, label, box, query in rows
    ]
    return objects, float(detected.scores[0].max())


def _masks(output: DetectorOutput, queries: torch.Tensor, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """Query index -> mask, (H, W) bool at the ``size`` (height, width) of the image; empty without a mask head."""
    if output.masks is None:
        return {}
    chunks = detection_masks(output.masks, 0, queries, size)
    return {query: mask for chunk, masks in chunks for query, mask in zip(chunk.tolist(), masks.numpy(), strict=True)}


def _updated_tokens(
    output: DetectorOutput, scale: tuple[float, float], input_size: tuple[int, int]
) -> list[UpdatedTokens]:
    """The updated tokens of each level; empty for a dense encoder.

    Args:
        output: output of the model for one image.
        scale: horizontal and vertical size of an input pixel of the model in pixels of the image file.
        input_size: height and width of the input of the model in pixels.
    """
    if output.selection is None:
        return []
    kept = np.zeros(sum(output.grid.level_sizes), dtype=bool)
    kept[output.selection.index[0].numpy()] = True  # the only image has no surplus entries
    parts = np.split(kept, np.cumsum(output.grid.level_sizes)[:-1])
    levels = []
    for part, (rows, columns) in zip(parts, output.grid.shapes, strict=True):
        # Strides are powers of 2. Sizes are rounded up, which distorts the longer side least.
        stride = 2 ** round(np.log2(max(input_size[0] / rows, input_size[1] / columns)))
        levels.append(
            UpdatedTokens(cell_px=(scale[0] * stride, scale[1] * stride), updated=part.reshape(rows, columns))
        )
    return levels
