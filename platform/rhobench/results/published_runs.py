"""Our own values of published tables, from the runs of a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config import CHANGEABLE
from rhobench.config.metrics import metric
from rhobench.config.model_zoo import find_model
from rhobench.config.paths import leaves
from rhobench.config.published import CORR, FREE_FIELDS, Contrast, Ours, PublishedTable, SpeedRatio, Trained
from rhobench.results.comparable import scored, settings_besides
from rhobench.results.evaluations import Evaluations
from rhobench.results.files import StoreNotFoundError
from rhobench.results.pareto import timing_statuses
from rhobench.results.reproduction import Found
from rhobench.results.store import Store
from rhobench.statistics.difference import MIN_SEEDS, Difference, difference
from rhobench.statistics.interval import seed_interval

CORR_ENTRY = "corr_mask_attn_map_dec_all"
"""Entry of the history of a run with the share of the decoder's attention that falls on the selected tokens."""

VAL2017, VAL2017_IMAGES = "val2017", 5000
"""Split of the published AP, and its number of images."""

_COMPARED_APART = frozenset({"name", "backbone.name", "rho"})
"""Fields of ``ModelConfig`` that are compared by other columns."""

_SAME_POINT = ("rho_infer", "precision", "height", "width", "compiled")
"""Columns of a point on which both sides of a contrast must agree."""


