"""The evaluations of runs in a store, from the files that their points name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rhobench.config.metrics import IouType
from rhobench.results.atomic_write import write_atomically
from rhobench.results.files import StoreAccessError
from rhobench.results.store import Store
from rhobench.results.text import clause, is_file_name
from rhobench.statistics.evaluation import Evaluation
from rhobench.statistics.matches import Matches, MatchesError


def write_evaluation(
    folder: Path,
    rho: float | None,
    accuracy: Mapping[str, float | None],
    by_class: Mapping[str, float | None],
    matches: Mapping[IouType, Matches],
    *,
    suffix: str = "",
) -> dict[str, Any]:
    """Write the matches of an evaluation into the folder of its run; return the fields of its point.

    Args:
        folder: folder of the run.
        rho: share of the tokens that was updated; None: a dense encoder.
        accuracy: value of each metric on all images.
        by_class: box AP of each class.
        matches: matches by kind of evaluation.
        suffix: what distinguishes the file from another evaluation at this rho in the folder.
    """
    evaluation, point = Evaluation.of(matches), "dense" if rho is None else f"rho{rho:g}"
    file = f"matches-{point}{suffix}.npz"
    write_atomically(folder / file, evaluation.to_bytes())
    return {
        "accuracy": dict(accuracy),
        "accuracy_bounds": evaluation.bounds(accuracy),
        "ap_by_class": dict(by_class),
        "matches_file": file,
    }


class Evaluations:
    """Reads each evaluation of a store once."""

    def __init__(self, store: Store, *, with_matches: bool = False) -> None:
        """
        Args:
            store: a file of it that cannot be used is reported in its ``problems``.
            with_matches: whether the matches are needed, beside the replicates.
        """
        self.store, self.with_matches = store, with_matches
        self._read: dict[str, Evaluation | None] = {}

    def of(self, row: Mapping[Any, Any]) -> Evaluation | None:
        """Evaluation of a row of ``Store.frame()``; None: the point has none, or it cannot be read."""
        name = row.get("matches_file")
        if not isinstance(name, str) or pd.isna(name) or not is_file_name(name):
            return None
        path = f"runs/{row['run_id']}/{name}"
        if path not in self._read:
            self._read[path] = self._load(path)
        return self._read[path]

    def replicates(self, rows: pd.DataFrame, name: str) -> list[np.ndarray | None]:
        """A metric of each row of ``Store.frame()`` on the resamples, (R,); None: the row has no such evaluation."""
        found = map(self.of, rows.to_dict("records"))
        return [None if each is None else each.replicates.get(name) for each in found]

    def _load(self, path: str) -> Evaluation | None:
        source = self.store.files.display_path(path)
        try:
            return Evaluation.from_bytes(self.store.files.read(path), with_matches=self.with_matches)
        except MatchesError as error:
            self.store.problems.append(f"{source} cannot be used: {clause(error)}. Evaluate the run again.")
        except (OSError, StoreAccessError) as error:
            reason = getattr(error, "strerror", None) or clause(error)
            self.store.problems.append(f"{source} cannot be read: {reason}.")
        return None
