"""Runs that a store already holds: found whoever computed them, and only where they are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.paths import run_id, run_key, to_dict, with_values
from rhobench.results import Record, Store, write_record
from rhobench.study.known_runs import KnownRuns

MINE, THEIRS = RunConfig(experiment="mine"), RunConfig(experiment="theirs")
PATHS = ("model.rho",)


def add(store: Store, config: RunConfig, status: Any = "completed", name: str | None = None, **fields: Any) -> str:
    name = name or run_id(config, PATHS)
    record = Record(
        run_id=name, experiment=config.experiment, status=status, config=to_dict(config) | fields, reason=None
    )
    write_record(store.run_dir(name), record)
    return name


def test_nothing_is_known_where_there_is_no_store(tmp_path: Path) -> None:
    named = KnownRuns.of(Store(tmp_path / "none")).name(MINE, PATHS)
    assert named.run_id == run_id(MINE, PATHS)
    assert (named.config, named.record, named.begun) == (MINE, None, False)


def test_a_run_of_another_experiment_is_taken_with_its_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    there = add(store, THEIRS)
    known = KnownRuns.of(store)
    named = known.name(MINE, PATHS)
    assert there.startswith("theirs-rho0.3-seed0-")
    assert there.endswith(run_key(MINE))
    assert named.run_id == there
    assert named.config == THEIRS, "its checkpoint is one of theirs"
    assert named.record is not None
    for other in (replace(MINE, seed=1), with_values(MINE, {"model.rho": 0.5}), with_values(MINE, {"train.lr": 1e-3})):
        assert known.name(other, PATHS).run_id == run_id(other, PATHS)


def test_how_a_run_is_executed_may_differ_and_is_that_of_now(tmp_path: Path) -> None:
    store = Store(tmp_path)
    there = add(store, THEIRS)
    wider = with_values(MINE, {"train.num_workers": 2})
    named = KnownRuns.of(store).name(wider, PATHS)
    assert (named.run_id, named.config.train.num_workers) == (there, 2)


def test_how_a_run_is_measured_is_part_of_what_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, THEIRS)
    at_more = with_values(MINE, {"measure.rhos": (0.1, 1.0)})
    assert KnownRuns.of(store).name(at_more, PATHS).run_id == run_id(at_more, PATHS)


def test_of_several_records_that_which_came_furthest_counts_and_then_the_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failed = add(store, MINE, "failed")
    assert KnownRuns.of(store).name(MINE, PATHS).run_id == failed
    trained = add(store, THEIRS, "trained")
    assert KnownRuns.of(store).name(MINE, PATHS).run_id == trained
    own = add(store, MINE, "trained")
    assert own == failed
    assert KnownRuns.of(store).name(MINE, PATHS).run_id == own


def test_a_run_of_a_version_with_fewer_fields_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = to_dict(MINE)
    del old["loss"]["dam_softness"]
    name = "mine-rho0.3-seed0-0ld0ld00"
    write_record(store.run_dir(name), Record(run_id=name, experiment="mine", status="completed", config=old))
    assert KnownRuns.of(store).name(MINE, PATHS).run_id == name


def test_a_run_without_record_is_gone_on_with(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = run_id(THEIRS, PATHS)
    store.run_dir(name).mkdir(parents=True)
    named = KnownRuns.of(store).name(MINE, PATHS)
    assert (named.run_id, named.config, named.record, named.begun) == (name, THEIRS, None, True)


def test_seeds_of_two_experiments_are_one_configuration(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, THEIRS)
    add(store, replace(MINE, seed=1))
    assert store.frame()["configuration"].nunique() == 1
