"""Reduction of the micro-batch size when a GPU runs out of memory, for the rest of the run.

This relies on torch.OutOfMemoryError, which torch raises for GPUs only. On a CPU the system kills a process that needs
too much memory; `rhobench run --fit`, which probes sizes in subprocesses, finds the largest that fits.
"""

from __future__ import annotations

from rhobench.config.phrases import counted
from rhobench.training.state import TrainingState
from rhobench.training.workers import worker_rank


class MemoryLimitError(ValueError):
    """A step that does not fit into the memory of a device."""


def current_micro_batch(state: TrainingState, images: int) -> int:
    """Micro-batch size in images: that of the settings, or the reduced one if that is smaller.

    Args:
        state: training state.
        images: images of this worker in a step.
    """
    # The reduced size comes from a checkpoint, and the number of workers may have changed since.
    configured, reduced = state.config.train.micro_batch_size or images, state.progress.micro_batch_size
    return configured if reduced is None else _largest_divisor(images, min(configured, reduced))


def reduce_micro_batch(state: TrainingState, size: int, images: int) -> None:
    """Continue with the next smaller micro-batch size that divides a worker's images, and warn about it.

    Only for a single worker. With several, the others may already wait in the all-reduce for the gradients of the one
    that ran out of memory; the all-reduce cannot be cancelled, so they cannot restart the step.

    Args:
        state: training state.
        size: micro-batch size that did not fit.
        images: images of this worker in a step.

    Raises:
        MemoryLimitError: ``size`` is 1, or there are several workers.
    """
    if size == 1:
        raise MemoryLimitError(
            f"A micro-batch of one image does not fit into the memory of {state.device}: use smaller images, a smaller "
            "model, or a device with more memory."
        )
    smaller = _largest_divisor(images, size - 1)
    rank, workers = worker_rank()
    if workers > 1:
        raise MemoryLimitError(
            f"A micro-batch of {counted(size, 'image')} does not fit into the memory of {state.device} on worker "
            f"{rank} of {workers}, and the size cannot be reduced while several workers train: set "
            f"train.micro_batch_size={smaller}, or find the largest that fits with `rhobench run EXPERIMENT --fit`."
        )
    state.progress.micro_batch_size = smaller
    # The mean of DETR's cross-entropy is weighted by the objects of each micro-batch; see ``step.SUM_REDUCED``.
    exception = " (those of DETR's cross-entropy nearly so)" if state.config.model.name == "detr" else ""
    state.warn(
        f"a micro-batch of {counted(size, 'image')} did not fit into the memory of {state.device} in step "
        f"{state.steps + 1}; training continues with train.micro_batch_size={smaller}. Each step has the same "
        f"images, and its gradients are the same up to rounding and the random draws of dropout{exception}"
    )


def _largest_divisor(number: int, most: int) -> int:
    """Largest divisor of ``number`` up to ``most``, so that all micro-batches have the same size."""
    return next(size for size in range(most, 0, -1) if number % size == 0)
