"""How a sweep is executed: the options of ``rhobench run`` that change no result."""

from __future__ import annotations

from dataclasses import dataclass

from rhobench.config.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options of one sweep; the command line takes its defaults from here."""

    address: str = "local"
    """Ray cluster to run on: "local" starts one on this machine, "auto" finds a running one, or HOST:PORT."""
    without_token: bool = False
    """Use Ray without token authentication."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers besides TensorBoard: names in ``rhobench.cluster.trackers.PACKAGES``."""
    retries: int = 2
    """Further attempts at a run whose process or node failed."""
    stuck_minutes: float = 60.0
    """A run that reports nothing for this long is stopped and retried."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"--retries {self.retries} is not allowed: give 0 or more.")
        if not self.stuck_minutes > 0:  # NaN included
            raise ConfigError(f"--stuck-after {self.stuck_minutes} is not allowed: give minutes above 0.")

    @property
    def stuck_seconds(self) -> float:
        """``stuck_minutes`` in seconds."""
        return 60 * self.stuck_minutes
