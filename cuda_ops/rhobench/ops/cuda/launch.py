"""Choice of the compiled variant and the launch of a kernel, a function of the sizes and the GPU's properties alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

Kernel = Literal["forward", "backward", "finish"]
"""Names of the kernels; "finish" converts the integer sums of a deterministic backward pass."""

KINDS = {"float32": 0, "float16": 1, "bfloat16": 2}
"""Storage of numbers by name of the dtype, as in `source/stored.cuh`."""
BYTES = (4, 2, 2)
"""Bytes of a number, by kind."""

STATIC_SHARED_BYTES = 48 * 1024
"""Shared memory that a kernel may declare statically."""
ON_CHIP_BYTES = 32 * 1024
"""Shared memory for the sums of coarse levels; with more, fewer blocks fit on a multiprocessor."""
BLOCKS_PER_MULTIPROCESSOR = 4
"""Blocks that a multiprocessor should have to hide latency; tiles are made smaller if there would be fewer."""
TILES = (64, 32, 16, 8, 4, 2, 1)
"""Tile sizes in queries. The last three are for queries with so many samples that shared memory holds no more."""
BACKWARD_TILES = TILES[1:]
"""Tiles of the backward kernel, which stores half as much again for each sample."""
SMALLEST_USUAL_TILE = 8
"""Smaller tiles are used only if no larger one fits into shared memory."""


@dataclass(frozen=True)
class GpuSpec:
    """Properties of a GPU that the choice depends on."""

    capability: tuple[int, int]
    """Compute capability, major and minor."""
    multiprocessors: int
    """Number of streaming multiprocessors."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of one call and the storage of its tensors."""

    images: int
    shapes: tuple[tuple[int, int], ...]
    """(height, width) of each level."""
    heads: int
    width: int
    """Channels of a head."""
    queries: int
    points: int
    kinds: tuple[int, int, int]
    """Storage of value, of locations or offsets, and of weights or logits; values of ``KINDS``."""
    fused: bool
    """Whether points and weights are offsets and logits."""

    @property
    def samples(self) -> int:
        """Samples of a query and head."""
        return len(self.shapes) * self.points

    @property
    def pixels(self) -> int:
        """Pixels of all levels."""
        return sum(height * width for height, width in self.shapes)

    def lanes(self, tile: int) -> int:
        """Number of threads that share the channels of a head, computed as in `source/samples.cuh`."""
        at_once = 16 // BYTES[self.kinds[0]]
        while self.width % at_once:
            at_once //= 2
        return max(_power_of_two(self.width // at_once, 32), 32 // tile)  # at least one whole warp


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants that it is compiled for."""

    kernel: Kernel
    defines: tuple[tuple[str, int], ...]
    """Names and values of the constants."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of one variant of a kernel."""

    variant: Variant
    sizes: Sizes
    threads: int
    """Threads of a block."""
    tile: int
    """Queries of a tile."""
    spatial: bool
    """Whether the queries are the pixels of all levels, so that a tile is a rectangle of one level."""
    tiles_each: int = 1
    """Tiles that a block processes."""
    shared_bytes: int = 0
    """Dynamic shared memory of a block, in bytes."""

    @cached_property
    def levels(self) -> tuple[tuple[int, int, int, int, int, int], ...]:
        """First pixel, height, width, first tile, tiles across and 0 (padding) of each level."""
        rows, pixel, tile = [], 0, 0
        for height, width in self.sizes.shapes:
            across, down = -(-width // self._tile_width), -(-height // (self.tile // self._tile_width))
            rows.append((pixel, height, width, tile, across, 0))
            pixel, tile = pixel + height * width, tile + across * down
        return tuple(rows)

    @property
    def _tile_width(self) -> int:
        # Close to a square, so that neighbouring queries find each other's rows in the L1 cache
        return 8 if self.tile >= 32 else 4 if self.tile >= 8 else min(self.tile, 2)

    @property
    def tiles(self) -> int:
        """Tiles of an image."""
        if not self.spatial:
            return -(-self.sizes.queries // self.tile)
        _, height, _, first, across, _ = self.levels[-1]
        return first + across * -(-height // (self.tile // self._tile_width))

    @property
    def blocks(self) -> int:
        """Blocks of the launch."""
        if self.variant.kernel == "finish":
            return -(-self.sizes.images * self.sizes.pixels * self.sizes.heads * self.sizes.width // self.threads)
        return self.sizes.images * -(-self.tiles // self.tiles_each) * self.sizes.heads

    @property
    def headroom(self) -> int:
        """Bits of headroom for integer sums: at most 2**headroom contributions go to one number of grad_value."""
        return math.ceil(math.log2(max(self.sizes.queries * self.sizes.samples, 1)))


@lru_cache(maxsize=512)  # training at many resolutions needs many
def forward_launch(sizes: Sizes, gpu_spec: GpuSpec) -> Launch:
    """Choose the launch of the forward kernel.

    Tiles are small if large ones would leave multiprocessors idle or exceed the shared memory.

    Raises:
        ValueError: a query has more samples than fit into shared memory.
    """
    return _launch("forward", sizes, gpu_spec, TILES, bytes_of_a_sample=32)


@lru_cache(maxsize=512)
def backward_launch(sizes: Sizes, gpu_spec: GpuSpec, *, deterministic: bool) -> Launch:
    """Choose the launch of the backward kernel, as ``forward_launch`` does.

    Coarse levels are summed in shared memory if many queries of a block contribute to the same pixels.

    Args:
        sizes: sizes of the call.
        gpu_spec: properties of the GPU.
        deterministic: whether to sum the gradient of the value in integers, whose sum does not depend on the order.

    Raises:
        ValueError: a query has more samples than fit into shared memory.
    """
    launch = _launch("backward", sizes, gpu_spec, BACKWARD_TILES, bytes_of_a_sample=48)
    # Sums in shared memory are float32, whose result depends on the order of the additions.
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
    """The launch that converts the integer sums of a deterministic ``backward`` launch to the gradient of the value."""
    return replace(backward, variant=Variant("finish", backward.variant.defines), threads=256, shared_bytes=0)


def _launch(kernel: Kernel, sizes: Sizes, gpu_spec: GpuSpec, tiles: tuple[int, ...], bytes_of_a_sample: int) -> Launch:
    # If other queries happen to have this number, only the locality of their tiles suffers.
    spatial = sizes.queries == sizes.pixels
    fitting = [tile for tile in tiles if bytes_of_a_sample * sizes.samples * (tile + 1) <= STATIC_SHARED_BYTES]
    if not fitting:
        most = STATIC_SHARED_BYTES // (bytes_of_a_sample * (tiles[-1] + 1))
        raise ValueError(
            f"backend='cuda' takes at most {most} samples per query and head, but got {len(sizes.shapes)} levels of "
            f"{sizes.points} points: use fewer, or backend='reference'."
        )
    usual = [tile for tile in fitting if tile >= SMALLEST_USUAL_TILE] or fitting[:1]
    # Spatial tiles give nearly the same number of blocks; only partial tiles at the edges of the maps differ.
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
    """Number of coarse levels to sum in shared memory, and of tiles over which to do so before writing to memory."""
    # About 256 queries, so that many contributions to a pixel meet before their sum is written to memory
    sizes, tiles_each = launch.sizes, max(1, 256 // launch.tile)
    blocks = sizes.images * sizes.heads * -(-launch.tiles // tiles_each)
    # Blocks with many tiles would be too few to keep the GPU busy.
    if blocks < BLOCKS_PER_MULTIPROCESSOR * gpu_spec.multiprocessors:
        return 0, 1
    coarse, pixels = 0, 0
    for height, width in reversed(sizes.shapes):
        pixels += height * width
        contributions = (coarse + 1) * 4 * sizes.points * launch.tile * tiles_each
        # With few contributions to a pixel, clearing and writing the sums costs more than it saves.
        if 4 * pixels * sizes.width > ON_CHIP_BYTES or contributions < 4 * pixels:
            break
        coarse += 1
    return (coarse, tiles_each) if coarse else (0, 1)


def _power_of_two(number: int, most: int) -> int:
    """Smallest power of two that is at least ``number``, but at most ``most``."""
    power = 1
    while power < number and power < most:
        power *= 2
    return power
