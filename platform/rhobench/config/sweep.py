"""Options of a sweep that do not change its results."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from rhobench.config.errors import ConfigError

TRACKERS: Mapping[str, str] = {"mlflow": "mlflow", "wandb": "wandb"}
"""Values of ``--log-to``, each with the Python package that it requires."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Execution options of `rhobench run`; the command line takes its defaults from here."""

    address: str = "local"
    """Ray cluster to run on: "local" starts one on this machine, "auto" finds a running one, HOST:PORT names one."""
    without_token: bool = False
    """Whether Ray is used without token authentication."""
    trackers: tuple[str, ...] = ()
    """Names of experiment trackers besides TensorBoard, from ``TRACKERS``."""
    retries: int = 2
    """Largest number of retries of a run whose process or node failed."""
    stuck_minutes: float = 60.0
    """Minutes without a report after which a run is stopped and retried."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"--retries {self.retries} is not allowed: give 0 or more.")
        if not self.stuck_minutes > 0:  # NaN included
            raise ConfigError(f"--stuck-after {self.stuck_minutes} is not allowed: give a number of minutes above 0.")

        for name in self.trackers:
            if name not in TRACKERS:
                raise ConfigError(f"--log-to {name} is not supported: use {' or '.join(TRACKERS)}.")
            if importlib.util.find_spec(TRACKERS[name]) is None:
                raise ConfigError(
                    f"--log-to {name} requires the Python package {TRACKERS[name]}, which is not installed: "
                    f"run pip install {TRACKERS[name]}, or omit --log-to."
                )

    @property
    def stuck_seconds(self) -> float:
        """``stuck_minutes`` in seconds."""
        return 60 * self.stuck_minutes
