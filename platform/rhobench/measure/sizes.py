"""Exact mean cost over images of many sizes, from about a dozen counted passes.

Every operator works on a feature map, on its tokens or on pairs of tokens. For a fixed model the cost is therefore a
linear function of the areas of the maps, of the updated tokens and of the squared number of tokens. Passes at a few
sizes determine its coefficients in exact fractions. It must predict passes at three of the requested sizes to the last
operation; otherwise every size is counted by its own pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import torch

from rhobench.measure.flops import CountError, count_flops, meta_copy
from rhobench.model import Detector
from rhobench.model.sparsity import select_tokens

Size = tuple[int, int]
"""(height, width) in pixels."""

_STRIDES = (2, 4, 8, 16, 32)
"""Strides of the maps of a backbone."""
_WINDOW = 7
"""Side of an attention window of Swin, which pads its maps to whole windows."""


def _rounded_up(side: int, divisor: int) -> int:
    return -(-side // divisor)


def _rounded_down(side: int, divisor: int) -> int:
    return side // divisor


def _map_areas(size: Size, divide: Callable[[int, int], int]) -> list[int]:
    """1, the areas of the maps at every stride, and the area of the extra level, which is always rounded up."""
    heights, widths = ([divide(side, stride) for stride in _STRIDES] for side in size)
    below = _rounded_up(heights[-1], 2) * _rounded_up(widths[-1], 2)
    return [1, *(h * w for h, w in zip(heights, widths, strict=True)), below]


def _window_areas(size: Size) -> list[int]:
    """Areas of the maps from stride 4 on, padded to whole windows."""
    padded = [[_rounded_up(_rounded_up(side, stride), _WINDOW) * _WINDOW for stride in _STRIDES[1:]] for side in size]
    return [h * w for h, w in zip(*padded, strict=True)]


_AREAS: Sequence[Callable[[Size], list[int]]] = (
    lambda size: _map_areas(size, _rounded_up),
    lambda size: [*_map_areas(size, _rounded_up), *_window_areas(size)],
    lambda size: _map_areas(size, _rounded_down),
)
"""Areas that a cost may be linear in, simplest first: maps rounded up, also padded to windows, maps rounded down."""

_PROBES: Sequence[Size] = tuple((321 + 67 * i % 251, 331 + 101 * i % 283) for i in range(20))
"""Sizes of the counted passes: with varied remainders at every stride, and enough tokens for 900 queries."""
_PROBE_RHOS = (0.1, 0.45, 0.8, 0.25, 0.6)
"""Values of rho that the counted passes of a sparse model cycle through."""


class SizeCosts:
    """Cost of one model at any size, and at any rho if it is sparse."""

    def __init__(self, model: Detector, sizes: Sequence[Size], *, count: str = "standard") -> None:
        """Fit the closed form.

        Args:
            model: model on any device; it is not modified.
            sizes: sizes to be requested; the smallest, the largest and the most frequent one verify the closed form.
            count: convention as in ``count_flops``.

        Raises:
            CountError: ``sizes`` is empty, or the convention is unknown.
        """
        _require_sizes(sizes)
        self._meta_model, self._count = meta_copy(model), count
        self._passes: dict[tuple[Size, float | None], tuple[int, int, int]] = {}
        by_area = sorted(set(sizes), key=lambda size: size[0] * size[1])
        self._held_out = {by_area[0], by_area[-1], Counter(sizes).most_common(1)[0][0]}
        self._closed_form = next(filter(None, map(self._fit_closed_form, _AREAS)), None)

    @property
    def passes(self) -> int:
        """Number of passes counted so far."""
        return len(self._passes)

    @property
    def has_closed_form(self) -> bool:
        """Whether a closed form was found; otherwise every size is counted by its own pass."""
        return self._closed_form is not None

    def operations(self, size: Size, rho: float | None = None) -> int:
        """Operations for one image.

        Args:
            size: (height, width) in pixels.
            rho: share of the encoder tokens to update; None: that of the model.

        Raises:
            CountError: the model has no rho, or ``rho`` is outside (0, 1].
        """
        rho = self._resolve_rho(rho)
        return self._closed_form(size, rho) if self._closed_form is not None else self._pass(size, rho)[0]

    def mean_gflops(self, sizes: Sequence[Size], rho: float | None = None) -> float:
        """Mean over ``sizes`` in 10^9 operations; ``rho`` as in ``operations``."""
        _require_sizes(sizes)
        total = sum(images * self.operations(size, rho) for size, images in Counter(sizes).items())
        return total / len(sizes) / 1e9

    def _resolve_rho(self, rho: float | None) -> float | None:
        own = self._meta_model.rho
        if rho is not None and own is None:
            raise CountError(
                f"{self._meta_model.config.name} has no rho, because its encoder updates all tokens: omit it."
            )
        if rho is not None and not 0 < rho <= 1:
            raise CountError(f"rho={rho!r} is not allowed: it must be in (0, 1].")
        return own if rho is None else rho

    def _pass(self, size: Size, rho: float | None) -> tuple[int, int, int]:
        """Operations, tokens and updated tokens of a counted pass, cached."""
        if (size, rho) not in self._passes:
            own, self._meta_model.rho = self._meta_model.rho, rho
            cost = count_flops(self._meta_model, *size, count=self._count)
            self._meta_model.rho = own
            # Rounding recovers the integer that was divided by 10^9; it is far below 2^53.
            self._passes[size, rho] = round(cost.gflops * 1e9), cost.tokens, cost.updated_tokens
        return self._passes[size, rho]

    def _fit_closed_form(self, areas: Callable[[Size], list[int]]) -> Callable[[Size, float | None], int] | None:
        """Fit the cost as a linear function of ``areas``, updated tokens and squared tokens; None if it is not one."""
        sparse = self._meta_model.rho is not None
        unknown = len(areas(_PROBES[0])) + 1 + sparse  # the squared tokens, and the updated ones if sparse
        rhos = _PROBE_RHOS if sparse else (None,)
        probes = [(size, rhos[i % len(rhos)]) for i, size in enumerate(_PROBES[:unknown])]
        # The surplus equations at the requested sizes have no solution unless the cost has this form.
        probes += [(size, self._meta_model.rho) for size in self._held_out]
        passes = [self._pass(*probe) for probe in probes]
        # Tokens first, because their square is a term of the cost.
        tokens_of = _solve([areas(size) for size, _ in probes], [tokens for _, tokens, _ in passes])

        def terms(size: Size, rho: float | None) -> list[int]:
            assert tokens_of is not None
            tokens = int(_dot(tokens_of, areas(size)))
            return [*areas(size), tokens**2, *([_updated(tokens, rho)] if rho is not None else [])]

        if tokens_of is None:
            return None
        coefficients = _solve([terms(*probe) for probe in probes], [operations for operations, _, _ in passes])
        if coefficients is None:
            return None
        return lambda size, rho: int(_dot(coefficients, terms(size, rho)))


def mean_flops(
    model: Detector, sizes: Sequence[Size], *, count: str = "standard", rhos: Sequence[float | None] = (None,)
) -> Mapping[float | None, float]:
    """Mean cost over images in 10^9 operations by rho (None: that of the model); arguments as in ``SizeCosts``."""
    costs = SizeCosts(model, sizes, count=count)
    return {rho: costs.mean_gflops(sizes, rho) for rho in rhos}


def _require_sizes(sizes: Sequence[Size]) -> None:
    if not sizes:
        raise CountError("There is no image size to average over: give at least one.")


def _updated(tokens: int, rho: float) -> int:
    """Number of tokens the model updates, by running its selection on the meta device."""
    # It multiplies in float32; floor(rho * tokens) + 1 in Python could differ by one.
    return select_tokens(torch.empty(1, tokens, device="meta"), None, rho).index.shape[1]


def _dot(coefficients: Sequence[Fraction], terms: Sequence[int]) -> Fraction:
    return sum((c * t for c, t in zip(coefficients, terms, strict=True)), Fraction())


def _solve(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """Solve ``rows`` x = ``values`` exactly by Gauss-Jordan elimination; None if surplus rows contradict."""
    left = [[Fraction(n) for n in (*row, value)] for row, value in zip(rows, values, strict=True)]
    unknown = len(rows[0])
    for column in range(unknown):
        # Any non-zero pivot will do, because fractions have no rounding errors.
        pivot = next((r for r in range(column, len(left)) if left[r][column]), None)
        assert pivot is not None, "the sizes of the passes do not determine all coefficients"
        left[column], left[pivot] = left[pivot], left[column]
        left[column] = [n / left[column][column] for n in left[column]]
        for r, row in enumerate(left):
            if r != column and row[column]:
                left[r] = [a - row[column] * b for a, b in zip(row, left[column], strict=True)]
    if any(row[-1] for row in left[unknown:]):
        return None
    return [row[-1] for row in left[:unknown]]
