"""Figure 6 of the paper: encoder depth with and without auxiliary loss of the encoder, on Swin-T."""

from __future__ import annotations

from rhobench.config.published import Contrast, PublishedTable, TableRow, TableSection, Trained
from rhobench.experiments.published.scoring import DIRECTION

LAYERS = (2, 3, 4, 6, 9, 12)
"""Depths that are compared; the list of the figure is not known."""
TRAINED = (2, 6, 12)
"""Depths of the experiment ``encoder_depth``."""


def depth() -> PublishedTable:
    """AP of the deepest encoder, the gain by the auxiliary loss at each depth, and that by depth."""
    return PublishedTable(
        title="Figure 6 of Sparse DETR: encoder depth and auxiliary loss",
        sections=(
            TableSection(
                title="AP on val2017",
                columns=("backbone", "layers", "auxiliary loss"),
                rows=(
                    TableRow(
                        names=("Swin-T", "12", "yes"),
                        published="50.1",
                        ours=Trained(model="sparse_detr_swin_t", rho=0.3, settings={"enc_layers": 12}),
                        tolerance=0.5,
                    ),
                ),
                notes=(
                    "50.1: from one machine-written digest of the paper, which does not state ρ; 0.3 is assumed. Other "
                    "numbers were published as a plot only.",
                ),
            ),
            TableSection(
                title="AP with auxiliary loss minus AP without",
                columns=("layers",),
                rows=tuple(aux_loss_row(layers) for layers in LAYERS),
                notes=("Published: without the loss, training fails above nine layers (two sources, no numbers).",),
            ),
            TableSection(
                title="AP with more encoder layers minus AP with 6",
                columns=("layers", "auxiliary loss"),
                rows=(depth_row("12", 6, 12, aux=True), depth_row("12", 12, 6, aux=False, sign="6 minus 12, no")),
                notes=(
                    "Published: deeper is better with the loss; without it, 12 layers do not learn, so the second row "
                    "expects 6 layers to be better than 12.",
                ),
            ),
        ),
        notes=(DIRECTION,),
    )


def aux_loss_row(layers: int, *, names: tuple[str, ...] = ()) -> TableRow:
    """Row that expects the auxiliary loss to help an encoder of ``layers`` layers."""
    return TableRow(
        names=names or (str(layers),),
        ours=Contrast(
            first={"use_enc_aux_loss": False}, second={"use_enc_aux_loss": True}, where={"enc_layers": layers}
        ),
        above=0.0,
        experiment="encoder_depth" if layers in TRAINED else None,
    )


def depth_row(layers: str, first: int, second: int, *, aux: bool, sign: str = "yes") -> TableRow:
    """Row that expects ``second`` layers to be better than ``first``, with or without auxiliary loss."""
    return TableRow(
        names=(layers, sign),
        ours=Contrast(first={"enc_layers": first}, second={"enc_layers": second}, where={"use_enc_aux_loss": aux}),
        above=0.0,
        experiment="encoder_depth",
    )
