"""Tables, verdicts and figures of the ablations on generated scenes, from the store that they were run in.

    python benchmarks/ablations.py STORE [--experiments scoring,encoder_depth,...] [--images FOLDER]

Prints Markdown: for each experiment its configurations with AP over the seeds, the share of the decoder's attention on
the selected tokens over the epochs (Corr), and what the experiment expects, with verdicts. With ``--images``, the
figures are written as PNG, which needs ``rhobench[export]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from rhobench.dashboards.export import export_figure, write_figure
from rhobench.dashboards.figures.card import Tables
from rhobench.dashboards.grid import Grid, markdown
from rhobench.dashboards.store_tables import read_tables
from rhobench.results import Store
from rhobench.results.evaluations import Evaluations
from rhobench.results.expectations import compare_with_expectations
from rhobench.results.published_runs import CORR_ENTRY
from rhobench.results.uncertainty import with_uncertainty
from rhobench.study.request import StudyRequest
from rhobench.study.resolve import resolve_study

FIGURES = {"scoring": ("scoring", "dam"), "encoder_depth": ("encoder-depth",), "rho_at_inference": ("rho-map",)}
"""Figures of each experiment, by their names on the report page."""

WIDTH_MM = 120.0


def accuracy(frame: pd.DataFrame, store: Store) -> Grid:
    """AP of each configuration: mean, deviation and 95 % interval over its seeds, and GFLOPs."""
    rows = with_uncertainty(frame, store=store)
    cells = []
    for row in rows.to_dict("records"):
        values = [f"{100 * row[name]:.1f}" for name in ("ap", "ap_sd", "ap_low", "ap_high")]
        spread = f" ± {values[1]}" if row["n"] > 1 else ""
        interval = f"{values[2]} to {values[3]} ({row['interval_covers']})"
        cells.append((row["label"], str(row["n"]), values[0] + spread, interval, f"{row['gflops']:.3f}"))
    return Grid("AP", ("configuration", "seeds", "AP", "95 % interval", "GFLOPs"), cells, texts=(0, 3))


def correlation(frame: pd.DataFrame, curves: pd.DataFrame) -> Grid:
    """Corr after each epoch by scoring function and rho: mean and range over the seeds."""
    runs = frame.drop_duplicates("run_id")[["run_id", "model.scoring", "rho"]]
    points = curves[curves[CORR_ENTRY].notna()].merge(runs, on="run_id")
    epochs = sorted(points["epoch"].unique())
    cells = []
    for (rho, name), group in points.groupby(["rho", "model.scoring"]):
        by_epoch = group.groupby("epoch")[CORR_ENTRY].agg(["mean", "min", "max"])
        texts = [f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in by_epoch.itertuples(index=False)]
        cells.append((f"{name}, ρ {rho:g}", str(group["run_id"].nunique()), *texts))
    return Grid("Corr", ("scoring", "seeds", *(f"epoch {epoch}" for epoch in epochs)), cells, texts=(0,))


def sections(store: Store, name: str, tables: Tables) -> Iterator[str]:
    """Markdown of one experiment."""
    study = resolve_study(StudyRequest(experiment=name)).resolved_in(store)
    # A run that several experiments share has the name of one of them, and labels compare runs of one experiment.
    own = tables.frame[tables.frame["run_id"].isin(study.run_ids)].assign(experiment=name)
    yield f"## {name}\n"
    if own["ap"].notna().sum() == 0:
        yield "not run\n"
        return
    done = own.loc[own["ap"].notna(), "run_id"].nunique()
    seconds = own.groupby("run_id")["train_seconds"].first().sum()
    yield f"{done} of {len(study.run_ids)} runs, {seconds:.0f} s of training.\n"
    # Other experiments of the store may have measured shared runs at further rho.
    asked = {(i, rho) for i, c in study.configs_by_id.items() for rho in (c.model.rho, *c.measure.rhos)}
    points = own[[pair in asked for pair in zip(own["run_id"], own["rho_infer"], strict=True)]]
    yield markdown(accuracy(points, store)) + "\n"
    if "dam" in FIGURES.get(name, ()):
        yield markdown(correlation(own, tables.curves)) + "\n"
    for verdict in compare_with_expectations(name, study.original.expected, own, evaluations=Evaluations(store)):
        yield f"- {verdict.sentence()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the sections and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--experiments", default=",".join(FIGURES))
    parser.add_argument("--images", type=Path)
    options = parser.parse_args(arguments)
    store = Store(options.store)
    tables = read_tables(store, store.records())
    for name in options.experiments.split(","):
        print("\n".join(sections(store, name, tables)), end="\n\n")
        for figure in FIGURES.get(name, ()) if options.images else ():
            file = options.images / f"ablation-{figure}.png"
            write_figure(export_figure(tables, figure, "gflops", "ap", WIDTH_MM), file, WIDTH_MM)


if __name__ == "__main__":
    main()
