"""Arithmetic on ``Vector``: operators on lanes, reductions over lanes, exp and softmax."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, type_callable

from rhobench.ops.cpu.vectors import I32, Vector, constant_like, join, of_items, parts_of

# Only "contract": flags that assume finite numbers would let NaN coordinates pass the range checks.
_CONTRACT = ("contract",)
MATH = {"fastmath": {"contract"}, "error_model": "numpy"}
"""Options with which Numba compiles functions of vectors."""


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    vector = ir.VectorType(scalar.type, count)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, I32(0))
    # A constant of None is a mask of zeros, which copies lane 0 to all lanes.
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(I32, count), None))


@type_callable(operator.add)
@type_callable(operator.iadd)
@type_callable(operator.sub)
@type_callable(operator.mul)
def _type_of_operator(context: Any) -> Callable[[Any, Any], Any]:
    def typer(left: Any, right: Any) -> Any:
        return left if isinstance(left, Vector) and isinstance(right, (Vector, types.Number)) else None

    return typer


def _lower(function: Any, floats: str, integers: str, **flags: Any) -> None:
    """Define an operator of a vector and a vector or number by the LLVM instructions for floats and for integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, other = signature.args
        left = parts_of(builder, arguments[0])
        if isinstance(other, Vector):
            right = parts_of(builder, arguments[1])
        else:
            number = context.cast(builder, arguments[1], other, types.int32 if vector.integer else types.float32)
            right = [_splat(builder, number, part.type.count) for part in left]
        emit = getattr(builder, integers if vector.integer else floats)
        options = {} if vector.integer else flags
        return join(builder, [emit(*pair, **options) for pair in zip(left, right, strict=True)])

    lower_builtin(function, Vector, Vector)(generate)
    lower_builtin(function, Vector, types.Number)(generate)


_lower(operator.add, "fadd", "add", flags=_CONTRACT)
_lower(operator.iadd, "fadd", "add", flags=_CONTRACT)
_lower(operator.sub, "fsub", "sub", flags=_CONTRACT)
_lower(operator.mul, "fmul", "mul", flags=_CONTRACT)


def _pick(comparison: str) -> Any:
    @intrinsic
    def pick(typing_context: Any, left: Any, right: Any) -> Any:
        vector = left if isinstance(left, Vector) else right

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sides = [
                parts_of(builder, value)
                if isinstance(kind, Vector)
                else [_splat(builder, value, width) for width in vector.chunks]
                for kind, value in zip(signature.args, arguments, strict=True)
            ]
            pairs = zip(*sides, strict=True)
            return join(builder, [builder.select(builder.fcmp_ordered(comparison, *pair), *pair) for pair in pairs])

        return vector(*[side if isinstance(side, Vector) else types.float32 for side in (left, right)]), generate

    return pick


at_least = _pick(">")
"""Maximum of each pair of lanes; either argument may be a number. The second argument where one of them is NaN."""
at_most = _pick("<")
"""Minimum of each pair of lanes, otherwise like ``at_least``."""


@intrinsic
def floor(typing_context: Any, vector: Any) -> Any:
    """Round each lane down to an integer, kept as float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounded = []
        for part in parts_of(builder, arguments[0]):
            kind = ir.FunctionType(part.type, [part.type])
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{part.type.count}f32")
            rounded.append(builder.call(function, [part]))
        return join(builder, rounded)

    return vector(vector), generate


@intrinsic
def multiply_add(typing_context: Any, left: Any, right: Any, addend: Any) -> Any:
    """left * right + addend, rounded once if the CPU has a fused multiply-add."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums = []
        for operands in zip(*(parts_of(builder, argument) for argument in arguments), strict=True):
            part = operands[0].type
            # Not llvm.fma, which becomes a slow library call on CPUs without the instruction
            name = f"llvm.fmuladd.v{part.count}f32"
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(part, [part] * 3), name)
            sums.append(builder.call(function, operands))
        return join(builder, sums)

    return left(left, left, left), generate


@intrinsic
def integers(typing_context: Any, vector: Any) -> Any:
    """Convert float32 lanes to int32; they must be integers and not NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = parts_of(builder, arguments[0])
        return join(builder, [builder.fptosi(part, of_items(I32, part)) for part in parts])

    return Vector(vector.width, integer=True)(vector), generate


@intrinsic
def times_power_of_two(typing_context: Any, vector: Any, exponent: Any) -> Any:
    """vector * 2**exponent for int32 exponents from -126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products = []
        for part, power in zip(parts_of(builder, arguments[0]), parts_of(builder, arguments[1]), strict=True):
            # The bits of the float32 number 2**power: an exponent with a bias of 127 above 23 bits of fraction
            bits = builder.shl(builder.add(power, constant_like(power, 127)), constant_like(power, 23))
            products.append(builder.fmul(part, builder.bitcast(bits, part.type)))
        return join(builder, products)

    return vector(vector, exponent), generate


@intrinsic
def total(typing_context: Any, vector: Any) -> Any:
    """Sum over the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, arguments[0], lambda a, b: builder.fadd(a, b))

    return types.float32(vector), generate


@intrinsic
def largest(typing_context: Any, vector: Any) -> Any:
    """Maximum over the lanes; unspecified if one of them is NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduce(builder, arguments[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return types.float32(vector), generate


def _reduce(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Reduce a vector to a number: fold each part to the width of the next one, and the last one to one lane."""
    result, *others = parts_of(builder, vector)
    for part in others:
        while result.type.count > part.type.count:
            result = _fold(builder, result, combine)
        result = combine(result, part)
    while result.type.count > 1:
        result = _fold(builder, result, combine)
    return builder.extract_element(result, I32(0))


def _fold(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    half = vector.type.count // 2
    mask = ir.VectorType(I32, half)
    low = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(half))))
    high = builder.shuffle_vector(vector, vector, ir.Constant(mask, list(range(half, 2 * half))))
    return combine(low, high)


@njit(forceinline=True, **MATH)
def softmax(logits: Any) -> Any:
    """Softmax over all lanes."""
    powers = exp(logits - largest(logits))
    return powers * (np.float32(1) / total(powers))  # one division for all lanes


@njit(forceinline=True, **MATH)
def exp(x: Any) -> Any:
    """exp of non-positive numbers: 2**n * exp(r) with |r| < 0.35, where seven terms of the series are exact enough."""
    x = at_least(-87.0, x)  # below -87 the result would be subnormal; NaN passes through
    # Clipping also replaces NaN, whose conversion to an integer would be undefined.
    n = floor(at_most(at_least(x * 1.44269504 + 0.5, -126.0), 0.0))
    r = x - n * 0.693359375 + n * 2.12194440e-4  # ln 2 in two parts: the first product is exact
    series = r * (1.0 / 720.0) + (1.0 / 120.0)
    series = series * r + (1.0 / 24.0)
    series = series * r + (1.0 / 6.0)
    series = series * r + 0.5
    series = series * r + 1.0
    return times_power_of_two(series * r + 1.0, integers(n))
