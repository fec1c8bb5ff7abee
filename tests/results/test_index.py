"""The index of a store: a cache that never changes the result of reading."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.config.paths import run_key, with_values
from rhobench.results import Point, Record, Store, index, store
from rhobench.results.files import SETTLED_SECONDS

NAMES = ("run-a", "run-b", "run-c", "run-d", "Ran-é")


@pytest.fixture(autouse=True)
def _indexed_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "INDEX_FROM", 1)


def record(name: str, number: int = 0, points: int = 1, **fields: object) -> Record:
    values = {
        "model.rho": (number % 9 + 1) / 10,
        "train.lr": 1e-4 + number * 1e-6,
        "data.resize_px": (256, 320 + number),
    }
    config = with_values(RunConfig(experiment="e", seed=number), values)
    measured = [
        Point(rho=0.1 * (i + 1), accuracy={"ap": 0.5 + number / 1000}, threads=None if number % 2 else 2)
        for i in range(points)
    ]
    entry = Record(run_id=name, experiment="e", status="completed", config=to_dict(config), points=measured)
    return replace(entry, **fields)


def settle(folder: Path) -> None:
    """Make all records old enough for reliable versions, each with another time."""
    for file in sorted(folder.glob("runs/*/record.json")):
        written = file.stat().st_mtime
        if written > time.time() - SETTLED_SECONDS:
            os.utime(file, (written - 100, written - 100))


def cold_frame(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """The frame and the problems of a store that is read without its index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "read_index", lambda files: None)
        patch.setattr(store, "write_index", lambda files, rows: None)
        opened = Store(folder)
        return opened.frame(), opened.problems


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the records that are parsed from now on."""
    parsed: list[str] = []
    original = store.parse

    def parse(content: bytes, source: str, run_id: str, *, with_history: bool) -> object:
        parsed.append(run_id)
        return original(content, source, run_id, with_history=with_history)

    monkeypatch.setattr(store, "parse", parse)
    return parsed


def test_indexed_records_are_not_read_again(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store(place)
    for number, name in enumerate(NAMES):
        opened.write(record(name, number, points=2))
    monkeypatch.setattr("rhobench.results.files.SETTLED_SECONDS", -3600)
    first = Store(place).frame()
    parsed = counting(monkeypatch)
    again = Store(place)
    pd.testing.assert_frame_equal(again.frame(), first)
    assert again.statuses() == dict.fromkeys(sorted(NAMES), "completed")
    assert parsed == []
    opened.write(record("run-b", 7, points=3))
    assert len(Store(place).frame()) == 11
    assert parsed == ["run-b"]
    opened.files.delete("runs/run-c/record.json")
    assert set(Store(place).statuses()) == set(NAMES) - {"run-c"}


class Changes(RuleBasedStateMachine):
    """Random changes of a store, after each of which reading through the index must equal reading the records."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["TEST_STORES"]) / f"{time.time_ns()}"
        (self.folder / "runs").mkdir(parents=True)
        self.open = Store(self.folder)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 3), points=st.integers(0, 3))
    def write(self, name: str, number: int, points: int) -> None:
        self.open.write(record(name, number, points))

    @rule(name=st.sampled_from(NAMES))
    def fail(self, name: str) -> None:
        Store(self.folder).write(record(name, points=0, status="failed", reason="Out of memory."))

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)

    @rule(name=st.sampled_from(NAMES), length=st.integers(0, 900))
    def damage(self, name: str, length: int) -> None:
        file = self.folder / "runs" / name / "record.json"
        if file.exists():
            file.write_bytes(file.read_bytes()[:length])

    @rule(source=st.sampled_from(NAMES), copy=st.sampled_from(NAMES))
    def duplicate(self, source: str, copy: str) -> None:
        file = self.folder / "runs" / source / "record.json"
        if file.exists() and source != copy:
            (self.folder / "runs" / copy).mkdir(exist_ok=True)
            shutil.copy(file, self.folder / "runs" / copy)

    @rule()
    def settle(self) -> None:
        settle(self.folder)

    @precondition(lambda self: (self.folder / index.FILE).exists())
    @rule(length=st.integers(0, 5000))
    def damage_the_index(self, length: int) -> None:
        file = self.folder / index.FILE
        file.write_bytes(file.read_bytes()[:length])

    @invariant()
    def all_ways_of_reading_agree(self) -> None:
        frame, problems = cold_frame(self.folder)
        for reader in (self.open, Store(self.folder)):
            assert reader.frame().equals(frame), "values and types"
            assert reader.problems == problems
        records = self.open.records()
        assert self.open.problems == problems
        assert {entry.run_id: entry.status for entry in records} == Store(self.folder).statuses()


