"""The declaration of a figure on the report page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class FigureCard:
    """A figure and its place on the page. A module of this package lists its figures in ``CARDS``."""

    name: str
    """Name in the element ids of the page: lower-case letters and hyphens."""
    place: int
    """Position on the page, in increasing order; the first figure takes the full width."""
    build: Callable[[pd.DataFrame, pd.DataFrame], go.Figure]
    """Function of ``Store.frame()`` and ``Store.curves()`` that returns the figure.

    The title and subtitle of the figure become text of the page.
    """
    hide_if_empty: bool = False
    """Whether the page leaves out the figure if it has no traces."""
