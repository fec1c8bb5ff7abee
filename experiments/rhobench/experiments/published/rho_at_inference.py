"""Figure 7 of the paper: a model trained at rho 0.3, run at other rho."""

from __future__ import annotations

from rhobench.config.published import Contrast, PublishedTable, TableRow, TableSection
from rhobench.experiments.published.scoring import DIRECTION

TRAINED = 0.3
"""Rho of the training."""
RHOS = (0.1, 0.2, 0.4, 0.5)
"""Rho at inference, other than that of the training."""
OTHERS = (0.1, 0.5)
"""Rho of the other trainings of the experiment ``rho_at_inference``."""
LARGEST_LOSS = 0.5
"""AP points that a change of rho costs at most, as a summary of the paper says."""


def rho_at_inference() -> PublishedTable:
    """Difference of AP to the same model at its own rho, and to models that were trained for the rho."""
    return PublishedTable(
        title="Figure 7 of Sparse DETR: ρ at training and at inference",
        sections=(
            TableSection(
                title=f"AP at another ρ minus AP at {TRAINED:g}, of one model",
                columns=("run at ρ",),
                rows=tuple(loss_row(rho) for rho in RHOS),
                notes=(
                    "Published: a plot, “somewhat worse at small ρ”. The bound of 0.5 AP comes from a summary and was "
                    "found nowhere else.",
                ),
            ),
            TableSection(
                title="AP of a model trained for the ρ minus AP of the one trained at 0.3",
                columns=("run at ρ",),
                rows=tuple(
                    TableRow(
                        names=(f"{rho:g}",),
                        ours=Contrast(first={"rho": TRAINED}, second={"rho": rho}, where={"rho_infer": rho}),
                        experiment="rho_at_inference" if rho in OTHERS else None,
                    )
                    for rho in RHOS
                ),
                notes=("No number or direction is known for this difference.",),
            ),
        ),
        notes=(DIRECTION,),
    )


def loss_row(rho: float, *, names: tuple[str, ...] = ()) -> TableRow:
    """Row that expects another rho at inference to cost no more than ``LARGEST_LOSS``."""
    return TableRow(
        names=names or (f"{rho:g}",),
        ours=Contrast(first={"rho_infer": TRAINED}, second={"rho_infer": rho}, where={"rho": TRAINED}),
        at_least=-LARGEST_LOSS,
        experiment="rho_at_inference",
    )
