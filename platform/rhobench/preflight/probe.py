"""Answers to the questions of ``rhobench.preflight.questions``, from models without weights on the meta device.

``python -m rhobench.preflight.probe`` reads one question a line from stdin, and prints one answer a line.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rhobench.config import BackboneConfig, ModelConfig
from rhobench.config.conversion import from_dict
from rhobench.measure.backbone_cost import backbone_cost, meta_backbone
from rhobench.measure.flops import meta_copy
from rhobench.model import Detector, build_model
from rhobench.model.pretrained import require_fitting_weights
from rhobench.ops.backends import REFERENCE, backend_names, find_backend
from rhobench.training.fork import require_forkable


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a question, given and returned as parsed JSON."""
    if question["kind"] == "backbone":
        return _backbone(from_dict(BackboneConfig, question["backbone"]), question["height"], question["width"])
    return _model(from_dict(ModelConfig, question["model"]), question)


def _backbone(config: BackboneConfig, height: int, width: int) -> dict[str, Any]:
    try:
        cost = backbone_cost(config, height, width)
    except (ValueError, RuntimeError) as error:
        return {"problems": [_one_line(error)]}
    return {"problems": [], **vars(cost)}


def _model(config: ModelConfig, question: Mapping[str, Any]) -> dict[str, Any]:
    """Problems of a model; without any, also its parameters and the memory of a training step."""
    problems = list(_backend_problems(config.attention_backend, on_gpu=question["on_gpu"], here=question["here"]))
    backbone, smallest, largest = config.backbone, question["smallest"], question["largest"]
    bare = replace(backbone, weights=None, weights_prefix=None)
    try:
        meta_backbone(bare)
    except (ValueError, RuntimeError) as error:
        return {"problems": [*problems, f"model.backbone.name={backbone.name!r} is not allowed: {_one_line(error)}"]}
    try:
        require_fitting_weights(meta_backbone(bare).body, backbone)
    except ValueError as error:
        problems.append(_one_line(error))
    try:
        with torch.device("meta"):
            model = meta_copy(build_model(replace(config, backbone=bare)))
        if smallest != largest:
            with torch.no_grad():
                model.eval()(torch.empty(1, 3, *smallest, device="meta"))
        if question["fork_from"] is not None:
            require_forkable(model, Path(question["fork_from"]))
        saved = _saved_bytes(model, largest)
    except (ValueError, RuntimeError) as error:
        sentence = _one_line(error)
        if not type(error).__module__.startswith("rhobench"):  # PyTorch's words name no field
            sizes = " and ".join(
                f"{height}x{width}" for height, width in dict.fromkeys(map(tuple, (smallest, largest)))
            )
            sentence = f"{config.name} on {backbone.name} cannot run on images of {sizes} pixels: {sentence}"
        return {"problems": [*problems, sentence]}
    tensors = list(model.parameters())
    return {
        "problems": problems,
        "parameters": sum(p.numel() for p in tensors),
        "trainable": sum(p.numel() for p in tensors if p.requires_grad),
        "saved_bytes_per_image": saved,
    }


def _backend_problems(name: str, *, on_gpu: bool, here: bool) -> Iterator[str]:
    if name in ("auto", REFERENCE):
        return
    start = f"model.attention_backend={name!r} is not allowed"
    try:
        backend = find_backend(name)
    except ValueError:
        yield f"{start}: it must be one of {', '.join(('auto', *backend_names()))}."
        return
    if (backend.device_type == "cuda") != on_gpu:
        where = "with train.gpus_per_worker the runs train on a GPU" if on_gpu else "train.gpus_per_worker is 0"
        yield f"{start}: it needs a device of type {backend.device_type!r}, but {where}; use 'auto'."
    elif here and (reason := backend.unavailable_reason()):
        yield f"{start} on this machine: {reason}; use 'auto'."


def _saved_bytes(model: Detector, size: list[int]) -> int:
    """Bytes that a training step keeps for its backward pass, for one image of ``size`` (height, width)."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    model.train()
    if model.config.rho_choices:
        model.draw_only(max(model.config.rho_choices))  # the step that needs most
    model.begin_step(0, 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.empty(1, 3, *size, device="meta"))
    del output
    return sum(storage.nbytes() for storage in kept.values())


def _one_line(error: Exception) -> str:
    """The message of an error; PyTorch's continue with a traceback of C++."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("\n".join([json.dumps(answer(json.loads(line))) for line in sys.stdin]), flush=True)
    os._exit(0)  # tearing down PyTorch takes a third of a second and 170 MB
