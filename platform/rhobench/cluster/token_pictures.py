"""Drawing data of a few validation images at each rho, which the report shows beside the numbers."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rhobench.config import DataConfig
from rhobench.data import Categories
from rhobench.data.coco import CocoDetection
from rhobench.data.transforms import Flip
from rhobench.model import Detector, DetectorOutput
from rhobench.model.postprocess import detections
from rhobench.model.sparsity import decoder_attention_map
from rhobench.results.token_pictures import FILE_NAME, PictureObject, PicturePoint, TokenPicture, TokenPictures

NUM_IMAGES = 3
"""Number of images; they are the same in all runs on the same data."""

MAX_SIDE_PX = 320
"""Longer side of the stored image in pixels."""

JPEG_QUALITY = 70

MIN_SCORE, MAX_OBJECTS = 0.3, 20
"""Lowest score and largest number of detections that are stored."""


def write_pictures(
    folder: Path,
    model: Detector,
    images: CocoDetection,
    rhos: Sequence[float | None],
    data: DataConfig,
) -> None:
    """Write the pictures of the first validation images to the folder of a run.

    Args:
        folder: folder of the run.
        model: the trained model, in evaluation mode.
        images: the validation images.
        rhos: shares of updated tokens at which the model runs.
        data: how the images were normalised.
    """
    own = model.rho
    pictures = [_picture(model, images, index, rhos, data) for index in range(min(NUM_IMAGES, len(images)))]
    model.rho = own
    content = json.dumps(asdict(TokenPictures(pictures=pictures)), separators=(",", ":"))
    (folder / FILE_NAME).write_text(content, encoding="utf-8")


@torch.inference_mode()
def _picture(
    model: Detector,
    images: CocoDetection,
    index: int,
    rhos: Sequence[float | None],
    data: DataConfig,
) -> TokenPicture:
    sample = images[index, Flip.NONE]
    pixels = sample.image.to(next(model.parameters()).device)
    points = []
    for rho in rhos:
        model.rho = rho
        points.append(_point(rho, model(pixels[None], with_aux=True), images.categories))
    return TokenPicture(image_id=sample.target.image_id, jpeg=_jpeg(sample.image, data), points=points)


def _point(rho: float | None, output: DetectorOutput, categories: Categories) -> PicturePoint:
    shapes, sizes = output.grid.shapes, output.grid.level_sizes
    kept = torch.ones(sum(sizes))
    if output.selection is not None:
        kept.zero_()
        kept[output.selection.index[0].cpu()] = 1  # the only image has no surplus entries
    attention = None
    if output.samplings:
        dam = decoder_attention_map(output.samplings, shapes)[0].cpu().float()
        # Per area, because a token of a coarse level covers many cells of the finest one.
        areas = torch.cat([torch.full((h * w,), h * w / (shapes[0][0] * shapes[0][1])) for h, w in shapes])
        total = _on_finest(dam * areas, shapes)
        attention = _encoded(255 * total / total.max().clamp_min(1e-12))
    return PicturePoint(
        rho=rho,
        updated=int(kept.sum()),
        tokens=sum(sizes),
        rows=shapes[0][0],
        columns=shapes[0][1],
        kept=_encoded(_on_finest(kept, shapes)),
        levels=len(shapes),
        attention=attention,
        objects=_objects(output, categories),
    )


def _on_finest(values: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Sum over the levels at the cells of the finest one.

    Args:
        values: (N,) one value per token.
        shapes: (height, width) of each level, finest first.

    Returns:
        (H_0, W_0) floats.
    """
    parts = values.split([h * w for h, w in shapes])
    maps = [part.reshape(1, 1, h, w) for part, (h, w) in zip(parts, shapes, strict=True)]
    finest = torch.nn.functional.interpolate
    return sum((finest(each, size=tuple(shapes[0]), mode="nearest")[0, 0] for each in maps), torch.zeros(shapes[0]))


def _encoded(values: Tensor) -> str:
    return b64encode(values.round().clamp(0, 255).to(torch.uint8).numpy().tobytes()).decode()


def _objects(output: DetectorOutput, categories: Categories) -> list[PictureObject]:
    sizes = torch.tensor([[1, 1]], device=output.memory.device)
    found = detections(output.prediction, sizes, len(categories))
    rows = zip(found.scores[0].tolist(), found.labels[0].tolist(), found.boxes[0].tolist(), strict=True)
    return [
        PictureObject(name=categories.names[label], score=round(score, 3), box=tuple(round(side, 4) for side in box))
        for score, label, box in rows
        if score >= MIN_SCORE
    ][:MAX_OBJECTS]


def _jpeg(pixels: Tensor, data: DataConfig) -> str:
    """The input of the model (3, H, W) as a small JPEG in base64."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.pixel_mean, data.pixel_std))
    rgb = ((pixels.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=JPEG_QUALITY)
    return b64encode(file.getvalue()).decode()
