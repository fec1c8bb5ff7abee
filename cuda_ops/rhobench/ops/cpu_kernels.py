"""Forward and backward kernels of deformable attention in Numba, on LLVM vectors as wide as a head.

A head's D channels are held in one value of the Numba type ``Vector``, so the sums stay in registers. D reaches the
compiler through the *type* of an argument, ``lanes``, a tuple of D items: kernels made by a factory for each D would
close over their intrinsics, and Numba's cache never finds a closure again in another process.

Intrinsics and kernels share this file because Numba's cache looks at the file of the kernel alone: after a change to
an intrinsic in another file it would still run the old code.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, models, register_model

_FLOAT = ir.FloatType()
_ROWS_PER_TASK = 32  # queries that a thread takes at a time
# "contract" alone: flags that assume finite numbers would let NaN coordinates through the range check.
_MATH = {"fastmath": {"contract"}, "error_model": "numpy"}
_KERNEL = {"cache": True, "nogil": True, **_MATH}


def set_threads(count: int) -> None:
    """Let this Python thread's next kernels use ``count`` threads, or all that Numba has if that is fewer."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))


@cache
def lanes(width: int) -> tuple[int, ...]:
    """The argument that carries the head width in its type."""
    return (0,) * width


class Vector(types.Type):
    """float32 channels of one head, as a struct of LLVM vectors whose widths are powers of two."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"Vector({width})")

    @property
    def chunks(self) -> list[int]:
        """Widths of the parts, 16 at most: LLVM pads a <24 x float> to 32, but 16 + 8 exactly fills registers."""
        remainder = [8 >> bit for bit in range(4) if self.width & (8 >> bit)]
        return [16] * (self.width // 16) + remainder


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        parts = [ir.VectorType(_FLOAT, width) for width in vector.chunks]
        super().__init__(manager, vector, ir.LiteralStructType(parts))


def _parts(builder: Any, vector: Any) -> list[Any]:
    return [builder.extract_value(vector, index) for index in range(len(vector.type.elements))]


def _join(builder: Any, parts: list[Any]) -> Any:
    vector = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for index, part in enumerate(parts):
        vector = builder.insert_value(vector, part, index)
    return vector


def _pointers(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, vector: Vector) -> list[Any]:
    data = context.make_array(array_type)(context, builder, array).data
    pointers, start = [], 0
    for width in vector.chunks:
        lane = builder.gep(data, [builder.add(offset, offset.type(start))])
        pointers.append(builder.bitcast(lane, ir.VectorType(_FLOAT, width).as_pointer()))
        start += width
    return pointers


@intrinsic
def _zeros(typing_context: Any, lanes: Any) -> Any:
    vector = Vector(lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(lanes), generate


@intrinsic
def _load(typing_context: Any, array: Any, offset: Any, lanes: Any) -> Any:
    vector = Vector(lanes.count)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _pointers(context, builder, array, arguments[0], arguments[1], vector)
        return _join(builder, [builder.load(pointer, align=4) for pointer in pointers])

    return vector(array, types.intp, lanes), generate


@intrinsic
def _store(typing_context: Any, array: Any, offset: Any, vector: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _pointers(context, builder, array, arguments[0], arguments[1], vector)
        for part, pointer in zip(_parts(builder, arguments[2]), pointers, strict=True):
            builder.store(part, pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def _add_scaled(typing_context: Any, total: Any, scale: Any, vector: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums = []
        for old, part in zip(_parts(builder, arguments[0]), _parts(builder, arguments[2]), strict=True):
            factor = builder.insert_element(ir.Constant(part.type, ir.Undefined), arguments[1], ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), part.type.count), None)
            factor = builder.shuffle_vector(factor, factor, mask)
            sums.append(builder.fadd(builder.fmul(part, factor, flags=("contract",)), old, flags=("contract",)))
        return _join(builder, sums)

    return vector(vector, types.float32, vector), generate


@intrinsic
def _dot(typing_context: Any, left: Any, right: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = zip(_parts(builder, arguments[0]), _parts(builder, arguments[1]), strict=True)
        total, *products = [builder.fmul(one, other, flags=("contract",)) for one, other in pairs]
        for product in products:
            while total.type.count > product.type.count:
                total = _fold(builder, total)
            total = builder.fadd(total, product, flags=("contract",))
        while total.type.count > 1:
            total = _fold(builder, total)
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(left, right), generate


def _fold(builder: Any, vector: Any) -> Any:
    half = vector.type.count // 2
    mask = ir.VectorType(ir.IntType(32), half)
    low = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(half))))
    high = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(half, 2 * half))))
    return builder.fadd(low, high)


@njit(forceinline=True, **_MATH)
def _along_axis(coordinate: Any, size: Any) -> Any:
    """The two pixels beside a coordinate: indices, bilinear weights, and 1 or 0 for on the map or not.

    A pixel that is not on the map has weight 0 and the index of one that is: no branch, which the small levels, whose
    points often lie outside, would make the processor guess wrong. ``max`` and ``min`` return their first argument
    when the second is NaN, so every index is valid; the weights of a NaN or infinite coordinate become NaN.
    """
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    extent = np.float32(size)
    position = coordinate * extent - np.float32(0.5)
    lower = np.floor(min(extent, max(-two, position)))  # -2 and `extent`: the nearest where both pixels are outside
    fraction = position - lower
    last = extent - one
    first_on = max(zero, min(one, min(lower + one, extent - lower)))
    second_on = max(zero, min(one, min(lower + two, last - lower)))
    first = np.int64(max(zero, min(last, lower)))
    second = np.int64(max(zero, min(last, lower + one)))
    return first, second, (one - fraction) * first_on, fraction * second_on, first_on, second_on


@njit(**_KERNEL)
def forward(
    value: np.ndarray,
    locations: np.ndarray,
    weights: np.ndarray,
    samples: np.ndarray,
    lanes: tuple[int, ...],
    output: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Fill rows ``start`` to ``stop``, of N*Q, of ``output`` (N, Q, H*D), from C-contiguous float32 arrays.

    value (N, S, H, D); locations (N*Q, H, L*P, 2); weights (N*Q, H, L*P); samples (L*P, 3) int64: height, width and
    first pixel of the sample's level.
    """
    num_images, num_pixels, num_heads, head_dim = value.shape
    num_queries, num_samples = locations.shape[0] // max(num_images, 1), samples.shape[0]
    stride = num_heads * head_dim  # floats from one pixel to the next
    for row in range(start, stop):
        for head in range(num_heads):
            base = (row // num_queries) * num_pixels * stride + head * head_dim
            upper, lower = _zeros(lanes), _zeros(lanes)  # two sums: half the chain of dependent additions
            for k in range(num_samples):
                height, width, first_pixel = samples[k, 0], samples[k, 1], samples[k, 2]
                left, right, w_left, w_right, _, _ = _along_axis(locations[row, head, k, 0], width)
                top, bottom, w_top, w_bottom, _, _ = _along_axis(locations[row, head, k, 1], height)
                left, right = base + left * stride, base + right * stride
                top, bottom = (first_pixel + top * width) * stride, (first_pixel + bottom * width) * stride
                w_top *= weights[row, head, k]
                w_bottom *= weights[row, head, k]
                upper = _add_scaled(upper, w_top * w_left, _load(value, top + left, lanes))
                lower = _add_scaled(lower, w_bottom * w_left, _load(value, bottom + left, lanes))
                upper = _add_scaled(upper, w_top * w_right, _load(value, top + right, lanes))
                lower = _add_scaled(lower, w_bottom * w_right, _load(value, bottom + right, lanes))
            _store(output, row * stride + head * head_dim, _add_scaled(upper, np.float32(1), lower))


@njit(forceinline=True, **_MATH)
def _accumulate(array: Any, offset: Any, scale: Any, vector: Any, lanes: Any) -> None:
    _store(array, offset, _add_scaled(_load(array, offset, lanes), scale, vector))


@njit(**_KERNEL)
def backward(
    grad_output: np.ndarray,
    value: np.ndarray,
    locations: np.ndarray,
    weights: np.ndarray,
    samples: np.ndarray,
    lanes: tuple[int, ...],
    grad_value: np.ndarray,
    grad_locations: np.ndarray,
    grad_weights: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Add to ``grad_value``, which starts at zero, and fill the other two, for tasks ``start`` to ``stop`` of N*H.

    Arrays as in ``forward``. A task is one head of one image: no two write to one place, and each sum has a fixed
    order, so the gradient is the same, bit for bit, for any number of threads.
    """
    num_images, num_pixels, num_heads, head_dim = value.shape
    num_samples = samples.shape[0]
    num_queries = locations.shape[0] // max(num_images, 1)
    stride = num_heads * head_dim
    for task in range(start, stop):
        image, head = task // num_heads, task % num_heads
        base = image * num_pixels * stride + head * head_dim
        for row in range(image * num_queries, (image + 1) * num_queries):
            grad = _load(grad_output, row * stride + head * head_dim, lanes)
            for k in range(num_samples):
                height, width, first_pixel = samples[k, 0], samples[k, 1], samples[k, 2]
                left, right, w_left, w_right, left_on, right_on = _along_axis(locations[row, head, k, 0], width)
                top, bottom, w_top, w_bottom, top_on, bottom_on = _along_axis(locations[row, head, k, 1], height)
                if (left_on + right_on) * (top_on + bottom_on) == 0:
                    nothing = w_left * w_top  # zero, or NaN where the coordinate is
                    grad_weights[row, head, k] = nothing
                    grad_locations[row, head, k, 0] = nothing
                    grad_locations[row, head, k, 1] = nothing
                    continue
                left, right = base + left * stride, base + right * stride
                top, bottom = (first_pixel + top * width) * stride, (first_pixel + bottom * width) * stride
                # All loads of value come before the stores to grad_value: processors compare the low address bits
                # alone, which are equal for the two arrays, and would hold each load back for the store.
                top_left = _dot(grad, _load(value, top + left, lanes))
                top_right = _dot(grad, _load(value, top + right, lanes))
                bottom_left = _dot(grad, _load(value, bottom + left, lanes))
                bottom_right = _dot(grad, _load(value, bottom + right, lanes))
                weight = weights[row, head, k]
                _accumulate(grad_value, top + left, weight * w_top * w_left, grad, lanes)
                _accumulate(grad_value, top + right, weight * w_top * w_right, grad, lanes)
                _accumulate(grad_value, bottom + left, weight * w_bottom * w_left, grad, lanes)
                _accumulate(grad_value, bottom + right, weight * w_bottom * w_right, grad, lanes)
                along_top = w_left * top_left + w_right * top_right
                along_bottom = w_left * bottom_left + w_right * bottom_right
                grad_weights[row, head, k] = w_top * along_top + w_bottom * along_bottom
                slope_top = right_on * top_right - left_on * top_left
                slope_bottom = right_on * bottom_right - left_on * bottom_left
                slope_x = w_top * slope_top + w_bottom * slope_bottom
                slope_y = bottom_on * along_bottom - top_on * along_top
                grad_locations[row, head, k, 0] = weight * np.float32(width) * slope_x
                grad_locations[row, head, k, 1] = weight * np.float32(height) * slope_y


# Handing work to Numba's threads takes 0.05 ms, more on a busy machine: one thread calls the kernels directly instead.


@njit(parallel=True, **_KERNEL)
def parallel_forward(
    value: np.ndarray,
    locations: np.ndarray,
    weights: np.ndarray,
    samples: np.ndarray,
    lanes: tuple[int, ...],
    output: np.ndarray,
    count: int,
) -> None:
    """``forward`` of rows 0 to ``count`` on several threads."""
    for task in prange((count + _ROWS_PER_TASK - 1) // _ROWS_PER_TASK):
        start = task * _ROWS_PER_TASK
        forward(value, locations, weights, samples, lanes, output, start, min(start + _ROWS_PER_TASK, count))


@njit(parallel=True, **_KERNEL)
def parallel_backward(
    grad_output: np.ndarray,
    value: np.ndarray,
    locations: np.ndarray,
    weights: np.ndarray,
    samples: np.ndarray,
    lanes: tuple[int, ...],
    grad_value: np.ndarray,
    grad_locations: np.ndarray,
    grad_weights: np.ndarray,
    count: int,
) -> None:
    """``backward`` of tasks 0 to ``count`` on several threads."""
    gradients = grad_value, grad_locations, grad_weights
    for task in prange(count):
        backward(grad_output, value, locations, weights, samples, lanes, *gradients, task, task + 1)
