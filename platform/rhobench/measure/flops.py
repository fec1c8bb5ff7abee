"""FLOPs and parameters of a detector, counted during a forward pass, so that skipped tokens do not count.

The pass runs on the meta device, where tensors have shapes but no values: it needs no weights and hardly any memory,
and its duration does not depend on the image size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rhobench.config import ModelConfig
from rhobench.measure.flop_rules import CONVENTIONS, Convention, CountName
from rhobench.model import Detector, DetectorOutput, build_model
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
"""Name of the reported part of each module of a detector; not every model family has all of them."""


class CountError(ValueError):
    """An image size, convention or rho for which costs cannot be counted."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameter counts of a detector, without buffers such as the statistics of frozen batch norms."""

    total: int
    """All parameters."""
    trainable: int
    """Parameters that require a gradient."""
    encoder_aux: int
    """Trainable parameters of the encoder's auxiliary heads, which are used only by losses."""

    @property
    def published(self) -> int:
        """Count as in the published table: trainable, without the encoder's auxiliary heads (spec section 11)."""
        return self.trainable - self.encoder_aux


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Cost of one forward pass for one image."""

    count: CountName
    """Convention of all counts of operations in this object."""
    height: int
    """Height of the image in pixels."""
    width: int
    """Width of the image in pixels."""
    tokens: int
    """Tokens that the encoder reads."""
    updated_tokens: int
    """Tokens that the encoder updates."""
    gflops: float
    """Total in 10^9 operations."""
    parts: dict[str, float]
    """10^9 operations by part, which sum to ``gflops``. "heads" are all prediction heads, in whichever part they run,
    and "other" is everything outside the named parts."""
    own_rules: tuple[str, ...]
    """Operators that PyTorch's counter lacks and that the rules of the convention counted."""
    parameters: ParameterCount
    """Parameter counts of the model."""

    @property
    def params_m(self) -> float:
        """Millions of parameters, trainable or not."""
        return self.parameters.total / 1e6


def count_parameters(model: Detector) -> ParameterCount:
    """Count the parameters of ``model``; parameters shared by several layers count once."""

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
    """Count the cost of ``model`` in evaluation mode for one image without padding; the model is not modified.

    Args:
        model: model on any device; ``meta_copy`` gives one without weights.
        height: height of the image in pixels.
        width: width of the image in pixels.
        count: name of the convention, a key of ``CONVENTIONS`` (spec section 17).
        encoder_aux: with "official", also run the encoder's auxiliary heads, as the official code does; the published
            numbers do not include them.
        rho: share of the encoder tokens to update; None: that of the model.

    Raises:
        CountError: the image has no area, or the convention is unknown or has no auxiliary heads to count.
        ValueError: the image gives fewer tokens than the model has queries.
    """
    convention = _convention(count, encoder_aux)
    if min(height, width) < 1:
        raise CountError(
            f"An image of {height}x{width} pixels (height x width) has no area: both sides must be at least 1."
        )
    meta_model = meta_copy(model).eval().requires_grad_(False)
    meta_model.rho = meta_model.rho if rho is None else rho
    if not encoder_aux:
        meta_model.get_submodule("encoder").aux_heads = nn.ModuleList()
    images = torch.empty(1, 3, height, width, device="meta")
    counter = FlopCounterMode(display=False, custom_mapping=dict(convention.rules))
    # Each device has its own fused attention kernel, and PyTorch has no rule for some: count the matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _MetaShapes(), counter:
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
        # Not of the copy, whose auxiliary heads may be gone and whose parameters need no gradients.
        parameters=count_parameters(model),
    )


COUNTED_NAMESPACES = frozenset({"aten", "prim", "prims"})
"""Operators of PyTorch itself: those without a rule have no multiply-adds that a convention counts."""
FREE_OPERATORS = frozenset({"torchvision::nms", "torchvision::roi_align"})
"""Other operators that conventions leave out like norms, because they neither multiply matrices nor convolve."""


