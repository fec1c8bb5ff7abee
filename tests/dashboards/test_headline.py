"""The sentences at the top of the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from simulated_stores import write_simulated, write_timed

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, with_values
from rhobench.config.protocols import TIMING_STATUSES
from rhobench.dashboards.headline import headline
from rhobench.results import Point, Record, Store, write_record
from rhobench.results.comparison import describe_difference
from rhobench.results.sides import compare_arguments


def add(
    store: Store,
    rho: float | None,
    ap: float,
    gflops: float,
    seed: int = 0,
    measured: dict[str, Any] | None = None,
    **settings: Any,
) -> None:
    values = {"model.rho": rho} | {path.replace("__", "."): value for path, value in settings.items()}
    config = with_values(RunConfig(experiment="sweep", seed=seed), values)
    name = run_id(config, tuple(values))
    point = Point(rho=rho, accuracy={"ap": ap}, gflops=gflops, flops_count="standard", **(measured or {}))
    record = Record(run_id=name, experiment="sweep", status="completed", config=to_dict(config), points=[point])
    write_record(store.run_dir(name), record)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_cheapest_rho_that_keeps_the_accuracy_is_told(store: Store) -> None:
    for rho, ap, gflops in ((0.1, 0.40, 50.0), (0.25, 0.485, 58.0), (0.5, 0.49, 70.0), (None, 0.50, 100.0)):
        for seed in (0, 1, 2):
            add(store, rho, ap + 0.001 * seed, gflops, seed)
    (sentence,) = headline(store.frame())
    assert sentence == (
        "ρ=0.25 keeps 97 % of the AP of the dense encoder at 58 % of its GFLOPs "
        "(AP 48.6 ± 0.1 against 50.1 ± 0.1; n = 3 seeds)."
    )


def test_other_precisions_and_batch_sizes_are_not_mixed_in(store: Store) -> None:
    """As after ``rhobench measure STORE --precision bf16 --batch 8``."""
    for rho, latency in ((0.1, 8.0), (1.0, 10.0)):
        measured = {"precision": "fp32", "batch_size": 1, "latency_ms": latency, "timing_status": "ok"}
        add(store, rho, 0.50, 100.0 * rho, measured=measured)
    (alone,) = headline(store.frame())
    assert "80 % of its latency" in alone
    for record in store.records():
        (point,) = record.points
        others = [
            replace(point, batch_size=8, latency_ms=100.0),
            replace(point, precision="bf16", accuracy={"ap": 0.6}, latency_ms=1.0),
        ]
        store.write(replace(record, points=[point, *others]))
    assert headline(store.frame()) == [alone]


def test_one_seed_is_named_as_one_seed(store: Store) -> None:
    add(store, 0.1, 0.40, 50.0)
    add(store, 1.0, 0.50, 100.0)
    (sentence,) = headline(store.frame())
    assert "keeps 80 % of the AP of ρ=1 (every token) at 50 % of its GFLOPs" in sentence
    assert "n = 1 seed, so the variation between seeds is unknown" in sentence


@pytest.mark.parametrize("status", [None, *TIMING_STATUSES])
def test_only_times_that_may_enter_a_front_are_told(store: Store, status: str | None) -> None:
    add(store, 0.1, 0.49, 50.0, measured={"latency_ms": 8.0, "timing_status": status})
    add(store, 1.0, 0.50, 100.0, measured={"latency_ms": 10.0, "timing_status": "ok"})
    (sentence,) = headline(store.frame())
    assert ("at 50 % of its GFLOPs and 80 % of its latency (AP" in sentence) == (status in (None, "ok"))
    assert ("at 50 % of its GFLOPs (AP" in sentence) == (status not in (None, "ok"))


@pytest.mark.parametrize("status", ["ok", "unstable", "shared"])
def test_times_of_the_same_rounds_are_told_on_a_machine_of_varying_speed(store: Store, status: str) -> None:
    for seed in (0, 1):
        write_timed(store, f"run{seed}", seed, status=status)
    (sentence,) = headline(store.frame(), store)
    assert ("at 10 % of its GFLOPs and 50 % of its latency (AP" in sentence) == (status != "shared")
    assert ("latency" in headline(store.frame())[0]) == (status == "ok"), "without the timed calls"


def test_the_difference_is_told_with_its_paired_interval(tmp_path: Path, simulation: ModuleType) -> None:
    for seeds, scope in (((0,), "over images, for these trained models"), ((0, 1, 2), "over images and seeds")):
        store = write_simulated(tmp_path / scope, simulation, {0.1: 1.5, 1.0: 1.6}, images=60, seeds=seeds)
        frame = store.frame()
        (sentence,) = headline(frame, store)
        ((one,), _) = compare_arguments("ρ 1", "ρ 0.1", "ap", str(store.path))
        assert f"paired difference {describe_difference(one.difference, 'ap')} {scope})" in sentence
        assert "paired" not in headline(frame)[0]


def test_it_says_plainly_that_no_saving_is_shown(store: Store) -> None:
    add(store, 0.1, 0.0, 50.0)
    assert headline(store.frame()) == ["No saving is shown: no runs differ only in ρ."]
    add(store, 1.0, 0.0, 100.0)
    (sentence,) = headline(store.frame())
    assert sentence == "No saving is shown: ρ=1 (every token) itself reaches an AP of only 0.0."


def test_runs_that_differ_in_more_than_rho_are_not_compared(store: Store) -> None:
    add(store, 0.1, 0.40, 50.0, train__lr=1e-3)
    add(store, 1.0, 0.50, 100.0, train__lr=1e-4)
    assert headline(store.frame()) == ["No saving is shown: no runs differ only in ρ."]


def test_an_empty_store_has_a_sentence(store: Store) -> None:
    add(store, 0.1, 0.40, 50.0)
    assert headline(store.frame().iloc[:0]) == ["No run has both AP and GFLOPs yet."]
