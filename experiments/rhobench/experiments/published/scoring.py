"""Figure 4 of the paper: tokens selected by the decoder's attention map (DAM), by objectness (OS) or at random."""

from __future__ import annotations

from rhobench.config.published import Contrast, PublishedTable, TableRow, TableSection

RHOS = (0.1, 0.2, 0.3, 0.4, 0.5)
TRAINED = (0.1, 0.3)
"""Rho of the experiment ``scoring``."""
GPU_HOURS = 216.0
"""V100 hours of one training of Sparse DETR on R50, by the GFLOPs of Table 1, averaged over rho."""
NAMES = {"objectness": "OS", "random": "random"}


def scoring() -> PublishedTable:
    """Difference of AP between DAM and the two other criteria at each rho."""
    return PublishedTable(
        title="Figure 4 of Sparse DETR: scoring criteria",
        sections=(
            TableSection(
                title="AP with DAM minus AP with another criterion",
                columns=("compared with", "ρ"),
                rows=criteria_rows("ap"),
                notes=(
                    "Only the direction is known: the numbers were published as a plot, and a digest of the paper says "
                    "that DAM is above OS at every ρ. Whether the plot has a random curve is not confirmed.",
                ),
            ),
        ),
        notes=(DIRECTION,),
    )


def criteria_rows(metric: str) -> tuple[TableRow, ...]:
    """Rows that expect DAM to be above each other criterion at every rho."""
    return tuple(
        TableRow(
            names=(NAMES[other], f"{rho:g}"),
            ours=Contrast(
                metric=metric,
                first={"model.scoring": other},
                second={"model.scoring": "dam"},
                where={"rho": rho, "rho_infer": rho},
            ),
            above=0.0,
            experiment="scoring" if rho in TRAINED else None,
        )
        for other in NAMES
        for rho in RHOS
    )


DIRECTION = (
    "A direction is a match if the 95 % interval of the difference lies on its side, off if it lies on the other, and "
    "otherwise within noise. Runs on any data can show a direction; they say nothing about the size on COCO, where a "
    f"training takes about {GPU_HOURS:.0f} V100 hours."
)
