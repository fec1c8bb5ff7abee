"""Forward and backward kernels of deformable attention in Numba, compiled for each head width and storage.

A kernel is a C function of one argument, the address of a ``JOB``. It takes tasks from the job until none is left, so
any number of threads can run it on one job, and faster threads do more.

The kernels serve both forms: plain, with sampling locations and attention weights, and fused, with offsets from
reference points and logits. In both, a sample is at ``base + first * scale`` pixels, so its gradient has a factor
``scale``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from rhobench.ops.cpu.arithmetic import MATH, at_least, at_most, floor, integers, multiply_add, softmax, total
from rhobench.ops.cpu.vectors import (
    FLOAT32,
    INT32,
    item,
    load,
    load_pairs,
    put,
    rows,
    stack,
    store,
    store_pairs,
    zeros,
)

# Few enough that threads finish at about the same time, enough to hide the cost of the counter
ROWS_PER_TASK = 16
"""Queries in a task of the forward pass."""

_ROWS_PER_AXIS, _PLACED_ROWS = 4, 8
"""Rows of ``samples`` numbers from which positions follow: base and scale along x, then y, each with its remainder."""

_COUNTERS = ("next_task", "next_thread")
_ADDRESSES = ("value", "first", "second", "reference", "query_index", "levels", "output", "scratch")
_GRADIENTS = ("grad_output", "grad_value", "grad_first", "grad_second", "grad_reference")
_SIZES = ("num_images", "num_pixels", "num_heads", "num_queries", "num_levels", "num_points", "num_references")
_FIELDS = (*_COUNTERS, *_ADDRESSES, *_GRADIENTS, *_SIZES, "reference_size", "reference_step")
JOB = np.dtype([(name, np.int64) for name in _FIELDS])
"""The argument of a kernel: counters, addresses of C-contiguous tensors (0 for an absent one), and sizes.