def count_call(call: Callable[[], object], *, count: str = "standard") -> int | None:
    """Count the operations of PyTorch that a function runs, for models of other libraries, on their real inputs.

    Args:
        call: function to run once.
        count: name of the convention, a key of ``CONVENTIONS``.

    Returns:
        The number of operations; None if an operator of another library ran, whose operations nobody counts.
    """
    convention, seen = _convention(count, encoder_aux=False), _OperatorRecorder()
    counter = FlopCounterMode(display=False, custom_mapping=dict(convention.rules))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter, seen:
        call()
    unknown = {name for name in seen.names if name.partition("::")[0] not in COUNTED_NAMESPACES} - FREE_OPERATORS
    # Without any counted operation there is no entry.
    return None if unknown else convention.total(counter.get_flop_counts().get("Global", {}))


class _OperatorRecorder(TorchDispatchMode):
    """Records the names of all operators, such as "aten::addmm"."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def _mask_operations(output: DetectorOutput, convention: Convention) -> int:
    """Operations of the matrix product that computes the masks of the detections, after the forward pass."""
    if output.masks is None:
        return 0
    queries = torch.arange(min(MAX_DETECTIONS, output.masks.queries.shape[1]), device="meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output.masks.logits(0, queries)
    return convention.total(counter.get_flop_counts()["Global"])


def meta_copy(model: Detector) -> Detector:
    """Copy of ``model`` on the meta device, without the values of its weights; no data is moved or copied."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    weightless: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    for parameter in model.parameters():
        weightless[id(parameter)] = nn.Parameter(weightless[id(parameter)], requires_grad=parameter.requires_grad)
    # deepcopy takes what its memo contains, so the weights are replaced instead of copied.
    meta_model = copy.deepcopy(model, weightless)
    for module in meta_model.modules():
        if isinstance(module, DeformableAttention):
            module.backend = "reference"  # plain PyTorch, which runs on the meta device
    return meta_model


def build_on_meta(config: ModelConfig) -> Detector:
    """Build a model on the meta device, without weights: a fraction of the time of building it."""
    with torch.device("meta"):
        return meta_copy(build_model(config))


def _convention(count: str, encoder_aux: bool) -> Convention:
    """Look up a convention and check that it can count the auxiliary heads."""
    if count not in CONVENTIONS:
        raise CountError(f"Unknown convention {count!r}: choose one of {', '.join(CONVENTIONS)}.")
    if encoder_aux and not CONVENTIONS[count].every_head:
        raise CountError(
            f"The encoder's auxiliary heads do not run in detection, so {count!r} has none to count: use 'official'."
        )
    return CONVENTIONS[count]


def _parts(model: Detector, counts: Mapping[str, Mapping[Any, int]], convention: Convention) -> dict[str, int]:
    """Operations by part: modules by name, except for their prediction heads, which form the part "heads"."""
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
    # Before the repeated box heads are added, which did not run in this pass.
    parts["other"] = convention.total(counts["Global"]) - sum(parts.values())
    parts["heads"] += again
    return parts


_ARITHMETIC = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor, torch.ops.aten.mul.Tensor})
"""Elementwise operators of two operands."""


class _MetaShapes(TorchDispatchMode):
    """Gives the results of frequent operators their shapes directly on the meta device.

    PyTorch decomposes ``grid_sample`` there, and computes the shapes of sums and products in Python: together three
    quarters of the time of a pass.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.grid_sampler_2d.default:
            values, grid = args[:2]  # (n, C, h, w), (n, a, b, 2)
            return values.new_empty(*values.shape[:2], *grid.shape[1:3])
        if func is torch.ops.aten.addmm.default and not kwargs:
            _, left, right = args  # (n, k), (k, m)
            return left.new_empty(left.shape[0], right.shape[1])
        if func is torch.ops.aten.relu.default:
            return torch.empty_like(args[0])
        if func in _ARITHMETIC and all(isinstance(a, Tensor) and a.dtype == torch.float32 for a in args[:2]):
            return args[0].new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape))
        return func(*args, **(kwargs or {}))
