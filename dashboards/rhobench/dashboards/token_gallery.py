"""The gallery of the report page: validation images with kept tokens, detections and attention, at each rho."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd

from rhobench.dashboards.figures.comparable import RHO_FIELDS
from rhobench.results import Store
from rhobench.results.comparable import settings_besides
from rhobench.results.token_pictures import PictureError, read_pictures

MAX_POINTS = 10
"""Number of different rho in the gallery, which bounds the size of the page."""


def token_gallery(store: Store, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Images with what the models of one setting do with them, in order of increasing rho.

    The setting is the one with the most different rho at inference, and of those the one with the best AP; of several
    seeds the first is shown. Files that cannot be read are added to ``store.problems``.

    Args:
        store: the store.
        frame: its rows.

    Returns:
        One entry per image: image_id, jpeg, and points, each with its run_id beside the fields of ``PicturePoint``.
    """
    rows = _best_setting(frame[frame["ap"].notna()])
    images: dict[int, dict[str, Any]] = {}
    for run in rows.sort_values(["rho", "seed"])["run_id"].drop_duplicates():
        try:
            pictures = read_pictures(store.files, run)
        except PictureError as error:
            store.problems.append(str(error))
            continue
        for picture in pictures:
            entry = images.setdefault(
                picture.image_id, {"image_id": picture.image_id, "jpeg": picture.jpeg, "points": []}
            )
            shown = {point["rho"] for point in entry["points"]}
            own = [point for point in picture.points if point.rho not in shown]
            entry["points"] += [asdict(point) | {"run_id": run} for point in own]
    for entry in images.values():
        entry["points"].sort(key=lambda point: 2 if point["rho"] is None else point["rho"])
        entry["points"] = entry["points"][:MAX_POINTS]
    return list(images.values())


def _best_setting(rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return rows
    setting = settings_besides(rows, RHO_FIELDS)
    ranking = rows.groupby(setting).agg(rhos=("rho_infer", "nunique"), ap=("ap", "max"))
    return rows[setting == ranking.sort_values(["rhos", "ap"], kind="stable").index[-1]]
