"""Records of earlier schema numbers, converted to the current one while they are read."""

from __future__ import annotations

from typing import Any

_SCHEMA_1_METRICS = ("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "segm_ap", "segm_ap50", "segm_ap75")
"""Accuracy metrics that were fields of a point in schema 1. Fixed, whatever metrics exist today."""


def upgrade(data: dict[str, Any], schema: int) -> dict[str, Any]:
    """The content of a record file as ``schema`` describes it.

    Schema 1 had each accuracy metric as a field of a point; schema 2 has them in the mapping ``accuracy``. Schema 3
    adds intervals of the accuracy, which older records do not have.

    Raises:
        TypeError: the points are not a list, or one has fields of both schemas.
    """
    if data["schema"] < 2:
        data = data | {"points": [_with_accuracy(point) for point in data.get("points", [])]}
    return data | {"schema": schema}


def _with_accuracy(point: Any) -> Any:
    if not isinstance(point, dict):  # the caller reports it
        return point
    accuracy = {name: point[name] for name in _SCHEMA_1_METRICS if point.get(name) is not None}
    others = {name: value for name, value in point.items() if name not in _SCHEMA_1_METRICS}
    # Unlike {**others, ...}, this raises a TypeError if the point already has "accuracy".
    return dict(**others, accuracy=accuracy)
