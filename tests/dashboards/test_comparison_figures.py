"""The figures that compare settings, on a store of five experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from five_experiments import CLASSES, PARTS, five_experiments
from simulated_stores import write_timed

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.metrics import metric
from rhobench.dashboards.export import paper_ready
from rhobench.dashboards.figures.card import Tables
from rhobench.dashboards.figures.class_ap import class_ap
from rhobench.dashboards.figures.cost_parts import MAX_BARS, cost_parts
from rhobench.dashboards.figures.dam_correlation import CORR_ENTRY, dam_correlation
from rhobench.dashboards.figures.encoder_depth import encoder_depth
from rhobench.dashboards.figures.latency_spread import latency_spread
from rhobench.dashboards.figures.one_training import one_training
from rhobench.dashboards.figures.parallel import parallel
from rhobench.dashboards.figures.rho_map import rho_map
from rhobench.dashboards.figures.savings import savings
from rhobench.dashboards.figures.scoring import scoring
from rhobench.dashboards.figures.seed_lines import seed_line
from rhobench.dashboards.store_tables import read_tables
from rhobench.results import Point, Record, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return five_experiments(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def tables(store: Store) -> Tables:
    return read_tables(store, store.records())


def test_rho_at_training_against_rho_at_inference(tables: Tables) -> None:
    (cells,) = rho_map(tables.frame).data
    assert cells.x == ("0.1", "0.2", "0.3", "0.4", "0.5", "1")
    own = tables.frame[(tables.frame["experiment"] == "rho_map") & (tables.frame["rho"] == 0.2)].set_index("rho_infer")
    row = dict(zip(cells.x, cells.z[cells.y.index("0.2")], strict=True))
    assert row["0.5"] == pytest.approx(100 * own["ap"][0.5])
    assert cells.text[cells.y.index("0.2")][cells.x.index("0.4")] == "no result"
    assert len(rho_map(tables.frame).layout.shapes) == 6, "one outline for each rho of training"


def test_a_cell_of_several_seeds_has_their_deviation(tables: Tables) -> None:
    sweep = tables.frame[tables.frame["experiment"].isin(["rho_sweep", "rho_map"])]
    (cells,) = rho_map(sweep).data
    text = {(y, x): cells.text[i][k] for i, y in enumerate(cells.y) for k, x in enumerate(cells.x)}
    own = 100 * sweep.loc[(sweep["rho"] == 0.4) & (sweep["rho_infer"] == 0.4), "ap"]
    assert text["0.4", "0.4"] == f"{own.mean():.1f}<br>± {own.std():.1f}"
    assert "±" not in text["0.2", "0.5"], "one seed has no deviation"


def test_encoder_depth_has_a_solid_and_a_dashed_line_and_bands_of_seeds(tables: Tables) -> None:
    figure = encoder_depth(tables.frame)
    lines = {trace.name: trace for trace in figure.data if trace.meta != "band"}
    assert {name: trace.line.dash for name, trace in lines.items()} == {
        "with auxiliary loss": "solid",
        "without auxiliary loss": "dash",
    }
    assert lines["with auxiliary loss"].x == (2, 3, 4, 6)
    assert len([trace for trace in figure.data if trace.meta == "band"]) == 2
    depth = tables.frame[(tables.frame["enc_layers"] == 2) & tables.frame["use_enc_aux_loss"]]
    assert lines["with auxiliary loss"].y[0] == pytest.approx(100 * depth["ap"].mean())


def test_a_band_of_seeds_has_no_outline_on_paper(tables: Tables) -> None:
    figure = paper_ready(encoder_depth(tables.frame), width_mm=84)
    assert {trace.line.width for trace in figure.data if trace.meta == "band"} == {0}
    assert {trace.line.width for trace in figure.data if trace.meta != "band"} == {1.2}


def test_a_single_point_has_an_error_bar_of_its_seeds(tables: Tables) -> None:
    depth = tables.frame[(tables.frame["enc_layers"] == 2) & tables.frame["use_enc_aux_loss"]]
    (point,) = seed_line(depth, "enc_layers", metric("ap"), "one", "#1f77c9", "circle")
    ends = (point.y[0] - point.error_y.arrayminus[0], point.y[0] + point.error_y.array[0])
    assert ends == pytest.approx((100 * depth["ap"].min(), 100 * depth["ap"].max()))


def test_scoring_functions_differ_in_colour_symbol_and_dash(tables: Tables) -> None:
    lines = [trace for trace in scoring(tables.frame).data if trace.meta != "band"]
    assert [line.name for line in lines] == ["DAM", "objectness score", "random"]
    for look in ([line.line.color for line in lines], [line.marker.symbol for line in lines]):
        assert len(set(look)) == 3
    assert len({line.line.dash for line in lines}) == 3
    assert lines[2].y[0] < lines[0].y[0]


def test_parts_are_stacked_to_the_whole_cost(tables: Tables) -> None:
    figure = cost_parts(tables.frame, tables.breakdown)
    assert [bar.name for bar in figure.data] == list(PARTS)
    assert len(figure.data[0].y) == len(set(figure.data[0].y)) == MAX_BARS
    total = [sum(shares) for shares in zip(*(bar.x for bar in figure.data), strict=True)]
    assert total == sorted(total)
    assert total[-1] == pytest.approx(tables.frame["gflops"].max())


def test_ap_by_class_has_a_row_per_class(tables: Tables) -> None:
    (cells,) = class_ap(tables.frame, tables.breakdown).data
    assert set(cells.y) == set(CLASSES)
    assert len(cells.x) == len(set(cells.x)) == 10


@pytest.mark.parametrize("build", [one_training, encoder_depth, scoring, rho_map])
def test_a_run_that_was_measured_again_counts_once(build: Callable[[pd.DataFrame], go.Figure], tables: Tables) -> None:
    """As after ``rhobench measure --batch 8``, here for one seed of each configuration."""
    again = tables.frame[tables.frame["seed"] == 0].assign(batch_size=8)
    once, twice = build(tables.frame), build(pd.concat([tables.frame, again], ignore_index=True))
    assert once.data
    for field in ("x", "y", "z", "error_y"):
        assert str([trace.to_plotly_json().get(field) for trace in once.data]) == str(
            [trace.to_plotly_json().get(field) for trace in twice.data]
        )


def test_each_precision_of_a_run_has_classes_and_parts_of_its_own(tmp_path: Path) -> None:
    own = Store(tmp_path)
    points = [
        Point(
            rho=0.3,
            precision=precision,
            accuracy={"ap": ap},
            ap_by_class={"disc": ap, "cube": ap / 2},
            gflops=gflops,
            gflops_by_part={"encoder": gflops},
        )
        for precision, ap, gflops in (("fp32", 0.5, 9.0), ("bf16", 0.4, 8.0))
    ]
    config = to_dict(RunConfig(experiment="e"))
    own.write(Record(run_id="other", experiment="e", status="failed", config=config))
    own.write(Record(run_id="run", experiment="e", status="completed", config=config, points=points))
    tables = read_tables(own, own.records())
    (cells,) = class_ap(tables.frame, tables.breakdown).data
    disc = dict(zip(cells.x, cells.z[cells.y.index("disc")], strict=True))
    assert {("bf16" in name, round(value)) for name, value in disc.items()} == {(True, 40), (False, 50)}
    (bar,) = cost_parts(tables.frame, tables.breakdown).data
    assert bar.x == (8.0, 9.0)


def test_parallel_coordinates_have_an_axis_per_varied_setting(tables: Tables) -> None:
    (lines,) = parallel(tables.frame).data
    names = [axis.label for axis in lines.dimensions]
    assert names[0] == "backbone"
    assert {"scoring", "enc_layers", "num_queries", "GFLOPs (per image)", "AP"} <= set(names)
    assert {len(axis["values"]) for axis in lines.dimensions} == {len(tables.frame)}


def test_dam_correlation_compares_scoring_functions_from_the_smallest_rho(tables: Tables) -> None:
    figure = dam_correlation(tables.frame, tables.curves)
    lines = [trace for trace in figure.data if trace.meta != "band"]
    assert len(lines) == 8
    assert "first 8 of 12 configurations" in figure.layout.title.subtitle.text
    assert lines[0].y[0] == pytest.approx(0.35)
    assert [line.name for line in lines[:3]] == ["DAM, ρ 0.1", "objectness score, ρ 0.1", "random, ρ 0.1"]
    looks = {(line.line.color, line.marker.symbol, line.line.dash) for line in lines}
    assert len(looks) == 8


def test_dam_correlation_has_a_line_per_configuration_with_the_range_of_its_seeds(tables: Tables) -> None:
    sweep = tables.frame[tables.frame["experiment"] == "rho_sweep"]
    curves = tables.curves.copy()
    raised = curves["run_id"].isin(sweep.loc[sweep["seed"] == 2, "run_id"])
    curves.loc[raised, CORR_ENTRY] += 0.09
    traces = dam_correlation(sweep, curves).data
    lines, bands = ([trace for trace in traces if (trace.meta == "band") is band] for band in (False, True))
    assert len(lines) == len(bands) == sweep["configuration"].nunique()
    assert lines[0].y[0] == pytest.approx(0.35 + 0.03), "the mean of three seeds"
    assert (min(bands[0].y), max(bands[0].y)) == pytest.approx((0.35, 0.70 + 0.09))


def test_single_calls_are_boxes_fastest_first(store: Store, tables: Tables, tmp_path: Path) -> None:
    assert not latency_spread(tables.frame, tables.calls).data, "this store has no timed calls"
    fastest = tables.frame.sort_values("latency_ms").iloc[:2]
    calls = pd.DataFrame(
        [
            {"point": point, "latency_ms": latency + i}
            for point, latency in fastest["latency_ms"].items()
            for i in range(5)
        ]
    )
    boxes = latency_spread(tables.frame, calls).data
    assert [box.x[0] for box in boxes] == fastest["latency_ms"].tolist()
    assert boxes[0].meta["run"] == fastest["run_id"].iloc[0]


def test_savings_in_time_stand_beside_those_in_operations(tables: Tables, tmp_path: Path) -> None:
    assert not savings(tables.frame, tables.calls).data, "this store has no timed calls"
    store = Store(tmp_path)
    for seed in (0, 1):
        write_timed(store, f"run{seed}", seed)
    own = read_tables(store, store.records())
    latency, gflops = savings(own.frame, own.calls).data
    assert list(latency.y) == list(gflops.y) == ["ρ sampled→0.1", "ρ sampled→0.5"]
    assert list(latency.x) == pytest.approx([50, 75], abs=0.3)
    assert list(gflops.x) == pytest.approx([10, 50])
    assert all(width < 1 for width in (*latency.error_x.array, *latency.error_x.arrayminus))
    assert "of ρ sampled→1, the slowest" in savings(own.frame, own.calls).layout.title.subtitle.text


def test_fewer_points_have_a_box_where_names_take_two_lines(tables: Tables) -> None:
    """On a phone, twelve names of two lines overlap."""
    frame = tables.frame[tables.frame["latency_ms"].notna()].head(8)
    assert len(frame) == 8
    calls = pd.DataFrame({"point": frame.index, "latency_ms": frame["latency_ms"]})
    long = frame.assign(protocol=["latency-detector/2 (min_calls 10, warmup_calls 1)"] + ["throughput-detector/1"] * 7)
    assert len(latency_spread(frame, calls).data) == 8
    boxes = latency_spread(long, calls).data
    assert len(boxes) == 6
    assert all(box.name.count("<br>") == 1 for box in boxes)


def test_timed_calls_are_those_of_the_file_that_a_point_names(store: Store) -> None:
    frame = store.frame()
    assert store.timed_calls(frame).empty, "no point names a file"
    points = frame.iloc[:1].assign(samples_file="samples-1.parquet")
    file = store.run_dir(points["run_id"].iloc[0]) / "samples-1.parquet"
    columns = {"phase": ["warm-up", "timed"], "rho": [0.3, 0.3], "latency_ms": [900.0, 20.0]}
    try:
        pd.DataFrame(columns).to_parquet(file)
        assert store.timed_calls(points)["latency_ms"].tolist() == [20.0], "without the warm-up"
        both = pd.DataFrame({"rho": [0.3, 0.3, 0.3, 0.5], "batch_size": [1, 8, 8, 8], "latency_ms": [20.0, 80, 81, 9]})
        both.to_parquet(file)
        of_two = pd.concat([points.assign(batch_size=size) for size in (8, 1)], ignore_index=True)
        calls = store.timed_calls(of_two).groupby("point")["latency_ms"].agg(list)
        assert calls.to_dict() == {0: [80.0, 81.0], 1: [20.0]}, "each of two points at one rho has its own"
        file.write_bytes(b"PAR1 no")
        assert store.timed_calls(points).empty
        assert str(file) in store.problems[-1]
    finally:
        file.unlink()
