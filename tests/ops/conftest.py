from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

Problem = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]
FusedProblem = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Random inputs, with sampling locations inside and outside the map.

    None is within 0.02 pixels of a pixel's centre, where the gradient is discontinuous.
    """

    def make(shapes=((5, 7), (3, 4)), images=2, queries=9, heads=2, width=24, points=4, seed=0) -> Problem:
        random = torch.Generator().manual_seed(seed)
        value = torch.randn(images, sum(h * w for h, w in shapes), heads, width, generator=random)
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)[:, None]  # (L, 1, 2)
        pixels = torch.rand(images, queries, heads, len(shapes), points, 2, generator=random) * (sizes + 4) - 2.5
        pixels = pixels.floor() + 0.02 + 0.96 * pixels.frac().abs()
        locations = (pixels + 0.5) / sizes
        logits = torch.randn(images, queries, heads, len(shapes) * points, generator=random)
        return value, list(shapes), locations, logits.softmax(-1).view(locations.shape[:-1])

    return make


@pytest.fixture
def make_fused_problem(make_problem: Callable[..., Problem]) -> Callable[..., FusedProblem]:
    """The same samples as ``make_problem``'s, as offsets around random points (or boxes), with logits."""

    def make(*sizes, boxes: bool = False, seed: int = 0, **named) -> FusedProblem:
        value, shapes, locations, weights = make_problem(*sizes, seed=seed, **named)
        images, queries, _, levels, points, _ = locations.shape
        random = torch.Generator().manual_seed(seed + 1)
        references = torch.rand(images, queries, levels, 4 if boxes else 2, generator=random) * 0.8 + 0.1
        relative = locations - references[:, :, None, :, None, :2]
        extents = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)[:, None]  # (L, 1, 2)
        half_a_box = references[:, :, None, :, None, 2:] / 2
        offsets = relative / half_a_box * points if boxes else relative * extents
        return value, shapes, references, offsets, torch.randn(weights.shape, generator=random)

    return make
