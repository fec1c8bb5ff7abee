"""Operations of one forward pass, counted while it runs, so that only tokens that are really computed count.

The pass runs on the meta device, where tensors have shapes and no values: it needs no weights and hardly any memory,
and takes as long for a large image as for a small one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rhobench.measure.flop_rules import CONVENTIONS, Convention, CountName
from rhobench.model import Detector, DetectorOutput
from rhobench.model.attention import DeformableAttention
from rhobench.model.heads import PredictionHead
from rhobench.model.postprocess import MAX_DETECTIONS

PARTS: Mapping[str, str] = {
    "backbone": "backbone",
    "projection": "projections",
    "scorer": "scorer",
    "encoder": "encoder",
    "query_selector": "query selection",
    "queries": "query selection",
    "decoder": "decoder",
    "mask_head": "masks",
}
"""Modules of a detector, and the parts that they are shown as; some families lack some."""


class CountError(ValueError):
    """A size or a convention that cannot be counted."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a detector; buffers, such as the statistics of frozen batch norms, are none."""

    total: int
    trainable: int
    encoder_aux: int
    """Those of the encoder's prediction heads, which only losses need."""

    @property
    def published(self) -> int:
        """As the official table counts: trainable, without the encoder's prediction heads (spec section 11)."""
        return self.trainable - self.encoder_aux


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Cost of one image."""

    count: CountName
    """The convention of every number of operations here."""
    height: int
    """Of the image in pixels."""
    width: int
    """Of the image in pixels."""
    tokens: int
    """Tokens that the encoder reads."""
    updated_tokens: int
    """Tokens that it updates."""
    gflops: float
    """10^9 operations."""
    parts: dict[str, float]
    """10^9 operations of each part; they sum to ``gflops``. "heads" are all prediction heads, wherever they are called,
    and "other" is what runs in no part."""
    own_rules: tuple[str, ...]
    """Operators that PyTorch's counter cannot see, and that were counted by our own rules."""
    parameters: ParameterCount

    @property
    def params_m(self) -> float:
        """Millions of parameters, trainable or not."""
        return self.parameters.total / 1e6


def count_parameters(model: Detector) -> ParameterCount:
    """Parameters of ``model``; a tensor that several layers share counts once."""

    def elements(parameters: Iterable[Tensor]) -> int:
        return sum(p.numel() for p in parameters if p.requires_grad)

    return ParameterCount(
        total=sum(p.numel() for p in model.parameters()),
        trainable=elements(model.parameters()),
        encoder_aux=elements(model.get_submodule("encoder.aux_heads").parameters()),
    )


def count_flops(
    model: Detector,
    height: int,
    width: int,
    *,
    count: str = "standard",
    encoder_aux: bool = False,
    rho: float | None = None,
) -> FlopCount:
    """Cost of ``model`` in evaluation mode for one image without padding; the model itself is not touched.

    Args:
        model: on any device; see ``meta_copy`` for one without weights.
        height: of the image in pixels.
        width: of the image in pixels.
        count: name of the convention, one of ``CONVENTIONS`` (spec section 17).
        encoder_aux: with "official", run the encoder's prediction heads too, as the official code does. Its published
            numbers leave them out.
        rho: share of the tokens to update; None: that of the model.

    Raises:
        CountError: the size or the convention is not allowed.
        ValueError: the image gives fewer tokens than the model has queries.
    """
    convention = _convention(count, encoder_aux)
    if min(height, width) < 1:
        raise CountError(f"An image of {height}x{width} pixels (height x width) has no area: both must be at least 1.")
    meta_model = meta_copy(model).eval().requires_grad_(False)
    meta_model.rho = meta_model.rho if rho is None else rho
    if not encoder_aux:
        meta_model.get_submodule("encoder").aux_heads = nn.ModuleList()
    images = torch.empty(1, 3, height, width, device="meta")
    counter = FlopCounterMode(display=False, custom_mapping=dict(convention.rules))
    # Fused attention kernels have a name on every device, and PyTorch has no rule for some: count the matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _MetaGridSample(), counter:
        output: DetectorOutput = meta_model(images, with_aux=convention.every_head)
    counts = counter.get_flop_counts()
    tokens = output.source.shape[1]
    parts = _parts(meta_model, counts, convention)
    parts["projections"] += tokens * convention.per_token
    parts["masks"] += _mask_operations(output, convention)
    return FlopCount(
        count=convention.name,
        height=height,
        width=width,
        tokens=tokens,
        updated_tokens=tokens if output.selection is None else output.selection.index.shape[1],
        gflops=sum(parts.values()) / 1e9,
        parts={part: operations / 1e9 for part, operations in parts.items() if operations},
        own_rules=tuple(sorted(operator.__name__ for operator in counts["Global"] if operator in convention.rules)),
        parameters=count_parameters(model),
    )


def _mask_operations(output: DetectorOutput, convention: Convention) -> int:
    """Of the product that makes the masks of the detections, at most one for each, after the forward pass."""
    if output.masks is None:
        return 0
    queries = torch.arange(min(MAX_DETECTIONS, output.masks.queries.shape[1]), device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output.masks.logits(0, queries)
    return convention.total(counter.get_flop_counts()["Global"])


def meta_copy(model: Detector) -> Detector:
    """``model`` without the values of its weights, on the meta device; nothing is moved or copied there."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    weightless: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    for parameter in model.parameters():
        weightless[id(parameter)] = nn.Parameter(weightless[id(parameter)], requires_grad=parameter.requires_grad)
    meta_model = copy.deepcopy(model, weightless)
    for module in meta_model.modules():
        if isinstance(module, DeformableAttention):
            module.backend = "reference"  # the definition of the operator runs on every device
    return meta_model


def _convention(count: str, encoder_aux: bool) -> Convention:
    if count not in CONVENTIONS:
        raise CountError(f"There is no way of counting {count!r}: choose one of {', '.join(CONVENTIONS)}.")
    if encoder_aux and not CONVENTIONS[count].every_head:
        raise CountError(f"The encoder's prediction heads do not run in detection: {count!r} has none to count.")
    return CONVENTIONS[count]


def _parts(model: Detector, counts: Mapping[str, Mapping[Any, int]], convention: Convention) -> dict[str, int]:
    """Operations by part: modules by name, with their prediction heads taken out and put into a part of their own."""
    root = type(model).__name__

    def of(module: str) -> int:
        return convention.total(counts.get(f"{root}.{module}", {}))

    parts: dict[str, int] = {}
    for module, part in PARTS.items():
        parts[part] = parts.get(part, 0) + of(module)
    parts["heads"] = again = 0
    for name, module in model.named_modules():
        if isinstance(module, PredictionHead):
            cost = of(f"{name}.classify") + of(f"{name}.box")
            parts[PARTS[name.partition(".")[0]]] -= cost
            # The official decoder runs its box heads to refine, and the prediction runs them again.
            twice = convention.every_head and name.startswith("decoder.") and model.get_submodule("decoder").refine
            parts["heads"] += cost
            again += of(f"{name}.box") if twice else 0
    parts["other"] = convention.total(counts["Global"]) - sum(parts.values())
    parts["heads"] += again
    return parts


class _MetaGridSample(TorchDispatchMode):
    """Spares ``grid_sample`` on the meta device, which PyTorch works out elementwise: two thirds of a whole pass."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.grid_sampler_2d.default:
            values, grid = args[:2]  # (n, C, h, w), (n, a, b, 2)
            return values.new_empty(*values.shape[:2], *grid.shape[1:3])
        return func(*args, **(kwargs or {}))