value, grad_value (N, S, H, D); first, grad_first (N, Q, H, L*P, 2): locations or offsets; second, grad_second
(N, Q, H, L*P): weights or logits; reference (N, R, L, 2 or 4) float32, with a stride of ``reference_step`` bytes from
one image to the next; query_index (N, Q) int64; levels: result of ``level_table``; output, grad_output (N, Q, H, D);
grad_reference (N, H, Q, L, 2 or 4) float32; scratch (threads, S, D) float32, for the backward kernel. Without scratch,
that kernel adds to grad_value in place, which must then be float32 and zero.
"""

_SIGNATURE = types.void(types.CPointer(numba.from_dtype(JOB)))


def level_table(shapes: tuple[tuple[int, int], ...], num_points: int) -> np.ndarray:
    """Table of the levels of the samples, (4, L*P) int32: width and height as bits of float32, first pixel, width."""
    sizes = np.array(shapes, dtype=np.int32).reshape(-1, 2)
    areas = sizes.prod(axis=1)
    extents = sizes[:, ::-1].astype(np.float32).view(np.int32)
    table = np.column_stack([extents, areas.cumsum() - areas, sizes[:, 1]]).astype(np.int32)
    return np.ascontiguousarray(table.repeat(num_points, axis=0).T)


@intrinsic(prefer_literal=True)
def _count(typing_context: Any, job: Any, counter: Any) -> Any:
    """Increment a counter of the job atomically and return its previous value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counters = builder.bitcast(arguments[0], context.get_value_type(types.int64).as_pointer())
        place = builder.gep(counters, [arguments[1]])
        # "monotonic" suffices: only the counter is shared, and no task reads what another one writes.
        return builder.atomic_rmw("add", place, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(job, types.int64), generate


@intrinsic
def _pointer(typing_context: Any, address: Any, item: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(item.dtype)(types.int64, item), generate


@njit(forceinline=True, **MATH)
def _along_axis(placed: Any, axis: int, samples: int, given: Any, extent: Any) -> Any:
    """The two pixels next to each sample along an axis: indices, bilinear weights, and 1 if on the map, else 0.

    A pixel outside the map gets weight 0 and the index of a pixel on it. This avoids a branch, which would often be
    mispredicted on small levels, where many points are outside. Every index is valid, also for a NaN or infinite
    coordinate, whose weights become NaN.
    """
    row = axis * _ROWS_PER_AXIS * samples
    base, base_rest = load(placed, row), load(placed, row + samples)
    scale, scale_rest = load(placed, row + 2 * samples), load(placed, row + 3 * samples)
    position = multiply_add(given, scale, base)
    lower = floor(at_most(at_least(position, -2.0), extent))  # clipped to where both pixels are just outside
    # More precise than position - lower, which loses as many digits as the integer part of the position has.
    fraction = multiply_add(given, scale, base - lower) + multiply_add(given, scale_rest, base_rest)
    last = extent - 1.0
    first_on = at_least(at_most(at_most(lower + 1.0, extent - lower), 1.0), 0.0)
    second_on = at_least(at_most(at_most(lower + 2.0, last - lower), 1.0), 0.0)
    first = integers(at_most(at_least(lower, 0.0), last))
    second = integers(at_most(at_least(lower + 1.0, 0.0), last))
    return first, second, (fraction * -1.0 + 1.0) * first_on, fraction * second_on, first_on, second_on


@njit(forceinline=True, **MATH)
def _place(placed: Any, axis: int, samples: int, sample: int, base: float, scale: float) -> None:
    """Set the position of a sample to pixel ``given * scale + base``; float64, stored as float32 and a remainder."""
    row = axis * _ROWS_PER_AXIS * samples + sample
    put(placed, row, np.float32(base))
    put(placed, row + samples, np.float32(base - np.float32(base)))
    put(placed, row + 2 * samples, np.float32(scale))
    put(placed, row + 3 * samples, np.float32(scale - np.float32(scale)))


@njit(forceinline=True, **MATH)
def _place_maps(placed: Any, samples: int, table: Any) -> None:
    """Set base and scale for locations, which are fractions of the map; the first pixel has its centre at 0.5."""
    for axis in range(2):
        for sample in range(samples):
            _place(placed, axis, samples, sample, -0.5, np.float64(item(table, axis * samples + sample)))


@njit(forceinline=True, **MATH)
def _place_references(job: Any, image: int, query: int, table: Any, placed: Any) -> None:
    """Set base and scale for offsets from the reference point or box of one query."""
    samples = job.num_levels * job.num_points
    of_image = job.reference + image * job.reference_step
    references = carray(_pointer(of_image, np.float32), (job.num_references, job.num_levels, job.reference_size))
    at: Any = query
    if job.query_index != 0:
        at = carray(_pointer(job.query_index, np.int64), (job.num_images, job.num_queries))[image, query]
    for level in range(job.num_levels):
        first = level * job.num_points
        for axis in range(2):
            extent = np.float64(item(table, axis * samples + first))
            base = references[at, level, axis] * extent - 0.5
            scale = 1.0
            if job.reference_size == 4:
                scale = references[at, level, 2 + axis] * extent * 0.5 / job.num_points
            for sample in range(first, first + job.num_points):
                _place(placed, axis, samples, sample, base, scale)


@njit(forceinline=True, **MATH)
def _store_corners(
    corners: Any, samples: Any, first_pixel: Any, map_width: Any, left: Any, right: Any, top: Any, bottom: Any
) -> None:
    """Store the pixel indices of the corners: top left, top right, bottom left, bottom right."""
    top, bottom = first_pixel + top * map_width, first_pixel + bottom * map_width
    store(corners, 0, top + left)
    store(corners, samples, top + right)
    store(corners, 2 * samples, bottom + left)
    store(corners, 3 * samples, bottom + right)


@njit(forceinline=True, **MATH)
def _store_shares(shares: Any, samples: Any, left: Any, right: Any, top: Any, bottom: Any) -> None:
    """Store the weights of the corners, in the order of ``_store_corners``."""
    store(shares, 0, top * left)
    store(shares, samples, top * right)
    store(shares, 2 * samples, bottom * left)
    store(shares, 3 * samples, bottom * right)


@cache
def forward_kernel(width: int, samples: int, value_kind: int, first_kind: int, second_kind: int, fused: bool) -> Any:
    """Compile the kernel that fills ``output``. A task is ``ROWS_PER_TASK`` queries of the batch.

    Args:
        width: channels of a head, D.
        samples: samples of a query and head, L * P.
        value_kind, first_kind, second_kind: storage of the tensors; ``output`` has that of ``value``.
        fused: whether ``first`` and ``second`` are offsets and logits.
    """

    @cfunc(_SIGNATURE, cache=True, **MATH)
    def kernel(address: Any) -> None:
        job = carray(address, 1)[0]
        value, output = rows(job.value, width, value_kind), rows(job.output, width, value_kind)
        firsts, seconds = rows(job.first, samples, first_kind), rows(job.second, samples, second_kind)
        table, pixels = rows(job.levels, samples, FLOAT32), rows(job.levels, samples, INT32)
        extent_x, extent_y = load(table, 0), load(table, samples)
        first_pixel, map_width = load(pixels, 2 * samples), load(pixels, 3 * samples)
        placed, shares = stack(_PLACED_ROWS, samples, FLOAT32), stack(4, samples, FLOAT32)
        corners = stack(4, samples, INT32)
        _place_maps(placed, samples, table)  # the fused form overwrites it for every query

        stride = job.num_heads * width  # numbers from one pixel to the next
        num_rows = job.num_images * job.num_queries
        start = _count(address, 0) * ROWS_PER_TASK
        while start < num_rows:
            for row in range(start, min(start + ROWS_PER_TASK, num_rows)):
                image, query = row // job.num_queries, row % job.num_queries
                if fused:
                    _place_references(job, image, query, table, placed)
                for head in range(job.num_heads):
                    at = (row * job.num_heads + head) * samples
                    x, y = load_pairs(firsts, 2 * at)
                    weight = load(seconds, at)
                    if fused:
                        weight = softmax(weight)
                    left, right, w_left, w_right, _, _ = _along_axis(placed, 0, samples, x, extent_x)
                    top, bottom, w_top, w_bottom, _, _ = _along_axis(placed, 1, samples, y, extent_y)
                    _store_corners(corners, samples, first_pixel, map_width, left, right, top, bottom)
                    _store_shares(shares, samples, w_left, w_right, w_top * weight, w_bottom * weight)

                    base = image * job.num_pixels * stride + head * width
                    upper, lower = zeros(value), zeros(value)  # two sums, to halve the chain of dependent additions
                    for k in range(samples):
                        for side in (0, samples):
                            upper_at, lower_at = side + k, 2 * samples + side + k
                            pixel = load(value, base + item(corners, upper_at) * stride)
                            upper += pixel * item(shares, upper_at)
                            pixel = load(value, base + item(corners, lower_at) * stride)
                            lower += pixel * item(shares, lower_at)
                    store(output, (row * job.num_heads + head) * width, upper + lower)
            start = _count(address, 0) * ROWS_PER_TASK

    return kernel


@njit(forceinline=True, **MATH)
def _sum_per_level(job: Any, row: int, moved: Any) -> None:
    """Fill a row of ``grad_reference`` with the sums over the points of each level."""
    shape = (job.num_images * job.num_heads * job.num_queries, job.num_levels, job.reference_size)
    grad_reference = carray(_pointer(job.grad_reference, np.float32), shape)
    for level in range(job.num_levels):
        for coordinate in range(job.reference_size):
            sum_of_points = np.float32(0)
            for point in range(job.num_points):
                sum_of_points += item(moved, (coordinate * job.num_levels + level) * job.num_points + point)
            grad_reference[row, level, coordinate] = sum_of_points


@cache
def backward_kernel(width: int, samples: int, value_kind: int, first_kind: int, second_kind: int, fused: bool) -> Any:
    """Compile the kernel that fills the gradients. A task is one head of one image.

    No two tasks write to the same address and each sum has a fixed order, so the gradients are bitwise the same for any
    number of threads. Arguments are those of ``forward_kernel``; each gradient has the storage of its tensor.
    """

    @cfunc(_SIGNATURE, cache=True, **MATH)
    def kernel(address: Any) -> None:
        job = carray(address, 1)[0]
        value, grad_output = rows(job.value, width, value_kind), rows(job.grad_output, width, value_kind)
        grad_value = rows(job.grad_value, width, value_kind)
        firsts, seconds = rows(job.first, samples, first_kind), rows(job.second, samples, second_kind)
        grad_firsts = rows(job.grad_first, samples, first_kind)
        grad_seconds = rows(job.grad_second, samples, second_kind)
        table, pixels = rows(job.levels, samples, FLOAT32), rows(job.levels, samples, INT32)
        extent_x, extent_y = load(table, 0), load(table, samples)
        first_pixel, map_width = load(pixels, 2 * samples), load(pixels, 3 * samples)
        placed, shares = stack(_PLACED_ROWS, samples, FLOAT32), stack(4, samples, FLOAT32)
        dots = stack(4, samples, FLOAT32)
        corners, on_map = stack(4, samples, INT32), stack(1, samples, FLOAT32)
        _place_maps(placed, samples, table)

        stride = job.num_heads * width  # numbers from one pixel to the next
        sums_stride, own_scratch = width, _count(address, 1) * job.num_pixels * width * 4
        task = _count(address, 0)
        while task < job.num_images * job.num_heads:
            image, head = task // job.num_heads, task % job.num_heads
            base = image * job.num_pixels * stride + head * width
            sums = rows(job.scratch + own_scratch, width, FLOAT32)
            if job.scratch == 0:
                sums, sums_stride = rows(job.grad_value + base * 4, width, FLOAT32), stride
            else:
                for pixel in range(job.num_pixels):
                    store(sums, pixel * width, zeros(sums))
            for query in range(job.num_queries):
                if fused:
                    _place_references(job, image, query, table, placed)
                row = (image * job.num_queries + query) * job.num_heads + head
                grad = load(grad_output, row * width)
                at = row * samples
                first_x, first_y = load_pairs(firsts, 2 * at)
                weight = load(seconds, at)
                if fused:
                    weight = softmax(weight)
                scale_x = load(placed, 2 * samples)
                scale_y = load(placed, (_ROWS_PER_AXIS + 2) * samples)
                left, right, w_left, w_right, left_on, right_on = _along_axis(placed, 0, samples, first_x, extent_x)
                top, bottom, w_top, w_bottom, top_on, bottom_on = _along_axis(placed, 1, samples, first_y, extent_y)
                _store_corners(corners, samples, first_pixel, map_width, left, right, top, bottom)
                _store_shares(shares, samples, w_left, w_right, w_top * weight, w_bottom * weight)
                store(on_map, 0, (left_on + right_on) * (top_on + bottom_on))
                for k in range(samples):
                    # Saves reading and writing four rows for a sample that contributes nothing.
                    if item(on_map, k) == 0:
                        for corner in range(k, k + 4 * samples, samples):
                            put(dots, corner, 0)
                        continue
                    for corner in range(k, k + 4 * samples, samples):
                        pixel = int(item(corners, corner))
                        put(dots, corner, total(grad * load(value, base + pixel * stride)))
                        moved = load(sums, pixel * sums_stride) + grad * item(shares, corner)
                        store(sums, pixel * sums_stride, moved)
                top_left, top_right = load(dots, 0), load(dots, samples)
                bottom_left, bottom_right = load(dots, 2 * samples), load(dots, 3 * samples)
                along_top = w_left * top_left + w_right * top_right
                along_bottom = w_left * bottom_left + w_right * bottom_right
                grad_weight = w_top * along_top + w_bottom * along_bottom
                grad_x = w_top * (right_on * top_right - left_on * top_left)
                grad_x = grad_x + w_bottom * (right_on * bottom_right - left_on * bottom_left)
                grad_x = grad_x * weight
                grad_y = (bottom_on * along_bottom - top_on * along_top) * weight
                store_pairs(grad_firsts, 2 * at, grad_x * scale_x, grad_y * scale_y)
                if fused:
                    # Backward pass of softmax
                    grad_weight = weight * (grad_weight - total(weight * grad_weight))
                    if job.grad_reference != 0:
                        # Gradients of centre and size through each sample, in the rows of `dots`, which are free now.
                        half_box = np.float32(0.5) / np.float32(job.num_points)
                        store(dots, 0, grad_x * extent_x)
                        store(dots, samples, grad_y * extent_y)
                        store(dots, 2 * samples, grad_x * extent_x * first_x * half_box)
                        store(dots, 3 * samples, grad_y * extent_y * first_y * half_box)
                        _sum_per_level(job, (task * job.num_queries + query), dots)
                store(grad_seconds, at, grad_weight)
            if job.scratch != 0:
                for pixel in range(job.num_pixels):
                    store(grad_value, base + pixel * stride, load(sums, pixel * width))
            task = _count(address, 0)

    return kernel
