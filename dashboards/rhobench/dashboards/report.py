"""The report: a store as one HTML file that needs a browser and nothing else, today and in ten years.

Plotly, the data, the styles and the script are all inside, so it can be mailed, archived, or attached to a CI run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from rhobench.config.metrics import METRICS, metric
from rhobench.dashboards.curves import learning_curves
from rhobench.dashboards.figures import DARK, pareto
from rhobench.dashboards.one_training import one_training
from rhobench.dashboards.run_cards import environment_lines, run_cards, show
from rhobench.results import MAX_BUSY_CORES, Record, Store, by_configuration, samples_rho

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

COLUMNS = (
    ("run_id", "Run"),
    ("status", "Status"),
    ("model", "Model"),
    ("backbone", "Backbone"),
    ("rho", "ρ trained"),
    ("rho_infer", "ρ"),
    ("seed", "Seed"),
    *((name, m.title) for name, m in METRICS.items() if m.in_runs_table),
    ("batch_size", "Batch"),
    ("precision", "Precision"),
    ("backend", "Backend"),
    ("device", "Device"),
    ("protocol", "Protocol"),
    ("busy_cores", "Other work (cores)"),
    ("train_seconds", "Training (s)"),
)
"""Columns of the table of runs. Those without a single value are left out."""

CONTEXT = {"model", "backbone", "batch_size", "precision", "backend", "device", "protocol"}
"""Columns that need no room in the table where all runs agree."""

TOLERANCE = 0.01
"""AP that may be given up for the savings among the key numbers."""


def write_report(store: Store, out: Path) -> Path:
    """Write the report on everything in ``store`` to the file ``out``, and return ``out``."""
    records, frame = store.records(), store.frame()
    figures = {
        "gflops": pareto(frame, "gflops"),
        "latency": pareto(frame, "latency_ms"),
        "curves": learning_curves(store.curves(), frame),
    }
    if (every_rho := one_training(frame)).data:
        figures["every-rho"] = every_rho
    page = PAGE.substitute(
        title="Sparse DETR: accuracy against cost",
        subtitle=_text(_subtitle(store, records)),
        css=_asset("report.css"),
        numbers="".join(_number(*number) for number in _key_numbers(frame)),
        problems=_list_card("Files that could not be read", map(_text, store.problems)),
        figures="".join(_figure_card(name, figure) for name, figure in figures.items()),
        endings=_list_card("Failed runs", _reasons(records, "failed"))
        + _list_card("Stopped runs", _reasons(records, "stopped")),
        runs=_runs_table(frame),
        provenance=_provenance(records, frame),
        plotly=get_plotlyjs(),
        figure_data="{" + ",".join(f'"{name}":{_script_safe(f.to_json())}' for name, f in figures.items()) + "}",
        run_data=_script_safe(json.dumps(run_cards(records, frame))),
        dark=json.dumps(DARK),
        script=_asset("report.js"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _asset(name: str) -> str:
    return files("rhobench.dashboards").joinpath(name).read_text(encoding="utf-8")


def _text(value: object) -> str:
    return html.escape(str(value))


def _script_safe(text: str) -> str:
    """JSON that cannot end its script element: "</script>" in a run's reason stays text."""
    return text.replace("<", "\\u003c")


def _subtitle(store: Store, records: list[Record]) -> str:
    experiments = sorted({record.experiment for record in records})
    parts = [f"{'experiments' if len(experiments) > 1 else 'experiment'} {', '.join(experiments) or 'none'}"]
    parts.append(f"store {store.name}")
    unrecorded = store.unrecorded()
    if unrecorded:
        parts.append(f"{len(unrecorded)} running or killed")
    return " · ".join([*parts, f"built {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"])


