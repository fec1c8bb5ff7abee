"""Value of pretraining: the demo's model with random and with ImageNet backbone weights, trained end to end.

``--set model.backbone.weights=FILE`` trains from another checkpoint, such as one of SCRL, which the official code can
start from; `rhobench weights backbone FILE NAME` reports whether a checkpoint fits.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import small_scenes


def pretraining() -> Experiment:
    """Train from random and from ImageNet backbone weights at rho 0.25."""
    scenes = small_scenes()
    base = scenes.base
    backbone = base.model.backbone
    return replace(
        scenes,
        summary="Random or pretrained backbone weights: AP of a small Sparse DETR on generated scenes",
        base=replace(
            base,
            experiment="pretraining",
            model=replace(base.model, rho=0.25, backbone=replace(backbone, frozen="none")),
            # The features of a backbone that is trained change with every step and cannot be cached.
            train=replace(base.train, cache_features=False, lr_backbone=1e-4),
        ),
        axes=(Axis(path="model.backbone.weights", values=(None, backbone.weights)),),
        expected=(),
        cpu_hours=0.8,
    )
