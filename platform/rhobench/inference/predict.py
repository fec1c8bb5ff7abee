"""A trained model on single images: what it finds, and which tokens its encoder updates on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rhobench.dashboards.pictures import FoundObject, KeptTokens, draw
from rhobench.data import Flip, UnreadableImageError
from rhobench.data.masks import encode_mask
from rhobench.data.transforms import PILLOW_ERRORS, decode, transform
from rhobench.measure.artifact import Artifact, load_artifact
from rhobench.model import DetectorOutput
from rhobench.model.postprocess import detection_masks, detections


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One image and what was made of it."""

    image: Path
    picture: Path
    objects: list[FoundObject]
    tokens: int
    """Tokens of all levels."""
    updated: int
    """Tokens that the encoder updated."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "image": str(self.image),
            "picture": str(self.picture),
            "objects": [_as_dict(found) for found in self.objects],
            "tokens": self.tokens,
            "updated": self.updated,
        }


def _as_dict(found: FoundObject) -> dict[str, Any]:
    """A mask as COCO writes it, run-length encoded at the size of the image."""
    mask = {} if found.mask is None else {"mask": encode_mask(found.mask)}
    return {"label": found.name, "score": found.score, "box": list(found.box)} | mask


def predict(
    artifact: Path, images: Sequence[Path], out: Path, rho: float | None, threshold: float
) -> Iterator[Predicted]:
    """Detect objects in each image and write NAME.png into ``out``, one after the other.

    Args:
        artifact: a model.safetensors of a run or of ``rhobench weights import``.
        images: image files with different names.
        out: folder, made when it does not exist.
        rho: share of the tokens to update; None: as trained.
        threshold: lowest score that is drawn, 0 to 1.

    Raises:
        ValueError: the model, an image or ``rho`` cannot be used.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold} is not a score: it must lie between 0 and 1.")
    for file in images:
        if not file.is_file():
            raise UnreadableImageError(f"There is no image {file}.")
    targets = {file: out / f"{file.stem}.png" for file in images}
    for file, target in targets.items():
        if list(targets.values()).count(target) > 1:
            raise ValueError(f"Several images would become {target.name}: rename {file} or draw it into another --out.")
        if target.exists() and target.samefile(file):
            raise ValueError(f"{target} would overwrite the image itself: choose another folder for --out.")
    loaded = load_artifact(artifact)
    _set_rho(loaded, rho)
    out.mkdir(parents=True, exist_ok=True)
    return (_predict_one(loaded, file, target, threshold) for file, target in targets.items())


def _set_rho(artifact: Artifact, rho: float | None) -> None:
    if rho is None:
        return
    if not 0 < rho <= 1:
        raise ValueError(f"--rho {rho} is not allowed: it is a share in (0, 1].")
    if artifact.config.model.rho is None:
        raise ValueError(
            f"--rho {rho}: this {artifact.config.model.name} updates every token, it has no scoring network."
        )
    artifact.model.rho = rho


@torch.inference_mode()
def _predict_one(artifact: Artifact, file: Path, target: Path, threshold: float) -> Predicted:
    try:
        image = decode(file)
    except PILLOW_ERRORS as error:
        raise UnreadableImageError(f"{file} cannot be read as an image: {error}") from error
    pixels, _ = transform(image, torch.zeros(0, 4), Flip.NONE, artifact.config.data)
    output = artifact.model(pixels[None])
    objects = _objects(artifact, output, image.size, threshold)
    scale = (image.width / pixels.shape[2], image.height / pixels.shape[1])
    levels = _kept(output, scale, pixels.shape[1])
    tokens = sum(output.grid.level_sizes)
    updated = sum(int(level.kept.sum()) for level in levels) if levels else tokens
    share = f"{updated:,} of {tokens:,} tokens updated ({updated / tokens:.1%})"
    title = f"{file.name}: {artifact.config.model.name}, {share}, {len(objects)} objects at {threshold:g} or more"
    draw(image, objects, levels, title).save(target)
    return Predicted(image=file, picture=target, objects=objects, tokens=tokens, updated=updated)


def _objects(artifact: Artifact, output: DetectorOutput, size: tuple[int, int], threshold: float) -> list[FoundObject]:
    width, height = size
    found = detections(output.prediction, torch.tensor([[height, width]]))
    shown = found.scores[0] >= threshold
    scores, labels, boxes, queries = (values[0, shown] for values in found)
    masks = _masks(output, queries, (height, width))
    names = artifact.categories.names
    rows = zip(scores.tolist(), labels.tolist(), boxes.tolist(), queries.tolist(), strict=True)
    return [
        FoundObject(label=label, name=names[label], score=score, box=tuple(box), mask=masks.get(query))
        for score, label, box, query in rows
    ]


def _masks(output: DetectorOutput, queries: torch.Tensor, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """By query its mask, (H, W) bool at the ``size`` of the image; empty without a mask head."""
    if output.masks is None:
        return {}
    parts = detection_masks(output.masks, 0, queries, size)
    return {query: mask for some, masks in parts for query, mask in zip(some.tolist(), masks.numpy(), strict=True)}


def _kept(output: DetectorOutput, scale: tuple[float, float], input_height: int) -> list[KeptTokens]:
    """Which tokens were updated at each level; empty when all were, by design.

    Args:
        output: of one image.
        scale: pixels of the image file for one of the model's input, across and down.
        input_height: of the model's input.
    """
    if output.selection is None:
        return []
    kept = np.zeros(sum(output.grid.level_sizes), dtype=bool)
    kept[output.selection.index[0].numpy()] = True
    parts = np.split(kept, np.cumsum(output.grid.level_sizes)[:-1])
    levels = []
    for part, (rows, columns) in zip(parts, output.grid.shapes, strict=True):
        stride = 2 ** round(np.log2(input_height / rows))  # levels halve, rounding up
        levels.append(KeptTokens(cell_px=(scale[0] * stride, scale[1] * stride), kept=part.reshape(rows, columns)))
    return levels
