"""What kill_matrix.py reports of each sweep that was hit, and of each kind of victim."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from steps import RUNS


@dataclass(kw_only=True)
class Case:
    """One sweep that was hit."""

    victim: str
    phase: str
    moment: str = ""
    """Where in the sweep, in words."""
    at_s: float | None = None
    """Seconds after the start of the command."""
    first_driver: str = ""
    """What the command did that was hit."""
    finished: int = 0
    """Runs with a result at the kill."""
    in_mid_run: int = 0
    """Tries that the kill ended."""
    commands: int = 0
    """How often the command was given."""
    retries: int = 0
    """Failed attempts that the records remember."""
    seconds: float = 0.0
    """From the first command to the end of the last."""
    lost_s: float = 0.0
    """More than the undisturbed sweep took."""
    load_average: float = 0.0
    """Over the last minute, where others use the machine."""
    problems: list[str] = field(default_factory=list)


def line(case: Case) -> str:
    """All of a case but its problems."""
    at = "" if case.at_s is None else f" at {case.at_s:.0f} s"
    return (
        f"{case.victim:<8} {case.phase:<23} {case.moment}{at}; {case.finished}/{RUNS} done, "
        f"{case.in_mid_run} in mid-run; {case.first_driver}; {case.commands} commands, {case.retries} retries, "
        f"{case.lost_s:+.0f} s"
    )


def summary(cases: list[dict[str, Any]]) -> list[str]:
    """A line for each kind of victim."""
    lines = [
        "| victim | kills | finished | seconds lost: median, most | equal, nothing left |",
        "|---|---|---|---|---|",
    ]
    for victim in dict.fromkeys(case["victim"] for case in cases):
        mine = [case for case in cases if case["victim"] == victim]
        lost = [case["lost_s"] for case in mine]
        good = sum(not case["problems"] for case in mine)
        done = sum(not any("last command" in problem for problem in case["problems"]) for case in mine)
        seconds = f"{statistics.median(lost):.0f}, {max(lost):.0f}"
        lines.append(f"| {victim} | {len(mine)} | {done} | {seconds} | {good} of {len(mine)} |")
    return lines
