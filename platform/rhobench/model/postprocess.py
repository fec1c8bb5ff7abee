"""Conversion of predictions to detections in pixels of the original image, without NMS (spec section 16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rhobench.config import MASK_STRIDE
from rhobench.model.boxes import to_xyxy
from rhobench.model.heads import Prediction
from rhobench.model.masks import MaskEmbeddings
from rhobench.model.tokens import gather_tokens

MAX_DETECTIONS = 100
"""Detections kept per image, as in the COCO evaluation."""
MASK_CHUNK_SIZE = 8
"""Masks that are resized to the original image at once, in float32; bounds the memory they take."""


class Detections(NamedTuple):
    """Detections of each image in descending order of score.

    Their number n is ``MAX_DETECTIONS``, or fewer if there are fewer (query, class) pairs.
    """

    scores: Tensor
    """(B, n) scores in 0..1."""
    labels: Tensor
    """(B, n) contiguous class indices."""
    boxes: Tensor
    """(B, n, 4) x0, y0, x1, y1 in pixels of the original image."""
    queries: Tensor
    """(B, n) index of the query of each detection."""


def detections(prediction: Prediction, sizes: Tensor, num_categories: int | None = None) -> Detections:
    """Select the highest-scoring (query, class) pairs of each image.

    With a softmax, whose classes are mutually exclusive, every query has only its best class.

    Args:
        prediction: predictions of the last decoder layer.
        sizes: (B, 2) height and width of the original images in pixels.
        num_categories: number of categories of the data set; a head with more classes does not detect the others.
            None: as many as the head has.
    """
    # In fp32 also after autocast: bf16 has too few digits for pixels, and makes ties of different scores.
    prediction = prediction._replace(logits=prediction.logits.float(), boxes=prediction.boxes.float())
    probabilities = prediction.probabilities[..., :num_categories]  # (B, n, classes)
    classes = probabilities.shape[-1]
    if prediction.softmax:
        scores, labels = probabilities.max(-1)  # (B, n)
        best, query = scores.topk(min(MAX_DETECTIONS, scores.shape[1]), dim=1)
        label = labels.gather(1, query)
    else:
        scores = probabilities.flatten(1)  # (B, n * classes)
        best, index = scores.topk(min(MAX_DETECTIONS, scores.shape[1]), dim=1)
        query, label = index // classes, index % classes
    boxes = to_xyxy(gather_tokens(prediction.boxes, query))
    height, width = sizes.to(boxes).unbind(1)
    scale = torch.stack((width, height, width, height), dim=-1)  # (B, 4)
    return Detections(best, label, boxes * scale[:, None], query)


def detection_masks(
    masks: MaskEmbeddings, image: int, queries: Tensor, size: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Compute the masks of the given queries of one image at its original size, in chunks to save memory.

    Args:
        masks: mask embeddings of the model.
        image: index of the image in the batch.
        queries: (n,) query indices; duplicates, as of a query detected as several classes, are computed once.
        size: (height, width) of the original image in pixels.

    Yields:
        Distinct query indices (k,) and their masks (k, height, width) bool, True where the probability exceeds 0.5.
    """
    cells = masks.cells.shape[2:]
    axes = [_grid_coordinates(pixels, masks.sizes[image, axis], cells[axis]) for axis, pixels in enumerate(size)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)  # (H, W, 2), x first
    for chunk in queries.unique().to(masks.cells.device).split(MASK_CHUNK_SIZE):
        logits = masks.logits(image, chunk)[None]  # (1, k, h, w)
        # "border", because the outermost pixel centres of the image lie beyond the centres of the cells.
        resized = F.grid_sample(logits, grid[None], "bilinear", "border", align_corners=False)
        yield chunk, resized[0] > 0  # a logit of 0 is a probability of 0.5


def _grid_coordinates(pixels: int, valid: Tensor, cells: int) -> Tensor:
    """Coordinates of the original pixel centres along one axis of the padded cells, in -1..1 as for ``grid_sample``.

    Args:
        pixels: size of the original image in pixels.
        valid: size of the input without padding in pixels, a scalar.
        cells: size of the padded input in cells.
    """
    position = (torch.arange(pixels, device=valid.device) + 0.5) * valid / (pixels * MASK_STRIDE)  # in cells
    last = (valid / MASK_STRIDE).ceil() - 0.5
    # Clamped to the last valid cell, so that the undefined logits of padding are never interpolated.
    return 2 * position.minimum(last) / cells - 1
