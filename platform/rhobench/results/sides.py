"""What the arguments of a comparison name: runs, configurations or whole stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rhobench.config.metrics import accuracy_metrics
from rhobench.config.phrases import listed
from rhobench.results.comparison import Comparison, ComparisonError, Side, Trained, compare
from rhobench.results.evaluations import Evaluations
from rhobench.results.pareto import CONFIGURATION_COLUMNS, ENDED_EARLY, as_trained, configuration_labels
from rhobench.results.record import FILE_NAME
from rhobench.results.store import Store
from rhobench.statistics.difference import holm


def compare_arguments(first: str, second: str, name: str, store: str | None) -> tuple[list[Comparison], list[str]]:
    """Compare what two arguments name.

    Args:
        first: folder of a run, folder or URL of a store, or, with ``store``, a run id, a configuration or its label; a
            run or a configuration may be followed by "@RHO", the rho at inference.
        second: likewise.
        name: metric of the verdicts.
        store: store of arguments that are no path.

    Returns:
        One comparison, or one for each configuration that two stores share, with p-values corrected for their number;
        and messages on what could not be read or has no counterpart.

    Raises:
        ComparisonError: an argument names nothing, or nothing can be compared.
    """
    problems: list[str] = []
    sides = [_sides(argument, store, problems) for argument in (first, second)]
    if len(sides[0]) == 1 and len(sides[1]) == 1:
        pairs = [(next(iter(sides[0].values())), next(iter(sides[1].values())))]
    else:
        common = [key for key in sides[0] if key in sides[1]]
        problems += [
            f"{sides[own][key].name} of {argument} has no counterpart in {other}."
            for own, argument, other in ((0, first, second), (1, second, first))
            for key in sides[own]
            if key not in common
        ]
        pairs = [(sides[0][key], sides[1][key]) for key in common]
    if not pairs:
        raise ComparisonError(f"{first} and {second} have no configuration in common. Compare one run of each.")
    if len(pairs) > 1 or pairs[0][0].name == pairs[0][1].name:
        pairs = [(replace(a, name=f"{a.name} ({first})"), replace(b, name=f"{b.name} ({second})")) for a, b in pairs]
    compared = [compare(*pair, name) for pair in pairs]
    corrected = holm([one.p for one in compared])
    return [replace(one, p=p) for one, p in zip(compared, corrected, strict=True)], problems


def _sides(argument: str, store: str | None, problems: list[str]) -> dict[tuple[str, ...], Side]:
    """The configurations that an argument names, each with its trained models, by their settings."""
    name, rho = _split_rho(argument)
    opened, wanted = _open(name, store)
    frame = opened.frame()
    frame = frame[~frame["status"].isin(ENDED_EARLY) & frame["ap"].notna()].drop_duplicates(
        ["run_id", *CONFIGURATION_COLUMNS]
    )
    frame = frame.assign(label=configuration_labels(frame))
    if wanted is not None:
        # A run has later measurements at other precisions and sizes, which only their labels name.
        trained = frame[as_trained(frame)]
        trained = trained.assign(label=configuration_labels(trained))
        labels = list(dict.fromkeys([*trained["label"], *frame["label"]]))
        by_label = frame["label"] == wanted
        named = (trained[["run_id", "configuration", "label"]] == wanted).any(axis=1)
        frame = frame[by_label] if by_label.any() else trained[named]
        if frame.empty:
            raise ComparisonError(
                f"{opened.name} has no evaluated run, configuration or label {wanted!r}"
                + (f"; its labels are {listed(labels, most=8)}." if labels else ", nor any other.")
            )
        evaluated = frame["matches_file"].notna()
        frame = _at_one_rho(frame[evaluated] if evaluated.any() else frame, rho, argument)
    evaluations = Evaluations(opened, with_matches=True)
    sides = {}
    for key, group in frame.groupby(list(CONFIGURATION_COLUMNS), dropna=False, sort=False):
        models = [_trained(row, evaluations) for row in group.sort_values("seed").to_dict("records")]
        known = tuple(model for model in models if model is not None)
        if len(known) < len(models):
            problems.append(
                f"{len(models) - len(known)} of {len(models)} runs of {group['label'].iloc[0]} in {opened.name} have "
                "no matches: they were evaluated by an older version. Train them again to compare them."
            )
        if known:
            title = str(group["run_id" if wanted in set(group["run_id"]) else "label"].iloc[0])
            sides[tuple(map(str, key))] = Side(name=title, models=known)
    problems += opened.problems
    if not sides:
        raise ComparisonError(f"{argument} names no evaluation that can be compared. {' '.join(problems)}".strip())
    return sides


def _split_rho(argument: str) -> tuple[str, float | None]:
    """An argument without its "@RHO", and that rho."""
    name, _, end = argument.rpartition("@")
    try:
        return (name, float(end)) if name else (argument, None)
    except ValueError:  # an "@" in a path or a URL
        return argument, None


def _open(name: str, store: str | None) -> tuple[Store, str | None]:
    """The store that an argument names or lies in, and the part of it that is wanted; None: everything."""
    if "://" in name:
        return Store(name), None
    folder = Path(name)
    if (folder / FILE_NAME).is_file():
        folder = folder.resolve()
        return Store(folder.parent.parent), folder.name
    if folder.is_dir():
        return Store(folder), None
    if store is None:
        raise ComparisonError(
            f"There is no run or store at {name}. Give the folder of a run or a store; for a run id, a configuration "
            "or its label, also give --store."
        )
    return Store(store), name


def _at_one_rho(frame: pd.DataFrame, rho: float | None, argument: str) -> pd.DataFrame:
    """The rows at a rho at inference; None: that of the training, or the only one."""
    inferred = frame["rho_infer"]
    if rho is not None:
        chosen = frame[inferred == rho]
    elif frame.groupby(list(CONFIGURATION_COLUMNS), dropna=False).ngroups == 1:
        return frame
    else:
        chosen = frame[(inferred == frame["rho"]) | (inferred.isna() & frame["rho"].isna())]
    if chosen.groupby(list(CONFIGURATION_COLUMNS), dropna=False).ngroups != 1:
        known = ", ".join(f"{value:g}" for value in sorted(inferred.dropna().unique()))
        raise ComparisonError(f"{argument} does not name one configuration: add @RHO, one of {known}.")
    return chosen


def _trained(row: Mapping[Any, Any], evaluations: Evaluations) -> Trained | None:
    evaluation = evaluations.of(row)
    if evaluation is None or not evaluation.matches:
        return None
    accuracy = {m: float(row[m]) for m in accuracy_metrics() if pd.notna(row[m])}
    return Trained(run_id=str(row["run_id"]), seed=int(row["seed"]), accuracy=accuracy, evaluation=evaluation)
