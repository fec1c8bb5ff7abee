"""The points of a record: which of the requested ones it has, and how new ones join them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rhobench.config.points import PointSettings
from rhobench.results.point import Point
from rhobench.results.record import Record


def missing_points(record: Record, wanted: Iterable[PointSettings], protocol: str) -> list[PointSettings]:
    """Return the points that a record lacks.

    A record without any point is left as it is: its run was not measured by this program.

    Args:
        record: of a trained run.
        wanted: requested points.
        protocol: id of the protocol of their latency.
    """
    if not record.points:
        return []
    return [each for each in wanted if not any(_fits(p, each, protocol, record.points) for p in record.points)]


def is_run_like(point: Point, wanted: PointSettings, own: Sequence[Point]) -> bool:
    """Whether a point has the rho, the precision and the input size of ``wanted``, so that its AP is the same.

    Args:
        point: a point of a record.
        wanted: requested point; its precision may be "auto".
        own: all points of the record, of which the first was scored by the training, at its own input size.
    """
    size = wanted.resolution or (own[0].height, own[0].width)
    return (
        point.rho == wanted.rho
        and (point.height, point.width) == size
        and wanted.precision in (point.precision, "auto")
    )


def _fits(point: Point, wanted: PointSettings, protocol: str, own: Sequence[Point]) -> bool:
    return (
        is_run_like(point, wanted, own)
        and point.latency_ms is not None
        and point.protocol == protocol
        and point.batch_size == wanted.batch_size
        and bool(point.compiled) == wanted.compiled
    )


def merged_points(old: Sequence[Point], new: Sequence[Point]) -> list[Point]:
    """Join measured points to those of a record.

    A new point takes the place of one that was measured in the same way, by the same protocol in this or an older
    version, and of one that was scored but not timed. All others stay as they are.
    """
    merged = list(old)
    for point in new:
        places = [i for i, other in enumerate(merged) if _is_superseded(other, point)]
        if places:
            merged[places[0]] = point
        else:
            merged.append(point)
    return merged


def _is_superseded(old: Point, new: Point) -> bool:
    same = ("rho", "precision", "height", "width")
    if any(getattr(old, name) != getattr(new, name) for name in same):
        return False
    if old.protocol is None:
        return True
    timing = ("device", "backend", "threads", "batch_size")
    return (
        all(getattr(old, name) == getattr(new, name) for name in timing)
        and bool(old.compiled) == bool(new.compiled)
        and _family(old.protocol) == _family(new.protocol or "")
    )


def _family(protocol: str) -> str:
    """Id of a protocol without its version."""
    return re.sub(r"/\d+", "", protocol, count=1)
