"""Options of a sweep refuse values that make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from rhobench.config import ConfigError, sweep
from rhobench.config.sweep import SweepOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retries": -1}, "--retries -1 is not allowed: give 0 or more."),
        ({"stuck_minutes": 0.0}, "--stuck-after 0.0 is not allowed: give a number of minutes above 0."),
        ({"stuck_minutes": float("nan")}, "--stuck-after nan is not allowed"),
    ],
)
def test_impossible_limits_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SweepOptions(**values)
    SweepOptions(retries=0, stuck_minutes=0.1)


def test_unavailable_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--log-to comet is not supported: use mlflow or wandb"):
        SweepOptions(trackers=("comet",))
    monkeypatch.setattr(sweep, "TRACKERS", {"mlflow": "mlflow_that_nobody_has"})
    with pytest.raises(ConfigError, match=r"requires the Python package mlflow_that_nobody_has.* run pip install"):
        SweepOptions(trackers=("mlflow",))
