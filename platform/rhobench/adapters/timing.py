"""Latency of foreign detectors, timed by the code that times our own, as fields of a point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rhobench.adapters.foreign_detector import ForeignDetector
from rhobench.config.protocols import PROTOCOLS as NAMED
from rhobench.measure.latency import Latency, measure_calls
from rhobench.measure.timed_calls import TimedCall
from rhobench.results.environment import cpu_model, usable_cores

PROTOCOL = NAMED["latency"]
"""Protocol of every latency of a foreign detector, that of our own runs."""

SAMPLES_FILE = "samples.parquet"
"""Name of the file with every timed call, in the folder of its record."""


def time_detector(
    detector: ForeignDetector,
    prepared: Sequence[Any],
    rhos: Sequence[float | None],
    device: torch.device,
    folder: Path,
) -> dict[float | None, dict[str, Any]]:
    """Time a detector at every rho in turns, and write all timed calls to ``SAMPLES_FILE``.

    Args:
        detector: detector on the device.
        prepared: images that the calls cycle through.
        rhos: shares of updated tokens; (None,) for a detector that does not take it.
        device: device of the detector.
        folder: folder of the record.

    Returns:
        Fields of ``rhobench.results.Point`` by rho.
    """
    calls = {rho: _call(detector, prepared, rho, device) for rho in rhos}
    with torch.inference_mode():
        measured = measure_calls(calls, PROTOCOL)
    samples = pd.concat([_samples(rho, latency) for rho, latency in measured.items()])
    samples.assign(protocol=PROTOCOL.id).to_parquet(folder / SAMPLES_FILE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_model()}, {usable_cores()} cores"
    common = {"device": name, "backend": detector.engine, "samples_file": SAMPLES_FILE}
    return {rho: latency.point_fields() | common for rho, latency in measured.items()}


def _call(detector: ForeignDetector, prepared: Sequence[Any], rho: float | None, device: torch.device) -> TimedCall:
    def call(i: int) -> None:
        detector.rho = rho
        detector.detect(prepared[i % len(prepared)])
        if device.type == "cuda":  # kernels run asynchronously
            torch.cuda.synchronize(device)

    return TimedCall(run=call, device=device, batch_size=1, inputs=len(prepared))


def _samples(rho: float | None, latency: Latency) -> pd.DataFrame:
    """Table with one row per timed call: rho, latency_ms, round and call."""
    rounds, calls = latency.samples_ms.shape
    index = pd.MultiIndex.from_product([range(rounds), range(calls)], names=["round", "call"])
    return pd.DataFrame({"rho": rho, "latency_ms": latency.samples_ms.ravel()}, index=index).reset_index()
