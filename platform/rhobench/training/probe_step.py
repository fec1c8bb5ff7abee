"""Time and memory of a few training steps on synthetic batches of the largest size, measured in a subprocess.

``python -m rhobench.training.probe_step`` reads a request as JSON from standard input and writes its answer as the last
line of standard output. `rhobench run --fit` calls it, so that running out of memory ends only this process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rhobench.config import RunConfig
from rhobench.config.conversion import from_dict
from rhobench.data.coco import Batch, Target
from rhobench.measure.process import configure_process
from rhobench.model import Detector, build_model
from rhobench.training.batches import FeatureBatch, TrainBatch, to_device
from rhobench.training.device import peak_memory_gib, training_device
from rhobench.training.loop import initial_state
from rhobench.training.objective import run_model
from rhobench.training.step import OptimizerStep
from rhobench.training.workload import BatchShape, Workload


@dataclass(frozen=True, kw_only=True)
class StepProbe:
    """Time and memory that a micro-batch size needs; the measurements are None if it does not fit."""

    micro_batch_size: int
    """Images per micro-batch of a worker."""
    fits: bool
    """Whether a step on the largest batch and an evaluation of the largest validation batch succeeded."""
    reason: str = ""
    """Why it does not fit; empty if it does."""
    peak_gib: float | None = None
    """Peak memory in GiB; see ``device.peak_memory_gib``."""
    worst_step_seconds: float | None = None
    """Duration of an optimiser step on the worker's share of the largest batch."""
    step_seconds: float | None = None
    """Duration of an optimiser step on the worker's share of a typical batch."""
    score_seconds: float | None = None
    """Duration of the evaluation per image, in the largest validation batch."""


def probe_step(config: RunConfig, work: Workload, micro_batch_size: int) -> StepProbe:
    """Run some training steps of a worker and evaluate one batch, with random weights.

    The values of the weights affect neither time nor memory. Where each step draws its rho, the largest batch is probed
    at the largest rho, and the time of a typical step is the mean over the draws. Running out of memory is a result,
    not an error.

    Args:
        config: configuration of the run.
        work: workload of one worker.
        micro_batch_size: images per micro-batch; a divisor of the worker's images per step.
    """
    # The settings of a training worker, on which the time depends.
    configure_process(config.train.cpus_per_worker)
    torch.manual_seed(config.seed)
    device = training_device(config.train)
    try:
        return _measure(config, work, micro_batch_size, device)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        return StepProbe(micro_batch_size=micro_batch_size, fits=False, reason="out of memory")


def _measure(config: RunConfig, work: Workload, size: int, device: torch.device) -> StepProbe:
    """Measure a micro-batch size that is expected to fit."""
    share = config.train.batch_size // config.train.num_workers
    backbone = replace(config.model.backbone, weights=None, weights_prefix=None)
    classes = config.model.num_classes or work.num_classes
    model = build_model(replace(config.model, backbone=backbone, num_classes=classes)).to(device)
    # A single worker whose batch is the share of one worker: the probe has no process group.
    single = replace(config.train, batch_size=share, num_workers=1, micro_batch_size=size)
    config = replace(config, train=single)
    state = initial_state(config, model, work.train_images // share, "", device)
    step = OptimizerStep(state, adapt_micro_batch=False)
    model.train()
    draws = Counter(config.model.rho_choices)
    if draws:
        model.draw_only(max(draws))
    # The first step allocates the optimiser's moments and compiles kernels, so it is not timed. It has two
    # micro-batches, because memory peaks when the second one is added to existing gradients.
    _seconds(lambda: step(_batch(config, model, work.worst, min(2 * size, share), device)), device)
    worst, typical = (_batch(config, model, shape, share, device) for shape in (work.worst, work.typical))
    worst_seconds = _seconds(partial(step, worst), device)
    seconds = 0.0
    for rho, count in draws.items():
        model.draw_only(rho)
        seconds += count / draws.total() * _seconds(partial(step, typical), device)
    if not draws:
        seconds = _seconds(partial(step, typical), device)
    del worst, typical  # an evaluation has no training batches in memory
    images = _images(work.scored, work.scored_images, device)
    with torch.inference_mode():
        state.eval_model.eval()
        eval_seconds = _seconds(lambda: run_model(state.eval_model, images), device)
    return StepProbe(
        micro_batch_size=size,
        fits=True,
        peak_gib=peak_memory_gib(device),
        worst_step_seconds=worst_seconds,
        step_seconds=seconds,
        score_seconds=eval_seconds / work.scored_images,
    )


def _batch(config: RunConfig, model: Detector, shape: BatchShape, images: int, device: torch.device) -> TrainBatch:
    """Synthetic batch of noise, of images or of features as in the training."""
    if not config.train.cache_features:
        return _images(shape, images, device)
    one = _images(shape, 1, device)
    with torch.no_grad():
        # One image stands for all, since the values affect neither time nor memory.
        features = [level.repeat(images, 1, 1, 1) for level in model.backbone(one.images)]
    return FeatureBatch(features, one.mask.repeat(images, 1, 1), one.targets * images)


def _images(shape: BatchShape, images: int, device: torch.device) -> Batch:
    """Images of noise with random boxes of 0.1 to 0.5 of the image size, and label 0, which every model has."""
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
    """Wall time of a call, including the work it queued on a GPU."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    # On a CPU, torch raises a plain RuntimeError, which only its message identifies.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _limit_memory() -> None:
    """Limit the memory of this process, and make it the first that the kernel's out-of-memory killer selects."""
    available = available_memory()
    if available is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = available if hard == resource.RLIM_INFINITY else min(available, hard)
        # RLIMIT_AS would also count address space that is only reserved, or that maps files.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    score = Path("/proc/self/oom_score_adj")
    if score.exists() and os.access(score, os.W_OK):
        score.write_text("1000")  # the maximum


def available_memory() -> int | None:
    """Bytes of main memory available to this process on the machine and in its control group; None: unknown."""
    known = []
    meminfo, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        # Not MemFree, which omits the page cache, although the kernel gives that up on demand.
        known.append(int(fields["MemAvailable"].split()[0]) * 1024)
    # Version 2 of control groups; a container sees its own group here, and the root group has no such file.
    if (group / "memory.max").is_file() and (limit := (group / "memory.max").read_text().strip()) != "max":
        known.append(int(limit) - int((group / "memory.current").read_text()))
    return min(known, default=None)


def main() -> None:
    """Read {"config", "workload", "micro_batch_size"}; write the fields of a ``StepProbe``, or {"error": message}."""
    request = json.load(sys.stdin)
    config = from_dict(RunConfig, request["config"])
    work = request["workload"]
    work |= {name: BatchShape(**work[name]) for name in ("worst", "typical", "scored")}
    if config.train.gpus_per_worker == 0:  # on a GPU, torch raises an exception
        _limit_memory()
    try:
        answer = asdict(probe_step(config, Workload(**work), request["micro_batch_size"]))
    except ValueError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
