"""Figures, a self-contained report page, and tables for the terminal."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhobench.dashboards.figures.learning_curves import learning_curves
    from rhobench.dashboards.figures.one_training import one_training
    from rhobench.dashboards.figures.pareto import pareto
    from rhobench.dashboards.report import report_path, write_report
    from rhobench.dashboards.tables import front_table

__all__ = ["front_table", "learning_curves", "one_training", "pareto", "report_path", "write_report"]

_MODULES = {
    "front_table": "tables",
    "learning_curves": "figures.learning_curves",
    "one_training": "figures.one_training",
    "pareto": "figures.pareto",
    "report_path": "report",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: a command that lists runs needs neither figures nor statistics."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
