from __future__ import annotations

import json
import os
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhobench.results import SCHEMA, Point, Record, RecordError, read_record, write_record

RECORD = Record(
    run_id="demo-rho0.1-seed0-0a1b2c3d",
    experiment="demo",
    status="completed",
    config={"experiment": "demo", "model": {"rho": 0.1}},
    categories=[{"label": 0, "id": 3, "name": "четырёхугольник"}, {"label": 1, "id": 7, "name": "</script>"}],
    history=[{"epoch": 1, "loss": 3.25, "ap": 0.4}],
    points=[Point(rho=0.1, protocol="latency-v1", accuracy={"ap": 0.52}, latency_ms=31.0), Point(rho=None)],
    protocols={"latency-v1": "One call."},
    cost={"train_seconds": 12.5},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_record(tmp_path / "runs" / RECORD.run_id, RECORD)
    assert read_record(path) == RECORD
    assert [p.name for p in path.parent.iterdir()] == ["record.json"], "no temporary file is left"


@given(
    ap=st.floats(0, 1),
    ap_difference=st.floats(-1, 1),
    loss=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(st.characters(codec="utf-8")),
    keys=st.lists(st.text(string.ascii_letters, min_size=1).filter(lambda key: "ap" not in key), unique=True),
)
def test_every_number_and_text_survives(
    ap: float, ap_difference: float, loss: float, text: str, keys: list[str]
) -> None:
    record = replace(
        RECORD,
        reason=text,
        points=[Point(rho=0.3, accuracy={"ap": ap}, ap_difference=ap_difference)],
        history=[{"epoch": 1, **dict.fromkeys(keys, loss)}],
    )
    assert Record.from_json(record.to_json()) == record


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-0.5, 1.5) | st.just("0.5"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["ap", "x"]), inner, max_size=2),
    max_leaves=4,
)
ENTRIES = st.dictionaries(st.sampled_from(["epoch", "ap", "ap50", "segm_ap", "loss"]), VALUES)


@given(history=st.lists(ENTRIES | VALUES, max_size=3))
def test_a_record_without_its_history_is_refused_for_the_same_reason(history: list[Any]) -> None:
    content = json.dumps(json.loads(RECORD.to_json()) | {"history": history})
    read: list[Record | str] = []
    for with_history in (True, False):
        try:
            read.append(replace(Record.from_json(content, with_history=with_history), history=[]))
        except RecordError as error:
            read.append(str(error))
    assert read[0] == read[1]


def test_a_record_of_schema_1_is_read_completely() -> None:
    """Schema 1 had accuracy metrics as fields of a point, null where they were not measured."""
    accuracy = {"ap": 0.52, "ap50": 0.7, "ap75": 0.6, "ap_s": 0.1, "ap_m": 0.4, "ap_l": 0.8}
    content = json.loads(RECORD.to_json()) | {"schema": 1}
    for point, values in zip(content["points"], (accuracy | {"segm_ap": 0.3}, {}), strict=True):
        del point["accuracy"], point["accuracy_bounds"], point["matches_file"]
        point |= dict.fromkeys((*accuracy, "segm_ap", "segm_ap50", "segm_ap75")) | values
    record = Record.from_json(json.dumps(content))
    expected = [accuracy | {"segm_ap": 0.3}, {}]
    assert record == replace(
        RECORD, points=[replace(p, accuracy=a) for p, a in zip(RECORD.points, expected, strict=True)]
    )
    assert Record.from_json(record.to_json()) == record, "it is written in the current schema"


def test_a_record_of_schema_2_has_no_interval() -> None:
    content = json.loads(RECORD.to_json()) | {"schema": 2}
    for point in content["points"]:
        del point["accuracy_bounds"], point["matches_file"]
    assert Record.from_json(json.dumps(content)) == RECORD


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_become_null(value: float) -> None:
    record = replace(RECORD, points=[Point(rho=0.1, accuracy={"ap": value})], history=[{"epoch": 1, "loss": value}])
    text = record.to_json()
    json.loads(text, parse_constant=pytest.fail)
    again = Record.from_json(text)
    assert again.points[0].accuracy == {"ap": None}
    assert again.history == [{"epoch": 1, "loss": None}]


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_record(tmp_path, RECORD)

    def full_disk(handle: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_record(tmp_path, replace(RECORD, status="failed"))
    assert read_record(path) == RECORD
    assert list(tmp_path.iterdir()) == [path]


def changed(**values: object) -> str:
    return json.dumps(json.loads(RECORD.to_json()) | values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (changed(schema=SCHEMA + 1), f"schema {SCHEMA + 1}.*Upgrade rhobench"),
        (changed(schema=None), "no schema number"),
        ("[1, 2]", "no schema number"),
        (RECORD.to_json()[:200], "not a complete JSON file"),
        ("", "not a complete JSON file"),
        (RECORD.to_json().replace("0.52", "NaN"), "NaN"),
        (changed(status="done"), "'done'.*trained, completed, stopped, failed"),
        (changed(color="red"), "'color'"),
        (changed(points=[{"rho": 1.0, "mAP": 0.5}]), "'mAP'"),
    ],
)
def test_a_file_that_is_not_a_record_is_refused_with_its_path(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=says) as error:
        read_record(path)
    assert str(path) in str(error.value)


def test_a_binary_file_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"record\.json is not a text file"):
        read_record(path)
