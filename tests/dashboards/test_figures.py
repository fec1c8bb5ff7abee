from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest

from rhobench.config import RunConfig
from rhobench.config.experiment import Experiment
from rhobench.dashboards import learning_curves, pareto
from rhobench.dashboards.figures.style import DARK, RAMP, SERIES
from rhobench.results import Store


def traces(figure: go.Figure, meta: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.meta == meta]


def test_the_front_joins_the_configurations_that_are_not_dominated(store: Store) -> None:
    figure = pareto(store.frame(), "gflops", "ap")
    (front,), (dominated,), (line,) = (traces(figure, meta) for meta in ("front", "dominated", "line"))
    assert front.x == pytest.approx((0.52, 0.55, 0.60, 0.68))
    assert front.y == pytest.approx((52.1, 54.1, 54.6, 55.1)), "the mean of two seeds, times 100"
    assert front.text == ("ρ 0.1", "ρ 0.25", "ρ 0.5", "ρ 1")
    assert (dominated.x, dominated.y) == ((0.7,), (50.0,))
    assert (line.x, line.y, line.line.shape) == (front.x, front.y, "hv")
    assert figure.layout.yaxis.title.text == "AP"
    assert figure.layout.xaxis.title.text == "GFLOPs (per image)"


def test_the_front_of_fps_has_its_steps_reversed(store: Store) -> None:
    figure = pareto(store.frame(), "fps")
    (line,) = traces(figure, "line")
    assert line.line.shape == "vh"
    assert list(line.y) == sorted(line.y, reverse=True)
    assert "better ↗" in [a.text for a in figure.layout.annotations]


def test_error_bars_are_seeds_for_ap_and_percentiles_for_latency(store: Store) -> None:
    (front,) = traces(pareto(store.frame(), "latency_ms"), "front")
    assert front.error_x.array[0] == pytest.approx(31 * 0.2)
    assert front.error_x.arrayminus[0] == pytest.approx(31 * 0.1)
    assert front.error_y.array[0] == pytest.approx(0.1414, abs=1e-3)
    (front,) = traces(pareto(store.frame(), "gflops"), "front")
    assert front.error_x.array is None, "seeds have the same GFLOPs"


def test_subtitle_counts_seeds_and_failures(store: Store) -> None:
    subtitle = pareto(store.frame()).layout.title.subtitle.text
    assert "4 of 5 configurations on the front" in subtitle
    assert "n = 1 to 2 seeds" in subtitle
    assert "1 failed run not shown" in subtitle
    frame = store.frame()
    assert "n = 1 seed;" in pareto(frame[frame["seed"] != 1]).layout.title.subtitle.text


def test_a_stopped_run_is_counted_and_never_on_a_front(store: Store) -> None:
    frame = store.frame()
    frame.loc[frame["rho"] == 1.0, "status"] = "stopped"
    figure = pareto(frame)
    (front,) = traces(figure, "front")
    assert "ρ 1" not in front.text
    assert "1 failed run not shown; 2 stopped runs not shown" in figure.layout.title.subtitle.text


def test_disturbed_times_are_hollow_and_name_the_other_programs(store: Store) -> None:
    frame = store.frame()
    busy = frame["rho"] == 0.25
    frame["timing_status"] = "ok"
    frame.loc[busy, ["timing_status", "timing_reason"]] = ["shared", "other processes: python 0.6, <b>x"]
    figure = pareto(frame, "latency_ms")
    (dominated,) = (
        trace for trace in traces(figure, "dominated") if len(trace.x) and "open" in str(trace.marker.symbol)
    )
    assert dominated.marker.symbol == ("square-open",)
    assert (
        "time is shared, not eligible for the front: other processes: python 0.6, &lt;b&gt;x"
        in dominated.customdata[0][0]
    )
    assert "other processes" not in traces(figure, "front")[0].customdata[0][0]
    text = "hollow: 1 not eligible for the front because of their time: 1 shared"
    assert text in figure.layout.title.subtitle.text
    figure = pareto(frame, "gflops")
    (front,) = traces(figure, "front")
    assert front.marker.symbol == "square", "a count does not depend on what else runs"
    assert "other processes" not in front.customdata[1][0] + figure.layout.title.subtitle.text


def test_a_front_never_joins_devices(store: Store) -> None:
    frame = store.frame()
    frame.loc[frame["rho"] == 0.1, "device"] = "another CPU"
    figure = pareto(frame, "latency_ms")
    assert {line.name for line in traces(figure, "line")} == {"Front · a CPU", "Front · another CPU"}
    assert "2 settings that cannot be compared" in figure.layout.title.subtitle.text
    assert len(traces(pareto(frame, "gflops"), "line")) == 1


def test_a_model_has_one_colour_in_every_figure(store: Store) -> None:
    frame = store.frame()
    frame.loc[frame["rho"] == 0.1, "device"] = "another CPU"
    frame.loc[frame["backbone"] == "resnet18", "latency_ms"] = None
    gflops, latency = (
        {trace.name.partition(" · a")[0]: trace.marker.color for trace in traces(pareto(frame, x), "front")}
        for x in ("gflops", "latency_ms")
    )
    assert gflops == latency
    symbols = [trace.marker.symbol for trace in traces(pareto(frame, "latency_ms"), "front")]
    assert len(set(symbols)) == len(symbols) == 2


def test_a_marker_links_to_its_run_and_describes_it(store: Store) -> None:
    (front,) = traces(pareto(store.frame(), "latency_ms"), "front")
    hover, run = front.customdata[0]
    assert run in set(store.frame()["run_id"])
    for part in ("ρ 0.1", "sparse_detr · resnet50", "52.1", "31.0", "[27.9 to 37.2]", "n = 2 seeds"):
        assert part in hover


def test_curves_highlight_the_best_run_of_each_configuration(store: Store) -> None:
    figure = learning_curves(store.curves(), store.frame(), highlighted=2)
    shown = traces(figure, "curve")
    assert [trace.name for trace in shown] == ["resnet50 · ρ 0.5 · seed 1", "resnet50 · ρ 1 · seed 1"]
    assert shown[1].y[-1] == pytest.approx(55.2)
    (others,) = traces(figure, "others")
    assert others.x.count(None) == 8, "the other 8 of 10 runs, the failed one too, are drawn, in grey"


def test_figures_of_an_empty_store_say_that_they_are_empty(tmp_path: Path) -> None:
    empty = Store(tmp_path)
    empty.claim(Experiment(summary="", base=RunConfig(experiment="e")))
    for figure in (pareto(empty.frame()), learning_curves(empty.curves(), empty.frame())):
        assert not figure.data
        assert any("yet" in annotation.text for annotation in figure.layout.annotations)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_enough_contrast_in_both_themes() -> None:
    for color in (*SERIES, *RAMP):
        assert contrast(color, "#ffffff") >= 3
        assert contrast(DARK[color], DARK["#ffffff"]) >= 3
    assert not set(DARK) & set(DARK.values()), "the page replaces one colour after the other"
