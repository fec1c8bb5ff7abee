"""The report: a store as a self-contained HTML file that opens offline in any browser.

It embeds Plotly, the data, the styles and the script, so it can be mailed, archived or attached to a CI run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rhobench.config.metrics import metric
from rhobench.dashboards.figures import figure_cards
from rhobench.dashboards.figures.style import DARK
from rhobench.dashboards.markup import escaped, list_card, run_link, script_safe
from rhobench.dashboards.run_cards import environment_lines, format_values, run_cards
from rhobench.dashboards.runs_table import runs_table
from rhobench.results import Record, Store, by_configuration, timing_statuses
from rhobench.results.expectations import Verdict

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$css</style>
</head>
<body>
<header>
  <div><h1>$title</h1><p class="sub">$subtitle</p></div>
  <nav aria-label="View">
    <button id="log" aria-pressed="false">Log cost axis</button>
    <button id="front" aria-pressed="false">Front only</button>
    <button id="dark" aria-pressed="false">Dark</button>
  </nav>
</header>
<main>
  <div class="numbers">$numbers</div>
  $problems
  <div class="figures">$figures</div>
  $expectations
  $endings
  $runs
  $provenance
</main>
<aside id="card" hidden aria-label="Run" tabindex="-1"></aside>
<script>$plotly</script>
<script>const FIGURES = $figure_data, RUNS = $run_data, DARK = $dark;
$script</script>
</body>
</html>
""")

TOLERANCE = 0.01
"""Loss of AP that the savings among the key numbers may cost."""


def write_report(store: Store, out: Path) -> Path:
    """Write the report on all runs of ``store`` to the file ``out`` and return ``out``."""
    # records() first: frame() then uses the records that are parsed already.
    records, frame = store.records(), store.frame()
    # In this order: curves() replaces the problems of the store, verdicts() adds to them.
    figures, verdicts = _figures(frame, store.curves()), store.verdicts()
    page = PAGE.substitute(
        title="Sparse DETR: accuracy against cost",
        subtitle=escaped(_subtitle(store, records)),
        css=_asset("report.css"),
        numbers="".join(_number_card(*number) for number in _key_numbers(frame)),
        problems=list_card("Files that could not be read", map(escaped, store.problems)),
        figures="".join(_figure_card(name, figure) for name, figure in figures.items()),
        expectations=list_card("Expectations", map(_verdict_line, verdicts)),
        endings=list_card("Failed runs", _reasons(records, "failed"))
        + list_card("Stopped runs", _reasons(records, "stopped")),
        runs=runs_table(frame),
        provenance=_provenance(records, frame),
        plotly=get_plotlyjs(),
        figure_data="{" + ",".join(f'"{name}":{script_safe(f.to_json())}' for name, f in figures.items()) + "}",
        run_data=script_safe(json.dumps(run_cards(records, frame))),
        dark=json.dumps(DARK),
        script=_asset("report.js"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _figures(frame: pd.DataFrame, curves: pd.DataFrame) -> dict[str, go.Figure]:
    """Every figure of the page by name, in order."""
    cards = figure_cards()
    figures = {card.name: card.build(frame, curves) for card in cards}
    return {card.name: figures[card.name] for card in cards if figures[card.name].data or not card.hide_if_empty}


def _asset(name: str) -> str:
    return files("rhobench.dashboards").joinpath(name).read_text(encoding="utf-8")


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
    yield "Runs", str(counts.sum()), ", ".join(f"{count} {status}" for status, count in counts.items()) or "none yet"
    for x in ("gflops", "latency_ms"):
        rows = by_configuration(frame, x, "ap")
        cost, ap = metric(x), metric("ap")
        if rows.empty:
            continue
        best = rows.iloc[rows["ap"].argmax()]
        if x == "gflops":
            yield "Best AP", ap.format(best["ap"]), f"{best['label']} · {best['backbone']}"
        title = f"{cost.label} saved within {ap.format(TOLERANCE)} AP of the best"
        if rows["setting"].nunique() > 1:
            yield title, "–", "Several settings that cannot be compared, see the figure"
            continue
        enough = rows[rows["ap"] >= best["ap"] - TOLERANCE - 1e-9]  # rounding must not exclude a run at the limit
        least = enough.iloc[enough[x].argmin()]
        saved = 1 - least[x] / best[x]
        yield (
            title,
            f"{100 * saved:.0f} %",
            f"{least['label']}: {cost.format(least[x])} instead of {cost.format(best[x])} {cost.unit}, "
            f"AP {ap.format(least['ap'])}",
        )


def _number_card(title: str, number: str, explanation: str) -> str:
    return f"<div><span>{escaped(title)}</span><b>{escaped(number)}</b><small>{escaped(explanation)}</small></div>"


def _figure_card(name: str, figure: go.Figure) -> str:
    """A card for a figure, whose title becomes text of the page so that it wraps and can be selected."""
    title = figure.layout.title
    head = f"<h2>{escaped(title.text)}</h2><p class='sub'>{escaped(title.subtitle.text)}</p>"
    figure.update_layout(title=None, margin_t=28)
    return f"<section class='card'>{head}<div class='plot' id='plot-{name}' role='group'></div></section>"


def _verdict_line(verdict: Verdict) -> str:
    """A verdict with a link to the run that decided it."""
    style = {"met": "good", "not met": "failed", "not checked": "muted"}[verdict.outcome]
    run = f" in {run_link(verdict.worst_run)}" if verdict.worst_run else ""
    source = f"experiment {verdict.experiment}, checked {verdict.checked_at[:10]}"
    return (
        f"{escaped(verdict.statement)}: <b class='{style}'>{escaped(verdict.finding)}</b>{run} "
        f"<span class='muted'>({escaped(source)})</span>"
    )


def _reasons(records: list[Record], status: str) -> Iterator[str]:
    """Yield a line for each run with this status, with its reason."""
    for record in records:
        if record.status == status:
            yield f"{run_link(record.run_id)} {escaped(record.reason or 'no reason was recorded')}"


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
    data = format_values(frame["dataset"])
    facts = [("AP", f"COCO AP over IoU 0.50:0.95, times 100, on the validation split: {data}")]
    facts += [(f"Protocol {name}", text) for name, text in sorted(protocols.items())]
    facts += [("Latency bars", "95 % interval by bootstrap over the rounds of the measurement.")]
    if (timing_statuses(frame) != "ok").any():
        text = "Their time was disturbed or unstable, so it may not enter the front; the run says why."
        facts += [("Hollow latency markers", text)]
    facts += [("FLOPs", counts[name]) for name in counts if name in set(frame["flops_count"])]
    columns = (("device", "Device"), ("backend", "Attention backend"))
    facts += [(label, format_values(frame[name])) for name, label in columns]
    facts += [
        (label, format_values(pd.Series([environment_lines(r).get(key) for r in records], dtype=object)))
        for key, label in (("packages", "Versions"), ("git", "Source"), ("cpu", "Training CPU"), ("os", "System"))
    ]
    known = [(name, text) for name, text in facts if text not in {"", "none"}]
    items = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>" for name, text in known)
    return f"<footer class='card'><h2>Definitions and sources</h2><dl>{items}</dl></footer>"
