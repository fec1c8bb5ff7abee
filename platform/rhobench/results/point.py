"""One way of running a trained model, with everything that was measured that way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from rhobench.config.protocols import TimingStatus
from rhobench.results.checked_types import Count, Number, Share, SignedShare

BREAKDOWNS = ("ap_by_class", "gflops_by_part", "ms_by_part")
"""Fields of a point with one value per class or part; they are no columns of ``Store.frame()``."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way of running a trained model and the values measured that way; None: not measured."""

    rho: Annotated[float, msgspec.Meta(gt=0, le=1)] | None
    """Share of the encoder tokens updated at inference; None: the dense encoder."""
    protocol: str | None = None
    """Name and version of the measurement protocol, described in ``Record.protocols``."""
    device: str | None = None
    """Name of the processor, such as "AMD EPYC 9654" or "NVIDIA H100"."""
    backend: str | None = None
    """Backend of deformable attention that was used, not the one that was requested; the engine of a foreign model."""
    threads: Count | None = None
    """Number of CPU threads of the process."""
    load_average: Number | None = None
    """Average number of runnable processes over the minute before the measurement ended.

    Other processes ran if it is well above ``threads``.
    """
    busy_cores: Number | None = None
    """Mean number of cores that other processes of the host, unknown to Ray, used during the measurement."""
    co_running: str | None = None
    """Programs among these processes that used most, with their cores, such as "python 0.9, raylet 0.1"."""
    batch_size: Count | None = None
    """Images per call."""
    precision: str | None = None
    """"fp32", "bf16" or "fp16"."""
    compiled: bool | None = None
    """Whether the timed model was compiled by ``torch.compile``."""
    height: Count | None = None
    """Height of the input in pixels; None: it varies between images."""
    width: Count | None = None
    """Width of the input in pixels; None: it varies between images."""
    accuracy: dict[str, Share | None] = field(default_factory=dict)
    """Accuracy metrics by name (``rhobench.config.metrics``), in [0, 1].

    None where there are no objects to average over. Mask metrics only for a model with a mask head.
    """
    ap_by_class: dict[str, Number | None] = field(default_factory=dict)
    """Box AP of each class by name, in [0, 1]; None for a class without objects."""
    accuracy_batch_size: Count | None = None
    """Images per batch of the evaluation; images of different sizes are padded, which can change AP."""
    ap_difference: SignedShare | None = None
    """AP minus that of the same weights in fp32 at the same point, in [-1, 1]; None in fp32."""
    accuracy_bounds: dict[str, Number | None] = field(default_factory=dict)
    """Ends of the 95 % intervals of the accuracy over images, as ``ap_low`` and ``ap_high``; empty: not computed.

    They hold for this trained model on other images of the kind, not for another training.
    """
    matches_file: str | None = None
    """File in the folder of the run with the matches of the evaluation, for statistics; None: there is none."""
    gflops: Number | None = None
    """Operations per image in units of 10^9, counted by the rules ``flops_count``."""
    flops_count: Literal["standard", "official"] | None = None
    """Counting rules. "standard": 2 operations per multiply-add. "official": those of the official Sparse DETR code."""
    gflops_by_part: dict[str, Number | None] = field(default_factory=dict)
    """``gflops`` by part of the model ("backbone", "encoder", ...), in the same unit."""
    params_m: Number | None = None
    """Millions of parameters."""
    latency_ms: Number | None = None
    """Duration of a call in milliseconds: the median or the mean of the timed calls, as the protocol says."""
    latency_low_ms: Number | None = None
    """Lower end of its 95 % interval, by bootstrap over the rounds, in milliseconds."""
    latency_high_ms: Number | None = None
    """Upper end of that interval in milliseconds."""
    latency_p10_ms: Number | None = None
    """10th percentile of the timed calls in milliseconds; None with fewer than 100 calls."""
    latency_p25_ms: Number | None = None
    """25th percentile of the timed calls in milliseconds."""
    latency_p75_ms: Number | None = None
    """75th percentile of the timed calls in milliseconds."""
    latency_p90_ms: Number | None = None
    """90th percentile of the timed calls in milliseconds; None with fewer than 100 calls."""
    latency_p99_ms: Number | None = None
    """99th percentile of the timed calls in milliseconds; None with fewer than 1,000 calls."""
    ms_by_part: dict[str, Number | None] = field(default_factory=dict)
    """Milliseconds of a call by part of the model, as in ``gflops_by_part``; measured apart from ``latency_ms``."""
    latency_samples: Count | None = None
    """Number of timed calls."""
    latency_rounds: Count | None = None
    """Number of rounds of these calls."""
    device_ms: Number | None = None
    """Median time of a call between two events on the GPU, in milliseconds."""
    first_call_s: Number | None = None
    """Duration of the first call in seconds, which compiles, tunes and allocates; no part of the latency."""
    fps: Number | None = None
    """Images per second at ``batch_size``."""
    fps_low: Number | None = None
    """Lower end of its 95 % interval."""
    fps_high: Number | None = None
    """Upper end of that interval."""
    timing_status: TimingStatus | None = None
    """Whether the latency may be compared; None: not judged, as before protocol version 2."""
    timing_reason: str | None = None
    """Why the status is not "ok"."""
    peak_memory_mib: Number | None = None
    """Peak GPU memory that torch allocated in the timed calls, in MiB."""
    reserved_memory_mib: Number | None = None
    """Peak GPU memory that torch reserved, in MiB."""
    energy_j: Number | None = None
    """Energy that the whole GPU used per image in joules, by its own counter; not that of the system."""
    measured_at: str | None = None
    """Time when the latency was recorded: UTC, ISO 8601."""
    artifact_sha256: str | None = None
    """SHA-256 of the file of the model that was measured."""
    samples_file: str | None = None
    """File in the folder of the run with every timed call."""
    manifest_file: str | None = None
    """File in the folder of the run with everything else that is known about the measurement."""

    def flat(self) -> dict[str, Any]:
        """Every field with a single value by name, with each accuracy metric and each end of its interval."""
        return {
            key: item
            for name, value in vars(self).items()
            if name not in BREAKDOWNS
            for key, item in (value.items() if name in ("accuracy", "accuracy_bounds") else ((name, value),))
        }
