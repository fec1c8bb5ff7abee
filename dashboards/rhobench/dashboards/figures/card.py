"""The declaration of a figure on the report page, and the tables that it is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The results in a store, as the figures take them."""

    frame: pd.DataFrame
    """Rows of ``Store.frame()``."""
    curves: pd.DataFrame
    """Rows of ``Store.curves()``."""
    breakdown: pd.DataFrame
    """One row per point and class or part of the model: point (the index of its row in ``frame``), kind ("class",
    "part" or "part_ms"), name, value."""
    calls: pd.DataFrame
    """Rows of ``Store.timed_calls(frame)``."""


@dataclass(frozen=True, kw_only=True)
class FigureCard:
    """A figure and its place on the page. A module of this package lists its figures in ``CARDS``."""

    name: str
    """Name in the element ids of the page and on the command line: lower-case letters and hyphens."""
    place: int
    """Position on the page, in increasing order."""
    build: Callable[[Tables], go.Figure]
    """Function that returns the figure; its title and subtitle become text of the page."""
    axes: tuple[str, str] | None = None
    """Metrics of x and y, if the script of the page draws the figure from the rows, so that filters and a choice of
    axes reach it; None: the page shows the figure as it was built."""
    wide: bool = False
    """Whether the figure takes the full width of the page."""
    hide_if_empty: bool = False
    """Whether the page leaves out the figure if it has no traces."""
