"""What is kept of an evaluation for statistics: its matches, and each average precision on the resamples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rhobench.config.metrics import METRICS, IouType
from rhobench.statistics.interval import image_interval, widened
from rhobench.statistics.matches import Matches, MatchesError, pack, unpack
from rhobench.statistics.precision import average_precision, class_values, coco_stat, stat_area
from rhobench.statistics.resampling import REPLICATES, resamples

BLOCK = 100
"""Resamples that are computed at once, which bounds the memory in use."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation of one trained model on all images of a split."""

    dataset: str
    """``Matches.dataset`` of its boxes: only evaluations on equal data may be compared."""
    replicates: Mapping[str, np.ndarray]
    """Metric -> (R,) its value on each of ``resamples``, ``widened``; NaN where a resample has no objects.

    Metrics that are not an average precision are missing.
    """
    matches: Mapping[IouType, Matches]
    """Matches by kind of evaluation; empty if the file was read without them."""

    @classmethod
    def of(cls, matches: Mapping[IouType, Matches]) -> Evaluation:
        """Resample the images of an evaluation."""
        replicates = {name: values for kind, each in matches.items() for name, values in _replicates(each, kind)}
        return cls(dataset=matches["bbox"].dataset, replicates=replicates, matches=matches)

    def bounds(self, accuracy: Mapping[str, float | None]) -> dict[str, float | None]:
        """Ends of the interval over images of each metric, by the columns that ``Metric.interval`` names.

        Args:
            accuracy: value of each metric on all images.
        """
        found: dict[str, float | None] = {}
        for name, replicates in self.replicates.items():
            value, columns = accuracy.get(name), METRICS[name].interval
            if columns is not None:
                found |= dict.fromkeys(columns)
                if value is not None and not np.isnan(replicates).all():
                    interval = image_interval(value, replicates)
                    found |= {columns[0]: interval.low, columns[1]: interval.high}
        return found

    def to_bytes(self) -> bytes:
        """The content of its file."""
        return pack(
            {
                "replicates": {name: values.astype(np.float32) for name, values in self.replicates.items()},
                "data": {"dataset": np.array(self.dataset)},
                **{kind: each.arrays() for kind, each in self.matches.items()},
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes, *, with_matches: bool = False) -> Evaluation:
        """The inverse of ``to_bytes``; without the matches it is much faster.

        Raises:
            MatchesError: the content is damaged, or not such a file.
        """
        kinds: tuple[IouType, ...] = ("bbox", "segm") if with_matches else ()
        groups = unpack(content, ("replicates", "data", *kinds))
        replicates = {name: values.astype(float) for name, values in groups["replicates"].items() if name in METRICS}
        if any(values.shape != (REPLICATES,) for values in replicates.values()) or "dataset" not in groups["data"]:
            raise MatchesError(f"it does not have {REPLICATES} replicates")
        return cls(
            dataset=str(groups["data"]["dataset"]),
            replicates=replicates,
            matches={kind: Matches.from_arrays(groups[kind]) for kind in kinds if groups[kind]},
        )


def class_replicates(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """AP of each of K categories on all images, (K,), and ``widened`` on each of ``resamples``, (R, K).

    NaN where there are no objects.
    """
    alone = class_values(average_precision(matches), 0)
    blocks = [class_values(precisions, 0) for precisions in _resampled(matches)]
    assert alone is not None
    replicates = np.concatenate([block for block in blocks if block is not None])
    return alone[0], widened(replicates, matches.images_with_objects()[1])


def _replicates(matches: Matches, kind: IouType) -> list[tuple[str, np.ndarray]]:
    """Name and values on the resamples of each metric of one kind of evaluation."""
    indices = {m.name: m.coco.index for m in METRICS.values() if m.coco and m.coco.iou_type == kind}
    blocks: dict[str, list[np.ndarray]] = {}
    for precisions in _resampled(matches):
        for name, index in indices.items():
            values = coco_stat(precisions, index)
            if values is not None:
                blocks.setdefault(name, []).append(values)
    images = {name: matches.images_with_objects(stat_area(indices[name]))[0] for name in blocks}
    return [(name, widened(np.concatenate(values), images[name])) for name, values in blocks.items()]


def _resampled(matches: Matches) -> Iterator[np.ndarray]:
    """Average precisions on the resamples, in blocks."""
    weights = resamples(matches.num_images)
    for start in range(0, len(weights), BLOCK):
        yield average_precision(matches, weights[start : start + BLOCK])
