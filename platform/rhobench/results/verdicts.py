"""Verdicts on what an experiment expects of its results, as a store keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rhobench.config.metrics import metric

Outcome = Literal["met", "not met", "undecided", "not checked"]
"""Of the bound. Only that on a difference can be "undecided": its interval lies on both sides of the bound."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One expectation of an experiment, compared with the runs it applies to."""

    experiment: str
    """Name of the experiment."""
    metric: str
    """Column of ``Store.frame()`` that is compared."""
    at_least: float | None = None
    """Lower bound."""
    at_most: float | None = None
    """Upper bound."""
    where: dict[str, Any]
    """Values by column of ``Store.frame()`` that select the runs."""
    minus: dict[str, Any] | None = None
    """Values that select the runs that are subtracted; None: the bound is on every run."""
    source: str = ""
    """Where the bound comes from."""
    outcome: Outcome
    """Whether every compared run, or the whole interval of the difference, is within the bound."""
    reason: str | None = None
    """Why nothing was compared; None unless "not checked"."""
    runs: int = 0
    """Runs that were compared."""
    difference: dict[str, Any] | None = None
    """With ``minus``: the ``Difference`` and "seeds", the number of seeds on each side."""
    worst: float | None = None
    """Value that is farthest on the wrong side of the bound, or closest to it."""
    worst_run: str | None = None
    """Id of the run with that value."""
    checked_at: str
    """Time of the comparison: UTC, ISO 8601."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of all fields."""
        return asdict(self)

    @property
    def statement(self) -> str:
        """The expectation, such as "AP at least 48.0 in every run with rho 0.3 (Table 1)"."""
        shown = metric(self.metric)
        bound = f"at least {shown.format(self.at_least)}" if self.at_least is not None else ""
        if self.at_most is not None:
            bound = f"at most {shown.format(self.at_most)}"
        source = f" ({self.source})" if self.source else ""
        if self.minus is not None:
            sides = f"{describe_runs(self.where)} minus that of {describe_runs(self.minus)}"
            return f"{shown.label} of {sides} {bound}{source}"
        runs = "every run" + "".join(f" with {column} {value}" for column, value in self.where.items())
        return f"{shown.label} {bound} in {runs}{source}"

    @property
    def finding(self) -> str:
        """What the comparison found, such as "met, worst 54.6"."""
        if self.outcome == "not checked":
            return f"not checked: {self.reason}"
        if self.difference is not None:
            # Here, because reading a verdict needs no statistics, whose import takes a second.
            from rhobench.results.comparison import describe_difference
            from rhobench.statistics.difference import Difference

            seeds = self.difference["seeds"]
            measured = Difference(**{name: value for name, value in self.difference.items() if name != "seeds"})
            return f"{self.outcome}, {describe_difference(measured, self.metric)}, {seeds[0]} and {seeds[1]} seeds"
        return f"{self.outcome}, worst {metric(self.metric).format(self.worst)}"

    def sentence(self) -> str:
        """The expectation and what was found."""
        run = f" ({self.worst_run})" if self.worst_run else ""
        return f"{self.statement}: {self.finding}{run}"


def describe_runs(where: Mapping[str, Any]) -> str:
    """The selected runs in words: "runs with rho 0.1, model.scoring dam"."""
    return "runs" + (" with " if where else "") + ", ".join(f"{column} {value}" for column, value in where.items())
