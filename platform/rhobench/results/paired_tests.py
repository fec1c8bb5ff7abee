"""Paired tests between the trained models of a store, for a page that compares any two of them."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rhobench.results.comparable import scored
from rhobench.results.evaluations import Evaluations
from rhobench.results.pareto import CONFIGURATION_COLUMNS, timing_statuses
from rhobench.results.store import Store
from rhobench.statistics.difference import Difference, difference
from rhobench.statistics.evaluation import Evaluation

MAX_TESTED = 40
"""Points, and configurations, that are tested against each other: 780 pairs; `rhobench compare` tests any others."""

METRIC = "ap"
"""Metric of the tests."""


def paired_tests(store: Store, frame: pd.DataFrame) -> dict[str, Any]:
    """Difference in AP of every two points on the same resamples of the validation images.

    Each is a statement about two trained models and other images, not about other seeds. Of more than ``MAX_TESTED``
    points that have a stored evaluation, those of different configurations and of high AP come first.

    Args:
        store: where the evaluations are read; a file of it that cannot be used is reported in its ``problems``.
        frame: rows of ``Store.frame()``, numbered from 0.

    Returns:
        ``metric``: name of the metric; ``points``: number of the row of each tested point; ``tests``: [i, j, value,
        low, high, p] of each pair of them that was evaluated on equal data, the AP of j minus that of i with its
        interval of 95 %; ``untested``: number of points that the limit leaves out; ``configurations``: what
        ``configuration_tests`` returns.
    """
    evaluations = Evaluations(store)
    rows = _first_of_each_configuration(frame)
    best = rows.head(MAX_TESTED)
    tested = [
        (number, row[METRIC], e)
        for number, row in zip(best.index.tolist(), best.to_dict("records"), strict=True)
        if (e := evaluations.of(row)) and METRIC in e.replicates
    ]
    tests = []
    for (i, (_, first, one)), (j, (_, second, two)) in itertools.combinations(enumerate(tested), 2):
        if one.dataset == two.dataset:
            values = [np.array([ap], float) for ap in (first, second)]
            d = difference(values, [e.replicates[METRIC][None] for e in (one, two)])
            if np.isfinite([d.value, d.low, d.high, d.p]).all():
                tests.append([i, j, d.value, d.low, d.high, d.p])
    return {
        "metric": METRIC,
        "points": [number for number, _, _ in tested],
        "tests": tests,
        "untested": max(len(rows) - MAX_TESTED, 0),
        "configurations": configuration_tests(evaluations, frame),
    }


def configuration_tests(evaluations: Evaluations, frame: pd.DataFrame) -> dict[str, Any]:
    """Whether configurations differ in AP over their seeds, by the test of ``with_uncertainty``.

    A front of operations has all seeds, one of latencies only those whose time may be compared; both are tested.

    Args:
        evaluations: those of the store.
        frame: rows of ``Store.frame()``, numbered from 0.

    Returns:
        ``sides``: numbers of the rows of each configuration whose seeds all have an evaluation, one for each seed;
        those of the highest AP if there are more than ``MAX_TESTED``; ``tests``: [i, j, p] of each pair of them that
        was evaluated on equal data.
    """
    if "matches_file" not in frame:
        return {"sides": [], "tests": []}
    timed = scored(frame, METRIC, "latency_ms")  # models in ONNX have no operations
    numbers: dict[tuple[int, ...], int] = {}
    tests: dict[tuple[int, int], float] = {}
    for rows in (scored(frame, METRIC, "gflops"), timed[timing_statuses(timed) == "ok"]):
        sides = _sides(evaluations, rows)
        places = [numbers.setdefault(side.rows, len(numbers)) for side in sides]
        for (i, one), (j, two) in itertools.combinations(zip(places, sides, strict=True), 2):
            if (i, j) not in tests and one.evaluations[0].dataset == two.evaluations[0].dataset:
                tests[i, j] = _p_of_difference(one, two)
    return {
        "sides": [list(side) for side in numbers],
        "tests": [[*pair, p] for pair, p in tests.items()],
    }


class _Side(NamedTuple):
    """The seeds of a configuration, or those of them that a front has."""

    rows: tuple[int, ...]
    """Number of the row of each, in the order of their runs."""
    runs: tuple[str, ...]
    """Their ids."""
    values: np.ndarray
    """(n,) AP of each."""
    evaluations: list[Evaluation]
    """Their evaluations."""


def _sides(evaluations: Evaluations, rows: pd.DataFrame) -> list[_Side]:
    """The configurations that have an evaluation for each seed, by falling AP, ``MAX_TESTED`` at most."""
    rows = rows.drop_duplicates(["run_id", *CONFIGURATION_COLUMNS])
    by_configuration = rows.groupby(list(CONFIGURATION_COLUMNS), dropna=False)
    rows = rows.assign(mean=by_configuration[METRIC].transform("mean"), group=by_configuration.ngroup())
    best = rows.drop_duplicates("group").nlargest(MAX_TESTED, "mean", keep="first")["group"].tolist()
    needed = rows[["group", "run_id", "matches_file", METRIC]]  # a row of a store has a hundred columns
    sides = []
    for group in best:
        seeds = needed[needed["group"] == group].sort_values("run_id")
        found = [e for row in seeds.to_dict("records") if (e := evaluations.of(row)) and METRIC in e.replicates]
        if len(found) == len(seeds) and len({e.dataset for e in found}) == 1:
            sides.append(_Side(tuple(seeds.index), tuple(seeds["run_id"]), seeds[METRIC].to_numpy(float), found))
    return sides


def _p_of_difference(one: _Side, two: _Side) -> float:
    replicates = [np.stack([e.replicates[METRIC] for e in side.evaluations]) for side in (one, two)]
    return difference([one.values, two.values], replicates, same_models=one.runs == two.runs).p


def paired_difference(store: Store, first: pd.DataFrame, second: pd.DataFrame) -> Difference | None:
    """Difference in AP of two configurations over their seeds, on the same resamples of the validation images.

    Args:
        store: where the evaluations are read; a file of it that cannot be used is reported in its ``problems``.
        first: rows of ``Store.frame()`` of the configuration that is compared with, one for each seed.
        second: rows of the other one.

    Returns:
        The AP of the second minus that of the first; None: a row has no evaluation, or they are on different data.
    """
    evaluations = Evaluations(store)
    first, second = (rows.sort_values("run_id") for rows in (first, second))
    sides = [[(row[METRIC], evaluations.of(row)) for row in rows.to_dict("records")] for rows in (first, second)]
    known = [e for side in sides for _, e in side if e is not None and METRIC in e.replicates]
    if len(known) < sum(map(len, sides)) or not all(sides) or len({e.dataset for e in known}) > 1:
        return None
    values = [np.array([value for value, _ in side], float) for side in sides]
    replicates = [np.stack([e.replicates[METRIC] for _, e in side if e is not None]) for side in sides]
    return difference(values, replicates, same_models=first["run_id"].tolist() == second["run_id"].tolist())


def _first_of_each_configuration(frame: pd.DataFrame) -> pd.DataFrame:
    """Points with an evaluation, by AP: the best seed of every configuration, then the second best ones, and so on."""
    if "matches_file" not in frame:
        return frame.iloc[:0]
    known = scored(frame, METRIC, "matches_file")
    known = known.drop_duplicates(["run_id", *CONFIGURATION_COLUMNS])
    known = known.sort_values(METRIC, ascending=False, kind="stable")
    place = known.groupby(list(CONFIGURATION_COLUMNS), dropna=False).cumcount()
    return known.assign(place=place).sort_values("place", kind="stable")
