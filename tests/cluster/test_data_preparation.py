"""Errors of the preparation of shared data, which runs in a process of Ray."""

from __future__ import annotations

import pytest

from rhobench.cluster import data_preparation
from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict


@pytest.mark.parametrize(("message", "last"), [("", "MemoryError"), ("too large", "MemoryError: too large")])
def test_an_error_keeps_its_type_and_trace_also_without_words(
    monkeypatch: pytest.MonkeyPatch, message: str, last: str
) -> None:
    def fail(config: object) -> None:
        raise MemoryError(*([message] if message else []))

    monkeypatch.setattr(data_preparation, "prepare_data", fail)
    problem = data_preparation.prepare(to_dict(RunConfig(experiment="test")), threads=1)
    assert problem is not None
    assert problem.strip().splitlines()[-1] == last
    assert "in fail" in problem
