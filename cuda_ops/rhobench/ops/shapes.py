"""Named problems: the sizes at which DETR models call the operator, and inputs like those of a trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rhobench.ops.api import deformable_attention, fused_deformable_attention
from rhobench.ops.reference import sampling_points

Form = Literal["plain", "fused"]
FORMS: tuple[Form, ...] = ("plain", "fused")
"""Forms of the operator: ``deformable_attention`` and ``fused_deformable_attention``."""

# Distance that samples keep from pixel centres, where the gradient is discontinuous.
_CLEARANCE_PX = 1e-3
# 640x480, the most common size of images in COCO, with its shorter side at 800
_LEVELS_800x1066 = ((100, 134), (50, 67), (25, 34), (13, 17))
_LEVELS_640x640 = ((80, 80), (40, 40), (20, 20))
_LEVELS_800x1333 = ((200, 334), (100, 167), (50, 84), (25, 42), (13, 21))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Sizes of one call of the operator."""

    levels: tuple[tuple[int, int], ...]
    """(height, width) of each level."""
    queries: int
    """Queries of an image."""
    heads: int = 8
    width: int = 32
    """Channels of a head."""
    points: int = 4
    """Sampling points of a query on each level, for each head."""
    batch: int = 1
    """Images."""
    kind: Literal["encoder", "sparse", "decoder"]
    """Role of the queries. encoder: every token is a query. sparse: some tokens are queries and read their reference
    points by index, in the order of their scores. decoder: the reference points of the queries are boxes."""
    about: str = ""
    """Description of the problem."""

    @property
    def tokens(self) -> int:
        """Number of pixels of all levels, S."""
        return sum(height * width for height, width in self.levels)

    @property
    def rows_read(self) -> int:
        """Number of rows of ``width`` channels that a forward pass gathers, four for each sample."""
        return self.batch * self.queries * self.heads * len(self.levels) * self.points * 4


_ONE_IMAGE = {
    "dense": Problem(levels=_LEVELS_800x1066, queries=17821, kind="encoder", about="encoder, 800x1066"),
    "sparse30": Problem(levels=_LEVELS_800x1066, queries=5346, kind="sparse", about="encoder, 800x1066, ρ 0.3"),
    "sparse10": Problem(levels=_LEVELS_800x1066, queries=1782, kind="sparse", about="encoder, 800x1066, ρ 0.1"),
    "decoder": Problem(levels=_LEVELS_800x1066, queries=300, kind="decoder", about="decoder, 800x1066"),
}
SHAPES: Mapping[str, Problem] = {
    **_ONE_IMAGE,
    **{f"{name}_b4": replace(one, batch=4, about=f"{one.about}, 4 images") for name, one in _ONE_IMAGE.items()},
    "rtdetr": Problem(levels=_LEVELS_640x640, queries=300, kind="decoder", about="RT-DETR decoder, 640x640"),
    # Its value, 91 MB in float32, exceeds the caches of most CPUs. A decoder, since the reference alone would take
    # minutes with a dense encoder of this size.
    "dino5": Problem(levels=_LEVELS_800x1333, queries=900, kind="decoder", about="5-scale DINO decoder, 800x1333"),
}


@dataclass(frozen=True)
class Inputs:
    """Inputs of one call of ``fused_deformable_attention``."""

    spatial_shapes: list[tuple[int, int]]
    value: Tensor
    reference_points: Tensor
    sampling_offsets: Tensor
    attention_logits: Tensor
    query_index: Tensor | None

    def differentiable(self, form: Form) -> dict[str, Tensor]:
        """Differentiable arguments of a form of the operator, by name, in the order of its signature."""
        if form == "fused":
            names = "value", "reference_points", "sampling_offsets", "attention_logits"
            return {name: getattr(self, name) for name in names}
        locations, weights = sampling_points(
            self.spatial_shapes,
            self.reference_points,
            self.sampling_offsets,
            self.attention_logits,
            query_index=self.query_index,
        )
        # Locations stay in float32: half precision has too few bits for a position on a large map.
        weights = weights.to(self.value.dtype)
        return {"value": self.value, "sampling_locations": locations, "attention_weights": weights}


