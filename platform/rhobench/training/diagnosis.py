"""Location of the first non-finite value of a failed step: the batch is run again with hooks.

The hooks are installed only after a failure, so that other steps pay nothing for them. Batch and weights are saved in
the folder of the run, as safetensors and JSON; ``rhobench.training.replay`` runs the step again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rhobench.config import RunConfig
from rhobench.config.conversion import to_dict
from rhobench.measure.artifact import atomic_replace
from rhobench.model import Detector
from rhobench.model.criterion import weighted_sum
from rhobench.model.matcher import NonFiniteError
from rhobench.training.batches import FeatureBatch, TrainBatch, to_objects
from rhobench.training.objective import Objective
from rhobench.training.state import TrainingState
from rhobench.training.workers import worker_rank


def diagnose_failed_step(
    error: NonFiniteError, state: TrainingState, batch: TrainBatch, folder: Path
) -> NonFiniteError:
    """Find the cause of a failed step, and save its batch and weights in the folder of the run.

    Args:
        error: raised by the step.
        state: training state before the step.
        batch: batch of the step.
        folder: folder of the run.

    Returns:
        An error to raise instead, whose message gives the step, the images, the cause and what to change.
    """
    train, ids = state.config.train, [target.image_id for target in batch.targets]
    scale = state.scaler.get_scale()
    cause = find_nonfinite(state.model, batch, state.config, scale, state.steps)
    step, epoch = state.progress.step + 1, state.progress.epoch + 1
    bf16 = ", or set train.precision=bf16" if train.precision == "fp16" else ""
    # Without the advice of the error, which the one below replaces.
    message = (
        f"{str(error).split('. ')[0]} in step {step} of epoch {epoch} on images {ids}: {cause}. The precision was "
        f"{train.precision}{f' with loss scale {scale:g}' if train.precision == 'fp16' else ''}. Unless an image is "
        f"the cause, lower train.lr (it is {train.lr}) or train.clip_norm (it is {train.clip_norm}){bf16}. "
        f"`python -m rhobench.training.replay {folder}` runs the step again."
    )
    save_failed_step(folder, state, batch, scale, message)
    return NonFiniteError(message)


def find_nonfinite(model: Detector, batch: TrainBatch, config: RunConfig, loss_scale: float, step: int) -> str:
    """Describe the first non-finite value of a forward and backward pass over ``batch``.

    Args:
        model: model in training mode; its gradients are reset.
        batch: batch on the device of the model.
        config: configuration of the run.
        loss_scale: factor of the loss before the backward pass.
        step: optimiser steps done before this one.
    """
    ids = [target.image_id for target in batch.targets]
    inputs = batch.features if isinstance(batch, FeatureBatch) else [batch.images]
    # Inputs first: a non-finite pixel would be blamed on the first layer, which only passes it on.
    bad = [name for row, name in enumerate(ids) if not all(bool(values[row].isfinite().all()) for values in inputs)]
    if bad:
        return f"the pixels of {'image' if len(bad) == 1 else 'images'} {', '.join(map(str, bad))} are not finite"
    model.begin_step(config.seed, step)
    model.zero_grad(set_to_none=True)
    objective = Objective(model, config.loss, config.train.precision)
    terms: dict[str, Tensor] = {}
    with _first_nonfinite_output(model) as layers, _first_nonfinite_gradient(model) as gradients:
        try:
            boxes = sum(len(target.labels) for target in batch.targets)
            terms = objective(batch, to_objects(batch, batch.mask.device), boxes)
            (weighted_sum(terms, config.loss, step) * loss_scale).backward()
        except NonFiniteError:
            pass  # raised by the matcher on non-finite predictions; the hooks have recorded the layer by then
    model.zero_grad(set_to_none=True)
    wrong = [name for name, value in terms.items() if not bool(value.isfinite())]
    # In the order of causes: a non-finite output makes the losses and gradients after it non-finite, too.
    if layers:
        return layers[0]
    if wrong:
        return f"all layers are finite, but the loss term {wrong[0]} is {terms[wrong[0]].item()}"
    if gradients:
        return f"the loss is finite, but the gradient of {gradients[0]}, the first in the backward pass, is not"
    return (
        "everything is finite when the step is run again. Either its random draws (dropout) differed, or images of "
        "another worker are the cause, which its nonfinite-worker file then shows"
    )


@contextmanager
def _first_nonfinite_output(model: nn.Module) -> Iterator[list[str]]:
    """Hook all layers; the yielded list receives a description of the first one with a non-finite output."""
    found: list[str] = []

    def check(name: str, layer: nn.Module, output: Any) -> None:
        if found:  # later layers only inherit the value, and each test waits for the device
            return
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                parameters = layer.named_parameters(recurse=False)
                own = [part for part, parameter in parameters if not bool(parameter.isfinite().all())]
                why = f", whose {' and '.join(own)} became non-finite in an earlier step" if own else ""
                dtype = str(value.dtype).removeprefix("torch.")
                found.append(
                    f"the first layer whose output is not finite is {name or 'the model'} "
                    f"({type(layer).__name__}, {dtype}){why}"
                )
                return

    # The hooks of submodules run before that of their parent, so the innermost layer is found.
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: check(name, layer, output))
        for name, layer in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _first_nonfinite_gradient(model: nn.Module) -> Iterator[list[str]]:
    """Hook all trained parameters; the yielded list receives the first one with a non-finite gradient."""
    found: list[str] = []

    def check(name: str, parameter: Tensor) -> None:
        if not found and parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            found.append(f"{name} ({str(parameter.grad.dtype).removeprefix('torch.')})")

    handles = [
        parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: check(name, parameter))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def failed_step_files(folder: Path, rank: int) -> tuple[Path, Path]:
    """Paths of the tensors and of the description of the failed step of a worker."""
    return folder / f"nonfinite-worker{rank}.safetensors", folder / f"nonfinite-worker{rank}.json"


def save_failed_step(folder: Path, state: TrainingState, batch: TrainBatch, loss_scale: float, reason: str) -> None:
    """Write everything that ``rhobench.training.replay`` needs to run a step again."""
    inputs = batch.features if isinstance(batch, FeatureBatch) else [batch.images]
    tensors = {f"input.{level}": values for level, values in enumerate(inputs)} | {"mask": batch.mask}
    for row, target in enumerate(batch.targets):
        tensors |= {f"labels.{row}": target.labels, f"boxes.{row}": target.boxes}
        if target.masks is not None:
            tensors[f"masks.{row}"] = target.masks
    tensors |= {f"model.{name}": value for name, value in state.model.state_dict().items()}
    description = {
        "reason": reason,
        "config": to_dict(state.config),
        "num_classes": state.model.num_classes,
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "steps": state.steps,
        "loss_scale": loss_scale,
        "features": isinstance(batch, FeatureBatch),
        "images": [{"id": target.image_id, "size": list(target.original_size)} for target in batch.targets],
    }
    tensors_file, description_file = failed_step_files(folder, worker_rank()[0])
    with atomic_replace(tensors_file) as temporary:
        # Cached targets are views of one storage, which safetensors refuses.
        save_file({name: value.detach().contiguous().clone().cpu() for name, value in tensors.items()}, temporary)
    # Last, because ``replay`` finds failed steps by this file and then expects the tensors.
    with atomic_replace(description_file) as temporary:
        temporary.write_text(json.dumps(description, indent=1))
