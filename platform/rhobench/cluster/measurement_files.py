"""Files of a measurement beside the record: every timed call, and the manifest with all that is known about it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rhobench.config.points import PointSettings
from rhobench.measure.gpu import watch_of
from rhobench.measure.host import describe_host
from rhobench.measure.latency import Latency
from rhobench.results.atomic_write import write_atomically
from rhobench.results.environment import describe_environment


@dataclass(frozen=True, kw_only=True)
class MeasurementFiles:
    """Names of the files, in the folder of the model."""

    stamp: str
    """What distinguishes them from those of other measurements."""

    @property
    def samples(self) -> str:
        """Parquet file with one row per call."""
        return f"samples-{self.stamp}.parquet"

    @property
    def manifest(self) -> str:
        """JSON file with everything else."""
        return f"measurement-{self.stamp}.json"


def new_files(folder: Path, started_at: str) -> MeasurementFiles:
    """Choose names that no earlier measurement has: files of measurements are never overwritten."""
    stamp = "".join(c for c in started_at[:19] if c.isalnum())
    for number in range(1, 1000):
        files = MeasurementFiles(stamp=stamp if number == 1 else f"{stamp}-{number}")
        if not (folder / files.samples).exists() and not (folder / files.manifest).exists():
            return files
    raise AssertionError("a thousand measurements within a second")


def write_samples(file: Path, latencies: Sequence[tuple[PointSettings, Latency]]) -> None:
    """Write every call, also those of the warm-up, from which all statistics can be computed again."""
    frames = [pd.DataFrame(_calls(latency)).assign(**_columns(settings)) for settings, latency in latencies]
    pd.concat(frames).assign(protocol=latencies[0][1].protocol.id).to_parquet(file, compression="zstd", index=False)


def _columns(settings: PointSettings) -> dict[str, Any]:
    height, width = settings.resolution or (None, None)
    values = asdict(settings) | {"height": height, "width": width}
    del values["resolution"]
    return values | {"rho": math.nan if settings.rho is None else settings.rho}


def _calls(latency: Latency) -> Iterator[dict[str, Any]]:
    for call, ms in enumerate(latency.warmup_ms):
        yield {"phase": "warm-up", "round": -1, "call": call, "latency_ms": ms, "device_ms": math.nan}
    on_device = np.full(latency.samples_ms.shape, math.nan) if latency.device_ms is None else latency.device_ms
    for (number, call), ms in np.ndenumerate(latency.samples_ms):
        yield {
            "phase": "timed",
            "round": number,
            "call": call,
            "latency_ms": ms,
            "device_ms": on_device[number, call],
        }


def write_manifest(
    file: Path,
    latencies: Sequence[tuple[PointSettings, Latency]],
    device: torch.device,
    *,
    command: str,
    facts: dict[str, Any],
) -> None:
    """Write what decides or explains the numbers of a measurement.

    Args:
        file: JSON file.
        latencies: the points with their latencies.
        device: that the points were measured on.
        command: one line that repeats the measurement.
        facts: further entries: the model, its data and times.
    """
    protocol, watch = latencies[0][1].protocol, watch_of(device)
    content = {
        "schema": 1,
        "command": command,
        "protocol": {"id": protocol.id, "sha256": protocol.sha256, "text": protocol.describe(), **asdict(protocol)},
        **facts,
        "points": [
            {
                **asdict(settings),
                "status": latency.status,
                "reason": latency.reason,
                "first_call_s": latency.first_call_s,
                "conditions": asdict(latency.conditions),
            }
            for settings, latency in latencies
        ],
        "host": describe_host(),
        "gpu": None if watch is None else watch.describe(),
        "torch": _torch_build(),
        "environment": describe_environment(),
    }
    # JSON has no infinity, which an unlimited protocol has.
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    write_atomically(file, text.encode())


def _torch_build() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "threads": torch.get_num_threads(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "parallel": torch.__config__.parallel_info().splitlines()[0],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def command_line(target: str, protocol_name: str, scope: str, points: Sequence[PointSettings], data: str | None) -> str:
    """Return the command that measures ``points`` again; they are every combination of their settings."""
    words = ["rhobench", "measure", target, "--protocol", protocol_name, "--scope", scope]
    options: list[tuple[str, list[str]]] = [
        ("--rho", [repr(p.rho) for p in points if p.rho is not None]),
        ("--precision", [p.precision for p in points]),
        ("--batch", [str(p.batch_size) for p in points]),
        ("--resolution", [f"{p.resolution[0]}x{p.resolution[1]}" for p in points if p.resolution is not None]),
    ]
    for name, values in options:
        words += [word for value in dict.fromkeys(values) for word in (name, value)]
    if any(p.compiled for p in points):
        words.append("--compile")
    if data is not None:
        words += ["--data", data]
    return shlex.join(words)
