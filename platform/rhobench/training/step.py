"""One optimiser step: a batch in micro-batches, forward, losses, backward, clipping, AdamW, schedule, average."""

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
"""Beginnings of the terms that are sums over the images, divided by the objects of the whole batch. All others, and
DETR's cross-entropy, are means over the images: micro-batches add up by their share of the images. For the
cross-entropy, whose mean is weighted by the objects of each part, that is nearly the same and not equal, as it is
between data-parallel workers of the official code."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave."""

    loss: float
    """Of this worker's images."""
    terms: dict[str, Tensor]
    """Unweighted, as in ``criterion.losses``, with "loss" for their weighted sum."""
    skipped: bool
    """The fp16 gradients overflowed: the weights are as they were, and the loss scale is halved."""


class OptimizerStep:
    """Steps of one training; ``state`` is changed by each.

    Where a GPU's memory does not hold its images, a step begins anew with fewer at once, from the same random states:
    it ends as if it had begun so. ``adapt_micro_batch=False`` raises torch's exception instead.
    """

    def __init__(self, state: TrainingState, *, adapt_micro_batch: bool = True) -> None:
        self.state, self.config, self.adapt_micro_batch = state, state.config, adapt_micro_batch
        objective = Objective(state.model, self.config.loss, self.config.train.precision)
        self.summed = SUM_REDUCED[:-1] if self.config.model.name == "detr" else SUM_REDUCED
        self.objective: nn.Module = DistributedDataParallel(objective) if worker_rank()[1] > 1 else objective

    def __call__(self, batch: TrainBatch) -> StepResult:
        """Learn from a batch on the device of the model.

        Raises:
            NonFiniteError: the loss or a gradient is not finite, or the loss scale has collapsed. The weights are as
                they were before the step.
            MemoryLimitError: memory does not hold the images, and there is nothing more to be done about it.
        """
        state, train = self.state, self.config.train
        state.model.begin_step(self.config.seed, state.steps)
        terms = self._gradients(batch)
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), train.clip_norm)
        # The only wait for the device beside the matching: both numbers at once.
        loss, gradient_norm = torch.stack((terms["loss"], norm)).tolist()
        skipped = self._check(loss, gradient_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        if state.average is not None and not skipped:
            state.average.update_parameters(state.model)
        return StepResult(loss=loss, terms=terms, skipped=skipped)

    def _gradients(self, batch: TrainBatch) -> dict[str, Tensor]:
        """Gradients of the whole batch, in micro-batches that memory holds -> its terms."""
        state, images = self.state, len(batch.targets)
        before = random_states(state.device)
        while True:
            state.optimizer.zero_grad(set_to_none=True)
            at_once = current_micro_batch(state, images)
            try:
                return self._backward(batch, at_once)
            except torch.OutOfMemoryError:
                if not self.adapt_micro_batch:
                    raise
                reduce_micro_batch(state, at_once, images)
            # Not in the handler: the exception keeps what the failed pass had computed in memory.
            torch.cuda.empty_cache()
            restore_random_states(before, state.device)

    def _backward(self, batch: TrainBatch, at_once: int) -> dict[str, Tensor]:
        """Gradients of the whole batch, ``at_once`` images at a time -> its terms."""
        device, images = self.state.device, len(batch.targets)
        boxes = float(sum(len(target.labels) for target in batch.targets))
        num_boxes = max(all_reduce_mean(boxes, device), 1.0)  # spec section 13
        parts = micro_batches(batch, at_once)
        whole: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            share = len(part.targets) / images
            with nullcontext() if number == len(parts) else self._unsynchronised():
                found = self.objective(part, to_objects(part, device), num_boxes)
                terms = found if share == 1 else self._shares(found, share)
                terms["loss"] = weighted_sum(terms, self.config.loss, self.state.steps)
                self.state.scaler.scale(terms["loss"]).backward()
            for name, value in terms.items():
                whole[name] = whole[name] + value.detach() if name in whole else value.detach()
        return whole

    def _shares(self, terms: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """What the terms of a micro-batch add to those of the whole batch."""
        return {name: value if name.startswith(self.summed) else value * share for name, value in terms.items()}

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Workers exchange gradients once a step, with the last micro-batch."""
        return self.objective.no_sync() if isinstance(self.objective, DistributedDataParallel) else nullcontext()

    def _check(self, loss: float, norm: float) -> bool:
        """Whether the gradients overflowed in a way that a smaller loss scale can mend."""
        if not math.isfinite(loss):
            raise NonFiniteError(f"The loss is {loss}")
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
