"""The common look of all figures: colours, symbols and an empty figure.

Colour and symbol together identify a model, so that no figure depends on colour vision. Colours are those of the light
theme; ``DARK`` maps each of them to its counterpart in the dark theme.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from rhobench.config.phrases import counted

INK, MUTED, GRID, SURFACE = "#1c2431", "#5b6676", "#e4e9ef", "#ffffff"

SERIES = ("#1f77c9", "#c2570c", "#0f8a6a", "#b0559b", "#8a6d00")
"""Colours of models, after Okabe and Ito; each has a contrast of at least 4.3:1 on white."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
"""Marker symbols. Seven symbols and five colours give 35 combinations before one repeats."""

RAMP = ("#d07a00", "#d2475d", "#a23b8f", "#6a45b0", "#24458f")
"""Ordered colours for runs along one axis; they also differ in lightness."""

DARK = {
    INK: "#e3e8ef",
    MUTED: "#98a4b4",
    GRID: "#2a323c",
    SURFACE: "#161b23",
    **dict(zip(SERIES, ("#5aa9f0", "#f0934e", "#3cc79f", "#de8ccb", "#d9b93b"), strict=True)),
    **dict(zip(RAMP, ("#ffb84d", "#ff7a8a", "#dd7fcb", "#ab8df0", "#7ea6f5"), strict=True)),
}
"""Colour of the dark theme by colour of the light theme."""

PARTS = ("#1f77c9", "#8a6d00", "#b0559b", "#c2570c", "#5b6676", "#0f8a6a", "#6a45b0", "#a23b8f", "#1c2431")
"""Colours of the parts of a model, in the order of the forward pass."""

HEAT = [[0, "#e8f1fa"], [0.5, "#74add1"], [1, "#1f4e8c"]]
"""Scale of heat maps from low to high; it differs in lightness, so that it can be read without colours."""

TRAINED_AT = "#d07a00"
"""Outline of the cells at the rho of the training."""

FONT = "Inter, 'Segoe UI', system-ui, -apple-system, Roboto, 'Helvetica Neue', Arial, sans-serif"


OPTIONS: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d"]],
    "plotlyServerURL": "",
    "responsive": True,
}
"""Options of Plotly for every display of a figure: no button offers to send it to a cloud service."""


class Figure(go.Figure):
    """A figure that is displayed with ``OPTIONS``, in a notebook as well as in a browser."""

    def show(self, *args: Any, **options: Any) -> Any:
        """Show the figure as ``plotly.graph_objects.Figure.show`` does."""
        return super().show(*args, **_with_options(options))

    def to_html(self, *args: Any, **options: Any) -> str:
        """HTML as of ``plotly.graph_objects.Figure.to_html``."""
        return super().to_html(*args, **_with_options(options))

    def write_html(self, *args: Any, **options: Any) -> None:
        """Write HTML as ``plotly.graph_objects.Figure.write_html`` does."""
        super().write_html(*args, **_with_options(options))

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None, validate: bool = True, **options: Any
    ) -> dict[str, Any]:
        return super()._repr_mimebundle_(include, exclude, validate, **_with_options(options))

    def _ipython_display_(self) -> None:
        self.show()


def _with_options(given: dict[str, Any]) -> dict[str, Any]:
    return given | {"config": OPTIONS | (given.get("config") or {})}


def canvas(title: str, subtitle: str) -> Figure:
    """An empty figure in the common look."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "title": {"standoff": 10}, "automargin": True}
    return Figure(
        layout={
            "template": "none",
            "height": 460,
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {"text": title, "x": 0, "xref": "paper", "subtitle": {"text": subtitle, "font": {"color": MUTED}}},
            "paper_bgcolor": SURFACE,
            "plot_bgcolor": SURFACE,
            "margin": {"l": 60, "r": 44, "t": 90, "b": 96},
            "xaxis": {**axis, "ticks": "outside", "tickcolor": GRID},
            "yaxis": axis,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": SURFACE,
                "bordercolor": MUTED,
                "font": {"color": INK, "size": 12},
                "align": "left",
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "font": {"size": 12},
            },
        }
    )


def show_empty(figure: go.Figure, text: str) -> None:
    """Show ``text`` in the middle of a figure without data."""
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"color": MUTED})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)


def translucent(color: str) -> str:
    """A colour with an opacity of a sixth, for areas under lines."""
    # The dark theme replaces colours of the form "#rrggbb"; a translucent one suits both themes.
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.17)"


def seeds_text(fewest: int, most: int) -> str:
    """Number of averaged seeds: "n = 1 seed", "n = 3 seeds" or "n = 1 to 3 seeds"."""
    if fewest == most:
        return f"n = {counted(most, 'seed')}"
    return f"n = {fewest} to {most} seeds"
