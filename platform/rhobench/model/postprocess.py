"""From predictions to detections (spec section 16), without NMS."""

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
MASKS_AT_ONCE = 8
"""So many masks of one image at its original size, in float32, lie in memory at a time."""


class Detections(NamedTuple):
    """Found objects of each image, best first; n is 100, or fewer when queries times classes are fewer."""

    scores: Tensor
    """(B, n) in 0..1."""
    labels: Tensor
    """(B, n) contiguous classes."""
    boxes: Tensor
    """(B, n, 4) x0, y0, x1, y1 in pixels of the original image."""
    queries: Tensor
    """(B, n) the query of each."""


def detections(prediction: Prediction, sizes: Tensor) -> Detections:
    """The best (query, class) pairs of each image; with a softmax, where classes exclude each other, the best queries.

    Args:
        prediction: of the last decoder layer.
        sizes: (B, 2) original height and width in pixels.
    """
    probabilities = prediction.probabilities  # (B, n, classes)
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
    """The masks of some queries of one image in pixels of the original image, a few at a time to spare memory.

    Args:
        masks: of the model.
        image: its number in the batch.
        queries: (n,) of that image; one that is detected as several classes has one mask.
        size: original (height, width) in pixels.

    Yields:
        Some different ``queries``, (k,), and their masks, (k, height, width) bool: where the probability is above 0.5.
    """
    cells = masks.cells.shape[2:]
    places = [_places(pixels, masks.sizes[image, axis], cells[axis]) for axis, pixels in enumerate(size)]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], dim=-1)  # (H, W, 2), x first
    for some in queries.unique().to(masks.cells.device).split(MASKS_AT_ONCE):
        logits = masks.logits(image, some)[None]  # (1, k, h, w)
        resized = F.grid_sample(logits, grid[None], "bilinear", "border", align_corners=False)
        yield some, resized[0] > 0


def _places(pixels: int, shown: Tensor, cells: int) -> Tensor:
    """Centres of the original pixels along one axis of the padded cells, from -1 to 1 as ``grid_sample`` wants them.

    Args:
        pixels: of the original image.
        shown: pixels of the input without padding.
        cells: of the padded input.
    """
    place = (torch.arange(pixels, device=shown.device) + 0.5) * shown / (pixels * MASK_STRIDE)  # in cells
    last = (shown / MASK_STRIDE).ceil() - 0.5
    return 2 * place.minimum(last) / cells - 1  # never between a cell and padding, whose logits mean nothing
