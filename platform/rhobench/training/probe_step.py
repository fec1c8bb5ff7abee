"""A few steps on made-up batches of the largest size, in a process that may run out of memory alone.

``python -m rhobench.training.probe_step`` reads what to try as JSON from its standard input, and writes what it found
as the last line of its output. `rhobench run --fit` calls it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.config.paths import from_dict
from rhobench.data import Batch, Target
from rhobench.model import Detector, build_model
from rhobench.training.batches import FeatureBatch, TrainBatch, to_device
from rhobench.training.device import peak_memory_gib, training_device
from rhobench.training.loop import initial_state
from rhobench.training.objective import run_model
from rhobench.training.step import OptimizerStep
from rhobench.training.workload import BatchShape, Workload


@dataclass(frozen=True, kw_only=True)
class StepProbe:
    """What one micro-batch size needs, if it fits."""

    micro_batch_size: int
    """Images at once on a worker."""
    fits: bool
    """Whether a step with the largest batch, and one scoring, went through."""
    reason: str = ""
    """Why it does not fit."""
    peak_gib: float | None = None
    """See ``device.peak_memory_gib``."""
    worst_step_seconds: float | None = None
    """An optimiser step of the worker's share of ``train.batch_size``, with the largest batch."""
    step_seconds: float | None = None
    """The same with a typical batch."""
    score_seconds: float | None = None
    """A scored image, in the largest batch of them."""


def probe_step(config: RunConfig, work: Workload, micro_batch_size: int) -> StepProbe:
    """Take three steps as a worker of ``config`` would, and score a batch. Memory that runs out is an answer.

    Weights are random: what they are changes neither time nor memory.
    """
    torch.set_num_threads(config.train.cpus_per_worker)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    device = training_device(config.train)
    try:
        return _steps(config, work, micro_batch_size, device)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        return StepProbe(micro_batch_size=micro_batch_size, fits=False, reason="out of memory")


def _steps(config: RunConfig, work: Workload, size: int, device: torch.device) -> StepProbe:
    share = config.train.batch_size // config.train.num_workers
    backbone = replace(config.model.backbone, weights=None, weights_prefix=None)
    classes = config.model.num_classes or work.num_classes
    model = build_model(replace(config.model, backbone=backbone, num_classes=classes)).to(device)
    # The trial is one worker, whose step is its share.
    alone = replace(config.train, batch_size=share, num_workers=1, micro_batch_size=size)
    config = replace(config, train=alone)
    state = initial_state(config, model, work.train_images // share, "", device)
    step = OptimizerStep(state, adapt_micro_batch=False)
    model.train()
    # Moments and compiled kernels come with the first step; two micro-batches, so that one meets gradients.
    _seconds(lambda: step(_batch(config, model, work.worst, min(2 * size, share), device)), device)
    worst, typical = (_batch(config, model, shape, share, device) for shape in (work.worst, work.typical))
    worst_seconds, seconds = (_seconds(partial(step, batch), device) for batch in (worst, typical))
    del worst, typical
    images = _images(work.scored, work.scored_images, device)
    with torch.inference_mode():
        state.scored.eval()
        scoring = _seconds(lambda: run_model(state.scored, images), device)
    return StepProbe(
        micro_batch_size=size,
        fits=True,
        peak_gib=peak_memory_gib(device),
        worst_step_seconds=worst_seconds,
        step_seconds=seconds,
        score_seconds=scoring / work.scored_images,
    )


def _batch(config: RunConfig, model: Detector, shape: BatchShape, images: int, device: torch.device) -> TrainBatch:
    """A batch of noise as the training would read it."""
    if not config.train.cache_features:
        return _images(shape, images, device)
    one = _images(shape, 1, device)
    with torch.no_grad():
        features = [level.repeat(images, 1, 1, 1) for level in model.backbone(one.images)]
    return FeatureBatch(features, one.mask.repeat(images, 1, 1), one.targets * images)


def _images(shape: BatchShape, images: int, device: torch.device) -> Batch:
    """Noise, with boxes of a tenth to half of the sides and label 0, which every model has."""
    targets = tuple(
        Target(
            image_id=number,
            labels=torch.zeros(shape.objects, dtype=torch.int64),
            boxes=torch.rand(shape.objects, 4) * 0.4 + 0.1,
            original_size=(shape.height, shape.width),
        )
        for number in range(images)
    )
    pixels = torch.randn(images, 3, shape.height, shape.width)
    batch = to_device(Batch(pixels, torch.zeros(images, shape.height, shape.width, dtype=torch.bool), targets), device)
    assert isinstance(batch, Batch)
    return batch


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    # torch has an exception of its own for GPUs alone.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _raise_oom_score() -> None:
    """Let memory run out in this process, not in the machine: by a limit, and as what the system would kill first."""
    available = available_memory()
    if available is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = available if hard == resource.RLIM_INFINITY else min(available, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    score = Path("/proc/self/oom_score_adj")
    if score.exists() and os.access(score, os.W_OK):
        score.write_text("1000")


def available_memory() -> int | None:
    """Bytes of main memory that this process can still get, by the machine and its control group; None: unknown."""
    known = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        known.append(int(fields["MemAvailable"].split()[0]) * 1024)
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        known.append(int(limit) - int((group / "memory.current").read_text()))
    return min(known, default=None)


def main() -> None:
    """Read {"config", "workload", "micro_batch_size"}, write a ``StepProbe``, or {"error"} when the request is wrong."""
    request = json.load(sys.stdin)
    config = from_dict(RunConfig, request["config"])
    work = request["workload"]
    work |= {name: BatchShape(**work[name]) for name in ("worst", "typical", "scored")}
    if config.train.gpus_per_worker == 0:
        _raise_oom_score()
    try:
        answer = asdict(probe_step(config, Workload(**work), request["micro_batch_size"]))
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
