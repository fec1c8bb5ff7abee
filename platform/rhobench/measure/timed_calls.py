"""The call that is timed: a trained model on fixed inputs, from the start to the end of a scope."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rhobench.config.protocols import Scope
from rhobench.data.coco import Batch
from rhobench.model import Detector
from rhobench.model.postprocess import detection_masks, detections
from rhobench.model.precision import autocast


@dataclass(frozen=True, kw_only=True)
class TimedModel:
    """A trained model as it is run at one point, and the inputs it is timed on."""

    model: Detector
    """Model on the device it is timed on."""
    batches: Sequence[Batch]
    """Batches that the calls cycle through, in the memory of the host."""
    load: Callable[[int], Batch] | None = None
    """Reads the i-th of these batches from its files, for the scope "end_to_end"."""
    rho: float | None = None
    """Share of the encoder tokens to update, so that one model can be timed at several; None: that of the model."""
    precision: str = "fp32"
    """"fp32", "bf16" or "fp16"."""
    compiled: bool = False
    """Whether the model is compiled by ``torch.compile``."""

    @property
    def batch_size(self) -> int:
        """Images per call."""
        return len(self.batches[0].images)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device


Call = Callable[[int], None]
"""Runs the i-th call, cycling through the batches, and returns when the device has finished."""


@dataclass(frozen=True, kw_only=True)
class TimedCall:
    """A call that is timed, and what the measurement must know of it."""

    run: Call
    """The call."""
    device: torch.device
    """Device that computes."""
    batch_size: int
    """Images per call."""
    inputs: int
    """Number of inputs that the calls cycle through."""


def timed_call(timed: TimedModel, scope: Scope) -> TimedCall:
    """Build the call of a point and describe it; raises as ``make_call``."""
    call = make_call(timed, scope)
    return TimedCall(run=call, device=timed.device, batch_size=timed.batch_size, inputs=len(timed.batches))


def make_call(timed: TimedModel, scope: Scope) -> Call:
    """Build the call of a point; the model is put in evaluation mode.

    Raises:
        ValueError: the scope needs files, and the point has none.
    """
    model, device = timed.model.eval(), timed.device
    rho = model.rho if timed.rho is None else timed.rho
    forward = _compiled(model, device) if timed.compiled else model
    if scope == "end_to_end" and timed.load is None:
        raise ValueError("The scope end_to_end reads image files, but these inputs have none.")
    # Moved to the device once where the scope does not include the transfer.
    inputs = [_on_device(batch, device) for batch in timed.batches] if scope != "end_to_end" else []

    def run(images: torch.Tensor, mask: torch.Tensor, sizes: torch.Tensor, originals: list[tuple[int, int]]) -> Any:
        model.rho = rho  # in every call, because other calls may share the model
        with torch.inference_mode(), autocast(device, timed.precision):
            output = forward(images, mask)
        if scope == "model":
            return None
        with torch.inference_mode():
            found = detections(output.prediction, sizes)
            for number, size in enumerate(originals if output.masks is not None else []):
                for _ in detection_masks(output.masks, number, found.queries[number], size):
                    pass  # the generator computes the masks as it is consumed
        return found

    def call(i: int) -> None:
        if scope == "end_to_end":
            assert timed.load is not None
            found = run(*_on_device(timed.load(i % len(timed.batches)), device))
            for values in found:
                values.cpu()
        else:
            run(*inputs[i % len(inputs)])
        if device.type == "cuda":  # kernels run asynchronously
            torch.cuda.synchronize(device)

    return call


def _compiled(model: Detector, device: torch.device) -> Callable[..., Any]:
    # On a GPU "reduce-overhead" replays CUDA graphs; on a CPU there is nothing like it.
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    # Parts that depend on values, such as whether an image is padded, end a graph; Dynamo warns of each with its stack.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    return torch.compile(model, mode=mode, dynamic=False)


def _on_device(
    batch: Batch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    originals = [target.original_size for target in batch.targets]
    sizes = torch.tensor(originals, device=device)
    return batch.images.to(device), batch.mask.to(device), sizes, originals
