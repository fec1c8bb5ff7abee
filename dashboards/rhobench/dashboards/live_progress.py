"""The part of the live view that follows running sweeps: their runs, what waits and why, and the load of the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rhobench.config.metrics import METRICS
from rhobench.results import Store, printable
from rhobench.results.sweep_progress import RunProgress, SweepProgress, read_progress

MAX_LISTED = 40
"""Unfinished runs of a sweep that are listed."""

SILENT_SECONDS = 30.0
"""Age of the progress of a sweep from which its command is taken to be dead; it writes every 2 to 10 seconds."""


def running_section(store: Store) -> Any:
    """Every running sweep of a store, then runs that have begun and that no sweep lists."""
    from dash import html

    sweeps = read_progress(store)
    listed = {run.run_id for sweep in sweeps for run in sweep.runs}
    # Without the file of a sweep, as after the death of its command, or for the attempts of an earlier version.
    others = {run_id: attempt for run_id, attempt in store.active().items() if run_id not in listed}
    parts = [part for sweep in sweeps for part in _sweep(sweep)]
    if others:
        parts += [html.H3("Begun and not finished")] if sweeps else []
        parts.append(_attempts(others))
    return html.Div(parts or html.P("Nothing is running.", className="sub"))


def table_of(heads: list[str], rows: list[list[Any]]) -> Any:
    """An HTML table that scrolls sideways if it must."""
    from dash import html

    head = html.Thead(html.Tr([html.Th(name, scope="col") for name in heads]))
    body = html.Tbody([html.Tr([html.Td(printable(cell)) for cell in row]) for row in rows])
    return html.Div(html.Table([head, body]), className="scroll")


def _sweep(sweep: SweepProgress) -> Iterator[Any]:
    from dash import html

    yield html.H3(printable(f"{sweep.title}: {sweep.headline}"))
    parts = [f"{count:,} {state}" for state, count in sweep.states.items()]
    if sweep.seconds_left is not None:
        parts.append(f"about {duration(sweep.seconds_left)} of training left")
    yield html.P(printable(", ".join(parts)), className="sub")
    if sweep.age_seconds > SILENT_SECONDS:
        words = f"No sign of life for {duration(sweep.age_seconds)}: its command was killed, or its machine is gone."
        yield html.P(f"{words} Run the same command again to continue.", className="failed")
    if sweep.runs:
        heads = ["Run", "State", "Epoch", "Loss", "AP so far", "Time left"]
        yield table_of(heads, [_run(run) for run in sweep.runs[:MAX_LISTED]])
        more = sum(sweep.states.get(state, 0) for state in {run.state for run in sweep.runs}) - MAX_LISTED
        if more > 0:
            yield html.P(f"and {more:,} more", className="sub")
    if sweep.nodes:
        rows = [
            [node.node[:12], _share(node.used_cpus, node.cpus), _share(node.used_gpus, node.gpus)]
            for node in sweep.nodes
        ]
        yield table_of(["Node", "Reserved CPUs", "Reserved GPUs"], rows)


def _run(run: RunProgress) -> list[str]:
    return [
        run.run_id,
        f"{run.state}: {run.note}" if run.note else run.state,
        "" if run.epoch is None else f"{run.epoch:.1f} of {run.epochs}",
        "" if run.loss is None else f"{run.loss:.2f}",
        "" if run.ap is None else METRICS["ap"].format(run.ap),
        "" if run.seconds_left is None else duration(run.seconds_left),
    ]


def _share(used: float, total: float) -> str:
    return f"{used:g} of {total:g}" if total else "none"


def duration(seconds: float) -> str:
    """A time in its largest two units, such as "2 h 05 min" or "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _attempts(attempts: dict[str, dict[str, Any]]) -> Any:
    """Runs without a record, with the start and the node of their attempt."""
    rows = [
        [run_id, attempt.get("started_at") or "–", str(attempt.get("node") or "–")[:12], _count(attempt.get("past"))]
        for run_id, attempt in sorted(attempts.items())
    ]
    return table_of(["Run", "Started (UTC)", "Node", "Failed attempts"], rows)


def _count(items: Any) -> int:
    return len(items) if isinstance(items, list) else 0
