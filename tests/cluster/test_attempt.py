"""Attempts at a run: the file of the active one, and the record of failed ones."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from rhobench.cluster.attempt import (
    ATTEMPT_FILE,
    VANISHED,
    ActiveAttempt,
    SupersededError,
    active_attempt,
    begin_attempt,
    clean_up_finished,
    end_attempt,
    fail_attempt,
    failure_reason,
    is_superseded,
    past_attempts,
    readable_record,
    runs_with_attempt_file,
)
from rhobench.cluster.run_queue import Run
from rhobench.config.conversion import from_dict
from rhobench.results import Attempt, Store


@pytest.fixture
def run(runs_with: Callable[..., list[Run]]) -> Run:
    return runs_with(1)[0]


@pytest.fixture
def store(run: Run, claimed: Callable[..., Store]) -> Store:
    return claimed(run.config)


def begin(store: Store, run: Run) -> ActiveAttempt:
    return begin_attempt(store, run.run_id, run.config, "n1")


def test_a_successful_attempt_leaves_no_file(store: Store, run: Run) -> None:
    attempt = begin(store, run)
    assert active_attempt(store, run.run_id) == attempt
    end_attempt(store, attempt)
    assert active_attempt(store, run.run_id) is None
    assert begin(store, run).past == []


def test_an_attempt_that_vanished_is_a_past_attempt_of_the_next(store: Store, run: Run) -> None:
    first = begin(store, run)
    second = begin(store, run)
    third = begin(store, run)
    lost = Attempt(reason=VANISHED, cause="machine", node="n1", started_at=first.started_at)
    assert second.past == [lost]
    assert [past.reason for past in third.past] == [VANISHED] * 2
    assert past_attempts(store, run.run_id)[:2] == third.past


def test_a_failure_is_recorded_with_its_traceback_for_the_next_attempt(store: Store, run: Run) -> None:
    attempt = begin(store, run)
    try:
        raise ConnectionError("the network is gone")
    except ConnectionError as error:
        record = fail_attempt(store, attempt, error, "machine")
    assert store.read(run.run_id) == record
    assert (record.status, record.reason) == ("failed", "ConnectionError: the network is gone")
    assert [(a.reason, a.cause, a.node) for a in record.attempts] == [(record.reason, "machine", "n1")]
    assert record.attempts[0].ended_at == record.finished_at
    assert "test_attempt.py" in (store.run_dir(run.run_id) / "error.txt").read_text()
    assert active_attempt(store, run.run_id) is None
    assert begin(store, run).past == record.attempts


def test_only_the_latest_attempt_is_not_superseded(store: Store, run: Run) -> None:
    first = begin(store, run)
    assert not is_superseded(store, first)
    second = begin(store, run)
    assert is_superseded(store, first)
    assert not is_superseded(store, second)
    end_attempt(store, second)
    assert not is_superseded(store, first), "there is no later attempt"


VALID = {"run_id": "", "config": {}, "pid": 7, "started_at": "2026-11-26T01:02:03+00:00", "token": "t", "past": []}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        "\udcff",
        "[" * 100_000,
        {**VALID, "past": [3]},
        {**VALID, "past": [{"reason": "r", "cause": "fate"}]},
        {**VALID, "pid": "7; reboot"},
        {**VALID, "node": 3},
        {**VALID, "further": 1},
        {**VALID, "run_id": "../../other"},
    ],
)
def test_a_damaged_file_is_ignored_and_does_not_prevent_an_attempt(content: Any, store: Store, run: Run) -> None:
    file = store.run_dir(run.run_id) / ATTEMPT_FILE
    file.parent.mkdir(parents=True)
    if isinstance(content, dict):
        content = json.dumps({"run_id": run.run_id, **{k: v for k, v in content.items() if v != ""}})
    file.write_bytes(content.encode(errors="surrogateescape"))
    assert active_attempt(store, run.run_id) is None
    assert past_attempts(store, run.run_id) == []
    attempt = begin(store, run)
    assert active_attempt(store, run.run_id) == attempt


def test_a_valid_file_is_an_attempt(store: Store, run: Run) -> None:
    """The damaged files of the test above are ignored because of their damage."""
    file = store.run_dir(run.run_id) / ATTEMPT_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(VALID | {"run_id": run.run_id}))
    assert active_attempt(store, run.run_id) is not None


def test_an_attempt_survives_conversion_to_json(store: Store, run: Run) -> None:
    begin(store, run)
    attempt = begin(store, run)
    assert from_dict(ActiveAttempt, json.loads(json.dumps(asdict(attempt)))) == attempt


def test_a_damaged_record_is_replaced(store: Store, run: Run) -> None:
    file = store.run_dir(run.run_id) / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert readable_record(store, run.run_id) is None
    assert begin(store, run).past == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full ([Errno 28] No space left on device): free",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full ([Errno 122] Disk quota exceeded): free some"),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (ValueError("give another number"), "give another number"),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
        (SupersededError("run"), "SupersededError: run"),
    ],
)
def test_reasons_of_failures(error: BaseException, reason: str) -> None:
    assert failure_reason(error).startswith(reason)


HALF_WRITTEN = ".tmp5WD0lu"
"""Name of a temporary file of safetensors, whose process was killed while it wrote."""


@pytest.mark.parametrize(
    "file", ["checkpoint-000000012-0123456789abcdef.safetensors", ".checkpoint-77.tmp", HALF_WRITTEN]
)
def test_files_of_an_attempt_killed_after_its_record_are_removed(file: str, store: Store, run: Run) -> None:
    begin(store, run)
    (store.run_dir(run.run_id) / file).touch()
    (store.run_dir(run.run_id) / "model.safetensors").touch()
    assert runs_with_attempt_file(store) == [run.run_id]
    clean_up_finished(store, run.run_id)
    assert runs_with_attempt_file(store) == []
    assert [file.name for file in store.run_dir(run.run_id).iterdir()] == ["model.safetensors"]
