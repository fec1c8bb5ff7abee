"""Points: the ways in which one trained model is run and measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rhobench.config.protocols import Protocol
from rhobench.config.run import RunConfig

GROUP_SIZE = 8
"""Number of trained models that are held in memory at once and measured in turns."""


@dataclass(frozen=True, kw_only=True)
class PointSettings:
    """One way of running a trained model."""

    rho: float | None
    """Share of the encoder tokens to update; None: the dense encoder."""
    precision: str = "fp32"
    """"fp32", "bf16", "fp16", or "auto" until the machine is known."""
    batch_size: int = 1
    """Images per call."""
    resolution: tuple[int, int] | None = None
    """Height and width in pixels to which images are resized; None: as trained."""
    compiled: bool = False
    """Whether the timed model is compiled by ``torch.compile``."""


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """Points of one trained model that are to be measured."""

    points: tuple[PointSettings, ...]
    """The points."""
    again: bool = True
    """Whether points that the record already has are measured again."""


def groups_of(requests: Mapping[str, MeasureRequest]) -> Iterator[dict[str, MeasureRequest]]:
    """Split the requests of many models into groups of ``GROUP_SIZE``."""
    items = list(requests.items())
    for start in range(0, len(items), GROUP_SIZE):
        yield dict(items[start : start + GROUP_SIZE])


def product_of_points(
    protocol: Protocol,
    *,
    rhos: Sequence[float | None],
    precisions: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    resolutions: Sequence[tuple[int, int]] = (),
    compiled: bool = False,
) -> tuple[PointSettings, ...]:
    """Every combination of the settings; what is empty takes the default of the protocol or of the training."""
    combinations = itertools.product(
        resolutions or (None,), batch_sizes or protocol.batch_sizes, precisions or ("fp32",), rhos
    )
    return tuple(
        PointSettings(
            rho=rho,
            precision=precision,
            batch_size=batch,
            resolution=resolution,
            compiled=compiled or protocol.compiled,
        )
        for resolution, batch, precision, rho in combinations
    )


def requested_points(config: RunConfig) -> tuple[PointSettings, ...]:
    """The points that a run is measured at: ``model.rho`` and ``measure.rhos``, as ``measure`` says."""
    measure = config.measure
    return product_of_points(
        measure.timing,
        rhos=list(dict.fromkeys((config.model.rho, *measure.rhos))),
        precisions=(measure.precision,),
        batch_sizes=() if measure.batch_size is None else (measure.batch_size,),
        resolutions=() if measure.resolution is None else (measure.resolution,),
        compiled=measure.compiled,
    )
