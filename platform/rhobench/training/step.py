"""One optimiser step: micro-batches, forward, losses, backward, gradient clipping, AdamW, schedule, average."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rhobench.model.criterion import weighted_sum
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import TrainBatch, micro_batches, to_objects
from rhobench.training.memory import current_micro_batch, reduce_micro_batch
from rhobench.training.objective import Objective
from rhobench.training.precision import MIN_LOSS_SCALE
from rhobench.training.random_states import random_states, restore_random_states
from rhobench.training.state import TrainingState
from rhobench.training.workers import all_reduce_mean, worker_rank

SUM_REDUCED = ("loss_bbox", "loss_giou", "loss_mask_focal", "loss_mask_dice", "loss_ce")
"""Prefixes of the loss terms that are sums over images, divided by the number of objects of the whole batch.

All other terms, and DETR's cross-entropy, are means over images, so a micro-batch is weighted by its share of them. For
DETR's cross-entropy, whose mean is weighted by the objects of each micro-batch, this is an approximation, the same as
between data-parallel workers of the official code."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Losses of one optimiser step."""

    loss: float
    """Weighted loss of this worker's images."""
    terms: dict[str, Tensor]
    """Unweighted terms as in ``criterion.losses``, and "loss" for their weighted sum."""
    skipped: bool
    """Whether the fp16 gradients overflowed, so that the weights are unchanged and the loss scale is halved."""


class OptimizerStep:
    """Performs the optimiser steps of one training, each of which updates ``state``.

    A step that runs out of GPU memory is restarted with a smaller micro-batch and the same random states, so that its
    result is that of a step with this micro-batch from the beginning. With ``adapt_micro_batch=False``,
    torch.OutOfMemoryError propagates instead.
    """

    def __init__(self, state: TrainingState, *, adapt_micro_batch: bool = True) -> None:
        self.state, self.config, self.adapt_micro_batch = state, state.config, adapt_micro_batch
        objective = Objective(state.model, self.config.loss, self.config.train.precision)
        self.summed = SUM_REDUCED[:-1] if self.config.model.name == "detr" else SUM_REDUCED
        self.objective: nn.Module = DistributedDataParallel(objective) if worker_rank()[1] > 1 else objective

    def __call__(self, batch: TrainBatch) -> StepResult:
        """Update the weights with a batch on the device of the model.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, in fp16 even at a loss scale below 1. The weights
                are unchanged.
            MemoryLimitError: the step does not fit into memory, and the micro-batch cannot be reduced.
        """
        state, train = self.state, self.config.train
        state.model.begin_step(self.config.seed, state.steps)
        terms = self._compute_gradients(batch)
        state.scaler.unscale_(state.optimizer)  # before the clipping, which needs the true norm
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), train.clip_norm)
        # Besides the matching, this is the only synchronisation with the device: both values in one transfer.
        loss, gradient_norm = torch.stack((terms["loss"], norm)).tolist()
        # Raises before the weights change. On an overflow, ``scaler.step`` leaves them unchanged by itself.
        skipped = self._overflowed(loss, gradient_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()  # also after a skipped step: it counts the batches of the training
        if state.average is not None and not skipped:
            state.average.update_parameters(state.model)
        return StepResult(loss=loss, terms=terms, skipped=skipped)

    def _compute_gradients(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Compute the gradients of a batch, with a smaller micro-batch if memory runs out; return its loss terms."""
        state, images = self.state, len(batch.targets)
        before = random_states(state.device)
        while True:
            # Also after running out of memory: some micro-batches may be done.
            state.optimizer.zero_grad(set_to_none=True)
            size = current_micro_batch(state, images)
            try:
                return self._backward(batch, size)
            except torch.OutOfMemoryError:
                if not self.adapt_micro_batch:
                    raise
                reduce_micro_batch(state, size, images)
            # After the handler: the exception keeps the frames, and so the tensors, of the failed pass alive.
            torch.cuda.empty_cache()
            restore_random_states(before, state.device)

    def _backward(self, batch: TrainBatch, size: int) -> dict[str, Tensor]:
        """Accumulate the gradients of a batch over micro-batches of ``size`` images; return its loss terms."""
        device, images = self.state.device, len(batch.targets)
        boxes = float(sum(len(target.labels) for target in batch.targets))
        num_boxes = max(all_reduce_mean(boxes, device), 1.0)  # spec section 13
        parts = micro_batches(batch, size)
        total: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            share = len(part.targets) / images
            with nullcontext() if number == len(parts) else self._no_sync():
                part_terms = self.objective(part, to_objects(part, device), num_boxes)
                terms = part_terms if share == 1 else self._scaled_terms(part_terms, share)
                terms["loss"] = weighted_sum(terms, self.config.loss, self.state.steps)
                self.state.scaler.scale(terms["loss"]).backward()
            for name, value in terms.items():
                total[name] = total[name] + value.detach() if name in total else value.detach()
        return total

    def _scaled_terms(self, terms: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """Contribution of a micro-batch with ``share`` of the images to the terms of the whole batch."""
        return {name: value if name.startswith(self.summed) else value * share for name, value in terms.items()}

    def _no_sync(self) -> AbstractContextManager[None]:
        """Context of all micro-batches but the last, so that workers all-reduce their gradients once per step."""
        return self.objective.no_sync() if isinstance(self.objective, DistributedDataParallel) else nullcontext()

    def _overflowed(self, loss: float, norm: float) -> bool:
        """Whether the gradients overflowed in fp16, so that the step is skipped and the loss scale reduced.

        Raises:
            NonFiniteError: a smaller loss scale would not help.
        """
        if not math.isfinite(loss):
            raise NonFiniteError(f"The loss is {loss}")  # not an overflow of scaled gradients: this loss is unscaled
        if math.isfinite(norm):
            return False
        scaler = self.state.scaler
        if not scaler.is_enabled():
            raise NonFiniteError(f"The norm of the gradients is {norm}")
        if scaler.get_scale() < MIN_LOSS_SCALE:
            raise NonFiniteError(
                f"The fp16 gradients overflow even with a loss scale of {scaler.get_scale():g}, "
                f"after {self.state.progress.skipped_steps} skipped steps"
            )
        return True
