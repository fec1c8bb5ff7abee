"""The live view: a local web page that follows a store while a sweep is running.

It only reads the store. On loopback it answers requests for this machine's own names; on any other address it answers
only requests with the token that it prints, because a store may hold more than its results, such as paths.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from importlib.resources import files
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from rhobench.config import ConfigError
from rhobench.config.metrics import METRICS
from rhobench.dashboards.column_labels import LABELS
from rhobench.dashboards.figures import figure_cards
from rhobench.dashboards.figures.card import Tables
from rhobench.dashboards.figures.pareto import pareto
from rhobench.dashboards.figures.style import DARK, OPTIONS
from rhobench.dashboards.headline import headline
from rhobench.dashboards.live_access import LOOPBACK, guard
from rhobench.dashboards.live_progress import running_section, table_of
from rhobench.dashboards.runs_list import select_rows, value_text
from rhobench.dashboards.store_tables import read_tables
from rhobench.results import Store, varied_fields

POLL_MS = 2000
"""Milliseconds between two looks at the store, which lists files and reads only new records."""

MAX_ROWS = 100
"""Number of points in the table: the best ones."""

AROUND_PLOT_PX, PLOT_HEIGHT_PX = 150, 300
"""Width of the axis and the margins beside the plot of the front, and height of the plot."""


class LiveError(ValueError):
    """A live view that cannot be served."""


class Results:
    """The tables of a store, read again only when it has changed."""

    def __init__(self, store: Store) -> None:
        """
        Args:
            store: the store to follow.
        """
        self.store = store
        self._version: str | None = None
        self._tables: Tables | None = None

    def version(self) -> str:
        """Text that changes with the store."""
        return self.store.version()

    def tables(self) -> Tables:
        """The current tables."""
        version = self.version()
        if self._tables is None or version != self._version:
            self._tables, self._version = read_tables(self.store, self.store.records()), version
        return self._tables


def serve(store: Store, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the live view of ``store`` until Ctrl-C.

    Args:
        store: the store to follow.
        host: address to listen on; other than loopback, every request needs a token.
        port: port to listen on; 0 takes a free one.
        announce: called with the address, which contains the token if one is needed.

    Raises:
        LiveError: Dash is not installed, or the port is taken.
    """
    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    app = create_app(store, token)
    from werkzeug.serving import make_server

    try:
        server = make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as error:  # werkzeug exits when the port is taken
        raise LiveError(
            f"Nothing can listen on {host}:{port}. Give another --port, or --port 0 for a free one."
        ) from error
    name = f"[{host}]" if ":" in host else host
    announce(f"http://{name}:{server.server_port}/" + (f"?token={token}" if token else ""))
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def create_app(store: Store, token: str | None) -> Any:
    """The Dash app of ``store``; without a ``token``, it answers only requests for this machine's own names."""
    try:
        import dash
    except ImportError as error:
        raise LiveError("The live view needs Dash: pip install 'rhobench[live]'.") from error
    results = Results(store)
    app = dash.Dash(__name__, include_assets_files=False, title=f"rhobench: {store.name}", update_title="")
    guard(app.server, token)
    css = (files("rhobench.dashboards") / "page" / "report.css").read_text(encoding="utf-8")
    app.index_string = _INDEX.replace("CSS", css)
    app.layout = _layout(store)
    _follow(app, results)
    return app


def _layout(store: Store) -> Any:
    from dash import dcc, html

    metrics = [{"label": m.title, "value": name} for name, m in METRICS.items()]
    others = [card.name for card in figure_cards() if card.axes is None]

    def choice(name: str, label: str, options: list[Any], value: str) -> Any:
        # Native radio buttons and text fields would be longer; Dash's dropdown has no label of its own.
        return html.Label([label, dcc.Dropdown(options, value, id=name, clearable=False)], className="choice")

    def plot(name: str) -> Any:
        # Without a height, a responsive plot collapses.
        return dcc.Graph(id=name, config=cast("Any", OPTIONS), style={"height": "460px"})

    condition = dcc.Input(id="where", type="search", debounce=True, placeholder="rho=0.1, status!=failed")
    return html.Div(
        [
            html.Header(
                [html.Div([html.H1(f"Results in {store.name}"), html.P(id="state", className="sub", role="status")])]
            ),
            html.Main(
                [
                    html.Section(id="headline", className="headline"),
                    html.Section([html.H2("Running"), html.Div(id="running")], className="card"),
                    html.Section(
                        [html.Label(["Only runs with ", condition]), html.P(id="problem", className="failed")],
                        className="card",
                    ),
                    html.Section(
                        [
                            html.Div(
                                [choice("y", "y", metrics, "ap"), choice("x", "x", metrics, "gflops")],
                                className="tools",
                            ),
                            html.P(id="front-summary", className="sub"),
                            plot("front"),
                        ],
                        className="card",
                    ),
                    html.Section(
                        [
                            choice("chosen", "Figure", others, "curves"),
                            html.P(id="other-summary", className="sub"),
                            plot("other"),
                        ],
                        className="card",
                    ),
                    html.Section([html.H2("Runs"), html.Div(id="runs", className="scroll")], className="card"),
                ]
            ),
            dcc.Interval(id="clock", interval=POLL_MS),
            dcc.Store(id="version"),
            dcc.Store(id="dark"),
            dcc.Store(id="width"),
        ]
    )


