"""Data of a published table compared with our own values, with a verdict for every cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published value and our own."""

    published: str
    """Published value as printed, with its decimals."""
    ours: float
    """Our own value."""
    tolerance: float
    """Largest absolute difference that counts as reproduced, in the unit of the value."""

    @property
    def difference(self) -> float:
        """Our value minus the published one."""
        return self.ours - float(self.published)

    @property
    def reproduced(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of all fields, the difference and the verdict."""
        return asdict(self) | {"difference": self.difference, "reproduced": self.reproduced}


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """Cost of one model: compared with the published values, and on the same images as all other rows."""

    method: str
    """Name of the method as published."""
    backbone: str
    """Name of the backbone as published."""
    rho: float | None
    """Share of the encoder tokens that are updated; None: the dense encoder."""
    counted_on: str
    """Image size or images for which the published GFLOPs were counted."""
    gflops: Comparison
    """GFLOPs for ``counted_on``."""
    params_m: Comparison
    """Millions of parameters."""
    gflops_same_size: float
    """GFLOPs of an image of ``CostTable.same_size``."""
    gflops_mean_first: float
    """Mean GFLOPs over the first ``CostTable.first_images`` images of val2017."""
    gflops_mean_all: float
    """Mean GFLOPs over all images of val2017."""
    saved: float | None
    """Share of the operations of the dense baseline that are saved at ``CostTable.same_size``.

    From 0 to 1; None without a baseline.
    """

    @property
    def reproduced(self) -> bool:
        """Whether both published values are reproduced."""
        return self.gflops.reproduced and self.params_m.reproduced


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Cost columns of a published table, compared with our own values."""

    table: str
    """Name of the table on the command line."""
    title: str
    """Title for readers."""
    rows: tuple[CostRow, ...]
    """Rows in the published order."""
    same_size: tuple[int, int]
    """Height and width in pixels of the image on which all rows are compared."""
    first_images: int
    """Number of images in the first mean of a row."""
    all_images: int
    """Number of images in the second mean of a row."""
    notes: tuple[str, ...]
    """Sentences on the counting rules and the origin of the tolerances."""

    @property
    def reproduced(self) -> bool:
        """Whether every row is reproduced."""
        return all(row.reproduced for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary of all fields with the verdicts."""
        rows = [
            asdict(row)
            | {"gflops": row.gflops.as_dict(), "params_m": row.params_m.as_dict(), "reproduced": row.reproduced}
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows, "reproduced": self.reproduced}
