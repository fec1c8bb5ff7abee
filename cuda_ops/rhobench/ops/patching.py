"""Replacement of the operator inside the models of ``transformers``, found by the structure of their code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhobench.ops.api import deformable_attention
from rhobench.ops.backends import REFERENCE, find_backend
from rhobench.ops.levels import SpatialShapes

_log = logging.getLogger("rhobench.ops")

_TENSORS = ("value", "value_spatial_shapes", "sampling_locations", "attention_weights")
_MODULE = (
    "self",
    "value",
    "value_spatial_shapes",
    "value_spatial_shapes_list",
    "level_start_index",
    "sampling_locations",
    "attention_weights",
    "im2col_step",
)
_ABSENT = object()


class Patch:
    """What has been replaced. ``undo`` restores it, as does the end of a ``with`` block."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Full names of the functions and methods that were replaced."""
        self._before: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, attribute: str, replacement: Any) -> None:
        """Set an attribute of a module or class, and remember what it was."""
        self._before.append((owner, attribute, vars(owner).get(attribute, _ABSENT)))
        setattr(owner, attribute, replacement)

    def undo(self) -> None:
        """Restore everything; a second call does nothing."""
        while self._before:
            owner, attribute, before = self._before.pop()
            if before is _ABSENT:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, before)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def patch_transformers(*, backend: str = "auto") -> Patch:
    """Let all models of ``transformers`` with deformable attention run ours, whether built before or after the call.

    The operator is recognised by its parameters, in every modeling file that contains it, so models that share it are
    found without a list of names. Weights, results and ``torch.compile`` are not affected. RT-DETRv2 and its
    relatives also have a method "discrete", which rounds positions to pixels: it keeps its own code, with a warning
    in the log.

        with patch_transformers() as patch:  # or a plain call, for the rest of the process
            print(patch.names)
            model(pixel_values)

    Args:
        backend: as for ``rhobench.ops.deformable_attention``.

    Returns:
        A context manager, which has the names of what was replaced. A second call replaces nothing.

    Raises:
        ModuleNotFoundError: ``transformers`` is not installed.
        RuntimeError: no model of this version of ``transformers`` has an operator that is recognised.
        ValueError: the backend is unknown.
    """
    if backend not in ("auto", REFERENCE):
        find_backend(backend)
    patch, known = Patch(), 0
    for module in _modules():
        operators = list(_operators(module))
        known += len(operators)
        if not operators:
            _log.warning(
                "%s samples feature maps, but has no deformable attention that is recognised.", module.__name__
            )
        for owner, name in operators:
            original = vars(owner)[name]
            if original.__module__ == __name__:
                continue  # by an earlier call
            _replace(patch, module, owner, name, backend)
            patch.names.append(f"{original.__module__}.{original.__qualname__}")
    if not known:
        raise RuntimeError(
            f"transformers {importlib.import_module('transformers').__version__} has no deformable attention that is "
            "recognised: use transformers 5, or call rhobench.ops.compat from the model's code."
        )
    return patch


def _modules() -> list[ModuleType]:
    """Modeling files that sample feature maps at locations, imported, which takes some 50 ms each."""
    found = importlib.util.find_spec("transformers")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("patch_transformers needs transformers: `pip install transformers`.")
    modules = []
    for file in sorted(Path(found.origin).parent.glob("models/*/modeling_*.py")):
        source = file.read_text(encoding="utf-8")
        if "grid_sample" in source and "sampling_locations" in source:
            modules.append(importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}"))
    return modules


def _operators(module: ModuleType) -> Iterator[tuple[Any, str]]:
    """Owner and name of each function or method of a module that is the operator, also if it has been replaced."""
    for name, item in list(vars(module).items()):
        if inspect.isfunction(item) and _parameters(item)[:4] == _TENSORS:
            yield module, name
        elif inspect.isclass(item) and issubclass(item, nn.Module) and item.__module__ == module.__name__:
            forward = vars(item).get("forward")
            if inspect.isfunction(forward) and _parameters(forward) == _MODULE:
                yield item, "forward"


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _replace(patch: Patch, module: ModuleType, owner: Any, name: str, backend: str) -> None:
    original = vars(owner)[name]
    if inspect.isclass(owner):
        patch.replace(owner, name, _method(backend))
        return
    varies = "num_points_list" in _parameters(original)
    replacement = _with_points_of_levels(original, backend) if varies else _function(backend)
    patch.replace(owner, name, replacement)
    # Some layers keep the function as an attribute, from when they were built. Getting the source of a class is slow.
    attributes = re.findall(rf"self\.(\w+) = {name}\b", inspect.getsource(module))
    for layer in vars(module).values():
        if inspect.isclass(layer) and issubclass(layer, nn.Module) and layer.__module__ == module.__name__:
            init = vars(layer).get("__init__")
            used = init.__code__.co_names if inspect.isfunction(init) else ()
            for attribute in attributes:
                if name in used and attribute in used:
                    patch.replace(layer, attribute, _attribute(attribute, original, replacement))


def _attribute(name: str, original: Any, replacement: Any) -> property:
    """A property that gives the replacement where an instance holds the original, and keeps the instance as it is."""

    def get(layer: nn.Module) -> Any:
        held = layer.__dict__[name]
        return replacement if held is original else held

    def keep(layer: nn.Module, value: Any) -> None:
        layer.__dict__[name] = original if value is replacement else value

    return property(get, keep)


def _function(backend: str) -> Callable[..., Tensor]:
    def multi_scale_deformable_attention(
        value: Tensor, value_spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
    ) -> Tensor:
        return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights, backend=backend)

    return multi_scale_deformable_attention


def _method(backend: str) -> Callable[..., Tensor]:
    def forward(
        self: nn.Module,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: Sequence[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        # The list, because the tensor would have to be read
        levels = value_spatial_shapes_list
        return deformable_attention(value, levels, sampling_locations, attention_weights, backend=backend)

    return forward


def _with_points_of_levels(original: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    """The operator of RT-DETRv2 and D-FINE, in which levels may differ in their number of points."""

    def multi_scale_deformable_attention_v2(
        value: Tensor,
        value_spatial_shapes: SpatialShapes,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        num_points_list: Sequence[int],
        method: str = "default",
    ) -> Tensor:
        if method != "default":
            if not torch.compiler.is_compiling():
                _log.warning("method=%r is no deformable attention: %s runs its own code.", method, original.__module__)
            return original(value, value_spatial_shapes, sampling_locations, attention_weights, num_points_list, method)
        locations = _by_level(sampling_locations, num_points_list, dim=3)
        weights = _by_level(attention_weights[..., None], num_points_list, dim=3)[..., 0]
        return deformable_attention(value, value_spatial_shapes, locations, weights, backend=backend)

    return multi_scale_deformable_attention_v2


def _by_level(samples: Tensor, num_points: Sequence[int], dim: int) -> Tensor:
    """Split a dimension of samples (before the last one) into levels and points, padded with zeros to the most points.

    Added samples have weight 0.
    """
    most = max(num_points)
    if min(num_points) == most:
        return samples.unflatten(dim, (len(num_points), most))
    levels = samples.split(list(num_points), dim)
    return torch.stack([F.pad(level, (0, 0, 0, most - level.shape[dim])) for level in levels], dim)
