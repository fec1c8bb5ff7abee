"""The SCRL table of the official README: the backbone pretrained with labels or by self-supervised SCRL."""

from __future__ import annotations

from rhobench.config.published import Printed, PublishedTable, TableRow, TableSection, Trained
from rhobench.experiments.published.table1 import TRAINING
from rhobench.experiments.table1_r50 import HOURS_PER_GFLOP

ROWS = (
    (0.1, "45.3", "46.9", "1.6", 105.4),
    (0.2, "45.6", "47.2", "1.7", 112.9),
    (0.3, "46.0", "47.4", "1.4", 120.5),
    (0.4, "46.2", "47.7", "1.5", 128.0),
    (0.5, "46.3", "47.9", "1.6", 135.6),
)
"""Rho, AP from ImageNet labels, AP from SCRL, the printed gain, and the GFLOPs of Table 1."""

MODEL = "sparse_detr_r50"


def scrl() -> PublishedTable:
    """AP of both kinds of initial weights at five rho, and the printed gain against the difference of the two."""
    return PublishedTable(
        title="Sparse DETR on R50 with SCRL (official README)",
        sections=(
            TableSection(
                title="AP on val2017",
                columns=("backbone from", "ρ"),
                rows=tuple(
                    TableRow(
                        names=(source, f"{rho:g}"),
                        published=published,
                        ours=Trained(model=MODEL, rho=rho, pretraining=pretraining),
                        tolerance=TRAINING,
                        experiment="table1_r50" if pretraining is None else None,
                        gpu_hours=gflops * HOURS_PER_GFLOP,
                    )
                    for rho, labels, without, _, gflops in ROWS
                    for source, published, pretraining in (("ImageNet labels", labels, None), ("SCRL", without, "scrl"))
                ),
                notes=(
                    "The SCRL rows need its weights of R50: `rhobench run table1_r50 --set "
                    "model.backbone.weights=FILE` with a FILE whose name contains scrl.",
                ),
            ),
            TableSection(
                title="gain by SCRL: as printed, and by the printed AP",
                columns=("ρ", "printed AP"),
                digits=2,
                rows=tuple(
                    TableRow(
                        names=(f"{rho:g}", f"{without} - {labels}"),
                        published=gain,
                        ours=Printed(value=float(without) - float(labels), arithmetic=""),
                        tolerance=0.05,
                    )
                    for rho, labels, without, gain, _ in ROWS
                ),
                notes=("The printed gain may have been rounded after the subtraction.",),
            ),
        ),
    )
