"""The matches of a finished COCOeval in the form that resampling needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from rhobench.statistics.matches import AREAS, THRESHOLDS, Matches


def matches_of(evaluation: COCOeval, categories: tuple[str, ...]) -> Matches:
    """Matches of an evaluation with COCO's own parameters.

    Args:
        evaluation: COCOeval after ``evaluate()``.
        categories: names of the categories in the order of their ids.
    """
    images = evaluation.params.imgIds
    assert np.allclose(evaluation.params.iouThrs, THRESHOLDS), evaluation.params.iouThrs
    # Ordered by category, area range and image; None where a category has neither objects nor detections.
    found = iter(evaluation.evalImgs)
    parts = []
    for _ in categories:
        by_area = [[(i, one) for i, one in enumerate([next(found) for _ in images]) if one is not None] for _ in AREAS]
        parts.append(_of_category(by_area))
    counts = [part["image"].size for part in parts]
    joined = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in _EMPTY} if parts else _EMPTY
    pairs = [part["object_image"].size for part in parts]
    return Matches(
        categories=categories,
        image_ids=np.array(images, dtype=np.int64),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        object_category=np.repeat(np.arange(len(parts)), pairs).astype(np.int32),
        **joined,
    )


_EMPTY: dict[str, np.ndarray] = {
    "image": np.zeros(0, np.int32),
    "hits": np.zeros((len(AREAS), 0), np.uint16),
    "ignored": np.zeros((len(AREAS), 0), np.uint16),
    "object_image": np.zeros(0, np.int32),
    "objects": np.zeros((len(AREAS), 0), np.int32),
}


def _of_category(by_area: list[list[tuple[int, dict[str, Any]]]]) -> dict[str, np.ndarray]:
    """Arrays of one category from its results (image index, result of COCOeval) in each area range."""
    if not by_area[0]:
        return _EMPTY
    # Every area range has the same images and the same detections, in the same order.
    index = np.array([i for i, _ in by_area[0]], dtype=np.int32)
    sizes = [len(one["dtScores"]) for _, one in by_area[0]]
    scores = np.concatenate([one["dtScores"] for _, one in by_area[0]])
    order = np.argsort(-scores, kind="stable")  # as COCOeval ranks them
    hits, ignored = [], []
    for results in by_area:
        matched = np.concatenate([one["dtMatches"] for _, one in results], axis=1)[:, order] > 0
        ignore = np.concatenate([one["dtIgnore"] for _, one in results], axis=1)[:, order].astype(bool)
        hits.append(_bits(matched & ~ignore))
        ignored.append(_bits(ignore))
    objects = np.array([[np.count_nonzero(one["gtIgnore"] == 0) for _, one in r] for r in by_area], dtype=np.int32)
    present = objects.any(axis=0)
    arrays: dict[str, np.ndarray] = {
        "image": np.repeat(index, sizes)[order],
        "hits": np.stack(hits),
        "ignored": np.stack(ignored),
        "object_image": index[present],
        "objects": objects[:, present],
    }
    return arrays


def _bits(flags: np.ndarray) -> np.ndarray:
    """(D,) uint16 with bit t from row t of (T, D) bools."""
    powers = (1 << np.arange(len(flags))).astype(np.uint16)
    return (flags * powers[:, None]).sum(axis=0, dtype=np.uint16)
