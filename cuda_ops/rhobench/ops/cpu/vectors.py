"""Numba types for short vectors in registers and for rows of numbers in memory, with loads and stores.

A ``Vector`` holds the D channels of a head, or the K = L * P samples of a query and head; LLVM selects the machine
instructions. ``Rows`` is an address together with the type and width of the rows there. Both numbers are compile-time
constants of a kernel, so each combination is compiled separately from this one source.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

FLOAT32, FLOAT16, BFLOAT16, INT32 = range(4)
"""Storage of the numbers of ``Rows``; in registers they are float32 or int32."""

_FLOAT, _HALF = ir.FloatType(), ir.HalfType()
_I16, I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_STORED = {FLOAT32: (_FLOAT, 4), FLOAT16: (_HALF, 2), BFLOAT16: (_I16, 2), INT32: (I32, 4)}  # type, bytes


class Vector(types.Type):
    """The numbers of one row, as a struct of LLVM vectors whose widths are powers of two."""

    def __init__(self, width: int, integer: bool = False) -> None:
        self.width, self.integer = width, integer
        super().__init__(name=f"Vector({width}, {'int32' if integer else 'float32'})")

    @property
    def chunks(self) -> list[int]:
        """Widths of the LLVM vectors, 16 at most: LLVM pads <24 x float> to 32, but 16 + 8 fills registers exactly."""
        remainder = [8 >> bit for bit in range(4) if self.width & (8 >> bit)]
        return [16] * (self.width // 16) + remainder


class Rows(types.Type):
    """The address of rows in memory, with their width and storage."""

    def __init__(self, width: int, kind: int) -> None:
        self.width, self.kind = width, kind
        super().__init__(name=f"Rows({width}, {kind})")

    @property
    def vector(self) -> Vector:
        """Type of a row in registers."""
        return Vector(self.width, integer=self.kind == INT32)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        item = I32 if vector.integer else _FLOAT
        super().__init__(manager, vector, ir.LiteralStructType([ir.VectorType(item, n) for n in vector.chunks]))


@register_model(Rows)
class _RowsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, rows: Rows) -> None:
        super().__init__(manager, rows, _I64)


def parts_of(builder: Any, vector: Any) -> list[Any]:
    """The LLVM vectors of a ``Vector``."""
    return [builder.extract_value(vector, index) for index in range(len(vector.type.elements))]


def join(builder: Any, parts: list[Any]) -> Any:
    """Combine LLVM vectors into the value of a ``Vector``."""
    vector = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for index, part in enumerate(parts):
        vector = builder.insert_value(vector, part, index)
    return vector


def constant_like(vector: Any, number: int) -> Any:
    """An int32 constant with as many lanes as the LLVM vector ``vector``."""
    return ir.Constant(ir.VectorType(I32, vector.type.count), [number] * vector.type.count)


def of_items(item: Any, vector: Any) -> Any:
    """The LLVM vector type of ``item`` with as many lanes as ``vector``."""
    return ir.VectorType(item, vector.type.count)


@intrinsic(prefer_literal=True)
def rows(typing_context: Any, address: Any, width: Any, kind: Any) -> Any:
    """Create ``Rows`` from an integer ``address``; ``width`` and ``kind`` must be constants."""
    result = Rows(width.literal_value, kind.literal_value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return result(types.int64, width, kind), generate


@intrinsic(prefer_literal=True)
def stack(typing_context: Any, count: Any, width: Any, kind: Any) -> Any:
    """Allocate ``count`` rows on the stack of the kernel."""
    result = Rows(width.literal_value, kind.literal_value)
    item, _ = _STORED[result.kind]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory = cgutils.alloca_once(builder, item, size=count.literal_value * result.width)
        return builder.ptrtoint(memory, _I64)

    return result(count, width, kind), generate


@intrinsic
def item(typing_context: Any, row: Any, index: Any) -> Any:
    """Load one number from float32 or int32 rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_item_pointer(builder, row, *arguments))

    return (types.int32 if row.kind == INT32 else types.float32)(row, types.int64), generate


