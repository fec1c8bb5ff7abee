"""A published table beside our numbers: plain data with a verdict for every cell, which anything may render."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number and ours."""

    published: str
    """As printed, with its decimals."""
    ours: float
    tolerance: float
    """Largest difference that still counts as reproduced, in the unit of the number."""

    @property
    def difference(self) -> float:
        """Ours less the published number."""
        return self.ours - float(self.published)

    @property
    def reproduced(self) -> bool:
        """Whether ours is within the tolerance."""
        return abs(self.difference) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the verdict."""
        return asdict(self) | {"difference": self.difference, "reproduced": self.reproduced}


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """The cost of one model, as it was published and as all rows can be compared."""

    method: str
    backbone: str
    rho: float | None
    counted_on: str
    """The image, or the images, that the published number of operations belongs to."""
    gflops: Comparison
    """There."""
    params_m: Comparison
    """Millions of parameters."""
    gflops_same_size: float
    """At ``CostTable.same_size``."""
    gflops_mean_first: float
    """Mean over the first ``CostTable.first_images`` images of val2017."""
    gflops_mean_all: float
    """Mean over all images of val2017."""
    saved: float | None
    """Share of the dense baseline's operations that are spared at ``CostTable.same_size``; None where there is none."""

    @property
    def reproduced(self) -> bool:
        """Whether both published numbers are."""
        return self.gflops.reproduced and self.params_m.reproduced


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """The cost half of a published table."""

    table: str
    title: str
    rows: tuple[CostRow, ...]
    same_size: tuple[int, int]
    """(height, width) in pixels."""
    first_images: int
    all_images: int
    notes: tuple[str, ...]
    """What a reader must know: how it was counted, and where tolerances come from."""

    @property
    def reproduced(self) -> bool:
        """Whether every row is."""
        return all(row.reproduced for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the verdicts."""
        rows = [
            asdict(row)
            | {"gflops": row.gflops.as_dict(), "params_m": row.params_m.as_dict(), "reproduced": row.reproduced}
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows, "reproduced": self.reproduced}
