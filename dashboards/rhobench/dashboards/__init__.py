"""What a store shows: figures, a page that needs nothing but a browser, and tables for the terminal."""

from rhobench.dashboards.curves import learning_curves
from rhobench.dashboards.figures import pareto
from rhobench.dashboards.one_training import one_training
from rhobench.dashboards.report import write_report
from rhobench.dashboards.tables import front_table

__all__ = ["front_table", "learning_curves", "one_training", "pareto", "write_report"]