@intrinsic
def put(typing_context: Any, row: Any, index: Any, number: Any) -> Any:
    """Store one number into float32 rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _item_pointer(builder, row, *arguments[:2]))
        return context.get_dummy_value()

    return types.void(row, types.int64, types.float32), generate


def _item_pointer(builder: Any, row_type: Rows, address: Any, index: Any) -> Any:
    stored, size = _STORED[row_type.kind]
    return builder.inttoptr(builder.add(address, builder.mul(index, _I64(size))), stored.as_pointer())


def _chunks(builder: Any, row_type: Rows, address: Any, offset: Any, numbers: int, item: Any) -> list[Any]:
    """Pointers to the chunks of the row at ``offset`` numbers from ``address``, with ``numbers`` numbers in a lane."""
    size = _STORED[row_type.kind][1]
    start = builder.add(address, builder.mul(offset, _I64(size)))
    pointers, lane = [], 0
    for count in row_type.vector.chunks:
        chunk = builder.add(start, _I64(lane * numbers * size))
        pointers.append(builder.inttoptr(chunk, ir.VectorType(item, count).as_pointer()))
        lane += count
    return pointers


def _widen(builder: Any, stored: Any, kind: int) -> Any:
    if kind == FLOAT16:
        return builder.fpext(stored, of_items(_FLOAT, stored))
    if kind == BFLOAT16:
        # A bfloat16 is the upper half of a float32.
        bits = builder.shl(builder.zext(stored, of_items(I32, stored)), constant_like(stored, 16))
        return builder.bitcast(bits, of_items(_FLOAT, stored))
    return stored


def _narrow(builder: Any, value: Any, kind: int) -> Any:
    """Convert to the stored type, rounding to nearest with ties to even; NaN stays NaN."""
    if kind == FLOAT16:
        return builder.fptrunc(value, of_items(_HALF, value))
    if kind == BFLOAT16:
        bits = builder.bitcast(value, of_items(I32, value))
        # 0x7FFF is just below half of the last kept bit; adding that bit as well rounds ties to even.
        odd = builder.and_(builder.lshr(bits, constant_like(value, 16)), constant_like(value, 1))
        rounded = builder.add(bits, builder.add(odd, constant_like(value, 0x7FFF)))
        # The addition can turn a NaN into infinity or zero.
        kept = builder.select(builder.fcmp_unordered("uno", value, value), constant_like(value, 0x7FC00000), rounded)
        return builder.trunc(builder.lshr(kept, constant_like(value, 16)), of_items(_I16, value))
    return value


@intrinsic
def load(typing_context: Any, row: Any, offset: Any) -> Any:
    """Load the row that starts ``offset`` numbers after the address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item, size = _STORED[row.kind]
        pointers = _chunks(builder, row, arguments[0], arguments[1], 1, item)
        # Rows need not start at a multiple of a vector, so only the alignment of a number is promised.
        return join(builder, [_widen(builder, builder.load(p, align=size), row.kind) for p in pointers])

    return row.vector(row, types.int64), generate


@intrinsic
def store(typing_context: Any, row: Any, offset: Any, vector: Any) -> Any:
    """Store a row where ``load`` reads it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        item, size = _STORED[row.kind]
        pointers = _chunks(builder, row, arguments[0], arguments[1], 1, item)
        for pointer, part in zip(pointers, parts_of(builder, arguments[2]), strict=True):
            builder.store(_narrow(builder, part, row.kind), pointer, align=size)
        return context.get_dummy_value()

    return types.void(row, types.int64, vector), generate


@intrinsic
def load_pairs(typing_context: Any, row: Any, offset: Any) -> Any:
    """Load two interleaved rows, x y x y ..., that start ``offset`` numbers after the address."""
    _, size = _STORED[row.kind]
    # A pair is one integer of twice the width, whose low half is x on little-endian processors.
    half, pair = ir.IntType(8 * size), ir.IntType(16 * size)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        xs: list[Any] = []
        ys: list[Any] = []
        for pointer in _chunks(builder, row, arguments[0], arguments[1], 2, pair):
            both = builder.load(pointer, align=size)
            shift = ir.Constant(both.type, [8 * size] * both.type.count)
            for target, bits in ((xs, both), (ys, builder.lshr(both, shift))):
                stored = builder.bitcast(
                    builder.trunc(bits, of_items(half, both)), of_items(_STORED[row.kind][0], both)
                )
                target.append(_widen(builder, stored, row.kind))
        return context.make_tuple(builder, signature.return_type, [join(builder, xs), join(builder, ys)])

    return types.UniTuple(row.vector, 2)(row, types.int64), generate


@intrinsic
def store_pairs(typing_context: Any, row: Any, offset: Any, xs: Any, ys: Any) -> Any:
    """Store two rows where ``load_pairs`` reads them."""
    _, size = _STORED[row.kind]
    half, pair = ir.IntType(8 * size), ir.IntType(16 * size)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def bits(part: Any) -> Any:
            stored = builder.bitcast(_narrow(builder, part, row.kind), of_items(half, part))
            return builder.zext(stored, of_items(pair, part))

        pointers = _chunks(builder, row, arguments[0], arguments[1], 2, pair)
        for pointer, x, y in zip(
            pointers, parts_of(builder, arguments[2]), parts_of(builder, arguments[3]), strict=True
        ):
            shift = ir.Constant(of_items(pair, x), [8 * size] * x.type.count)
            builder.store(builder.or_(bits(x), builder.shl(bits(y), shift)), pointer, align=size)
        return context.get_dummy_value()

    return types.void(row, types.int64, xs, ys), generate


@intrinsic
def zeros(typing_context: Any, row: Any) -> Any:
    """A vector of zeros as wide as a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(row.vector), None)

    return row.vector(row), generate
