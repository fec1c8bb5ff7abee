"""Description of the environment of a run: versions, machine, source code and variables."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rhobench.results.secrets import without_secrets

PACKAGES = ("rhobench", "torch", "torchvision", "timm", "ray", "numpy", "pycocotools", "numba", "plotly")
"""Distributions whose version can change a measured value or a figure."""

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_ALLOC_CONF",
    "PYTHONHASHSEED",
)
"""Environment variables that affect speed or reproducibility. No others are recorded, because they may hold secrets."""


def describe_environment() -> dict[str, Any]:
    """Describe the environment of this process as a JSON-ready dictionary, without the names of host and user.

    Keys: packages (version by name, None: not installed), python, os, cpu, cpu_cores (those this process may use),
    ram_gib, git (commit and diff hash of the checkout, None for an installed package), argv (with "***" in place of
    secrets) and variables (values of those in ``VARIABLES`` that are set).
    """
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": cpu_model(),
        "cpu_cores": usable_cores(),
        "ram_gib": _ram_gib(),
        "git": _git_state(Path(__file__).resolve().parents[3]),  # the root of a checkout
        "argv": without_secrets(sys.argv),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_cores() -> int | None:
    """Number of CPU cores that this process may run on; None if unknown."""
    # os.cpu_count() also counts cores that taskset or a cpuset excludes.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def utc_now() -> str:
    """Current time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_model() -> str:
    """Name of the processor as reported by the operating system."""
    # First, because platform.processor() is empty on many Linux systems
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def cpu_device() -> str:
    """Name of this processor with the number of cores that this process may use, as points contain it."""
    return f"{cpu_model()}, {usable_cores()} cores"


def _ram_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def _git_state(root: Path) -> dict[str, str | None] | None:
    """Commit of the checkout at ``root`` and a hash of the uncommitted changes; None if ``root`` is not a checkout."""
    # pyproject.toml distinguishes a checkout from a wheel installed inside the repository of another project.
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD").decode().strip()
        changes = _git(root, "diff", "HEAD")
        # -z, because git quotes unusual names otherwise
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    except (OSError, subprocess.SubprocessError):  # no git, or a repository without a commit
        return None
    digest = hashlib.sha256(changes)
    for name in filter(None, untracked):
        path = root / os.fsdecode(name)
        digest.update(name)
        digest.update(path.read_bytes() if path.is_file() else b"")
    clean = not changes and not any(untracked)
    return {"commit": commit, "diff_sha256": None if clean else digest.hexdigest()[:16]}


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, timeout=30).stdout
