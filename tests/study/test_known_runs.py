"""Runs that a store already holds are found, whichever experiment computed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_id, run_key, with_values
from rhobench.config.protocols import PROTOCOLS
from rhobench.results import Point, Record, Store, write_record
from rhobench.study.known_runs import TO_MEASURE, KnownRuns, lacks_points

OWN, OTHER = RunConfig(experiment="own"), RunConfig(experiment="other")
PATHS = ("model.rho",)


TIMED = Point(
    rho=0.3, precision="fp32", height=32, width=32, batch_size=1, protocol=PROTOCOLS["latency"].id, latency_ms=2.0
)


def add(store: Store, config: RunConfig, status: Any = "completed", points: Any = ()) -> str:
    name = run_id(config, PATHS)
    record = Record(
        run_id=name,
        experiment=config.experiment,
        status=status,
        config=to_dict(config),
        points=list(points),
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


def test_run_that_lacks_a_requested_point_is_measured_again_and_not_trained(tmp_path: Path) -> None:
    store = Store(tmp_path)
    trained = add(store, OTHER, points=[TIMED])
    at_more = with_values(OWN, {"measure.rhos": (0.1, 1.0)})
    known = KnownRuns.from_store(store)
    assert (known.resolve(OWN, PATHS).run_id, known.resolve(OWN, PATHS).state) == (trained, "completed")
    assert (known.resolve(at_more, PATHS).run_id, known.resolve(at_more, PATHS).state) == (trained, TO_MEASURE)


@pytest.mark.parametrize(
    "setting",
    [
        {"measure.rhos": (0.1,)}, {"measure.precision": "bf16"}, {"measure.batch_size": 4}, {"measure.compiled": True},
        {"measure.protocol": "paper"}, {"measure.resolution": (64, 64)}, {"measure.rounds": 20},
    ],
)  # fmt: skip
def test_every_way_of_measuring_is_a_point_of_its_own(setting: dict[str, Any]) -> None:
    record = Record(run_id="r", experiment="own", status="completed", config=to_dict(OWN), points=[TIMED])
    assert not lacks_points(record, OWN)
    assert lacks_points(record, with_values(OWN, setting))
    assert not lacks_points(record, with_values(OWN, {"measure.precision": "auto"})), "fp32 may be what it means"
    assert lacks_points(replace(record, points=[replace(TIMED, protocol="latency-detector/1")]), OWN)
    assert lacks_points(replace(record, points=[replace(TIMED, latency_ms=None)]), OWN)
    assert not lacks_points(replace(record, points=[]), with_values(OWN, setting)), "nothing to measure it with"


def test_a_new_run_names_what_makes_it_another_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, replace(OTHER, seed=1))
    add(store, with_values(OTHER, {"model.rho": 0.5}))
    near = add(store, with_values(OTHER, {"train.epochs": 12, "measure.rhos": (0.1,)}))
    add(store, with_values(OTHER, {"train.epochs": 12, "train.lr": 1e-3}))
    resolved = KnownRuns.from_store(store).resolve(OWN, PATHS)
    assert resolved.record is None
    assert resolved.similar is not None
    assert resolved.similar.run_id == near
    assert resolved.similar.describe() == "train.epochs is 12 there and 50 here"
    other = KnownRuns.from_store(store).resolve(with_values(OWN, {"model.rho": 0.9}), PATHS)
    assert other.similar is None, "that it varies rho is the point of the experiment"


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
