from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

Problem = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Random inputs, with sampling locations inside and outside the map.

    None lies within 0.02 pixels of a pixel's centre, where the gradient jumps and rounding picks the side.
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
