"""A training that starts from the weights of another run: `rhobench run ... --fork FOLDER`.

Weights alone are taken. Optimiser, schedule, order of the images and history begin anew, as the new settings say. A
head that the other run did not have starts as in any new run; else the models must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from rhobench.measure.artifact import FILE_NAME, sha256_of
from rhobench.model import Detector
from rhobench.training.checkpoint import find_checkpoint

ADDED_HEADS = ("mask_head",)
"""Modules of a detector that nothing else of it depends on, so they can be added to trained weights."""


class ForkError(ValueError):
    """A run whose weights another one cannot start from."""


def fork(model: Detector, folder: Path, *, features_are_cached: bool) -> dict[str, Any]:
    """Give ``model`` the weights of the run in ``folder``: its artifact's, or those of its newest checkpoint.

    Args:
        model: of the new run, with its own weights still.
        folder: of the other run.
        features_are_cached: the backbone's features have been computed already, so its weights must be the same.

    Returns:
        What to record: the file, its hash, newer checkpoints that are damaged, and parameters of a new head, which the
        file lacks and which keep the values that they have.

    Raises:
        ForkError: there are no weights, or they are of another model.
    """
    file, damaged = folder / FILE_NAME, list[Path]()
    if not file.is_file():
        found, damaged = find_checkpoint(folder)
        if found is None:
            raise ForkError(
                f"--fork {folder}: there is neither a {FILE_NAME} nor a whole checkpoint; give a run's folder."
            )
        file = found
    weights = _weights(load_file(file))
    fresh = {name: value for name, value in model.state_dict().items() if _of_added_head(name, weights)}
    _require_same_model(model, weights | fresh, file, features_are_cached)
    model.load_state_dict(weights | fresh)
    return {
        "file": str(file),
        "sha256": sha256_of(file),
        "damaged": [other.name for other in damaged],
        "fresh": sorted(fresh),
    }


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of an artifact, or of a checkpoint: its average, where it has one, for that is what would be scored."""
    for prefix in ("average.module.", "model."):
        below = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if below:
            return below
    return dict(tensors)


def _of_added_head(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a parameter belongs to a head of which ``weights`` have nothing at all."""
    head = name.partition(".")[0]
    return head in ADDED_HEADS and not any(other.startswith(f"{head}.") for other in weights)


def _require_same_model(model: Detector, weights: Mapping[str, Tensor], file: Path, features_are_cached: bool) -> None:
    own = model.state_dict()
    missing = sorted(own.keys() ^ weights.keys())
    if missing:
        where = "there" if missing[0] in weights else "here"
        raise ForkError(
            f"{file} is of another model: {missing[0]} exists only {where}. Give the settings of its model."
        )
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise ForkError(
                f"{file} is of another model: {name} is {tuple(weights[name].shape)} there and {tuple(value.shape)} "
                "here. Give the settings of its model, and data with as many categories."
            )
        if features_are_cached and name.startswith("backbone.") and not value.cpu().equal(weights[name]):
            raise ForkError(
                f"{file} has another backbone than model.backbone.weights gives, but its features are cached: "
                "set train.cache_features=false."
            )
