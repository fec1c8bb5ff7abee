"""Who is at a run, and how the tries before ended."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rhobench.cluster import attempt
from rhobench.cluster.attempt import VANISHED, ActiveAttempt, SupersededError
from rhobench.cluster.run_queue import Run
from rhobench.results import Attempt, Store


@pytest.fixture
def run(runs_with: Callable[..., list[Run]]) -> Run:
    return runs_with(1)[0]


@pytest.fixture
def store(run: Run, claimed: Callable[..., Store]) -> Store:
    return claimed(run.config)


def begin(store: Store, run: Run) -> ActiveAttempt:
    return attempt.begin(store, run.run_id, run.config, "n1")


def test_a_try_that_ends_well_leaves_nothing(store: Store, run: Run) -> None:
    mine = begin(store, run)
    assert attempt.active_attempt(store, run.run_id) == mine
    attempt.end(store, mine)
    assert attempt.active_attempt(store, run.run_id) is None
    assert begin(store, run).past == []


def test_a_try_that_vanished_is_in_the_past_of_the_next(store: Store, run: Run) -> None:
    first = begin(store, run)
    second = begin(store, run)
    third = begin(store, run)
    lost = Attempt(reason=VANISHED, cause="machine", node="n1", started_at=first.started_at)
    assert second.past == [lost]
    assert [past.reason for past in third.past] == [VANISHED] * 2
    assert attempt.past_attempts(store, run.run_id)[:2] == third.past


def test_a_failure_is_recorded_with_its_traceback_and_counts_for_the_next_try(store: Store, run: Run) -> None:
    mine = begin(store, run)
    try:
        raise ConnectionError("the network is gone")
    except ConnectionError as error:
        record = attempt.fail(store, mine, error, "machine")
    assert store.read(run.run_id) == record
    assert (record.status, record.reason) == ("failed", "ConnectionError: the network is gone")
    assert [(a.reason, a.cause, a.node) for a in record.attempts] == [(record.reason, "machine", "n1")]
    assert record.attempts[0].ended_at == record.finished_at
    assert "test_attempt.py" in (store.run_dir(run.run_id) / "error.txt").read_text()
    assert attempt.active_attempt(store, run.run_id) is None
    assert begin(store, run).past == record.attempts


def test_the_try_before_is_superseded_and_the_last_is_not(store: Store, run: Run) -> None:
    first = begin(store, run)
    assert not attempt.is_superseded(store, first)
    second = begin(store, run)
    assert attempt.is_superseded(store, first)
    assert not attempt.is_superseded(store, second)
    attempt.end(store, second)
    assert not attempt.is_superseded(store, first), "nobody else is at it"


SOUND = {"run_id": "", "config": {}, "pid": 7, "started_at": "2026-11-26T01:02:03+00:00", "token": "t", "past": []}


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
        {**SOUND, "past": [3]},
        {**SOUND, "past": [{"reason": "r", "cause": "fate"}]},
        {**SOUND, "pid": "7; reboot"},
        {**SOUND, "node": 3},
        {**SOUND, "further": 1},
        {**SOUND, "run_id": "../../other"},
    ],
)
def test_a_damaged_file_is_no_try_and_keeps_no_run_from_being_tried(content: Any, store: Store, run: Run) -> None:
    file = store.run_dir(run.run_id) / attempt.FILE
    file.parent.mkdir(parents=True)
    if isinstance(content, dict):
        content = json.dumps({"run_id": run.run_id, **{k: v for k, v in content.items() if v != ""}})
    file.write_bytes(content.encode(errors="surrogateescape"))
    assert attempt.active_attempt(store, run.run_id) is None
    assert attempt.past_attempts(store, run.run_id) == []
    mine = begin(store, run)
    assert attempt.active_attempt(store, run.run_id) == mine


def test_a_sound_file_is_a_try(store: Store, run: Run) -> None:
    """So the damaged ones above are refused for their damage."""
    file = store.run_dir(run.run_id) / attempt.FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(SOUND | {"run_id": run.run_id}))
    assert attempt.active_attempt(store, run.run_id) is not None


def test_a_try_goes_to_workers_and_back(store: Store, run: Run) -> None:
    begin(store, run)
    mine = begin(store, run)
    assert attempt.from_json(json.loads(json.dumps(asdict(mine)))) == mine


def test_a_damaged_record_is_tried_again(store: Store, run: Run) -> None:
    file = store.run_dir(run.run_id) / "record.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    assert attempt.record_of(store, run.run_id) is None
    assert begin(store, run).past == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the disk is full ([Errno 28] No space left on device): make",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full ([Errno 122] Disk quota exceeded): make room"),
        (OSError(errno.EIO, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (ValueError("give another number"), "give another number"),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
        (SupersededError("run"), "SupersededError: run"),
    ],
)
def test_a_reason_is_a_sentence(error: BaseException, sentence: str, tmp_path: Path) -> None:
    assert attempt.in_one_sentence(error).startswith(sentence)


HALF_WRITTEN = ".tmp5WD0lu"
"""What a process leaves that is killed while safetensors writes."""


@pytest.mark.parametrize(
    "file", ["checkpoint-000000012-0123456789abcdef.safetensors", ".checkpoint-77.tmp", HALF_WRITTEN]
)
def test_what_a_try_left_that_was_killed_after_its_last_word_is_removed(file: str, store: Store, run: Run) -> None:
    begin(store, run)
    (store.run_dir(run.run_id) / file).touch()
    (store.run_dir(run.run_id) / "model.safetensors").touch()
    assert attempt.begun(store) == [run.run_id]
    attempt.settle(store, run.run_id)
    assert attempt.begun(store) == []
    assert [left.name for left in store.run_dir(run.run_id).iterdir()] == ["model.safetensors"]
