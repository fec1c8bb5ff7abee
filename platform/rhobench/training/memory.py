"""What a training does when its GPU cannot hold all images of a step: fewer at once, for the rest of the run.

Only where torch says so by its exception for GPUs. On CPUs the system kills a process that needs too much memory, and
`rhobench run --fit`, which tries in processes of their own, is what finds the setting.
"""

from __future__ import annotations

from rhobench.training.state import TrainingState
from rhobench.training.workers import worker_rank


class MemoryLimitError(ValueError):
    """A step that the memory of a device cannot hold."""


def current_micro_batch(state: TrainingState, images: int) -> int:
    """Images of a micro-batch: what the settings say, or what memory has turned out to hold, whichever is less.

    Args:
        state: of the training.
        images: of this worker in a step.
    """
    wanted, held = state.config.train.micro_batch_size or images, state.progress.micro_batch_size
    return wanted if held is None else _largest_divisor(images, min(wanted, held))


def reduce_micro_batch(state: TrainingState, at_once: int, images: int) -> None:
    """Let the training go on with the next smaller micro-batch that divides a worker's images, and warn of it.

    Workers cannot do so: while one of them runs out of memory, the others may already wait for its gradients, in an
    exchange that is not given up, so that it cannot tell them to begin the step anew.

    Args:
        state: of the training.
        at_once: images that were too many.
        images: of this worker in a step.

    Raises:
        MemoryLimitError: there is no smaller micro-batch, or there are other workers.
    """
    if at_once == 1:
        raise MemoryLimitError(
            f"The memory of {state.device} does not hold one image at a time: take smaller images, a smaller model, "
            "or a device with more memory."
        )
    fewer = _largest_divisor(images, at_once - 1)
    rank, workers = worker_rank()
    if workers > 1:
        raise MemoryLimitError(
            f"The memory of {state.device} does not hold {at_once} images at once on worker {rank} of {workers}, and "
            f"the others cannot be told to take fewer: set train.micro_batch_size={fewer}, or ask "
            "`rhobench run EXPERIMENT --fit` what fits."
        )
    state.progress.micro_batch_size = fewer
    nearly = " (DETR's cross-entropy: nearly the same)" if state.config.model.name == "detr" else ""
    state.warn(
        f"the memory of {state.device} does not hold {at_once} images at once, as step {state.steps + 1} showed: from "
        f"this step on it is {fewer} at once, train.micro_batch_size={fewer}. Steps have the same images and, but for "
        f"rounding and the random draws of dropout, the same gradients{nearly}"
    )


def _largest_divisor(number: int, most: int) -> int:
    return next(size for size in range(most, 0, -1) if number % size == 0)