class PublishedRuns:
    """Finds the runs of a store that a published row can be compared with."""

    def __init__(self, store: Store, frame: pd.DataFrame | None = None) -> None:
        """
        Args:
            store: where the runs are read.
            frame: its ``frame()``, if it has been read before.
        """
        self.store = store
        self._frame = store.frame() if frame is None else frame
        self._evaluations = Evaluations(store)

    def find(self, ours: Ours) -> Found | None:
        """Our value of a row that comes from runs; None: the store has no such run, or the row needs none."""
        if self._frame.empty:
            return None
        if isinstance(ours, Trained):
            return self._trained(ours)
        if isinstance(ours, SpeedRatio):
            return self._speed(ours)
        return self._contrast(ours) if isinstance(ours, Contrast) else None

    def _trained(self, row: Trained) -> Found | None:
        rows = self._of_family(row.model)
        same = (rows["train.epochs"] == row.epochs) & _equals(rows["rho"], row.rho)
        same &= _equals(rows["rho_infer"], row.rho)
        if not same.any():  # before all settings of the model are compared, which takes far longer
            return None
        rows = rows[same]
        rows = rows[_is_model(rows, row.model, row.settings) & _has_pretraining(rows, row.pretraining)]
        rows = scored(rows, row.metric).drop_duplicates("run_id")
        if rows.empty:
            return None
        comparable = rows["dataset"].map(lambda name: str(name).endswith(VAL2017)).astype(bool)
        rows = rows[comparable] if comparable.any() else rows
        rows = rows[rows["dataset"] == rows["dataset"].iloc[0]]
        values, replicates = self._values(rows, row.metric)
        bounds: tuple[float | None, float | None] = (None, None)
        if replicates is not None or len(values) > 1:
            noiseless = np.repeat(values[:, None], 2, axis=1)
            interval = seed_interval(values, noiseless if replicates is None else replicates)
            bounds = (100 * interval.low, 100 * interval.high)
        return Found(
            value=100 * float(values.mean()),
            evidence="runs",
            low=bounds[0],
            high=bounds[1],
            runs=tuple(rows["run_id"]),
            not_comparable=None if comparable.any() and self._is_whole(rows) else "data",
            detail=f"{rows['dataset'].iloc[0]}, {_seeds(len(values))}",
        )

    def _of_family(self, name: str) -> pd.DataFrame:
        """The rows of the architecture and the backbone of a named model."""
        config = find_model(name)
        return self._families.get((config.name, config.backbone.name), self._frame.iloc[:0])

    @cached_property
    def _families(self) -> dict[Any, pd.DataFrame]:
        """The rows of each architecture and backbone, without the tag of its weights."""
        backbone = self._frame["backbone"].map(lambda name: str(name).partition(".")[0])
        return dict(iter(self._frame.groupby([self._frame["model"], backbone])))

    def _is_whole(self, rows: pd.DataFrame) -> bool:
        """Whether no evaluation is known to have other than all images of the split."""
        evaluations = Evaluations(self.store, with_matches=True)
        found = [evaluations.of(row) for row in rows.to_dict("records")]
        known = [each.matches["bbox"].num_images for each in found if each is not None and each.matches]
        return all(count == VAL2017_IMAGES for count in known)

    def _speed(self, row: SpeedRatio) -> Found | None:
        own, base = (self._of_family(name) for name in (row.model, row.baseline))
        if own.empty or base.empty:
            return None
        own, base = _timed(own), _timed(base)
        own = own[_is_model(own, row.model, {}) & _equals(own["rho_infer"], row.rho)]
        base = base[_is_model(base, row.baseline, {})]
        first, second = _by_setting(base), _by_setting(own)
        # The protocol of the paper if it was measured, with its batch size of 4.
        shared = sorted(set(first) & set(second), key=lambda key: (not key[1].startswith("paper"), key[3] != "4", key))
        if not shared:
            return None
        below, above = first[shared[0]], second[shared[0]]
        bounds = {"low": ("fps_low", "fps_high"), "high": ("fps_high", "fps_low")}
        ends = {name: _ratio(above[a], below[b]) for name, (a, b) in bounds.items()}
        on_gpu = bool(above["device_ms"].notna().any()) if "device_ms" in above else False
        value = _ratio(above["fps"], below["fps"])
        assert value is not None
        return Found(
            value=value,
            evidence="runs",
            low=ends["low"],
            high=ends["high"],
            runs=tuple(dict.fromkeys((*above["run_id"], *below["run_id"]))),
            not_comparable=None if on_gpu else "device",
            detail=f"{shared[0][0]}, {shared[0][1]}, batch {shared[0][3]}",
        )

    def _contrast(self, row: Contrast) -> Found | None:
        masks = [_all_equal(self._frame, {**row.where, **side}) for side in (row.first, row.second)]
        if not all(mask.any() for mask in masks):  # before all records are read for their history
            return None
        frame = self._with_corr if row.metric == CORR else self._frame
        sides = [scored(frame[mask[frame.index]], row.metric) for mask in masks]
        if any(side.empty for side in sides):
            return None
        chosen = self._widest(sides, row)
        if chosen is None:
            return None
        found = [self._values(side, row.metric) for side in chosen]
        # One training at two rho: what the seed did to it is the same on both sides.
        same = chosen[0]["run_id"].tolist() == chosen[1]["run_id"].tolist()
        d = _difference([values for values, _ in found], [replicates for _, replicates in found], same_models=same)
        counts = [len(values) for values, _ in found]
        value = 100 * float(found[1][0].mean() - found[0][0].mean())
        # Noise in both places would be printed as -0.0.
        return Found(
            value=value + 0.0,
            evidence="runs",
            low=None if d is None else 100 * d.low,
            high=None if d is None else 100 * d.high,
            runs=tuple(dict.fromkeys(run for side in reversed(chosen) for run in side["run_id"])),
            detail=f"{chosen[0]['dataset'].iloc[0]}, {counts[1]} and {counts[0]} seeds",
        )

    def _widest(self, sides: list[pd.DataFrame], row: Contrast) -> list[pd.DataFrame] | None:
        """The rows of both sides that agree in everything else, of the settings with most seeds on both."""
        compared = {*row.first, *row.second}
        free = frozenset({*compared, *(f"model.{name}" for name in compared), *row.free, *CHANGEABLE})
        if "model" in compared:  # the switches of a family differ with it
            free |= {"model.name", "model.two_stage", "model.with_box_refine", "model.rho"}
        both = pd.concat(sides, keys=[0, 1], names=["side"])
        points = [name for name in _SAME_POINT if name not in compared and name in both]
        group = both.assign(settings=settings_besides(both, free)).groupby(["settings", *points], dropna=False)
        number = group.ngroup()
        runs = both.groupby([number, pd.Series(both.index.get_level_values("side"), index=both.index)])["run_id"]
        seeds = runs.nunique().unstack(fill_value=0)
        seeds = seeds[(seeds > 0).all(axis=1)] if len(seeds.columns) == 2 else seeds.iloc[:0]
        if seeds.empty:
            return None
        best = seeds.min(axis=1).idxmax()
        chosen, side_of = both[number == best], both.index.get_level_values("side")[number == best]
        return [chosen[side_of == side].drop_duplicates("run_id").sort_values("seed") for side in (0, 1)]

    @cached_property
    def _with_corr(self) -> pd.DataFrame:
        """The rows at the rho of the training, with the column ``CORR``."""
        last = {
            record.run_id: record.history[-1].get(CORR_ENTRY)
            for record in self.store.records()
            if record.history and isinstance(record.history[-1].get(CORR_ENTRY), float | int)
        }
        frame = self._frame[self._frame["rho"] == self._frame["rho_infer"]]
        return frame.assign(**{CORR: frame["run_id"].map(last).astype(float)})

    def _values(self, rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Value of each run, and its replicates over images; None: a run has none."""
        values = rows[column].to_numpy(float)
        known = [each for each in self._evaluations.replicates(rows, column) if each is not None]
        return values, np.stack(known) if known and len(known) == len(values) else None


def _difference(
    values: list[np.ndarray], replicates: list[np.ndarray | None], *, same_models: bool
) -> Difference | None:
    """Difference of two sides; None: there are too few seeds, and no evaluation by images is kept."""
    first, second = replicates
    if first is not None and second is not None:
        return difference(values, [first, second], same_models=same_models)
    if min(map(len, values)) < MIN_SEEDS:
        return None
    noiseless = [np.repeat(each[:, None], 2, axis=1) for each in values]
    return difference(values, noiseless, same_models=same_models)


def _is_model(rows: pd.DataFrame, name: str, settings: Mapping[str, Any]) -> pd.Series:
    """Whether each row of a family is of the named model, with ``settings`` changed."""
    same = pd.Series(True, index=rows.index)
    for path, value in leaves(find_model(name)):
        column = f"model.{path}"
        if path not in FREE_FIELDS | _COMPARED_APART and column in rows and not isinstance(value, tuple):
            same &= _equals(rows[column], settings.get(path, value))
    return same


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose time may be compared."""
    return scored(rows[timing_statuses(rows) == "ok"], "fps")


def _has_pretraining(rows: pd.DataFrame, part: str | None) -> pd.Series:
    """Whether the file of the initial weights of each row has ``part`` in its name; None: it is not self-supervised."""
    wanted = part or "scrl"
    named = rows["model.backbone.weights"].map(lambda file: wanted in str(file).lower()).astype(bool)
    return named if part is not None else ~named


def _all_equal(rows: pd.DataFrame, values: Mapping[str, Any]) -> pd.Series:
    same = pd.Series(True, index=rows.index)
    for name, value in values.items():
        same &= _equals(rows[name], value)
    return same


def _equals(column: pd.Series, value: Any) -> pd.Series:
    return column.isna() if value is None else column == value


def _by_setting(rows: pd.DataFrame) -> dict[tuple[str, ...], pd.DataFrame]:
    """Rows by what two times must share to be compared: device, protocol, threads, batch size, precision, ..."""
    keys = [*metric("fps").must_agree, "precision", "compiled", "backend"]
    # As texts, because a missing value does not equal itself.
    texts = [tuple(map(str, values)) for values in rows[keys].astype(object).to_numpy()]
    numbers = {key: [i for i, text in enumerate(texts) if text == key] for key in dict.fromkeys(texts)}
    return {key: rows.iloc[positions] for key, positions in numbers.items()}


def _ratio(above: pd.Series, below: pd.Series) -> float | None:
    value = float(above.astype(float).mean() / below.astype(float).mean())
    return None if np.isnan(value) else value


def _nothing(_: Ours) -> Found | None:
    return None


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def missing_experiments(table: PublishedTable, store: Store) -> list[str]:
    """Experiments of the rows of a table for which a store has no run, in the order of the rows.

    Args:
        table: the published table.
        store: the store; it need not exist.
    """
    find: Callable[[Ours], Found | None] = _nothing
    with suppress(StoreNotFoundError):
        find = PublishedRuns(store).find
    rows = [row for section in table.sections if not section.only_with_runs for row in section.rows]
    missing = (row for row in rows if row.experiment is not None and row.ours is not None and not find(row.ours))
    return list(dict.fromkeys(row.experiment for row in missing if row.experiment is not None))
