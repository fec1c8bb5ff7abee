"""Figures, a self-contained report page, and tables for the terminal."""

from rhobench.dashboards.figures.learning_curves import learning_curves
from rhobench.dashboards.figures.one_training import one_training
from rhobench.dashboards.figures.pareto import pareto
from rhobench.dashboards.report import report_path, write_report
from rhobench.dashboards.tables import front_table

__all__ = ["front_table", "learning_curves", "one_training", "pareto", "report_path", "write_report"]
