"""The report: a store as a self-contained HTML file that opens offline in any browser.

It embeds Plotly, the data, the styles and the scripts, so it can be mailed, archived or attached to a CI run. Plotly
and the data are compressed, which makes the file a third as large.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rhobench.config.metrics import METRICS, metric
from rhobench.dashboards.figures import figure_cards
from rhobench.dashboards.figures.card import FigureCard, Tables
from rhobench.dashboards.figures.style import DARK
from rhobench.dashboards.headline import MIN_AP, headline
from rhobench.dashboards.markup import escaped, list_card, run_link
from rhobench.dashboards.page_data import distinct_environments, environment_lines, page_data
from rhobench.dashboards.published import published_points
from rhobench.dashboards.reproduction_card import reproduction_card
from rhobench.dashboards.store_tables import read_tables
from rhobench.dashboards.token_gallery import token_gallery
from rhobench.results import Record, Store, by_configuration, timing_statuses
from rhobench.results.paired_tests import paired_tests
from rhobench.results.verdicts import Verdict

SCRIPTS = ("dom", "data", "paired", "figures", "labels", "explorer", "downloads", "cards", "table", "gallery", "main")
"""Scripts of the page in ``page/``, in the order in which they run."""

TOLERANCE = 0.01
"""Loss of AP that the savings among the key numbers may cost."""

UNITS = {"gflops": "GFLOPs"}
"""Units of costs in sentences, where that of the metric says what they are counted for ("per image")."""

TITLE_PX = 62
"""Height of title and subtitle in the top margin of a figure; on the page they are text."""

MAX_LISTED = 50
"""Number of failed runs that are listed; the table has all of them."""


def write_report(store: Store, out: Path) -> Path:
    """Write the report on all runs of ``store`` to the file ``out`` and return ``out``."""
    # records() first: frame() then uses the records that are parsed already.
    records = store.records()
    tables = read_tables(store, records)
    frame, verdicts = tables.frame, store.verdicts()
    cards = figure_cards()
    figures = _figures(cards, tables)
    shown = [card for card in cards if card.name in figures]
    wide = _wide_cards(shown)
    heads = "".join(_figure_card(card, figures[card.name], wide=card.name in wide) for card in shown)
    data = {
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
        "data": page_data(tables, records, paired_tests(store, frame)) | {"gallery": token_gallery(store, frame)},
        "explorers": {card.name: card.axes for card in shown if card.axes},
        "intervals": {name: m.interval_text for name, m in METRICS.items()},
        "published": published_points(frame),
        "dark": DARK,
    }
    page = Template(_asset("report.html")).substitute(
        title="Sparse DETR: accuracy against cost",
        subtitle=escaped(_subtitle(store, records)),
        css=_asset("report.css"),
        headline="".join(f"<p>{escaped(sentence)}</p>" for sentence in headline(frame, store)),
        numbers="".join(_number_card(*number) for number in _key_numbers(frame)),
        problems=list_card("Files that could not be read", map(escaped, store.problems)),
        figures=heads,
        reproduction=reproduction_card(store, frame),
        expectations=list_card("Expectations", map(_verdict_line, verdicts)),
        endings="".join(_endings(records, frame)),
        provenance=_provenance(records, frame),
        plotly=_compressed_plotly(),
        data=_compressed(json.dumps(data)),
        script="\n".join(_asset(f"{name}.js") for name in SCRIPTS),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def report_path(store: Store) -> Path:
    """Where the report of a store belongs: in its folder.

    The report of a bucket is written to this machine, where a browser can open it.
    """
    return store.path / "report.html" if store.is_local else Path(f"{store.name}.html")


def _figures(cards: list[FigureCard], tables: Tables) -> dict[str, go.Figure]:
    """Every figure of the page by name; those that the page draws itself contain only their layout."""
    empty = Tables(
        frame=tables.frame.iloc[:0],
        curves=tables.curves.iloc[:0],
        breakdown=tables.breakdown.iloc[:0],
        calls=tables.calls.iloc[:0],
    )
    figures = {}
    for card in cards:
        figure = card.build(empty if card.axes else tables)
        known = tables.frame[card.axes[0]].notna().any() if card.axes else bool(figure.data)
        if known or not card.hide_if_empty:
            figures[card.name] = figure
    return figures


def _wide_cards(cards: list[FigureCard]) -> set[str]:
    """Names of the cards that take the full width: those that ask for it, and those without a neighbour."""
    wide, alone = {card.name for card in cards if card.wide}, None
    for card in cards:
        if card.wide:
            wide |= {alone} if alone else set()
            alone = None
        else:
            alone = None if alone else card.name
    return wide | ({alone} if alone else set())


def _asset(name: str) -> str:
    return (files("rhobench.dashboards") / "page" / name).read_text(encoding="utf-8")


def _compressed(text: str) -> str:
    """Text that ``unpack`` on the page turns into ``text``; it contains no markup."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