def attend(
    form: Form,
    arguments: Mapping[str, Tensor],
    spatial_shapes: list[tuple[int, int]],
    query_index: Tensor | None,
    backend: str,
) -> Tensor:
    """Call a form of the operator with the arguments from ``Inputs.differentiable``."""
    if form == "plain":
        value, locations, weights = arguments.values()
        return deformable_attention(value, spatial_shapes, locations, weights, backend=backend)
    value, *others = arguments.values()
    return fused_deformable_attention(value, spatial_shapes, *others, query_index=query_index, backend=backend)


def make_inputs(
    problem: Problem,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
    noise: float = 1.0,
) -> Inputs:
    """Create the inputs of a problem; the same seed gives the same numbers on every device.

    Offsets are the initial ones of Deformable DETR, the direction of the head times 1 to P, plus normal noise. No
    sample is within 0.001 pixels of a pixel's centre, where the gradient is discontinuous: rounding would decide on
    which side the sample is, and comparisons of gradients would be meaningless.

    Args:
        problem: sizes of the call.
        dtype: dtype of value, offsets and logits; reference points are float32, as under autocast.
        device: device of the tensors.
        seed: seed of the random numbers.
        noise: standard deviation of the noise of the offsets; if it is large, many samples are outside the map.
    """
    random = torch.Generator().manual_seed(seed)
    batch, heads, levels, points = problem.batch, problem.heads, len(problem.levels), problem.points
    value = torch.randn(batch, problem.tokens, heads, problem.width, generator=random).to(dtype)
    logits = torch.randn(batch, problem.queries, heads, levels, points, generator=random).to(dtype)
    references, index = _references(problem, random)
    shapes = list(problem.levels)

    steps = _initial_offsets(heads, points)[:, None]  # (H, 1, P, 2)
    drawn = torch.randn(batch, problem.queries, heads, levels, points, 2, generator=random)
    offsets = (steps + noise * drawn).to(dtype)
    sizes = torch.tensor([(width, height) for height, width in shapes]).double()[:, None]  # (L, 1, 2)
    for _ in range(100):
        # From the offsets as rounded to their dtype, because rounding can move a sample to a centre
        places, _ = sampling_points(shapes, references.double(), offsets, logits, query_index=index)
        pixels = places * sizes - 0.5
        close = (pixels - pixels.round()).abs() < _CLEARANCE_PX
        if not close.any():
            break
        redrawn = noise * torch.randn(int(close.sum()), generator=random)
        offsets[close] = (steps.expand(offsets.shape)[close] + redrawn).to(dtype)
    else:
        raise AssertionError("samples remain at pixel centres after 100 draws")
    index = None if index is None else index.to(device)
    value, references, offsets, logits = (tensor.to(device) for tensor in (value, references, offsets, logits))
    return Inputs(shapes, value, references, offsets, logits, index)


def _references(problem: Problem, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Reference points (N, R, L, 2 or 4) and the query index, None if each query has its own row."""
    batch, levels = problem.batch, len(problem.levels)
    if problem.kind == "decoder":
        centres = torch.rand(batch, problem.queries, 2, generator=random)
        sizes = 0.05 + 0.5 * torch.rand(batch, problem.queries, 2, generator=random).square()  # more small than large
        boxes = torch.cat([centres, sizes], dim=-1)
        return boxes[:, :, None].repeat(1, 1, levels, 1), None
    centres = torch.cat([_centres(height, width) for height, width in problem.levels])  # (S, 2)
    references = centres[None, :, None].repeat(batch, 1, levels, 1)
    if problem.kind == "encoder":
        return references, None
    chosen = [torch.randperm(problem.tokens, generator=random)[: problem.queries] for _ in range(batch)]
    return references, torch.stack(chosen)


def _centres(height: int, width: int) -> Tensor:
    """(x, y) of the centre of each pixel as fractions of the map, (height * width, 2)."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def _initial_offsets(heads: int, points: int) -> Tensor:
    """Offsets (H, P, 2) in one direction for each head, whose larger coordinate is 1 to P pixels."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    return directions[:, None] * torch.arange(1, points + 1)[:, None]
