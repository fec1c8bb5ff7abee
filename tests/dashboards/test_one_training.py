from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_page import column, embedded

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_values
from rhobench.dashboards import one_training, pareto, write_report
from rhobench.dashboards.figures.one_training import MAX_SETTINGS
from rhobench.results import Point, Record, Store, by_configuration, write_record

RHOS = (0.1, 0.5, 1.0)


def add(store: Store, aps: dict[float, float], seed: int = 0, **settings: Any) -> str:
    """A completed run with a point for each (rho, AP); settings of its config by path, "__" for a dot."""
    values = {path.replace("__", "."): value for path, value in settings.items()}
    config = with_values(RunConfig(experiment="sweep", seed=seed), values)
    name = run_id(config, tuple(values))
    points = [Point(rho=rho, accuracy={"ap": ap}, gflops=1 + rho, flops_count="standard") for rho, ap in aps.items()]
    record = Record(run_id=name, experiment="sweep", status="completed", config=to_dict(config), points=points)
    write_record(store.run_dir(name), record)
    return name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A training for each rho, and one that sampled its rho, with two seeds."""
    store = Store(tmp_path)
    for rho, ap in zip(RHOS, (0.40, 0.44, 0.46), strict=True):
        add(store, {rho: ap}, model__rho=rho)
    for seed, better in ((0, 0.0), (1, 0.02)):
        aps = dict(zip(RHOS, (0.38 + better, 0.43 + better, 0.45 + better), strict=True))
        add(store, aps, seed, model__rho=0.5, model__rho_choices=RHOS, measure__rhos=RHOS)
    return store


def test_one_training_is_compared_with_a_training_for_each_rho(store: Store) -> None:
    figure = one_training(store.frame())
    one, each = figure.data
    assert "n = 2 seeds; bars: AP ± sd over seeds" in figure.layout.title.subtitle.text
    assert (one.meta, one.name, each.meta, each.name) == (
        "one",
        "one training, ρ sampled",
        "each",
        "a training for each ρ",
    )
    assert one.x == each.x == RHOS
    assert one.y == pytest.approx((39, 44, 46)), "the mean of two seeds, times 100"
    assert each.y == pytest.approx((40, 44, 46))
    assert one.error_y.array == pytest.approx([1.4142] * 3, abs=1e-3)
    assert each.error_y.array is None
    hover, run = one.customdata[0]
    assert run in set(store.frame()["run_id"])
    assert "n = 2 seeds" in hover


def test_trainings_that_differ_in_more_than_rho_are_not_compared(store: Store) -> None:
    add(store, {0.1: 0.9}, model__rho=0.1, train__lr=1e-3)
    add(store, {0.1: 0.2, 1.0: 0.3}, model__rho=0.1, measure__rhos=(1.0,), model__scoring="random")
    traces = {trace.name: trace for trace in one_training(store.frame()).data}
    assert set(traces) == {
        "one training, ρ sampled · dam",
        "a training for each ρ · dam",
        "one training, ρ 0.1 · random",
        "a training for each ρ · random",
    }
    assert traces["a training for each ρ · dam"].y == pytest.approx((40, 44, 46))
    assert traces["a training for each ρ · random"].x == (0.1,)
    assert traces["one training, ρ 0.1 · random"].y == pytest.approx((20, 30))


def test_trainings_with_other_epochs_are_separate_lines(store: Store) -> None:
    """A training for every rho has cheaper steps and therefore may have more of them."""
    add(store, {0.1: 0.3}, model__rho=0.1, train__epochs=3)
    longer = {0.1: 0.41, 0.5: 0.45, 1.0: 0.46}
    add(store, longer, model__rho=0.5, model__rho_choices=(0.1, 0.1, 1.0), measure__rhos=RHOS, train__epochs=60)
    traces = {trace.name: trace for trace in one_training(store.frame()).data}
    assert set(traces) == {
        "one training, ρ sampled · 50 epochs",
        "one training, ρ sampled · 60 epochs",
        "a training for each ρ · 3 epochs",
        "a training for each ρ · 50 epochs",
    }
    assert traces["a training for each ρ · 3 epochs"].x == (0.1,)
    assert traces["a training for each ρ · 50 epochs"].y == pytest.approx((40, 44, 46))


def test_labels_show_that_rho_was_sampled(store: Store) -> None:
    labels = set(by_configuration(store.frame())["label"])
    assert labels == {"ρ 0.1", "ρ 0.5", "ρ 1", "ρ sampled→0.1", "ρ sampled→0.5", "ρ sampled→1"}
    assert "ρ sampled→0.1" in json.dumps(json.loads(pareto(store.frame()).to_json()), ensure_ascii=False)


def test_labels_of_different_trainings_differ(store: Store) -> None:
    add(store, {0.1: 0.4}, model__rho=1.0, model__rho_choices=RHOS, measure__rhos=RHOS)
    labels = by_configuration(store.frame())["label"]
    assert labels.is_unique
    assert {"ρ sampled→0.1 · rho 0.5", "ρ sampled→0.1 · rho 1"} <= set(labels)


def test_the_page_has_the_figure_only_if_it_has_data(store: Store, tmp_path: Path) -> None:
    report = write_report(store, tmp_path / "report.html")
    assert "plot-every-rho" in report.read_text(encoding="utf-8")
    assert column(embedded(report), "sampled").count(True) == 6, "three points of each of two seeds"
    plain = Store(tmp_path / "plain")
    add(plain, {0.1: 0.4}, model__rho=0.1)
    assert not one_training(plain.frame()).data
    assert "plot-every-rho" not in write_report(plain, tmp_path / "plain.html").read_text(encoding="utf-8")


def test_only_the_best_of_many_settings_are_drawn(tmp_path: Path) -> None:
    many = Store(tmp_path)
    for i in range(MAX_SETTINGS + 3):
        add(many, {0.1: 0.30 + i / 100, 0.5: 0.40 + i / 100}, model__rho=0.5, train__lr=1e-4 * (i + 1))
    figure = one_training(many.frame())
    assert len([trace for trace in figure.data if trace.meta == "one"]) == MAX_SETTINGS
    assert max(max(trace.y) for trace in figure.data) == pytest.approx(40 + MAX_SETTINGS + 2)