def _follow(app: Any, results: Results) -> None:
    """Connect the page to the store: a new version of it redraws everything, keeping the zoom."""
    from dash import Input, Output, State, no_update

    app.clientside_callback(
        "() => { const dark = matchMedia('(prefers-color-scheme: dark)').matches;"
        " document.documentElement.classList.toggle('dark', dark); return dark; }",
        Output("dark", "data"),
        Input("version", "data"),
    )

    # The labels of the front are placed for this width.
    app.clientside_callback(
        "(_, known) => { const width = document.getElementById('front').clientWidth;"
        " return width === known ? dash_clientside.no_update : width; }",
        Output("width", "data"),
        Input("clock", "n_intervals"),
        State("width", "data"),
    )

    @app.callback(Output("version", "data"), Input("clock", "n_intervals"), State("version", "data"))
    def look(_: int | None, shown: str | None) -> Any:
        version = results.version()
        return no_update if version == shown else version

    @app.callback(Output("running", "children"), Input("clock", "n_intervals"))
    def follow(_: int | None) -> Any:
        return running_section(results.store)

    everything = [Input(name, "value") for name in ("x", "y", "chosen", "where")]

    @app.callback(
        *(Output(name, "figure") for name in ("front", "other")),
        *(
            Output(name, "children")
            for name in ("front-summary", "other-summary", "headline", "state", "runs", "problem")
        ),
        Input("version", "data"),
        Input("dark", "data"),
        Input("width", "data"),
        *everything,
    )
    def draw(
        version: str | None, dark: bool | None, width: int | None, x: str, y: str, chosen: str, where: str | None
    ) -> Any:
        if version is None or width is None:
            return (no_update,) * 8
        return redraw(results, x, y, chosen, where or "", dark=bool(dark), width_px=width)


def redraw(
    results: Results, x: str, y: str, chosen: str, where: str, *, dark: bool, width_px: int = 1200
) -> tuple[Any, ...]:
    """Everything on the page that depends on the store.

    Args:
        results: of the store.
        x: metric of the horizontal axis of the front.
        y: metric of its vertical axis.
        chosen: name of the other figure.
        where: conditions on the runs, separated by commas.
        dark: whether the figures have the dark colours.
        width_px: width of the figures.
    """
    tables = results.tables()
    frame, problem = tables.frame, ""
    try:
        frame = select_rows(frame, [part for part in where.split(",") if part.strip()], None)
    except ConfigError as error:
        problem = str(error)
    curves = tables.curves[tables.curves["run_id"].isin(frame["run_id"])]
    shown = Tables(frame=frame, curves=curves, breakdown=tables.breakdown, calls=tables.calls)
    front = pareto(frame, x, y, plot_px=(max(width_px - AROUND_PLOT_PX, 100), PLOT_HEIGHT_PX))
    other = next(card for card in figure_cards() if card.name == chosen).build(shown)
    texts = [figure.layout.title.subtitle.text for figure in (front, other)]
    return (
        _displayed(front, f"{x} {y}", dark),
        _displayed(other, chosen, dark),
        *texts,
        [_paragraph(sentence) for sentence in headline(frame)],
        _state(results.store, tables.frame),
        _runs(frame),
        problem,
    )


def _displayed(figure: go.Figure, revision: str, dark: bool) -> dict[str, Any]:
    """The figure as Dash takes it; the zoom is kept as long as ``revision`` stays the same."""
    figure.update_layout(title=None, margin_t=28, uirevision=revision, autosize=True, height=None)
    text = figure.to_json()
    for light, other in DARK.items() if dark else ():
        text = text.replace(light, other)
    return json.loads(text)


def _paragraph(text: str) -> Any:
    from dash import html

    return html.P(text)


def _state(store: Store, frame: pd.DataFrame) -> str:
    counts = frame.drop_duplicates("run_id")["status"].value_counts()
    parts = [f"{count:,} {status}" for status, count in counts.items()]
    if running := len(store.unrecorded()):
        parts.append(f"{running:,} running or killed")
    return ", ".join(parts) or "No run is finished yet."


def _runs(frame: pd.DataFrame) -> Any:
    from dash import html

    if frame.empty:
        return html.P("No run is finished yet.", className="sub")
    rows = frame.sort_values("ap", ascending=False, kind="stable").head(MAX_ROWS)
    names = ["run_id", "status", *varied_fields(frame), "rho_infer", *(m for m in METRICS if rows[m].notna().any())]
    cells = [
        [METRICS[name].format(row[name]) if name in METRICS else value_text(name, row[name]) for name in names]
        for row in rows.to_dict("records")
    ]
    heads = [LABELS.get(name, name.rpartition(".")[2]) for name in names]
    note = f"The best {MAX_ROWS} of {len(frame):,} points." if len(frame) > MAX_ROWS else ""
    return html.Div([html.P(note, className="sub"), table_of(heads, cells)])


_INDEX = """<!doctype html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title><link rel="icon" href="data:,">{%css%}
<style>CSS
.choice { display: inline-grid; min-width: 220px; color: var(--muted); }
thead th { padding: 6px 10px; color: var(--muted); }
@media (max-width: 700px) { td:first-child { max-width: 44vw; overflow: hidden; text-overflow: ellipsis; } }
</style></head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""
"""Page of Dash with the styles of the report."""
