"""Initialisation of a training with the weights of another run: `rhobench run ... --fork FOLDER`.

Only weights are loaded. Optimiser, schedule, order of the images and history start from scratch with the new settings.
A head that the other run did not have keeps its own initialisation, as do class heads for another number of
categories; otherwise the models must be identical.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from rhobench.measure.artifact import FILE_NAME, sha256_of
from rhobench.model import Detector
from rhobench.training.checkpoint import find_checkpoint

ADDED_HEADS = ("mask_head",)
"""Modules that no other module depends on, so that trained weights may lack them."""


class ForkError(ValueError):
    """A run whose weights cannot initialise another one."""


def fork(model: Detector, folder: Path, *, features_are_cached: bool) -> dict[str, Any]:
    """Load the weights of the run in ``folder`` into ``model``, from its artifact or else its newest checkpoint.

    Args:
        model: model of the new run with its initial weights.
        folder: folder of the other run, or an artifact.
        features_are_cached: whether the features of the new run's backbone are cached already, so that the other
            run's backbone must have the same weights.

    Returns:
        The origin, for the record: "file", its "sha256", "damaged" checkpoints that are newer, and "fresh" parameters
        of new heads, which the file lacks or has for other categories, and which keep their initial values.

    Raises:
        ForkError: the folder has no weights, or they belong to another model.
    """
    file, damaged = _find_weights(folder)
    weights = _model_weights(load_file(file))
    own = model.state_dict()
    fresh = {n: v for n, v in own.items() if _is_new_head(n, weights) or _has_other_classes(n, v, weights)}
    # Not left to load_state_dict, whose message does not say which setting to change.
    _require_same_model(model, weights | fresh, file, features_are_cached)
    model.load_state_dict(weights | fresh)
    return {
        "file": str(file),
        "sha256": sha256_of(file),
        "damaged": [other.name for other in damaged],
        "fresh": sorted(fresh),
    }


def require_forkable(model: Detector, folder: Path) -> None:
    """Check that ``fork`` could load the weights of the run in ``folder``, by names and shapes alone.

    Args:
        model: model of the new run, which may be on the meta device.
        folder: folder of the other run.

    Raises:
        ForkError: as in ``fork``.
    """
    file, _ = _find_weights(folder)
    try:
        with safe_open(file, "pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ForkError(f"{file} is damaged ({error}): give the folder of another run.") from error
    weights = _model_weights({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    own = model.state_dict()
    fresh = {n: v for n, v in own.items() if _is_new_head(n, weights) or _has_other_classes(n, v, weights)}
    _require_same_model(model, weights | fresh, file, features_are_cached=False)


def _find_weights(folder: Path) -> tuple[Path, list[Path]]:
    """Find the file of a run's weights, and the damaged checkpoints that are newer; ForkError if there is none."""
    if folder.is_file():
        return folder, []
    if not folder.is_dir():
        raise ForkError(f"There is no run at {folder} to fork from: give the folder of a run, STORE/runs/RUN_ID.")
    file = folder / FILE_NAME
    if file.is_file():
        return file, []
    found, damaged = find_checkpoint(folder)  # damaged files are not renamed: they belong to another run
    if found is None:
        raise ForkError(
            f"There is no run in {folder} to fork from, neither a {FILE_NAME} nor an intact checkpoint: give the "
            "folder of a run, STORE/runs/RUN_ID."
        )
    return found, damaged


def _model_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in an artifact or a checkpoint; the moving average if there is one, because it is what is evaluated."""
    for prefix in ("average.module.", "model."):
        below = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if below:
            return below
    return dict(tensors)  # an artifact has no prefixes


def _is_new_head(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a parameter belongs to an added head of which ``weights`` has no parameter."""
    head = name.partition(".")[0]
    return head in ADDED_HEADS and not any(other.startswith(f"{head}.") for other in weights)


def _has_other_classes(name: str, value: Tensor, weights: Mapping[str, Tensor]) -> bool:
    """Whether a parameter belongs to a class head for another number of categories."""
    return name.split(".")[-2:-1] == ["classify"] and name in weights and weights[name].shape != value.shape


def _require_same_model(model: Detector, weights: Mapping[str, Tensor], file: Path, features_are_cached: bool) -> None:
    """Check names and shapes of all parameters, and with cached features the values of the backbone's."""
    own = model.state_dict()
    missing = sorted(own.keys() ^ weights.keys())
    if missing:
        where = "in the file" if missing[0] in weights else "in this run's model"
        raise ForkError(
            f"{file} belongs to another model: {missing[0]} exists only {where}. Use the model settings of that run."
        )
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise ForkError(
                f"{file} belongs to another model: {name} has shape {tuple(weights[name].shape)} in the file and "
                f"{tuple(value.shape)} in this run. Use the model settings of that run."
            )
        if features_are_cached and name.startswith("backbone.") and not value.cpu().equal(weights[name]):
            raise ForkError(
                f"The backbone in {file} differs from model.backbone.weights, whose features are cached: "
                "set train.cache_features=false."
            )
