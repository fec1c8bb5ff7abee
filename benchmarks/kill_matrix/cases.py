"""Results of the kill matrix: one case per disturbed sweep, and a summary by victim."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Case:
    """One sweep that was disturbed by a kill."""

    victim: str
    phase: str
    moment: str = ""
    """Description of the moment of the kill."""
    at_s: float | None = None
    """Seconds between the start of the command and the kill; None if nothing was killed."""
    first_driver: str = ""
    """Outcome of the disturbed command."""
    finished: int = 0
    """Number of runs with a result at the kill."""
    in_mid_run: int = 0
    """Number of unfinished attempts that the kill ended."""
    commands: int = 0
    """Number of times that the command was run."""
    retries: int = 0
    """Number of failed attempts in the records."""
    seconds: float = 0.0
    """Seconds from the start of the first command to the end of the last."""
    lost_s: float = 0.0
    """Seconds in addition to the duration of the undisturbed sweep."""
    load_average: float = 0.0
    """Load average of the machine over the last minute."""
    problems: list[str] = field(default_factory=list)
    """Violations of the checks."""


def line(case: Case) -> str:
    """One line with everything about a case except its problems."""
    at = "" if case.at_s is None else f" at {case.at_s:.0f} s"
    return (
        f"{case.victim:<8} {case.phase:<23} {case.moment}{at}; {case.finished} done, "
        f"{case.in_mid_run} in progress; {case.first_driver}; {case.commands} commands, {case.retries} retries, "
        f"{case.lost_s:+.0f} s"
    )


def summary(cases: list[dict[str, Any]]) -> list[str]:
    """Markdown table with one row per victim."""
    lines = [
        "| victim | kills | finished | seconds lost: median, maximum | without problems |",
        "|---|---|---|---|---|",
    ]
    for victim in dict.fromkeys(case["victim"] for case in cases):
        group = [case for case in cases if case["victim"] == victim]
        lost = [case["lost_s"] for case in group]
        good = sum(not case["problems"] for case in group)
        done = sum(not any("last command" in problem for problem in case["problems"]) for case in group)
        seconds = f"{statistics.median(lost):.0f}, {max(lost):.0f}"
        lines.append(f"| {victim} | {len(group)} | {done} | {seconds} | {good} of {len(group)} |")
    return lines
