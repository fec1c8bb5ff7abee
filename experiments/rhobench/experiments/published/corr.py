"""Figure 5 of the paper: how much of the decoder's attention falls on the selected tokens (Corr)."""

from __future__ import annotations

from rhobench.config.published import CORR, PublishedTable, TableSection
from rhobench.experiments.published.scoring import DIRECTION, criteria_rows


def corr() -> PublishedTable:
    """Difference of Corr between DAM and the two other criteria at each rho, at the end of the training."""
    return PublishedTable(
        title="Figure 5 of Sparse DETR: correlation with the decoder's attention",
        sections=(
            TableSection(
                title="Corr with DAM minus Corr with another criterion, %",
                columns=("compared with", "ρ"),
                rows=criteria_rows(CORR),
                notes=(
                    "Corr: the decoder's attention on the selected tokens, as a share of all of it, on the validation "
                    "images after the last epoch. Its interval covers seeds only.",
                ),
            ),
        ),
        notes=("Only the direction is known: the numbers were published as a plot, DAM above OS.", DIRECTION),
    )