def _key_numbers(frame: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """(what, number, explanation) of each card above the figures."""
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
        what = f"{cost.label} saved within {ap.format(TOLERANCE)} AP of the best"
        if rows["setting"].nunique() > 1:
            yield what, "–", "several settings, which cannot be compared: see the figure"
            continue
        enough = rows[rows["ap"] >= best["ap"] - TOLERANCE - 1e-9]
        least = enough.iloc[enough[x].argmin()]
        saved = 1 - least[x] / best[x]
        yield (
            what,
            f"{100 * saved:.0f} %",
            f"{least['label']}: {cost.format(least[x])} instead of {cost.format(best[x])} {cost.unit}, "
            f"AP {ap.format(least['ap'])}",
        )


def _number(what: str, number: str, explanation: str) -> str:
    return f"<div><span>{_text(what)}</span><b>{_text(number)}</b><small>{_text(explanation)}</small></div>"


def _figure_card(name: str, figure: go.Figure) -> str:
    """A card for the figure, with its title as text of the page, where it wraps and can be selected."""
    title = figure.layout.title
    head = f"<h2>{_text(title.text)}</h2><p class='sub'>{_text(title.subtitle.text)}</p>"
    figure.update_layout(title=None, margin_t=28)
    return f"<section class='card'>{head}<div class='plot' id='plot-{name}' role='group'></div></section>"


def _list_card(title: str, items: Iterable[str]) -> str:
    """A card with one line of HTML per item; nothing when there is none."""
    rows = "".join(f"<li>{item}</li>" for item in items)
    return f"<section class='card'><h2>{title}</h2><ul>{rows}</ul></section>" if rows else ""


def _reasons(records: list[Record], status: str) -> Iterator[str]:
    """Why runs did not come to their end."""
    for record in records:
        if record.status == status:
            yield f"{_link(record.run_id)} {_text(record.reason or 'no reason was recorded')}"


def _link(run_id: str) -> str:
    return f"<a href='#run={quote(run_id, safe='')}'>{_text(run_id)}</a>"


def _runs_table(frame: pd.DataFrame) -> str:
    """The table of runs. Columns with one value in all rows are hidden, named above it, and kept in the CSV."""
    columns = [(name, label) for name, label in COLUMNS if name in frame and frame[name].notna().any()]
    if (drawn := samples_rho(frame)).any():
        frame = frame.assign(rho=frame["rho"].astype(object).mask(drawn, "sampled"))
    if frame["rho"].equals(frame["rho_infer"]):
        columns = [column for column in columns if column[0] != "rho"]
    same = {name for name, _ in columns if name in CONTEXT and frame[name].nunique() == 1} if len(frame) > 1 else set()
    marks = {name: _cell_class(frame[name], hidden=name in same) for name, _ in columns}
    head = "".join(f"<th scope='col'{marks[name]}><button>{_text(label)}</button></th>" for name, label in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{marks[name]}>{_cell(name, row[name])}</td>" for name, _ in columns) + "</tr>"
        for row in frame.sort_values(["ap", "run_id"], ascending=[False, True]).to_dict("records")
    )
    shared = " · ".join(f"{label.lower()} {_values(frame[name])}" for name, label in columns if name in same)
    tools = "<label>Filter <input id='filter' type='search'></label><button id='csv'>Download CSV</button>"
    table = f"<table id='runs'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<section class='card'><div class='bar'><h2>Runs</h2>{tools}</div>"
        + (f"<p class='sub'>the same in all: {_text(shared)}</p>" if shared else "")
        + f"<div class='scroll' tabindex='0'>{table}</div></section>"
    )


def _cell_class(column: pd.Series, *, hidden: bool) -> str:
    names = ["n"] * pd.api.types.is_numeric_dtype(column) + ["same"] * hidden
    return f" class='{' '.join(names)}'" if names else ""


def _cell(column: str, value: Any) -> str:
    if column == "run_id":
        return _link(value)
    if column == "status":
        return f"<span class='{_text(value)}'>{_text(value)}</span>"
    return _text(show(column, value))


def _provenance(records: list[Record], frame: pd.DataFrame) -> str:
    """What the numbers mean and where they come from."""
    protocols = {name: text for record in records for name, text in record.protocols.items()}
    for name in frame["protocol"].dropna().unique():
        protocols.setdefault(name, "the records do not say what it includes.")
    counts = {
        "standard": "2 for a multiply-add, in convolutions, matrix products and attention (deformable attention: "
        "5 multiply-adds a sampling point and channel) on the tokens really computed; norms and activations are not.",
        "official": "GFLOPs are those of the official counter, to be compared with the paper.",
    }
    facts = [("AP", "COCO AP over IoU 0.50:0.95, times 100, on the validation split: " + _values(frame["dataset"]))]
    facts += [(f"Protocol {name}", text) for name, text in sorted(protocols.items())]
    facts += [("Latency bars", "10th to 90th percentile of the timed calls; the marker is their median.")]
    if (frame["busy_cores"] > MAX_BUSY_CORES).any():
        facts += [
            (
                "Hollow latency markers",
                f"other processes of the host used more than {MAX_BUSY_CORES:g} cores while it was measured.",
            )
        ]
    facts += [("FLOPs", counts[name]) for name in counts if name in set(frame["flops_count"])]
    facts += [(label, _values(frame[name])) for name, label in (("device", "Device"), ("backend", "Attention backend"))]
    facts += [
        (label, _values(pd.Series([environment_lines(r).get(key) for r in records], dtype=object)))
        for key, label in (("packages", "Versions"), ("git", "Source"), ("cpu", "Training CPU"), ("os", "System"))
    ]
    known = [(name, text) for name, text in facts if text not in {"", "none"}]
    items = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>" for name, text in known)
    return f"<footer class='card'><h2>Where the numbers come from</h2><dl>{items}</dl></footer>"


def _values(column: pd.Series) -> str:
    return "; ".join(show("", value) for value in column.dropna().unique())
