"""Other backbones of timm: how much does rho save where the backbone is a larger or a smaller part of the model?

Rho acts on the encoder only, so the heavier the backbone, the less of the whole is saved: at 192 pixels, rho 0.1 takes
0.39 of 0.97 GFLOPs with MobileNetV3, and 2.24 of 2.82 with ResNet-18. All backbones start from random weights and are
trained, because weights of all of them are rarely at hand; ``--set model.backbone.weights=FILE`` changes that for one.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED
from rhobench.experiments.demo import DRAWN, deep_scenes


def backbones() -> Experiment:
    """Train the demo's model on three backbones, and measure each at four values of rho."""
    base = deep_scenes("backbones")
    backbone = replace(base.model.backbone, weights=None, frozen="none")
    return Experiment(
        summary="AP and cost of the demo's model on three backbones of timm, on generated scenes",
        base=replace(
            base,
            model=replace(base.model, rho_choices=DRAWN, backbone=backbone),
            # The features of a backbone that is trained change with every step and cannot be cached.
            train=replace(base.train, cache_features=False, lr_backbone=1e-3),
        ),
        axes=(Axis(path="model.backbone.name", values=("resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100")),),
        smoke=SMOKE_ONE_SEED,
        cpu_hours=1.0,
    )
