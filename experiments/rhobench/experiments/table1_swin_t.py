"""The rows of the paper's Table 1 on Swin-T: ``table1_r50`` with another backbone."""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Experiment
from rhobench.experiments.table1_r50 import HOURS_PER_GFLOP, table1_r50

GFLOPS = 1007.9
"""Sum over the seven rows."""


def table1_swin_t() -> Experiment:
    """Train Deformable DETR, the same with top-k & BBR, and Sparse DETR at rho 0.1 to 0.5 with Swin-T."""
    r50 = table1_r50()
    model = r50.base.model
    backbone = replace(model.backbone, name="swin_tiny_patch4_window7_224.ms_in1k")
    return replace(
        r50,
        summary="The paper's Table 1 on Swin-T, dense rows included, official training; needs COCO",
        base=replace(r50.base, experiment="table1_swin_t", model=replace(model, backbone=backbone)),
        expected=(),
        gpu_hours=round(GFLOPS * HOURS_PER_GFLOP, -1),
    )
