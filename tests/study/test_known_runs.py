"""Runs that a store already holds are found, whichever experiment computed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, run_key, with_values
from rhobench.results import Record, Store, write_record
from rhobench.study.known_runs import KnownRuns

OWN, OTHER = RunConfig(experiment="own"), RunConfig(experiment="other")
PATHS = ("model.rho",)


def add(store: Store, config: RunConfig, status: Any = "completed", name: str | None = None, **fields: Any) -> str:
    name = name or run_id(config, PATHS)
    record = Record(
        run_id=name, experiment=config.experiment, status=status, config=to_dict(config) | fields, reason=None
    )
    write_record(store.run_dir(name), record)
    return name


def test_store_that_does_not_exist_holds_no_runs(tmp_path: Path) -> None:
    resolved = KnownRuns.from_store(Store(tmp_path / "none")).resolve(OWN, PATHS)
    assert resolved.run_id == run_id(OWN, PATHS)
    assert (resolved.config, resolved.record, resolved.has_folder) == (OWN, None, False)


def test_run_of_another_experiment_keeps_its_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shared = add(store, OTHER)
    known = KnownRuns.from_store(store)
    resolved = known.resolve(OWN, PATHS)
    assert shared.startswith("other-rho0.3-seed0-")
    assert shared.endswith(run_key(OWN))
    assert resolved.run_id == shared
    assert resolved.config == OTHER, "its checkpoint belongs to the other experiment"
    assert resolved.record is not None
    for changed in (replace(OWN, seed=1), with_values(OWN, {"model.rho": 0.5}), with_values(OWN, {"train.lr": 1e-3})):
        assert known.resolve(changed, PATHS).run_id == run_id(changed, PATHS)


def test_execution_settings_may_differ_and_the_new_ones_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shared = add(store, OTHER)
    wider = with_values(OWN, {"train.num_workers": 2})
    resolved = KnownRuns.from_store(store).resolve(wider, PATHS)
    assert (resolved.run_id, resolved.config.train.num_workers) == (shared, 2)


def test_run_with_other_measurements_is_another_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, OTHER)
    at_more = with_values(OWN, {"measure.rhos": (0.1, 1.0)})
    assert KnownRuns.from_store(store).resolve(at_more, PATHS).run_id == run_id(at_more, PATHS)


def test_record_with_the_best_status_counts_and_then_the_own_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    failed = add(store, OWN, "failed")
    assert KnownRuns.from_store(store).resolve(OWN, PATHS).run_id == failed
    trained = add(store, OTHER, "trained")
    assert KnownRuns.from_store(store).resolve(OWN, PATHS).run_id == trained
    own = add(store, OWN, "trained")
    assert own == failed
    assert KnownRuns.from_store(store).resolve(OWN, PATHS).run_id == own


def test_run_of_a_version_with_fewer_fields_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = to_dict(OWN)
    del old["loss"]["dam_softness"]
    name = "own-rho0.3-seed0-0ld0ld00"
    write_record(store.run_dir(name), Record(run_id=name, experiment="own", status="completed", config=old))
    assert KnownRuns.from_store(store).resolve(OWN, PATHS).run_id == name


def test_run_without_record_keeps_its_id(tmp_path: Path) -> None:
    store = Store(tmp_path)
    name = run_id(OTHER, PATHS)
    store.run_dir(name).mkdir(parents=True)
    resolved = KnownRuns.from_store(store).resolve(OWN, PATHS)
    assert (resolved.run_id, resolved.config, resolved.record, resolved.has_folder) == (name, OTHER, None, True)


def test_seeds_of_two_experiments_belong_to_one_configuration(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, OTHER)
    add(store, replace(OWN, seed=1))
    assert store.frame()["configuration"].nunique() == 1
