"""COCO's formats of the segmentation of an object, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

MIN_POLYGON = 6
"""Numbers in the smallest polygon, a triangle; pycocotools interprets four numbers as a box."""


class SegmentationError(ValueError):
    """An invalid segmentation; the message completes the sentence "the segmentation ..."."""


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO's compressed run-length encoding, ready for JSON."""
    # Column-major is the only memory order that pycocotools accepts.
    encoded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def encode_segmentation(segmentation: Any, height: int, width: int) -> bytes:
    """Convert a COCO segmentation (polygons, or a compressed or uncompressed run-length encoding) to compressed RLE.

    Args:
        segmentation: segmentation of one object.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        SegmentationError: the segmentation is invalid or belongs to an image of another size.
    """
    try:
        if isinstance(segmentation, dict):
            size, counts = segmentation["size"], segmentation["counts"]
            if list(size) != [height, width]:
                raise SegmentationError(
                    f"is for an image of {size} (height, width), but its image has {[height, width]}"
                )
            if isinstance(counts, str):
                return counts.encode("ascii")
            if sum(counts) != height * width:
                raise SegmentationError(f"has runs of {sum(counts):,} pixels, but its image has {height * width:,}")
            return bytes(coco_masks.frPyObjects(segmentation, height, width)["counts"])
        if not segmentation:
            raise SegmentationError("is missing or empty")
        if any(len(part) < MIN_POLYGON or len(part) % 2 for part in segmentation):
            raise SegmentationError("is not a list of polygons of the form x, y, x, y, ... with at least three corners")
        # An occluded object may consist of several polygons.
        return bytes(coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))["counts"])
    except (TypeError, KeyError, AttributeError) as error:
        raise SegmentationError(f"is neither polygons nor a run-length encoding ({error!r})") from error
