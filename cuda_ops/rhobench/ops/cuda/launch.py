"""How a kernel is compiled and launched for a problem: a choice by sizes and card alone, without either at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

Kernel = Literal["forward", "backward", "finish"]

KINDS = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Storage of numbers, as in `source/stored.cuh`."""
BYTES = (4, 2, 2)
"""Of a number, by kind."""

STATIC_SHARED_BYTES = 48 * 1024
"""Shared memory that a kernel may declare."""
ON_CHIP_BYTES = 32 * 1024
"""For the sums of coarse levels: with more, fewer blocks fit onto a multiprocessor."""
BLOCKS_PER_MULTIPROCESSOR = 4
"""Blocks that a multiprocessor should have to hide its waiting; with fewer, tiles are made smaller."""
TILES = (64, 32, 16, 8, 4, 2, 1)
"""Queries of a block. The last three are for queries with so many samples that no more fit into shared memory."""
BACKWARD_TILES = TILES[1:]
"""Of the backward kernel, which keeps half as much again of each sample."""
SMALLEST_USUAL_TILE = 8


@dataclass(frozen=True)
class GpuSpec:
    """What of a GPU the choice depends on."""

    capability: tuple[int, int]
    multiprocessors: int
    """Multiprocessors."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of one call, and how its tensors are stored."""

    images: int
    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level."""
    heads: int
    width: int
    """Channels of a head."""
    queries: int
    points: int
    kinds: tuple[int, int, int]
    """Of value, of locations or offsets, of weights or logits; numbers of ``KINDS``."""
    fused: bool

    @property
    def samples(self) -> int:
        """Of a query and head."""
        return len(self.shapes) * self.points

    @property
    def pixels(self) -> int:
        """Of all levels."""
        return sum(height * width for height, width in self.shapes)

    def lanes(self, tile: int) -> int:
        """Threads that share the channels of a head, as `source/samples.cuh` finds them."""
        at_once = 16 // BYTES[self.kinds[0]]
        while self.width % at_once:
            at_once //= 2
        return max(_power_of_two(self.width // at_once, 32), 32 // tile)


@dataclass(frozen=True)
class Variant:
    """What is compiled."""

    kernel: Kernel
    defines: tuple[tuple[str, int], ...]
    """Constants of the source, by name."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of one variant of a kernel."""

    variant: Variant
    sizes: Sizes
    threads: int
    tile: int
    """Queries of a tile."""
    spatial: bool
    """The queries are the pixels of all levels, and a tile is a rectangle of one."""
    tiles_each: int = 1
    """Tiles of a block."""
    shared_bytes: int = 0
    """Beyond what the kernel declares."""

    @cached_property
    def levels(self) -> tuple[tuple[int, int, int, int, int, int], ...]:
        """For each level its first pixel, height, width, first tile, tiles across, and 0."""
        rows, pixel, tile = [], 0, 0
        for height, width in self.sizes.shapes:
            across, down = -(-width // self._tile_width), -(-height // (self.tile // self._tile_width))
            rows.append((pixel, height, width, tile, across, 0))
            pixel, tile = pixel + height * width, tile + across * down
        return tuple(rows)

    @property
    def _tile_width(self) -> int:
        return 8 if self.tile >= 32 else 4 if self.tile >= 8 else min(self.tile, 2)

    @property
    def tiles(self) -> int:
        """Of an image."""
        if not self.spatial:
            return -(-self.sizes.queries // self.tile)
        _, height, _, first, across, _ = self.levels[-1]
        return first + across * -(-height // (self.tile // self._tile_width))

    @property
    def blocks(self) -> int:
        """Of the whole launch."""
        if self.variant.kernel == "finish":
            return -(-self.sizes.images * self.sizes.pixels * self.sizes.heads * self.sizes.width // self.threads)
        return self.sizes.images * -(-self.tiles // self.tiles_each) * self.sizes.heads

    @property
    def headroom(self) -> int:
        """2**headroom contributions are added to one number of the value's gradient at the most."""
        return math.ceil(math.log2(max(self.sizes.queries * self.sizes.samples, 1)))


@lru_cache(maxsize=512)  # training on many resolutions has many
def forward_launch(sizes: Sizes, gpu_spec: GpuSpec) -> Launch:
    """Small tiles where large ones would leave multiprocessors idle, or need more shared memory than there is."""
    return _launch("forward", sizes, gpu_spec, TILES, bytes_of_a_sample=32)


@lru_cache(maxsize=512)
def backward_launch(sizes: Sizes, gpu_spec: GpuSpec, *, deterministic: bool) -> Launch:
    """As ``forward_launch``. Coarse levels are summed on the chip where many queries of a block share their pixels.

    Args:
        sizes: of the call.
        card: the GPU.
        deterministic: add contributions to the value's gradient as integers, whose sum has no order.
    """
    launch = _launch("backward", sizes, gpu_spec, BACKWARD_TILES, bytes_of_a_sample=48)
    coarse, tiles_each = (0, 1) if deterministic else _on_chip(launch, gpu_spec)
    on_chip = sum(height * width for height, width in sizes.shapes[len(sizes.shapes) - coarse :])
    own = ("DETERMINISTIC", int(deterministic)), ("COARSE", coarse)
    return replace(
        launch,
        variant=Variant("backward", (*launch.variant.defines, *own)),
        tiles_each=tiles_each,
        shared_bytes=4 * on_chip * sizes.width,
    )


def finish_launch(backward: Launch) -> Launch:
    """Integers of a deterministic ``backward`` to numbers."""
    return replace(backward, variant=Variant("finish", backward.variant.defines), threads=256, shared_bytes=0)


def _launch(kernel: Kernel, sizes: Sizes, gpu_spec: GpuSpec, tiles: tuple[int, ...], bytes_of_a_sample: int) -> Launch:
    spatial = sizes.queries == sizes.pixels
    fitting = [tile for tile in tiles if bytes_of_a_sample * sizes.samples * (tile + 1) <= STATIC_SHARED_BYTES]
    if not fitting:
        most = STATIC_SHARED_BYTES // (bytes_of_a_sample * (tiles[-1] + 1))
        raise ValueError(
            f"backend='cuda' takes at most {most} samples a query and head, but got {len(sizes.shapes)} levels of "
            f"{sizes.points} points: use fewer, or backend='reference'."
        )
    usual = [tile for tile in fitting if tile >= SMALLEST_USUAL_TILE] or fitting[:1]
    # The number of blocks that a tile gives does not depend on whether its queries lie together, but for the edges.
    wanted = BLOCKS_PER_MULTIPROCESSOR * gpu_spec.multiprocessors
    enough = [tile for tile in usual if sizes.images * sizes.heads * -(-sizes.queries // tile) >= wanted]
    tile = enough[0] if enough else usual[-1]
    threads = min(256, tile * sizes.lanes(tile))
    kinds = zip(("VALUE", "FIRST", "SECOND"), sizes.kinds, strict=True)
    constants = {
        "WIDTH": sizes.width,
        "LEVELS": len(sizes.shapes),
        "POINTS": sizes.points,
        "FUSED": int(sizes.fused),
        "SPATIAL": int(spatial),
        "TILE": tile,
        "THREADS": threads,
    }
    return Launch(
        variant=Variant(kernel, (*kinds, *constants.items())),
        sizes=sizes,
        threads=threads,
        tile=tile,
        spatial=spatial,
    )


def _on_chip(launch: Launch, gpu_spec: GpuSpec) -> tuple[int, int]:
    """How many of the last levels to sum on the chip, and over how many tiles before the sums go to memory."""
    sizes, tiles_each = launch.sizes, max(1, 256 // launch.tile)
    blocks = sizes.images * sizes.heads * -(-launch.tiles // tiles_each)
    if blocks < BLOCKS_PER_MULTIPROCESSOR * gpu_spec.multiprocessors:
        return 0, 1
    coarse, pixels = 0, 0
    for height, width in reversed(sizes.shapes):
        pixels += height * width
        contributions = (coarse + 1) * 4 * sizes.points * launch.tile * tiles_each
        if 4 * pixels * sizes.width > ON_CHIP_BYTES or contributions < 4 * pixels:
            break
        coarse += 1
    return (coarse, tiles_each) if coarse else (0, 1)


def _power_of_two(number: int, most: int) -> int:
    """The smallest that is not below ``number``, ``most`` at the most."""
    power = 1
    while power < number and power < most:
        power *= 2
    return power
