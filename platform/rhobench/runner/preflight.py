"""The check of a study before anything starts, and the confirmation of a very long one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from rhobench.config import ConfigError, RunConfig, TrainConfig
from rhobench.preflight.plan import Machine, require_workable
from rhobench.study.estimate import (
    UNKNOWN_SPEED,
    count_training_gflops,
    runs_to_estimate,
    speed_from_experiment,
)
from rhobench.study.study import Study

HOURS_OF_A_YEAR = 8766
"""Estimated hours from which the user must confirm a plan."""

FASTEST_SECONDS_PER_GFLOP = 1e-6
"""Seconds for 10^9 operations on a device faster than any, 10^15 per second, where the speed is unknown."""


def check_study(study: Study, address: str, on_progress: Callable[[str], None] = lambda text: None) -> list[str]:
    """Check that the runs of a study can work, and return warnings.

    Args:
        study: study with its runs; for a search, evenly spread runs stand for those that Optuna will choose.
        address: address of the Ray cluster; "local" is this machine.
        on_progress: called with a description of the current step.

    Raises:
        PreflightError: some runs cannot work; it lists all problems.
    """
    configs, here = _all_runs(study), address == "local"
    memory = _device_memory(study.experiment.base.train) if here else None
    return require_workable(configs, Machine(here=here, memory=memory), on_progress)


def require_confirmed_hours(study: Study, *, confirmed: bool) -> None:
    """Raise ConfigError if the study takes more than a year of compute, unless the user has confirmed it."""
    configs = _all_runs(study)
    if confirmed or not configs:
        return
    train, data = configs[0].train, configs[0].data
    speed = speed_from_experiment(study.original, data, train) or UNKNOWN_SPEED
    seconds = speed.seconds_per_gflop or FASTEST_SECONDS_PER_GFLOP / train.num_workers
    hours = seconds * sum(count or 0.0 for count in count_training_gflops(configs)) / 3600
    if hours > HOURS_OF_A_YEAR:
        raise ConfigError(f"{describe_years(hours)}: train fewer epochs or runs, or add --yes to start it.")


def describe_years(hours: float) -> str:
    """Return the beginning of a sentence on a plan of more than a year."""
    return f"This plan takes about {hours / HOURS_OF_A_YEAR:,.2g} years of compute"


def _all_runs(study: Study) -> list[RunConfig]:
    search = study.experiment.search
    return study.configs + (runs_to_estimate(study.experiment)[: search.count] if search else [])


def _device_memory(train: TrainConfig) -> int | None:
    """Bytes of memory of the device of a worker on this machine; None: unknown."""
    if train.gpus_per_worker:
        return _gpu_memory()
    with contextlib.suppress(OSError, ValueError):
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
        for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # the text "max" is no limit
                limits.append(int(Path(file).read_text()))
        return min(limits)
    return None


def _gpu_memory() -> int | None:
    """Bytes of the smallest GPU, from NVIDIA's tool, which answers without PyTorch; None: unknown."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return min(int(line) for line in done.stdout.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