@cache
def _compressed_plotly() -> str:
    return _compressed(get_plotlyjs())


def _subtitle(store: Store, records: list[Record]) -> str:
    experiments = sorted({record.experiment for record in records})
    parts = [f"{'experiments' if len(experiments) > 1 else 'experiment'} {', '.join(experiments) or 'none'}"]
    parts.append(f"store {store.name}")
    unrecorded = store.unrecorded()
    if unrecorded:
        parts.append(f"{len(unrecorded)} without a record (running or killed)")
    return " · ".join([*parts, f"built {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"])


def _key_numbers(frame: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield title, number and explanation of each card above the figures."""
    counts = frame.drop_duplicates("run_id")["status"].value_counts()
    yield (
        "Runs",
        f"{counts.sum():,}",
        ", ".join(f"{count:,} {status}" for status, count in counts.items()) or "none yet",
    )
    for x in ("gflops", "latency_ms"):
        rows = by_configuration(frame, x, "ap")
        rows = rows[rows["timing_status"] == "ok"] if metric(x).timed else rows
        cost, ap = metric(x), metric("ap")
        if rows.empty:
            continue
        best = rows.iloc[rows["ap"].argmax()]
        if x == "gflops":
            yield "Best AP", ap.format(best["ap"]), f"{best['label']} · {best['backbone']}"
        # What is saved is saved by a setting of one's own models, not by another engine or detector.
        if not rows["foreign"].all():
            rows = rows[~rows["foreign"].astype(bool)]
            best = rows.iloc[rows["ap"].argmax()]
        title = f"{cost.label} saved within {ap.format(TOLERANCE)} AP of the best"
        if rows["setting"].nunique() > 1:
            yield title, "–", "Several settings that cannot be compared, see the figure"
            continue
        if best["ap"] < MIN_AP:
            yield title, "none", f"No configuration has an AP of {ap.format(MIN_AP)}"
            continue
        enough = rows[rows["ap"] >= best["ap"] - TOLERANCE - 1e-9]  # rounding must not exclude a run at the limit
        least = enough.iloc[enough[x].argmin()]
        # Not those of the best, which may itself be cheap: what a user saves is the end of the dial.
        most = rows.iloc[rows[x].argmax()]
        saved = f"{100 * (1 - least[x] / most[x]):.0f} %"
        if saved == "0 %":
            yield title, "none", f"Nothing cheaper than {most['label']} comes that close"
            continue
        yield (
            title,
            saved,
            f"{least['label']}: {cost.format(least[x])} {UNITS.get(x, cost.unit)}, AP {ap.format(least['ap'])}; "
            f"{most['label']}: {cost.format(most[x])}, {ap.format(most['ap'])}",
        )


def _number_card(title: str, number: str, explanation: str) -> str:
    return f"<div><span>{escaped(title)}</span><b>{escaped(number)}</b><small>{escaped(explanation)}</small></div>"


def _figure_card(card: FigureCard, figure: go.Figure, *, wide: bool) -> str:
    """A card for a figure, whose title becomes text of the page so that it wraps and can be selected."""
    title, name = figure.layout.title, card.name
    summary = f"<p class='sub' id='summary-{name}'>{escaped(title.subtitle.text)}</p>"
    tools = ""
    if card.axes:
        axes = "".join(
            f"<label>{words} <select id='{axis}-{name}'></select></label>" for axis, words in (("y", "y"), ("x", "x"))
        )
        tools = (
            f"<div class='tools' id='tools-{name}'>{axes}<label class='budget' id='budget-{name}'>Budget "
            "<input type='range' min='0' max='1000' value='1000'><output>no limit</output></label></div>"
        )
    words = escaped(title.text)
    figure.update_layout(title=None, margin_t=figure.layout.margin.t - TITLE_PX)
    table = f"<button data-latex='{name}' class='quiet' aria-label='Download {words} as a LaTeX table'>LaTeX</button>"
    download = (
        table if card.axes else ""
    ) + f"<button data-svg='{name}' class='quiet' aria-label='Download {words} as SVG'>SVG</button>"
    return (
        f"<section class='card{' wide' if wide else ''}'>"
        f"<div class='bar'><h2 id='title-{name}'>{words}</h2>{download}</div>"
        f"{summary}{tools}<div class='plot' id='plot-{name}' role='group' aria-labelledby='title-{name}'></div>"
        "<p class='sub narrow' hidden>This figure needs a wider window.</p>"
        "<p class='sub unfiltered' hidden>This figure shows all runs, whatever is filtered.</p></section>"
    )


def _verdict_line(verdict: Verdict) -> str:
    """A verdict with a link to the run that decided it."""
    style = {"met": "good", "not met": "failed"}.get(verdict.outcome, "muted")
    run = f" in {run_link(verdict.worst_run)}" if verdict.worst_run else ""
    source = f"experiment {verdict.experiment}, checked {verdict.checked_at[:10]}"
    return (
        f"{escaped(verdict.statement)}: <b class='{style}'>{escaped(verdict.finding)}</b>{run} "
        f"<span class='muted'>({escaped(source)})</span>"
    )


def _endings(records: list[Record], frame: pd.DataFrame) -> Iterator[str]:
    """Yield the cards that list failed and stopped runs with their reasons, and invalid timings."""
    for status in ("failed", "stopped"):
        ended = [record for record in records if record.status == status]
        lines = [f"{run_link(r.run_id)} {escaped(r.reason or 'no reason was recorded')}" for r in ended[:MAX_LISTED]]
        if len(ended) > MAX_LISTED:
            lines.append(f"and {len(ended) - MAX_LISTED:,} more, in the table below with the filter on their status")
        yield list_card(f"{status.capitalize()} runs", lines)
    if "timing_status" in frame:
        invalid = frame[frame["timing_status"] == "invalid"]
        lines = [
            f"{run_link(run)} at ρ {rho:g}: {metric('latency_ms').format(ms)} ms"
            for run, rho, ms in zip(invalid["run_id"], invalid["rho_infer"], invalid["latency_ms"], strict=True)
        ]
        yield list_card("Invalid timings, on no front", lines[:MAX_LISTED])


def _provenance(records: list[Record], frame: pd.DataFrame) -> str:
    """The card that defines the values and names their sources."""
    protocols = {name: text for record in records for name, text in record.protocols.items()}
    for name in frame["protocol"].dropna().unique():
        protocols.setdefault(name, "No record describes this protocol.")
    counts = {
        "standard": "2 operations per multiply-add of convolutions, matrix products and attention (deformable "
        "attention: 5 multiply-adds per sampling point and channel), for the tokens that are computed; normalisations "
        "and activations are not counted.",
        "official": "GFLOPs as counted by the official Sparse DETR code, comparable with the paper.",
    }
    facts = [("AP", f"COCO AP over IoU 0.50:0.95, times 100, on the validation split: {_values(frame['dataset'])}")]
    facts += [(f"Protocol {name}", text) for name, text in sorted(protocols.items())]
    bars = [
        f"{METRICS[name].label}: {m.interval_text}"
        for name, m in METRICS.items()
        if m.interval and frame[name].notna().any()
    ]
    facts += [("Bars", "; ".join([*bars, "otherwise plus and minus the standard deviation over seeds"]))]
    if (timing_statuses(frame) != "ok").any():
        text = "Their time was disturbed or unstable, so it may not enter the front; the run says why."
        facts += [("Hollow latency markers", text)]
    facts += [("FLOPs", counts[name]) for name in counts if name in set(frame["flops_count"])]
    facts += [(label, _values(frame[name])) for name, label in (("device", "Device"), ("backend", "Attention backend"))]
    environments = [environment_lines(record) for record in distinct_environments(records).values()]
    facts += [
        (label, _values(pd.Series([lines.get(key) for lines in environments], dtype=object)))
        for key, label in (("packages", "Versions"), ("git", "Source"), ("cpu", "Training CPU"), ("os", "System"))
    ]
    known = [(name, text) for name, text in facts if text not in {"", "none"}]
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>" for name, text in known)
    return f"<footer class='card'><h2>Definitions and sources</h2><dl>{items}</dl></footer>"


def _values(column: pd.Series, most: int = 12) -> str:
    """The distinct values of a column."""
    values: list[Any] = list(column.dropna().unique())
    more = f"; and {len(values) - most} more" if len(values) > most else ""
    return "; ".join(map(str, values[:most])) + more
