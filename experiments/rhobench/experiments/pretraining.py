"""What the backbone's pretraining is worth: the demo's model from random and from ImageNet weights, all of it trained.

Any other checkpoint joins by ``--set model.backbone.weights=FILE``, such as one of SCRL, with which the official code
can start; what fits is said by `rhobench weights backbone FILE NAME`.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments.demo import demo


def pretraining() -> Experiment:
    """Random and ImageNet weights, at rho 0.25."""
    scenes = demo()
    base = scenes.base
    backbone = base.model.backbone
    return replace(
        scenes,
        summary="AP of a small Sparse DETR whose backbone starts at random or from a file, on generated scenes",
        base=replace(
            base,
            experiment="pretraining",
            model=replace(base.model, rho=0.25, backbone=replace(backbone, frozen="none")),
            # Features of a backbone that learns cannot be kept.
            train=replace(base.train, cache_features=False, lr_backbone=1e-4),
        ),
        axes=(Axis(path="model.backbone.weights", values=(None, backbone.weights)),),
        expected=(),
        cpu_hours=0.8,
    )
