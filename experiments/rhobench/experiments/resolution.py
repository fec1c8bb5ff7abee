"""Input resolution against rho: is a cost better met by fewer pixels, or by fewer updated tokens?

Both reduce the operations of the encoder, and a smaller image also those of the backbone. The paper varies rho at one
resolution. Here the demo's model, which serves every rho, is trained at three resolutions of the same scenes. At 192
pixels and rho 0.1 it takes about as many operations as at 128 pixels with every token (0.52 and 0.49 GFLOPs); the
expectation, stated before any run, is that the tokens are the better ones to save.
"""

from __future__ import annotations

from dataclasses import replace

from rhobench.config.experiment import Axis, Expectation, Experiment
from rhobench.experiments._scenes import SMOKE_ONE_SEED
from rhobench.experiments.demo import DRAWN, deep_scenes


def resolution() -> Experiment:
    """Train at 192, 160 and 128 pixels with three seeds, and measure every model at four values of rho."""
    base = deep_scenes("resolution")
    return Experiment(
        summary="Input resolution against rho: AP and cost of the demo's model at three sizes, on generated scenes",
        base=replace(base, model=replace(base.model, rho_choices=DRAWN)),
        axes=(Axis(path="data.resize_px", values=((192, 192), (160, 160), (128, 128))),),
        seeds=(0, 1, 2),
        order="informative",
        smoke=SMOKE_ONE_SEED,
        expected=(
            Expectation(
                metric="ap",
                at_least=0.0,
                where={"height": 192, "rho_infer": 0.1},
                minus={"height": 128, "rho_infer": 1.0},
            ),
        ),
        cpu_hours=0.4,
    )
