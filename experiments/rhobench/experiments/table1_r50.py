"""The rows of the paper's Table 1 on ResNet-50 that its authors trained: two dense encoders, and five rho.

The settings of each model are those of its official code; everything else equals ``official_50ep``, whose runs in the
same store are used.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rhobench.config.experiment import Experiment
from rhobench.config.model_zoo import find_model
from rhobench.config.paths import leaves
from rhobench.experiments.official_50ep import official_50ep

DENSE = ("deformable_detr", "efficient_detr")
"""Families of the dense rows: Deformable DETR, and the same with top-k & BBR."""

HOURS_PER_GFLOP = 340 / 177.3
"""V100 hours of 50 epochs per GFLOP of an image: two-stage Deformable DETR took 340 (its README)."""

GFLOPS = 952.6
"""Sum over the seven rows."""


def table1_r50() -> Experiment:
    """Train Deformable DETR, the same with top-k & BBR, and Sparse DETR at rho 0.1 to 0.5 with ResNet-50."""
    official = official_50ep()
    return replace(
        official,
        summary="The paper's Table 1 on ResNet-50, dense rows included, official training; needs COCO",
        base=replace(official.base, experiment="table1_r50"),
        also=tuple(map(_switches, DENSE)),
        gpu_hours=round(GFLOPS * HOURS_PER_GFLOP, -1),
    )


def _switches(family: str) -> dict[str, Any]:
    """Values by path that make the base a model of ``family``, which leave the backbone and all sizes as they are."""
    own, base = find_model(family), find_model("sparse_detr")
    changed = {path: value for path, value in leaves(own) if value != dict(leaves(base))[path]}
    return {f"model.{path}": value for path, value in changed.items()}