def test_reading_through_the_index_equals_reading_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_STORES", str(tmp_path))
    machine = Changes.TestCase
    machine.settings = settings(max_examples=8, stateful_step_count=12, derandomize=True)
    machine("runTest").debug()


def test_every_column_has_the_type_of_its_field_for_any_runs(tmp_path: Path) -> None:
    opened = Store(tmp_path)
    (tmp_path / "runs").mkdir()
    empty = opened.frame()
    opened.write(record("run-a"))
    assert list(empty.columns) == list(opened.frame().columns)
    types = opened.frame().dtypes.astype(str)
    assert types[["ap", "gflops", "model.rho", "train_seconds"]].eq("float64").all()
    assert types[["seed", "train.epochs"]].eq("int64").all()
    assert types[["use_enc_aux_loss", "data.hflip"]].eq("bool").all()
    assert types["reason"] == types["data.resize_px"] == types["run_id"]


def test_the_same_settings_are_one_configuration(tmp_path: Path) -> None:
    """The hash of sections distinguishes the same configurations as ``run_key``."""
    opened = Store(tmp_path)
    keys = {}
    settings = ({}, {"train.lr": 2e-4}, {"train.lr": 3e-4}, {"data.scenes.seed": 1}, {"model.backbone.weights": "none"})
    for number, values in enumerate((*settings, {"data.loader_workers": 2, "train.cpus_per_worker": 3})):
        for seed in (0, 1):
            name = f"run-{number}-{seed}"
            config = with_values(RunConfig(experiment=f"e{seed}", seed=seed), values)
            keys[name] = run_key(replace(config, seed=0))
            opened.write(record(name, config=to_dict(config)))
    frame = opened.frame().set_index("run_id")
    assert frame["configuration"].nunique() == len(set(keys.values())) == 3
    assert (frame.groupby(pd.Series(keys))["configuration"].nunique() == 1).all()


@pytest.mark.parametrize("spoil", ["other code", "other columns", "not a file"])
def test_an_unreliable_index_is_ignored(tmp_path: Path, spoil: str) -> None:
    Store(tmp_path).write(record("run-a"))
    settle(tmp_path)
    frame = Store(tmp_path).frame()
    file = tmp_path / index.FILE
    rows = pq.read_table(file)
    lie = pa.array(["a lie"], rows.schema.field("experiment").type)
    lying = rows.set_column(rows.schema.get_field_index("experiment"), rows.schema.field("experiment"), lie)
    pq.write_table(lying, file)
    assert Store(tmp_path).frame()["experiment"].tolist() == ["a lie"], "it is used as long as it looks reliable"
    if spoil == "other code":
        pq.write_table(lying.replace_schema_metadata({b"rhobench": b"before"}), file)
    elif spoil == "other columns":
        pq.write_table(lying.drop_columns(["ap"]), file)
    else:
        file.unlink()
        os.mkfifo(file)
    pd.testing.assert_frame_equal(Store(tmp_path).frame(), frame)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_read_only_store_is_read_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).write(record("run-a"))
    settle(tmp_path)

    def refuse(*arguments: object) -> None:
        raise PermissionError("read-only file system")

    opened = Store(tmp_path)
    monkeypatch.setattr(opened.files, "write", refuse)
    assert len(opened.frame()) == 1
    assert not (tmp_path / index.FILE).exists()


def test_a_small_store_has_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    Store(tmp_path).write(record("run-a"))
    settle(tmp_path)
    Store(tmp_path).frame()
    assert not (tmp_path / "index").exists()


def test_a_failure_to_read_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store(tmp_path)
    opened.write(record("run-a"))
    settle(tmp_path)

    def fails(paths: object) -> Callable[..., object]:
        return iter([OSError(5, "Input/output error")])

    with monkeypatch.context() as patch:
        patch.setattr(opened.files, "read_all", fails)
        assert opened.frame().empty
        assert opened.problems == [f"{tmp_path}/runs/run-a/record.json cannot be read: Input/output error."]
    assert len(opened.frame()) == len(Store(tmp_path).frame()) == 1
